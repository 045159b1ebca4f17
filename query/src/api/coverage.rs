//! `GET /api/v1/coverage?from=&to=&step=&table=`: how much of the fleet a window would cover if it were asked for now, by node
//! and step. The same rows as `coverage(from, to, step, table)` in SQL, in SQL's shape.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::get;

use super::ApiError;
use super::nodes::json_reply;
use crate::ask::{Ask, Question};
use crate::coverage::rfc3339;
use crate::reports::parameters::{Accepts, Parameters};
use crate::reports::sql_text;
use crate::topology::now_unix_nanos;

/// What it takes beside the parameters of every report.
pub(crate) const ACCEPTS: Accepts = Accepts { filters: &["node_id", "region"], own: &["step", "table"] };

/// The route.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    Router::new().route("/api/v1/coverage", get(coverage)).with_state(ask)
}

async fn coverage(State(ask): State<Arc<dyn Ask>>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let parameters = Parameters::parse(&query, ACCEPTS, now_unix_nanos())
        .map_err(|error| ApiError::bad_request(error.to_string(), None))?;
    let window = parameters.window;
    // Without a step the whole window is one.
    let step_nanos = parameters.given_step_nanos().unwrap_or_else(|| window.nanos().max(1));
    let sql = format!(
        "SELECT * FROM coverage({}, {}, '{}ms', {}) WHERE true{} ORDER BY time, region, node_id LIMIT {}",
        sql_text::text(&rfc3339(window.from_unix_nanos)),
        sql_text::text(&rfc3339(window.to_unix_nanos)),
        (step_nanos / 1_000_000).max(1),
        sql_text::text(parameters.own("table").unwrap_or("spans")),
        parameters.conditions(),
        parameters.limit
    );
    let question = Question {
        window: Some(window),
        deadline: parameters.deadline,
        min_coverage: parameters.min_coverage,
        ..Question::new(sql)
    };
    json_reply(&ask.ask(question).await?)
}
