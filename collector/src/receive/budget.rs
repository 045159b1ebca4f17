//! The bytes that requests in flight may hold, from the first byte read to the acknowledgement.
//!
//! A request reserves before it allocates, so that overload is refused while it is still cheap. Waiting for room
//! instead of refusing was rejected: the waiting requests would hold what they have read, and the sender, who can
//! keep its data, would not learn that it should slow down.

use std::sync::Arc;

use super::counters::Counters;
use crate::held::{Held, Part};

/// Bytes of a process that requests share.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    counters: Arc<Counters>,
}

/// There is no room now; there will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

impl Budget {
    pub(super) fn new(limit: usize, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { limit, counters })
    }

    /// Bytes reserved at the moment.
    pub(super) fn used(&self) -> usize {
        self.held().of(Part::Requests)
    }

    fn held(&self) -> &Held {
        &self.counters.held
    }

    /// A reservation of nothing, to be grown.
    pub(super) fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one request holds; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// Reserves `bytes` more.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if !self.budget.held().try_add(Part::Requests, bytes, self.budget.limit) {
            return Err(Exhausted);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Gives `bytes` back, which were freed.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.held().give_back(Part::Requests, bytes);
    }

    /// Becomes what the decoded request really takes, even beyond the limit: the memory is committed already, and new
    /// requests are refused until it is gone. How far beyond is bounded by the number of decoders.
    pub(super) fn become_bytes(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.held().add(Part::Requests, bytes - self.bytes);
            self.bytes = bytes;
        } else {
            self.shrink(self.bytes - bytes);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.held().give_back(Part::Requests, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_refused_beyond_the_limit_and_given_back_when_dropped() {
        let budget = Budget::new(100, Arc::default());
        let mut first = budget.reservation();
        first.grow(60).unwrap();
        let mut second = budget.reservation();
        assert_eq!(second.grow(41), Err(Exhausted));
        second.grow(40).unwrap();
        drop(first);
        second.grow(60).unwrap();
        assert_eq!(budget.used(), 100);
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_committed_already_counts_even_beyond_the_limit() {
        let budget = Budget::new(100, Arc::default());
        let mut reservation = budget.reservation();
        reservation.grow(50).unwrap();
        reservation.become_bytes(150);
        assert_eq!(budget.reservation().grow(1), Err(Exhausted));
        reservation.become_bytes(10);
        assert_eq!(budget.used(), 10);
    }
}
