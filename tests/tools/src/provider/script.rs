//! Exact replies for tests: per method, or per method and parameters, a sequence whose last entry repeats. A call without
//! a sequence is answered by the simulated chain.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::answers::RpcError;
use super::behaviour::Fault;

/// One scripted reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A JSON-RPC result, these very bytes; the call's own id is put around it.
    Result(Bytes),
    /// A JSON-RPC error; the call's own id is put around it.
    Error(RpcError),
    /// These very bytes, with the call's own id between them.
    Around {
        /// What stands before the id.
        before: Bytes,
        /// What stands after it.
        after: Bytes,
    },
    /// The call's own parameters as its result, unless the provider's behaviour says otherwise.
    Echo,
    /// This status and this body, whatever the call's id.
    Http {
        /// HTTP status; over WebSocket only the body is sent.
        status: u16,
        /// Additional headers.
        headers: Vec<(String, String)>,
        /// The whole body.
        body: Bytes,
    },
    /// One of the simulated faults.
    Fault(Fault),
    /// Another reply after a wait.
    After(Duration, Box<Reply>),
    /// What the simulated chain says.
    Simulated,
}

impl Reply {
    /// A result from JSON text.
    #[must_use]
    pub fn result(json: impl Into<Bytes>) -> Self {
        Self::Result(json.into())
    }

    /// An error without data.
    #[must_use]
    pub fn error(code: i64, message: &str) -> Self {
        Self::Error(RpcError::new(code, message))
    }

    /// An error with data.
    #[must_use]
    pub fn error_with_data(code: i64, message: &str, data: Value) -> Self {
        Self::Error(RpcError { code, message: message.to_owned(), data: Some(data) })
    }

    /// These bytes, with the call's own id between them.
    #[must_use]
    pub fn around(before: impl Into<Bytes>, after: impl Into<Bytes>) -> Self {
        Self::Around { before: before.into(), after: after.into() }
    }

    /// A body with a status, without further headers.
    #[must_use]
    pub fn http(status: u16, body: impl Into<Bytes>) -> Self {
        Self::Http { status, headers: Vec::new(), body: body.into() }
    }

    /// This reply after `wait`.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self::After(wait, Box::new(self))
    }
}

/// Replies by method.
#[derive(Debug, Clone, Default)]
pub struct Script {
    replies: HashMap<String, VecDeque<Reply>>,
    exact: HashMap<(String, String), VecDeque<Reply>>,
}

impl Script {
    /// A script that leaves every method to the simulated chain.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `method` with these replies, one after the other, the last one from then on.
    #[must_use]
    pub fn on(mut self, method: &str, replies: impl IntoIterator<Item = Reply>) -> Self {
        self.replies.insert(method.to_owned(), replies.into_iter().collect());
        self
    }

    /// Answers calls of `method` with exactly these parameters, null where there are none, before those of
    /// [`Script::on`].
    #[must_use]
    pub fn on_call(mut self, method: &str, params: &Value, replies: impl IntoIterator<Item = Reply>) -> Self {
        self.exact.insert((method.to_owned(), params.to_string()), replies.into_iter().collect());
        self
    }

    /// The next reply to a call.
    pub(crate) fn next(&mut self, method: &str, params: &Value) -> Option<Reply> {
        let exact = if self.exact.is_empty() { None } else { Some((method.to_owned(), params.to_string())) };
        let sequence = match exact.and_then(|call| self.exact.get_mut(&call)) {
            Some(sequence) => sequence,
            None => self.replies.get_mut(method)?,
        };
        if sequence.len() > 1 { sequence.pop_front() } else { sequence.front().cloned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_played_in_order_and_its_last_reply_repeats() {
        let mut script = Script::new().on("a", [Reply::Fault(Fault::Reset), Reply::result("1")]);
        let played: Vec<_> = (0..3).map(|_| script.next("a", &Value::Null)).collect();
        assert_eq!(played, [Some(Reply::Fault(Fault::Reset)), Some(Reply::result("1")), Some(Reply::result("1"))]);
        assert_eq!(script.next("b", &Value::Null), None);
    }

    #[test]
    fn a_call_with_exact_parameters_comes_before_its_method() {
        let params = serde_json::json!([1]);
        let mut script = Script::new().on("a", [Reply::result("1")]).on_call("a", &params, [Reply::Echo]);
        assert_eq!(script.next("a", &params), Some(Reply::Echo));
        assert_eq!(script.next("a", &Value::Null), Some(Reply::result("1")));
    }
}
