//! What waits to be written to one client, in order. Replies push back: while it is full, no frame of the client is
//! read and no finished call is taken. Events cannot wait for a client, since their source serves others too; so they
//! have a bound of their own, and what goes beyond it ends the connection. Dropping single events instead would leave
//! holes that nobody sees.
//!
//! One short lock per connection, never held over an await.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Frames that wait before replies push back: some seconds of a busy client.
const MAX_FRAMES: usize = 256;
/// Bytes of them.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Events that wait before the client counts as too slow: over an hour of new heads on a chain of one block in 4 s.
pub(super) const MAX_EVENTS: usize = 1_024;
/// Bytes of them.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

enum Entry {
    Reply(Bytes),
    /// A notification to a subscription: its name and the result as the provider wrote it, shared by all who get it.
    Event(Arc<str>, Bytes),
    /// A whole message of ours about a subscription.
    Notice(Bytes),
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Reply(bytes) | Self::Event(_, bytes) | Self::Notice(bytes) => bytes.len(),
        }
    }

    fn into_message(self) -> Message {
        let bytes = match self {
            Self::Reply(bytes) | Self::Notice(bytes) => bytes,
            Self::Event(subscription, result) => {
                let head = br#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":""#;
                let parts: [&[u8]; 5] = [head, subscription.as_bytes(), br#"","result":"#, &result, b"}}"];
                parts.concat().into()
            }
        };
        // What was read as JSON is text; anything else is sent as it is.
        Utf8Bytes::try_from(bytes.clone()).map_or_else(|_| Message::Binary(bytes), Message::Text)
    }
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Entry>,
    bytes: usize,
    events: usize,
    event_bytes: usize,
    ping: bool,
    close: Option<CloseFrame>,
    /// Of subscriptions whose client does not know their name yet.
    held: HashMap<Arc<str>, Vec<Entry>>,
    /// How many events waited when one more came than may.
    overflow: Option<usize>,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.queue.len() >= MAX_FRAMES || self.bytes >= MAX_BYTES
    }
}

/// The queue of one connection.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    /// Something is to be written.
    filled: Notify,
    /// There is room again, or the connection is to end.
    changed: Notify,
}

impl Outbox {
    /// True while frames may be read and replies be added.
    pub(super) fn has_room(&self) -> bool {
        !self.waiting.lock().is_full()
    }

    /// Returns once there is room again, or an event found none.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many events waited, once one found no room.
    pub(super) fn overflow(&self) -> Option<usize> {
        self.waiting.lock().overflow
    }

    /// Adds a whole message of ours; whoever calls has seen that there is room.
    pub(crate) fn reply(&self, bytes: Bytes) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += bytes.len();
        waiting.queue.push_back(Entry::Reply(bytes));
        drop(waiting);
        self.filled.notify_one();
    }

    /// Adds an event; false when the client reads too slowly, and then its connection is about to end.
    pub(crate) fn event(&self, subscription: &Arc<str>, result: &Bytes) -> bool {
        self.offer(subscription, Entry::Event(subscription.clone(), result.clone()))
    }

    /// Adds a message of ours about a subscription, in its place among the events.
    pub(crate) fn notice(&self, subscription: &str, message: Bytes) -> bool {
        self.offer(subscription, Entry::Notice(message))
    }

    fn offer(&self, subscription: &str, entry: Entry) -> bool {
        let bytes = entry.bytes();
        let mut waiting = self.waiting.lock();
        if waiting.overflow.is_some() || waiting.close.is_some() {
            return false;
        }
        if waiting.events >= MAX_EVENTS || waiting.event_bytes + bytes > MAX_EVENT_BYTES {
            waiting.overflow = Some(waiting.events);
            drop(waiting);
            self.changed.notify_one();
            return false;
        }
        waiting.bytes += bytes;
        waiting.events += 1;
        waiting.event_bytes += bytes;
        match waiting.held.get_mut(subscription) {
            Some(held) => held.push(entry),
            None => waiting.queue.push_back(entry),
        }
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// Holds the events of a subscription back, which still count among those that wait.
    pub(crate) fn hold(&self, subscription: &Arc<str>) {
        self.waiting.lock().held.insert(subscription.clone(), Vec::new());
    }

    /// The reply that names the subscription is on its way: its events may follow.
    pub(super) fn release(&self, subscription: &str) {
        let mut waiting = self.waiting.lock();
        let held = waiting.held.remove(subscription).unwrap_or_default();
        waiting.queue.extend(held);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Asks for a ping before whatever waits.
    pub(super) fn ping(&self) {
        self.waiting.lock().ping = true;
        self.filled.notify_one();
    }

    /// Ends the connection after what waits.
    pub(super) fn close(&self, frame: CloseFrame) {
        self.waiting.lock().close = Some(frame);
        self.filled.notify_one();
    }

    /// Ends the connection at once: what waits is dropped.
    pub(super) fn abort(&self, frame: CloseFrame) {
        *self.waiting.lock() = Waiting { close: Some(frame), ..Waiting::default() };
        self.filled.notify_one();
    }

    /// The next frame, if one waits. After the closing frame there is none.
    pub(super) fn take(&self) -> Option<Message> {
        let mut waiting = self.waiting.lock();
        if std::mem::take(&mut waiting.ping) {
            return Some(Message::Ping(Bytes::new()));
        }
        let was_full = waiting.is_full();
        let Some(entry) = waiting.queue.pop_front() else {
            return waiting.close.clone().map(|frame| Message::Close(Some(frame)));
        };
        waiting.bytes -= entry.bytes();
        if !matches!(entry, Entry::Reply(_)) {
            waiting.events -= 1;
            waiting.event_bytes -= entry.bytes();
        }
        let has_room = was_full && !waiting.is_full();
        drop(waiting);
        if has_room {
            self.changed.notify_one();
        }
        Some(entry.into_message())
    }

    /// The next frame.
    pub(super) async fn next(&self) -> Message {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: Option<Message>) -> String {
        message.unwrap().into_text().unwrap().to_string()
    }

    #[test]
    fn frames_leave_in_the_order_in_which_they_came_and_a_ping_before_them() {
        let outbox = Outbox::default();
        outbox.reply(Bytes::from_static(b"1"));
        assert!(outbox.event(&Arc::from("0xa"), &Bytes::from_static(b"[2]")));
        outbox.ping();
        assert!(matches!(outbox.take(), Some(Message::Ping(_))));
        assert_eq!(text(outbox.take()), "1");
        let event = r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0xa","result":[2]}}"#;
        assert_eq!(text(outbox.take()), event);
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn replies_push_back_at_the_bound_and_room_comes_with_every_frame_taken() {
        let outbox = Outbox::default();
        for _ in 0..MAX_FRAMES {
            assert!(outbox.has_room());
            outbox.reply(Bytes::from_static(b"{}"));
        }
        assert!(!outbox.has_room());
        outbox.take();
        assert!(outbox.has_room());
        outbox.reply(Bytes::from(vec![b' '; MAX_BYTES]));
        assert!(!outbox.has_room(), "bytes are bounded too");
    }

    #[test]
    fn events_wait_for_the_reply_that_names_their_subscription() {
        let outbox = Outbox::default();
        let name = Arc::from("0xa");
        outbox.hold(&name);
        assert!(outbox.event(&name, &Bytes::from_static(b"1")));
        assert!(outbox.notice("0xb", Bytes::from_static(b"of another")));
        outbox.reply(Bytes::from_static(b"named"));
        outbox.release("0xa");
        assert_eq!((text(outbox.take()), text(outbox.take())), ("of another".to_owned(), "named".to_owned()));
        assert!(text(outbox.take()).contains("\"result\":1"));
    }

    #[test]
    fn one_event_too_many_is_refused_and_says_how_many_waited() {
        let outbox = Outbox::default();
        let (name, result) = (Arc::from("0xa"), Bytes::from_static(b"{}"));
        for _ in 0..MAX_EVENTS {
            assert!(outbox.event(&name, &result));
        }
        assert_eq!(outbox.overflow(), None);
        assert!(!outbox.event(&name, &result));
        assert_eq!(outbox.overflow(), Some(MAX_EVENTS));
        outbox.take();
        assert!(!outbox.event(&name, &result), "after a hole nothing more is sent");
    }
}
