//! What was sent on and what was not, for `/metrics` and for what the node says of itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use lariat_schema::node_api::ForwardInfo;
use parking_lot::Mutex;

use super::outcome::Refused;
use super::queue::Losses;

/// No request is under way.
const NONE: i64 = i64::MAX;

/// Counts of one forwarder since its start.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(super) queued: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) delivered_bytes: AtomicU64,
    pub(super) rejected_records: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) unqueued: AtomicU64,
    pub(super) looped: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) queue_bytes: AtomicU64,
    pub(super) failing: AtomicBool,
    oldest_unix_nanos: AtomicI64,
    losses: Mutex<Losses>,
    refused: Mutex<BTreeMap<Refused, u64>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            queued: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            rejected_records: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            unqueued: AtomicU64::new(0),
            looped: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            queue_bytes: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            oldest_unix_nanos: AtomicI64::new(NONE),
            losses: Mutex::default(),
            refused: Mutex::default(),
        }
    }
}

impl Counters {
    /// One more that was given up; tells how many that makes with this reason.
    pub(super) fn refused(&self, code: Refused) -> u64 {
        let mut refused = self.refused.lock();
        let count = refused.entry(code).or_insert(0);
        *count += 1;
        *count
    }

    pub(super) fn put_losses(&self, losses: Losses) {
        *self.losses.lock() = losses;
    }

    /// When the oldest request that is under way was received.
    pub(super) fn put_oldest(&self, unix_nanos: Option<i64>) {
        self.oldest_unix_nanos.store(unix_nanos.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// The figures of the node's own account of itself.
    pub(crate) fn info(&self, now_unix_nanos: i64) -> ForwardInfo {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let oldest = self.oldest_unix_nanos.load(Ordering::Relaxed);
        ForwardInfo {
            delivered_requests: load(&self.delivered),
            dropped_requests: self.dropped().iter().map(|(_, count)| count).sum(),
            rejected_records: load(&self.rejected_records),
            waiting_requests: load(&self.waiting) + load(&self.in_flight),
            waiting_bytes: load(&self.queue_bytes),
            lag_nanos: if oldest == NONE { 0 } else { now_unix_nanos.saturating_sub(oldest).max(0) },
            failing: self.failing.load(Ordering::Relaxed),
        }
    }

    fn dropped(&self) -> Vec<(String, u64)> {
        let losses = *self.losses.lock();
        let mut dropped = vec![
            ("queue_full".to_owned(), losses.overflow),
            ("too_large".to_owned(), losses.too_large),
            ("loop".to_owned(), self.looped.load(Ordering::Relaxed)),
            ("disk".to_owned(), losses.disk + self.unqueued.load(Ordering::Relaxed)),
        ];
        dropped.extend(self.refused.lock().iter().map(|(code, count)| (code.to_string(), *count)));
        dropped
    }

    /// The counters in Prometheus' text format.
    pub(crate) fn expose(&self, now_unix_nanos: i64, text: &mut String) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let info = self.info(now_unix_nanos);
        let torn = self.losses.lock().torn_bytes;
        for (name, kind, help, value) in [
            ("queued_requests_total", "counter", "Requests queued to be sent on", load(&self.queued)),
            ("delivered_requests_total", "counter", "Requests that the other side took", info.delivered_requests),
            ("delivered_bytes_total", "counter", "Bytes of those as sent", load(&self.delivered_bytes)),
            (
                "rejected_records_total",
                "counter",
                "Records that the other side rejected of those",
                info.rejected_records,
            ),
            ("retries_total", "counter", "Attempts that failed and are repeated", load(&self.retries)),
            ("torn_bytes_total", "counter", "Bytes cut off the queue at start", torn),
            ("waiting_requests", "gauge", "Requests that wait or are under way", info.waiting_requests),
            ("waiting_bytes", "gauge", "Bytes of the queue on the disk", info.waiting_bytes),
            ("failing", "gauge", "1 while the other side does not take requests", u64::from(info.failing)),
        ] {
            let _ = writeln!(
                text,
                "# HELP lariat_forward_{name} {help}\n# TYPE lariat_forward_{name} {kind}\nlariat_forward_{name} {value}"
            );
        }
        let lag = info.lag_nanos as f64 / 1e9;
        let _ = writeln!(
            text,
            "# HELP lariat_forward_lag_seconds Age of the oldest request under way\n# TYPE lariat_forward_lag_seconds gauge\nlariat_forward_lag_seconds {lag}\n\
             # HELP lariat_forward_dropped_requests_total Requests that were given up\n# TYPE lariat_forward_dropped_requests_total counter"
        );
        for (reason, count) in self.dropped() {
            let _ = writeln!(text, "lariat_forward_dropped_requests_total{{reason=\"{reason}\"}} {count}");
        }
    }
}
