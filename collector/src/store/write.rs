//! Rows into sealed files: sorted, split by hour, with everything that lets a reader skip what it does not need.
//!
//! A seal whose rows lie in very many hours, as of a sender whose clock is nowhere, makes no file for each: the hours with
//! the fewest rows share one, whose folder says that its name tells no time. Leaving such rows out was rejected, since
//! they were acknowledged, and so was cutting their times, since they are what was sent.
//!
//! Seals and merges encode a column after the other; rows that are made as they are written, of longer cells, a batch after the
//! other. A file is written as it is encoded and never stands in memory whole; its checksum is of the bytes that were meant, not
//! of what the disk made of them. It has its name only once it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Field;
use arrow::error::ArrowError;
use lariat_schema::cells::CellWidth;
use lariat_schema::ids::StoreId;
use lariat_schema::layout::{ODD_TIMES_UNIX_NANOS, cells_path, file_path};
use lariat_schema::tables::Table;
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves,
};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use super::chunk::{Chunk, Compressor};
use super::encode::{ROW_GROUP_BYTES, ROW_GROUP_ROWS, Stage, properties};
use super::leaves::Leaves;
use super::manifest::FileEntry;
use super::noted::{Noted, span_of};
use super::order::{Gather, Place, arranged};
use super::seal::HOT_BYTES_LIMIT;
use super::steps::{Step, Steps};
use crate::columns::{bytes_of, column, count};
use crate::log::segment::sync_folder;

pub(crate) const NANOS_PER_HOUR: i64 = 3_600 * NANOS_PER_SECOND;
/// Hours that have a file of their own in one seal of a table: two days, so that what a sender held back for that long
/// lies where it belongs. Each costs a sync and a line of the manifest.
const HOURS_PER_SEAL: usize = if cfg!(test) { 6 } else { 48 };
/// Bytes in memory of the rows of one row group of a seal: a column of them is copied at a time, if at all. All that can be hot,
/// so that hardly a seal ends with a group of a few rows, which costs what a large one does beside its rows.
const SEAL_GROUP_BYTES: usize = HOT_BYTES_LIMIT;
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
        stage: Stage,
    ) -> Result<Vec<FileEntry>, SealError> {
        let rows = arranged(table, batches).map_err(|source| SealError::Rows { table, source })?;
        let own = own_hours(rows.iter().map(|(hour, _)| *hour));
        let mut hours: BTreeMap<Option<i64>, Vec<Place>> = BTreeMap::new();
        for (hour, place) in rows {
            hours.entry(own.contains(&hour).then_some(hour)).or_default().push(place);
        }
        let group_rows = group_rows(batches);
        let mut entries = Vec::with_capacity(hours.len());
        for places in hours.into_values() {
            let written = self.start(table, count(places.len()), sequence(), stage).and_then(|mut file| {
                for group in places.chunks(group_rows) {
                    file.write_group(&Gather::new(batches, group))?;
                }
                file.finish()
            });
            match written {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    self.discard(paths(&entries));
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    /// Begins a file of about so many rows, all of one hour and in the table's order.
    pub(crate) fn start(
        &self,
        table: Table,
        rows: u64,
        sequence: u64,
        stage: Stage,
    ) -> Result<FileWriter<'_>, SealError> {
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
        let properties = properties(table, self.store_id, rows, stage).map_err(encode)?;
        let sink = io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, sink);
        // Parquet's own schema says all of ours; Arrow's beside it would be a third of the footer.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, table.schema(), options).map_err(encode)?;
        let (writer, groups) = writer.into_serialized_writer().map_err(encode)?;
        Ok(FileWriter {
            target: self,
            table,
            sequence,
            temporary,
            writer: Some(writer),
            groups,
            open: Vec::new(),
            open_rows: 0,
            rows: 0,
            noted: Noted::default(),
        })
    }

    /// Deletes files that no manifest will name.
    pub(crate) fn discard<'p>(&self, paths: impl IntoIterator<Item = &'p str>) {
        for path in paths {
            let path = self.parquet.join(path);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), %error, "cannot remove a file that was not needed: the next start does");
            }
        }
    }
}

/// Where these files are.
pub(crate) fn paths(entries: &[FileEntry]) -> impl Iterator<Item = &str> {
    entries.iter().map(|entry| entry.path.as_str())
}

/// A file that is being written. Dropped before its end, it leaves nothing.
pub(crate) struct FileWriter<'a> {
    target: &'a Target,
    table: Table,
    sequence: u64,
    temporary: PathBuf,
    writer: Option<SerializedFileWriter<io::BufWriter<Sink>>>,
    groups: ArrowRowGroupWriterFactory,
    /// The columns of the row group that rows are added to.
    open: Vec<ArrowColumnWriter>,
    open_rows: usize,
    rows: u64,
    noted: Noted,
}

impl FileWriter<'_> {
    /// Adds rows that come after those before in the table's order. All columns grow together; what they hold is bounded
    /// by the size of a row group.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), SealError> {
        if self.open_rows >= ROW_GROUP_ROWS || self.open_bytes() >= ROW_GROUP_BYTES {
            self.end_group()?;
        }
        if self.open.is_empty() {
            self.open = self.column_writers()?;
        }
        let encoded = encode_batch(&mut self.open, batch);
        encoded.map_err(|source| encode_error(self.table, &self.temporary, source))?;
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            self.noted.column(field.name(), column);
        }
        self.open_rows += batch.num_rows();
        self.rows += count(batch.num_rows());
        Ok(())
    }

    /// Adds a row group whose rows come after those before. Each column is put together, encoded and let go of before the
    /// next one: of a hundred columns that grow together, buffers and compressors take more than the rows.
    pub(crate) fn write_group(&mut self, rows: &Gather<'_>) -> Result<(), SealError> {
        let table = self.table;
        self.end_group()?;
        let Some(file) = &self.writer else { return Err(SealError::Closing) };
        let (descrs, properties) = (file.schema_descr().columns().to_vec(), Arc::clone(file.properties()));
        let failed = |source| encode_error(table, &self.temporary, source);
        let mut compressor = Compressor::new().map_err(failed)?;
        let mut leaves = Leaves::new(&descrs, &properties, &mut compressor);
        // Made for all columns at once, and only where one of them is left to the library.
        let mut writers: Vec<Option<ArrowColumnWriter>> = Vec::new();
        let mut chunks = Vec::with_capacity(descrs.len());
        let mut noted = self.noted;
        for (at, field) in table.schema().fields().iter().enumerate() {
            if let Some(own) = leaves.encode(&rows.sources(at), rows.places(), chunks.len()).map_err(failed)? {
                for chunk in own {
                    noted.chunk(field.name(), &chunk);
                    chunks.push(Encoded::Here(Box::new(chunk)));
                }
                continue;
            }
            let column = rows.column(at, field.data_type()).map_err(|source| SealError::Rows { table, source })?;
            noted.column(field.name(), &column);
            if writers.is_empty() {
                writers = self.column_writers()?.into_iter().map(Some).collect();
            }
            let first = chunks.len().min(writers.len());
            let mut own = writers[first..].iter_mut().filter_map(Option::take);
            encode_column(field, &column, &mut own, &mut chunks).map_err(failed)?;
        }
        self.noted = noted;
        self.rows += count(rows.rows());
        self.append(chunks)
    }

    fn column_writers(&self) -> Result<Vec<ArrowColumnWriter>, SealError> {
        let ended = self.writer.as_ref().map_or(0, |writer| writer.flushed_row_groups().len());
        let writers = self.groups.create_column_writers(ended);
        writers.map_err(|source| encode_error(self.table, &self.temporary, source))
    }

    fn end_group(&mut self) -> Result<(), SealError> {
        if self.open.is_empty() {
            return Ok(());
        }
        self.open_rows = 0;
        let open = std::mem::take(&mut self.open);
        let chunks: Result<Vec<_>, _> =
            open.into_iter().map(|writer| writer.close().map(|chunk| Encoded::ByLibrary(Box::new(chunk)))).collect();
        self.append(chunks.map_err(|source| encode_error(self.table, &self.temporary, source))?)
    }

    fn append(&mut self, chunks: Vec<Encoded>) -> Result<(), SealError> {
        let Some(writer) = &mut self.writer else { return Err(SealError::Closing) };
        let appended = append_chunks(writer, chunks);
        appended.map_err(|source| encode_error(self.table, &self.temporary, source))
    }

    fn open_bytes(&self) -> usize {
        self.open.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum()
    }

    /// Bytes encoded so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| count(writer.bytes_written() + self.open_bytes()))
    }

    /// Ends the file: durable, under its name.
    pub(crate) fn finish(self) -> Result<FileEntry, SealError> {
        let (table, store_id, sequence) = (self.table, self.target.store_id, self.sequence);
        self.end(|times| {
            let filed = hour_of(times).map_or(ODD_TIMES_UNIX_NANOS, |_| times.from_unix_nanos);
            file_path(table, store_id, filed, sequence)
        })
    }

    /// Ends a file of longer cells.
    pub(crate) fn finish_cells(self, width: CellWidth) -> Result<FileEntry, SealError> {
        let (store_id, sequence) = (self.target.store_id, self.sequence);
        self.end(|times| cells_path(width, store_id, times.from_unix_nanos, sequence))
    }

    fn end(mut self, path: impl FnOnce(TimeRange) -> String) -> Result<FileEntry, SealError> {
        let (table, temporary) = (self.table, self.temporary.clone());
        let write = |source| SealError::Write { path: temporary.clone(), source };
        self.end_group()?;
        let Some(writer) = self.writer.take() else { return Err(SealError::Closing) };
        let buffer = writer.into_inner().map_err(|source| encode_error(table, &temporary, source))?;
        let sink = buffer.into_inner().map_err(|error| write(error.into_error()))?;
        sink.file.sync_all().map_err(write)?;
        let times = self.noted.times.unwrap_or(TimeRange::new(0, 0));
        let path = path(times);
        name(&self.target.parquet, &temporary, &path, &self.target.steps).map_err(write)?;
        Ok(FileEntry {
            path,
            table,
            bytes: sink.bytes,
            rows: self.rows,
            crc32: sink.hasher.finalize(),
            times,
            commits: self.noted.commits.unwrap_or(times),
            replaces: Vec::new(),
            level: 0,
            is_final: false,
            uploaded_unix_nanos: None,
            only_in_bucket: false,
            weights: self.noted.weights,
            request_ids: Some(self.noted.request_ids),
        })
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        // After a whole file there is nothing under this name any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A column chunk, by who encoded it.
enum Encoded {
    ByLibrary(Box<ArrowColumnChunk>),
    Here(Box<Chunk>),
}

fn encode_batch(writers: &mut [ArrowColumnWriter], batch: &RecordBatch) -> Result<(), ParquetError> {
    let mut writers = writers.iter_mut();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        for leaf in compute_leaves(field, column)? {
            writers.next().ok_or_else(too_few)?.write(&leaf)?;
        }
    }
    Ok(())
}

fn encode_column(
    field: &Field,
    column: &ArrayRef,
    writers: &mut impl Iterator<Item = ArrowColumnWriter>,
    chunks: &mut Vec<Encoded>,
) -> Result<(), ParquetError> {
    for leaf in compute_leaves(field, column)? {
        let mut writer = writers.next().ok_or_else(too_few)?;
        writer.write(&leaf)?;
        chunks.push(Encoded::ByLibrary(Box::new(writer.close()?)));
    }
    Ok(())
}

fn append_chunks<W: Write + Send>(
    writer: &mut SerializedFileWriter<W>,
    chunks: Vec<Encoded>,
) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for chunk in chunks {
        match chunk {
            Encoded::ByLibrary(chunk) => chunk.append_to_row_group(&mut group)?,
            Encoded::Here(chunk) => chunk.append_to(&mut group)?,
        }
    }
    group.close().map(|_| ())
}

fn too_few() -> ParquetError {
    ParquetError::General("a column has no writer".to_owned())
}

/// Rows of a row group of a seal: as many as take [`SEAL_GROUP_BYTES`] in memory.
fn group_rows(batches: &[RecordBatch]) -> usize {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let bytes: usize = batches.iter().map(bytes_of).sum();
    let row_bytes = (bytes / rows.max(1)).max(1);
    (SEAL_GROUP_BYTES / row_bytes).clamp(1, ROW_GROUP_ROWS)
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

/// Times of a batch of any table.
pub(crate) fn times_of(batch: &RecordBatch) -> TimeRange {
    span_of(column(batch, "time"))
}
