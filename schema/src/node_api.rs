//! What a node says of itself on its node API (port 4319), apart from rows. `GET /v1/info` answers [`NodeInfo`],
//! `GET /v1/live` a stream of [`crate::live::LiveEvent`] lines and `GET /v1/farewell` a stream of [`LastWord`] lines, all
//! behind the cluster token; `/health` and `/ready` are open.

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
    /// The lives of this store's node so far, oldest first; empty where the store does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boots: Vec<Boot>,
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

/// A line of `GET /v1/farewell`: the first one at once, so that a reader knows to be connected; the second when the node
/// ends cleanly. A stream that breaks without a second line is no farewell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWord {
    /// Which boot speaks.
    pub boot_id: BootId,
    /// The moment of the farewell by the node's clock, Unix nanoseconds; absent in the first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub farewell_unix_nanos: Option<i64>,
}

/// One life of a node as its store recorded it: what was heard of it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Which.
    pub boot_id: BootId,
    /// Its beginning, Unix nanoseconds.
    pub started_unix_nanos: i64,
    /// From here on everything that was heard is listed; later than the beginning where there were too many stretches.
    pub known_from_unix_nanos: i64,
    /// When the collector wrote its own status.
    pub statuses: Vec<Heard>,
    /// When heartbeats of the proxy came, with the decisions that they number; empty if it never had one.
    pub heartbeats: Vec<Heard>,
    /// When the proxy said farewell, Unix nanoseconds.
    pub proxy_farewell_unix_nanos: Option<i64>,
    /// When the node ended cleanly, Unix nanoseconds.
    pub farewell_unix_nanos: Option<i64>,
}

/// A stretch of time in which signs of life came one after another and no decision that they number is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The first sign, Unix nanoseconds.
    pub from_unix_nanos: i64,
    /// The last sign, Unix nanoseconds, included.
    pub to_unix_nanos: i64,
    /// Decisions numbered between the stretch before (or the boot's beginning) and this one that were not received.
    pub missing_before: u64,
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
