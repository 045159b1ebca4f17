//! What is let in: how many calls at once, how large a body, how long it may take to arrive. Memory is reserved before a
//! body is read, so that many large bodies at once are refused instead of being half read; a refusal here is no
//! decision and is only counted. Limits on the rate of calls are in [`rate`]: what they refuse is a call, and a decision.

pub(crate) mod rate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Refusal;

/// Bytes of a request's body at most.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of all bodies that are being read or answered.
const MAX_BODY_BYTES_IN_FLIGHT: usize = 128 * 1024 * 1024;
/// What a body is charged at least, in bytes: one unit of the budget.
const CHARGE_UNIT: usize = 4 * 1024;
/// Charge of a body that does not say its length.
const UNKNOWN_LENGTH_CHARGE: usize = 256 * 1024;
/// Calls of a batch at most.
pub(crate) const MAX_BATCH: usize = 50;
/// Time in which a body must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The gate.
pub(crate) struct Gate {
    requests: Arc<Semaphore>,
    body_units: Arc<Semaphore>,
    /// Requests refused before they were calls.
    pub(crate) refused: AtomicU64,
}

/// A place inside, given back when dropped.
pub(crate) struct Admitted {
    _request: OwnedSemaphorePermit,
    _body: OwnedSemaphorePermit,
}

impl Gate {
    pub(crate) fn new(max_in_flight: usize) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(max_in_flight.min(Semaphore::MAX_PERMITS))),
            body_units: Arc::new(Semaphore::new(MAX_BODY_BYTES_IN_FLIGHT / CHARGE_UNIT)),
            refused: AtomicU64::new(0),
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
        Ok(Admitted { _request: request, _body: body })
    }

    pub(crate) fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads a whole body.
///
/// # Errors
/// It is too large, too slow or broken off.
pub(crate) async fn body(incoming: hyper::body::Incoming) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(incoming, MAX_BODY_BYTES).collect()).await {
        Err(_) => Err(Refusal::BodyTimeout),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge { limit: MAX_BODY_BYTES }),
        Ok(Err(_)) => Err(Refusal::BodyBroken),
    }
}
