//! A sum of exponential histograms of scale [`SKETCH_SCALE`] over nanoseconds, and its percentiles.
//!
//! Percentiles of nodes or of cells are never averaged: buckets of one scale are added, and the percentile is read off the
//! sum, so that the answer for a fleet is as exact as that for one cell. Buckets lie side by side in one vector, since
//! durations of one kind of call are neighbours and a map would cost a search for every bucket of every cell.

use lariat_schema::tables::SKETCH_SCALE;

/// Largest relative error of a percentile: half a bucket of scale 6, `(b - 1) / (b + 1)` with `b = 2^(2^-6)`, rounded up.
pub const ERROR_BOUND: f64 = 0.0055;

/// Least index of a bucket: that of a duration of 1 ns is -1.
const LEAST_INDEX: i32 = -1;
/// One more than the greatest index, that of the longest duration of 63 bits.
const END_INDEX: i32 = 63 << SKETCH_SCALE;

/// Buckets that no sketch of this scale has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} buckets from index {offset} are no sketch of scale 6: its indexes are -1 to 4031")]
pub struct NoSketch {
    offset: i32,
    length: usize,
}

/// Index after the last of consecutive buckets, if all are of scale 6.
fn end_of(offset: i32, counts: &[i64]) -> Option<i32> {
    let end = i32::try_from(counts.len()).ok().and_then(|length| offset.checked_add(length));
    end.filter(|end| offset >= LEAST_INDEX && *end <= END_INDEX)
}

/// A sum of exponential histograms over nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Sketch {
    zero: i64,
    offset: i32,
    counts: Vec<i64>,
}

impl Sketch {
    /// Adds `count` calls that took no measurable time.
    pub fn add_zero(&mut self, count: i64) {
        self.zero = self.zero.saturating_add(count);
    }

    /// Adds the counts of consecutive buckets from index `offset` on.
    ///
    /// # Errors
    /// When these are no buckets of scale 6.
    pub fn add(&mut self, offset: i32, counts: &[i64]) -> Result<(), NoSketch> {
        if counts.is_empty() {
            return Ok(());
        }
        let Some(end) = end_of(offset, counts) else { return Err(NoSketch { offset, length: counts.len() }) };
        self.cover(offset, end);
        let from = usize::try_from(offset - self.offset).unwrap_or(0);
        for (sum, count) in self.counts[from..].iter_mut().zip(counts) {
            *sum = sum.saturating_add((*count).max(0));
        }
        Ok(())
    }

    /// Whether these are buckets of scale 6.
    #[must_use]
    pub fn takes(offset: i32, counts: &[i64]) -> bool {
        counts.is_empty() || end_of(offset, counts).is_some()
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.add_zero(other.zero);
        // Its buckets were taken in by `add`, so that they are of this scale.
        let _: Result<(), NoSketch> = self.add(other.offset, &other.counts);
    }

    /// Makes room for the buckets `[offset, end)`.
    fn cover(&mut self, offset: i32, end: i32) {
        if self.counts.is_empty() {
            self.offset = offset;
        }
        if offset < self.offset {
            let more = usize::try_from(self.offset - offset).unwrap_or(0);
            self.counts.splice(..0, std::iter::repeat_n(0, more));
            self.offset = offset;
        }
        let length = usize::try_from(end - self.offset).unwrap_or(0);
        if length > self.counts.len() {
            self.counts.resize(length, 0);
        }
    }

    /// Calls that took no measurable time.
    #[must_use]
    pub fn zero(&self) -> i64 {
        self.zero
    }

    /// Index of the first of [`Self::counts`].
    #[must_use]
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// Counts of consecutive buckets.
    #[must_use]
    pub fn counts(&self) -> &[i64] {
        &self.counts
    }

    /// Calls inside.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.counts.iter().fold(self.zero, |sum, count| sum.saturating_add(*count))
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }

    /// The value in nanoseconds that a share `q` of the calls does not exceed (nearest rank), within [`ERROR_BOUND`]; none
    /// where there are no calls.
    #[must_use]
    pub fn quantile_ns(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count <= 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a rank is below 2^53 calls")]
        let rank = ((q * count as f64).ceil() as i64).clamp(1, count);
        let mut seen = self.zero;
        if seen >= rank {
            return Some(0.0);
        }
        for (index, in_bucket) in (self.offset..).zip(&self.counts) {
            seen = seen.saturating_add(*in_bucket);
            if seen >= rank {
                return Some(representative_nanos(index));
            }
        }
        None
    }
}

/// Two sums are alike when they hold the same calls, wherever their vectors begin and end.
impl PartialEq for Sketch {
    fn eq(&self, other: &Self) -> bool {
        let held = |sketch: &Self| -> Vec<(i32, i64)> {
            (sketch.offset..).zip(sketch.counts.clone()).filter(|(_, count)| *count != 0).collect()
        };
        self.zero == other.zero && held(self) == held(other)
    }
}

/// The value whose relative distance to both ends of the bucket is the same.
fn representative_nanos(index: i32) -> f64 {
    let base = 2f64.powf(2f64.powi(-SKETCH_SCALE));
    let lower = base.powi(index);
    2.0 * lower * base / (1.0 + base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "only test durations")]
    fn bucket_of(nanos: i64) -> i32 {
        ((nanos as f64).log2() * f64::from(1 << SKETCH_SCALE)).ceil() as i32 - 1
    }

    fn sketch_of(values: &[i64]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.add(bucket_of(*value), &[1]).unwrap();
        }
        sketch
    }

    #[test]
    fn a_thousand_calls_of_100_ms_and_a_hundred_of_200_ms_have_p50_100_ms_and_p95_200_ms() {
        let mut union = Sketch::default();
        union.add(bucket_of(100_000_000), &[1_000]).unwrap();
        let mut other = Sketch::default();
        other.add(bucket_of(200_000_000), &[100]).unwrap();
        union.merge(&other);
        assert_eq!(union.count(), 1_100);
        let near = |q: f64, ns: f64| (union.quantile_ns(q).unwrap() / ns - 1.0).abs() <= ERROR_BOUND;
        assert!(near(0.5, 1e8) && near(0.95, 2e8), "{:?} {:?}", union.quantile_ns(0.5), union.quantile_ns(0.95));
    }

    #[test]
    fn no_calls_have_no_percentile() {
        assert_eq!(Sketch::default().quantile_ns(0.5), None);
    }

    #[test]
    fn calls_of_no_measurable_time_come_first() {
        let mut sketch = sketch_of(&[1_000_000]);
        sketch.add_zero(3);
        assert_eq!(sketch.quantile_ns(0.75), Some(0.0));
        assert!(sketch.quantile_ns(1.0).unwrap() > 990_000.0);
    }

    #[test]
    fn buckets_that_no_duration_has_are_refused_and_change_nothing() {
        let mut sketch = sketch_of(&[1, i64::MAX]);
        assert_eq!((sketch.offset(), sketch.counts().len()), (-1, 4_033));
        for (offset, length) in [(i32::MIN, 1), (i32::MAX, 1), (-2, 1), (4_031, 2), (0, 5_000)] {
            let counts = vec![1; length];
            assert_eq!(sketch.add(offset, &counts), Err(NoSketch { offset, length }));
        }
        assert_eq!(sketch.count(), 2);
    }

    proptest! {
        #[test]
        fn a_percentile_of_split_and_merged_calls_is_within_the_stated_error(
            values in prop::collection::vec(1_000i64..60_000_000_000, 1..300), split in 0usize..300, q in 0.01f64..1.0,
        ) {
            let (left, right) = values.split_at(split.min(values.len()));
            let mut merged = sketch_of(left);
            merged.merge(&sketch_of(right));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let exact = sorted[rank - 1] as f64;
            let found = merged.quantile_ns(q).unwrap();
            prop_assert!((found / exact - 1.0).abs() <= ERROR_BOUND, "{found} for {exact}");
            prop_assert_eq!(merged, sketch_of(&values));
        }
    }
}
