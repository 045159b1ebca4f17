//! What the receiver did, for the ledger and for `/metrics`. Numbers only grow.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use lariat_schema::vocabulary::Signal;

/// The receiver's counts since its start.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    refused_requests: AtomicU64,
    refused_bytes: AtomicU64,
    refused_connections: AtomicU64,
    rejected: [AtomicU64; 3],
    malformed: AtomicU64,
    malformed_selections: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests acknowledged.
    pub requests: u64,
    /// Their bytes, uncompressed.
    pub bytes: u64,
    /// Requests not taken in, whatever the reason.
    pub refused_requests: u64,
    /// Bytes read of those, as they came.
    pub refused_bytes: u64,
    /// Connections closed at once since there were too many.
    pub refused_connections: u64,
    /// Spans rejected out of acknowledged requests.
    pub rejected_spans: u64,
    /// Points rejected out of acknowledged requests.
    pub rejected_points: u64,
    /// Log records rejected out of acknowledged requests.
    pub rejected_log_records: u64,
    /// Requests whose bytes were no OTLP.
    pub malformed: u64,
    /// Decision events kept as plain events since their arrays do not match.
    pub malformed_selections: u64,
}

impl Counters {
    /// All counts as they are now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: read(&self.requests),
            bytes: read(&self.bytes),
            refused_requests: read(&self.refused_requests),
            refused_bytes: read(&self.refused_bytes),
            refused_connections: read(&self.refused_connections),
            rejected_spans: read(&self.rejected[0]),
            rejected_points: read(&self.rejected[1]),
            rejected_log_records: read(&self.rejected[2]),
            malformed: read(&self.malformed),
            malformed_selections: read(&self.malformed_selections),
        }
    }

    /// The counts in Prometheus' text format.
    pub(crate) fn expose(&self, text: &mut String) {
        let counts = self.counts();
        for (name, help, value) in [
            ("acknowledged_requests_total", "Requests acknowledged", counts.requests),
            ("acknowledged_bytes_total", "Bytes of acknowledged requests, uncompressed", counts.bytes),
            ("refused_requests_total", "Requests not taken in, whatever the reason", counts.refused_requests),
            ("refused_bytes_total", "Bytes read of refused requests, as they came", counts.refused_bytes),
            ("malformed_requests_total", "Requests whose bytes were no OTLP", counts.malformed),
            ("refused_connections_total", "Connections closed since there were too many", counts.refused_connections),
            ("rejected_spans_total", "Spans rejected out of acknowledged requests", counts.rejected_spans),
            ("rejected_points_total", "Points rejected out of acknowledged requests", counts.rejected_points),
            (
                "rejected_log_records_total",
                "Log records rejected out of acknowledged requests",
                counts.rejected_log_records,
            ),
            ("malformed_selections_total", "Decision events kept as plain events", counts.malformed_selections),
        ] {
            let _ = writeln!(
                text,
                "# HELP lariat_receive_{name} {help}\n# TYPE lariat_receive_{name} counter\nlariat_receive_{name} {value}"
            );
        }
    }

    pub(super) fn acknowledged(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        add(&self.bytes, bytes);
    }

    pub(super) fn refused(&self, bytes: usize, malformed: bool) {
        self.refused_requests.fetch_add(1, Ordering::Relaxed);
        add(&self.refused_bytes, bytes);
        if malformed {
            self.malformed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn refused_connection(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self, signal: Signal, records: u64) {
        let place = match signal {
            Signal::Traces => 0,
            Signal::Metrics => 1,
            Signal::Logs => 2,
        };
        self.rejected[place].fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn malformed_selections(&self, events: u64) {
        self.malformed_selections.fetch_add(events, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}
