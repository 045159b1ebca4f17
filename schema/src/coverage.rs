//! How much of the expected node-time an answer includes: the object that travels with every answer, in the shape that
//! the design's section 7 gives it. Built by the query service; read by the dashboard, the command line and the tests.

use serde::{Deserialize, Serialize};

use crate::closed_enum::closed_enum;

closed_enum! {
    /// Why a stretch of node-time is missing.
    pub enum Why ("reason of missing node-time") {
        /// No heartbeat: the node was not running.
        Down = "down",
        /// The node did not answer this query.
        Unreachable = "unreachable",
        /// Running, its rows not committed yet.
        Late = "late",
        /// A hole in the sequence, or data gone before its retention.
        Lost = "lost",
        /// Past its retention.
        Expired = "expired",
        /// A boot without farewell, or nothing can be shown.
        Unknown = "unknown",
    }
}

closed_enum! {
    /// State of a node as the query service knows it.
    pub enum NodeState ("node state") {
        /// An address is known, nothing more.
        Connected = "connected",
        /// Its identity and region are being asked for.
        Discovering = "discovering",
        /// It answers health checks.
        Responding = "responding",
        /// It proved a recent commit and answered a query.
        Ready = "ready",
        /// Two health checks in a row failed.
        Unresponsive = "unresponsive",
        /// Its address refuses connections or is gone from discovery.
        Disconnected = "disconnected",
        /// Expected, and never came.
        NeverSeen = "never_seen",
    }
}

/// Coverage of one answer. Counts of nodes are of now; `ratio` is covered over expected node-time in the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// `answered` = `expected` and `ratio` = 1.
    pub complete: bool,
    /// Covered over expected node-time, 0 to 1.
    pub ratio: f64,
    /// Nodes that should exist.
    pub expected: u32,
    /// Nodes with a connection.
    pub connected: u32,
    /// Nodes that answer health checks.
    pub responding: u32,
    /// Nodes whose rows are in this answer.
    pub answered: u32,
    /// The time that was asked for.
    pub window: Window,
    /// Identity of the query, for `coverage_of`.
    pub query_id: String,
    /// One entry per region.
    pub regions: Vec<RegionCoverage>,
    /// One entry per node; left out where the place for it is small.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeCoverage>,
}

/// The time that an answer is about, RFC 3339 UTC with nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First moment; null when there is no data at all.
    pub from: Option<String>,
    /// First moment after it.
    pub to: Option<String>,
    /// From here on slices are open: read, but neither expected nor missing.
    pub open_from: Option<String>,
}

/// Coverage of one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionCoverage {
    /// Its name; `unknown` for nodes that never told.
    pub region: String,
    /// Nodes that should exist in it.
    pub expected: u32,
    /// Nodes of it in this answer.
    pub answered: u32,
    /// Covered over expected node-time.
    pub ratio: f64,
}

/// Coverage of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeCoverage {
    /// Its name, or its address where it never told one.
    pub node_id: String,
    /// Its region.
    pub region: String,
    /// What the topology says of it.
    pub state: NodeState,
    /// Whether its rows are in this answer.
    pub answered: bool,
    /// `live`, `bucket`, or null where nothing came.
    pub source: Option<String>,
    /// Covered over expected node-time.
    pub ratio: f64,
    /// What is missing.
    pub missing: Vec<Missing>,
    /// Commit time up to which its rows are in.
    pub watermark: Option<String>,
    /// Rows read from it.
    pub rows: u64,
    /// Time until it had answered, in milliseconds.
    pub elapsed_ms: f64,
    /// Why it did not answer.
    pub error: Option<String>,
    /// What `ratio` is of. It does not travel.
    #[serde(skip)]
    pub slices: Slices,
}

/// Slices of node-time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slices {
    /// In which the node should have been there.
    pub expected: u64,
    /// Of them, those whose rows are in the answer.
    pub covered: u64,
}

/// A stretch of node-time that an answer lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// First moment.
    pub from: String,
    /// First moment after it.
    pub to: String,
    /// Why.
    pub why: Why,
}

/// What sampling did to the rows behind an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// True if some row stands for more than itself.
    pub weighted: bool,
    /// Lowest inclusion probability among them.
    pub min_probability: f64,
    /// Share of rows whose weight is not known.
    pub unknown_weight_share: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { weighted: false, min_probability: 1.0, unknown_weight_share: 0.0 }
    }
}
