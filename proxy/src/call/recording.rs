//! The record of a call under way. Whoever drops the call, and that is what a client does who goes away, drops this with
//! it; so the record is handed over from `Drop`, and none can be forgotten.

use std::time::{Duration, Instant};

use crate::record::{DecisionRecord, Item, Recorder};

/// A record under way. It is handed over when finished, or, as abandoned, when dropped before.
pub(super) struct Recording<'a> {
    pub(super) recorder: &'a Recorder,
    pub(super) record: Option<Box<DecisionRecord>>,
    pub(super) started: Instant,
    /// Start of the attempt that is under way; its record is the last one.
    pub(super) attempting: Option<Instant>,
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            if let (Some(since), Some(attempt)) = (self.attempting, record.attempts.last_mut()) {
                attempt.duration_ns = nanos(since.elapsed());
                record.timing.provider_ns += attempt.duration_ns;
            }
            record.timing.duration_ns = nanos(self.started.elapsed());
            self.recorder.hand_over(Item::Decision(record));
        }
        self.recorder.counters.in_flight.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
