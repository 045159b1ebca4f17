//! What a store says of itself in the bucket: one small object beside its files, so that its rows can be read, and what
//! is missing of them told, when its node is gone.
//!
//! The files alone would not do: whoever lists them cannot know whether more were to come. The manifest is replaced
//! whole after the files that it names are there, so that each file that it names can be read.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Region, StoreId};
use crate::node_api::{Boot, Gone};
use crate::tables::Table;
use crate::time_range::TimeRange;

/// Version of [`StoreManifest`]; fields are only ever added within one.
pub const VERSION: u32 = 1;

/// Folder of the stores' manifests, below the bucket's root.
pub const MANIFESTS_DIR: &str = "manifests";

/// Path of a store's manifest below the bucket's root.
#[must_use]
pub fn manifest_path(store: StoreId) -> String {
    format!("{MANIFESTS_DIR}/store={store}.json")
}

/// Folder of what query services know of the fleet's members, below the bucket's root.
pub const MEMBERSHIP_DIR: &str = "membership";

/// Path of what a query service knows of the members, below the bucket's root; the id is of its data directory.
#[must_use]
pub fn membership_path(query_service: uuid::Uuid) -> String {
    format!("{MEMBERSHIP_DIR}/query={query_service}.json")
}

/// What a store has in the bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreManifest {
    /// Version of this form.
    pub version: u32,
    /// Whose files these are.
    pub store_id: StoreId,
    /// Name of its node when this was written.
    pub node_id: NodeId,
    /// Region of its node.
    pub region: Region,
    /// The node's clock when this was written, Unix nanoseconds.
    pub written_unix_nanos: i64,
    /// The lives of its node when this was written, oldest first; empty in manifests that are older than this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boots: Vec<Boot>,
    /// One entry per table.
    pub tables: Vec<TableInBucket>,
}

/// What a store has of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableInBucket {
    /// The table.
    pub table: Table,
    /// The cut, as a commit time in Unix nanoseconds: every row with an earlier `observed_time` is in `files`, or gone.
    /// Later ones may be there too, or on the node only.
    pub cut_unix_nanos: i64,
    /// Stretches of event time whose rows are gone.
    pub gone: Vec<Gone>,
    /// Its files.
    pub files: Vec<FileInBucket>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileInBucket {
    /// Below the bucket's root, by [`crate::layout::file_path`].
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// CRC-32 of all its bytes.
    pub crc32: u32,
    /// Event times of its rows.
    pub times: TimeRange,
    /// Commit times of its rows.
    pub commits: TimeRange,
    /// Its node has no copy of its own any longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_here: bool,
    /// What sampling did to its rows, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<FileWeights>,
}

/// What sampling did to the rows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FileWeights {
    /// The largest adjusted count, 1 at least.
    #[serde(with = "crate::double_text")]
    pub heaviest: f64,
    /// Rows without one.
    pub unknown: u64,
}
