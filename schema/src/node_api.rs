//! What a node says of itself on its node API (port 4319), apart from rows. `GET /v1/info` answers [`NodeInfo`] and
//! `GET /v1/live` a stream of [`crate::live::LiveEvent`] lines, both behind the cluster token; `/health` and `/ready`
//! are open.

use serde::{Deserialize, Serialize};

use crate::coverage::Why;
use crate::ids::{BootId, NodeId, Region, StoreId};
use crate::tables::Table;

/// Who a process is, made once at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Current name.
    pub node_id: NodeId,
    /// Region.
    pub region: Region,
    /// New at every start.
    pub boot_id: BootId,
}

/// Answer of `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Who it is.
    #[serde(flatten)]
    pub identity: NodeIdentity,
    /// Whose files it keeps.
    pub store_id: StoreId,
    /// Version of the program.
    pub version: String,
    /// Start of this boot, Unix nanoseconds.
    pub started_unix_nanos: i64,
    /// The node's clock at the answer, Unix nanoseconds: the query service takes the offset from it.
    pub now_unix_nanos: i64,
    /// Commit time up to which everything acknowledged is visible to queries, Unix nanoseconds.
    pub watermark_unix_nanos: i64,
    /// Whether the node runs a proxy, whose heartbeats are then expected.
    pub has_proxy: bool,
    /// What each table holds.
    pub ranges: Vec<TableRange>,
    /// What is sent on to another OTLP endpoint; none where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<ForwardInfo>,
}

/// What a node sends on of what it received, since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardInfo {
    /// Requests that the other side took.
    pub delivered_requests: u64,
    /// Requests that were given up: refused for good, or out of room.
    pub dropped_requests: u64,
    /// Records that the other side rejected out of delivered requests.
    pub rejected_records: u64,
    /// Requests that wait or are under way.
    pub waiting_requests: u64,
    /// Bytes of the queue on the disk.
    pub waiting_bytes: u64,
    /// Age of the oldest request under way, nanoseconds.
    pub lag_nanos: i64,
    /// Whether the other side takes nothing at the moment.
    pub failing: bool,
}

/// What a table of a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRange {
    /// The table.
    pub table: Table,
    /// Event time of the oldest row, Unix nanoseconds; none where there are no rows.
    pub from_unix_nanos: Option<i64>,
    /// Event time of the newest row, Unix nanoseconds, included.
    pub to_unix_nanos: Option<i64>,
    /// Number of rows.
    pub rows: u64,
    /// Stretches of event time that had rows which are gone, in order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Gone>,
}

/// A stretch of event time that had rows which are gone: coverage must say so (I-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Event time of the first of them, Unix nanoseconds.
    pub from_unix_nanos: i64,
    /// First moment after the last of them, Unix nanoseconds.
    pub to_unix_nanos: i64,
    /// How many they were.
    pub rows: u64,
    /// [`Why::Expired`] past their retention, [`Why::Lost`] before it.
    pub why: Why,
}
