//! What a node tells its live subscribers, one JSON object per line, and what the query service passes on to browsers.
//! A whitelist: a field that is added to a record does not reach a browser by accident.

use serde::{Deserialize, Serialize};

/// One line of a node's live stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LiveEvent {
    /// A kept decision.
    Decision(Box<LiveDecision>),
    /// A circuit transition.
    Circuit(LiveTransition),
    /// A change of a provider's health.
    Health(LiveTransition),
    /// A new height of a provider.
    Block(LiveBlock),
    /// The subscriber was too slow: so many events were left out.
    Gap {
        /// How many.
        missed: u64,
    },
    /// Nothing happened for a while.
    Heartbeat,
}

/// A kept decision, columns as in `routing_decisions`; durations in nanoseconds, ids as text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the columns, which docs/data.md explains")]
pub struct LiveDecision {
    /// RFC 3339 UTC with nanoseconds.
    pub time: String,
    pub request_id: String,
    pub batch_index: i32,
    pub trace_id: String,
    pub node_id: String,
    pub region: String,
    pub profile: String,
    pub account_id: Option<String>,
    pub chain: String,
    pub method: String,
    pub strategy: Option<String>,
    pub provider_id: Option<String>,
    pub transport: Option<String>,
    pub client_transport: Option<String>,
    pub origin: Option<String>,
    pub answered_by: Option<String>,
    pub result: String,
    pub error_category: Option<String>,
    pub status_code: Option<String>,
    pub attempts: i32,
    pub failovers: i32,
    pub duration_ns: i64,
    pub adjusted_count: Option<f64>,
    pub keep_reason: String,
}

/// A change from one state to another.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the columns")]
pub struct LiveTransition {
    pub time: String,
    pub node_id: String,
    pub region: String,
    pub profile: String,
    pub chain: String,
    pub provider_id: String,
    pub transport: String,
    pub from: String,
    pub to: String,
    pub reason: String,
}

/// A provider's height.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the columns")]
pub struct LiveBlock {
    pub time: String,
    pub node_id: String,
    pub region: String,
    pub profile: String,
    pub chain: String,
    pub provider_id: String,
    pub transport: String,
    pub height: i64,
    pub lag: Option<i64>,
}
