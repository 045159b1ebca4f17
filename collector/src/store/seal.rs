//! Moves hot rows into sealed files, merges small files, and deletes what neither readers nor a restart need.
//!
//! The order is the promise: files durable, then the manifest durable, then readers switch, then the log shrinks. A
//! crash between any two leaves either rows in the log without files, or files that the manifest does not name.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use lariat_schema::tables::Table;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tracing::field::Empty;

use super::core::Core;
use super::manifest::{FileEntry, Pinned};
use super::write::{SealError, Target};
use crate::log::delete_spent;

/// Rows from which hot batches are sealed before their time.
pub(crate) const HOT_ROWS: u64 = 500_000;
/// Bytes from which they are.
pub(crate) const HOT_BYTES: usize = 64 << 20;
/// Bytes beyond which requests are refused: sealing does not keep up, or fails.
pub(crate) const HOT_BYTES_LIMIT: usize = 4 * HOT_BYTES;
/// Files of an hour and table beyond which they are merged.
const FILES_PER_HOUR: usize = 8;
/// Larger files are left alone: merging them costs more than reading two.
const COMPACT_FILE_BYTES: u64 = 16 << 20;
/// Bytes merged at a time: it happens in memory.
const COMPACT_BYTES: u64 = 64 << 20;

impl Core {
    /// True if hot rows are old or many enough.
    pub(crate) fn seal_is_due(&self) -> bool {
        let figures = self.state.lock().figures();
        let aged = figures.hot_since.is_some_and(|since| self.now().saturating_sub(since) >= self.flush_age_nanos);
        aged || figures.hot_rows >= HOT_ROWS || figures.hot_bytes >= HOT_BYTES
    }

    /// Seals what can be; with `everything` also what would wait for its root.
    pub(crate) fn seal(&self, everything: bool) -> Result<(), SealError> {
        let span = tracing::info_span!("flush", files = Empty, otel.status_code = Empty);
        let _inside = span.enter();
        // One seal at a time; readers and the writer of the log do not wait for it.
        let mut manifest = self.manifest.lock();
        let (taken, shown) = self.state.lock().begin_seal(everything);
        self.live.show(&shown);
        let target = self.target();
        let mut next = manifest.clone();
        let written = (|| {
            let mut entries = Vec::new();
            for (table, batches) in &taken.tables {
                entries.extend(target.write(*table, batches, &mut next.next_sequence)?);
            }
            next.cuts = taken.cuts;
            next.ledger.clone_from(&taken.ledger);
            next.sequences = taken.sequences.clone();
            next.last_commit_unix_nanos = taken.last_commit_unix_nanos;
            next.files.extend(entries.iter().cloned());
            next.save(&self.directory.root)
                .map_err(|source| SealError::Write { path: self.directory.root.clone(), source })?;
            Ok(entries)
        })();
        // Also after a failure no number is used twice: a file of it may lie there.
        manifest.next_sequence = next.next_sequence;
        let entries = match written {
            Ok(entries) => entries,
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                self.state.lock().abort_seal();
                self.counters.seal_failures.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        };
        *manifest = next;
        span.record("files", entries.len());
        let files = entries.into_iter().map(|entry| Pinned::new(&target.parquet, entry)).collect();
        self.state.lock().end_seal(&taken, files);
        self.counters.seals.fetch_add(1, Ordering::Relaxed);
        let cut = taken.cuts.spans.min(taken.cuts.others);
        let dedup_floor = self.dedup_floor.load(Ordering::Acquire);
        let young = taken.cut_commit_unix_nanos.saturating_sub(self.window.age_nanos);
        delete_spent(&self.closed, &|segment| {
            segment.last_lsn < cut && segment.last_lsn < dedup_floor && segment.last_commit_unix_nanos < young
        });
        Ok(())
    }

    pub(crate) fn target(&self) -> Target {
        Target { parquet: self.directory.parquet(), store_id: self.directory.store_id }
    }

    /// Merges the files of one hour and table that has too many; true if there was one.
    pub(crate) fn compact(&self) -> Result<bool, SealError> {
        let mut manifest = self.manifest.lock();
        let Some(old) = crowded(&manifest.files) else { return Ok(false) };
        let target = self.target();
        let table = old[0].table;
        let mut batches = Vec::new();
        for entry in &old {
            batches.extend(read(&target, entry)?);
        }
        let mut next = manifest.clone();
        let written = target.write(table, &batches, &mut next.next_sequence);
        manifest.next_sequence = next.next_sequence;
        let mut new = written?;
        for entry in &mut new {
            entry.replaces = old.iter().map(|entry| entry.path.clone()).collect();
        }
        next.files.retain(|entry| old.iter().all(|gone| gone.path != entry.path));
        next.files.extend(new.iter().cloned());
        next.save(&self.directory.root)
            .map_err(|source| SealError::Write { path: self.directory.root.clone(), source })?;
        *manifest = next;
        let new = new.into_iter().map(|entry| Pinned::new(&target.parquet, entry)).collect();
        self.state.lock().swap_files(table, &old, new);
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Deletes replaced files that no snapshot holds.
    pub(crate) fn sweep(&self) {
        let free = self.state.lock().unpinned();
        for file in free {
            if let Err(error) = std::fs::remove_file(&file.path) {
                tracing::warn!(file = %file.path.display(), %error, "cannot delete a replaced file");
            }
        }
    }
}

/// The small files of the first hour and table that has too many of them.
fn crowded(files: &[FileEntry]) -> Option<Vec<FileEntry>> {
    let mut hours: BTreeMap<(Table, &str), Vec<&FileEntry>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.bytes < COMPACT_FILE_BYTES) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        hours.entry((file.table, folder)).or_default().push(file);
    }
    let crowd = hours.into_values().find(|files| files.len() > FILES_PER_HOUR)?;
    let mut bytes = 0;
    let taken = crowd.into_iter().take_while(|file| {
        bytes += file.bytes;
        bytes <= COMPACT_BYTES
    });
    Some(taken.cloned().collect())
}

fn read(target: &Target, entry: &FileEntry) -> Result<Vec<RecordBatch>, SealError> {
    let path = target.parquet.join(&entry.path);
    let table = entry.table;
    let file = File::open(&path).map_err(|source| SealError::Write { path, source })?;
    let encode = |source| SealError::Encode { table, source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build()).map_err(encode)?;
    let schema = table.schema();
    reader
        .map(|batch| {
            let batch = batch?;
            RecordBatch::try_new(std::sync::Arc::clone(&schema), batch.columns().to_vec())
        })
        .collect::<Result<_, _>>()
        .map_err(|source| SealError::Rows { table, source })
}
