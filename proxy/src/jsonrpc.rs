//! The JSON-RPC reader and the one writer of replies.
//!
//! Ids, parameters and results are slices of the bytes that came in and are never turned into values: a number beyond
//! 64 bits or `1.0` must come back as it was. A reply is the provider's own body with the id exchanged in place, so
//! that even members which nobody here knows pass through. Nothing here routes.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::policy::{self, MethodPolicy};

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
    /// An array of them, possibly empty.
    Batch(Vec<Result<Call, Invalid>>),
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
}

/// Tells an absent member from a null one.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a request's body.
///
/// # Errors
/// The body is not JSON as a whole.
pub(crate) fn read(body: &Bytes) -> Result<Body, NotJson> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|_| NotJson)?;
        return Ok(Body::Batch(items.into_iter().map(|item| read_call(body, item.get())).collect()));
    }
    // The usual case takes one pass over the body; only what is no call is read again to tell why.
    if let Ok(raw) = serde_json::from_slice::<RawCall<'_>>(body) {
        return Ok(Body::Single(checked(body, raw, body.len())));
    }
    let item: &RawValue = serde_json::from_slice(body).map_err(|_| NotJson)?;
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
        Some(method) if version && params => {
            Ok(Call { id, policy: policy::of(&method), method: method.into(), params: raw.params.map(slice), bytes })
        }
        _ => Err(Invalid { id }),
    }
}

fn is_id(text: &str) -> bool {
    text == "null" || text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

impl Call {
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
}

/// A JSON-RPC error object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RpcError {
    /// `error.code`.
    pub(crate) code: i64,
    /// `error.message`.
    pub(crate) message: String,
    /// `error.data` as it was written.
    pub(crate) data: Option<String>,
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
    #[serde(default)]
    message: Option<String>,
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
                let data = error.data.map(|data| data.get().to_owned());
                Some(RpcError { code: error.code, message: error.message.unwrap_or_default(), data })
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
        Some(Self { body, id, error, result })
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn single(text: &str) -> Result<Call, Invalid> {
        match read(&Bytes::copy_from_slice(text.as_bytes())).unwrap() {
            Body::Single(call) => call,
            Body::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn ids_of_every_type_are_kept_as_written() {
        for id in ["1", "\"a\\u0041\"", "null", "-0.5e3", "123456789012345678901234567890"] {
            let call = single(&format!(r#" {{"jsonrpc":"2.0", "id": {id} ,"method":"m"}}"#)).unwrap();
            assert_eq!(call.id.as_deref(), Some(id.as_bytes()));
        }
        assert_eq!(single(r#"{"jsonrpc":"2.0","method":"m"}"#).unwrap().id, None);
    }

    #[test]
    fn what_is_json_but_no_call_is_an_invalid_request() {
        for text in [
            "1",
            "{}",
            r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"bar"}"#,
        ] {
            assert!(single(text).is_err(), "{text}");
        }
        assert!(matches!(read(&Bytes::from_static(b"{\"jsonrpc\"")), Err(NotJson)));
        assert!(matches!(read(&Bytes::from_static(b"[1,]")), Err(NotJson)));
    }

    #[test]
    fn a_reply_passes_through_byte_for_byte_under_the_clients_id() {
        let body = Bytes::from_static(
            b" {\"extra\":[1.0], \"id\": 7 ,\"result\":{\"n\":1e400,\"a\": null},\"jsonrpc\":\"2.0\"}\n",
        );
        let reply = Reply::read(&body, 7).unwrap();
        let expected = "{\"extra\":[1.0], \"id\": \"x\" ,\"result\":{\"n\":1e400,\"a\": null},\"jsonrpc\":\"2.0\"}";
        assert_eq!(String::from_utf8(reply.under(b"\"x\"")).unwrap(), expected);
        assert!(Reply::read(&body, 8).is_none(), "another id is no reply to this call");
        assert!(Reply::read(&Bytes::from_static(b"{\"id\":7}"), 7).is_none());
        assert!(Reply::read(&Bytes::from_static(b"{\"id\":7,\"result\":null}"), 7).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = read(&bytes);
            let _ = Reply::read(&bytes, 1);
        }

        #[test]
        fn a_payload_reads_back_as_the_call_it_was_made_of(method in ".{0,20}", number in any::<u64>()) {
            let text = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": [number]}).to_string();
            let call = single(&text).unwrap();
            let again = single(std::str::from_utf8(&call.payload(9)).unwrap()).unwrap();
            prop_assert_eq!(again.method, call.method);
            prop_assert_eq!(again.params, call.params);
            prop_assert_eq!(again.id.as_deref(), Some(&b"9"[..]));
        }
    }
}
