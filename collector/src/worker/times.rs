//! Sets of moments: what a filter allows and what a file is read for, as ranges that neither touch nor overlap.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Literal, binary, col};
use lariat_schema::time_range::TimeRange;

use super::window::TIME;

/// A set of moments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Times(Vec<TimeRange>);

impl Times {
    /// Every moment.
    pub(crate) fn all() -> Self {
        Self::of([TimeRange::new(i64::MIN, i64::MAX)])
    }

    /// Every moment of some ranges.
    pub(crate) fn of(ranges: impl IntoIterator<Item = TimeRange>) -> Self {
        let mut sorted: Vec<TimeRange> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_by_key(|range| range.from_unix_nanos);
        let mut apart: Vec<TimeRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match apart.last_mut() {
                Some(last) if range.from_unix_nanos <= last.to_unix_nanos => {
                    last.to_unix_nanos = last.to_unix_nanos.max(range.to_unix_nanos);
                }
                _ => apart.push(range),
            }
        }
        Self(apart)
    }

    /// The moments in both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self::of(self.0.iter().flat_map(|one| other.0.iter().map(|two| one.intersection(two))))
    }

    /// The moments in either.
    pub(crate) fn or(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    /// All other moments.
    pub(crate) fn not(&self) -> Self {
        let starts = std::iter::once(i64::MIN).chain(self.0.iter().map(|range| range.to_unix_nanos));
        let ends = self.0.iter().map(|range| range.from_unix_nanos).chain([i64::MAX]);
        Self::of(starts.zip(ends).map(|(from, to)| TimeRange::new(from, to)))
    }

    /// The moments of pieces of this length, counted from 1970, that lie wholly inside.
    pub(crate) fn whole(&self, piece_nanos: i64) -> Self {
        let inner = |range: &TimeRange| {
            let past = range.from_unix_nanos.rem_euclid(piece_nanos);
            let from = if past == 0 {
                Some(range.from_unix_nanos)
            } else {
                range.from_unix_nanos.checked_add(piece_nanos - past)
            };
            let to = range.to_unix_nanos.saturating_sub(range.to_unix_nanos.rem_euclid(piece_nanos));
            from.map(|from| TimeRange::new(from, to))
        };
        Self::of(self.0.iter().filter_map(inner))
    }

    /// True if there is no moment in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if every moment of the range is in it.
    pub(crate) fn hold(&self, range: &TimeRange) -> bool {
        self.0.iter().any(|own| own.intersection(range) == *range)
    }

    /// True if some moment of the range is in it.
    pub(crate) fn touch(&self, range: &TimeRange) -> bool {
        self.0.iter().any(|own| own.overlaps(range))
    }

    /// The condition that a row's time is in it.
    pub(crate) fn condition(&self, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        let compared = |op: Operator, at: i64| {
            let moment = ScalarValue::TimestampNanosecond(Some(at), Some("UTC".into()));
            binary(col(TIME, schema)?, op, Arc::new(Literal::new(moment)), schema)
        };
        let mut any: Option<Arc<dyn PhysicalExpr>> = None;
        for range in &self.0 {
            let (from, to) =
                (compared(Operator::GtEq, range.from_unix_nanos)?, compared(Operator::Lt, range.to_unix_nanos)?);
            let within = binary(from, Operator::And, to, schema)?;
            any = Some(match any {
                Some(before) => binary(before, Operator::Or, within, schema)?,
                None => within,
            });
        }
        Ok(any.unwrap_or_else(|| Arc::new(Literal::new(ScalarValue::Boolean(Some(false))))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sets() -> impl Strategy<Value = Times> {
        prop::collection::vec((-50i64..50, 0i64..20), 0..5)
            .prop_map(|ranges| Times::of(ranges.into_iter().map(|(from, length)| TimeRange::new(from, from + length))))
    }

    fn at(times: &Times, moment: i64) -> bool {
        times.hold(&TimeRange::new(moment, moment + 1))
    }

    proptest! {
        #[test]
        fn a_moment_is_in_a_combination_of_sets_exactly_when_it_is_in_the_sets_that_it_says(
            one in sets(), two in sets(), moment in -80i64..80, piece in 1i64..12,
        ) {
            prop_assert_eq!(at(&one.and(&two), moment), at(&one, moment) && at(&two, moment));
            prop_assert_eq!(at(&one.or(&two), moment), at(&one, moment) || at(&two, moment));
            prop_assert_eq!(at(&one.not(), moment), !at(&one, moment));
            let start = moment - moment.rem_euclid(piece);
            let whole = TimeRange::new(start, start + piece);
            prop_assert_eq!(at(&one.whole(piece), moment), one.hold(&whole));
            prop_assert_eq!(one.touch(&whole), (start..start + piece).any(|moment| at(&one, moment)));
        }
    }

    #[test]
    fn all_moments_hold_every_range_and_their_opposite_none() {
        let day = TimeRange::new(0, 86_400_000_000_000);
        assert!(Times::all().hold(&day) && Times::all().whole(3_600_000_000_000).hold(&day));
        assert!(Times::all().not().is_empty());
    }
}
