//! Sorted files into fewer sorted files, row by row, in bounded memory.
//!
//! Each input is read a batch at a time, and the batch's size follows from the memory that all inputs share, so that
//! a merge takes [`MERGE_BYTES`] whether it merges megabytes or gigabytes. Reading everything and sorting it again
//! would be shorter and would need an hour's rows at once. Inputs are long runs in each other's order (files of one hour
//! cover its minutes), so whole runs are taken between two comparisons of all inputs.

use std::cmp::Ordering;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::Rows;
use lariat_schema::tables::Table;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;

use super::encode::Stage;
use super::manifest::FileEntry;
use super::order::SortKey;
use super::write::{FileWriter, SealError, Sequence, Target, paths};
use crate::columns::count;

/// Files merged at once: each costs a batch in memory.
pub(crate) const MERGE_INPUTS: usize = 32;
/// Memory that the rows of all inputs and of the output share, apart from the writer's row group
/// ([`super::encode::ROW_GROUP_BYTES`]): what decoding may hold of an hour at once.
pub(crate) const MERGE_BYTES: u64 = 64 << 20;
/// Rows of a batch at most and at least, whatever the memory says.
const BATCH_ROWS: (u64, u64) = (64, 4_096);
/// What a row of many columns takes in memory besides its values: offsets, validity, list structures.
const ROW_OVERHEAD_BYTES: u64 = 1_024;
/// Bytes in memory per byte that is encoded and not compressed: texts come out of dictionaries.
const DECODED_PER_ENCODED: u64 = 4;

/// Merges sorted files of one hour and table into files of at most about `file_bytes` each, all durable when this
/// returns. On an error, and when `closing` says so, nothing remains.
pub(crate) fn merge(
    target: &Target,
    table: Table,
    old: &[FileEntry],
    file_bytes: u64,
    sequence: Sequence<'_>,
    closing: &AtomicBool,
) -> Result<Vec<FileEntry>, SealError> {
    let mut written = Vec::new();
    let merged = run(target, table, old, file_bytes, sequence, closing, &mut written);
    if let Err(error) = merged {
        target.discard(paths(&written));
        return Err(error);
    }
    Ok(written)
}

fn run(
    target: &Target,
    table: Table,
    old: &[FileEntry],
    file_bytes: u64,
    sequence: Sequence<'_>,
    closing: &AtomicBool,
    written: &mut Vec<FileEntry>,
) -> Result<(), SealError> {
    let mut merged = Merged::open(target, table, old)?;
    let mut file: Option<FileWriter<'_>> = None;
    while let Some(batch) = merged.next(closing)? {
        if file.as_ref().is_some_and(|file| file.bytes() >= file_bytes)
            && let Some(whole) = file.take()
        {
            written.push(whole.finish()?);
        }
        if file.is_none() {
            file = Some(target.start(table, merged.expected, sequence(), Stage::Merge)?);
        }
        if let Some(file) = &mut file {
            file.write(&batch)?;
        }
    }
    if let Some(file) = file {
        written.push(file.finish()?);
    }
    Ok(())
}

/// The rows of sorted files of one table, in its order.
pub(crate) struct Merged {
    table: Table,
    inputs: Inputs,
    batch_rows: usize,
    /// Rows that the files are said to have.
    expected: u64,
    taken: u64,
}

impl Merged {
    pub(crate) fn open(target: &Target, table: Table, old: &[FileEntry]) -> Result<Self, SealError> {
        let (inputs, batch_rows) = open(target, table, old)?;
        Ok(Self { table, inputs, batch_rows, expected: old.iter().map(|entry| entry.rows).sum(), taken: 0 })
    }

    /// The next rows; none after the last.
    pub(crate) fn next(&mut self, closing: &AtomicBool) -> Result<Option<RecordBatch>, SealError> {
        if closing.load(Atomic::Acquire) {
            return Err(SealError::Closing);
        }
        if self.inputs.is_empty() {
            return self.whole().map(|()| None);
        }
        let batch = next_batch(&mut self.inputs, self.batch_rows, self.table)?;
        self.taken += count(batch.num_rows());
        Ok(Some(batch))
    }

    fn whole(&self) -> Result<(), SealError> {
        let (taken, expected) = (self.taken, self.expected);
        if taken == expected {
            return Ok(());
        }
        let reason = format!("sorted files hold {taken} rows instead of {expected}");
        Err(SealError::Rows { table: self.table, source: ArrowError::ParseError(reason) })
    }
}

/// A file that is being merged: a batch of it, and how far that is taken.
struct Input {
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    batch: RecordBatch,
    keys: Rows,
    at: usize,
}

impl Input {
    /// The next batch that has rows.
    fn refill(&mut self, key: &SortKey) -> Result<bool, ArrowError> {
        for batch in self.reader.by_ref() {
            let batch = widen(&batch?, &self.schema)?;
            if batch.num_rows() > 0 {
                self.keys = key.rows(&batch)?;
                (self.batch, self.at) = (batch, 0);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

struct Inputs {
    key: SortKey,
    open: Vec<Input>,
}

impl Inputs {
    fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

fn open(target: &Target, table: Table, old: &[FileEntry]) -> Result<(Inputs, usize), SealError> {
    let rows_error = |source| SealError::Rows { table, source };
    let encode = |source: ParquetError| SealError::Encode { table, source };
    let mut files = Vec::with_capacity(old.len());
    let mut row_bytes = 1;
    for entry in old {
        let path = target.parquet.join(&entry.path);
        let file = opened(&path)?;
        let metadata = ArrowReaderMetadata::load(&file, Default::default()).map_err(encode)?;
        let encoded: i64 = metadata.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
        let per_row = u64::try_from(encoded).unwrap_or(0) / entry.rows.max(1);
        row_bytes = row_bytes.max(per_row * DECODED_PER_ENCODED + ROW_OVERHEAD_BYTES);
        files.push((file, metadata));
    }
    // Each input holds a batch and its decoder another one; the output is one more.
    let share = MERGE_BYTES / (2 * count(old.len()) + 1);
    let batch_rows = usize::try_from((share / row_bytes).clamp(BATCH_ROWS.0, BATCH_ROWS.1)).unwrap_or(1);
    let key = SortKey::of(table).map_err(rows_error)?;
    let mut inputs = Inputs { key, open: Vec::with_capacity(old.len()) };
    let schema = table.schema();
    for (file, metadata) in files {
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_batch_size(batch_rows)
            .build()
            .map_err(encode)?;
        let batch = RecordBatch::new_empty(Arc::clone(&schema));
        let keys = inputs.key.rows(&batch).map_err(rows_error)?;
        let mut input = Input { reader, schema: Arc::clone(&schema), batch, keys, at: 0 };
        if input.refill(&inputs.key).map_err(rows_error)? {
            inputs.open.push(input);
        }
    }
    Ok((inputs, batch_rows))
}

/// A file of the store, to read.
pub(super) fn opened(path: &Path) -> Result<File, SealError> {
    File::open(path).map_err(|source| SealError::Write { path: path.to_owned(), source })
}

/// The next rows in order: up to `batch_rows`, or as many as there are before an input needs its next batch.
fn next_batch(inputs: &mut Inputs, batch_rows: usize, table: Table) -> Result<RecordBatch, SealError> {
    let rows_error = |source| SealError::Rows { table, source };
    let mut order: Vec<(usize, usize)> = Vec::with_capacity(batch_rows);
    let mut spent = None;
    while order.len() < batch_rows && spent.is_none() {
        let (first, second) = lowest_two(&inputs.open);
        let input = &inputs.open[first];
        let bound = second.map(|second| (second, inputs.open[second].keys.row(inputs.open[second].at)));
        let mut at = input.at;
        while at < input.batch.num_rows() && order.len() < batch_rows {
            let past = bound.is_some_and(|(second, bound)| match input.keys.row(at).cmp(&bound) {
                Ordering::Less => false,
                // Equal rows come in the order of their files.
                Ordering::Equal => second < first,
                Ordering::Greater => true,
            });
            if past {
                break;
            }
            order.push((first, at));
            at += 1;
        }
        inputs.open[first].at = at;
        if at == inputs.open[first].batch.num_rows() {
            spent = Some(first);
        }
    }
    let batches: Vec<&RecordBatch> = inputs.open.iter().map(|input| &input.batch).collect();
    let batch = interleave_record_batch(&batches, &order).map_err(rows_error)?;
    if let Some(spent) = spent
        && !inputs.open[spent].refill(&inputs.key).map_err(rows_error)?
    {
        inputs.open.remove(spent);
    }
    Ok(batch)
}

/// The inputs with the lowest and the next row. There is at least one input.
fn lowest_two(open: &[Input]) -> (usize, Option<usize>) {
    let key = |index: usize| open[index].keys.row(open[index].at);
    let (mut first, mut second) = (0, None);
    for index in 1..open.len() {
        if key(index) < key(first) {
            (first, second) = (index, Some(first));
        } else if second.is_none_or(|second| key(index) < key(second)) {
            second = Some(index);
        }
    }
    (first, second)
}

/// Columns are only ever added: those that came later are null in older files.
pub(super) fn widen(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = wanted
        .fields()
        .iter()
        .map(|field| {
            let found = batch.column_by_name(field.name()).cloned();
            found.unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
        })
        .collect();
    RecordBatch::try_new(Arc::clone(wanted), columns)
}
