//! The form of one entry of the log: `[length u32 | crc32 u32 | payload]`, little endian.
//!
//! The payload is a small JSON header, the dedup keys as plain numbers, and under zstd the texts that repeat and the rows as one Arrow
//! message.
//! Keys stand apart from the rows, so that a restart reads the keys of rows that are sealed already without decoding
//! those. The schema stands once per segment and not in each entry, where it would be larger than most rows.

use std::collections::HashMap;

use arrow::array::{RecordBatch, new_null_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, StreamWriter};
use lariat_schema::tables::Table;
use serde::{Deserialize, Serialize};

use super::clock::Moment;
use super::texts::{self, Numbered};
use crate::keep::Policies;

/// Version of this form. In version 1 the rows' message held every column of its table; from 2 on those without any value
/// are left out and named before it; from 3 on texts that repeat stand before it and are numbers in it. All are read.
pub(crate) const VERSION: u8 = 3;
/// The versions from which on something is so.
const WITHOUT_ABSENT: u8 = 2;
const WITH_NUMBERS: u8 = 3;
/// The oldest version that is read.
const OLDEST_VERSION: u8 = 1;
/// No entry is longer: receivers refuse requests far below. A longer length is damage.
pub(crate) const MAX_ENTRY_BYTES: usize = 256 << 20;
/// Bytes before the payload.
pub(crate) const FRAME_BYTES: usize = 8;
/// Every row of every table has a time: a number of rows that would need more is damage, and room is made for none.
const MIN_ROW_BYTES: usize = 8;
/// Fast: the log is written once and mostly deleted unread. Level 1 takes twice the time for a tenth less.
const ZSTD_LEVEL: i32 = -3;
/// The smallest that Arrow allows: most entries hold few rows and many columns.
const ALIGNMENT: usize = 8;

/// What a request added to the ledger besides its fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) profile: String,
    pub(crate) account_id: String,
    pub(crate) received: u64,
    pub(crate) deduplicated: u64,
}

/// What an entry says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) version: u8,
    /// Place in the log, counted up by one.
    pub(crate) lsn: u64,
    pub(crate) commit_unix_nanos: i64,
    /// Leaps of the clock that are in it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) jumped_nanos: i64,
    /// Table of the rows; `None` for a segment's preamble.
    pub(crate) table: Option<Table>,
    pub(crate) trusted: bool,
    /// Decisions among the rows.
    pub(crate) decisions: u64,
    pub(crate) rejected: u64,
    pub(crate) received: Vec<Received>,
    /// Length of the rows' message before compression; 0 without rows.
    pub(crate) row_bytes: u64,
    /// Of a preamble: the policies in force from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policies: Option<Policies>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_zero(nanos: &i64) -> bool {
    *nanos == 0
}

impl Header {
    /// When it was committed.
    pub(crate) fn moment(&self) -> Moment {
        Moment { commit_unix_nanos: self.commit_unix_nanos, jumped_nanos: self.jumped_nanos }
    }

    /// Whether the rows are the node's own, and nobody sent them.
    pub(crate) fn is_own(&self) -> bool {
        self.received.is_empty()
    }
}

/// One entry, its rows still packed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) header: Header,
    pub(crate) keys: Vec<(u128, u64)>,
    pub(crate) packed: Vec<u8>,
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadEntry {
    #[error("the entry ends early")]
    Short,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its length of {0} bytes is beyond any entry's")]
    Length(usize),
    #[error("entry {lsn} was refused: the next segment begins with its number")]
    Refused { lsn: u64 },
    #[error("entry {lsn} stands after entry {last}")]
    Order { lsn: u64, last: u64 },
    #[error("its version is {found}, this program reads {OLDEST_VERSION} to {VERSION}")]
    Version { found: u8 },
    #[error("its header: {0}")]
    Header(#[from] serde_json::Error),
    #[error("it claims {rows} rows in {bytes} bytes")]
    RowCount { rows: usize, bytes: usize },
    #[error("its rows: {0}")]
    Rows(#[from] ArrowError),
    #[error("its rows: {0}")]
    Unpack(#[from] std::io::Error),
    #[error("whether its records are new cannot be told: {0}")]
    Dedup(#[source] std::io::Error),
}

/// Appends the framed entry to `out`.
pub(crate) fn write(entry: &Entry, out: &mut Vec<u8>) -> Result<(), BadEntry> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    let header = serde_json::to_vec(&entry.header)?;
    put_length(out, header.len())?;
    out.extend_from_slice(&header);
    put_length(out, entry.keys.len())?;
    for (key, content) in &entry.keys {
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&content.to_le_bytes());
    }
    out.extend_from_slice(&entry.packed);
    let payload = &out[start + FRAME_BYTES..];
    let length = u32::try_from(payload.len()).map_err(|_| BadEntry::Length(payload.len()))?;
    let crc = crc32fast::hash(payload);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + FRAME_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

pub(super) fn put_length(out: &mut Vec<u8>, length: usize) -> Result<(), BadEntry> {
    out.extend_from_slice(&u32::try_from(length).map_err(|_| BadEntry::Length(length))?.to_le_bytes());
    Ok(())
}

/// Reads the entry at the start of `bytes`, and says how long its frame is.
pub(crate) fn read(bytes: &[u8]) -> Result<(Entry, usize), BadEntry> {
    let mut frame = Cursor(bytes);
    let length = frame.length()?;
    let crc = u32::from_le_bytes(frame.take::<4>()?);
    if length > MAX_ENTRY_BYTES {
        return Err(BadEntry::Length(length));
    }
    let payload = frame.slice(length)?;
    if crc32fast::hash(payload) != crc {
        return Err(BadEntry::Checksum);
    }
    let mut payload = Cursor(payload);
    let header_length = payload.length()?;
    let header: Header = serde_json::from_slice(payload.slice(header_length)?)?;
    if !(OLDEST_VERSION..=VERSION).contains(&header.version) {
        return Err(BadEntry::Version { found: header.version });
    }
    let count = payload.length()?;
    let mut keys = Vec::with_capacity(count.min(payload.0.len() / 24));
    for _ in 0..count {
        keys.push((u128::from_le_bytes(payload.take()?), u64::from_le_bytes(payload.take()?)));
    }
    Ok((Entry { header, keys, packed: payload.0.to_vec() }, FRAME_BYTES + length))
}

pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8], BadEntry> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(BadEntry::Short)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], BadEntry> {
        self.slice(N)?.try_into().map_err(|_| BadEntry::Short)
    }

    pub(super) fn length(&mut self) -> Result<usize, BadEntry> {
        usize::try_from(u32::from_le_bytes(self.take()?)).map_err(|_| BadEntry::Short)
    }
}

/// Packs rows for entries, one after another: the compressor's tables and the room for rows are used again, since large pieces
/// of memory that come and go at this rate cost more than what is done in them.
pub(crate) struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

/// Beyond this the room for the rows is given back after use: one huge request must not hold it for ever.
const PACK_BYTES: usize = 4 << 20;

impl Packer {
    pub(crate) fn new() -> Result<Self, BadEntry> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            options: IpcWriteOptions::try_new(ALIGNMENT, false, arrow::ipc::MetadataVersion::V5)?,
            context: context(),
            plain: Vec::new(),
            packed: Vec::new(),
        })
    }

    /// Packs rows for an entry; also says the length before compression.
    pub(crate) fn pack(&mut self, batch: &RecordBatch) -> Result<(Vec<u8>, u64), BadEntry> {
        let (absent, present): (Vec<usize>, Vec<usize>) = (0..batch.num_columns())
            .partition(|at| batch.num_rows() > 0 && batch.column(*at).null_count() == batch.num_rows());
        let present = batch.project(&present)?;
        let plain = &mut self.plain;
        plain.clear();
        put_length(plain, absent.len())?;
        for at in absent {
            put_length(plain, at)?;
        }
        let numbered = texts::number(&present, plain)?;
        let mut tracker = DictionaryTracker::new(false);
        let (_, message) =
            IpcDataGenerator::default().encode(&numbered, &mut tracker, &self.options, &mut self.context)?;
        put_length(plain, message.ipc_message.len())?;
        plain.extend_from_slice(&message.ipc_message);
        plain.extend_from_slice(&message.arrow_data);
        let mut packed = std::mem::take(&mut self.packed);
        packed.clear();
        packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut packed)?;
        let bytes = crate::columns::count(plain.len());
        plain.clear();
        plain.shrink_to(PACK_BYTES);
        if message.arrow_data.capacity() > PACK_BYTES {
            self.context = context();
        }
        Ok((packed, bytes))
    }

    /// Takes back what it packed, once that stands elsewhere.
    pub(crate) fn reuse(&mut self, packed: Vec<u8>) {
        if packed.capacity() <= PACK_BYTES {
            self.packed = packed;
        }
    }
}

/// What messages are encoded with, the next one with as much room as the last one took.
fn context() -> IpcWriteContext {
    let mut context = IpcWriteContext::default();
    context.set_reserve_scratch(true);
    context
}

/// Schemas as they were when a segment was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schemas(HashMap<Table, SchemaRef>);

impl Schemas {
    /// The schemas of now, packed for a preamble.
    pub(crate) fn pack_current() -> Result<(Vec<u8>, u64), BadEntry> {
        let mut plain = Vec::new();
        for table in Table::ALL {
            let mut writer = StreamWriter::try_new(Vec::new(), &table.schema())?;
            writer.finish()?;
            let bytes = writer.into_inner()?;
            put_length(&mut plain, table.as_str().len())?;
            plain.extend_from_slice(table.as_str().as_bytes());
            put_length(&mut plain, bytes.len())?;
            plain.extend_from_slice(&bytes);
        }
        Ok((zstd::bulk::compress(&plain, ZSTD_LEVEL)?, crate::columns::count(plain.len())))
    }

    /// The schemas of a segment's preamble. Tables that this program does not know are left out.
    pub(crate) fn unpack(entry: &Entry) -> Result<Self, BadEntry> {
        let plain = unpack(entry)?;
        let mut cursor = Cursor(&plain);
        let mut schemas = HashMap::new();
        while !cursor.0.is_empty() {
            let length = cursor.length()?;
            let name = String::from_utf8_lossy(cursor.slice(length)?).into_owned();
            let length = cursor.length()?;
            let bytes = cursor.slice(length)?;
            if let Ok(table) = name.parse::<Table>() {
                // Not by the reader of streams, which makes room for whatever length the bytes claim.
                let schema = arrow::ipc::convert::try_schema_from_ipc_buffer(bytes)?;
                schemas.insert(table, SchemaRef::new(schema));
            }
        }
        Ok(Self(schemas))
    }

    /// The rows of an entry, with the columns that the table has now.
    pub(crate) fn rows(&self, entry: &Entry) -> Result<Option<RecordBatch>, BadEntry> {
        let Some(table) = entry.header.table.filter(|_| entry.header.row_bytes > 0) else { return Ok(None) };
        let written = self.0.get(&table).cloned().unwrap_or_else(|| table.schema());
        let plain = unpack(entry)?;
        let mut cursor = Cursor(&plain);
        let version = entry.header.version;
        let written = if version >= WITHOUT_ABSENT { without(&written, &absent(&mut cursor)?)? } else { written };
        let numbered = (version >= WITH_NUMBERS).then(|| Numbered::read(&mut cursor, &written)).transpose()?;
        let stored = numbered.as_ref().map_or(&written, |numbered| &numbered.schema).clone();
        let length = cursor.length()?;
        let message = arrow::ipc::root_as_message(cursor.slice(length)?)
            .map_err(|error| ArrowError::IpcError(error.to_string()))?;
        let header =
            message.header_as_record_batch().ok_or_else(|| ArrowError::IpcError("no record batch".to_owned()))?;
        let rows = usize::try_from(header.length()).unwrap_or(usize::MAX);
        if rows > cursor.0.len() / MIN_ROW_BYTES {
            return Err(BadEntry::RowCount { rows, bytes: cursor.0.len() });
        }
        let body = Buffer::from(cursor.0);
        let batch =
            arrow::ipc::reader::read_record_batch(&body, header, stored, &HashMap::new(), None, &message.version())?;
        let batch = match numbered {
            Some(numbered) => numbered.restore(&batch, &written)?,
            None => batch,
        };
        Ok(Some(widen(batch, &table.schema())?))
    }
}

/// The columns of a message that are not in it.
fn absent(cursor: &mut Cursor<'_>) -> Result<Vec<usize>, BadEntry> {
    let count = cursor.length()?;
    (0..count.min(cursor.0.len())).map(|_| cursor.length()).collect()
}

fn without(schema: &SchemaRef, absent: &[usize]) -> Result<SchemaRef, ArrowError> {
    let present: Vec<usize> = (0..schema.fields().len()).filter(|at| !absent.contains(at)).collect();
    Ok(std::sync::Arc::new(schema.project(&present)?))
}

fn unpack(entry: &Entry) -> Result<Vec<u8>, BadEntry> {
    let length = usize::try_from(entry.header.row_bytes).map_err(|_| BadEntry::Short)?;
    if length > MAX_ENTRY_BYTES {
        return Err(BadEntry::Length(length));
    }
    Ok(zstd::bulk::decompress(&entry.packed, length)?)
}

/// Columns are only ever added: those that came later are null in older rows.
fn widen(batch: RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema().fields() == wanted.fields() {
        return RecordBatch::try_new(std::sync::Arc::clone(wanted), batch.columns().to_vec());
    }
    let columns = Schema::fields(wanted)
        .iter()
        .map(|field| {
            batch
                .column_by_name(field.name())
                .cloned()
                .unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
        })
        .collect();
    RecordBatch::try_new(std::sync::Arc::clone(wanted), columns)
}
