//! Percentiles from the union of sketches. Percentiles of nodes or of cells are never averaged: buckets of one scale are
//! added, and the percentile is read off the sum, so that the answer for a fleet is as exact as that for one cell.

use std::collections::BTreeMap;

use lariat_schema::tables::SKETCH_SCALE;

/// Largest relative error of a percentile: half a bucket of scale 6, `(b - 1) / (b + 1)` with `b = 2^(2^-6)`, rounded up.
pub(crate) const ERROR_BOUND: f64 = 0.0055;

const NANOS_PER_MILLI: f64 = 1_000_000.0;

/// A sum of exponential histograms over nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sketch {
    zero: i64,
    buckets: BTreeMap<i64, i64>,
}

impl Sketch {
    /// Adds `count` calls that took no measurable time.
    pub(crate) fn add_zero(&mut self, count: i64) {
        self.zero = self.zero.saturating_add(count);
    }

    /// Adds `count` calls in bucket `index`.
    pub(crate) fn add(&mut self, index: i64, count: i64) {
        if count > 0 {
            let sum = self.buckets.entry(index).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Adds all of another.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.add_zero(other.zero);
        for (&index, &count) in &other.buckets {
            self.add(index, count);
        }
    }

    /// Calls inside.
    pub(crate) fn count(&self) -> i64 {
        self.buckets.values().fold(self.zero, |sum, count| sum.saturating_add(*count))
    }

    /// The value in milliseconds that a share `q` of the calls does not exceed (nearest rank), within [`ERROR_BOUND`];
    /// none where there are no calls.
    pub(crate) fn quantile_ms(&self, q: f64) -> Option<f64> {
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
        for (&index, &in_bucket) in &self.buckets {
            seen = seen.saturating_add(in_bucket);
            if seen >= rank {
                return Some(representative_nanos(index) / NANOS_PER_MILLI);
            }
        }
        None
    }
}

/// The value whose relative distance to both ends of the bucket is the same.
#[allow(clippy::cast_precision_loss, reason = "a bucket index of scale 6 is below 2^13")]
fn representative_nanos(index: i64) -> f64 {
    let base = 2f64.powf(2f64.powi(-SKETCH_SCALE));
    let lower = base.powf(index as f64);
    2.0 * lower * base / (1.0 + base)
}

/// Bucket of a duration, as the collector's fold has it: `(base^index, base^(index+1)]`.
#[cfg(test)]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "only test durations")]
pub(crate) fn bucket_of(nanos: i64) -> i64 {
    ((nanos as f64).log2() * f64::from(1 << SKETCH_SCALE)).ceil() as i64 - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch_of(values: &[i64]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.add(bucket_of(*value), 1);
        }
        sketch
    }

    #[test]
    fn a_thousand_calls_of_100_ms_and_a_hundred_of_200_ms_have_p50_100_ms_and_p95_200_ms() {
        let mut union = Sketch::default();
        union.add(bucket_of(100_000_000), 1_000);
        let mut other = Sketch::default();
        other.add(bucket_of(200_000_000), 100);
        union.merge(&other);
        assert_eq!(union.count(), 1_100);
        let near = |q: f64, ms: f64| (union.quantile_ms(q).unwrap() / ms - 1.0).abs() <= ERROR_BOUND;
        assert!(near(0.5, 100.0) && near(0.95, 200.0), "{:?} {:?}", union.quantile_ms(0.5), union.quantile_ms(0.95));
    }

    #[test]
    fn no_calls_have_no_percentile() {
        assert_eq!(Sketch::default().quantile_ms(0.5), None);
    }

    #[test]
    fn calls_of_no_measurable_time_come_first() {
        let mut sketch = sketch_of(&[1_000_000]);
        sketch.add_zero(3);
        assert_eq!(sketch.quantile_ms(0.75), Some(0.0));
        assert!(sketch.quantile_ms(1.0).unwrap() > 0.99);
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
            let exact = sorted[rank - 1] as f64 / NANOS_PER_MILLI;
            let found = merged.quantile_ms(q).unwrap();
            prop_assert!((found / exact - 1.0).abs() <= ERROR_BOUND, "{found} for {exact}");
        }
    }
}
