//! `GET /api/v1/coverage?from=&to=`: how much of the fleet a window would cover if it were asked for now.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ApiError;
use crate::ask::{Ask, Question};
use crate::topology::now_unix_nanos;

/// Length of the window where none is given, in seconds.
const DEFAULT_SECONDS: i64 = 15 * 60;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    from: Option<String>,
    to: Option<String>,
}

/// The route.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    Router::new().route("/api/v1/coverage", get(coverage)).with_state(ask)
}

async fn coverage(State(ask): State<Arc<dyn Ask>>, Query(parameters): Query<Parameters>) -> Result<Response, ApiError> {
    let now = now_unix_nanos();
    let to = parameters.to.as_deref().map_or(Ok(now), |text| moment(text, now))?;
    let default_from = to.saturating_sub(DEFAULT_SECONDS * NANOS_PER_SECOND);
    let from = parameters.from.as_deref().map_or(Ok(default_from), |text| moment(text, now))?;
    let question = Question { window: Some(TimeRange::new(from, to)), ..Question::new("SELECT 1") };
    let answer = ask.ask(question).await?;
    Ok(axum::Json(json!({"coverage": answer.coverage})).into_response())
}

/// RFC 3339, Unix seconds, or a duration before now as `-15m`.
fn moment(text: &str, now: i64) -> Result<i64, ApiError> {
    if let Some(back) = text.strip_prefix('-') {
        let back = super::sql::parse_duration(back)?;
        return Ok(now.saturating_sub(i64::try_from(back.as_nanos()).unwrap_or(i64::MAX)));
    }
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(i64::try_from(moment.unix_timestamp_nanos()).unwrap_or(now));
    }
    let seconds: f64 = text.parse().map_err(|_| {
        ApiError::bad_request(format!("`{text}` is no time"), Some("RFC 3339, Unix seconds, or as -15m"))
    })?;
    #[allow(clippy::cast_possible_truncation, reason = "a float saturates, and fractions of a nanosecond are nothing")]
    Ok((seconds * 1e9) as i64)
}
