//! Reading answers: Arrow columns by name, as the type that the reader needs. A merge may return a wider or another text
//! type than a table has, so each column is cast once; a column that is missing or cannot be cast is a fault of ours.

use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use lariat_collector::worker::sketches::NoSketch;

use crate::ask::AskError;

/// An answer without the column that was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAnswer {
    /// It has no such column.
    #[error("the answer has no column `{0}`")]
    Missing(&'static str),
    /// The column has another type than was asked for.
    #[error("column `{name}` of the answer cannot be read")]
    Type {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: ArrowError,
    },
    /// A sum of sketches is none.
    #[error("the sketches of the answer cannot be read")]
    Sketch(#[source] NoSketch),
}

impl From<BadAnswer> for AskError {
    fn from(error: BadAnswer) -> Self {
        Self::Internal { source: Box::new(error) }
    }
}

fn column(batch: &RecordBatch, name: &'static str, data_type: &DataType) -> Result<ArrayRef, BadAnswer> {
    let found = batch.column_by_name(name).ok_or(BadAnswer::Missing(name))?;
    cast(found, data_type).map_err(|source| BadAnswer::Type { name, source })
}

macro_rules! readers {
    ($($(#[$meta:meta])* $function:ident: $array:ident = $data_type:ident;)+) => {$(
        $(#[$meta])*
        pub(crate) fn $function(batch: &RecordBatch, name: &'static str) -> Result<$array, BadAnswer> {
            let array = column(batch, name, &DataType::$data_type)?;
            let typed = array.as_any().downcast_ref::<$array>().cloned();
            typed.ok_or(BadAnswer::Missing(name))
        }
    )+};
}

readers! {
    /// A column of texts.
    texts: StringArray = Utf8;
    /// A column of whole numbers; moments are Unix nanoseconds.
    integers: Int64Array = Int64;
    /// A column of numbers.
    floats: Float64Array = Float64;
}

/// A column of structs, each field as it came.
pub(crate) fn structs(batch: &RecordBatch, name: &'static str) -> Result<StructArray, BadAnswer> {
    let found = batch.column_by_name(name).and_then(|column| column.as_struct_opt());
    found.cloned().ok_or(BadAnswer::Missing(name))
}

/// A column of lists of structs: the lists, and the columns of all their elements.
pub(crate) fn lists(batch: &RecordBatch, name: &'static str) -> Result<(ListArray, RecordBatch), BadAnswer> {
    let found = batch.column_by_name(name).and_then(|column| column.as_list_opt::<i32>());
    let lists = found.ok_or(BadAnswer::Missing(name))?;
    let elements = lists.values().as_struct_opt().filter(|elements| elements.null_count() == 0);
    Ok((lists.clone(), RecordBatch::from(elements.ok_or(BadAnswer::Missing(name))?)))
}

/// Where the elements of a row's list stand; nowhere where it is null.
pub(crate) fn places_at(lists: &ListArray, row: usize) -> Range<usize> {
    let place = |row: usize| usize::try_from(lists.value_offsets()[row]).unwrap_or_default();
    if lists.is_valid(row) { place(row)..place(row + 1) } else { 0..0 }
}

/// The text in a row, if any.
pub(crate) fn text_at(array: &StringArray, row: usize) -> Option<String> {
    array.is_valid(row).then(|| array.value(row).to_owned())
}

/// The number in a row, if any.
pub(crate) fn integer_at(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

/// The number in a row; null is nothing, as a sum over no rows is.
pub(crate) fn count_at(array: &Int64Array, row: usize) -> i64 {
    integer_at(array, row).unwrap_or(0)
}
