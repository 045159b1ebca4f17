//! Columns while they grow, as the vectors that they will be.
//!
//! A column is filled up with nulls only when a row has a value for it: of the seventy columns of a span most rows use
//! a dozen. Arrow's builders were rejected for that, and for the room for a thousand rows that each of them begins with.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanBuilder, FixedSizeBinaryArray, NullBufferBuilder, PrimitiveArray, StringArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

/// Bytes that room is made for in advance at most: the texts of a request are seldom more, and then grow as they come.
const ROOM_BYTES: usize = 1 << 20;
/// Part of what rows like the first take that is added, since they are not all alike.
const ROOM_SHARE: usize = 8;

/// Which rows have a value. As long as all have one there is nothing to write down.
#[derive(Debug)]
struct Presence {
    nulls: Option<NullBufferBuilder>,
    rows: usize,
}

impl Presence {
    fn new() -> Self {
        Self { nulls: None, rows: 0 }
    }

    /// Says that `row` has a value, and how many rows before it have none; none if it had one already.
    #[inline]
    fn set(&mut self, row: usize) -> Option<usize> {
        let missing = row.checked_sub(self.rows)?;
        if missing > 0 {
            self.skip(missing);
        }
        if let Some(nulls) = &mut self.nulls {
            nulls.append_non_null();
        }
        self.rows = row + 1;
        Some(missing)
    }

    fn skip(&mut self, missing: usize) {
        let rows = self.rows;
        let nulls = self.nulls.get_or_insert_with(|| {
            let mut nulls = NullBufferBuilder::new(rows + missing);
            nulls.append_n_non_nulls(rows);
            nulls
        });
        nulls.append_n_nulls(missing);
    }

    /// Says that rows up to `row` that were not spoken of have none; tells how many.
    fn pad(&mut self, row: usize) -> usize {
        let missing = row.saturating_sub(self.rows);
        if missing > 0 {
            self.skip(missing);
            self.rows = row;
        }
        missing
    }

    /// Says that `more` rows after the last one have values.
    fn extend(&mut self, more: usize) {
        if let Some(nulls) = &mut self.nulls {
            nulls.append_n_non_nulls(more);
        }
        self.rows += more;
    }

    /// The nulls of so many rows.
    fn finish(mut self, rows: usize) -> Option<NullBuffer> {
        if rows > self.rows {
            self.skip(rows - self.rows);
        }
        self.nulls.and_then(|mut nulls| nulls.finish())
    }
}

/// A column of texts.
#[derive(Debug)]
pub(super) struct Texts {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
    presence: Presence,
    /// Rows that room is made for with the first.
    room: usize,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self { offsets: vec![0], bytes: Vec::new(), presence: Presence::new(), room: 0 }
    }

    /// Makes room for so many rows like the next one: what grows by doubling ends half empty, and stays so.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.room = rows;
    }

    /// The text of a row is what `write` puts behind the bytes; what the row had before is gone.
    pub(super) fn set_with(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if self.offsets.len() > self.room {
            return self.put(row, write);
        }
        let begun = self.bytes.len();
        let room = std::mem::take(&mut self.room) + 1 - self.offsets.len();
        self.offsets.reserve_exact(room);
        self.put(row, write);
        // A little more than rows like this one take.
        let like_this = (self.bytes.len() - begun).saturating_mul(room);
        self.bytes.reserve_exact((like_this + like_this / ROOM_SHARE).min(ROOM_BYTES));
    }

    #[inline]
    fn put(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>)) {
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

    /// Gives `count` rows from `row` on a text each, which is what `write` puts behind the bytes.
    pub(super) fn extend_with(&mut self, row: usize, count: usize, mut write: impl FnMut(usize, &mut Vec<u8>)) {
        let is_first = self.offsets.len() <= self.room;
        let room = std::mem::take(&mut self.room);
        if is_first {
            self.offsets.reserve_exact(room + 1 - self.offsets.len());
        }
        let begun = self.bytes.len();
        let (missing, end) = (self.presence.pad(row), self.end());
        self.offsets.extend(std::iter::repeat_n(end, missing));
        for nth in 0..count {
            write(nth, &mut self.bytes);
            let end = self.end();
            self.offsets.push(end);
        }
        self.presence.extend(count);
        if is_first {
            let like_these = (self.bytes.len() - begun).saturating_mul(room) / count.max(1);
            self.bytes.reserve_exact((like_these + like_these / ROOM_SHARE).min(ROOM_BYTES));
        }
    }

    /// Gives rows from `row` on a text each: `texts` one behind the other, and where each of them ends.
    pub(super) fn extend(&mut self, row: usize, texts: &[u8], ends: &[usize]) {
        if self.offsets.len() <= self.room || self.presence.rows < row {
            let mut from = 0;
            return self.extend_with(row, ends.len(), |nth, bytes| {
                bytes.extend_from_slice(&texts[from..ends[nth]]);
                from = ends[nth];
            });
        }
        let begun = self.bytes.len();
        self.bytes.extend_from_slice(texts);
        self.offsets.extend(ends.iter().map(|end| i32::try_from(begun + end).unwrap_or(i32::MAX)));
        self.presence.extend(ends.len());
    }

    /// Repeats the last `rows` rows, all of which have a text, `times` times.
    pub(super) fn repeat_last(&mut self, rows: usize, times: usize) {
        let first = self.presence.rows - rows;
        let begun = usize::try_from(self.offsets[first]).unwrap_or_default();
        let texts = self.bytes[begun..].to_vec();
        let end = |end: &i32| usize::try_from(*end).unwrap_or_default() - begun;
        let ends: Vec<usize> = self.offsets[first + 1..].iter().map(end).collect();
        let begun = self.bytes.len();
        self.bytes.extend_from_slice(&texts.repeat(times));
        self.offsets.reserve(rows * times);
        for nth in 0..times {
            let from = begun + nth * texts.len();
            self.offsets.extend(ends.iter().map(|end| i32::try_from(from + end).unwrap_or(i32::MAX)));
        }
        self.presence.extend(rows * times);
    }

    /// Gives the rows from `from` to `to`, none of which has one, the same text.
    pub(super) fn repeat(&mut self, from: usize, to: usize, text: &str) {
        if to <= from {
            return;
        }
        self.set(from, text);
        let more = to - from - 1;
        let begun = self.bytes.len();
        self.bytes.extend_from_slice(text.repeat(more).as_bytes());
        let end = |nth: usize| i32::try_from(begun + nth * text.len()).unwrap_or(i32::MAX);
        self.offsets.extend((1..=more).map(end));
        self.presence.extend(more);
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
        let end = self.end();
        self.offsets.extend(std::iter::repeat_n(end, rows - self.presence.rows));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let texts = StringArray::try_new(offsets, Buffer::from_vec(self.bytes), self.presence.finish(rows));
        Arc::new(texts.expect("what was written is text, and offsets stand between texts"))
    }
}

/// A column of numbers.
#[derive(Debug)]
pub(super) struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    presence: Presence,
    room: usize,
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), presence: Presence::new(), room: 0 }
    }

    /// Makes room for so many rows with the first.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.room = rows;
    }

    pub(super) fn set(&mut self, row: usize, value: T::Native) {
        if self.values.len() < self.room {
            self.values.reserve_exact(std::mem::take(&mut self.room) - self.values.len());
        }
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
        self.values.resize(rows, T::Native::default());
        Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(self.values), self.presence.finish(rows)))
    }
}

/// A column of ids of `N` bytes.
#[derive(Debug)]
pub(super) struct Ids<const N: usize> {
    bytes: Vec<u8>,
    presence: Presence,
    room: usize,
}

impl<const N: usize> Ids<N> {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), presence: Presence::new(), room: 0 }
    }

    /// Makes room for so many rows with the first.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.room = rows;
    }

    pub(super) fn set(&mut self, row: usize, id: [u8; N]) {
        if self.bytes.len() < self.room * N {
            self.bytes.reserve_exact(std::mem::take(&mut self.room) * N - self.bytes.len());
        }
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
        self.bytes.resize(rows * N, 0);
        let width = i32::try_from(N).unwrap_or_default();
        let ids = FixedSizeBinaryArray::try_new(width, Buffer::from_vec(self.bytes), self.presence.finish(rows));
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
