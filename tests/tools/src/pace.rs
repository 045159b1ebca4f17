//! When each request of a load is due. Requests are numbered tickets, and ticket n is due n / rate after the start,
//! whatever became of the ones before it: a late answer never moves the schedule. A worker that takes its ticket too
//! late measures from when it was due, so that the wait for a worker counts as latency. A worker that was early
//! measures from its own awaking, since the timer's lateness (up to a millisecond) is the client's and not the
//! server's; it is reported apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The schedule, shared by all workers of a load.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    per_second: Option<f64>,
    duration: Duration,
    limit: u64,
    next: AtomicU64,
}

/// Leave to send one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    /// Number of the request, from 0.
    pub(crate) number: u64,
    due: Instant,
    early: bool,
}

/// The moment from which a request is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    /// Latency counts from here.
    pub(crate) from: Instant,
    /// How much later than asked the timer woke the worker.
    pub(crate) timer_late: Duration,
}

impl Pace {
    /// Without a rate the next request is due at once: a closed loop, as fast as the workers can. `limit` ends it
    /// after that many requests.
    pub(crate) fn new(per_second: Option<f64>, duration: Duration, limit: Option<u64>) -> Self {
        Self {
            started: Instant::now(),
            per_second,
            duration,
            limit: limit.unwrap_or(u64::MAX),
            next: AtomicU64::new(0),
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The next ticket; none after the end.
    pub(crate) fn take(&self) -> Option<Ticket> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let due = match self.per_second {
            Some(rate) => self.started + Duration::from_secs_f64(number as f64 / rate.max(1e-6)),
            None => now,
        };
        let over = number >= self.limit || due >= self.started + self.duration;
        (!over).then_some(Ticket { number, due, early: due > now })
    }

    /// Waits until the ticket is due.
    pub(crate) async fn wait(&self, ticket: Ticket) -> Begun {
        if !ticket.early {
            return Begun { from: ticket.due, timer_late: Duration::ZERO };
        }
        tokio::time::sleep_until(ticket.due).await;
        let from = Instant::now();
        Begun { from, timer_late: from.saturating_duration_since(ticket.due) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_comes_late_is_measured_from_when_its_request_was_due() {
        let pace = Pace::new(Some(1_000.0), Duration::from_secs(1), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
        pace.take().unwrap();
        let second = pace.take().unwrap();
        let begun = pace.wait(second).await;
        assert_eq!(begun.from, pace.started() + Duration::from_millis(1));
    }

    #[tokio::test]
    async fn the_schedule_ends_at_its_duration_or_its_limit() {
        let timed = Pace::new(Some(100.0), Duration::from_millis(50), None);
        assert_eq!(std::iter::from_fn(|| timed.take()).count(), 5);
        let limited = Pace::new(None, Duration::from_secs(60), Some(3));
        assert_eq!(std::iter::from_fn(|| limited.take()).count(), 3);
    }
}
