//! The events of one subscription, from the connection to its reader. Bounded in events and in bytes: a reader that is too
//! slow loses the whole feed and knows it, since a feed with a hole in it would look whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
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

pub(super) fn channel() -> (Inlet, Outlet) {
    let (to, from) = mpsc::channel(MAX_EVENTS);
    let held = Arc::new(AtomicUsize::new(0));
    (Inlet { events: to, held: held.clone() }, Outlet { events: from, held })
}

impl Inlet {
    pub(super) fn put(&self, event: Bytes) -> Result<(), NotTaken> {
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

    pub(super) fn is_unread(&self) -> bool {
        self.events.is_closed()
    }
}

/// The events of a subscription; dropping it unsubscribes.
pub(crate) struct Feed {
    outlet: Outlet,
    connection: u64,
    subscription: String,
    /// Weak, so that a feed does not keep a connection that no catalog has any more.
    outbox: mpsc::WeakSender<Out>,
}

impl Feed {
    pub(super) const fn new(
        outlet: Outlet,
        connection: u64,
        subscription: String,
        outbox: mpsc::WeakSender<Out>,
    ) -> Self {
        Self { outlet, connection, subscription, outbox }
    }

    /// The raw `params.result` of the next notification; none once the connection is lost or the reader was too slow.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let event = self.outlet.events.recv().await?;
        self.outlet.held.fetch_sub(event.len(), Ordering::AcqRel);
        Some(event)
    }
}

impl Drop for Feed {
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
