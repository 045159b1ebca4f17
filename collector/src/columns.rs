//! Typed access to a batch's columns by name.
//!
//! Every batch was checked against its table's schema when it came in ([`has_schema_of`]), so a wrong name or type here
//! is a mistake of this crate and not of the sender: the access does not return an error that no caller could cure.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayData, ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, ListArray,
    MapArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray, new_null_array,
};
use arrow::buffer::Buffer;
use arrow::compute::{FilterBuilder, concat};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use lariat_schema::tables::Table;

/// True if the batch has exactly the columns of the table.
pub(crate) fn has_schema_of(batch: &RecordBatch, table: Table) -> bool {
    let (found, wanted) = (batch.schema(), table.schema());
    if Arc::ptr_eq(&found, &wanted) {
        return true;
    }
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

/// Columns without any value.
///
/// Of the seventy columns of a span most are such in most requests, and a column of nulls is as long as one of values.
/// So there is one of each type for good, and a batch holds a piece of it; it counts nowhere.
#[derive(Debug, Default)]
pub(crate) struct Nulls(RefCell<HashMap<DataType, ArrayRef>>);

/// Rows of a shared column of nulls: more than most requests have.
const SHARED_NULL_ROWS: usize = 4_096;

impl Nulls {
    /// A column of so many nulls. What is longer than the shared one is made once for all columns of its type.
    pub(crate) fn of(&self, data_type: &DataType, rows: usize) -> ArrayRef {
        static SHARED: LazyLock<HashMap<DataType, ArrayRef>> = LazyLock::new(|| {
            let schemas = Table::ALL.iter().map(|table| table.schema());
            let types: HashSet<DataType> = schemas
                .flat_map(|schema| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>())
                .collect();
            types.into_iter().map(|of| (of.clone(), new_null_array(&of, SHARED_NULL_ROWS))).collect()
        });
        match SHARED.get(data_type) {
            Some(shared) if rows <= shared.len() => shared.slice(0, rows),
            _ => self.made(data_type, rows),
        }
    }

    /// The column at a place of a table, without values: found without a look at its type.
    pub(crate) fn of_column(&self, table: Table, place: usize, rows: usize) -> ArrayRef {
        static SHARED: LazyLock<HashMap<Table, Vec<ArrayRef>>> = LazyLock::new(|| {
            let nulls = Nulls::default();
            let columns = |table: Table| {
                let schema = table.schema();
                schema.fields().iter().map(|field| nulls.of(field.data_type(), SHARED_NULL_ROWS)).collect()
            };
            Table::ALL.iter().map(|table| (*table, columns(*table))).collect()
        });
        match SHARED.get(&table).and_then(|columns| columns.get(place)) {
            Some(shared) if rows <= shared.len() => shared.slice(0, rows),
            _ => self.made(table.schema().field(place).data_type(), rows),
        }
    }

    fn made(&self, data_type: &DataType, rows: usize) -> ArrayRef {
        let mut made = self.0.borrow_mut();
        let column = made.entry(data_type.clone()).or_insert_with(|| new_null_array(data_type, rows));
        if column.len() == rows { Arc::clone(column) } else { new_null_array(data_type, rows) }
    }
}

/// True if no row has a value.
fn is_absent(column: &dyn Array) -> bool {
    column.null_count() == column.len()
}

/// The rows that the mask names.
pub(crate) fn filtered(batch: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch, ArrowError> {
    let rows = mask.true_count();
    if rows == batch.num_rows() {
        return Ok(batch.clone());
    }
    let filter = FilterBuilder::new(mask).optimize().build();
    let nulls = Nulls::default();
    let columns = batch
        .columns()
        .iter()
        .map(|column| if is_absent(column) { Ok(nulls.of(column.data_type(), rows)) } else { filter.filter(column) })
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(batch.schema(), columns)
}

/// The rows of batches of one table as one batch.
pub(crate) fn joined(batches: &[&RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let Some(first) = batches.first() else {
        return Err(ArrowError::InvalidArgumentError("no batches to join".to_owned()));
    };
    let rows = batches.iter().map(|batch| batch.num_rows()).sum();
    let nulls = Nulls::default();
    let columns = (0..first.num_columns())
        .map(|at| {
            let columns: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(at).as_ref()).collect();
            if columns.iter().all(|column| is_absent(*column)) {
                Ok(nulls.of(first.column(at).data_type(), rows))
            } else {
                concat(&columns)
            }
        })
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(first.schema(), columns)
}

/// What an array takes beside its values: itself, its type and what its buffers are kept by.
const ARRAY_BYTES: usize = 192;

/// Bytes that a batch takes: a buffer that several columns share counts once, a column without values not at all.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    let mut buffers = Vec::new();
    let mut arrays = 0;
    for column in batch.columns() {
        if is_absent(column) {
            arrays += 1;
        } else {
            collect(column, &mut buffers, &mut arrays);
        }
    }
    buffers.sort_unstable();
    buffers.dedup_by_key(|(address, _)| *address);
    buffers.iter().map(|(_, bytes)| bytes).sum::<usize>() + arrays * ARRAY_BYTES
}

/// The buffers of a column. Arrow's own description of one is made of allocations, and there are some hundred columns.
fn collect(column: &dyn Array, buffers: &mut Vec<(usize, usize)>, arrays: &mut usize) {
    *arrays += 1;
    let mut push = |buffer: &Buffer| buffers.push((buffer.data_ptr().as_ptr().addr(), buffer.capacity()));
    if let Some(nulls) = column.nulls() {
        push(nulls.inner().inner());
    }
    let any = column.as_any();
    if let Some(texts) = any.downcast_ref::<StringArray>() {
        push(texts.offsets().inner().inner());
        push(texts.values());
    } else if let Some(longs) = any.downcast_ref::<Int64Array>() {
        push(longs.values().inner());
    } else if let Some(moments) = any.downcast_ref::<TimestampNanosecondArray>() {
        push(moments.values().inner());
    } else if let Some(doubles) = any.downcast_ref::<Float64Array>() {
        push(doubles.values().inner());
    } else if let Some(ints) = any.downcast_ref::<Int32Array>() {
        push(ints.values().inner());
    } else if let Some(ids) = any.downcast_ref::<FixedSizeBinaryArray>() {
        push(ids.values());
    } else if let Some(maps) = any.downcast_ref::<MapArray>() {
        push(maps.offsets().inner().inner());
        collect(maps.entries(), buffers, arrays);
    } else if let Some(lists) = any.downcast_ref::<ListArray>() {
        push(lists.offsets().inner().inner());
        collect(lists.values(), buffers, arrays);
    } else if let Some(structs) = any.downcast_ref::<StructArray>() {
        structs.columns().iter().for_each(|column| collect(column, buffers, arrays));
    } else {
        collect_described(&column.to_data(), buffers, arrays);
    }
}

fn collect_described(data: &ArrayData, buffers: &mut Vec<(usize, usize)>, arrays: &mut usize) {
    for buffer in data.buffers() {
        buffers.push((buffer.data_ptr().as_ptr().addr(), buffer.capacity()));
    }
    for child in data.child_data() {
        *arrays += 1;
        if let Some(nulls) = child.nulls() {
            let buffer = nulls.inner().inner();
            buffers.push((buffer.data_ptr().as_ptr().addr(), buffer.capacity()));
        }
        collect_described(child, buffers, arrays);
    }
}

/// Bytes of the values of a batch, however its buffers came to be: the same rows have the same everywhere.
pub(crate) fn value_bytes_of(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter().filter(|column| !is_absent(column));
    columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(usize::MAX / MAX_COLUMNS)).sum()
}

/// No table has more columns.
const MAX_COLUMNS: usize = 1 << 10;

/// A text of a row, if it is there.
#[inline]
pub(crate) fn text(array: &StringArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}

/// An integer of a row, if it is there.
#[inline]
pub(crate) fn long(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

/// An integer of a row, if it is there.
#[inline]
pub(crate) fn int(array: &Int32Array, row: usize) -> Option<i32> {
    array.is_valid(row).then(|| array.value(row))
}

/// A float of a row, if it is there.
#[inline]
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
