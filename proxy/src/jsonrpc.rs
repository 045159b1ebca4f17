//! The JSON-RPC reader and the one writer of replies.
//!
//! Ids, parameters and results are slices of the bytes that came in and are never turned into values: a number beyond
//! 64 bits or `1.0` must come back as it was, and nesting of any depth costs neither stack nor memory. A reply is the
//! provider's own body with the id exchanged in place, so that even members which nobody here knows pass through. What
//! is read costs a small multiple of its bytes at most: the calls of an array beyond the largest batch are counted, not
//! kept. A member that is there twice is never guessed at: such a call is invalid, such a reply is none. Nothing here
//! routes.

use std::fmt;

use bytes::Bytes;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::admit::MAX_BATCH;
use crate::policy::{self, MethodPolicy};
use crate::reply_budget::Charge;

/// Bytes of an error's message that are kept: what it means stands at its beginning, and the client gets the whole of
/// it as the provider wrote it.
const MAX_MESSAGE_BYTES: usize = 2_048;

/// A valid call or notification.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The id as it was written; none for a notification.
    pub(crate) id: Option<Bytes>,
    /// The method as called.
    pub(crate) method: Box<str>,
    /// What is known of it.
    pub(crate) policy: &'static MethodPolicy,
    /// The parameters as they were written.
    pub(crate) params: Option<Bytes>,
    /// Size of the whole call in bytes.
    pub(crate) bytes: usize,
    /// Whether the call itself asks for its metadata as a notification: `"lariat_meta":"notify"`.
    pub(crate) notify_meta: bool,
}

/// JSON, but no JSON-RPC 2.0 call; the reply's id is null unless one could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// The id as it was written, if it is one.
    pub(crate) id: Option<Bytes>,
}

/// What a request's body holds.
#[derive(Debug)]
pub(crate) enum Body {
    /// One object.
    Single(Result<Call, Invalid>),
    /// An array of at most [`MAX_BATCH`] of them, possibly empty.
    Batch(Vec<Result<Call, Invalid>>),
    /// An array of so many, which is too many.
    TooMany(usize),
}

/// The body is not JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotJson;

#[derive(Deserialize)]
struct RawCall<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    lariat_meta: Option<&'a RawValue>,
}

/// Tells an absent member from a null one.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The first items of an array, and how many it has.
struct Items<'a> {
    first: Vec<&'a RawValue>,
    found: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
                let mut items = Items { first: Vec::new(), found: 0 };
                while items.first.len() < MAX_BATCH
                    && let Some(item) = seq.next_element()?
                {
                    items.first.push(item);
                }
                items.found = items.first.len();
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    items.found += 1;
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Read)
    }
}

/// Reads a request's body.
///
/// # Errors
/// The body is not JSON as a whole.
pub(crate) fn read(body: &Bytes) -> Result<Body, NotJson> {
    let text = std::str::from_utf8(body).map_err(|_| NotJson)?;
    if text.trim_ascii_start().starts_with('[') {
        let items: Items<'_> = serde_json::from_str(text).map_err(|_| NotJson)?;
        if items.found > MAX_BATCH {
            return Ok(Body::TooMany(items.found));
        }
        return Ok(Body::Batch(items.first.into_iter().map(|item| read_call(body, item.get())).collect()));
    }
    // The usual case takes one pass over the body; only what is no call is read again to tell why.
    if let Ok(raw) = serde_json::from_str::<RawCall<'_>>(text) {
        return Ok(Body::Single(checked(body, raw, body.len())));
    }
    let item: &RawValue = serde_json::from_str(text).map_err(|_| NotJson)?;
    Ok(Body::Single(read_call(body, item.get())))
}

fn read_call(body: &Bytes, text: &str) -> Result<Call, Invalid> {
    if !text.starts_with('{') {
        return Err(Invalid { id: None });
    }
    let raw: RawCall<'_> = serde_json::from_str(text).map_err(|_| Invalid { id: None })?;
    checked(body, raw, text.len())
}

fn checked(body: &Bytes, raw: RawCall<'_>, bytes: usize) -> Result<Call, Invalid> {
    let slice = |raw: &RawValue| body.slice_ref(raw.get().as_bytes());
    let id = match raw.id {
        Some(id) if is_id(id.get()) => Some(slice(id)),
        Some(_) => return Err(Invalid { id: None }),
        None => None,
    };
    let version = raw.jsonrpc.is_some_and(|version| version.get() == "\"2.0\"");
    let params = raw.params.is_none_or(|params| params.get().starts_with(['[', '{']));
    let method = raw.method.and_then(|method| serde_json::from_str::<String>(method.get()).ok());
    match method {
        Some(method) if version && params => Ok(Call {
            id,
            policy: policy::of(&method),
            method: method.into(),
            params: raw.params.map(slice),
            bytes,
            notify_meta: raw.lariat_meta.is_some_and(|wanted| wanted.get() == "\"notify\""),
        }),
        _ => Err(Invalid { id }),
    }
}

fn is_id(text: &str) -> bool {
    text == "null" || text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

impl Call {
    /// The same call with other parameters.
    pub(crate) fn with_params(&self, params: Bytes) -> Self {
        Self { bytes: self.bytes + params.len(), params: Some(params), ..self.clone() }
    }

    /// The call as it is sent to a provider, under an id of ours.
    pub(crate) fn payload(&self, id: u64) -> Bytes {
        let mut out = Vec::with_capacity(self.bytes + 32);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(id.to_string().as_bytes());
        out.extend_from_slice(b",\"method\":");
        if self.method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            out.push(b'"');
            out.extend_from_slice(self.method.as_bytes());
            out.push(b'"');
        } else {
            out.extend_from_slice(serde_json::Value::from(&*self.method).to_string().as_bytes());
        }
        if let Some(params) = &self.params {
            out.extend_from_slice(b",\"params\":");
            out.extend_from_slice(params);
        }
        out.push(b'}');
        out.into()
    }
}

/// A provider's reply, checked to be one to our call.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    body: Bytes,
    id: std::ops::Range<usize>,
    /// The error, if it is one.
    pub(crate) error: Option<RpcError>,
    /// The result as it was written.
    pub(crate) result: Option<Bytes>,
    /// Its part of the budget for replies.
    pub(crate) charge: Option<Charge>,
}

/// A JSON-RPC error object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RpcError {
    /// `error.code`.
    pub(crate) code: i64,
    /// The beginning of `error.message`.
    pub(crate) message: String,
    /// `error.data` as it was written.
    pub(crate) data: Option<Bytes>,
}

#[derive(Deserialize)]
struct RawReply<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawError<'a> {
    code: i64,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Reply {
    /// Reads a provider's body as the reply to the call of that id; none if it is anything else.
    pub(crate) fn read(body: &Bytes, id: u64) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?.trim_ascii();
        if !text.starts_with('{') {
            return None;
        }
        let raw: RawReply<'_> = serde_json::from_str(text).ok()?;
        let error = match raw.error.filter(|error| error.get() != "null") {
            Some(error) => {
                let error: RawError<'_> = serde_json::from_str(error.get()).ok()?;
                let data = error.data.map(|data| body.slice_ref(data.get().as_bytes()));
                let message = error.message.map(|message| beginning(message.get())).unwrap_or_default();
                Some(RpcError { code: error.code, message, data })
            }
            None => None,
        };
        // A provider that could not read the call answers its error under a null id.
        let given = raw.id?;
        let ours = given.get() == id.to_string() || given.get() == "null" && error.is_some();
        if !ours || error.is_none() && raw.result.is_none() {
            return None;
        }
        let body = body.slice_ref(text.as_bytes());
        let start = given.get().as_ptr().addr() - body.as_ptr().addr();
        let id = start..start + given.get().len();
        let result = raw.result.map(|result| body.slice_ref(result.get().as_bytes()));
        Some(Self { body, id, error, result, charge: None })
    }

    /// A reply with that result, for the call of any id.
    pub(crate) fn of_result(result: &str) -> Option<Self> {
        Self::read(&Bytes::from(result_reply(b"0", result)), 0)
    }

    /// The same in memory of its own, no larger than it has to be: what it came in may be much larger.
    pub(crate) fn compact(&self) -> Self {
        let body = Bytes::copy_from_slice(&self.body);
        let result = self.result.as_ref().map(|result| {
            let start = result.as_ptr().addr() - self.body.as_ptr().addr();
            body.slice(start..start + result.len())
        });
        Self { body, id: self.id.clone(), error: self.error.clone(), result, charge: None }
    }

    /// Size of the body.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The same body under the client's id.
    pub(crate) fn under(&self, id: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + id.len());
        out.extend_from_slice(&self.body[..self.id.start]);
        out.extend_from_slice(id);
        out.extend_from_slice(&self.body[self.id.end..]);
        out
    }
}

/// The beginning of a message. One that is no readable text is taken as it was written.
fn beginning(message: &str) -> String {
    let as_written = &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)];
    let read = (as_written.len() == message.len()).then(|| serde_json::from_str(message).ok()).flatten();
    read.unwrap_or_else(|| as_written.to_owned())
}

/// A reply with a result of our own.
pub(crate) fn result_reply(id: &[u8], result: &str) -> Vec<u8> {
    [b"{\"jsonrpc\":\"2.0\",\"id\":", id, b",\"result\":", result.as_bytes(), b"}"].concat()
}

/// A reply with an error of our own.
pub(crate) fn error_reply(id: &[u8], code: i64, message: &str, data: Option<&serde_json::Value>) -> Vec<u8> {
    let mut error = serde_json::json!({ "code": code, "message": message });
    if let Some(data) = data {
        error["data"] = data.clone();
    }
    [b"{\"jsonrpc\":\"2.0\",\"id\":", id, b",\"error\":", error.to_string().as_bytes(), b"}"].concat()
}

/// Adds a member to a reply, which ends with its closing brace.
pub(crate) fn add_member(reply: &mut Vec<u8>, name: &str, value: &str) {
    if reply.pop() == Some(b'}') {
        reply.extend_from_slice(format!(",\"{name}\":{value}}}").as_bytes());
    }
}

#[cfg(test)]
mod tests;
