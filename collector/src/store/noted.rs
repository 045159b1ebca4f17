//! What the manifest says of the rows of a file, taken from their columns while they are written.

use arrow::array::{Array, ArrayRef, Float64Array, TimestampNanosecondArray};
use lariat_schema::time_range::TimeRange;

use super::Weights;
use super::chunk::{Chunk, double, long};
use crate::columns::count;

/// Of the rows so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Noted {
    pub(super) times: Option<TimeRange>,
    pub(super) commits: Option<TimeRange>,
    pub(super) weights: Option<Weights>,
}

impl Noted {
    /// Takes in a column of further rows.
    pub(super) fn column(&mut self, name: &str, column: &ArrayRef) {
        let any = column.as_any();
        match (name, any.downcast_ref::<TimestampNanosecondArray>(), any.downcast_ref::<Float64Array>()) {
            ("time", Some(times), _) => self.times = Some(hull(self.times, span_of(times))),
            ("observed_time", Some(times), _) => self.commits = Some(hull(self.commits, span_of(times))),
            ("adjusted_count", _, Some(counts)) => {
                let heaviest = counts.iter().flatten().fold(1.0, f64::max);
                self.weigh(heaviest, count(counts.null_count()));
            }
            _ => {}
        }
    }

    /// The same of a column that was written where it lay.
    pub(super) fn chunk(&mut self, name: &str, chunk: &Chunk) {
        match (name, &chunk.extremes) {
            ("time", Some((least, greatest))) => {
                self.times = Some(hull(self.times, TimeRange::new(long(least), long(greatest).saturating_add(1))));
            }
            ("observed_time", Some((least, greatest))) => {
                self.commits = Some(hull(self.commits, TimeRange::new(long(least), long(greatest).saturating_add(1))));
            }
            ("adjusted_count", Some((_, greatest))) => self.weigh(double(greatest), chunk.nulls),
            _ => {}
        }
    }

    fn weigh(&mut self, heaviest: f64, unknown: u64) {
        let before = self.weights.unwrap_or(Weights { heaviest: 1.0, unknown: 0 });
        self.weights = Some(Weights { heaviest: before.heaviest.max(heaviest), unknown: before.unknown + unknown });
    }
}

/// The half-open range of a column of moments.
pub(super) fn span_of(times: &TimestampNanosecondArray) -> TimeRange {
    let from = arrow::compute::min(times).unwrap_or(0);
    TimeRange::new(from, arrow::compute::max(times).unwrap_or(0).saturating_add(1))
}

fn hull(before: Option<TimeRange>, more: TimeRange) -> TimeRange {
    before.map_or(more, |before| {
        let from = before.from_unix_nanos.min(more.from_unix_nanos);
        TimeRange::new(from, before.to_unix_nanos.max(more.to_unix_nanos))
    })
}
