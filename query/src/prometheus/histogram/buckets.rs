//! From indexes to bounds. One iterator in ascending order of values serves quantiles, fractions and answers alike.

use super::Native;

/// A bucket with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    /// Lower bound.
    pub(crate) lower: f64,
    /// Upper bound.
    pub(crate) upper: f64,
    /// True if a value at the lower bound is inside.
    pub(crate) lower_inclusive: bool,
    /// True if a value at the upper bound is inside.
    pub(crate) upper_inclusive: bool,
    /// Observations.
    pub(crate) count: f64,
}

/// Upper bound of the exponential bucket `index`.
pub(crate) fn exponential_bound(index: i32, schema: i32) -> f64 {
    if schema <= 0 {
        // Exact: a power of two.
        return 2_f64.powi(index.saturating_mul(1 << (-schema).min(30)));
    }
    let per_octave = 1 << schema.min(30);
    let octave = index.div_euclid(per_octave);
    let fraction = f64::from(index.rem_euclid(per_octave)) / f64::from(per_octave);
    if octave >= 1024 {
        // The last bucket holds everything up to the largest float, the one above it infinity.
        return if octave == 1024 && fraction == 0.0 { f64::MAX } else { f64::INFINITY };
    }
    fraction.exp2() * 2_f64.powi(octave)
}

impl Native {
    /// Upper bound of a positive bucket.
    pub(crate) fn upper_bound(&self, index: i32) -> f64 {
        if !self.is_custom() {
            return exponential_bound(index, self.schema);
        }
        usize::try_from(index).ok().and_then(|at| self.custom.get(at)).copied().unwrap_or(f64::INFINITY)
    }

    /// Lower bound of a positive bucket.
    pub(crate) fn lower_bound(&self, index: i32) -> f64 {
        if self.is_custom() && index <= 0 { f64::NEG_INFINITY } else { self.upper_bound(index - 1) }
    }

    pub(super) fn positive_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let (lower, upper) = (self.lower_bound(index), self.upper_bound(index));
        let lower_inclusive = lower == f64::NEG_INFINITY;
        Bucket { lower, upper, lower_inclusive, upper_inclusive: true, count }
    }

    pub(super) fn negative_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let (lower, upper) = (-self.upper_bound(index), -self.lower_bound(index));
        Bucket { lower, upper, lower_inclusive: true, upper_inclusive: false, count }
    }

    fn zero_bucket(&self) -> Option<Bucket> {
        let threshold = self.zero_threshold;
        (self.zero_count != 0.0).then_some(Bucket {
            lower: -threshold,
            upper: threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        })
    }

    /// All buckets by ascending values, the zero bucket only if it is filled. A bucket next to zero ends where the
    /// zero bucket begins.
    pub(crate) fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> + '_ {
        let threshold = if self.zero_count == 0.0 { 0.0 } else { self.zero_threshold };
        let negative = self.negative.iter().rev().map(move |entry| {
            let bucket = self.negative_bucket(*entry);
            if bucket.upper > -threshold && bucket.lower < -threshold {
                Bucket { upper: -threshold, ..bucket }
            } else {
                bucket
            }
        });
        let positive = self.positive.iter().map(move |entry| {
            let bucket = self.positive_bucket(*entry);
            if bucket.lower < threshold && bucket.upper > threshold && !self.is_custom() {
                Bucket { lower: threshold, ..bucket }
            } else {
                bucket
            }
        });
        negative.chain(self.zero_bucket()).chain(positive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_the_base() {
        assert_eq!(exponential_bound(3, 0), 8.0);
        assert_eq!(exponential_bound(1, -2), 16.0);
        assert_eq!(exponential_bound(-1, 1), 0.5_f64.sqrt());
        assert_eq!(exponential_bound(1024, 0), f64::INFINITY);
    }

    #[test]
    fn buckets_come_in_the_order_of_their_values() {
        let histogram = Native {
            zero_threshold: 0.1,
            zero_count: 1.0,
            positive: vec![(0, 1.0), (1, 2.0)],
            negative: vec![(0, 1.0), (1, 2.0)],
            ..Native::default()
        };
        let bounds: Vec<_> = histogram.buckets().map(|bucket| (bucket.lower, bucket.upper)).collect();
        assert_eq!(bounds, [(-2.0, -1.0), (-1.0, -0.5), (-0.1, 0.1), (0.5, 1.0), (1.0, 2.0)]);
    }
}
