//! What a store shows to readers: pinned snapshots of its files and hot batches.

pub(crate) mod checkpoint;
pub(crate) mod core;
pub(crate) mod directory;
mod hot;
pub(crate) mod manifest;
pub(crate) mod owners;
pub(crate) mod state;
pub(crate) mod steps;

mod chunk;

mod delta;
mod encode;
mod hybrid;
mod leaves;
mod noted;
mod order;
mod request_ids;
pub(crate) mod seal;
pub(crate) mod write;

pub(crate) mod bucket;
mod compact;
mod derive;
pub(crate) mod derived;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gone;
mod lengthen;
pub(crate) mod maintain;
mod merge;
mod pack;
mod retain;
pub(crate) mod upload;

pub mod history;

pub use bucket::{Bucket, BucketConfig, BucketError, BucketPlace};
pub use directory::DirectoryError;
pub use manifest::ManifestError;
pub use request_ids::RequestIds;
pub use retain::Retention;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use lariat_schema::cells::CellWidth;
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::{Boot, TableRange};
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

/// A sealed Parquet file. It stays on disk as long as some snapshot holds it, whatever compaction or retention do.
#[derive(Debug)]
pub struct SealedFile {
    /// Absolute path; below the bucket's root for one that is only there.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its number of rows.
    pub rows: u64,
    /// Event times of its rows.
    pub times: TimeRange,
    /// Its copy on this disk was given up for space: the bucket has it.
    pub only_in_bucket: bool,
    /// What sampling did to its rows, where that was written down.
    pub weights: Option<Weights>,
    /// The request ids of its rows, where they were written down.
    pub request_ids: Option<RequestIds>,
}

/// What sampling did to the rows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// The largest adjusted count, 1 at least.
    #[serde(with = "lariat_schema::double_text")]
    pub heaviest: f64,
    /// Rows without one.
    pub unknown: u64,
}

/// A file of longer cells, which holds rows of other files added up. Whoever reads an hour of it leaves those files out, and
/// whoever cannot leave out all of them leaves out that hour.
#[derive(Debug, Clone)]
pub struct CellFile {
    /// The file.
    pub file: Arc<SealedFile>,
    /// How much time its cells cover.
    pub width: CellWidth,
    /// The hours of it that stand.
    pub hours: Arc<[CellHour]>,
}

/// An hour of a file of longer cells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellHour {
    /// Which, in hours since 1970.
    pub hour: i64,
    /// Sequences of the files that it was made of; all rows of these lie in this hour.
    pub of: Vec<u64>,
}

impl CellHour {
    /// Its time.
    #[must_use]
    pub fn times(&self) -> TimeRange {
        let from = self.hour.saturating_mul(CellWidth::Hour.nanos());
        TimeRange::new(from, from.saturating_add(CellWidth::Hour.nanos()))
    }
}

/// One table of a store at one moment: every acknowledged row exactly once, in a file or in a batch.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The table.
    pub table: Table,
    /// Its sealed files.
    pub files: Vec<Arc<SealedFile>>,
    /// Longer cells of some of these files, if it is `rollups`.
    pub cells: Vec<CellFile>,
    /// Its hot rows, with the table's whole schema.
    pub batches: Vec<RecordBatch>,
    /// Commit time up to which everything acknowledged is in, Unix nanoseconds.
    pub watermark_unix_nanos: i64,
}

/// The reader's side of a store.
pub trait ReadStore: Send + Sync + 'static {
    /// Whose files these are.
    fn store_id(&self) -> StoreId;
    /// Pins a table as it is now.
    fn snapshot(&self, table: Table) -> Snapshot;
    /// Commit time up to which everything acknowledged is visible, Unix nanoseconds.
    fn watermark_unix_nanos(&self) -> i64;
    /// What each table holds.
    fn ranges(&self) -> Vec<TableRange>;
    /// A query could not read one of these files: whoever can looks at them.
    fn suspect(&self, _files: &[Arc<SealedFile>]) {}
    /// Where files are that are only in the bucket.
    fn bucket(&self) -> Option<Arc<dyn ObjectStore>> {
        None
    }
    /// The lives of its node, oldest first; empty where they are not recorded.
    fn boots(&self) -> Vec<Boot> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
