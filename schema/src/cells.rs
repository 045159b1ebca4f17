//! Longer cells: rows of `rollups` of one combination of dimensions, added up over 5 minutes or an hour.
//!
//! They are no table of their own but another form of the same rows, from which the same sums come out: a store keeps
//! them beside `rollups` to read less, and may read 10 s rows in their place at any time. So a row of
//! `rollups_1h` covers at most an hour, and nothing is ever counted from both.

use crate::closed_enum::closed_enum;
use crate::tables::Table;
use crate::time_range::NANOS_PER_SECOND;

closed_enum! {
    /// How much time a longer cell covers.
    pub enum CellWidth ("width of cells") {
        /// Five minutes.
        FiveMinutes = "5m",
        /// An hour.
        Hour = "1h",
    }
}

impl CellWidth {
    /// Its length in nanoseconds. Each divides the next, and an hour.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        match self {
            Self::FiveMinutes => 300 * NANOS_PER_SECOND,
            Self::Hour => 3_600 * NANOS_PER_SECOND,
        }
    }

    /// Its name in SQL, and of its folder.
    #[must_use]
    pub const fn relation(self) -> &'static str {
        match self {
            Self::FiveMinutes => "rollups_5m",
            Self::Hour => "rollups_1h",
        }
    }

    /// The width that a name in SQL stands for.
    #[must_use]
    pub fn of_relation(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|width| width.relation() == name)
    }

    /// The greatest width that divides a step; the greatest of all where there are no steps.
    #[must_use]
    pub fn dividing(step_nanos: Option<i64>) -> Option<Self> {
        let divides = |width: &Self| step_nanos.is_none_or(|step| step > 0 && step % width.nanos() == 0);
        Self::ALL.iter().rev().copied().find(divides)
    }
}

/// The table that a name in SQL reads, and the greatest width of its cells where they may be longer.
#[must_use]
pub fn relation(name: &str) -> Option<(Table, Option<CellWidth>)> {
    match CellWidth::of_relation(name) {
        Some(width) => Some((Table::Rollups, Some(width))),
        None => name.parse().ok().map(|table| (table, None)),
    }
}

/// The columns of `rollups` that say what a cell is about. Rows that are equal in these are added up.
pub const KEY_COLUMNS: [&str; 14] = [
    "family",
    "node_id",
    "region",
    "profile",
    "account_id",
    "chain",
    "method",
    "method_class",
    "provider_id",
    "transport",
    "strategy",
    "result",
    "error_category",
    "sketch_scale",
];

/// The columns of `rollups` that count channels as candidates: the only ones that can differ from 0 where nothing was called.
pub const CANDIDATE_COLUMNS: [&str; 5] =
    ["eligible_count", "probability_sum", "excluded", "first_probability_sum", "first_attempts"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_a_step_are_the_longest_that_divide_it() {
        let seconds = |seconds: i64| CellWidth::dividing(Some(seconds * NANOS_PER_SECOND));
        assert_eq!(CellWidth::dividing(None), Some(CellWidth::Hour));
        assert_eq!([7_200, 3_600, 5_400, 300, 60, 0].map(seconds), {
            use CellWidth::{FiveMinutes, Hour};
            [Some(Hour), Some(Hour), Some(FiveMinutes), Some(FiveMinutes), None, None]
        });
    }

    #[test]
    fn a_name_in_sql_is_a_table_or_a_width_of_rollups_and_every_named_column_is_one_of_them() {
        assert_eq!(relation("rollups_1h"), Some((Table::Rollups, Some(CellWidth::Hour))));
        assert_eq!(relation("rollups"), Some((Table::Rollups, None)));
        assert_eq!(relation("rollups_2h"), None);
        let schema = Table::Rollups.schema();
        for name in KEY_COLUMNS.iter().chain(&CANDIDATE_COLUMNS) {
            assert!(schema.field_with_name(name).is_ok(), "{name}");
        }
    }
}
