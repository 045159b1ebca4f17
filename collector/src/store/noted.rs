//! What the manifest says of the rows of a file, taken from their columns while they are written.

use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, Float64Array, TimestampNanosecondArray};
use lariat_schema::ids::RequestId;
use lariat_schema::time_range::TimeRange;

use super::chunk::{Chunk, double, long};
use super::{RequestIds, Weights};
use crate::columns::count;

/// Of the rows so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Noted {
    pub(super) times: Option<TimeRange>,
    pub(super) commits: Option<TimeRange>,
    pub(super) weights: Option<Weights>,
    pub(super) request_ids: RequestIds,
}

impl Noted {
    /// Takes in a column of further rows.
    pub(super) fn column(&mut self, name: &str, column: &ArrayRef) {
        let any = column.as_any();
        if let ("request_id", Some(ids)) = (name, any.downcast_ref::<FixedSizeBinaryArray>()) {
            // The same id stands in all rows of a decision, and these lie together.
            let mut ids: Vec<&[u8]> = ids.iter().flatten().collect();
            ids.dedup();
            ids.into_iter().for_each(|id| self.identify(id));
        }
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
            ("request_id", Some((least, greatest))) => [least, greatest].into_iter().for_each(|id| self.identify(id)),
            _ => {}
        }
    }

    /// Ids are told whole in a chunk's extremes, so one of another length is none of ours.
    fn identify(&mut self, id: &[u8]) {
        if let Ok(id) = id.try_into() {
            self.request_ids = self.request_ids.and(RequestId::from_bytes(id));
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
