//! Rows into sealed files: sorted, split by hour, with everything that lets a reader skip what it does not need.
//!
//! A seal whose rows lie in very many hours, as of a sender whose clock is nowhere, makes no file for each: the hours with
//! the fewest rows share one, whose folder says that its name tells no time. Leaving such rows out was rejected, since
//! they were acknowledged, and so was cutting their times, since they are what was sent.
//!
//! A file is written as it is encoded and never stands in memory whole; its checksum is of the bytes that were meant, not
//! of what the disk made of them. It has its name only once it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use lariat_schema::ids::StoreId;
use lariat_schema::layout::{ODD_TIMES_UNIX_NANOS, file_path};
use lariat_schema::tables::Table;
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;

use super::Weights;
use super::encode::properties;
use super::manifest::FileEntry;
use super::steps::{Step, Steps};
use crate::columns::{column, count, moments};
use crate::log::segment::sync_folder;

pub(crate) const NANOS_PER_HOUR: i64 = 3_600 * NANOS_PER_SECOND;
/// Hours that have a file of their own in one seal of a table: two days, so that what a sender held back for that long
/// lies where it belongs. Each costs a sync and a line of the manifest.
const HOURS_PER_SEAL: usize = if cfg!(test) { 6 } else { 48 };
/// Bytes of encoded pages that are handed to the system at once.
const WRITE_BUFFER_BYTES: usize = 1 << 18;

/// Why rows could not be sealed. They stay where they were, and are tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("cannot arrange the rows of {table}: {source}")]
    Rows { table: Table, source: ArrowError },
    #[error("cannot encode the rows of {table}: {source}")]
    Encode { table: Table, source: ParquetError },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the store is closing")]
    Closing,
}

/// Gives the number of the next file.
pub(crate) type Sequence<'a> = &'a dyn Fn() -> u64;

/// Where files go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) parquet: PathBuf,
    pub(crate) store_id: StoreId,
    pub(crate) steps: Steps,
}

impl Target {
    /// Writes the rows as sorted files, one per hour of their time and one for what is left over beyond
    /// [`HOURS_PER_SEAL`], each durable before this returns.
    pub(crate) fn write(
        &self,
        table: Table,
        batches: &[RecordBatch],
        sequence: Sequence<'_>,
    ) -> Result<Vec<FileEntry>, SealError> {
        let rows = |source| SealError::Rows { table, source };
        let all = concat_batches(&table.schema(), batches).map_err(rows)?;
        let mut hours: BTreeMap<Option<i64>, Vec<u32>> = BTreeMap::new();
        let order = sorted(table, &all).map_err(rows)?;
        let times = moments(&all, "time");
        let hour_at = |row: u32| times.value(usize::try_from(row).unwrap_or_default()).div_euclid(NANOS_PER_HOUR);
        let own = own_hours(order.iter().map(|row| hour_at(*row)));
        for row in order {
            let hour = hour_at(row);
            hours.entry(own.contains(&hour).then_some(hour)).or_default().push(row);
        }
        let mut entries = Vec::with_capacity(hours.len());
        for rows_of_hour in hours.into_values() {
            let batch = take_record_batch(&all, &UInt32Array::from(rows_of_hour)).map_err(rows)?;
            let written = self.start(table, count(batch.num_rows()), sequence()).and_then(|mut file| {
                file.write(&batch)?;
                file.finish()
            });
            match written {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    self.discard(&entries);
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    /// Begins a file of about so many rows, all of one hour and in the table's order.
    pub(crate) fn start(&self, table: Table, rows: u64, sequence: u64) -> Result<FileWriter<'_>, SealError> {
        let temporary = self.parquet.join(format!("{table}-{sequence:012}.tmp"));
        let write = |source| SealError::Write { path: temporary.clone(), source };
        self.steps.before(Step::Write).map_err(write)?;
        let sink = Sink {
            file: File::create(&temporary).map_err(write)?,
            steps: self.steps.clone(),
            hasher: crc32fast::Hasher::new(),
            bytes: 0,
        };
        let encode = |source| SealError::Encode { table, source };
        let properties = properties(table, self.store_id, rows).map_err(encode)?;
        let sink = io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, sink);
        let writer = ArrowWriter::try_new(sink, table.schema(), Some(properties)).map_err(encode)?;
        Ok(FileWriter {
            target: self,
            table,
            sequence,
            temporary,
            writer: Some(writer),
            rows: 0,
            times: None,
            commits: None,
            weights: None,
        })
    }

    /// Deletes files that no manifest will name.
    pub(crate) fn discard(&self, entries: &[FileEntry]) {
        for entry in entries {
            let path = self.parquet.join(&entry.path);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), %error, "cannot remove a file that was not needed: the next start does");
            }
        }
    }
}

/// A file that is being written. Dropped before its end, it leaves nothing.
pub(crate) struct FileWriter<'a> {
    target: &'a Target,
    table: Table,
    sequence: u64,
    temporary: PathBuf,
    writer: Option<ArrowWriter<io::BufWriter<Sink>>>,
    rows: u64,
    times: Option<TimeRange>,
    commits: Option<TimeRange>,
    weights: Option<Weights>,
}

impl FileWriter<'_> {
    /// Adds rows that come after those before in the table's order.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), SealError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let table = self.table;
        writer.write(batch).map_err(|source| encode_error(table, &self.temporary, source))?;
        self.rows += count(batch.num_rows());
        self.times = Some(hull(self.times, span_of(moments(batch, "time"))));
        self.weights = weights(self.weights, batch);
        self.commits = Some(hull(self.commits, span_of(moments(batch, "observed_time"))));
        Ok(())
    }

    /// Bytes encoded so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| count(writer.bytes_written() + writer.in_progress_size()))
    }

    /// Ends the file: durable, under its name.
    pub(crate) fn finish(mut self) -> Result<FileEntry, SealError> {
        let (table, temporary) = (self.table, self.temporary.clone());
        let write = |source| SealError::Write { path: temporary.clone(), source };
        let Some(writer) = self.writer.take() else { return Err(SealError::Closing) };
        let buffer = writer.into_inner().map_err(|source| encode_error(table, &temporary, source))?;
        let sink = buffer.into_inner().map_err(|error| write(error.into_error()))?;
        sink.file.sync_all().map_err(write)?;
        let times = self.times.unwrap_or(TimeRange::new(0, 0));
        let filed = hour_of(times).map_or(ODD_TIMES_UNIX_NANOS, |_| times.from_unix_nanos);
        let path = file_path(table, self.target.store_id, filed, self.sequence);
        name(&self.target.parquet, &temporary, &path, &self.target.steps).map_err(write)?;
        Ok(FileEntry {
            path,
            table,
            bytes: sink.bytes,
            rows: self.rows,
            crc32: sink.hasher.finalize(),
            times,
            commits: self.commits.unwrap_or(times),
            replaces: Vec::new(),
            level: 0,
            is_final: false,
            uploaded_unix_nanos: None,
            only_in_bucket: false,
            weights: self.weights,
        })
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        // After a whole file there is nothing under this name any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The disk's fault is told as such, so that whoever watches for a full disk sees it.
fn encode_error(table: Table, path: &Path, source: ParquetError) -> SealError {
    match source {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(source) => SealError::Write { path: path.to_owned(), source: *source },
            Err(cause) => SealError::Encode { table, source: ParquetError::External(cause) },
        },
        source => SealError::Encode { table, source },
    }
}

/// The file as the system has it, and the checksum of what it was given.
struct Sink {
    file: File,
    steps: Steps,
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.steps.before(Step::Write)?;
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += count(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The hour that all of a file's rows lie in; `None` of a file of odd times.
pub(crate) fn hour_of(times: TimeRange) -> Option<i64> {
    let hour = times.from_unix_nanos.div_euclid(NANOS_PER_HOUR);
    (times.to_unix_nanos.saturating_sub(1).div_euclid(NANOS_PER_HOUR) <= hour).then_some(hour)
}

/// The hours that have a file of their own: those with the most rows, the newest of equals.
fn own_hours(hours: impl Iterator<Item = i64>) -> BTreeSet<i64> {
    let mut rows: BTreeMap<i64, usize> = BTreeMap::new();
    for hour in hours {
        *rows.entry(hour).or_insert(0) += 1;
    }
    let mut order: Vec<(usize, i64)> = rows.into_iter().map(|(hour, rows)| (rows, hour)).collect();
    order.sort_unstable_by(|left, right| right.cmp(left));
    order.into_iter().take(HOURS_PER_SEAL).map(|(_, hour)| hour).collect()
}

/// Gives a durable file its name, durable with every folder above it.
fn name(parquet: &Path, temporary: &Path, relative: &str, steps: &Steps) -> io::Result<()> {
    let path = parquet.join(relative);
    let folder = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    fs::create_dir_all(folder)?;
    steps.before(Step::Name)?;
    fs::rename(temporary, &path)?;
    for above in folder.ancestors().take_while(|above| above.starts_with(parquet)) {
        sync_folder(above)?;
    }
    Ok(())
}

/// The values of the table's sort columns as bytes that compare as the rows do.
pub(crate) struct SortKey {
    table: Table,
    converter: RowConverter,
}

impl SortKey {
    pub(crate) fn of(table: Table) -> Result<Self, ArrowError> {
        let schema = table.schema();
        let fields = table
            .sort_columns()
            .iter()
            .map(|name| Ok(SortField::new(schema.field_with_name(name)?.data_type().clone())))
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self { table, converter: RowConverter::new(fields)? })
    }

    pub(crate) fn rows(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        let columns: Vec<ArrayRef> = self
            .table
            .sort_columns()
            .iter()
            .map(|name| Ok(Arc::clone(batch.column(batch.schema().index_of(name)?))))
            .collect::<Result<_, ArrowError>>()?;
        self.converter.convert_columns(&columns)
    }
}

/// The rows' order by the table's sort columns.
fn sorted(table: Table, batch: &RecordBatch) -> Result<Vec<u32>, ArrowError> {
    let rows = SortKey::of(table)?.rows(batch)?;
    let length = u32::try_from(batch.num_rows()).map_err(|_| ArrowError::ComputeError("too many rows".to_owned()))?;
    let mut order: Vec<u32> = (0..length).collect();
    let at = |row: &u32| rows.row(usize::try_from(*row).unwrap_or_default());
    order.sort_by(|left, right| at(left).cmp(&at(right)));
    Ok(order)
}

/// The half-open range of a column of moments.
pub(crate) fn span_of(times: &TimestampNanosecondArray) -> TimeRange {
    let from = arrow::compute::min(times).unwrap_or(0);
    TimeRange::new(from, arrow::compute::max(times).unwrap_or(0).saturating_add(1))
}

/// What sampling did to these rows and those before; `None` for a table without weights.
fn weights(before: Option<Weights>, batch: &RecordBatch) -> Option<Weights> {
    let column = batch.column_by_name("adjusted_count")?.as_any().downcast_ref::<Float64Array>()?;
    let before = before.unwrap_or(Weights { heaviest: 1.0, unknown: 0 });
    Some(Weights {
        heaviest: column.iter().flatten().fold(before.heaviest, f64::max),
        unknown: before.unknown + count(column.null_count()),
    })
}

fn hull(before: Option<TimeRange>, more: TimeRange) -> TimeRange {
    before.map_or(more, |before| {
        let from = before.from_unix_nanos.min(more.from_unix_nanos);
        TimeRange::new(from, before.to_unix_nanos.max(more.to_unix_nanos))
    })
}

/// Times of a batch of any table.
pub(crate) fn times_of(batch: &RecordBatch) -> TimeRange {
    span_of(column(batch, "time"))
}
