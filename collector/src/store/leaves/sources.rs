//! Values of a column where they lie in the batches of a seal, and their numbers in its dictionary.
//!
//! The rows of a file come from many batches in another order. Numbering them in that order was rejected: each value would be
//! looked up by itself, far from the one before, while in its batch it mostly equals its neighbour.

use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, ListArray, MapArray, StructArray,
    TimestampNanosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, TimeUnit};

use crate::dictionary::{Dictionary, NO_VALUE, Texts};
use crate::store::chunk::Kind;

/// Values of a batch's column.
pub(super) trait Source<'a> {
    fn value(&self, row: usize) -> Option<&'a [u8]>;
    fn rows(&self) -> usize;
    fn has_nulls(&self) -> bool;
    /// Bytes of the values of some rows, all of which have one, if they are texts.
    fn text_bytes(&self, rows: Range<usize>) -> usize;
    /// True where these rows are the first ones of `other`: the very same values, not equal ones.
    fn begins(&self, other: &Self) -> bool;
    /// Numbers all rows in their order; `before` is how far ahead of a value the one stands that it mostly equals.
    fn number(&self, dictionary: &mut Dictionary<'a>, before: usize, numbers: &mut Vec<u32>);
}

/// The numbers of the rows of several batches, one batch behind the other.
pub(super) struct Numbers {
    starts: Vec<usize>,
    numbers: Vec<u32>,
}

impl Numbers {
    /// Of all rows, of which there are so many, as long as the dictionary stays small. They are put into `room`.
    pub(super) fn of<'a, 's, S: Source<'a> + 's>(
        mut room: Vec<u32>,
        rows: usize,
        sources: impl Iterator<Item = (&'s S, usize)>,
        dictionary: &mut Dictionary<'a>,
        is_small: impl Fn(&Dictionary<'a>) -> bool,
    ) -> Option<Self> {
        room.clear();
        room.reserve(rows);
        let mut all = Self { starts: Vec::new(), numbers: room };
        // What a sender sends with all of its requests stands in all of their batches.
        let mut last: Option<(&S, usize)> = None;
        for (source, before) in sources {
            let start = all.numbers.len();
            all.starts.push(start);
            match last {
                Some((other, from)) if source.begins(other) => {
                    all.numbers.extend_from_within(from..from + source.rows());
                }
                _ => {
                    source.number(dictionary, before, &mut all.numbers);
                    last = Some((source, start));
                }
            }
            if !is_small(dictionary) {
                return None;
            }
        }
        Some(all)
    }

    pub(super) fn into_room(self) -> Vec<u32> {
        self.numbers
    }

    #[inline]
    pub(super) fn of_row(&self, batch: usize, row: usize) -> u32 {
        self.numbers[self.starts[batch] + row]
    }

    pub(super) fn of_rows(&self, batch: usize, rows: Range<usize>) -> &[u32] {
        &self.numbers[self.starts[batch] + rows.start..self.starts[batch] + rows.end]
    }
}

impl<'a> Source<'a> for Texts<'a> {
    #[inline]
    fn value(&self, row: usize) -> Option<&'a [u8]> {
        Texts::value(self, row)
    }

    fn rows(&self) -> usize {
        self.len()
    }

    fn has_nulls(&self) -> bool {
        Texts::has_nulls(self)
    }

    fn text_bytes(&self, rows: Range<usize>) -> usize {
        self.bytes_of(rows)
    }

    fn begins(&self, other: &Self) -> bool {
        Texts::begins(self, other)
    }

    fn number(&self, dictionary: &mut Dictionary<'a>, before: usize, numbers: &mut Vec<u32>) {
        match self.period() {
            Some(period) => dictionary.number_repeated(*self, period, numbers),
            None => dictionary.number_rows(*self, 0..self.len(), before, numbers),
        }
    }
}

/// Values of one width.
pub(super) struct Fixed<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) width: usize,
    pub(super) nulls: Option<&'a NullBuffer>,
}

impl<'a> Fixed<'a> {
    /// Numbers as they lie in memory are as Parquet has them.
    pub(super) fn of(array: &'a dyn Array) -> Option<(Self, Kind)> {
        let any = array.as_any();
        let (bytes, kind): (&[u8], _) = match array.data_type() {
            DataType::Int32 => (any.downcast_ref::<Int32Array>()?.values().inner().as_slice(), Kind::Int),
            DataType::Int64 => (any.downcast_ref::<Int64Array>()?.values().inner().as_slice(), Kind::Long),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                (any.downcast_ref::<TimestampNanosecondArray>()?.values().inner().as_slice(), Kind::Long)
            }
            DataType::Float64 => (any.downcast_ref::<Float64Array>()?.values().inner().as_slice(), Kind::Double),
            DataType::FixedSizeBinary(width) => {
                let ids = any.downcast_ref::<FixedSizeBinaryArray>()?;
                (ids.value_data(), Kind::Id(at(*width)))
            }
            _ => return None,
        };
        let width = match kind {
            Kind::Int => size_of::<i32>(),
            Kind::Id(width) => width,
            Kind::Long | Kind::Double | Kind::Text | Kind::Flag => size_of::<i64>(),
        };
        (cfg!(target_endian = "little") || matches!(kind, Kind::Id(_)))
            .then_some((Self { bytes, width, nulls: array.nulls() }, kind))
    }
}

impl<'a> Source<'a> for Fixed<'a> {
    #[inline]
    fn value(&self, row: usize) -> Option<&'a [u8]> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        self.bytes.get(row * self.width..(row + 1) * self.width)
    }

    fn rows(&self) -> usize {
        self.bytes.len() / self.width.max(1)
    }

    fn has_nulls(&self) -> bool {
        self.nulls.is_some_and(|nulls| nulls.null_count() > 0)
    }

    fn text_bytes(&self, _: Range<usize>) -> usize {
        0
    }

    fn begins(&self, other: &Self) -> bool {
        let is_whole = self.nulls.is_none() && other.nulls.is_none();
        is_whole && std::ptr::eq(self.bytes.as_ptr(), other.bytes.as_ptr()) && self.bytes.len() <= other.bytes.len()
    }

    fn number(&self, dictionary: &mut Dictionary<'a>, _: usize, numbers: &mut Vec<u32>) {
        let mut last = None;
        for row in 0..self.rows() {
            let number = match (self.value(row), last) {
                (None, _) => NO_VALUE,
                (Some(value), Some((same, number))) if value == same => number,
                (Some(value), _) => {
                    let number = dictionary.number(value);
                    last = Some((value, number));
                    number
                }
            };
            numbers.push(number);
        }
    }
}

/// Where the elements of a batch's lists or maps lie, and one of their columns.
pub(super) struct Elements<'a, V> {
    pub(super) offsets: &'a [i32],
    pub(super) nulls: Option<&'a NullBuffer>,
    pub(super) values: V,
}

impl<'a, V: Source<'a>> Elements<'a, V> {
    /// Rows, if all elements belong to them: a piece of a batch shares its elements with the other pieces.
    pub(super) fn rows(&self) -> Option<usize> {
        let all = at(*self.offsets.first()?) == 0 && at(*self.offsets.last()?) == self.values.rows();
        all.then_some(self.offsets.len() - 1)
    }

    /// Elements of the first row that has any.
    pub(super) fn first_length(&self) -> usize {
        let lengths = self.offsets.iter().zip(self.offsets.iter().skip(1)).map(|(from, to)| at(to - from));
        lengths.into_iter().find(|length| *length > 0).unwrap_or(1)
    }
}

/// The elements of lists of structs or of maps, a column after the other.
pub(super) struct Nested<'a> {
    pub(super) offsets: &'a [i32],
    pub(super) nulls: Option<&'a NullBuffer>,
    pub(super) columns: &'a [ArrayRef],
}

impl<'a> Nested<'a> {
    pub(super) fn of(array: &'a dyn Array) -> Option<Self> {
        if let Some(map) = array.as_any().downcast_ref::<MapArray>() {
            let columns = map.entries().columns();
            return Some(Self { offsets: map.value_offsets(), nulls: map.nulls(), columns });
        }
        let list: &ListArray = array.as_any().downcast_ref()?;
        let structs: &StructArray = list.values().as_any().downcast_ref()?;
        let is_flat = structs.columns().iter().all(|column| !column.data_type().is_nested());
        (is_flat && structs.null_count() == 0).then_some(Self {
            offsets: list.value_offsets(),
            nulls: list.nulls(),
            columns: structs.columns(),
        })
    }

    pub(super) fn texts(&self, column: usize) -> Option<Elements<'a, Texts<'a>>> {
        let values = texts_of(self.columns[column].as_ref())?;
        Some(Elements { offsets: self.offsets, nulls: self.nulls, values })
    }

    pub(super) fn fixed(&self, column: usize) -> Option<(Elements<'a, Fixed<'a>>, Kind)> {
        let (values, kind) = Fixed::of(self.columns[column].as_ref())?;
        Some((Elements { offsets: self.offsets, nulls: self.nulls, values }, kind))
    }
}

pub(super) fn texts_of(array: &dyn Array) -> Option<Texts<'_>> {
    array.as_any().downcast_ref().map(Texts::of)
}

pub(super) fn at(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or_default()
}
