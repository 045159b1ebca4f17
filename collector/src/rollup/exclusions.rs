//! Why providers were left out, counted by reason: what a cell has, what cells that are added up have, and the column of both.
//! A list and not a column for each reason, since reasons are only ever added.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::error::ArrowError;
use lariat_schema::tables::exclusion_count_fields;

use super::rows::lists;

/// Counts by reason.
pub(crate) type Counts = BTreeMap<String, i64>;

/// One list of counts for each of some cells or groups.
pub(crate) fn column_of<'c>(groups: impl Iterator<Item = &'c Counts> + Clone) -> Result<ArrayRef, ArrowError> {
    let reasons: StringArray = groups.clone().flatten().map(|(reason, _)| Some(reason.as_str())).collect();
    let counts: Int64Array = groups.clone().flatten().map(|(_, count)| *count).collect();
    lists(exclusion_count_fields(), vec![Arc::new(reasons), Arc::new(counts)], groups.map(BTreeMap::len).collect())
}
