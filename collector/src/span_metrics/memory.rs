//! What was counted and is not written yet, taken out at one moment and put back by the next process.
//!
//! Of each series only what came since it was last written: the next process may have another name, and must not count
//! for itself what stands in the table under this one. The recalled series start when the others were last written.

use serde::{Deserialize, Serialize};

use super::graph::{CONNECTIONS, Call, Counts, Half, Peer, Side};
use super::{Latency, SpanMetrics, kind, status};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    spans: Vec<SavedSpans>,
    edges: Vec<SavedEdge>,
    halves: Vec<SavedHalf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedSpans {
    service: Box<str>,
    name: Box<str>,
    kind: String,
    status: String,
    start_unix_nanos: i64,
    latency: Latency,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedEdge {
    client: Box<str>,
    server: Box<str>,
    connection: String,
    start_unix_nanos: i64,
    counts: Counts,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedHalf {
    since_unix_nanos: i64,
    call: Call,
    side: Side,
    service: Box<str>,
    connection: String,
    peer: Option<Peer<'static>>,
    nanos: i64,
    failed: bool,
}

impl SpanMetrics {
    /// What is not written yet.
    pub(crate) fn memory(&self) -> Memory {
        let start = |started: i64, has_written: bool| if has_written { self.written_unix_nanos } else { started };
        let spans = self.spans.iter().filter(|spans| spans.latency.count > spans.written.0.count);
        let edges = self.graph.edges().filter(|edge| edge.counts.requests > edge.written.requests);
        Memory {
            spans: spans
                .map(|spans| SavedSpans {
                    service: spans.whose.service.clone(),
                    name: spans.whose.name.clone(),
                    kind: spans.whose.kind.to_owned(),
                    status: spans.whose.status.to_owned(),
                    start_unix_nanos: start(spans.start_unix_nanos, spans.written.0.count > 0),
                    latency: spans.latency.since(&spans.written.0),
                    bytes: spans.bytes.saturating_sub(spans.written.1),
                })
                .collect(),
            edges: edges
                .map(|edge| SavedEdge {
                    client: edge.client.clone(),
                    server: edge.server.clone(),
                    connection: edge.connection.to_owned(),
                    start_unix_nanos: start(edge.start_unix_nanos, edge.written.requests > 0),
                    counts: edge.counts.since(&edge.written),
                })
                .collect(),
            halves: self
                .graph
                .waiting()
                .map(|(since_unix_nanos, call, half)| SavedHalf {
                    since_unix_nanos,
                    call,
                    side: half.side,
                    service: half.service.as_ref().into(),
                    connection: half.connection.to_owned(),
                    peer: half.peer.clone(),
                    nanos: half.nanos,
                    failed: half.failed,
                })
                .collect(),
        }
    }

    /// Counts on from what was not written, and from nothing else.
    pub(crate) fn recall(&mut self, memory: Memory) {
        *self = Self::default();
        for saved in memory.spans {
            let (kind, status) = (known(&saved.kind, &KINDS, kind("")), known(&saved.status, &STATUSES, status("")));
            let spans = self.series(&saved.service, &saved.name, kind, status, saved.start_unix_nanos);
            (spans.latency, spans.bytes) = (saved.latency, saved.bytes);
        }
        for saved in memory.edges {
            let connection = known(&saved.connection, &CONNECTIONS, "");
            let ends = (&*saved.client, &*saved.server, connection);
            self.graph.recall_edge(ends, saved.start_unix_nanos, saved.counts);
        }
        for saved in memory.halves {
            let SavedHalf { since_unix_nanos, call, side, service, connection, peer, nanos, failed } = saved;
            let connection = known(&connection, &CONNECTIONS, "");
            let half = Half { side, service: service.into_string().into(), connection, peer, nanos, failed };
            self.graph.recall_half(since_unix_nanos, call, half);
        }
    }
}

#[cfg(test)]
impl Memory {
    pub(crate) fn spans_and_edges(&self) -> (usize, usize) {
        (self.spans.len(), self.edges.len())
    }
}

const KINDS: [&str; 6] = [
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
    "SPAN_KIND_UNSPECIFIED",
];
const STATUSES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", super::ERROR];

/// The one of these texts that it is.
fn known(text: &str, all: &[&'static str], otherwise: &'static str) -> &'static str {
    all.iter().copied().find(|known| *known == text).unwrap_or(otherwise)
}
