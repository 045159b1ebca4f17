//! How much of providers' replies is held at once. One reply may be large and many calls may be under way, so a bound on
//! each alone bounds nothing: the sum is bounded too, for the whole node. A reply is charged as it arrives and until the
//! client has taken it, so that clients who do not read count as well. Whoever finds no room gives the reply up; nobody
//! waits for room, since those who hold it may be waiting for the same.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::body::Body;

use crate::gather::{Unread, gather};

/// Bytes of a provider's reply at most.
pub(crate) const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of all replies that are being read or given to clients: four of the largest. While one is copied under its
/// client's id it takes twice its bytes.
pub(crate) const MAX_REPLY_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;

/// The budget of a node.
#[derive(Debug, Clone)]
pub(crate) struct ReplyBudget(Arc<Held>);

#[derive(Debug)]
struct Held {
    limit: usize,
    bytes: AtomicUsize,
    refused: AtomicU64,
}

/// Part of the budget, given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Charge {
    _part: Arc<Part>,
}

#[derive(Debug)]
struct Part {
    held: Arc<Held>,
    bytes: usize,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Default for ReplyBudget {
    fn default() -> Self {
        Self::new(MAX_REPLY_BYTES_IN_FLIGHT)
    }
}

impl ReplyBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Held { limit, bytes: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// Bytes that are held now.
    pub(crate) fn held_bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Replies given up for lack of room.
    pub(crate) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Its figures as Prometheus text.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        let held = u64::try_from(self.held_bytes()).unwrap_or(u64::MAX);
        for (name, kind, help, value) in [
            ("lariat_reply_bytes_held", "gauge", "Bytes of replies being read or given to clients.", held),
            (
                "lariat_replies_refused_total",
                "counter",
                "Replies given up since those under way left no room.",
                self.refused(),
            ),
        ] {
            // Writing to a String cannot fail.
            let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }

    fn part(&self) -> Part {
        Part { held: self.0.clone(), bytes: 0 }
    }

    /// Charges for bytes that are there already.
    pub(crate) fn charge(&self, bytes: usize) -> Option<Charge> {
        let mut part = self.part();
        part.grow(bytes).then(|| Charge { _part: Arc::new(part) })
    }

    /// Reads a whole body, charged as it arrives.
    pub(crate) async fn read<B>(&self, body: B) -> Result<(Bytes, Charge), Unread>
    where
        B: Body<Data = Bytes>,
    {
        let mut part = self.part();
        let bytes = gather(body, MAX_REPLY_BYTES, |more| part.grow(more)).await?;
        Ok((bytes, Charge { _part: Arc::new(part) }))
    }
}

impl Part {
    fn grow(&mut self, bytes: usize) -> bool {
        let within = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.held.limit);
        let grown = self.held.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        if grown {
            self.bytes += bytes;
        } else {
            self.held.refused.fetch_add(1, Ordering::Relaxed);
        }
        grown
    }
}

/// Bytes on their way to a client, which hold what they were charged until they are gone.
pub(crate) fn held(bytes: Vec<u8>, charges: Vec<Charge>) -> Bytes {
    struct Charged {
        bytes: Vec<u8>,
        _charges: Vec<Charge>,
    }
    impl AsRef<[u8]> for Charged {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    if charges.is_empty() { bytes.into() } else { Bytes::from_owner(Charged { bytes, _charges: charges }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use std::convert::Infallible;

    fn frames(sizes: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + use<> {
        let frames: Vec<_> = sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![b'x'; *size])))).collect();
        StreamBody::new(futures::stream::iter(frames))
    }

    #[tokio::test]
    async fn a_reply_is_charged_until_its_last_bytes_are_gone() {
        let budget = ReplyBudget::new(100);
        let (bytes, charge) = budget.read(frames(&[10, 0, 20, 30])).await.unwrap();
        assert_eq!((bytes.len(), budget.held_bytes()), (60, 60));
        assert_eq!(budget.read(frames(&[30, 20])).await.unwrap_err(), Unread::NoRoom);
        assert_eq!((budget.held_bytes(), budget.refused()), (60, 1));
        let out = held(bytes.to_vec(), vec![charge.clone(), budget.charge(40).unwrap()]);
        drop(charge);
        assert!(budget.charge(1).is_none());
        drop(out);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn a_reply_that_is_too_long_is_refused_before_it_is_read_where_it_says_so() {
        let budget = ReplyBudget::default();
        let too_long = Full::new(Bytes::from(vec![0; MAX_REPLY_BYTES + 1]));
        assert_eq!(budget.read(too_long).await.unwrap_err(), Unread::TooLong);
        assert_eq!(budget.read(frames(&[MAX_REPLY_BYTES, 1])).await.unwrap_err(), Unread::TooLong);
        assert_eq!(budget.read(frames(&[MAX_REPLY_BYTES])).await.unwrap().0.len(), MAX_REPLY_BYTES);
        assert_eq!((budget.held_bytes(), budget.refused()), (0, 0));
    }
}
