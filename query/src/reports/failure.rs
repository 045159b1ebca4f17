//! What a report, a lookup or a subscription answers when it cannot: status, code and text. What the engine
//! cannot answer is told by the table of [`crate::api`]; here is what only reports, lookups and streams add.
//! The client's text says what is wrong and what to do; the cause of a fault of ours goes to the log and nowhere else.

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use lariat_schema::coverage::Coverage;
use serde_json::{Value, json};

use crate::api::{ApiError, retry_after};
use crate::ask::AskError;

/// Why there is no answer, as the client reads it.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: Option<String>,
    details: Vec<(&'static str, Value)>,
    coverage: Option<Box<Coverage>>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: None, details: Vec::new(), coverage: None }
    }

    /// The request is wrong: the client's fault, no retry.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// Nothing of that name; `code` says what is known about it.
    pub(crate) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// More than the service serves at once: retry later.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    /// What to do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A further field of the error object.
    pub(crate) fn with_detail(mut self, name: &'static str, value: Value) -> Self {
        self.details.push((name, value));
        self
    }

    /// How much of the fleet was asked before giving up.
    pub(crate) fn with_coverage(mut self, coverage: Coverage) -> Self {
        self.coverage = Some(Box::new(coverage));
        self
    }
}

impl From<AskError> for Failure {
    /// By the table that all HTTP endpoints share.
    fn from(error: AskError) -> Self {
        let ApiError { status, code, message, hint, coverage } = error.into();
        Self { hint, coverage, ..Self::new(status, code, message) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message, "hint": self.hint });
        for (name, value) in self.details {
            error[name] = value;
        }
        let mut body = json!({ "error": error });
        if let Some(coverage) = self.coverage {
            body["coverage"] = json!(coverage);
        }
        let headers: HeaderMap = retry_after(self.status, self.code).into_iter().collect();
        (self.status, headers, Json(body)).into_response()
    }
}
