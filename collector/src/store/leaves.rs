//! Columns that are written as pages right from the batches of a seal: texts and numbers with a dictionary, ids as they
//! are, and lists and maps of these.
//!
//! A seal writes the rows of many batches in another order. Copying a column into that order, to hand it to the library,
//! touches each byte of each text twice before it is hashed and compared for the library's dictionary and compared again for its
//! statistics; here a value is looked at once, where it lies, and from then on it is a number. All that is not
//! of these forms, or whose dictionary grows too large, goes the library's way, and the files are the same to a reader.

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, ListArray, MapArray, StringArray,
    StructArray, TimestampNanosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, TimeUnit};
use parquet::basic::Encoding;
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnDescPtr;

use super::chunk::{Chunk, ChunkWriter, Compressor, Kind, Rows, double};
use super::hybrid;
use super::order::Place;
use crate::dictionary::Dictionary;

/// Elements of maps after which a page ends before its last row: as many bytes as a page has at most, or more.
const PAGE_LEVELS: usize = 1 << 17;
/// Bytes of a least or greatest value beyond which it would have to be cut, which is left to the library.
const EXTREME_BYTES: usize = 64;

/// How the columns of a file are written.
pub(super) struct Leaves<'a> {
    pub(super) leaves: &'a [ColumnDescPtr],
    pub(super) properties: &'a WriterProperties,
    pub(super) compressor: &'a mut Compressor,
}

/// Values of a batch's column.
trait Source<'a> {
    fn value(&self, row: usize) -> Option<&'a [u8]>;
}

/// Texts where they lie.
struct Texts<'a> {
    offsets: &'a [i32],
    bytes: &'a [u8],
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Texts<'a> {
    fn of(array: &'a dyn Array) -> Option<Self> {
        let array: &StringArray = array.as_any().downcast_ref()?;
        Some(Self { offsets: array.value_offsets(), bytes: array.value_data(), nulls: array.nulls() })
    }
}

impl<'a> Source<'a> for Texts<'a> {
    #[inline]
    fn value(&self, row: usize) -> Option<&'a [u8]> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        self.bytes.get(at(self.offsets[row])..at(self.offsets[row + 1]))
    }
}

/// Values of one width.
struct Fixed<'a> {
    bytes: &'a [u8],
    width: usize,
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Fixed<'a> {
    /// Numbers as they lie in memory are as Parquet has them.
    fn of(array: &'a dyn Array) -> Option<(Self, Kind)> {
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
            Kind::Long | Kind::Double | Kind::Text => size_of::<i64>(),
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
}

/// Where the elements of a batch's lists or maps lie, and one of their columns.
struct Elements<'a, V> {
    offsets: &'a [i32],
    nulls: Option<&'a NullBuffer>,
    values: V,
}

/// The elements of lists of structs or of maps, a column after the other.
struct Nested<'a> {
    offsets: &'a [i32],
    nulls: Option<&'a NullBuffer>,
    columns: &'a [ArrayRef],
}

impl<'a> Nested<'a> {
    fn of(array: &'a dyn Array) -> Option<Self> {
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

    fn texts(&self, column: usize) -> Option<Elements<'a, Texts<'a>>> {
        let values = Texts::of(self.columns[column].as_ref())?;
        Some(Elements { offsets: self.offsets, nulls: self.nulls, values })
    }

    fn fixed(&self, column: usize) -> Option<(Elements<'a, Fixed<'a>>, Kind)> {
        let (values, kind) = Fixed::of(self.columns[column].as_ref())?;
        Some((Elements { offsets: self.offsets, nulls: self.nulls, values }, kind))
    }
}

fn at(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or_default()
}

impl<'f> Leaves<'f> {
    /// Writes the rows at `places` of a column that lies in several batches; `first` is the place of its first leaf among all.
    /// None if that is left to the library.
    pub(super) fn encode(
        &mut self,
        sources: &[&ArrayRef],
        places: &[Place],
        first: usize,
    ) -> Result<Option<Vec<Chunk>>, ParquetError> {
        let Some(data_type) = sources.first().map(|source| source.data_type()) else { return Ok(None) };
        if sources.iter().all(|source| source.null_count() == source.len()) {
            return Ok(None);
        }
        let chunk = match data_type {
            DataType::Utf8 => {
                let Some(texts) = sources.iter().map(|source| Texts::of(source.as_ref())).collect::<Option<Vec<_>>>()
                else {
                    return Ok(None);
                };
                self.numbered(first, Kind::Text, &texts, places)?
            }
            DataType::Map(..) | DataType::List(_) => return self.nested(sources, places, first),
            _ => {
                let fixed = sources.iter().map(|source| Fixed::of(source.as_ref())).collect::<Option<Vec<_>>>();
                let Some((fixed, kinds)) = fixed.map(|fixed| fixed.into_iter().unzip::<_, _, Vec<_>, Vec<_>>()) else {
                    return Ok(None);
                };
                let Some(kind) = kinds.first() else { return Ok(None) };
                match self.plain(first, *kind, &fixed, places)? {
                    Some(chunk) => Some(chunk),
                    None => self.numbered(first, *kind, &fixed, places)?,
                }
            }
        };
        Ok(chunk.map(|chunk| vec![chunk]))
    }

    /// The leaf, if a dictionary is wanted for it.
    fn leaf_with_dictionary(&self, leaf: usize) -> Option<&'f ColumnDescPtr> {
        let descr = self.leaves.get(leaf)?;
        let path = descr.path();
        let is_known = Compressor::knows(self.properties.compression(path));
        let wanted =
            self.properties.dictionary_enabled(path) && self.properties.bloom_filter_properties(path).is_none();
        (is_known && wanted).then_some(descr)
    }

    /// A column of values with a dictionary.
    fn numbered<'a>(
        &mut self,
        leaf: usize,
        kind: Kind,
        sources: &[impl Source<'a>],
        places: &[Place],
    ) -> Result<Option<Chunk>, ParquetError> {
        let Some(descr) = self.leaf_with_dictionary(leaf).filter(|descr| descr.max_def_level() <= 1) else {
            return Ok(None);
        };
        let mut writer = ChunkWriter::new(descr, kind, Encoding::RLE_DICTIONARY, self.properties);
        let limit = self.properties.column_dictionary_page_size_limit(descr.path());
        let (mut dictionary, mut rows, mut numbers) = (Dictionary::new(), Rows::default(), Vec::new());
        for places in places.chunks(self.properties.data_page_row_count_limit()) {
            rows.clear();
            numbers.clear();
            rows.count = places.len();
            for (batch, row) in places {
                match sources[*batch].value(*row) {
                    Some(value) => {
                        rows.definitions.push(1);
                        rows.text_bytes += value.len();
                        numbers.push(dictionary.number(value));
                    }
                    None => rows.definitions.push(0),
                }
            }
            rows.nulls = places.len() - numbers.len();
            if dictionary_bytes(&dictionary, kind) >= limit {
                return Ok(None);
            }
            let extremes = dictionary.extremes(&numbers, kind.order());
            if extremes.is_some_and(|(least, greatest)| least.len().max(greatest.len()) > EXTREME_BYTES) {
                return Ok(None);
            }
            let extremes = extremes.map(|(least, greatest)| (least.to_vec(), greatest.to_vec()));
            writer.page(&rows, extremes, self.compressor, |page| write_numbers(&numbers, page))?;
        }
        let unusual = |value: &&[u8]| !double(value).is_finite() || double(value) == 0.0;
        if kind == Kind::Double && dictionary.values().iter().any(unusual) {
            return Ok(None);
        }
        writer.finish(Some(dictionary.values()), None, self.compressor).map(Some)
    }

    /// The columns of lists or maps, all of them or none.
    fn nested(
        &mut self,
        sources: &[&ArrayRef],
        places: &[Place],
        first: usize,
    ) -> Result<Option<Vec<Chunk>>, ParquetError> {
        let nested = sources.iter().map(|source| Nested::of(source.as_ref())).collect::<Option<Vec<_>>>();
        let Some(nested) = nested else { return Ok(None) };
        let mut chunks = Vec::new();
        for child in 0..nested.first().map_or(0, |nested| nested.columns.len()) {
            let leaf = first + child;
            let chunk = if let Some(texts) = nested.iter().map(|nested| nested.texts(child)).collect::<Option<Vec<_>>>()
            {
                self.elements(leaf, Kind::Text, &texts, places)?
            } else if let Some(fixed) = nested.iter().map(|nested| nested.fixed(child)).collect::<Option<Vec<_>>>() {
                let (fixed, kinds): (Vec<_>, Vec<_>) = fixed.into_iter().unzip();
                self.elements(leaf, kinds[0], &fixed, places)?
            } else {
                None
            };
            let Some(chunk) = chunk else { return Ok(None) };
            chunks.push(chunk);
        }
        Ok(Some(chunks))
    }

    /// One column of lists or maps, with a dictionary or plain. Such have no statistics.
    fn elements<'a>(
        &mut self,
        leaf: usize,
        kind: Kind,
        sources: &[Elements<'a, impl Source<'a>>],
        places: &[Place],
    ) -> Result<Option<Chunk>, ParquetError> {
        let dictionary_wanted = self.leaf_with_dictionary(leaf).is_some();
        let descr = self.leaf_with_dictionary(leaf).or_else(|| self.plain_leaf(leaf).filter(|_| kind != Kind::Text));
        let Some((descr, levels)) = descr.and_then(|descr| Some((descr, Levels::of(descr)?))) else { return Ok(None) };
        if self.properties.statistics_enabled(descr.path()) != EnabledStatistics::None {
            return Ok(None);
        }
        let encoding = if dictionary_wanted { Encoding::RLE_DICTIONARY } else { Encoding::PLAIN };
        let mut writer = ChunkWriter::new(descr, kind, encoding, self.properties);
        let limit = self.properties.column_dictionary_page_size_limit(descr.path());
        let page_rows = self.properties.data_page_row_count_limit();
        let (mut dictionary, mut rows, mut page) = (Dictionary::new(), Rows::default(), PageValues::default());
        for (nth, (batch, row)) in (1..).zip(places) {
            push_elements(&sources[*batch], *row, levels, &mut rows, |value| {
                if dictionary_wanted {
                    page.numbers.push(dictionary.number(value));
                } else {
                    page.plain.extend_from_slice(value);
                }
            });
            if rows.count < page_rows && rows.definitions.len() < PAGE_LEVELS && nth < places.len() {
                continue;
            }
            if dictionary_bytes(&dictionary, kind) >= limit {
                return Ok(None);
            }
            writer.page(&rows, None, self.compressor, |out| page.write(dictionary_wanted, out))?;
            rows.clear();
            page.clear();
        }
        writer.finish(dictionary_wanted.then(|| dictionary.values()), None, self.compressor).map(Some)
    }

    /// The leaf, if its values are wanted as they are.
    fn plain_leaf(&self, leaf: usize) -> Option<&'f ColumnDescPtr> {
        let descr = self.leaves.get(leaf)?;
        let path = descr.path();
        let is_plain = !self.properties.dictionary_enabled(path)
            && self.properties.encoding(path).is_none_or(|encoding| encoding == Encoding::PLAIN)
            && Compressor::knows(self.properties.compression(path));
        is_plain.then_some(descr)
    }

    /// A column of values of one width without a dictionary, since nearly all differ.
    fn plain(
        &mut self,
        leaf: usize,
        kind: Kind,
        sources: &[Fixed<'_>],
        places: &[Place],
    ) -> Result<Option<Chunk>, ParquetError> {
        let width = sources.first().map_or(0, |source| source.width);
        let usable = width <= EXTREME_BYTES && !matches!(kind, Kind::Double | Kind::Text);
        let Some(descr) = self.plain_leaf(leaf).filter(|descr| usable && descr.max_def_level() <= 1) else {
            return Ok(None);
        };
        let path = descr.path();
        let mut writer = ChunkWriter::new(descr, kind, Encoding::PLAIN, self.properties);
        let filter = self.properties.bloom_filter_properties(path);
        let (mut bloom, fpp) = match filter {
            Some(filter) => (Some(Sbbf::new_with_ndv_fpp(filter.ndv(), filter.fpp())?), filter.fpp()),
            None => (None, 0.0),
        };
        let (mut rows, mut values) = (Rows::default(), Vec::new());
        let order = kind.order();
        for places in places.chunks(self.properties.data_page_row_count_limit()) {
            rows.clear();
            values.clear();
            rows.count = places.len();
            let mut extremes: Option<(&[u8], &[u8])> = None;
            for (batch, row) in places {
                let Some(value) = sources[*batch].value(*row) else {
                    rows.definitions.push(0);
                    continue;
                };
                rows.definitions.push(1);
                values.extend_from_slice(value);
                extremes = Some(match extremes {
                    None => (value, value),
                    Some((least, greatest)) if order(value, least).is_lt() => (value, greatest),
                    Some((least, greatest)) if order(value, greatest).is_gt() => (least, value),
                    Some(same) => same,
                });
                if let Some(bloom) = &mut bloom {
                    bloom.insert(value);
                }
            }
            rows.nulls = places.len() - values.len() / width.max(1);
            let extremes = extremes.map(|(least, greatest)| (least.to_vec(), greatest.to_vec()));
            writer.page(&rows, extremes, self.compressor, |page| page.extend_from_slice(&values))?;
        }
        if let Some(bloom) = &mut bloom {
            bloom.fold_to_target_fpp(fpp);
        }
        writer.finish(None, bloom, self.compressor).map(Some)
    }
}

/// Bytes of the page that a dictionary becomes.
fn dictionary_bytes(dictionary: &Dictionary<'_>, kind: Kind) -> usize {
    let lengths = if kind == Kind::Text { size_of::<u32>() * dictionary.values().len() } else { 0 };
    dictionary.bytes() + lengths
}

/// The values of a page of lists, by their numbers or as they are.
#[derive(Default)]
struct PageValues {
    numbers: Vec<u32>,
    plain: Vec<u8>,
}

impl PageValues {
    fn clear(&mut self) {
        self.numbers.clear();
        self.plain.clear();
    }

    fn write(&self, by_number: bool, out: &mut Vec<u8>) {
        if by_number {
            write_numbers(&self.numbers, out);
        } else {
            out.extend_from_slice(&self.plain);
        }
    }
}

/// The values of a page by their numbers: how many bits each takes, and they.
fn write_numbers(numbers: &[u32], page: &mut Vec<u8>) {
    let width = hybrid::width_of(numbers.iter().copied().max().unwrap_or(0));
    page.push(width);
    hybrid::write(numbers, width, page);
}

/// Definition levels of a leaf of lists or maps.
#[derive(Clone, Copy)]
struct Levels {
    /// A list without elements; one that is absent is 0.
    empty: u8,
    /// An element without a value.
    absent: u8,
    present: u8,
}

impl Levels {
    fn of(descr: &ColumnDescPtr) -> Option<Self> {
        let present = u8::try_from(descr.max_def_level()).ok()?;
        let absent = present.checked_sub(u8::from(descr.self_type().is_optional()))?;
        Some(Self { empty: absent.checked_sub(1)?, absent, present })
    }
}

/// Adds a row's elements to a page.
#[inline]
fn push_elements<'a>(
    source: &Elements<'a, impl Source<'a>>,
    row: usize,
    levels: Levels,
    rows: &mut Rows,
    mut on: impl FnMut(&'a [u8]),
) {
    rows.count += 1;
    let (from, to) = (at(source.offsets[row]), at(source.offsets[row + 1]));
    let is_null = source.nulls.is_some_and(|nulls| nulls.is_null(row));
    if is_null || from == to {
        rows.repetitions.push(0);
        rows.definitions.push(if is_null { 0 } else { levels.empty });
        return;
    }
    rows.repetitions.push(0);
    rows.repetitions.resize(rows.repetitions.len() + to - from - 1, 1);
    for element in from..to {
        match source.values.value(element) {
            Some(value) => {
                rows.definitions.push(levels.present);
                rows.text_bytes += value.len();
                on(value);
            }
            None => rows.definitions.push(levels.absent),
        }
    }
}
