//! `GET /api/v1/nodes`: the system table `nodes` in SQL's shape, so that a panel and a query see the same.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{ApiError, coverage_header};
use crate::ask::{Answer, Ask, AskError, Question};

/// The route.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    Router::new().route("/api/v1/nodes", get(nodes)).with_state(ask)
}

async fn nodes(State(ask): State<Arc<dyn Ask>>) -> Result<Response, ApiError> {
    let answer = ask.ask(Question::new("SELECT * FROM nodes ORDER BY region, node_id, address")).await?;
    json_reply(&answer)
}

/// An answer in SQL's shape as a reply.
///
/// # Errors
/// When a value of a rare type cannot be shown.
pub(crate) fn json_reply(answer: &Answer) -> Result<Response, ApiError> {
    let body = super::sql::as_json(answer).map_err(|error| AskError::Internal { source: Box::new(error) })?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.extend(coverage_header(&answer.coverage));
    Ok((headers, body).into_response())
}
