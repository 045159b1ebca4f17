//! Typed access to a batch's columns by name.
//!
//! Every batch was checked against its table's schema when it came in ([`has_schema_of`]), so a wrong name or type here
//! is a mistake of this crate and not of the sender: the access does not return an error that no caller could cure.

use arrow::array::ArrayData;
use arrow::array::{
    Array, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use arrow::compute::FilterBuilder;
use arrow::error::ArrowError;
use lariat_schema::tables::Table;

/// True if the batch has exactly the columns of the table.
pub(crate) fn has_schema_of(batch: &RecordBatch, table: Table) -> bool {
    let (found, wanted) = (batch.schema(), table.schema());
    found.fields().len() == wanted.fields().len()
        && found
            .fields()
            .iter()
            .zip(wanted.fields())
            .all(|(found, wanted)| found.name() == wanted.name() && found.data_type() == wanted.data_type())
}

/// Where a column stands.
pub(crate) fn place(batch: &RecordBatch, name: &str) -> Option<usize> {
    batch.schema_ref().fields().iter().position(|field| field.name() == name)
}

/// A column by name and type. It is looked for from the first on: once for a batch, never for a row.
pub(crate) fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> &'a T {
    place(batch, name)
        .and_then(|place| batch.column(place).as_any().downcast_ref())
        .expect("the batch was checked against its table's schema, which has this column with this type")
}

/// A text column.
pub(crate) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> &'a StringArray {
    column(batch, name)
}

/// A column of 64-bit integers.
pub(crate) fn longs<'a>(batch: &'a RecordBatch, name: &str) -> &'a Int64Array {
    column(batch, name)
}

/// A column of 32-bit integers.
pub(crate) fn ints<'a>(batch: &'a RecordBatch, name: &str) -> &'a Int32Array {
    column(batch, name)
}

/// A column of floats.
pub(crate) fn doubles<'a>(batch: &'a RecordBatch, name: &str) -> &'a Float64Array {
    column(batch, name)
}

/// A column of moments.
pub(crate) fn moments<'a>(batch: &'a RecordBatch, name: &str) -> &'a TimestampNanosecondArray {
    column(batch, name)
}

/// A column of ids.
pub(crate) fn ids<'a>(batch: &'a RecordBatch, name: &str) -> &'a FixedSizeBinaryArray {
    column(batch, name)
}

/// The rows that the mask names. A column without any value is cut to the length instead of being copied.
pub(crate) fn filtered(batch: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch, ArrowError> {
    let rows = mask.true_count();
    if rows == batch.num_rows() {
        return Ok(batch.clone());
    }
    let filter = FilterBuilder::new(mask).optimize().build();
    let columns = batch
        .columns()
        .iter()
        .map(
            |column| {
                if column.null_count() == column.len() { Ok(column.slice(0, rows)) } else { filter.filter(column) }
            },
        )
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(batch.schema(), columns)
}

/// Bytes that a batch takes: a buffer that several columns share counts once.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    let mut buffers = Vec::new();
    for column in batch.columns() {
        collect(&column.to_data(), &mut buffers);
    }
    buffers.sort_unstable();
    buffers.dedup_by_key(|(address, _)| *address);
    buffers.iter().map(|(_, bytes)| bytes).sum()
}

fn collect(data: &ArrayData, buffers: &mut Vec<(usize, usize)>) {
    let nulls = data.nulls().map(|nulls| nulls.inner().inner());
    for buffer in data.buffers().iter().chain(nulls) {
        buffers.push((buffer.data_ptr().as_ptr().addr(), buffer.capacity()));
    }
    for child in data.child_data() {
        collect(child, buffers);
    }
}

/// A text of a row, if it is there.
pub(crate) fn text(array: &StringArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}

/// An integer of a row, if it is there.
pub(crate) fn long(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

/// An integer of a row, if it is there.
pub(crate) fn int(array: &Int32Array, row: usize) -> Option<i32> {
    array.is_valid(row).then(|| array.value(row))
}

/// A float of a row, if it is there.
pub(crate) fn double(array: &Float64Array, row: usize) -> Option<f64> {
    array.is_valid(row).then(|| array.value(row))
}

/// A count as the tables hold it; what no table can hold is its largest number.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A length as a count.
pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
