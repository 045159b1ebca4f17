//! An exponential histogram as OpenTelemetry defines it: buckets grow by a factor of 2^(2^-scale), and the scale falls
//! when the values need more than [`MAX_BUCKETS`] of them. The scale starts at the highest one that Prometheus' native
//! histograms can hold, so that nothing has to be rescaled on the way there.

use lariat_schema::metrics::MAX_NATIVE_SCALE;

/// Buckets at most, as OpenTelemetry's SDKs have it.
const MAX_BUCKETS: i32 = 160;

/// The state of one series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    pub(super) scale: i32,
    /// Index of the first bucket.
    pub(super) offset: i32,
    pub(super) counts: Vec<u64>,
    pub(super) zero_count: u64,
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            scale: MAX_NATIVE_SCALE,
            offset: 0,
            counts: Vec::new(),
            zero_count: 0,
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

/// Bucket `i` holds the values in (base^i, base^(i+1)].
fn index(value: f64, scale: i32) -> i32 {
    #[allow(clippy::cast_possible_truncation, reason = "a logarithm of a double, times 256, is far below 2^31")]
    let ceiling = (value.log2() * f64::from(scale).exp2()).ceil() as i32;
    ceiling - 1
}

impl Histogram {
    /// Adds a value; what is not a positive number counts as zero.
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        let positive = value > f64::MIN_POSITIVE && value.is_finite();
        let value = if positive { value } else { 0.0 };
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if !positive {
            self.zero_count += 1;
            return;
        }
        let mut at = index(value, self.scale);
        if self.counts.is_empty() {
            self.offset = at;
            self.counts.push(0);
        }
        let last = |it: &Self| it.offset + i32::try_from(it.counts.len()).unwrap_or(MAX_BUCKETS) - 1;
        while last(self).max(at) - self.offset.min(at) >= MAX_BUCKETS {
            self.halve();
            at >>= 1;
        }
        if at < self.offset {
            let missing = usize::try_from(self.offset - at).unwrap_or(0);
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.offset = at;
        }
        let place = usize::try_from(at - self.offset).unwrap_or(0);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
    }

    /// Merges neighbours: one scale lower.
    fn halve(&mut self) {
        let mut merged: Vec<u64> = Vec::with_capacity(self.counts.len() / 2 + 1);
        let first = self.offset >> 1;
        for (i, count) in self.counts.iter().enumerate() {
            let at = (self.offset + i32::try_from(i).unwrap_or(0)) >> 1;
            let place = usize::try_from(at - first).unwrap_or(0);
            if place >= merged.len() {
                merged.resize(place + 1, 0);
            }
            merged[place] += count;
        }
        self.offset = first;
        self.counts = merged;
        self.scale -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_lies_in_its_bucket_and_none_is_lost(values in proptest::collection::vec(1e-9f64..1e5, 1..200)) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.add(*value);
            }
            prop_assert_eq!(histogram.counts.iter().sum::<u64>(), values.len() as u64);
            prop_assert!(histogram.counts.len() <= MAX_BUCKETS as usize && histogram.scale <= MAX_NATIVE_SCALE);
            let base = f64::from(-histogram.scale).exp2().exp2();
            for value in values {
                let at = index(value, histogram.scale);
                let place = usize::try_from(at - histogram.offset).unwrap();
                prop_assert!(histogram.counts[place] > 0);
                prop_assert!(base.powi(at) * 0.999_999 <= value && value <= base.powi(at + 1) * 1.000_001);
            }
        }
    }

    #[test]
    fn the_scale_falls_only_as_far_as_needed() {
        let mut histogram = Histogram::default();
        histogram.add(1.0);
        histogram.add(1.1);
        assert_eq!(histogram.scale, 8);
        histogram.add(1024.0);
        assert_eq!(histogram.scale, 3, "ten octaves in 160 buckets");
        histogram.add(0.0);
        assert_eq!((histogram.zero_count, histogram.count, histogram.min, histogram.max), (1, 4, 0.0, 1024.0));
    }
}
