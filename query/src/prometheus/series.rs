//! Stored points to series. One question reads every metric that a query names, for the whole time that it can touch;
//! names are resolved first, among the metrics that Lariat declares and then among those that are stored.
//!
//! A counter that starts anew is a point of zero at its start time, as Prometheus ingests created timestamps: a reset is
//! then seen even where the new value has already passed the old one.

mod catalog;
mod exemplars;
mod points;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use lariat_schema::coverage::{Coverage, Sampling};
use lariat_schema::time_range::TimeRange;

use super::labels::{Labels, Matcher, NAME};
use super::value::Store;
use crate::ask::{Answer, Ask, AskError, Question, Scope, Stats};
use crate::cache::{Cache, Ranged};
use crate::reports::{now_unix_nanos, sql_text};

pub(crate) use catalog::{Catalog, Entry};

/// Most points that one query may read, before classic series are derived from them.
const MAX_POINTS: usize = 2_000_000;

/// What a query can touch.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Matchers of each selector.
    pub(crate) selectors: Vec<Vec<Matcher>>,
    /// From the earliest to the latest point that may matter.
    pub(crate) window: TimeRange,
    /// As in [`Question`].
    pub(crate) deadline: Option<Duration>,
    /// As in [`Question`].
    pub(crate) min_coverage: Option<f64>,
    /// Whether it is asked for again while time goes on, so that closed time may be kept.
    pub(crate) is_range: bool,
}

/// What was read, and how much of the fleet it covers.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The series.
    pub(crate) store: Store,
    /// Coverage of the question that read them.
    pub(crate) coverage: Option<Coverage>,
    /// Sampling of the same; metrics are never sampled, so it says so.
    pub(crate) sampling: Sampling,
    /// What it cost, and whether a part of it was kept.
    pub(crate) stats: Stats,
}

/// Labels that were found.
#[derive(Debug)]
pub(crate) struct Found {
    /// One entry per series.
    pub(crate) labels: Vec<Labels>,
    /// Coverage of the question that read them.
    pub(crate) coverage: Option<Coverage>,
    /// Sampling of the same.
    pub(crate) sampling: Sampling,
}

/// Reads series.
pub(crate) struct Loader {
    ask: Arc<dyn Ask>,
    catalog: Catalog,
    cache: Cache,
}

impl Loader {
    pub(crate) fn new(ask: Arc<dyn Ask>) -> Self {
        Self { ask, catalog: Catalog::default(), cache: Cache::default() }
    }

    /// The stored metrics, with their Prometheus names.
    pub(crate) async fn metrics(&self, wanted: &Wanted) -> Result<Vec<Entry>, AskError> {
        self.catalog.entries(self.ask.as_ref(), wanted).await
    }

    /// Everything that the selectors can touch.
    pub(crate) async fn load(&self, wanted: &Wanted) -> Result<Loaded, AskError> {
        if wanted.selectors.is_empty() {
            return Ok(Loaded {
                store: Store::default(),
                coverage: None,
                sampling: Sampling::default(),
                stats: Stats::default(),
            });
        }
        let names = self.stored_names(wanted).await?;
        if names.is_empty() {
            // Nothing of that name is stored; how much of the fleet says so is still part of the answer.
            let answer = self.ask.ask(question(wanted, &["false".to_owned()], "name")).await?;
            let Answer { coverage, sampling, stats, .. } = answer;
            return Ok(Loaded { store: Store::default(), coverage: Some(coverage), sampling, stats });
        }
        let Answer { batches, coverage, sampling, stats, .. } = self.points(wanted, &names).await?;
        let points: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
        if points > MAX_POINTS {
            let message = format!("the query reads {points} points, more than the {MAX_POINTS} allowed");
            return Err(AskError::TooLarge {
                message,
                hint: Some("ask for a shorter time or fewer metrics".to_owned()),
            });
        }
        let from_ms = wanted.window.from_unix_nanos.div_euclid(1_000_000);
        let rows = rows::read(&batches).map_err(|error| AskError::Internal { source: Box::new(error) })?;
        let store = Store::new(points::series(rows, &wanted.selectors, from_ms));
        Ok(Loaded { store, coverage: Some(coverage), sampling, stats })
    }

    /// Points of these metrics. Those of a range are put together from its parts, of which the closed one may be kept; an
    /// instant is asked for once.
    async fn points(&self, wanted: &Wanted, names: &[String]) -> Result<Answer, AskError> {
        let sql = |times: &[TimeRange]| {
            let (names, times) = (names.join(", "), sql_text::within_any(times));
            format!("SELECT {} FROM metrics WHERE name IN ({names}) AND {times}", rows::COLUMNS)
        };
        let Wanted { window, deadline, min_coverage, .. } = *wanted;
        if wanted.is_range {
            let asked = Ranged { window, deadline, min_coverage, sql: &sql };
            return self.cache.answer(&self.ask, &asked, now_unix_nanos()).await;
        }
        self.ask.ask(Question { window: Some(window), deadline, min_coverage, ..Question::new(sql(&[window])) }).await
    }

    /// Labels of all series that a selector accepts; of all series if there is no selector.
    pub(crate) async fn labels(&self, wanted: &Wanted) -> Result<Found, AskError> {
        let mut conditions: Vec<String> = wanted.window_condition().into_iter().collect();
        if !wanted.selectors.is_empty() {
            let names = self.stored_names(wanted).await?;
            conditions.push(if names.is_empty() {
                "false".to_owned()
            } else {
                format!("name IN ({})", names.join(", "))
            });
        }
        let answer = self.ask.ask(question(wanted, &conditions, rows::IDENTITY)).await?;
        let identities =
            rows::identities(&answer.batches).map_err(|error| AskError::Internal { source: Box::new(error) })?;
        let accepted = |labels: &Labels| {
            wanted.selectors.is_empty()
                || wanted.selectors.iter().any(|selector| selector.iter().all(|m| m.accepts(labels.get(&m.name))))
        };
        let labels = identities.iter().flat_map(points::labels_of).filter(accepted).collect();
        Ok(Found { labels, coverage: Some(answer.coverage), sampling: answer.sampling })
    }

    /// Exemplars of the series that the selectors accept.
    pub(crate) async fn exemplars(&self, wanted: &Wanted) -> Result<Vec<exemplars::OfSeries>, AskError> {
        let names = self.stored_names(wanted).await?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut conditions = vec![format!("name IN ({})", names.join(", ")), "exemplars IS NOT NULL".to_owned()];
        conditions.extend(wanted.window_condition());
        let columns = format!("{}, exemplars", rows::IDENTITY);
        let answer = self.ask.ask(question(wanted, &conditions, &columns)).await?;
        exemplars::read(&answer.batches, &wanted.selectors)
            .map_err(|error| AskError::Internal { source: Box::new(error) })
    }

    /// SQL literals of the stored names that the selectors can touch.
    async fn stored_names(&self, wanted: &Wanted) -> Result<Vec<String>, AskError> {
        let mut known = Vec::new();
        let mut all_known = true;
        for selector in &wanted.selectors {
            let name = selector.iter().find(|matcher| matcher.name == NAME && matcher.is_equal());
            let found = name.map(|matcher| catalog::declared(&matcher.value)).unwrap_or_default();
            all_known &= !found.is_empty();
            known.extend(found.into_iter().map(str::to_owned));
        }
        if !all_known {
            let entries = self.metrics(wanted).await?;
            let touched = entries.iter().filter(|entry| {
                wanted.selectors.iter().any(|selector| {
                    entry.series_names().any(|name| {
                        selector.iter().filter(|matcher| matcher.name == NAME).all(|matcher| matcher.accepts(&name))
                    })
                })
            });
            known.extend(touched.map(|entry| entry.stored.clone()));
        }
        known.sort();
        known.dedup();
        Ok(known.into_iter().map(|name| text(&name)).collect())
    }
}

impl Wanted {
    /// The window as a condition on `time`.
    fn window_condition(&self) -> Option<String> {
        let moment = |nanos: i64| format!("to_timestamp_nanos({nanos})");
        let from = moment(self.window.from_unix_nanos);
        let to = moment(self.window.to_unix_nanos);
        Some(format!("time >= {from} AND time < {to}"))
    }
}

fn question(wanted: &Wanted, conditions: &[String], columns: &str) -> Question {
    Question {
        sql: format!("SELECT {columns} FROM metrics WHERE {}", conditions.join(" AND ")),
        window: Some(wanted.window),
        deadline: wanted.deadline,
        min_coverage: wanted.min_coverage,
        scope: Scope::default(),
        parameters: Vec::new(),
    }
}

/// A text as an SQL literal.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
