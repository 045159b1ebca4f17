//! Writes a past that never happened: sealed, final files of any time, named by a manifest, from OTLP requests. For whoever
//! measures queries over more history than can be sent through a collector in an afternoon. The rows come from the decoder
//! and the cells from the fold that a collector uses, so that only time and amount are made up; the log, dedup and sampling
//! are left out. It never touches a directory that already has files.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::error::ArrowError;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::{KeepReason, Signal};

use super::directory::{Directory, DirectoryError};
use super::encode::Stage;
use super::manifest::{CutCommits, Manifest, ManifestError};
use super::write::{SealError, Target};
use crate::decode::{Encoding, Form, Malformed, decode};
use crate::rollup::Rollup;

/// Merges of real files end here; what is final is not merged again.
const LEVEL: u8 = 9;

/// History that is being written.
pub struct History {
    directory: Directory,
    manifest: Manifest,
    rollup: Rollup,
    next_sequence: std::cell::Cell<u64>,
}

/// Why it cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It has files already.
    #[error("{path} holds {files} files already: history is written into an empty directory")]
    NotEmpty {
        /// The directory.
        path: String,
        /// How many.
        files: usize,
    },
    /// A request is no OTLP.
    #[error(transparent)]
    Request(#[from] Malformed),
    /// Rows do not fit.
    #[error("cannot arrange the rows: {0}")]
    Rows(#[from] ArrowError),
    /// A file or the manifest cannot be written.
    #[error("cannot write: {0}")]
    Write(String),
}

impl From<SealError> for HistoryError {
    fn from(error: SealError) -> Self {
        Self::Write(error.to_string())
    }
}

impl History {
    /// Takes an empty data directory.
    ///
    /// # Errors
    /// It is in use, cannot be written, or has files.
    pub fn open(root: &Path) -> Result<Self, HistoryError> {
        let directory = Directory::open(root)?;
        let manifest = Manifest::load(&directory.root, directory.store_id)?;
        if !manifest.files.is_empty() {
            let path = directory.root.display().to_string();
            return Err(HistoryError::NotEmpty { path, files: manifest.files.len() });
        }
        let next_sequence = std::cell::Cell::new(manifest.next_sequence);
        Ok(Self { directory, manifest, rollup: Rollup::default(), next_sequence })
    }

    /// The rows of a trace request in protobuf, as if committed at that moment and all kept; its decisions are counted.
    ///
    /// # Errors
    /// It is no such request.
    pub fn decode(&mut self, body: &[u8], commit_unix_nanos: i64) -> Result<RecordBatch, HistoryError> {
        let form = Form { signal: Signal::Traces, encoding: Encoding::Protobuf, trusted: true };
        let batch = decode(body, form, commit_unix_nanos)?.decoded.batch;
        self.rollup.fold(&batch, commit_unix_nanos);
        let at = batch.schema().index_of("keep_reason")?;
        let mut columns = batch.columns().to_vec();
        let kept: ArrayRef = Arc::new(StringArray::from(vec![KeepReason::Rate.as_str(); batch.num_rows()]));
        columns[at] = kept;
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }

    /// The cells of all decisions since the last call, as rows of `rollups`.
    ///
    /// # Errors
    /// The rows do not fit.
    pub fn take_cells(&mut self) -> Result<Option<RecordBatch>, HistoryError> {
        let cells = self.rollup.rows()?;
        self.rollup.clear();
        Ok(cells)
    }

    /// Writes rows of one table as sorted files, one per hour of their time.
    ///
    /// # Errors
    /// The disk fails.
    pub fn write(&mut self, table: Table, batches: &[RecordBatch]) -> Result<(), HistoryError> {
        let target = Target {
            parquet: self.directory.parquet(),
            store_id: self.directory.store_id,
            steps: super::steps::Steps::default(),
        };
        let next = &self.next_sequence;
        // They are as merges leave them.
        let written = target.write(table, batches, &|| next.replace(next.get() + 1), Stage::Merge)?;
        self.manifest.files.extend(written.into_iter().map(|mut entry| {
            entry.is_final = true;
            entry.level = LEVEL;
            entry
        }));
        Ok(())
    }

    /// Names the files; without this they are as good as not there. Returns how many rows there are in how many bytes.
    ///
    /// # Errors
    /// The manifest cannot be written.
    pub fn finish(mut self) -> Result<(u64, u64), HistoryError> {
        let files = &self.manifest.files;
        let last = files.iter().map(|file| file.commits.to_unix_nanos).max().unwrap_or_default();
        let sums = files.iter().fold((0, 0), |(rows, bytes), file| (rows + file.rows, bytes + file.bytes));
        self.manifest.last_commit_unix_nanos = last;
        self.manifest.cut_commits = Some(CutCommits { spans_unix_nanos: last, others_unix_nanos: last });
        self.manifest.next_sequence = self.next_sequence.get();
        self.manifest
            .save(&self.directory.root)
            .map_err(|error| HistoryError::Write(format!("the manifest: {}", error.source)))?;
        Ok(sums)
    }
}
