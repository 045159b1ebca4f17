//! What a query service and a node say to each other about one query, as JSON: few, small and readable with `curl`.
//! Rows never travel this way.

use lariat_schema::cells::CellWidth;
use lariat_schema::coverage::Sampling;
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::{Boot, NodeIdentity, TableRange};
use lariat_schema::tables::Table;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Path of the request that pins.
pub const PIN_PATH: &str = "/v1/pin";
/// Path of the request that releases.
pub const RELEASE_PATH: &str = "/v1/release";

/// Pin these tables for this query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRequest {
    /// The query, made by the query service.
    pub query_id: Uuid,
    /// The tables that it reads.
    pub tables: Vec<Table>,
    /// How long the snapshot is held at most, in milliseconds.
    pub keep_ms: u64,
}

/// The tables are pinned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinReply {
    /// Who pinned.
    #[serde(flatten)]
    pub identity: NodeIdentity,
    /// Whose rows.
    pub store_id: StoreId,
    /// Version of the program.
    pub version: String,
    /// Whether a proxy's heartbeats are to be expected.
    pub has_proxy: bool,
    /// The node's clock, Unix nanoseconds.
    pub now_unix_nanos: i64,
    /// Commit time up to which everything acknowledged is in the snapshots, Unix nanoseconds.
    pub watermark_unix_nanos: i64,
    /// What each table of the store holds.
    pub ranges: Vec<TableRange>,
    /// The lives of the store's node so far, oldest first; empty where the store does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boots: Vec<Boot>,
    /// What sampling did to the pinned rows; of files as a whole.
    pub sampling: Sampling,
    /// How large the pinned files are, by table and day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<DaySize>,
    /// The same where longer cells are read in place of those that they were made of; of older versions nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cell_sizes: Vec<CellSize>,
    /// Whether its leaves leave out the files that they are told to. Those of an older version do not.
    #[serde(default)]
    pub leaves_files_out: bool,
}

/// The files of a table whose rows begin on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaySize {
    /// The table.
    pub table: Table,
    /// Time of the first row, Unix nanoseconds.
    pub from_unix_nanos: i64,
    /// First moment after the last row.
    pub to_unix_nanos: i64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// What is read of `rollups` where cells of a width are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSize {
    /// How wide.
    pub width: CellWidth,
    /// The files whose rows begin on one day.
    #[serde(flatten)]
    pub day: DaySize,
}

/// The query is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// Which.
    pub query_id: Uuid,
}

/// What the query read here.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ReleaseReply {
    /// Rows that the leaves handed on, after their filters.
    pub rows: u64,
    /// Bytes read from files and hot batches.
    pub bytes: u64,
    /// Files opened.
    pub files: u64,
    /// Milliseconds from the pin to the end of the last leaf.
    pub elapsed_ms: f64,
    /// What did not have to be read.
    #[serde(default)]
    pub pruned: Pruned,
}

/// What was ruled out before it was read, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pruned {
    /// Files, by the time of their rows in the manifest.
    pub files: u64,
    /// Row groups, by their statistics.
    pub row_groups: u64,
    /// Row groups, by bloom filters.
    pub row_groups_by_bloom_filter: u64,
    /// Pages, by the page index.
    pub pages: u64,
}

impl Pruned {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            files: self.files.saturating_add(other.files),
            row_groups: self.row_groups.saturating_add(other.row_groups),
            row_groups_by_bloom_filter: self
                .row_groups_by_bloom_filter
                .saturating_add(other.row_groups_by_bloom_filter),
            pages: self.pages.saturating_add(other.pages),
        }
    }
}
