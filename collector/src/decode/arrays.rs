//! Columns while they grow, as the vectors that they will be.
//!
//! A column is filled up with nulls only when a row has a value for it: of the seventy columns of a span most rows use
//! a dozen. Arrow's builders were rejected for that, and for the room for a thousand rows that each of them begins with.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanBuilder, FixedSizeBinaryArray, NullBufferBuilder, PrimitiveArray, StringArray,
    new_null_array,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;

/// Which rows have a value.
#[derive(Debug)]
struct Presence {
    nulls: NullBufferBuilder,
    rows: usize,
}

impl Presence {
    fn new() -> Self {
        Self { nulls: NullBufferBuilder::new(0), rows: 0 }
    }

    /// Says that `row` has a value, and how many rows before it have none; none if it had one already.
    fn set(&mut self, row: usize) -> Option<usize> {
        let missing = row.checked_sub(self.rows)?;
        self.nulls.append_n_nulls(missing);
        self.nulls.append_non_null();
        self.rows = row + 1;
        Some(missing)
    }
}

/// A column of texts.
#[derive(Debug)]
pub(super) struct Texts {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
    presence: Presence,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self { offsets: vec![0], bytes: Vec::new(), presence: Presence::new() }
    }

    /// The text of a row is what `write` puts behind the bytes; what the row had before is gone.
    pub(super) fn set_with(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>)) {
        match self.presence.set(row) {
            Some(missing) => {
                let end = self.end();
                self.offsets.extend(std::iter::repeat_n(end, missing));
            }
            None => {
                self.offsets.pop();
                let end = usize::try_from(self.offsets.last().copied().unwrap_or_default()).unwrap_or_default();
                self.bytes.truncate(end);
            }
        }
        write(&mut self.bytes);
        let end = self.end();
        self.offsets.push(end);
    }

    pub(super) fn set(&mut self, row: usize, text: &str) {
        self.set_with(row, |bytes| bytes.extend_from_slice(text.as_bytes()));
    }

    /// Where the texts end; the rows of a request are bounded far below what an offset holds.
    fn end(&self) -> i32 {
        i32::try_from(self.bytes.len()).unwrap_or(i32::MAX)
    }

    /// True if no row has a value.
    pub(super) fn is_empty(&self) -> bool {
        self.presence.rows == 0
    }

    /// The column of so many rows.
    pub(super) fn finish(mut self, rows: usize) -> ArrayRef {
        let missing = rows - self.presence.rows;
        self.presence.nulls.append_n_nulls(missing);
        let end = self.end();
        self.offsets.extend(std::iter::repeat_n(end, missing));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let texts = StringArray::try_new(offsets, Buffer::from_vec(self.bytes), self.presence.nulls.finish());
        Arc::new(texts.expect("what was written is text, and offsets stand between texts"))
    }
}

/// A column of numbers.
#[derive(Debug)]
pub(super) struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    presence: Presence,
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), presence: Presence::new() }
    }

    pub(super) fn set(&mut self, row: usize, value: T::Native) {
        match self.presence.set(row) {
            Some(missing) => self.values.extend(std::iter::repeat_n(T::Native::default(), missing)),
            None => {
                self.values.pop();
            }
        }
        self.values.push(value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.presence.rows == 0
    }

    pub(super) fn finish(mut self, rows: usize) -> ArrayRef {
        self.presence.nulls.append_n_nulls(rows - self.presence.rows);
        self.values.resize(rows, T::Native::default());
        Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(self.values), self.presence.nulls.finish()))
    }
}

/// A column of ids of `N` bytes.
#[derive(Debug)]
pub(super) struct Ids<const N: usize> {
    bytes: Vec<u8>,
    presence: Presence,
}

impl<const N: usize> Ids<N> {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), presence: Presence::new() }
    }

    pub(super) fn set(&mut self, row: usize, id: [u8; N]) {
        match self.presence.set(row) {
            Some(missing) => self.bytes.extend(std::iter::repeat_n(0, missing * N)),
            None => self.bytes.truncate(self.bytes.len() - N),
        }
        self.bytes.extend_from_slice(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.presence.rows == 0
    }

    pub(super) fn finish(mut self, rows: usize) -> ArrayRef {
        self.presence.nulls.append_n_nulls(rows - self.presence.rows);
        self.bytes.resize(rows * N, 0);
        let width = i32::try_from(N).unwrap_or_default();
        let ids = FixedSizeBinaryArray::try_new(width, Buffer::from_vec(self.bytes), self.presence.nulls.finish());
        Arc::new(ids.expect("every id has the column's width"))
    }
}

/// A column of flags.
#[derive(Debug)]
pub(super) struct Flags {
    values: BooleanBuilder,
    rows: usize,
    last: Option<bool>,
}

impl Flags {
    pub(super) fn new() -> Self {
        Self { values: BooleanBuilder::with_capacity(0), rows: 0, last: None }
    }

    pub(super) fn set(&mut self, row: usize, flag: bool) {
        self.flush(row);
        self.last = Some(flag);
        self.rows = row;
    }

    /// Writes the flag that could still be replaced, and nulls up to `row`.
    fn flush(&mut self, row: usize) {
        if row == self.rows {
            return;
        }
        let mut missing = row - self.rows;
        if let Some(flag) = self.last.take() {
            self.values.append_value(flag);
            missing -= 1;
        }
        self.values.append_nulls(missing);
        self.rows = row;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0 && self.last.is_none()
    }

    pub(super) fn finish(mut self, rows: usize) -> ArrayRef {
        self.flush(rows);
        Arc::new(self.values.finish())
    }
}

/// Columns without any value: those of one type are one.
#[derive(Debug, Default)]
pub(super) struct Nulls(HashMap<DataType, ArrayRef>);

impl Nulls {
    pub(super) fn of(&mut self, data_type: &DataType, rows: usize) -> ArrayRef {
        let column = self.0.entry(data_type.clone()).or_insert_with(|| new_null_array(data_type, rows));
        Arc::clone(column)
    }
}
