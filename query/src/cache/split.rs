//! Which part of a range is kept: its closed slices, cut back to round moments, so that a range that moves with the clock has
//! the same middle for a while. Without the cut each 10 s would have a middle of its own, and nobody would find another's.

use lariat_schema::time_range::{SLICE_NANOS, TimeRange};

use crate::coverage::open_from;

/// A middle stays the same for about this part of the range.
const PARTS: i64 = 16;
/// Lengths that a middle is cut to, in slices: 10 s, 30 s, 1 min, 5 min, 15 min, 1 h, 6 h, 1 d.
const STEPS: [i64; 8] = [1, 3, 6, 30, 90, 360, 2_160, 8_640];

/// A range in parts that do not overlap and leave nothing out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    /// What is kept.
    pub(super) middle: Option<TimeRange>,
    /// What is read each time.
    pub(super) edges: Vec<TimeRange>,
}

/// Splits a range. One that is closed as a whole is kept as it is.
pub(super) fn split(window: TimeRange, now_unix_nanos: i64) -> Split {
    let open = open_from(now_unix_nanos);
    if window.is_empty() {
        return Split { middle: None, edges: Vec::new() };
    }
    if window.to_unix_nanos <= open {
        return Split { middle: Some(window), edges: Vec::new() };
    }
    let closed = open.saturating_sub(window.from_unix_nanos);
    let wanted = closed / SLICE_NANOS / PARTS;
    let step = STEPS.iter().rev().find(|step| **step <= wanted).unwrap_or(&1) * SLICE_NANOS;
    let past = window.from_unix_nanos.rem_euclid(step);
    let from = if past == 0 { window.from_unix_nanos } else { window.from_unix_nanos.saturating_add(step - past) };
    let to = open - open.rem_euclid(step);
    if from >= to {
        return Split { middle: None, edges: vec![window] };
    }
    let edges = [TimeRange::new(window.from_unix_nanos, from), TimeRange::new(to, window.to_unix_nanos)];
    Split { middle: Some(TimeRange::new(from, to)), edges: edges.into_iter().filter(|edge| !edge.is_empty()).collect() }
}

#[cfg(test)]
mod tests {
    use lariat_schema::time_range::NANOS_PER_SECOND;
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_763_726_400_000_000_000;

    #[test]
    fn a_range_that_moves_with_the_clock_has_the_same_middle_for_a_while() {
        let at = |seconds: i64| {
            let now = NOW + seconds * NANOS_PER_SECOND;
            split(TimeRange::new(now - 900 * NANOS_PER_SECOND, now), now).middle.unwrap()
        };
        assert_eq!((at(16), at(16).nanos() / NANOS_PER_SECOND), (at(25), 870));
        assert_ne!(at(16), at(60));
    }

    #[test]
    fn what_is_closed_is_kept_whole_and_what_is_open_not_at_all() {
        let hour = TimeRange::new(NOW - 7_200 * NANOS_PER_SECOND, NOW - 3_600 * NANOS_PER_SECOND);
        assert_eq!(split(hour, NOW), Split { middle: Some(hour), edges: Vec::new() });
        let newest = TimeRange::new(NOW - 10 * NANOS_PER_SECOND, NOW);
        assert_eq!(split(newest, NOW), Split { middle: None, edges: vec![newest] });
    }

    proptest! {
        #[test]
        fn parts_neither_overlap_nor_leave_anything_out_and_no_open_slice_is_kept(
            from in 0i64..10_000_000, length in 1i64..10_000_000, ago in -100i64..1_000_000,
        ) {
            let window = TimeRange::new(NOW - from * 1_000_000_000, NOW - from * 1_000_000_000 + length * 777_777_777);
            let now = NOW - ago * 1_000_000_000;
            let Split { middle, mut edges } = split(window, now);
            edges.extend(middle);
            edges.sort_by_key(|part| part.from_unix_nanos);
            prop_assert_eq!(edges.first().map(|part| part.from_unix_nanos), Some(window.from_unix_nanos));
            prop_assert_eq!(edges.last().map(|part| part.to_unix_nanos), Some(window.to_unix_nanos));
            prop_assert!(edges.windows(2).all(|pair| pair[0].to_unix_nanos == pair[1].from_unix_nanos));
            prop_assert!(middle.is_none_or(|middle| middle.to_unix_nanos <= open_from(now)));
        }
    }
}
