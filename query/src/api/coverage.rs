//! `GET /api/v1/coverage?from=&to=`: how much of the fleet a window would cover if it were asked for now.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::ApiError;
use crate::ask::{Ask, Question};
use crate::reports::parameters::{Accepts, Parameters};
use crate::topology::now_unix_nanos;

/// What it takes beside the parameters of every report.
const ACCEPTS: Accepts = Accepts { filters: &[], own: &[] };

/// The route.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    Router::new().route("/api/v1/coverage", get(coverage)).with_state(ask)
}

async fn coverage(State(ask): State<Arc<dyn Ask>>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(&query.unwrap_or_default(), ACCEPTS, now_unix_nanos())
        .map_err(|error| ApiError::bad_request(error.to_string(), None))?;
    let question = Question {
        window: Some(parameters.window),
        deadline: parameters.deadline,
        min_coverage: parameters.min_coverage,
        ..Question::new("SELECT 1")
    };
    let answer = ask.ask(question).await?;
    Ok(axum::Json(json!({"coverage": answer.coverage})).into_response())
}
