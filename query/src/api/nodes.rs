//! `GET /api/v1/nodes`: the system table `nodes` in SQL's shape, so that a panel and a query see the same.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{ApiError, coverage_header};
use crate::ask::{Answer, Ask, AskError, Question};
use crate::reports::parameters::{Accepts, Parameters};
use crate::reports::sql_text;
use crate::topology::now_unix_nanos;

/// The route.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    Router::new().route("/api/v1/nodes", get(nodes)).with_state(ask)
}

/// What the report takes beside the parameters of every report.
pub(crate) const ACCEPTS: Accepts = Accepts { filters: &["node_id", "region", "state"], own: &[] };

async fn nodes(State(ask): State<Arc<dyn Ask>>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(&query.unwrap_or_default(), ACCEPTS, now_unix_nanos())
        .map_err(|error| ApiError::bad_request(error.to_string(), None))?;
    let mut sql = String::from("SELECT * FROM nodes");
    for (at, (column, values)) in parameters.filters.iter().enumerate() {
        let values: Vec<String> = values.iter().map(|value| sql_text::text(value)).collect();
        let word = if at == 0 { "WHERE" } else { "AND" };
        sql.push_str(&format!(" {word} {column} IN ({})", values.join(", ")));
    }
    sql.push_str(&format!(" ORDER BY region, node_id, address LIMIT {}", parameters.limit));
    let question =
        Question { deadline: parameters.deadline, min_coverage: parameters.min_coverage, ..Question::new(sql) };
    json_reply(&ask.ask(question).await?)
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
