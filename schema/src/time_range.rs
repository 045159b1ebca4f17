//! Half-open ranges of time in Unix nanoseconds, and the 10 s slices that rollups and coverage count in. One type,
//! because OTLP's nanoseconds, HTTP's seconds and a browser's milliseconds meet in the same query.

use serde::{Deserialize, Serialize};

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Length of a rollup cell and of a coverage slice, in nanoseconds.
pub const SLICE_NANOS: i64 = 10 * NANOS_PER_SECOND;

/// Slices that ended less than this long ago are open: read, but neither expected nor missing.
pub const OPEN_NANOS: i64 = 15 * NANOS_PER_SECOND;

/// `[from, to)` in Unix nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimeRange {
    /// First nanosecond inside.
    pub from_unix_nanos: i64,
    /// First nanosecond after it.
    pub to_unix_nanos: i64,
}

impl TimeRange {
    /// `[from, to)`; a reversed pair is the empty range at `from`.
    #[must_use]
    pub fn new(from_unix_nanos: i64, to_unix_nanos: i64) -> Self {
        Self { from_unix_nanos, to_unix_nanos: to_unix_nanos.max(from_unix_nanos) }
    }

    /// True if no nanosecond lies inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from_unix_nanos >= self.to_unix_nanos
    }

    /// Its length.
    #[must_use]
    pub fn nanos(&self) -> i64 {
        self.to_unix_nanos.saturating_sub(self.from_unix_nanos)
    }

    /// True if a nanosecond lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.from_unix_nanos < other.to_unix_nanos
            && other.from_unix_nanos < self.to_unix_nanos
    }

    /// True if `unix_nanos` lies inside.
    #[must_use]
    pub fn contains(&self, unix_nanos: i64) -> bool {
        self.from_unix_nanos <= unix_nanos && unix_nanos < self.to_unix_nanos
    }

    /// What lies in both, empty if nothing does.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let from = self.from_unix_nanos.max(other.from_unix_nanos);
        Self::new(from, self.to_unix_nanos.min(other.to_unix_nanos))
    }
}

/// Start of the slice that `unix_nanos` lies in.
#[must_use]
pub fn slice_start(unix_nanos: i64) -> i64 {
    unix_nanos.saturating_sub(unix_nanos.rem_euclid(SLICE_NANOS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_ranges_overlap_exactly_when_their_intersection_is_not_empty(a in -50i64..50, b in -50i64..50, c in -50i64..50, d in -50i64..50) {
            let (left, right) = (TimeRange::new(a, b), TimeRange::new(c, d));
            prop_assert_eq!(left.overlaps(&right), !left.intersection(&right).is_empty());
        }

        #[test]
        fn a_moment_lies_in_the_slice_that_starts_at_its_slice_start(t in i64::MIN / 2..i64::MAX / 2) {
            let start = slice_start(t);
            prop_assert!(start <= t && t - start < SLICE_NANOS && start.rem_euclid(SLICE_NANOS) == 0);
        }
    }
}
