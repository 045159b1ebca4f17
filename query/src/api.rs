//! What all HTTP endpoints share: one table from errors to replies, and the header that carries coverage.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lariat_schema::coverage::Coverage;
use serde_json::json;

use crate::ask::{Answer, AskError};

pub(crate) mod admission;
pub mod coverage;
pub mod nodes;
pub(crate) mod openapi;
pub(crate) mod retire;
pub mod sql;

/// Header of coverage, where the body has no place for it.
pub const COVERAGE_HEADER: HeaderName = HeaderName::from_static("x-lariat-coverage");

/// Header of what sampling did to the rows, beside that of coverage.
pub const SAMPLING_HEADER: HeaderName = HeaderName::from_static("x-lariat-sampling");

/// Header of the advice that stands in `hint` where the body is JSON.
pub const HINT_HEADER: HeaderName = HeaderName::from_static("x-lariat-hint");

/// Above this the header leaves out the nodes: proxies cut long headers off, or refuse them.
const MAX_HEADER_BYTES: usize = 4_096;

/// An error as a reply.
#[derive(Debug)]
pub struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) coverage: Option<Box<Coverage>>,
}

/// When to come back, in seconds, where the reason passes by itself.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

impl ApiError {
    /// The request itself is wrong.
    pub fn bad_request(message: impl Into<String>, hint: Option<&str>) -> Self {
        let hint = hint.map(str::to_owned);
        Self { status: StatusCode::BAD_REQUEST, code: "bad_request", message: message.into(), hint, coverage: None }
    }
}

impl From<AskError> for ApiError {
    /// The table from errors to the wire.
    fn from(error: AskError) -> Self {
        let message = error.to_string();
        let reply = |status, code, hint| Self { status, code, message, hint, coverage: None };
        match error {
            AskError::BadQuestion { hint, .. } => reply(StatusCode::BAD_REQUEST, "bad_question", hint),
            AskError::TooLarge { hint, .. } => reply(StatusCode::UNPROCESSABLE_ENTITY, "too_large", hint),
            AskError::Busy { .. } => {
                reply(StatusCode::SERVICE_UNAVAILABLE, "busy", Some("try again in a second".to_owned()))
            }
            AskError::TooMany { .. } => {
                let hint = Some("wait for one of them, or ask for more at once in one question".to_owned());
                reply(StatusCode::TOO_MANY_REQUESTS, "too_many_questions", hint)
            }
            AskError::Gone => reply(StatusCode::REQUEST_TIMEOUT, "gone", None),
            AskError::NotCovered { coverage, .. } => {
                let hint = Some("lower min_coverage, or try again when the missing nodes are back".to_owned());
                Self { coverage: Some(coverage), ..reply(StatusCode::SERVICE_UNAVAILABLE, "not_covered", hint) }
            }
            AskError::Deadline { .. } => {
                let hint = Some("narrow the question or raise `deadline`".to_owned());
                reply(StatusCode::GATEWAY_TIMEOUT, "deadline", hint)
            }
            AskError::Internal { source } => {
                tracing::error!(error = %source, detail = ?source, "a question could not be answered");
                reply(StatusCode::INTERNAL_SERVER_ERROR, "internal", None)
            }
        }
    }
}

impl ApiError {
    /// As it stands in a body.
    pub(crate) fn body(&self) -> serde_json::Value {
        let mut body = json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}});
        if let Some(coverage) = &self.coverage {
            body["coverage"] = json!(coverage);
        }
        body
    }
}

/// The header that says when to come back, if the status does.
pub(crate) fn retry_after(status: StatusCode, code: &str) -> Option<(HeaderName, HeaderValue)> {
    let passes = status == StatusCode::TOO_MANY_REQUESTS || code == "busy";
    passes.then_some((header::RETRY_AFTER, RETRY_AFTER_SECONDS))
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut headers: HeaderMap = retry_after(self.status, self.code).into_iter().collect();
        headers.extend(self.coverage.as_deref().and_then(coverage_header));
        (self.status, headers, Json(self.body())).into_response()
    }
}

/// Coverage as a header: compact JSON, without the nodes where it would be too long.
pub(crate) fn coverage_header(coverage: &Coverage) -> Option<(HeaderName, HeaderValue)> {
    let mut text = serde_json::to_string(coverage).ok()?;
    if text.len() > MAX_HEADER_BYTES {
        text = serde_json::to_string(&Coverage { nodes: Vec::new(), ..coverage.clone() }).ok()?;
    }
    Some((COVERAGE_HEADER, header_text(&text)?))
}

/// What stands beside the rows, as headers.
pub(crate) fn headers_beside(answer: &Answer) -> HeaderMap {
    let sampling = serde_json::to_string(&answer.sampling).ok().and_then(|text| header_text(&text));
    let hint = answer.hint.as_deref().and_then(header_text);
    let named = [(SAMPLING_HEADER, sampling), (HINT_HEADER, hint)];
    let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
    coverage_header(&answer.coverage).into_iter().chain(named).collect()
}

/// Node names may hold any character; a header may not.
fn header_text(text: &str) -> Option<HeaderValue> {
    let ascii: String = text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect();
    HeaderValue::from_str(&ascii).ok()
}
