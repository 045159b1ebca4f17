//! The right to make one attempt on a channel, and what its outcome does to what is known of the channel. It is a guard: an
//! attempt that ends without an outcome, since its caller went away, gives the right back by being dropped.

use lariat_schema::vocabulary::{CircuitState, ErrorCategory};

use super::{Book, Cell, Change, DEFAULT_LIMITED_MS, MAX_CELLS_PER_CHANNEL};
use crate::circuit::{Lease, Transition};
use crate::classify;
use crate::health::evidence::Evidence;
use crate::health::{ChannelIndex, EvidenceKey};
use crate::profiles::ProfileKey;

/// The right to make one attempt on a channel; given back when dropped unsettled.
pub(crate) struct Admission<'b> {
    pub(super) book: &'b Book,
    pub(super) channel: ChannelIndex,
    pub(crate) lease: Lease,
    pub(super) settled: bool,
}

impl Admission<'_> {
    /// The attempt got an answer: of use, with its latency and the method it was for, or the call's own fault.
    pub(crate) fn succeed(mut self, useful: Option<(ProfileKey, &'static str, f64)>) -> Option<Change> {
        self.settled = true;
        let now_ms = self.book.now_ms();
        let mut cell = self.book.cells[self.channel.0].lock();
        cell.in_flight -= 1;
        if let Some((profile, method, latency_ms)) = useful {
            note(&mut cell, profile, method, |evidence| evidence.succeed(latency_ms, now_ms));
        }
        let transition = cell.circuit.succeed(self.lease);
        drop(cell);
        self.conclude(transition)
    }

    /// The attempt failed; `retry_after_ms` is the provider's own word on its rate limit.
    pub(crate) fn fail(
        mut self,
        category: ErrorCategory,
        scope: Option<EvidenceKey>,
        retry_after_ms: Option<u64>,
    ) -> Option<Change> {
        self.settled = true;
        let now_ms = self.book.now_ms();
        let shared = self.book.shared[self.channel.instance()];
        let mut cell = self.book.cells[self.channel.0].lock();
        cell.in_flight -= 1;
        let limited_ms = retry_after_ms.unwrap_or(DEFAULT_LIMITED_MS);
        if category == ErrorCategory::RateLimit {
            cell.limited_until_ms = cell.limited_until_ms.max(now_ms.saturating_add(limited_ms));
        }
        let penalised = classify::is_penalised(category)
            && (!shared || !matches!(category, ErrorCategory::Timeout | ErrorCategory::AuthError));
        let transition = if penalised {
            if let Some((profile, method)) = scope {
                note(&mut cell, profile, method, |evidence| evidence.fail(now_ms));
            }
            cell.circuit.fail(self.lease, category, now_ms, rand::random::<f64>())
        } else if category == ErrorCategory::RateLimit {
            cell.circuit.limit(self.lease, limited_ms, now_ms, rand::random::<f64>())
        } else {
            cell.circuit.release(self.lease);
            None
        };
        drop(cell);
        self.conclude(transition)
    }

    /// The attempt was given up since another channel answered first, after that long.
    pub(crate) fn outrun(mut self, profile: ProfileKey, method: &'static str, waited_ms: f64) {
        self.settled = true;
        let mut cell = self.book.cells[self.channel.0].lock();
        cell.in_flight -= 1;
        note(&mut cell, profile, method, |evidence| evidence.outrun(waited_ms));
        cell.circuit.release(self.lease);
        drop(cell);
        self.book.mark();
    }

    fn conclude(&self, transition: Option<Transition>) -> Option<Change> {
        if transition.is_some() || self.lease.state == CircuitState::HalfOpen {
            self.book.publish_change();
        } else {
            self.book.mark();
        }
        transition.map(|transition| Change { channel: self.channel, transition })
    }
}

fn note(cell: &mut Cell, profile: ProfileKey, method: &'static str, change: impl FnOnce(&mut Evidence)) {
    if cell.evidence.len() < MAX_CELLS_PER_CHANNEL || cell.evidence.contains_key(&(profile, method)) {
        change(cell.evidence.entry((profile, method)).or_default());
        cell.shared = None;
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let mut cell = self.book.cells[self.channel.0].lock();
            cell.in_flight -= 1;
            cell.circuit.release(self.lease);
            drop(cell);
            self.book.mark();
        }
    }
}
