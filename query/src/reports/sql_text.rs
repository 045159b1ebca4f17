//! Pieces of SQL that carry a value from outside: moments, ids, texts, conditions. They are typed literals and not texts
//! that SQL would coerce, since a coerced comparison casts the column, and a cast column is neither pruned by statistics
//! nor recognised as the window of the question. Values are only ever quoted here; no other module formats one into SQL.

use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;

/// A text literal.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A moment, typed like every `time` column.
pub(crate) fn moment(unix_nanos: i64) -> String {
    format!("arrow_cast({unix_nanos}, 'Timestamp(Nanosecond, Some(\"UTC\"))')")
}

/// A 16-byte id, typed like `request_id` and `trace_id`.
pub(crate) fn id(bytes: &[u8; 16]) -> String {
    format!("arrow_cast(X'{}', 'FixedSizeBinary(16)')", hex::encode(bytes))
}

/// What a report in steps of this length reads cells from: the longest that never lie in two steps.
pub(crate) fn cells(step_nanos: Option<i64>) -> &'static str {
    CellWidth::dividing(step_nanos).map_or(Table::Rollups.as_str(), CellWidth::relation)
}

/// The condition that `time` lies in `window`.
pub(crate) fn within(window: TimeRange) -> String {
    format!("time >= {} AND time < {}", moment(window.from_unix_nanos), moment(window.to_unix_nanos))
}

/// The condition that `time` lies in one of these ranges; the hull stands beside them, since it is what prunes files.
pub(crate) fn within_any(ranges: &[TimeRange]) -> String {
    let hull = TimeRange::new(
        ranges.iter().map(|range| range.from_unix_nanos).min().unwrap_or_default(),
        ranges.iter().map(|range| range.to_unix_nanos).max().unwrap_or_default(),
    );
    match ranges {
        [] | [_] => within(hull),
        several => {
            let any: Vec<String> = several.iter().map(|range| format!("({})", within(*range))).collect();
            format!("{} AND ({})", within(hull), any.join(" OR "))
        }
    }
}

/// `column IN (…)`; the column is one of ours, the values are anybody's.
pub(crate) fn any_of(column: &str, values: &[String]) -> String {
    let list: Vec<String> = values.iter().map(|value| text(value)).collect();
    format!("{column} IN ({})", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_value_stays_in_the_value() {
        assert_eq!(any_of("chain", &["a' OR 1=1 --".to_owned(), "b".to_owned()]), "chain IN ('a'' OR 1=1 --', 'b')");
    }
}
