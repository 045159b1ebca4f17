//! The reports: named questions whose answers are the same in the API, the dashboard, Grafana and the tests. They read
//! `rollups` and events, which are counted before sampling, so that a report over a month is exact and costs what its
//! cells cost. Each merges all nodes with per-region rows beside every aggregate (`region` null is over all regions).
//!
//! A report that needs two sources asks two questions at once and combines the answers here; SQL never joins them, since a
//! join over nodes would wait for the slowest and hide which side lacked rows. Handlers parse and act; the folds in the
//! modules below are pure.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use lariat_schema::reports::Report;
use lariat_schema::time_range::TimeRange;
use serde_json::json;

use crate::ask::{Answer, Ask, Question};
use crate::cache::{Cache, Ranged};

mod blocks;
mod cells;
mod circuits;
pub(crate) mod columns;
pub(crate) mod encode;
mod errors;
pub(crate) mod failure;
mod latency;
pub(crate) mod parameters;
mod providers;
mod routing;
pub(crate) mod sheet;
pub(crate) mod sql_text;
mod trace;
mod traffic;
mod usage;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use failure::Failure;
use parameters::{Accepts, BadParameter, Parameters};
use sheet::{Provenance, Sheet, respond};

/// The reports that are answered here; `nodes` is the topology's.
pub const SERVED: &[Report] = &[
    Report::Traffic,
    Report::Latency,
    Report::Errors,
    Report::Routing,
    Report::Providers,
    Report::Circuits,
    Report::Blocks,
    Report::Usage,
    Report::Trace,
];

/// `GET /api/v1/{report}` for each of [`SERVED`].
pub fn router(ask: Arc<dyn Ask>) -> Router {
    let mut router = Router::new();
    for &report in SERVED {
        let handler = move |State(sources): State<Sources>, RawQuery(query): RawQuery| async move {
            answer(&sources, report, &query.unwrap_or_default(), now_unix_nanos()).await
        };
        router = router.route(&format!("/api/v1/{report}"), get(handler));
    }
    router.route("/api/v1/trace/{trace_id}", get(trace_by_path)).with_state(Sources { ask, cache: Cache::default() })
}

/// Where reports have their rows from.
#[derive(Clone)]
struct Sources {
    ask: Arc<dyn Ask>,
    cache: Cache,
}

async fn trace_by_path(
    State(sources): State<Sources>,
    Path(trace_id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let id = url::form_urlencoded::byte_serialize(trace_id.as_bytes()).collect::<String>();
    let query = format!("{}&trace_id={id}", query.unwrap_or_default());
    answer(&sources, Report::Trace, query.trim_start_matches('&'), now_unix_nanos()).await
}

/// Now, in Unix nanoseconds.
pub(crate) fn now_unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// What each report can be filtered by.
pub(crate) fn accepts(report: Report) -> Accepts {
    const CALLS: &[&str] = &[
        "profile",
        "chain",
        "method",
        "provider_id",
        "transport",
        "strategy",
        "result",
        "error_category",
        "region",
        "node_id",
    ];
    const CHANNELS: &[&str] = &["profile", "chain", "provider_id", "transport", "region", "node_id"];
    let (filters, own): (&[&str], &[&str]) = match report {
        Report::Traffic => (CALLS, &["step"]),
        Report::Latency => (CALLS, &["by"]),
        Report::Errors => (CALLS, &[]),
        Report::Routing => {
            (&["profile", "chain", "method", "strategy", "provider_id", "transport", "region", "node_id"], &[])
        }
        Report::Usage => (&["account_id", "profile", "chain", "method_class", "result", "region", "node_id"], &[]),
        Report::Trace => (&[], &["trace_id"]),
        Report::Providers | Report::Circuits | Report::Blocks | Report::Nodes => (CHANNELS, &[]),
    };
    Accepts { filters, own }
}

impl From<BadParameter> for Failure {
    fn from(error: BadParameter) -> Self {
        let failure = Self::bad_request(error.to_string());
        match error {
            BadParameter::Unknown { allowed, .. } => failure.with_detail("allowed", json!(allowed)),
            BadParameter::Value { .. } => failure,
        }
    }
}

impl From<columns::BadAnswer> for Failure {
    fn from(error: columns::BadAnswer) -> Self {
        crate::ask::AskError::from(error).into()
    }
}

async fn answer(sources: &Sources, report: Report, query: &str, now_unix_nanos: i64) -> Result<Response, Failure> {
    let parameters = Parameters::parse(query, accepts(report), now_unix_nanos)?;
    let asking = &Asking { sources, parameters: &parameters, now_unix_nanos };
    let (sheet, provenance) = match report {
        Report::Traffic => traffic_report(asking).await?,
        Report::Latency => latency_report(asking).await?,
        Report::Providers => providers_report(asking).await?,
        Report::Trace => trace_report(asking, query).await?,
        Report::Errors | Report::Routing | Report::Usage | Report::Circuits | Report::Blocks | Report::Nodes => {
            simple_report(asking, report).await?
        }
    };
    Ok(respond(sheet, provenance))
}

/// One report that is being asked for.
struct Asking<'a> {
    sources: &'a Sources,
    parameters: &'a Parameters,
    now_unix_nanos: i64,
}

impl Asking<'_> {
    /// Rows of rollups, whose sums add up: the closed part of the range may be kept.
    async fn cells(&self, sql: impl Fn(&[TimeRange]) -> String + Send + Sync) -> Result<Answer, Failure> {
        self.parts(self.parameters.cell_window(), &sql).await
    }

    /// Events of the window, which are put together from its parts: the closed one may be kept.
    async fn events(&self, sql: impl Fn(&[TimeRange]) -> String + Send + Sync) -> Result<Answer, Failure> {
        self.parts(self.parameters.window, &sql).await
    }

    async fn parts(
        &self,
        window: TimeRange,
        sql: &(dyn Fn(&[TimeRange]) -> String + Send + Sync),
    ) -> Result<Answer, Failure> {
        let Parameters { deadline, min_coverage, .. } = self.parameters;
        let asked = Ranged { window, deadline: *deadline, min_coverage: *min_coverage, sql };
        Ok(self.sources.cache.answer(&self.sources.ask, &asked, self.now_unix_nanos).await?)
    }

    /// Rows that are read each time.
    async fn rows(&self, sql: String, window: Option<TimeRange>) -> Result<Answer, Failure> {
        let Parameters { deadline, min_coverage, .. } = self.parameters;
        let question = Question { window, deadline: *deadline, min_coverage: *min_coverage, ..Question::new(sql) };
        Ok(self.sources.ask.ask(question).await?)
    }
}

async fn traffic_report(asking: &Asking<'_>) -> Result<(Sheet, Provenance), Failure> {
    let parameters = asking.parameters;
    let (window, step) = (parameters.cell_window(), parameters.step_nanos());
    let answer = asking.cells(|times| cells::question(&[], Some(step), times, &parameters.conditions())).await?;
    let groups = cells::fold(&answer.batches, &[])?;
    Ok((traffic::sheet(&groups, window, step, parameters.limit), Provenance::of(&answer).unsampled()))
}

async fn latency_report(asking: &Asking<'_>) -> Result<(Sheet, Provenance), Failure> {
    let parameters = asking.parameters;
    let keys = latency::keys(parameters)?;
    let answer = asking.cells(|times| cells::question(&keys, None, times, &parameters.conditions())).await?;
    let groups = cells::fold(&answer.batches, &keys)?;
    Ok((latency::sheet(&groups, &keys, parameters.limit), Provenance::of(&answer).unsampled()))
}

async fn providers_report(asking: &Asking<'_>) -> Result<(Sheet, Provenance), Failure> {
    let parameters = asking.parameters;
    let (calls, states, heads) = tokio::try_join!(
        asking.cells(|times| cells::question(providers::KEYS, None, times, &parameters.conditions())),
        // The latest states may be older than the window that coverage is told of, so nothing of them is kept.
        asking.rows(circuits::states_question(parameters), Some(parameters.window)),
        asking.events(|times| blocks::question(parameters, times)),
    )?;
    let groups = cells::fold(&calls.batches, providers::KEYS)?;
    let provenance = Provenance::of(&calls).and(&states).and(&heads).unsampled();
    let around = providers::Surroundings {
        states: &circuits::states(&states.batches)?,
        spans: &blocks::spans(blocks::heads(&heads.batches)?),
        coverage: provenance.coverage(),
    };
    Ok((providers::sheet(&groups, &around, parameters.limit), provenance))
}

async fn trace_report(asking: &Asking<'_>, query: &str) -> Result<(Sheet, Provenance), Failure> {
    let parameters = asking.parameters;
    let trace_id = trace::trace_id(parameters)?;
    // A trace is looked for everywhere unless the caller says when it was: its id need not carry a time.
    let timed = url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "from" || name == "to");
    let window = timed.then_some(parameters.window);
    let answer = asking.rows(trace::question(&trace_id, window, parameters.limit), window).await?;
    Ok((trace::sheet(&answer.batches, parameters.limit), Provenance::of(&answer)))
}

async fn simple_report(asking: &Asking<'_>, report: Report) -> Result<(Sheet, Provenance), Failure> {
    let (parameters, limit) = (asking.parameters, asking.parameters.limit);
    let (answer, sheet) = match report {
        Report::Errors => {
            let answer = asking.cells(|times| errors::question(parameters, times)).await?;
            let sheet = errors::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
        Report::Routing => {
            let answer = asking.cells(|times| routing::question(parameters, times)).await?;
            let sheet = routing::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
        Report::Usage => {
            let answer = asking.cells(|times| usage::question(parameters, times)).await?;
            let sheet = usage::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
        Report::Blocks => {
            let answer = asking.events(|times| blocks::question(parameters, times)).await?;
            let sheet = blocks::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
        _ => {
            let answer = asking.events(|times| circuits::question(parameters, times)).await?;
            let sheet = circuits::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
    };
    Ok((sheet, Provenance::of(&answer).unsampled()))
}
