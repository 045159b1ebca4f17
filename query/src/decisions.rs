//! One decision by id, rebuilt from its spans: what was considered, what was chosen and why, what each attempt cost. A
//! decision that is not there is explained too: sampled out, never seen, or not known since part of the fleet did not
//! answer. The three are told apart only where the answer proves it.
//!
//! An id that the proxy made says when (UUIDv7), so the time around it is asked first; the whole of the
//! history is asked only for ids that carry no time or are not where their time says. Attempts are found by
//! the same id and the same question ([`records`]) and put together here, not joined in SQL.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use serde_json::Value;
use uuid::Uuid;

use crate::ask::{Answer, Ask, AskError, Question};
use crate::reports::failure::Failure;
use crate::reports::now_unix_nanos;
use crate::reports::parameters::{Accepts, Parameters};
use crate::reports::sheet::Provenance;
use crate::reports::sql_text;
use records::Records;

mod absent;
mod rebuild;
mod records;

#[cfg(test)]
mod tests;

/// How far from its own time an id is looked for first: a decision lasts less, and clocks differ by less.
const NARROW_NANOS: i64 = 10 * 60 * NANOS_PER_SECOND;

/// `GET /api/v1/decisions/{request or trace id}`.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    Router::new().route("/api/v1/decisions/{id}", get(handle)).with_state(ask)
}

async fn handle(
    State(ask): State<Arc<dyn Ask>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    const ACCEPTS: Accepts = Accepts { filters: &[], own: &[] };
    let parameters = Parameters::parse(&query.unwrap_or_default(), ACCEPTS, now_unix_nanos())?;
    let id = WantedId::parse(&id)?;
    let lookup = Lookup { ask: &*ask, id, parameters: &parameters };
    lookup.run().await
}

/// The id that was asked for; whether it names a request or a trace shows only in what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WantedId([u8; 16]);

impl WantedId {
    fn parse(text: &str) -> Result<Self, Failure> {
        Uuid::try_parse(text).map(|uuid| Self(uuid.into_bytes())).map_err(|_| {
            Failure::bad_request(format!("`{text}` is no request id and no trace id"))
                .with_hint("a request id is a UUID, a trace id 32 hexadecimal digits")
        })
    }

    /// When the id was made, if it is a UUIDv7.
    fn made_unix_nanos(self) -> Option<i64> {
        let uuid = Uuid::from_bytes(self.0);
        if uuid.get_version_num() != 7 {
            return None;
        }
        let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
        i64::try_from(seconds).ok()?.checked_mul(NANOS_PER_SECOND)?.checked_add(i64::from(nanos))
    }

    fn around(self) -> Option<TimeRange> {
        let made = self.made_unix_nanos()?;
        Some(TimeRange::new(made.saturating_sub(NARROW_NANOS), made.saturating_add(NARROW_NANOS)))
    }
}

struct Lookup<'a> {
    ask: &'a dyn Ask,
    id: WantedId,
    parameters: &'a Parameters,
}

impl Lookup<'_> {
    async fn run(&self) -> Result<Response, Failure> {
        let around = self.id.around();
        let mut searched = None;
        for window in around.map(Some).into_iter().chain([None]) {
            for column in ["request_id", "trace_id"] {
                let answer = self.ask(self.question(column, window), window).await?;
                let found =
                    Records::of(&answer.batches).map_err(|error| AskError::Internal { source: Box::new(error) })?;
                if found.decisions.iter().any(|batch| batch.num_rows() > 0) {
                    return Ok(present(&found, &answer));
                }
                // Where the id says its time, the coverage of that time decides what its absence means.
                searched.get_or_insert(answer);
            }
        }
        let Some(searched) = searched else {
            return Err(Failure::not_found("not_found", "nothing was searched"));
        };
        Err(absent::explain(self, searched).await)
    }

    fn question(&self, column: &str, window: Option<TimeRange>) -> String {
        let time = window.map_or_else(String::new, |window| format!(" AND {}", sql_text::within(window)));
        Records::question(&format!("{column} = {}{time}", sql_text::id(&self.id.0)))
    }

    async fn ask(&self, sql: String, window: Option<TimeRange>) -> Result<Answer, Failure> {
        let Parameters { deadline, min_coverage, .. } = *self.parameters;
        Ok(self.ask.ask(Question { window, deadline, min_coverage, ..Question::new(sql) }).await?)
    }
}

fn present(found: &Records, answer: &Answer) -> Response {
    let mut body = serde_json::Map::new();
    body.insert("decisions".to_owned(), Value::Array(rebuild::decisions(&found.decisions, &found.attempts)));
    body.append(&mut Provenance::of(answer).fields());
    Json(Value::Object(body)).into_response()
}
