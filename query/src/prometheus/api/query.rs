//! Instant and range queries: parse, find out what is read, read it, evaluate.

use std::time::Instant;

use lariat_schema::time_range::TimeRange;

use super::super::eval::{self, Evaluator, Outcome};
use super::super::notes::{Level, Notes};
use super::super::series::Wanted;
use super::super::syntax::{self, Expr};
use super::super::value::{Grid, Store};
use super::answer::{ApiError, Reply};
use super::parameters::{Parameters, now};
use super::{Answered, Service, answer};

/// Most points per series of a range query. Source: Prometheus.
const MAX_POINTS_PER_SERIES: usize = 11_000;

pub(super) async fn instant(service: &Service, parameters: &Parameters) -> Answered {
    let text = parameters.required("query")?.to_owned();
    let time = parameters.moment("time")?.unwrap_or_else(now);
    let expr = syntax::parse(&text).map_err(|error| ApiError::syntax("query", &text, &error))?;
    run(service, parameters, Parsed { text, expr, grid: eval::instant(time), is_range: false }).await
}

pub(super) async fn range(service: &Service, parameters: &Parameters) -> Answered {
    let text = parameters.required("query")?.to_owned();
    let bad = |message: &str| Err(ApiError::BadData(message.to_owned()));
    let missing = |name: &str| ApiError::BadData(format!("invalid parameter {name:?}: it is missing"));
    let start = parameters.moment("start")?.ok_or_else(|| missing("start"))?;
    let end = parameters.moment("end")?.ok_or_else(|| missing("end"))?;
    let step = parameters.duration("step")?.ok_or_else(|| missing("step"))?;
    if end < start {
        return bad("invalid parameter \"end\": end timestamp must not be before start time");
    }
    if step <= 0 {
        return bad(
            "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer",
        );
    }
    let grid = Grid::new(start, end, step);
    if grid.count > MAX_POINTS_PER_SERIES {
        return bad(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        );
    }
    let expr = syntax::parse(&text).map_err(|error| ApiError::syntax("query", &text, &error))?;
    if !matches!(expr.value_type(), syntax::ValueType::Scalar | syntax::ValueType::Vector) {
        let kind = expr.value_type().documented();
        let message = format!(
            "invalid parameter \"query\": invalid expression type {kind:?} for range query, must be Scalar or instant Vector"
        );
        return Err(ApiError::BadData(message));
    }
    run(service, parameters, Parsed { text, expr, grid, is_range: true }).await
}

struct Parsed {
    text: String,
    expr: Expr,
    grid: Grid,
    is_range: bool,
}

async fn run(service: &Service, parameters: &Parameters, parsed: Parsed) -> Answered {
    let until = Instant::now() + parameters.timeout()?;
    let limit = parameters.limit()?;
    let wanted = wanted(parameters, &parsed)?;
    let loaded = service.loader.load(&wanted).await?;
    let (coverage, sampling, stats) = (loaded.coverage, loaded.sampling, loaded.stats);
    let store = loaded.store;
    // Evaluation is computation without a pause: it must not hold up the threads that answer others.
    let evaluated = tokio::task::spawn_blocking(move || evaluate(&store, parsed, until));
    let (outcome, notes, parsed) = evaluated.await.map_err(|error| {
        tracing::error!(%error, "evaluation of a PromQL query ended abnormally");
        ApiError::Internal
    })??;
    let (outcome, truncated) = limited(outcome, limit);
    let data =
        if parsed.is_range { answer::range(outcome, parsed.grid) } else { answer::instant(outcome, parsed.grid.start) };
    let mut reply = Reply::new(data);
    reply.warnings = notes.render(Level::Warning, &parsed.text);
    reply.infos = notes.render(Level::Info, &parsed.text);
    if truncated {
        reply.warnings.push("results truncated due to limit".to_owned());
    }
    Ok(reply.covered(coverage, &sampling).aged(&stats))
}

fn evaluate(store: &Store, parsed: Parsed, until: Instant) -> Result<(Outcome, Notes, Parsed), eval::EvalError> {
    let evaluator = Evaluator::new(store, parsed.grid, parsed.is_range, Some(until));
    let outcome = evaluator.run(&parsed.expr)?;
    Ok((outcome, evaluator.into_notes(), parsed))
}

fn wanted(parameters: &Parameters, parsed: &Parsed) -> Result<Wanted, ApiError> {
    let nothing = Store::default();
    let reaches = Evaluator::new(&nothing, parsed.grid, parsed.is_range, None).reach(&parsed.expr)?;
    let from = reaches.iter().map(|(_, from, _)| *from).min().unwrap_or(parsed.grid.start);
    let to = reaches.iter().map(|(_, _, to)| *to).max().unwrap_or(parsed.grid.start);
    Ok(Wanted {
        selectors: reaches.into_iter().map(|(matchers, _, _)| matchers).collect(),
        window: window(from, to),
        deadline: parameters.deadline()?,
        min_coverage: parameters.min_coverage()?,
        is_range: parsed.is_range,
    })
}

/// From the first to the last millisecond, both included.
pub(super) fn window(from_ms: i64, to_ms: i64) -> TimeRange {
    TimeRange::new(from_ms.saturating_mul(1_000_000), to_ms.saturating_add(1).saturating_mul(1_000_000))
}

fn limited(outcome: Outcome, limit: usize) -> (Outcome, bool) {
    match outcome {
        Outcome::Vector(mut tracks) if limit > 0 && tracks.len() > limit => {
            tracks.truncate(limit);
            (Outcome::Vector(tracks), true)
        }
        Outcome::Matrix(mut series) if limit > 0 && series.len() > limit => {
            series.truncate(limit);
            (Outcome::Matrix(series), true)
        }
        other => (other, false),
    }
}
