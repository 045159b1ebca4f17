//! What is let in: how many calls at once, how large a body, how long it may take to arrive. Memory is reserved before a
//! body is read, so that many large bodies at once are refused instead of being half read; a refusal here is no
//! decision and is only counted. Limits on the rate of calls are in [`rate`]: what they refuse is a call, and a decision.

pub(crate) mod rate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gather::{Unread, gather};
use crate::refusal::Refusal;
use crate::reply_budget::{MAX_REPLY_BYTES_IN_FLIGHT, ReplyBudget};

/// Bytes of a request's body at most.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of all bodies that are being read or answered.
const MAX_BODY_BYTES_IN_FLIGHT: usize = 128 * 1024 * 1024;
/// What a body is charged at least, in bytes: one unit of the budget.
const CHARGE_UNIT: usize = 4 * 1024;
/// Charge of a body that does not say its length, before any of it has arrived.
const UNKNOWN_LENGTH_CHARGE: usize = 256 * 1024;
/// Calls of a batch at most.
pub(crate) const MAX_BATCH: usize = 50;
/// How long clients are waited for: to say what they want, to send what they announced, to take what they asked for. One
/// value, so that tests need not last as long as clients may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Time in which a request's head must arrive; between requests a connection may idle as long.
    pub(crate) head: Duration,
    /// Time in which a body must arrive.
    pub(crate) body: Duration,
    /// Time in which a client must take some part of what is sent to it.
    pub(crate) stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let wait = Duration::from_secs(30);
        Self { head: wait, body: wait, stall: wait }
    }
}

/// What a node lets in, and how long it waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max_in_flight: usize,
    pub(crate) reply_bytes: usize,
    pub(crate) patience: Patience,
}

impl Bounds {
    pub(crate) fn new(max_in_flight: usize) -> Self {
        Self { max_in_flight, reply_bytes: MAX_REPLY_BYTES_IN_FLIGHT, patience: Patience::default() }
    }
}

/// The gate.
pub(crate) struct Gate {
    requests: Arc<Semaphore>,
    body_units: Arc<Semaphore>,
    /// Requests refused before they were calls.
    pub(crate) refused: AtomicU64,
    /// Room for replies.
    pub(crate) replies: ReplyBudget,
    pub(crate) patience: Patience,
}

/// A place inside, given back when dropped.
pub(crate) struct Admitted {
    _request: OwnedSemaphorePermit,
    body: OwnedSemaphorePermit,
    body_units: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(bounds.max_in_flight.min(Semaphore::MAX_PERMITS))),
            body_units: Arc::new(Semaphore::new(MAX_BODY_BYTES_IN_FLIGHT / CHARGE_UNIT)),
            refused: AtomicU64::new(0),
            replies: ReplyBudget::new(bounds.reply_bytes),
            patience: bounds.patience,
        }
    }

    /// Lets a request in, or refuses it at once: nobody waits here.
    ///
    /// # Errors
    /// The declared length is too large, or too much is in flight.
    pub(crate) fn enter(&self, headers: &HeaderMap) -> Result<Admitted, Refusal> {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(Refusal::BodyTooLarge { limit: MAX_BODY_BYTES });
        }
        self.reserve(declared.unwrap_or(UNKNOWN_LENGTH_CHARGE))
    }

    /// Lets a WebSocket frame in that was read already.
    ///
    /// # Errors
    /// Too much is in flight.
    pub(crate) fn enter_frame(&self, bytes: usize) -> Result<Admitted, Refusal> {
        self.reserve(bytes)
    }

    fn reserve(&self, bytes: usize) -> Result<Admitted, Refusal> {
        let units = u32::try_from(bytes.div_ceil(CHARGE_UNIT).max(1)).unwrap_or(u32::MAX);
        let request = self.requests.clone().try_acquire_owned().map_err(|_| Refusal::Overloaded)?;
        let body = self.body_units.clone().try_acquire_many_owned(units).map_err(|_| Refusal::Overloaded)?;
        Ok(Admitted { _request: request, body, body_units: self.body_units.clone() })
    }

    pub(crate) fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Admitted {
    /// Reads the whole body, which must arrive within `wait`. One that did not say its length is charged for what it turns
    /// out to have.
    ///
    /// # Errors
    /// It is too large, too slow or broken off, or there is no room for the rest of it.
    pub(crate) async fn body(&mut self, incoming: hyper::body::Incoming, wait: Duration) -> Result<Bytes, Refusal> {
        let mut arrived = 0;
        let room = |more| {
            arrived += more;
            self.cover(arrived)
        };
        match tokio::time::timeout(wait, gather(incoming, MAX_BODY_BYTES, room)).await {
            Err(_) => Err(Refusal::BodyTimeout),
            Ok(Ok(body)) => Ok(body),
            Ok(Err(Unread::TooLong)) => Err(Refusal::BodyTooLarge { limit: MAX_BODY_BYTES }),
            Ok(Err(Unread::NoRoom)) => Err(Refusal::Overloaded),
            Ok(Err(Unread::Broken)) => Err(Refusal::BodyBroken),
        }
    }

    /// True where so many bytes are charged, or could be.
    fn cover(&mut self, bytes: usize) -> bool {
        let missing = bytes.div_ceil(CHARGE_UNIT).saturating_sub(self.body.num_permits());
        if missing == 0 {
            return true;
        }
        let more = u32::try_from(missing).ok().and_then(|n| self.body_units.clone().try_acquire_many_owned(n).ok());
        more.map(|more| self.body.merge(more)).is_some()
    }
}
