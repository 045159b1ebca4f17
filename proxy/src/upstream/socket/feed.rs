//! The events of one subscription, from the connection to its readers. Bounded in events and in bytes: a reader that is too
//! slow loses the whole feed and knows it, since a feed with a hole in it would look whole. Several feeds may be of one
//! subscription at the provider, which ends with the last of them; none of them slows another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Out;

/// Events that wait for their reader: ten seconds of the busiest chains' pending transactions.
const MAX_EVENTS: usize = 4_096;
/// Bytes that wait for their reader.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The connection's end.
pub(super) struct Inlet {
    events: mpsc::Sender<Bytes>,
    held: Arc<AtomicUsize>,
}

/// The reader's end, before it is known what it is subscribed to.
pub(super) struct Outlet {
    events: mpsc::Receiver<Bytes>,
    held: Arc<AtomicUsize>,
}

/// Why an event was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// Too much waits already.
    Full,
    /// Nobody reads any more.
    Unread,
}

/// The connection's end of a subscription: everybody who reads it; none once it has ended.
pub(super) struct Readers(Mutex<Option<Vec<Inlet>>>);

impl Readers {
    pub(super) fn of(inlet: Inlet) -> Self {
        Self(Mutex::new(Some(vec![inlet])))
    }

    /// One more reader; false where the subscription has ended.
    fn join(&self, inlet: Inlet) -> bool {
        self.0.lock().as_mut().map(|inlets| inlets.push(inlet)).is_some()
    }

    /// Hands an event to each reader, and says how many had no room for it, which ends their feeds.
    pub(super) fn put(&self, event: &Bytes) -> u64 {
        let mut readers = self.0.lock();
        let Some(inlets) = readers.as_mut() else { return 0 };
        let mut overflowed = 0;
        inlets.retain(|inlet| match inlet.put(event.clone()) {
            Ok(()) => true,
            Err(not_taken) => {
                overflowed += u64::from(not_taken == NotTaken::Full);
                false
            }
        });
        overflowed
    }

    /// Ends it if nobody reads any more; says whether it has ended.
    pub(super) fn ends(&self) -> bool {
        let mut readers = self.0.lock();
        if readers.as_ref().is_some_and(|inlets| inlets.iter().all(Inlet::is_unread)) {
            *readers = None;
        }
        readers.is_none()
    }

    pub(super) fn end(&self) {
        *self.0.lock() = None;
    }
}

/// A subscription that stands, for further feeds of it.
pub(super) struct Standing {
    readers: Weak<Readers>,
    lease: Weak<Lease>,
}

impl Standing {
    /// A further feed, if it still stands.
    pub(super) fn join(&self) -> Option<Feed> {
        // The lease is held first: while it is, the subscription is not given back.
        let (lease, readers) = (self.lease.upgrade()?, self.readers.upgrade()?);
        let (inlet, outlet) = channel();
        readers.join(inlet).then_some(Feed { outlet, lease })
    }
}

pub(super) fn channel() -> (Inlet, Outlet) {
    let (to, from) = mpsc::channel(MAX_EVENTS);
    let held = Arc::new(AtomicUsize::new(0));
    (Inlet { events: to, held: held.clone() }, Outlet { events: from, held })
}

impl Inlet {
    fn put(&self, event: Bytes) -> Result<(), NotTaken> {
        let bytes = event.len();
        if self.held.load(Ordering::Acquire).saturating_add(bytes) > MAX_BYTES {
            return Err(NotTaken::Full);
        }
        self.held.fetch_add(bytes, Ordering::AcqRel);
        self.events.try_send(event).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotTaken::Full,
            mpsc::error::TrySendError::Closed(_) => NotTaken::Unread,
        })
    }

    fn is_unread(&self) -> bool {
        self.events.is_closed()
    }
}

/// The events of a subscription; dropping the last feed of it unsubscribes.
pub(crate) struct Feed {
    outlet: Outlet,
    lease: Arc<Lease>,
}

/// What gives a subscription back.
struct Lease {
    connection: u64,
    subscription: String,
    /// Weak, so that a feed does not keep a connection that no catalog has any more.
    outbox: mpsc::WeakSender<Out>,
}

impl Feed {
    pub(super) fn new(outlet: Outlet, connection: u64, subscription: String, outbox: mpsc::WeakSender<Out>) -> Self {
        Self { outlet, lease: Arc::new(Lease { connection, subscription, outbox }) }
    }

    /// For further feeds of the same subscription.
    pub(super) fn standing(&self, readers: Weak<Readers>) -> Standing {
        Standing { readers, lease: Arc::downgrade(&self.lease) }
    }

    /// The raw `params.result` of the next notification; none once the connection is lost or the reader was too slow.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let event = self.outlet.events.recv().await?;
        self.outlet.held.fetch_sub(event.len(), Ordering::AcqRel);
        Some(event)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let subscription = std::mem::take(&mut self.subscription);
        if let Some(outbox) = self.outbox.upgrade() {
            // Where there is no room, the next notification finds that nobody reads it, and ends the subscription.
            let _left = outbox.try_send(Out::Unsubscribe { connection: self.connection, subscription }).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_feed_is_bounded_in_events_and_in_bytes_and_its_reader_gets_what_was_before() {
        let (inlet, mut outlet) = channel();
        for _ in 0..MAX_EVENTS {
            inlet.put(Bytes::from_static(b"{}")).unwrap();
        }
        assert_eq!(inlet.put(Bytes::from_static(b"{}")), Err(NotTaken::Full));
        let (wide, _outlet) = channel();
        wide.put(Bytes::from(vec![b' '; MAX_BYTES])).unwrap();
        assert_eq!(wide.put(Bytes::from_static(b"{}")), Err(NotTaken::Full));
        drop(inlet);
        let mut read = 0;
        while outlet.events.recv().await.is_some() {
            read += 1;
        }
        assert_eq!(read, MAX_EVENTS);
    }

    #[tokio::test]
    async fn a_slow_reader_loses_its_own_feed_and_the_last_one_to_leave_gives_the_subscription_back() {
        let (inlet, outlet) = channel();
        let readers = Arc::new(Readers::of(inlet));
        let (to, mut from) = mpsc::channel(1);
        let slow = Feed::new(outlet, 1, "0x1".to_owned(), to.downgrade());
        let standing = slow.standing(Arc::downgrade(&readers));
        let mut quick = standing.join().unwrap();
        let mut overflowed = 0;
        for _ in 0..=MAX_EVENTS {
            overflowed += readers.put(&Bytes::from_static(b"{}"));
            quick.next().await.unwrap();
        }
        assert_eq!(overflowed, 1);
        assert!(!readers.ends());
        drop(slow);
        assert!(from.try_recv().is_err(), "another feed still needs it");
        drop(quick);
        assert!(matches!(from.try_recv(), Ok(Out::Unsubscribe { connection: 1, .. })));
        assert!(readers.ends() && standing.join().is_none());
    }

    #[tokio::test]
    async fn what_was_read_makes_room() {
        let (inlet, outlet) = channel();
        let (to, _from) = mpsc::channel(1);
        let mut feed = Feed::new(outlet, 1, "0x1".to_owned(), to.downgrade());
        for _ in 0..3 {
            inlet.put(Bytes::from(vec![b' '; MAX_BYTES])).unwrap();
            feed.next().await.unwrap();
        }
        drop(feed);
        assert_eq!(inlet.put(Bytes::new()), Err(NotTaken::Unread));
    }
}
