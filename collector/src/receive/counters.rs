//! What the receiver did, for the ledger and for `/metrics`. Numbers only grow, except what is held.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use lariat_schema::vocabulary::{RefusalReason, Signal};

use crate::held::{Held, PARTS};

/// The receiver's counts since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// What stands between the receivers and the log.
    pub(crate) held: Held,
    requests: AtomicU64,
    bytes: AtomicU64,
    refused: [Refused; RefusalReason::ALL.len()],
    refused_connections: AtomicU64,
    rejected: [AtomicU64; 3],
    malformed_selections: AtomicU64,
}

#[derive(Debug, Default)]
struct Refused {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// Requests that were not taken in for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusals {
    /// Why.
    pub reason: RefusalReason,
    /// How many.
    pub requests: u64,
    /// Bytes read of them, as they came.
    pub bytes: u64,
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
    /// What was refused, by reason; reasons that did not occur are left out.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusals> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of = |(reason, refused): (&RefusalReason, &Refused)| Refusals {
            reason: *reason,
            requests: read(&refused.requests),
            bytes: read(&refused.bytes),
        };
        RefusalReason::ALL.iter().zip(&self.refused).map(of).filter(|refused| refused.requests > 0).collect()
    }

    /// All counts as they are now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refusals = self.refusals();
        let malformed = refusals.iter().find(|refused| refused.reason == RefusalReason::Malformed);
        Counts {
            requests: read(&self.requests),
            bytes: read(&self.bytes),
            refused_requests: refusals.iter().map(|refused| refused.requests).sum(),
            refused_bytes: refusals.iter().map(|refused| refused.bytes).sum(),
            refused_connections: read(&self.refused_connections),
            rejected_spans: read(&self.rejected[0]),
            rejected_points: read(&self.rejected[1]),
            rejected_log_records: read(&self.rejected[2]),
            malformed: malformed.map_or(0, |refused| refused.requests),
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
        let name = "lariat_receive_refusals_total";
        let _ = writeln!(text, "# HELP {name} Requests not taken in, by reason\n# TYPE {name} counter");
        for Refusals { reason, requests, .. } in self.refusals() {
            let _ = writeln!(text, "{name}{{reason=\"{reason}\"}} {requests}");
        }
    }

    /// What is held between the receivers and the log, in the same format.
    pub(crate) fn expose_held(&self, text: &mut String) {
        let name = "lariat_collector_receive_to_log_bytes";
        let help = "Bytes held from the first byte of a request to the log";
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (part, label) in PARTS {
            let _ = writeln!(text, "{name}{{part=\"{label}\"}} {}", self.held.of(part));
        }
        let (name, peak) = ("lariat_collector_receive_to_log_peak_bytes", self.held.peak());
        let _ = writeln!(text, "# HELP {name} The most that all of it ever was\n# TYPE {name} gauge\n{name} {peak}");
    }

    pub(super) fn acknowledged(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        add(&self.bytes, bytes);
    }

    pub(crate) fn refused(&self, bytes: usize, reason: RefusalReason) {
        if let Some(refused) = self.refused.get(reason as usize) {
            refused.requests.fetch_add(1, Ordering::Relaxed);
            add(&refused.bytes, bytes);
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
