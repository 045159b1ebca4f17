//! Sorted files into fewer sorted files, row by row, in bounded memory.
//!
//! Each input is read a batch at a time, and the batch's size follows from the memory that all inputs share, so that
//! a merge takes [`MERGE_BYTES`] whether it merges megabytes or gigabytes. Reading everything and sorting it again
//! would be shorter and would need an hour's rows at once. Inputs are long runs in each other's order (files of one hour
//! cover its minutes), so whole runs are taken between two comparisons of all inputs.
//!
//! The rows of a row group stay in the batches that they were read in, and are written from there: copying them into the new
//! order, to be encoded by the library, took two thirds of a merge.

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

use super::encode::{ROW_GROUP_ROWS, Stage};
use super::manifest::FileEntry;
use super::order::{Gather, Place, SortKey};
use super::write::{FileWriter, SealError, Sequence, Target, paths};
use crate::columns::{bytes_of, count};

/// Files merged at once: each costs a batch in memory.
pub(crate) const MERGE_INPUTS: usize = 32;
/// Memory that the batches of all inputs share, apart from the row group: what decoding may hold of an hour at once.
pub(crate) const MERGE_BYTES: u64 = 40 << 20;
/// Memory of the batches that a row group lies in. Encoded it takes a small part of that beside them.
const GROUP_BYTES: usize = 40 << 20;
/// Rows of a batch at most and at least, whatever the memory says.
const BATCH_ROWS: (u64, u64) = (64, if cfg!(test) { 256 } else { 4_096 });
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
    while let Some(group) = merged.next_group(file_bytes, closing)? {
        if file.as_ref().is_some_and(|file| file.bytes() >= file_bytes)
            && let Some(whole) = file.take()
        {
            written.push(whole.finish()?);
        }
        if file.is_none() {
            file = Some(target.start(table, merged.expected, sequence(), Stage::Merge)?);
        }
        if let Some(file) = &mut file {
            file.write_group(&Gather::new(&group.batches, &group.places))?;
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
        if self.inputs.open.is_empty() {
            return self.whole().map(|()| None);
        }
        let rows_error = |source| SealError::Rows { table: self.table, source };
        let (rows, spent) = next_rows(&mut self.inputs.open, self.batch_rows);
        let batches: Vec<&RecordBatch> = self.inputs.open.iter().map(|input| &input.batch).collect();
        let batch = interleave_record_batch(&batches, &rows).map_err(rows_error)?;
        self.inputs.replace(spent).map_err(rows_error)?;
        self.taken += count(batch.num_rows());
        Ok(Some(batch))
    }

    /// The next rows as a row group of a file of at most about `file_bytes`; none after the last.
    fn next_group(&mut self, file_bytes: u64, closing: &AtomicBool) -> Result<Option<RowGroup>, SealError> {
        let most_bytes = usize::try_from(file_bytes.saturating_mul(DECODED_PER_ENCODED)).unwrap_or(usize::MAX);
        let mut group = RowGroup::default();
        self.inputs.open.iter_mut().for_each(|input| input.in_group = None);
        while !self.inputs.open.is_empty() && !group.is_full(most_bytes.min(GROUP_BYTES)) {
            if closing.load(Atomic::Acquire) {
                return Err(SealError::Closing);
            }
            let (rows, spent) = next_rows(&mut self.inputs.open, ROW_GROUP_ROWS - group.places.len());
            group.add(&mut self.inputs.open, &rows);
            self.inputs.replace(spent).map_err(|source| SealError::Rows { table: self.table, source })?;
        }
        if group.places.is_empty() {
            return self.whole().map(|()| None);
        }
        self.taken += count(group.places.len());
        Ok(Some(group))
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

/// Rows that follow each other in the merged order, where they were read.
#[derive(Default)]
struct RowGroup {
    batches: Vec<RecordBatch>,
    places: Vec<Place>,
    bytes: usize,
}

impl RowGroup {
    fn is_full(&self, most_bytes: usize) -> bool {
        self.places.len() >= ROW_GROUP_ROWS || self.bytes >= most_bytes
    }

    /// Adds rows of the inputs' batches.
    fn add(&mut self, open: &mut [Input], rows: &[Place]) {
        for (input, row) in rows {
            let input = &mut open[*input];
            let batch = *input.in_group.get_or_insert_with(|| {
                self.bytes += bytes_of(&input.batch);
                self.batches.push(input.batch.clone());
                self.batches.len() - 1
            });
            self.places.push((batch, *row));
        }
    }
}

/// A file that is being merged: a batch of it, and how far that is taken.
struct Input {
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    batch: RecordBatch,
    keys: Rows,
    at: usize,
    /// Which batch of the row group it is, once a row of it is there.
    in_group: Option<usize>,
}

impl Input {
    /// The next batch that has rows.
    fn refill(&mut self, key: &SortKey) -> Result<bool, ArrowError> {
        for batch in self.reader.by_ref() {
            let batch = widen(&batch?, &self.schema)?;
            if batch.num_rows() > 0 {
                self.keys = key.rows(&batch)?;
                (self.batch, self.at, self.in_group) = (batch, 0, None);
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
    /// Reads on where a batch was taken whole; a file that has ended is one no longer.
    fn replace(&mut self, spent: Option<usize>) -> Result<(), ArrowError> {
        if let Some(spent) = spent
            && !self.open[spent].refill(&self.key)?
        {
            self.open.remove(spent);
        }
        Ok(())
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
        let mut input = Input { reader, schema: Arc::clone(&schema), batch, keys, at: 0, in_group: None };
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

/// The next rows in order, by input and place in its batch: up to so many, or as many as there are before an input needs its
/// next batch. Also says which one that is.
fn next_rows(open: &mut [Input], most: usize) -> (Vec<Place>, Option<usize>) {
    let (mut rows, mut spent) = (Vec::new(), None);
    while rows.len() < most && spent.is_none() {
        let (first, second) = lowest_two(open);
        let input = &open[first];
        let bound = second.map(|second| (second, open[second].keys.row(open[second].at)));
        let mut at = input.at;
        while at < input.batch.num_rows() && rows.len() < most {
            let past = bound.is_some_and(|(second, bound)| match input.keys.row(at).cmp(&bound) {
                Ordering::Less => false,
                // Equal rows come in the order of their files.
                Ordering::Equal => second < first,
                Ordering::Greater => true,
            });
            if past {
                break;
            }
            rows.push((first, at));
            at += 1;
        }
        open[first].at = at;
        if at == open[first].batch.num_rows() {
            spent = Some(first);
        }
    }
    (rows, spent)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{START, batch, decision, read};
    use crate::store::steps::Steps;

    /// Rows of `spans` in three files whose times lie between each other's, some of them equal.
    fn files(target: &Target) -> Vec<FileEntry> {
        let rows = |file: u128| {
            let row = |n: u128| {
                let time = START + i64::try_from(n / 2 * 5 + file % 2).unwrap() * 1_000;
                decision(
                    file << 64 | n,
                    json!({"time": time, "profile": if n.is_multiple_of(2) { "public" } else { "premium" }}),
                )
            };
            batch(Table::Spans, &(0..700).map(row).collect::<Vec<_>>())
        };
        let write =
            |file: u128| target.write(Table::Spans, &[rows(file)], &|| u64::try_from(file).unwrap(), Stage::Seal);
        (1..4).flat_map(|file| write(file).unwrap()).collect()
    }

    #[test]
    fn merged_rows_are_all_there_in_order_however_row_groups_and_files_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let parquet = folder.path().to_owned();
        let store_id = lariat_schema::ids::StoreId(uuid::Uuid::nil());
        let target = Target { parquet: parquet.clone(), store_id, steps: Steps::default() };
        let old = files(&target);
        let of = |entries: &[FileEntry]| -> Vec<RecordBatch> {
            entries.iter().flat_map(|entry| read(&parquet.join(&entry.path))).collect()
        };
        let all = arrow::compute::concat_batches(&Table::Spans.schema(), &of(&old)).unwrap();
        let keys = SortKey::of(Table::Spans).unwrap().rows(&all).unwrap();
        let mut order: Vec<u32> = (0..2_100).collect();
        order.sort_by(|left, right| keys.row(*left as usize).cmp(&keys.row(*right as usize)));
        let expected = arrow::compute::take_record_batch(&all, &arrow::array::UInt32Array::from(order)).unwrap();
        let next = std::cell::Cell::new(3);
        for (file_bytes, files) in [(u64::MAX, 1..=1), (20_000, 2..=9), (1, 3..=2_100)] {
            let sequence = || {
                next.set(next.get() + 1);
                next.get()
            };
            let merged = merge(&target, Table::Spans, &old, file_bytes, &sequence, &AtomicBool::new(false)).unwrap();
            assert!(files.contains(&merged.len()), "{} files of {file_bytes} bytes", merged.len());
            let rows = arrow::compute::concat_batches(&Table::Spans.schema(), &of(&merged)).unwrap();
            assert_eq!(rows, expected, "{file_bytes}");
            assert_eq!(merged.iter().map(|entry| entry.rows).sum::<u64>(), 2_100);
        }
        let closing = merge(&target, Table::Spans, &old, u64::MAX, &|| 9_999, &AtomicBool::new(true));
        assert!(matches!(closing, Err(SealError::Closing)));
    }
}
