//! The record of a call under way. Whoever drops the call, and that is what a client does who goes away, drops this with
//! it; so the record is handed over from `Drop`, and none can be forgotten. Two attempts may be under way at once; the
//! time that providers took is that in which at least one was, so that the parts of a call's time add up to it.

use std::time::Duration;

use tokio::time::Instant;

use crate::record::{Attempt, DecisionRecord, Item, Recorder};

/// An attempt and its hedge.
const UNDER_WAY_AT_MOST: usize = 2;

/// A record under way. It is handed over when finished, or, as abandoned, when dropped before.
pub(super) struct Recording<'a> {
    recorder: &'a Recorder,
    /// Taken only by `Drop`.
    record: Option<Box<DecisionRecord>>,
    pub(super) started: Instant,
    /// The attempts under way: their places in the record, and when they started.
    under_way: [Option<(usize, Instant)>; UNDER_WAY_AT_MOST],
    /// Since when at least one is.
    busy_since: Option<Instant>,
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<'a> Recording<'a> {
    pub(super) fn new(recorder: &'a Recorder, record: Box<DecisionRecord>) -> Self {
        recorder.counters.in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let started = Instant::now();
        Self { recorder, record: Some(record), started, under_way: [None; UNDER_WAY_AT_MOST], busy_since: None }
    }

    pub(super) fn record(&mut self) -> &mut DecisionRecord {
        self.record.as_mut().expect("the record is taken only at the end")
    }

    pub(super) fn look(&self) -> &DecisionRecord {
        self.record.as_ref().expect("the record is taken only at the end")
    }

    /// True while an attempt is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.busy_since.is_some()
    }

    /// Notes that an attempt starts, as what it is if it never ends; returns its place in the record.
    pub(super) fn begin(&mut self, attempt: Attempt) -> usize {
        let now = Instant::now();
        let record = self.record();
        record.attempts.push(attempt);
        let at = record.attempts.len() - 1;
        self.busy_since.get_or_insert(now);
        if let Some(free) = self.under_way.iter_mut().find(|place| place.is_none()) {
            *free = Some((at, now));
        }
        at
    }

    /// Notes that it ended, and returns it with the time since its start filled in.
    pub(super) fn end(&mut self, at: usize) -> &mut Attempt {
        let mut elapsed = Duration::ZERO;
        for place in &mut self.under_way {
            if let Some((_, since)) = place.take_if(|(one, _)| *one == at) {
                elapsed = since.elapsed();
            }
        }
        if self.under_way.iter().all(Option::is_none)
            && let Some(since) = self.busy_since.take()
        {
            self.record().timing.provider_ns += nanos(since.elapsed());
        }
        let attempt = &mut self.record().attempts[at];
        attempt.duration_ns = nanos(elapsed);
        attempt
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        for at in self.under_way.map(|place| place.map(|(at, _)| at)).into_iter().flatten() {
            self.end(at);
        }
        if let Some(mut record) = self.record.take() {
            record.timing.duration_ns = nanos(self.started.elapsed());
            self.recorder.hand_over(Item::Decision(record));
        }
        self.recorder.counters.in_flight.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
