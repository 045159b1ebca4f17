//! What all HTTP endpoints share: one table from errors to replies, and the header that carries coverage.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lariat_schema::coverage::Coverage;
use serde_json::json;

use crate::ask::{Answer, AskError};

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

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}});
        let mut headers = HeaderMap::new();
        if let Some(coverage) = &self.coverage {
            headers.extend(coverage_header(coverage));
            body["coverage"] = json!(coverage);
        }
        (self.status, headers, Json(body)).into_response()
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
