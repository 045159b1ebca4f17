//! Sums and differences. Two histograms meet at the lower schema, at the wider zero bucket and at the custom bounds that
//! both have; a reset of a counter is seen from the buckets, because the sum of observations may fall by itself.

use std::sync::Arc;

use super::buckets::exponential_bound;
use super::{Hint, Native};

/// One of two histograms has custom bounds and the other has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incompatible;

/// What happened besides the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Change {
    /// One side was reset and the other was not.
    pub(crate) reset_collision: bool,
    /// Custom bounds differed and were reduced to the common ones.
    pub(crate) bounds_reconciled: bool,
}

impl Native {
    /// This histogram at a lower resolution.
    pub(crate) fn at_schema(&self, schema: i32) -> Self {
        if self.is_custom() || schema >= self.schema {
            return self.clone();
        }
        let shift = (self.schema - schema).min(31);
        let merge = |buckets: &[(i32, f64)]| {
            merged(buckets.iter().map(|(index, count)| (((i64::from(*index) - 1) >> shift) + 1, *count)))
        };
        Self { schema, positive: merge(&self.positive), negative: merge(&self.negative), ..self.clone() }
    }

    /// All counts and the sum times `factor`.
    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        self.each(|count| count * factor);
        if factor < 0.0 {
            self.hint = Hint::Gauge;
        }
        self
    }

    /// All counts and the sum divided by `divisor`; by zero nothing is left but the totals.
    pub(crate) fn divided(mut self, divisor: f64) -> Self {
        self.each(|count| count / divisor);
        if divisor == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
        if divisor < 0.0 {
            self.hint = Hint::Gauge;
        }
        self
    }

    fn each(&mut self, change: impl Fn(f64) -> f64) {
        for value in [&mut self.zero_count, &mut self.count, &mut self.sum] {
            *value = change(*value);
        }
        for (_, count) in self.positive.iter_mut().chain(&mut self.negative) {
            *count = change(*count);
        }
    }

    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) -> Result<Change, Incompatible> {
        let reset_collision = self.meet_hints(other.hint);
        let bounds_reconciled = self.combine(other, 1.0)?;
        Ok(Change { reset_collision, bounds_reconciled })
    }

    /// Subtracts another one.
    pub(crate) fn subtract(&mut self, other: &Self) -> Result<Change, Incompatible> {
        let reset_collision = self.meet_hints(other.hint);
        let bounds_reconciled = self.combine(other, -1.0)?;
        Ok(Change { reset_collision, bounds_reconciled })
    }

    /// What is known about a sum; true if the two contradict each other.
    fn meet_hints(&mut self, other: Hint) -> bool {
        let (mine, collision) = match (self.hint, other) {
            (left, right) if left == right => (left, false),
            (Hint::Gauge, _) | (_, Hint::Gauge) => (Hint::Gauge, false),
            (Hint::Unknown, _) | (_, Hint::Unknown) => (Hint::Unknown, false),
            _ => (Hint::Unknown, true),
        };
        self.hint = mine;
        collision
    }

    fn combine(&mut self, other: &Self, factor: f64) -> Result<bool, Incompatible> {
        if self.is_custom() != other.is_custom() {
            return Err(Incompatible);
        }
        self.count += factor * other.count;
        self.sum += factor * other.sum;
        if self.is_custom() {
            return Ok(self.combine_custom(other, factor));
        }
        let mut other = other.clone();
        self.meet_zero_buckets(&mut other);
        self.zero_count += factor * other.zero_count;
        let schema = self.schema.min(other.schema);
        *self = self.at_schema(schema);
        let other = other.at_schema(schema);
        let outside = |index: i32| exponential_bound(index, schema) > self.zero_threshold;
        let join = |mine: &[(i32, f64)], theirs: &[(i32, f64)]| {
            let theirs = theirs.iter().filter(|(index, _)| outside(*index)).map(|(index, n)| (*index, factor * n));
            merged(mine.iter().copied().chain(theirs).map(|(index, count)| (i64::from(index), count)))
        };
        let positive = join(&self.positive, &other.positive);
        let negative = join(&self.negative, &other.negative);
        (self.positive, self.negative) = (positive, negative);
        Ok(false)
    }

    fn combine_custom(&mut self, other: &Self, factor: f64) -> bool {
        let reconciled = self.custom != other.custom;
        let theirs = if reconciled {
            let common = common_bounds(&self.custom, &other.custom);
            *self = self.at_bounds(&common);
            other.at_bounds(&common).positive
        } else {
            other.positive.clone()
        };
        let all = self.positive.iter().copied().chain(theirs.into_iter().map(|(index, n)| (index, factor * n)));
        self.positive = merged(all.map(|(index, count)| (i64::from(index), count)));
        reconciled
    }

    /// This histogram with fewer custom bounds.
    fn at_bounds(&self, bounds: &Arc<Vec<f64>>) -> Self {
        let target = |index: i32| {
            let upper = self.upper_bound(index);
            i64::try_from(bounds.partition_point(|bound| *bound < upper)).unwrap_or(i64::MAX)
        };
        let positive = merged(self.positive.iter().map(|(index, count)| (target(*index), *count)));
        Self { positive, custom: Arc::clone(bounds), ..self.clone() }
    }

    fn meet_zero_buckets(&mut self, other: &mut Self) {
        while self.zero_threshold != other.zero_threshold {
            if self.zero_threshold > other.zero_threshold {
                other.widen_zero_bucket(self.zero_threshold);
            } else {
                self.widen_zero_bucket(other.zero_threshold);
            }
        }
    }

    fn widen_zero_bucket(&mut self, wanted: f64) {
        let (count, threshold) = self.zero_count_within(wanted);
        (self.zero_count, self.zero_threshold) = (count, threshold);
        let schema = self.schema;
        let outside = |(index, _): &(i32, f64)| exponential_bound(*index, schema) > threshold;
        self.positive.retain(outside);
        self.negative.retain(outside);
    }

    /// Observations in a zero bucket of at least `threshold`, and its width: no filled bucket may be cut in two.
    fn zero_count_within(&self, mut threshold: f64) -> (f64, f64) {
        if threshold == self.zero_threshold {
            return (self.zero_count, threshold);
        }
        'wider: loop {
            let mut count = self.zero_count;
            for (index, inside) in self.positive.iter().chain(&self.negative) {
                if exponential_bound(*index - 1, self.schema) >= threshold {
                    continue;
                }
                count += inside;
                let upper = exponential_bound(*index, self.schema);
                if upper > threshold && *inside != 0.0 {
                    threshold = upper;
                    continue 'wider;
                }
            }
            return (count, threshold);
        }
    }

    /// True if a counter started anew between `previous` and this one.
    pub(crate) fn is_reset_after(&self, previous: &Self) -> bool {
        match self.hint {
            Hint::Reset => return true,
            Hint::NotReset => return false,
            Hint::Unknown | Hint::Gauge => {}
        }
        if self.count < previous.count || self.is_custom() != previous.is_custom() {
            return true;
        }
        if self.is_custom() {
            let common = common_bounds(&self.custom, &previous.custom);
            return lost(&previous.at_bounds(&common).positive, &self.at_bounds(&common).positive, |_| true);
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_count, threshold) = previous.zero_count_within(self.zero_threshold);
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        let previous = previous.at_schema(self.schema);
        let outside = |index: i32| exponential_bound(index, self.schema) > threshold;
        lost(&previous.positive, &self.positive, outside) || lost(&previous.negative, &self.negative, outside)
    }
}

/// True if a bucket that counts has fewer observations than before.
fn lost(before: &[(i32, f64)], after: &[(i32, f64)], counts: impl Fn(i32) -> bool) -> bool {
    before.iter().filter(|(index, count)| *count > 0.0 && counts(*index)).any(|(index, count)| {
        let now = after.binary_search_by_key(index, |(other, _)| *other).map_or(0.0, |at| after[at].1);
        now < *count
    })
}

fn common_bounds(left: &Arc<Vec<f64>>, right: &Arc<Vec<f64>>) -> Arc<Vec<f64>> {
    if left == right {
        return Arc::clone(left);
    }
    Arc::new(left.iter().copied().filter(|bound| right.contains(bound)).collect())
}

/// Sorted, with one entry per index.
fn merged(entries: impl Iterator<Item = (i64, f64)>) -> Vec<(i32, f64)> {
    let mut sorted: Vec<(i32, f64)> = entries
        .map(|(index, count)| (i32::try_from(index).unwrap_or(if index < 0 { i32::MIN } else { i32::MAX }), count))
        .collect();
    sorted.sort_by_key(|(index, _)| *index);
    sorted.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 += later.1;
        }
        same
    });
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(schema: i32, positive: &[(i32, f64)]) -> Native {
        let count = positive.iter().map(|(_, count)| count).sum();
        Native { schema, count, sum: count, positive: positive.to_vec(), ..Native::default() }
    }

    #[test]
    fn two_schemas_meet_at_the_lower_one() {
        let mut low = histogram(0, &[(1, 4.0)]);
        let change = low.add(&histogram(1, &[(1, 1.0), (2, 2.0), (3, 5.0)])).unwrap();
        assert_eq!((low.positive, change), (vec![(1, 7.0), (2, 5.0)], Change::default()));
    }

    #[test]
    fn a_wider_zero_bucket_swallows_what_it_covers() {
        let mut wide = Native { zero_threshold: 1.0, zero_count: 2.0, count: 2.0, ..Native::default() };
        wide.add(&histogram(0, &[(-1, 3.0), (2, 1.0)])).unwrap();
        assert_eq!((wide.zero_count, wide.positive), (5.0, vec![(2, 1.0)]));
    }

    #[test]
    fn a_bucket_that_shrinks_is_a_reset() {
        let before = histogram(0, &[(1, 4.0), (2, 1.0)]);
        assert!(histogram(0, &[(1, 2.0), (2, 9.0)]).is_reset_after(&before));
        assert!(!histogram(0, &[(1, 4.0), (2, 9.0)]).is_reset_after(&before));
        assert!(histogram(1, &[(1, 40.0)]).is_reset_after(&before));
    }

    #[test]
    fn custom_bounds_meet_at_those_that_both_have() {
        let custom = |bounds: &[f64], positive: &[(i32, f64)]| Native {
            schema: super::super::CUSTOM_SCHEMA,
            custom: Arc::new(bounds.to_vec()),
            ..histogram(0, positive)
        };
        let mut left = custom(&[1.0, 2.0, 3.0], &[(0, 1.0), (1, 2.0), (3, 4.0)]);
        let change = left.add(&custom(&[1.0, 3.0], &[(1, 10.0)])).unwrap();
        assert!(change.bounds_reconciled);
        assert_eq!((left.custom.to_vec(), left.positive), (vec![1.0, 3.0], vec![(0, 1.0), (1, 12.0), (2, 4.0)]));
        assert_eq!(histogram(0, &[]).add(&custom(&[1.0], &[])), Err(Incompatible));
    }
}
