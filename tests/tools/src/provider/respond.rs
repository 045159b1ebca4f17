//! From the bytes of a message to the bytes of its reply, the same for HTTP and WebSocket: read the calls, account for
//! them, plan each, wait, answer. A fault of the connection hits a whole batch, a fault of the reply only its item.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lariat_schema::vocabulary::Transport;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::State;
use super::answers::RpcError;
use super::behaviour::Fault;
use super::received::Received;
use super::script::Reply;

/// Padding of a huge reply: above what a careful client accepts, below what would fill a small machine.
const HUGE_BYTES: usize = 12 * 1024 * 1024;
/// Id of a reply that belongs to another call.
const FOREIGN_ID: &str = "987654321";
/// What `Retry-After` says, seconds.
const RETRY_AFTER_S: &str = "1";

/// What goes back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rendered {
    /// A whole message; the status and headers are for HTTP.
    Message { status: u16, headers: Vec<(String, String)>, body: Bytes },
    /// Half of this body, then the end of the connection.
    Truncated(Bytes),
    /// Nothing, and the connection stays open.
    Hang,
    /// The connection is reset.
    Reset,
    /// Only notifications came: there is nothing to say.
    Nothing,
}

impl Rendered {
    fn ok(body: impl Into<Bytes>) -> Self {
        Self::Message { status: 200, headers: Vec::new(), body: body.into() }
    }
}

/// One call as read.
#[derive(Debug, Deserialize)]
pub(crate) struct Call<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// A message as read.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Single(Call<'a>),
    Batch(Vec<Call<'a>>),
}

impl<'a> Message<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        if body.trim_ascii_start().starts_with(b"[") {
            serde_json::from_slice(body).ok().map(Self::Batch)
        } else {
            serde_json::from_slice(body).ok().map(Self::Single)
        }
    }
}

/// What was decided for one call.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) delay: Duration,
    pub(crate) reply: Reply,
}

/// The reply to one item: its own text, or what becomes of the whole message.
enum Item {
    Text(String),
    Silent,
    Whole(Rendered),
}

impl State {
    /// Accounts for one call and decides what happens to it.
    pub(crate) fn admit(&self, transport: Transport, call: &Call<'_>, body: &Bytes) -> Planned {
        let scripted = self.script.as_ref().and_then(|script| script.lock().next(&call.method, &call.params()));
        let mut planned = Planned { delay: Duration::ZERO, reply: scripted.unwrap_or(Reply::Simulated) };
        while let Reply::After(wait, then) = planned.reply {
            planned = Planned { delay: planned.delay + wait, reply: *then };
        }
        if matches!(planned.reply, Reply::Simulated | Reply::Echo) {
            let plan = self.behaviour.read().plan(self.seed, self.next_moment(), &call.method);
            planned.delay += plan.delay;
            if let Some(fault) = plan.fault {
                planned.reply = Reply::Fault(fault);
            }
        }
        let fault = if let Reply::Fault(fault) = planned.reply { Some(fault) } else { None };
        self.account.lock().add(Received { transport, method: call.method.to_string(), body: body.clone(), fault });
        planned
    }

    fn item(&self, call: &Call<'_>, reply: Reply) -> Item {
        let Some(id) = call.id.map(RawValue::get) else {
            return match reply {
                Reply::Fault(fault @ (Fault::Reset | Fault::Hang)) => Item::Whole(whole(fault, "null")),
                _ => Item::Silent,
            };
        };
        match reply {
            Reply::Result(json) => Item::Text(result_text(id, &String::from_utf8_lossy(&json))),
            Reply::Error(error) => Item::Text(error_text(id, &error)),
            Reply::Around { before, after } => {
                Item::Text([&String::from_utf8_lossy(&before), id, &String::from_utf8_lossy(&after)].concat())
            }
            Reply::Echo => Item::Text(result_text(id, call.params.map_or("null", RawValue::get))),
            Reply::Http { status, headers, body } => Item::Whole(Rendered::Message { status, headers, body }),
            Reply::Fault(fault) => faulty(fault, id, &call.method),
            Reply::After(..) | Reply::Simulated => Item::Text(match self.answer(&call.method, &call.params()) {
                Ok(value) => result_text(id, &value.to_string()),
                Err(error) => error_text(id, &error),
            }),
        }
    }

    /// The reply to one call that was planned before.
    pub(crate) fn single(&self, call: &Call<'_>, reply: Reply) -> Rendered {
        match self.item(call, reply) {
            Item::Text(text) => Rendered::ok(text),
            Item::Silent => Rendered::Nothing,
            Item::Whole(rendered) => rendered,
        }
    }

    fn batch(&self, calls: &[Call<'_>], replies: Vec<Reply>) -> Rendered {
        let mut texts = Vec::with_capacity(calls.len());
        for (call, reply) in calls.iter().zip(replies) {
            match self.item(call, reply) {
                Item::Text(text) => texts.push(text),
                Item::Silent => {}
                Item::Whole(rendered) => return rendered,
            }
        }
        if texts.is_empty() { Rendered::Nothing } else { Rendered::ok(format!("[{}]", texts.join(","))) }
    }
}

/// Takes a message and, in its own time, returns what goes back.
pub(crate) async fn respond(state: &Arc<State>, transport: Transport, body: Bytes) -> Rendered {
    state.account.lock().stats.messages += 1;
    let (delay, rendered) = {
        let Some(message) = Message::parse(&body) else {
            return Rendered::ok(error_text("null", &RpcError::new(-32700, "parse error")));
        };
        match &message {
            Message::Single(call) => {
                let planned = state.admit(transport, call, &body);
                (planned.delay, Pending::Single(planned.reply))
            }
            Message::Batch(calls) => {
                let planned: Vec<Planned> = calls.iter().map(|call| state.admit(transport, call, &body)).collect();
                let delay = planned.iter().map(|planned| planned.delay).max().unwrap_or_default();
                (delay, Pending::Batch(planned.into_iter().map(|planned| planned.reply).collect()))
            }
        }
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    // The message is read again after the wait: what it borrows from the body need not live across it.
    match (Message::parse(&body), rendered) {
        (Some(Message::Single(call)), Pending::Single(reply)) => state.single(&call, reply),
        (Some(Message::Batch(calls)), Pending::Batch(replies)) => state.batch(&calls, replies),
        _ => Rendered::Reset,
    }
}

enum Pending {
    Single(Reply),
    Batch(Vec<Reply>),
}

fn faulty(fault: Fault, id: &str, method: &str) -> Item {
    Item::Text(match fault {
        Fault::RpcLimitExceeded => {
            error_text(id, &RpcError::new(-32005, "daily request count exceeded, request rate limited"))
        }
        Fault::RpcServerError => error_text(id, &RpcError::new(-32000, "upstream temporarily unavailable")),
        Fault::RpcInternalError => error_text(id, &RpcError::new(-32603, "internal error")),
        Fault::Revert => error_text(id, &RpcError::revert()),
        Fault::MethodNotFound => error_text(id, &RpcError::method_not_found(method)),
        Fault::WrongId => result_text(FOREIGN_ID, "\"0x1\""),
        Fault::Huge => result_text(id, &format!("\"{}\"", "a".repeat(HUGE_BYTES))),
        Fault::ServerError
        | Fault::TooManyRequests
        | Fault::Hang
        | Fault::Reset
        | Fault::Garbage
        | Fault::Truncated => return Item::Whole(whole(fault, id)),
    })
}

/// A fault that is of the message, not of one of its items.
fn whole(fault: Fault, id: &str) -> Rendered {
    match fault {
        Fault::Hang => Rendered::Hang,
        Fault::Garbage => Rendered::ok("<html><body>Bad gateway</body></html>"),
        Fault::Truncated => Rendered::Truncated(Bytes::from(result_text(id, "\"0x0123456789abcdef0123456789abcdef\""))),
        Fault::ServerError => {
            Rendered::Message { status: 500, headers: Vec::new(), body: Bytes::from_static(b"internal server error") }
        }
        Fault::TooManyRequests => Rendered::Message {
            status: 429,
            headers: vec![("retry-after".to_owned(), RETRY_AFTER_S.to_owned())],
            body: Bytes::from(error_text(id, &RpcError::new(-32005, "rate limit exceeded"))),
        },
        _ => Rendered::Reset,
    }
}

pub(crate) fn result_text(id: &str, json: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{json}}}"#)
}

fn error_text(id: &str, error: &RpcError) -> String {
    let message = Value::String(error.message.clone());
    let code = error.code;
    match &error.data {
        Some(data) => {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message},"data":{data}}}}}"#)
        }
        None => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}}}}}"#),
    }
}

impl Call<'_> {
    /// The call's own id as JSON text.
    pub(crate) fn id_text(&self) -> &str {
        self.id.map_or("null", RawValue::get)
    }

    /// Its parameters; null where there are none, or none that fit into a value.
    pub(crate) fn params(&self) -> Value {
        self.params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default()
    }
}
