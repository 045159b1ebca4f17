//! Native histograms: exponential buckets of a schema (-4 to 8), or custom bounds. Buckets are a sorted list of index and
//! count and not Prometheus' spans and deltas: nothing here is written to a chunk, and an empty bucket means the same as
//! an absent one.

mod arithmetic;
pub(crate) mod buckets;
pub(crate) mod classic;
pub(crate) mod quantile;
mod trim;

use std::fmt;
use std::sync::Arc;

pub(crate) use arithmetic::{Change, Incompatible};

/// Schema of histograms with custom bounds.
pub(crate) const CUSTOM_SCHEMA: i32 = -53;

/// What is known about a counter reset before a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hint {
    /// Nothing: it has to be detected.
    #[default]
    Unknown,
    /// There was one.
    Reset,
    /// There was none.
    NotReset,
    /// No counter at all.
    Gauge,
}

/// A histogram whose counts are floats, so that it can be a rate.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Native {
    /// Buckets per power of two are 2^schema, or [`CUSTOM_SCHEMA`].
    pub(crate) schema: i32,
    /// Half width of the zero bucket.
    pub(crate) zero_threshold: f64,
    /// Observations in it.
    pub(crate) zero_count: f64,
    /// All observations.
    pub(crate) count: f64,
    /// Their sum.
    pub(crate) sum: f64,
    /// Index and count, ascending; bucket `i` ends at base^i, or at the i-th custom bound.
    pub(crate) positive: Vec<(i32, f64)>,
    /// The same for negative values, by magnitude.
    pub(crate) negative: Vec<(i32, f64)>,
    /// Custom bounds, ascending, without the infinite one.
    pub(crate) custom: Arc<Vec<f64>>,
    /// What is known about a reset.
    pub(crate) hint: Hint,
}

impl Native {
    /// True if its bounds are its own.
    pub(crate) const fn is_custom(&self) -> bool {
        self.schema == CUSTOM_SCHEMA
    }

    /// Without empty buckets.
    pub(crate) fn compact(mut self) -> Self {
        self.positive.retain(|(_, count)| *count != 0.0);
        self.negative.retain(|(_, count)| *count != 0.0);
        self
    }

    /// True if both say the same about the observations; what is known about resets does not count.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        let same = |left: f64, right: f64| left.to_bits() == right.to_bits() || left == right;
        let buckets = |left: &[(i32, f64)], right: &[(i32, f64)]| {
            let filled = |list: &[(i32, f64)]| list.iter().copied().filter(|(_, n)| *n != 0.0).collect::<Vec<_>>();
            filled(left) == filled(right)
        };
        self.schema == other.schema
            && same(self.count, other.count)
            && same(self.sum, other.sum)
            && same(self.zero_count, other.zero_count)
            && same(self.zero_threshold, other.zero_threshold)
            && self.custom == other.custom
            && buckets(&self.positive, &other.positive)
            && buckets(&self.negative, &other.negative)
    }
}

impl fmt::Display for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use super::format::float;
        write!(f, "{{count:{}, sum:{}", float(self.count), float(self.sum))?;
        for bucket in self.buckets().filter(|bucket| bucket.count != 0.0) {
            let open = if bucket.lower_inclusive { '[' } else { '(' };
            let close = if bucket.upper_inclusive { ']' } else { ')' };
            write!(f, ", {open}{},{}{close}:{}", float(bucket.lower), float(bucket.upper), float(bucket.count))?;
        }
        f.write_str("}")
    }
}
