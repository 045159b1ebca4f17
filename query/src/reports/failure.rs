//! What a report, a lookup or a subscription answers when it cannot: one table from the cause to status, code and text.
//! The client's text says what is wrong and what to do; the cause of a fault of ours goes to the log and nowhere else.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lariat_schema::coverage::Coverage;
use serde_json::{Value, json};

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
    fn from(error: AskError) -> Self {
        let message = error.to_string();
        match error {
            AskError::BadQuestion { hint, .. } => Self { hint, ..Self::bad_request(message) },
            AskError::TooLarge { hint, .. } => {
                Self { hint, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too_large", message) }
            }
            AskError::NotCovered { coverage, .. } => {
                Self { coverage: Some(coverage), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_covered", message) }
            }
            AskError::Busy { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message),
            AskError::Deadline { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", message),
            AskError::Internal { source } => {
                tracing::error!(error = %source, "a question of a report failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
            }
        }
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
        (self.status, Json(body)).into_response()
    }
}
