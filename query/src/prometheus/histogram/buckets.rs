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

/// Bucket that holds `value`, which is positive.
pub(crate) fn exponential_index(value: f64, schema: i32) -> i32 {
    let estimate = super::super::number::to_i32((value.log2() * f64::from(schema).exp2()).ceil());
    // The logarithm may be off by one bucket at a bound.
    (estimate - 1..=estimate + 1).find(|index| value <= exponential_bound(*index, schema)).unwrap_or(estimate)
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

    fn positive_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let (lower, upper) = (self.lower_bound(index), self.upper_bound(index));
        let lower_inclusive = lower == f64::NEG_INFINITY;
        Bucket { lower, upper, lower_inclusive, upper_inclusive: true, count }
    }

    fn negative_bucket(&self, (index, count): (i32, f64)) -> Bucket {
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
    fn a_value_lies_in_the_bucket_of_its_index() {
        for schema in -4..=8 {
            for value in [1e-9, 0.3, 1.0, 1.0001, 2.0, 3.7, 1e9] {
                let index = exponential_index(value, schema);
                let (lower, upper) = (exponential_bound(index - 1, schema), exponential_bound(index, schema));
                assert!(lower < value && value <= upper, "{value} in ({lower}, {upper}] of schema {schema}");
            }
        }
    }
}
