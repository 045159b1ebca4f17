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
mod sketch;
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
        let handler = move |State(ask): State<Arc<dyn Ask>>, RawQuery(query): RawQuery| async move {
            answer(&*ask, report, &query.unwrap_or_default(), now_unix_nanos()).await
        };
        router = router.route(&format!("/api/v1/{report}"), get(handler));
    }
    router.route("/api/v1/trace/{trace_id}", get(trace_by_path)).with_state(ask)
}

async fn trace_by_path(
    State(ask): State<Arc<dyn Ask>>,
    Path(trace_id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let id = url::form_urlencoded::byte_serialize(trace_id.as_bytes()).collect::<String>();
    let query = format!("{}&trace_id={id}", query.unwrap_or_default());
    answer(&*ask, Report::Trace, query.trim_start_matches('&'), now_unix_nanos()).await
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

async fn answer(ask: &dyn Ask, report: Report, query: &str, now_unix_nanos: i64) -> Result<Response, Failure> {
    let parameters = Parameters::parse(query, accepts(report), now_unix_nanos)?;
    let (sheet, provenance) = match report {
        Report::Traffic => traffic_report(ask, &parameters).await?,
        Report::Latency => latency_report(ask, &parameters).await?,
        Report::Providers => providers_report(ask, &parameters).await?,
        Report::Routing => routing_report(ask, &parameters).await?,
        Report::Trace => trace_report(ask, &parameters, query).await?,
        Report::Errors | Report::Usage | Report::Circuits | Report::Blocks | Report::Nodes => {
            simple_report(ask, report, &parameters).await?
        }
    };
    Ok(respond(sheet, provenance))
}

fn question(parameters: &Parameters, sql: String, window: Option<TimeRange>) -> Question {
    Question { sql, window, deadline: parameters.deadline, min_coverage: parameters.min_coverage }
}

async fn ask_cells(ask: &dyn Ask, parameters: &Parameters, sql: String) -> Result<Answer, Failure> {
    Ok(ask.ask(question(parameters, sql, Some(parameters.cell_window()))).await?)
}

async fn ask_events(ask: &dyn Ask, parameters: &Parameters, sql: String) -> Result<Answer, Failure> {
    Ok(ask.ask(question(parameters, sql, Some(parameters.window))).await?)
}

async fn traffic_report(ask: &dyn Ask, parameters: &Parameters) -> Result<(Sheet, Provenance), Failure> {
    let (window, step) = (parameters.cell_window(), parameters.step_nanos());
    let sql = cells::question(&[], Some(step), window, &parameters.conditions());
    let answer = ask_cells(ask, parameters, sql).await?;
    let groups = cells::fold(&answer.batches, &[])?;
    Ok((traffic::sheet(&groups, window, step, parameters.limit), Provenance::of(&answer).unsampled()))
}

async fn latency_report(ask: &dyn Ask, parameters: &Parameters) -> Result<(Sheet, Provenance), Failure> {
    let keys = latency::keys(parameters)?;
    let sql = cells::question(&keys, None, parameters.cell_window(), &parameters.conditions());
    let answer = ask_cells(ask, parameters, sql).await?;
    let groups = cells::fold(&answer.batches, &keys)?;
    Ok((latency::sheet(&groups, &keys, parameters.limit), Provenance::of(&answer).unsampled()))
}

async fn providers_report(ask: &dyn Ask, parameters: &Parameters) -> Result<(Sheet, Provenance), Failure> {
    let sql = cells::question(providers::KEYS, None, parameters.cell_window(), &parameters.conditions());
    let (calls, states, heads) = tokio::try_join!(
        ask_cells(ask, parameters, sql),
        ask_events(ask, parameters, circuits::states_question(parameters)),
        ask_events(ask, parameters, blocks::question(parameters)),
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

async fn routing_report(ask: &dyn Ask, parameters: &Parameters) -> Result<(Sheet, Provenance), Failure> {
    let (sums, exclusions) = tokio::try_join!(
        ask_cells(ask, parameters, routing::question(parameters)),
        ask_cells(ask, parameters, routing::exclusions_question(parameters)),
    )?;
    let sheet = routing::sheet(&sums.batches, &exclusions.batches, parameters.limit)?;
    Ok((sheet, Provenance::of(&sums).and(&exclusions).unsampled()))
}

async fn trace_report(ask: &dyn Ask, parameters: &Parameters, query: &str) -> Result<(Sheet, Provenance), Failure> {
    let trace_id = trace::trace_id(parameters)?;
    // A trace is looked for everywhere unless the caller says when it was: its id need not carry a time.
    let timed = url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "from" || name == "to");
    let window = timed.then_some(parameters.window);
    let sql = trace::question(&trace_id, window, parameters.limit);
    let answer = ask.ask(question(parameters, sql, window)).await?;
    Ok((trace::sheet(&answer.batches, parameters.limit), Provenance::of(&answer)))
}

async fn simple_report(ask: &dyn Ask, report: Report, parameters: &Parameters) -> Result<(Sheet, Provenance), Failure> {
    let limit = parameters.limit;
    let (answer, sheet) = match report {
        Report::Errors => {
            let answer = ask_cells(ask, parameters, errors::question(parameters)).await?;
            let sheet = errors::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
        Report::Usage => {
            let answer = ask_cells(ask, parameters, usage::question(parameters)).await?;
            let sheet = usage::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
        Report::Blocks => {
            let answer = ask_events(ask, parameters, blocks::question(parameters)).await?;
            let sheet = blocks::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
        _ => {
            let answer = ask_events(ask, parameters, circuits::question(parameters)).await?;
            let sheet = circuits::sheet(&answer.batches, limit)?;
            (answer, sheet)
        }
    };
    Ok((sheet, Provenance::of(&answer).unsampled()))
}
