//! The one kept WebSocket of an instance, as its users see it: calls, and feeds of subscriptions. It is connected at the
//! start and again after each loss, never on demand: a call must not wait for a handshake, and whether a channel is
//! connected is an input of the decision. Each user waits for its own reply by id; a connection that is lost ends all
//! calls on it at once, each with what is known of whether it was sent. The other side of this handle is one task
//! (`keep`), which ends when the last handle is dropped.

mod carry;
mod dial;
mod feed;
mod keep;
mod link;
mod pace;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use lariat_schema::vocabulary::{Dispatched, ErrorCategory};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Answer, Outgoing, end_of};
use crate::jsonrpc::Reply;
use crate::profiles::ErrorRule;
use crate::record::AttemptEnd;
pub(super) use dial::Dialler;
pub(crate) use feed::Feed;
use feed::Standing;
pub(crate) use link::{Counts, DialError, Link, LinkView, State};
use link::{Loss, Lost, Refused, Waiter};

/// Calls and subscriptions on one connection at once; what is beyond it is `capacity`, which sends calls elsewhere. No
/// provider serves more on one connection in good time.
const MAX_PENDING: usize = 256;
/// Frames that wait for the writer: one for each pending call, and as many to give subscriptions back.
const OUTBOX: usize = 2 * MAX_PENDING;

/// Parameters of `eth_subscribe` for new heads.
const HEADS: Bytes = Bytes::from_static(b"[\"newHeads\"]");

/// What is for the writer.
enum Out {
    /// A request; it is left out if nobody waits for its reply any more.
    Call { id: u64, frame: Bytes },
    /// The end of a subscription that was made on that connection.
    Unsubscribe { connection: u64, subscription: String },
}

/// Handle of a kept connection.
#[derive(Clone)]
pub(crate) struct Socket {
    link: Arc<Link>,
    outbox: mpsc::Sender<Out>,
    over_tls: bool,
    /// The subscription to new heads that all share who only listen to them. Held while one is made.
    heads: Arc<tokio::sync::Mutex<Option<Standing>>>,
}

/// Why a request over the socket has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undone {
    NotConnected,
    Full,
    TimedOut(Dispatched),
    Lost(Loss),
}

impl Undone {
    const fn told(self) -> (ErrorCategory, Dispatched) {
        match self {
            Self::NotConnected => (ErrorCategory::NetworkError, Dispatched::NotDispatched),
            Self::Full => (ErrorCategory::LocalCapacity, Dispatched::NotDispatched),
            Self::TimedOut(dispatched) => (ErrorCategory::Timeout, dispatched),
            Self::Lost(loss) => (loss.lost.category(), loss.dispatched),
        }
    }

    const fn is_echo(self) -> bool {
        matches!(self, Self::Lost(Loss { is_echo: true, .. }))
    }
}

/// Why there is no subscription.
#[derive(Debug, Clone)]
pub(crate) enum SubscribeError {
    /// No reply came.
    Unanswered { category: ErrorCategory, dispatched: Dispatched, is_echo: bool },
    /// The provider answered, but not with a subscription.
    Unreadable,
    /// The provider said no; this is its reply.
    Refused(Reply),
}

impl SubscribeError {
    /// Whether another attempt told of the same loss of the connection.
    pub(crate) const fn is_echo(&self) -> bool {
        matches!(self, Self::Unanswered { is_echo: true, .. })
    }

    /// How the attempt ended.
    pub(crate) fn end(&self, rules: &[ErrorRule]) -> AttemptEnd {
        match self {
            Self::Unanswered { category, dispatched, .. } => Answer::failed(*category, *dispatched, None).end,
            Self::Unreadable => Answer::failed(ErrorCategory::InvalidResponse, Dispatched::Dispatched, None).end,
            Self::Refused(reply) => end_of(reply, None, rules),
        }
    }
}

impl From<Undone> for SubscribeError {
    fn from(undone: Undone) -> Self {
        let (category, dispatched) = undone.told();
        Self::Unanswered { category, dispatched, is_echo: undone.is_echo() }
    }
}

/// A place among the pending; left when dropped.
struct Place<'l> {
    link: &'l Link,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.link.forget(self.id);
    }
}

impl Socket {
    /// Starts keeping a connection through that door; the first is made within `spread`, so that a node does not
    /// connect to everything at once.
    pub(super) fn start(door: dial::Door, spread: Duration, counts: Arc<Counts>, stop: CancellationToken) -> Self {
        let link = Arc::new(Link::new(counts));
        let (outbox, frames) = mpsc::channel(OUTBOX);
        let first = keep::first_wait(spread);
        let over_tls = door.is_over_tls();
        tokio::spawn(stop.run_until_cancelled_owned(keep::keep(link.clone(), door, frames, first)));
        Self { link, outbox, over_tls, heads: Arc::default() }
    }

    pub(super) const fn is_over_tls(&self) -> bool {
        self.over_tls
    }

    /// Whether it stands now.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.view().connected
    }

    /// What is known of it, and where it is told of its circuit.
    pub(crate) fn link(&self) -> Arc<Link> {
        self.link.clone()
    }

    /// An id for a request of the proxy's own.
    pub(crate) fn own_id(&self) -> u64 {
        self.link.own_id()
    }

    /// Sends a call and waits at most `timeout` for the whole reply.
    pub(super) async fn attempt(&self, rules: &[ErrorRule], outgoing: Outgoing, timeout: Duration) -> Answer {
        let Outgoing { payload, id, .. } = outgoing;
        let (to, from) = oneshot::channel();
        match self.exchange(id, Waiter::Call(to), payload, from, timeout).await {
            Ok(body) => Answer::read(&body, None, rules, id),
            Err(undone) => {
                let (category, dispatched) = undone.told();
                Answer { is_echo: undone.is_echo(), ..Answer::failed(category, dispatched, None) }
            }
        }
    }

    /// Listens to new heads, by the one subscription that there is for it.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub(crate) async fn heads(&self, timeout: Duration) -> Result<Feed, SubscribeError> {
        let until = tokio::time::Instant::now() + timeout;
        let Ok(mut heads) = tokio::time::timeout_at(until, self.heads.lock()).await else {
            return Err(Undone::TimedOut(Dispatched::NotDispatched).into());
        };
        if let Some(feed) = heads.as_ref().and_then(Standing::join) {
            return Ok(feed);
        }
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let (feed, standing) = self.open(HEADS, left).await?;
        *heads = Some(standing);
        Ok(feed)
    }

    /// Subscribes; `params` is the raw JSON array of `eth_subscribe`. Several feeds of equal parameters are the caller's
    /// business.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub(crate) async fn subscribe(&self, params: Bytes, timeout: Duration) -> Result<Feed, SubscribeError> {
        self.open(params, timeout).await.map(|(feed, _)| feed)
    }

    async fn open(&self, params: Bytes, timeout: Duration) -> Result<(Feed, Standing), SubscribeError> {
        let id = self.link.own_id();
        let mut frame =
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"eth_subscribe\",\"params\":").into_bytes();
        frame.extend_from_slice(&params);
        frame.push(b'}');
        let (to, from) = oneshot::channel();
        let (inlet, outlet) = feed::channel();
        let waiter = Waiter::Subscription { reply: to, inlet };
        let subscribed = self.exchange(id, waiter, frame.into(), from, timeout).await?;
        match subscribed {
            Ok((connection, subscription, readers)) => {
                let feed = Feed::new(outlet, connection, subscription, self.outbox.downgrade());
                let standing = feed.standing(readers);
                Ok((feed, standing))
            }
            Err(body) => match Reply::read(&body, id) {
                Some(reply) if reply.error.is_some() => Err(SubscribeError::Refused(reply)),
                _ => Err(SubscribeError::Unreadable),
            },
        }
    }

    async fn exchange<T>(
        &self,
        id: u64,
        waiter: Waiter,
        frame: Bytes,
        reply: oneshot::Receiver<Result<T, Loss>>,
        timeout: Duration,
    ) -> Result<T, Undone> {
        let refused = |refused| match refused {
            Refused::NotConnected => Undone::NotConnected,
            Refused::Full => {
                self.link.counts.refused.fetch_add(1, Ordering::Relaxed);
                Undone::Full
            }
        };
        self.link.enter(id, waiter).map_err(refused)?;
        let place = Place { link: &self.link, id };
        if self.outbox.try_send(Out::Call { id, frame }).is_err() {
            return Err(refused(Refused::Full));
        }
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(loss))) => Err(Undone::Lost(loss)),
            // The task that kept the connection is gone, and with it what it knew.
            Ok(Err(_)) => {
                let dispatched = Dispatched::Indeterminate;
                Err(Undone::Lost(Loss { lost: Lost::Broken, dispatched, is_echo: false }))
            }
            Err(_) => Err(Undone::TimedOut(place.link.certainty(id))),
        }
    }
}
