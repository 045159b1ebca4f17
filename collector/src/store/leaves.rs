//! Columns that are written as pages right from the batches of a seal: texts and numbers with a dictionary, ids as they
//! are, and lists and maps of these.
//!
//! A seal writes the rows of many batches in another order. Copying a column into that order, to hand it to the library,
//! touches each byte of each text twice before it is hashed and compared for the library's dictionary and compared again for its
//! statistics; here a value is looked at once, where it lies, and from then on it is a number. All that is not
//! of these forms, or whose dictionary grows too large, goes the library's way, and the files are the same to a reader.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use parquet::basic::Encoding;
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnDescPtr;

use super::chunk::{Chunk, ChunkWriter, Compressor, Kind, Rows, double};
use super::order::Place;
use super::{delta, hybrid};
use crate::dictionary::{Dictionary, NO_VALUE};
use sources::{Elements, Fixed, Nested, Numbers, Source, at, texts_of};

mod plain;
mod sources;

/// Elements of maps after which a page ends before its last row: as many bytes as a page has at most, or more.
const PAGE_LEVELS: usize = 1 << 17;
/// Bytes of a least or greatest value beyond which it would have to be cut, which is left to the library.
const EXTREME_BYTES: usize = 64;

/// How the columns of a file are written.
pub(super) struct Leaves<'a> {
    leaves: &'a [ColumnDescPtr],
    properties: &'a WriterProperties,
    compressor: &'a mut Compressor,
    /// Room for the numbers of a column's values, the same for one after the other.
    room: Vec<u32>,
}

impl<'f> Leaves<'f> {
    pub(super) fn new(
        leaves: &'f [ColumnDescPtr],
        properties: &'f WriterProperties,
        compressor: &'f mut Compressor,
    ) -> Self {
        Self { leaves, properties, compressor, room: Vec::new() }
    }

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
            return (first..first + leaves_of(data_type)).map(|leaf| self.absent(leaf, places.len())).collect();
        }
        let chunk = match data_type {
            DataType::Utf8 => {
                let Some(texts) = sources.iter().map(|source| texts_of(source.as_ref())).collect::<Option<Vec<_>>>()
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
        let is_small = |dictionary: &Dictionary<'_>| dictionary_bytes(dictionary, kind) < limit;
        let mut known = None;
        let all_rows = sources.iter().map(Source::rows).sum::<usize>();
        if is_most(places.len(), all_rows) {
            let room = std::mem::take(&mut self.room);
            known = Numbers::of(room, all_rows, sources.iter().map(|source| (source, 1)), &mut dictionary, is_small);
            if known.is_none() {
                return Ok(None);
            }
        }
        let is_one = known.is_some() && dictionary.values().len() == 1 && !sources.iter().any(Source::has_nulls);
        for places in places.chunks(self.properties.data_page_row_count_limit()) {
            rows.clear();
            numbers.clear();
            rows.count = places.len();
            if is_one {
                // Wherever a row stands, it has the only value.
                rows.definitions.resize(places.len(), 1);
                numbers.resize(places.len(), 0);
            } else {
                number_rows(places, sources, known.as_ref(), &mut dictionary, (&mut rows.definitions, &mut numbers));
            }
            if kind == Kind::Text {
                rows.text_bytes = numbers.iter().map(|number| dictionary.length(*number)).sum();
            }
            rows.nulls = places.len() - numbers.len();
            if !is_small(&dictionary) {
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
        self.room = known.map(Numbers::into_room).unwrap_or_default();
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
        let is_small = |dictionary: &Dictionary<'_>| dictionary_bytes(dictionary, kind) < limit;
        let mut known = None;
        let all_rows = sources.iter().map(Elements::rows).sum::<Option<usize>>();
        if dictionary_wanted && all_rows.is_some_and(|all| is_most(places.len(), all)) {
            let all = sources.iter().map(|source| (&source.values, source.first_length()));
            let elements = sources.iter().map(|source| source.values.rows()).sum();
            let room = std::mem::take(&mut self.room);
            known = Numbers::of(room, elements, all, &mut dictionary, is_small);
            if known.is_none() {
                return Ok(None);
            }
        }
        for (nth, (batch, row)) in (1..).zip(places) {
            let source = &sources[*batch];
            match &known {
                Some(known) => push_numbers(source, *row, levels, &mut rows, &mut page.numbers, |elements| {
                    known.of_rows(*batch, elements)
                }),
                None => push_elements(source, *row, levels, &mut rows, |value| {
                    if dictionary_wanted {
                        page.numbers.push(dictionary.number(value));
                    } else {
                        page.plain.extend_from_slice(value);
                    }
                }),
            }
            if rows.count < page_rows && rows.definitions.len() < PAGE_LEVELS && nth < places.len() {
                continue;
            }
            if !is_small(&dictionary) {
                return Ok(None);
            }
            writer.page(&rows, None, self.compressor, |out| page.write(dictionary_wanted, out))?;
            rows.clear();
            page.clear();
        }
        self.room = known.map(Numbers::into_room).unwrap_or_default();
        writer.finish(dictionary_wanted.then(|| dictionary.values()), None, self.compressor).map(Some)
    }

    /// A column in which no row has a value.
    fn absent(&mut self, leaf: usize, rows: usize) -> Result<Option<Chunk>, ParquetError> {
        let Some(descr) = self.leaves.get(leaf).filter(|descr| descr.max_def_level() > 0) else { return Ok(None) };
        let Some(kind) = Kind::of(descr.physical_type(), descr.type_length()) else { return Ok(None) };
        if !Compressor::knows(self.properties.compression(descr.path())) {
            return Ok(None);
        }
        // As the library has it.
        let has_dictionary =
            self.properties.dictionary_enabled(descr.path()) && !matches!(kind, Kind::Flag | Kind::Id(_));
        let encoding = match self.properties.encoding(descr.path()) {
            _ if has_dictionary => Encoding::RLE_DICTIONARY,
            encoding => encoding.unwrap_or(Encoding::PLAIN),
        };
        let mut writer = ChunkWriter::new(descr, kind, encoding, self.properties);
        let (page_rows, mut page) = (self.properties.data_page_row_count_limit(), Rows::default());
        // Full pages are all the same.
        for (count, times) in [(page_rows, rows / page_rows), (rows % page_rows, 1)] {
            if count == 0 || times == 0 {
                continue;
            }
            page.clear();
            page.count = count;
            page.definitions.resize(count, 0);
            page.repetitions.resize(count, 0);
            page.nulls = count;
            writer.page(&page, None, self.compressor, |out| match encoding {
                Encoding::RLE_DICTIONARY => write_numbers(&[], out),
                Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => delta::write(&[], out),
                Encoding::DELTA_BYTE_ARRAY => {
                    delta::write(&[], out);
                    delta::write(&[], out);
                }
                _ => {}
            })?;
            writer.repeat_page(times - 1);
        }
        writer.finish(has_dictionary.then_some(&[]), None, self.compressor).map(Some)
    }

    /// The leaf, if its values are wanted as they are.
    fn plain_leaf(&self, leaf: usize) -> Option<&'f ColumnDescPtr> {
        let wanted = self.leaf_without_dictionary(leaf);
        wanted.filter(|(_, encoding)| *encoding == Encoding::PLAIN).map(|(descr, _)| descr)
    }

    /// The leaf and the encoding of its values, if no dictionary is wanted.
    fn leaf_without_dictionary(&self, leaf: usize) -> Option<(&'f ColumnDescPtr, Encoding)> {
        let descr = self.leaves.get(leaf)?;
        let path = descr.path();
        let wanted = !self.properties.dictionary_enabled(path) && Compressor::knows(self.properties.compression(path));
        wanted.then(|| (descr, self.properties.encoding(path).unwrap_or(Encoding::PLAIN)))
    }

    /// A column of values of one width without a dictionary, since nearly all differ: as they are, or numbers by their differences.
    fn plain(
        &mut self,
        leaf: usize,
        kind: Kind,
        sources: &[Fixed<'_>],
        places: &[Place],
    ) -> Result<Option<Chunk>, ParquetError> {
        let width = sources.first().map_or(0, |source| source.width);
        let usable = plain::knows(kind, width);
        let leaf = self.leaf_without_dictionary(leaf).filter(|(descr, _)| usable && descr.max_def_level() <= 1);
        let is_delta = |encoding: Encoding| encoding == Encoding::DELTA_BINARY_PACKED && kind == Kind::Long;
        let Some((descr, encoding)) = leaf.filter(|(_, encoding)| *encoding == Encoding::PLAIN || is_delta(*encoding))
        else {
            return Ok(None);
        };
        let path = descr.path();
        let mut writer = ChunkWriter::new(descr, kind, encoding, self.properties);
        let filter = self.properties.bloom_filter_properties(path);
        let (mut bloom, fpp) = match filter {
            Some(filter) => (Some(Sbbf::new_with_ndv_fpp(filter.ndv(), filter.fpp())?), filter.fpp()),
            None => (None, 0.0),
        };
        let (mut rows, mut values) = (Rows::default(), Vec::new());
        for places in places.chunks(self.properties.data_page_row_count_limit()) {
            rows.clear();
            values.clear();
            rows.count = places.len();
            let extremes = plain::copy((kind, width), sources, places, &mut rows, &mut values, bloom.as_mut());
            rows.nulls = places.len() - values.len() / width.max(1);
            writer.page(&rows, extremes, self.compressor, |page| {
                if is_delta(encoding) {
                    let numbers = values.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
                    delta::write(&numbers.collect::<Vec<_>>(), page);
                } else {
                    page.extend_from_slice(&values);
                }
            })?;
        }
        if let Some(bloom) = &mut bloom {
            bloom.fold_to_target_fpp(fpp);
        }
        writer.finish(None, bloom, self.compressor).map(Some)
    }
}

/// The numbers of the rows at `places`, and which of them have one.
#[inline]
fn number_rows<'a>(
    places: &[Place],
    sources: &[impl Source<'a>],
    known: Option<&Numbers>,
    dictionary: &mut Dictionary<'a>,
    (definitions, numbers): (&mut Vec<u8>, &mut Vec<u32>),
) {
    for (batch, row) in places {
        let number = match known {
            Some(known) => known.of_row(*batch, *row),
            None => sources[*batch].value(*row).map_or(NO_VALUE, |value| dictionary.number(value)),
        };
        definitions.push(u8::from(number != NO_VALUE));
        if number != NO_VALUE {
            numbers.push(number);
        }
    }
}

/// Whether so many of all rows of some batches are wanted that all are numbered: one after the other that costs less for each,
/// and what is not wanted is only a value of the dictionary that no row has.
fn is_most(wanted: usize, all: usize) -> bool {
    all <= wanted + wanted / 2
}

/// Leaves that a column has in a file.
fn leaves_of(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| leaves_of(field.data_type())).sum(),
        DataType::List(item) | DataType::Map(item, _) => leaves_of(item.data_type()),
        _ => 1,
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

/// Adds a row's list to a page, but for its elements, and says where these are.
#[inline]
fn push_list<'a>(source: &Elements<'a, impl Source<'a>>, row: usize, levels: Levels, rows: &mut Rows) -> Range<usize> {
    rows.count += 1;
    let (from, to) = (at(source.offsets[row]), at(source.offsets[row + 1]));
    let is_null = source.nulls.is_some_and(|nulls| nulls.is_null(row));
    rows.repetitions.push(0);
    if is_null || from == to {
        rows.definitions.push(if is_null { 0 } else { levels.empty });
        return 0..0;
    }
    rows.repetitions.resize(rows.repetitions.len() + to - from - 1, 1);
    from..to
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
    for element in push_list(source, row, levels, rows) {
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

/// The same where the numbers of the elements are known.
#[inline]
fn push_numbers<'a, 'n>(
    source: &Elements<'a, impl Source<'a>>,
    row: usize,
    levels: Levels,
    rows: &mut Rows,
    page: &mut Vec<u32>,
    numbers: impl FnOnce(Range<usize>) -> &'n [u32],
) {
    let elements = push_list(source, row, levels, rows);
    if elements.is_empty() {
        return;
    }
    if !source.values.has_nulls() {
        rows.definitions.resize(rows.definitions.len() + elements.len(), levels.present);
        rows.text_bytes += source.values.text_bytes(elements.clone());
        return page.extend_from_slice(numbers(elements));
    }
    for (element, number) in elements.clone().zip(numbers(elements)) {
        let is_absent = *number == NO_VALUE;
        rows.definitions.push(if is_absent { levels.absent } else { levels.present });
        if !is_absent {
            rows.text_bytes += source.values.text_bytes(element..element + 1);
            page.push(*number);
        }
    }
}
