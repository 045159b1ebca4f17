//! A column chunk as Parquet has it: pages of levels and values, before them a dictionary, and what the footer says of
//! them. Headers, indexes and the footer are written by the library; here is only what stands in a page.
//!
//! Pages wait, compressed, until the chunk ends, since a dictionary stands before them and is whole only then. One
//! compressor serves all columns of a file: one for each, as the library has it, is memory that is made and thrown away a
//! hundred times.

use std::cmp::Ordering;

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, EncodingMask, PageType, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::hybrid;
use crate::columns::{count, signed};

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// So many bytes each.
    Id(usize),
    Int,
    Long,
    /// No zeros, which have two signs, and nothing that is no number.
    Double,
    /// Only where there are none.
    Flag,
}

impl Kind {
    /// By the type of the column in a file, and the length of its values.
    pub(super) fn of(physical: Type, length: i32) -> Option<Self> {
        Some(match physical {
            Type::BYTE_ARRAY => Self::Text,
            Type::FIXED_LEN_BYTE_ARRAY => Self::Id(usize::try_from(length).ok()?),
            Type::INT32 => Self::Int,
            Type::INT64 => Self::Long,
            Type::DOUBLE => Self::Double,
            Type::BOOLEAN => Self::Flag,
            Type::INT96 | Type::FLOAT => return None,
        })
    }

    fn physical(self) -> Type {
        match self {
            Self::Text => Type::BYTE_ARRAY,
            Self::Id(_) => Type::FIXED_LEN_BYTE_ARRAY,
            Self::Int => Type::INT32,
            Self::Long => Type::INT64,
            Self::Double => Type::DOUBLE,
            Self::Flag => Type::BOOLEAN,
        }
    }

    /// How two values are ordered, given as their bytes.
    pub(super) fn order(self) -> fn(&[u8], &[u8]) -> Ordering {
        match self {
            Self::Text | Self::Id(_) | Self::Flag => <[u8]>::cmp,
            Self::Int => |left, right| int(left).cmp(&int(right)),
            Self::Long => |left, right| long(left).cmp(&long(right)),
            Self::Double => |left, right| double(left).total_cmp(&double(right)),
        }
    }

    fn statistics(self, extremes: Option<&Extremes>, nulls: u64) -> Statistics {
        let (least, greatest) = extremes.map(|(least, greatest)| (least.as_slice(), greatest.as_slice())).unzip();
        let nulls = Some(nulls);
        match self {
            Self::Text => Statistics::byte_array(least.map(byte_array), greatest.map(byte_array), None, nulls, false),
            Self::Id(_) => {
                let id = |bytes: &[u8]| FixedLenByteArray::from(bytes.to_vec());
                Statistics::fixed_len_byte_array(least.map(id), greatest.map(id), None, nulls, false)
            }
            Self::Flag => Statistics::boolean(None, None, None, nulls, false),
            // Readers that know only the older fields can use them for numbers, whose order has a sign as these expect.
            Self::Int => {
                let statistics = ValueStatistics::new(least.map(int), greatest.map(int), None, nulls, false);
                Statistics::Int32(statistics.with_backwards_compatible_min_max(true))
            }
            Self::Long => {
                let statistics = ValueStatistics::new(least.map(long), greatest.map(long), None, nulls, false);
                Statistics::Int64(statistics.with_backwards_compatible_min_max(true))
            }
            Self::Double => {
                let statistics = ValueStatistics::new(least.map(double), greatest.map(double), None, nulls, false);
                Statistics::Double(statistics.with_backwards_compatible_min_max(true))
            }
        }
    }
}

/// The least and the greatest of some values, as their bytes.
pub(super) type Extremes = (Vec<u8>, Vec<u8>);

fn byte_array(bytes: &[u8]) -> ByteArray {
    ByteArray::from(bytes.to_vec())
}

fn int(bytes: &[u8]) -> i32 {
    bytes.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes))
}

/// A number of eight bytes.
pub(super) fn long(bytes: &[u8]) -> i64 {
    bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

/// The same of a float.
pub(super) fn double(bytes: &[u8]) -> f64 {
    bytes.first_chunk().map_or(0.0, |bytes| f64::from_le_bytes(*bytes))
}

/// More than the header of a page takes that has no statistics in it.
const PAGE_HEADER_BYTES: usize = 64;

/// Compresses page after page.
pub(super) struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    level: i32,
    /// Room for a page as large as it can become, and for one before it is compressed: memory that is made and given back for
    /// each is not only room, but work.
    room: Vec<u8>,
    plain: Vec<u8>,
}

impl Compressor {
    pub(super) fn new() -> Result<Self, ParquetError> {
        let zstd = zstd::bulk::Compressor::new(0).map_err(external)?;
        Ok(Self { zstd, level: 0, room: Vec::new(), plain: Vec::new() })
    }

    /// Whether it knows the codec.
    pub(super) fn knows(codec: Compression) -> bool {
        matches!(codec, Compression::UNCOMPRESSED | Compression::ZSTD(_))
    }

    fn compress(&mut self, codec: Compression, plain: &[u8]) -> Result<Bytes, ParquetError> {
        let Compression::ZSTD(level) = codec else { return Ok(Bytes::copy_from_slice(plain)) };
        if level.compression_level() != self.level {
            self.level = level.compression_level();
            self.zstd.set_compression_level(self.level).map_err(external)?;
        }
        self.room.clear();
        self.room.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.room).map_err(external)?;
        Ok(Bytes::copy_from_slice(&self.room))
    }
}

fn external(error: std::io::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Rows of a column: their levels, and the values that they have, encoded.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) count: usize,
    pub(super) repetitions: Vec<u8>,
    pub(super) definitions: Vec<u8>,
    /// Nulls among the rows, or among the elements of their lists.
    pub(super) nulls: usize,
    /// Bytes of the texts among the values.
    pub(super) text_bytes: usize,
}

impl Rows {
    pub(super) fn clear(&mut self) {
        self.repetitions.clear();
        self.definitions.clear();
        (self.count, self.nulls, self.text_bytes) = (0, 0, 0);
    }
}

/// A page that waits for its chunk.
#[derive(Clone)]
struct DataPage {
    compressed: Bytes,
    plain_bytes: usize,
    levels: u32,
    rows: i64,
    nulls: u64,
    text_bytes: i64,
    extremes: Option<Extremes>,
}

/// A column chunk while it grows.
pub(super) struct ChunkWriter {
    descr: ColumnDescPtr,
    kind: Kind,
    codec: Compression,
    has_statistics: bool,
    encoding: Encoding,
    pages: Vec<DataPage>,
}

impl ChunkWriter {
    pub(super) fn new(descr: &ColumnDescPtr, kind: Kind, encoding: Encoding, properties: &WriterProperties) -> Self {
        Self {
            kind,
            codec: properties.compression(descr.path()),
            has_statistics: properties.statistics_enabled(descr.path()) == EnabledStatistics::Page,
            descr: ColumnDescPtr::clone(descr),
            encoding,
            pages: Vec::new(),
        }
    }

    /// Ends a page of these rows; `values` writes their values behind the levels.
    pub(super) fn page(
        &mut self,
        rows: &Rows,
        extremes: Option<Extremes>,
        compressor: &mut Compressor,
        values: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), ParquetError> {
        let mut plain = std::mem::take(&mut compressor.plain);
        plain.clear();
        let levels = [(&rows.repetitions, self.descr.max_rep_level()), (&rows.definitions, self.descr.max_def_level())];
        let mut values_and_nulls = rows.count;
        for (levels, most) in levels.into_iter().filter(|(_, most)| *most > 0) {
            values_and_nulls = levels.len();
            let at = plain.len();
            plain.extend_from_slice(&[0; 4]);
            hybrid::write(levels, hybrid::width_of(u32::from(most.unsigned_abs())), &mut plain);
            let length = u32::try_from(plain.len() - at - 4).map_err(too_long)?;
            plain[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        values(&mut plain);
        self.pages.push(DataPage {
            compressed: compressor.compress(self.codec, &plain)?,
            plain_bytes: plain.len(),
            levels: u32::try_from(values_and_nulls).map_err(too_long)?,
            rows: signed(count(rows.count)),
            nulls: count(rows.nulls),
            text_bytes: signed(count(rows.text_bytes)),
            extremes,
        });
        compressor.plain = plain;
        Ok(())
    }

    /// Ends as many pages more, which are as the last one.
    pub(super) fn repeat_page(&mut self, times: usize) {
        if let Some(last) = self.pages.last().cloned() {
            self.pages.extend(std::iter::repeat_n(last, times));
        }
    }

    /// Ends the chunk.
    pub(super) fn finish(
        self,
        dictionary: Option<&[&[u8]]>,
        bloom_filter: Option<Sbbf>,
        compressor: &mut Compressor,
    ) -> Result<Chunk, ParquetError> {
        let pages: usize = self.pages.iter().map(|page| page.compressed.len() + PAGE_HEADER_BYTES).sum();
        let mut sink = TrackedWrite::new(Vec::with_capacity(pages));
        let mut totals = Totals::default();
        let mut offsets = OffsetIndexBuilder::new();
        let mut writer = SerializedPageWriter::new(&mut sink);
        if let Some(values) = dictionary {
            let (page, plain_bytes) = self.dictionary_page(values, compressor)?;
            totals.add(&writer.write_page(CompressedPage::new(page, plain_bytes))?);
        }
        let first_page = dictionary.map(|_| totals.compressed);
        let mut index = Index::new(self.kind);
        for page in &self.pages {
            let data = Page::DataPage {
                buf: page.compressed.clone(),
                num_values: page.levels,
                encoding: self.encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let written = writer.write_page(CompressedPage::new(data, page.plain_bytes))?;
            offsets.append_row_count(page.rows);
            offsets.append_unencoded_byte_array_data_bytes((self.kind == Kind::Text).then_some(page.text_bytes));
            offsets.append_offset_and_size(
                signed(written.offset),
                i32::try_from(written.compressed_size).map_err(too_long)?,
            );
            totals.add(&written);
            index.add(page);
        }
        writer.close()?;
        let metadata = self.metadata(&totals, first_page, &index)?;
        Ok(Chunk {
            bytes: Bytes::from(sink.into_inner()?),
            nulls: index.nulls,
            extremes: index.extremes.take(),
            close: ColumnCloseResult {
                bytes_written: totals.compressed,
                rows_written: self.pages.iter().map(|page| page.rows.unsigned_abs()).sum(),
                metadata,
                bloom_filter,
                column_index: if self.has_statistics { Some(index.build()?) } else { None },
                offset_index: Some(offsets.build()),
            },
        })
    }

    /// What the footer says of the chunk; `first_page` is where the first page of data is if a dictionary stands before it.
    fn metadata(
        &self,
        totals: &Totals,
        first_page: Option<u64>,
        index: &Index,
    ) -> Result<ColumnChunkMetaData, ParquetError> {
        let mut encodings = vec![Encoding::RLE, self.encoding];
        let mut stats = Vec::new();
        if first_page.is_some() {
            encodings.push(Encoding::PLAIN);
            stats.push(PageEncodingStats { page_type: PageType::DICTIONARY_PAGE, encoding: Encoding::PLAIN, count: 1 });
        }
        stats.push(PageEncodingStats {
            page_type: PageType::DATA_PAGE,
            encoding: self.encoding,
            count: i32::try_from(self.pages.len()).map_err(too_long)?,
        });
        let mut metadata = ColumnChunkMetaData::builder(ColumnDescPtr::clone(&self.descr))
            .set_compression(self.codec)
            .set_encodings_mask(EncodingMask::new_from_encodings(encodings.iter()))
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(signed(totals.compressed))
            .set_total_uncompressed_size(signed(totals.plain))
            .set_num_values(signed(totals.levels))
            .set_data_page_offset(first_page.map_or(0, signed))
            .set_dictionary_page_offset(first_page.map(|_| 0));
        if self.has_statistics {
            let text_bytes = self.pages.iter().map(|page| page.text_bytes).sum();
            metadata = metadata
                .set_statistics(self.kind.statistics(index.extremes.as_ref(), index.nulls))
                .set_unencoded_byte_array_data_bytes((self.kind == Kind::Text).then_some(text_bytes));
        }
        metadata.build()
    }

    fn dictionary_page(&self, values: &[&[u8]], compressor: &mut Compressor) -> Result<(Page, usize), ParquetError> {
        let mut plain = Vec::with_capacity(values.iter().map(|value| value.len() + 4).sum());
        for value in values {
            if self.kind == Kind::Text {
                plain.extend_from_slice(&u32::try_from(value.len()).map_err(too_long)?.to_le_bytes());
            }
            plain.extend_from_slice(value);
        }
        let page = Page::DictionaryPage {
            buf: compressor.compress(self.codec, &plain)?,
            num_values: u32::try_from(values.len()).map_err(too_long)?,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        Ok((page, plain.len()))
    }
}

fn too_long(_: std::num::TryFromIntError) -> ParquetError {
    ParquetError::General("a page is longer than Parquet allows".to_owned())
}

/// Sizes of pages, their headers included.
#[derive(Default)]
struct Totals {
    compressed: u64,
    plain: u64,
    levels: u64,
}

impl Totals {
    fn add(&mut self, page: &PageWriteSpec) {
        self.compressed += count(page.compressed_size);
        self.plain += count(page.uncompressed_size);
        if page.page_type == PageType::DATA_PAGE {
            self.levels += u64::from(page.num_values);
        }
    }
}

/// What the column index and the chunk's statistics say, page after page.
struct Index {
    order: fn(&[u8], &[u8]) -> Ordering,
    builder: ColumnIndexBuilder,
    extremes: Option<Extremes>,
    nulls: u64,
    last: Option<Extremes>,
    ascending: bool,
    descending: bool,
}

impl Index {
    fn new(kind: Kind) -> Self {
        Self {
            order: kind.order(),
            builder: ColumnIndexBuilder::new(kind.physical()),
            extremes: None,
            nulls: 0,
            last: None,
            ascending: true,
            descending: true,
        }
    }

    fn add(&mut self, page: &DataPage) {
        self.nulls += page.nulls;
        let nulls = signed(page.nulls);
        let Some((least, greatest)) = &page.extremes else {
            return self.builder.append(true, Vec::new(), Vec::new(), nulls);
        };
        self.builder.append(false, least.clone(), greatest.clone(), nulls);
        if let Some((last_least, last_greatest)) = &self.last {
            let steps = [(self.order)(last_least, least), (self.order)(last_greatest, greatest)];
            self.ascending &= steps.iter().all(|step| step.is_le());
            self.descending &= steps.iter().all(|step| step.is_ge());
        }
        self.last = Some((least.clone(), greatest.clone()));
        self.extremes = Some(match self.extremes.take() {
            None => (least.clone(), greatest.clone()),
            Some((mut all_least, mut all_greatest)) => {
                if (self.order)(least, &all_least).is_lt() {
                    all_least.clone_from(least);
                }
                if (self.order)(greatest, &all_greatest).is_gt() {
                    all_greatest.clone_from(greatest);
                }
                (all_least, all_greatest)
            }
        });
    }

    fn build(mut self) -> Result<ColumnIndexMetaData, ParquetError> {
        self.builder.set_boundary_order(match (self.ascending, self.descending) {
            (true, _) => BoundaryOrder::ASCENDING,
            (false, true) => BoundaryOrder::DESCENDING,
            (false, false) => BoundaryOrder::UNORDERED,
        });
        self.builder.build()
    }
}

/// A column chunk, encoded.
pub(super) struct Chunk {
    bytes: Bytes,
    close: ColumnCloseResult,
    /// Rows, or elements of lists, without a value.
    pub(super) nulls: u64,
    pub(super) extremes: Option<Extremes>,
}

impl Chunk {
    /// Adds it to a row group.
    pub(super) fn append_to<W: std::io::Write + Send>(
        self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        group.append_column(&self.bytes, self.close)
    }
}
