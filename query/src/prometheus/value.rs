//! Values of expressions. An expression is evaluated for all steps at once and not step by step: labels are then worked
//! out once per series and not once per sample, which is most of the work of a range query.

use std::sync::Arc;

use super::histogram::Native;
use super::labels::Labels;

/// One value of a series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sample {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Native>),
}

impl Sample {
    /// The float, if it is one.
    pub(crate) const fn float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Histogram(_) => None,
        }
    }
}

/// A series with one place per step.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    /// Its labels.
    pub(crate) labels: Labels,
    /// The metric's name goes at the end: until then it may still be grouped by.
    pub(crate) drop_name: bool,
    /// A sample per step, where there is one.
    pub(crate) samples: Vec<Option<Sample>>,
}

/// Value of an expression over all steps.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// A float per step.
    Scalar(Vec<f64>),
    /// Series with at most one sample per step.
    Vector(Vec<Track>),
    /// A text.
    Text(String),
}

/// The moments that an expression is evaluated at, in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The first.
    pub(crate) start: i64,
    /// Distance, at least 1.
    pub(crate) step: i64,
    /// How many.
    pub(crate) count: usize,
}

impl Grid {
    /// The moments from `start` to `end`, both included.
    pub(crate) fn new(start: i64, end: i64, step: i64) -> Self {
        let step = step.max(1);
        let count = if end < start { 0 } else { usize::try_from(end.saturating_sub(start) / step + 1).unwrap_or(0) };
        Self { start, step, count }
    }

    /// A moment.
    pub(crate) fn time(&self, at: usize) -> i64 {
        let steps = i64::try_from(at).unwrap_or(i64::MAX);
        self.start.saturating_add(steps.saturating_mul(self.step))
    }

    /// All moments.
    pub(crate) fn times(self) -> impl Iterator<Item = i64> {
        (0..self.count).map(move |at| self.time(at))
    }
}

/// A series as loaded. Stale marks stand apart: they end an instant lookup and are in no window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series {
    /// Its labels.
    pub(crate) labels: Labels,
    /// Unix milliseconds and value, ascending.
    pub(crate) floats: Vec<(i64, f64)>,
    /// Unix milliseconds and value, ascending.
    pub(crate) histograms: Vec<(i64, Arc<Native>)>,
    /// Unix milliseconds of stale marks, ascending.
    pub(crate) stale: Vec<i64>,
}

impl Series {
    /// The latest sample in `(after, until]`, with its time; none if a stale mark is later.
    pub(crate) fn latest(&self, after: i64, until: i64) -> Option<(i64, Sample)> {
        let float = self.floats[..self.floats.partition_point(|(at, _)| *at <= until)].last();
        let histogram = self.histograms[..self.histograms.partition_point(|(at, _)| *at <= until)].last();
        let stale = self.stale[..self.stale.partition_point(|at| *at <= until)].last().copied();
        let (at, sample) = match (float, histogram) {
            (Some((at, value)), Some((other, _))) if at >= other => (*at, Sample::Float(*value)),
            (_, Some((at, value))) => (*at, Sample::Histogram(Arc::clone(value))),
            (Some((at, value)), None) => (*at, Sample::Float(*value)),
            (None, None) => return None,
        };
        (at > after && stale.is_none_or(|stale| stale < at)).then_some((at, sample))
    }

    /// The floats in `(after, until]`.
    pub(crate) fn floats_within(&self, after: i64, until: i64) -> &[(i64, f64)] {
        let from = self.floats.partition_point(|(at, _)| *at <= after);
        let to = self.floats.partition_point(|(at, _)| *at <= until);
        &self.floats[from..to.max(from)]
    }

    /// The histograms in `(after, until]`.
    pub(crate) fn histograms_within(&self, after: i64, until: i64) -> &[(i64, Arc<Native>)] {
        let from = self.histograms.partition_point(|(at, _)| *at <= after);
        let to = self.histograms.partition_point(|(at, _)| *at <= until);
        &self.histograms[from..to.max(from)]
    }
}

/// Everything that a query may read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    series: Vec<Series>,
}

impl Store {
    /// A store of these series, ordered by their labels.
    pub(crate) fn new(mut series: Vec<Series>) -> Self {
        series.sort_by(|left, right| left.labels.cmp(&right.labels));
        Self { series }
    }

    /// All series that satisfy all matchers.
    pub(crate) fn select<'a>(
        &'a self,
        matchers: &'a [super::labels::Matcher],
    ) -> impl Iterator<Item = &'a Series> + 'a {
        self.series
            .iter()
            .filter(move |series| matchers.iter().all(|matcher| matcher.accepts(series.labels.get(&matcher.name))))
    }

    /// All series.
    pub(crate) fn all(&self) -> &[Series] {
        &self.series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_mark_ends_a_series_until_its_next_sample() {
        let series = Series { floats: vec![(1_000, 1.0), (9_000, 2.0)], stale: vec![5_000], ..Series::default() };
        assert_eq!(series.latest(-300_000, 4_000), Some((1_000, Sample::Float(1.0))));
        assert_eq!(series.latest(-300_000, 6_000), None);
        assert_eq!(series.latest(-300_000, 9_000), Some((9_000, Sample::Float(2.0))));
        assert_eq!(series.latest(1_000, 4_000), None, "the window is open at its start");
    }

    #[test]
    fn a_grid_includes_both_its_ends() {
        assert_eq!(Grid::new(0, 20, 10).times().collect::<Vec<_>>(), [0, 10, 20]);
        assert_eq!(Grid::new(5, 5, 0).count, 1);
        assert_eq!(Grid::new(6, 5, 1).count, 0);
    }
}
