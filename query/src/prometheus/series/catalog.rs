//! Which metrics exist. Lariat's own are declared and need no question; others are asked for, and the answer is kept for
//! a few seconds, because a dashboard asks for twenty panels at once.

use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use lariat_schema::metrics::{self, Instrument};
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use parking_lot::Mutex;

use super::super::names::{self, Shape};
use super::Wanted;
use crate::ask::{Ask, AskError, Question};

/// How long a list of metrics is used before it is asked for again.
const FRESH: Duration = Duration::from_secs(5);

/// Lists kept at once: one per hour of data that dashboards look at.
const MAX_LISTS: usize = 16;

/// Windows are widened to whole hours, so that the panels of a dashboard share a list.
const GRAIN_NANOS: i64 = 3_600 * NANOS_PER_SECOND;

/// A stored metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name in the table.
    pub(crate) stored: String,
    /// Its Prometheus name, without suffixes of its series.
    pub(crate) name: String,
    /// What it is.
    pub(crate) shape: Shape,
    /// Its unit.
    pub(crate) unit: String,
    /// What it counts.
    pub(crate) description: String,
}

impl Entry {
    /// Names of its series.
    pub(crate) fn series_names(&self) -> impl Iterator<Item = String> + '_ {
        self.shape.suffixes().iter().map(move |suffix| format!("{}{suffix}", self.name))
    }
}

/// Stored names of the declared metrics that have a series of this name.
pub(super) fn declared(series: &str) -> Vec<&'static str> {
    let shapes = |instrument: Instrument| -> &'static [Shape] {
        match instrument {
            Instrument::ExponentialHistogram => &[Shape::Exponential],
            Instrument::Histogram => &[Shape::Histogram],
            Instrument::Counter => &[Shape::Counter],
            Instrument::Gauge => &[Shape::Gauge],
        }
    };
    let has = |metric: &&metrics::Metric| {
        shapes(metric.instrument).iter().any(|shape| {
            let name = names::metric(metric.name, metric.unit, *shape);
            series.strip_prefix(&name).is_some_and(|suffix| shape.suffixes().contains(&suffix))
        })
    };
    metrics::ALL.iter().filter(has).map(|metric| metric.name).collect()
}

/// A list and when it was asked for.
type Kept = (TimeRange, Instant, Vec<Entry>);

/// Lists of metrics, each good for a few seconds.
#[derive(Default)]
pub(crate) struct Catalog {
    kept: Mutex<Vec<Kept>>,
}

impl Catalog {
    pub(super) async fn entries(&self, ask: &dyn Ask, wanted: &Wanted) -> Result<Vec<Entry>, AskError> {
        let from = wanted.window.from_unix_nanos.div_euclid(GRAIN_NANOS).saturating_mul(GRAIN_NANOS);
        let to = wanted.window.to_unix_nanos.div_euclid(GRAIN_NANOS).saturating_add(1).saturating_mul(GRAIN_NANOS);
        let window = TimeRange::new(from, to);
        if let Some((_, _, entries)) =
            self.kept.lock().iter().find(|(of, asked, _)| *of == window && asked.elapsed() < FRESH)
        {
            return Ok(entries.clone());
        }
        let sql = format!(
            "SELECT name, coalesce(unit, '') AS unit, instrument, coalesce(monotonic, false) AS monotonic, \
             max(coalesce(description, '')) AS description FROM metrics \
             WHERE time >= to_timestamp_nanos({from}) AND time < to_timestamp_nanos({to}) \
             GROUP BY 1, 2, 3, 4"
        );
        let question = Question {
            window: Some(window),
            deadline: wanted.deadline,
            min_coverage: wanted.min_coverage,
            ..Question::new(sql)
        };
        let answer = ask.ask(question).await?;
        let mut entries: Vec<Entry> = answer.batches.iter().flat_map(read).collect();
        entries.sort_by(|left, right| left.name.cmp(&right.name).then_with(|| left.stored.cmp(&right.stored)));
        let mut kept = self.kept.lock();
        kept.retain(|(of, asked, _)| *of != window && asked.elapsed() < FRESH);
        if kept.len() < MAX_LISTS {
            kept.push((window, Instant::now(), entries.clone()));
        }
        Ok(entries)
    }
}

fn read(batch: &RecordBatch) -> Vec<Entry> {
    let texts: Vec<_> = ["name", "unit", "instrument", "description"]
        .into_iter()
        .filter_map(|column| batch.column_by_name(column)?.as_string_opt::<i32>())
        .collect();
    let monotonic = batch.column_by_name("monotonic").and_then(|column| column.as_boolean_opt());
    let ([name, unit, instrument, description], Some(monotonic)) = (texts.as_slice(), monotonic) else {
        return Vec::new();
    };
    (0..batch.num_rows())
        .filter_map(|row| {
            let shape = Shape::of(instrument.value(row), monotonic.is_valid(row) && monotonic.value(row))?;
            Some(Entry {
                stored: name.value(row).to_owned(),
                name: names::metric(name.value(row), unit.value(row), shape),
                shape,
                unit: unit.value(row).to_owned(),
                description: description.value(row).to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_metrics_are_found_by_the_names_of_their_series() {
        let stored = lariat_schema::metrics::SERVER_CALL_DURATION;
        for suffix in ["", "_count", "_sum", "_bucket"] {
            assert_eq!(declared(&format!("rpc_server_call_duration_seconds{suffix}")), [stored]);
        }
        assert!(declared("rpc_server_call_duration").is_empty());
        assert_eq!(declared("lariat_recorder_dropped_total"), [lariat_schema::metrics::RECORDER_DROPPED]);
    }
}
