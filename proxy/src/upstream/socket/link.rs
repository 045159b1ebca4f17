//! What a kept connection and its users share: who waits for which reply, whether it stands, and how it fared. One short
//! lock per instance, held for a lookup; calls to other instances never meet it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use lariat_schema::vocabulary::{Dispatched, ErrorCategory, TransportFailure};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::MAX_PENDING;
use super::feed::{Inlet, Readers};

/// Ids of the proxy's own requests begin here: no decision reaches it, and every number below 2^53 survives a provider
/// that reads numbers as floating point.
const OWN_IDS: u64 = 1 << 52;
/// Ids that were given up on, kept to tell a late reply from one to nobody.
const MAX_GIVEN_UP: usize = 1_024;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The provider closed it.
    Closed,
    /// The network did.
    Broken,
    /// Nothing was heard for too long.
    Silent,
    /// The provider sent what is no JSON-RPC, or too much of it.
    Garbage,
    /// The provider sent more than a reply may hold.
    TooLarge,
}

impl Lost {
    pub(super) const fn category(self) -> ErrorCategory {
        match self {
            Self::Closed | Self::Broken | Self::Silent => ErrorCategory::NetworkError,
            Self::Garbage | Self::TooLarge => ErrorCategory::InvalidResponse,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed by the provider",
            Self::Broken => "connection broken",
            Self::Silent => "no pong",
            Self::Garbage => "sent what is not JSON-RPC",
            Self::TooLarge => "sent a frame above the bound",
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DialError {
    pub(crate) category: ErrorCategory,
    /// What went wrong on the way.
    pub(crate) failure: Option<TransportFailure>,
    /// Status of a refused handshake.
    pub(crate) http_status: Option<u16>,
    pub(crate) retry_after_ms: Option<u64>,
}

/// How the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Not yet, or not yet again.
    Connecting,
    /// It stands; connections are numbered from 1.
    Connected(u64),
    Lost(Lost),
    Refused(DialError),
}

/// What a decision may know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkView {
    pub(crate) connected: bool,
    /// Whether as many requests wait as may.
    pub(crate) full: bool,
}

/// Figures of all sockets of a node, for its operator.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections made.
    pub(crate) connected: AtomicU64,
    /// Connections lost.
    pub(crate) lost: AtomicU64,
    /// Handshakes that failed.
    pub(crate) not_connected: AtomicU64,
    /// Requests that found too many pending.
    pub(crate) refused: AtomicU64,
    /// Frames that belonged to nobody: late replies among them.
    pub(crate) strange: AtomicU64,
    /// Feeds that ended since their reader was too slow.
    pub(crate) overflowed: AtomicU64,
}

/// The connection and the provider's name of a subscription, with its readers, or what the provider said instead.
pub(super) type Subscribed = Result<(u64, String, Weak<Readers>), Bytes>;

/// The loss of a connection, as one of those sees it who waited on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) lost: Lost,
    pub(super) dispatched: Dispatched,
    /// True for all but one of them: a busy connection's loss is one failure of its channel, and not hundreds.
    pub(super) is_echo: bool,
}

/// Who waits for a reply.
pub(super) enum Waiter {
    Call(oneshot::Sender<Result<Bytes, Loss>>),
    Subscription { reply: oneshot::Sender<Result<Subscribed, Loss>>, inlet: Inlet },
}

impl Waiter {
    /// Tells of the loss; false where nobody waits any more.
    fn fail(self, loss: Loss) -> bool {
        match self {
            Self::Call(to) => to.send(Err(loss)).is_ok(),
            Self::Subscription { reply, .. } => reply.send(Err(loss)).is_ok(),
        }
    }
}

struct Waiting {
    written: bool,
    waiter: Waiter,
}

impl Waiting {
    const fn certainty(&self) -> Dispatched {
        if self.written { Dispatched::Indeterminate } else { Dispatched::NotDispatched }
    }
}

#[derive(Default)]
struct Pending {
    /// Number of the connection that stands.
    connection: Option<u64>,
    waiting: HashMap<u64, Waiting>,
    given_up: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    NotConnected,
    Full,
}

/// What a kept connection and its users share.
pub(crate) struct Link {
    pending: Mutex<Pending>,
    state: watch::Sender<State>,
    circuit_open: AtomicBool,
    own_ids: AtomicU64,
    connections: AtomicU64,
    pub(super) counts: Arc<Counts>,
}

impl Link {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Self {
            pending: Mutex::default(),
            state: watch::Sender::new(State::Connecting),
            circuit_open: AtomicBool::new(false),
            own_ids: AtomicU64::new(OWN_IDS),
            connections: AtomicU64::new(0),
            counts,
        }
    }

    /// What a decision may know.
    pub(crate) fn view(&self) -> LinkView {
        let pending = self.pending.lock();
        LinkView { connected: pending.connection.is_some(), full: pending.waiting.len() >= MAX_PENDING }
    }

    /// How it stands, and every change of it from now on.
    pub(crate) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Tells it whether its circuit is open, which makes it connect less eagerly.
    pub(crate) fn set_circuit_open(&self, open: bool) {
        self.circuit_open.store(open, Ordering::Relaxed);
    }

    pub(super) fn is_circuit_open(&self) -> bool {
        self.circuit_open.load(Ordering::Relaxed)
    }

    pub(super) fn own_id(&self) -> u64 {
        self.own_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits in the list for the reply to that id.
    pub(super) fn enter(&self, id: u64, waiter: Waiter) -> Result<(), Refused> {
        let mut pending = self.pending.lock();
        if pending.connection.is_none() {
            return Err(Refused::NotConnected);
        }
        if pending.waiting.len() >= MAX_PENDING || pending.waiting.contains_key(&id) {
            return Err(Refused::Full);
        }
        pending.waiting.insert(id, Waiting { written: false, waiter });
        Ok(())
    }

    /// Gives up waiting for the reply to that id, if it has not come.
    pub(super) fn forget(&self, id: u64) {
        let mut pending = self.pending.lock();
        let forgotten = pending.waiting.remove(&id);
        if forgotten.as_ref().is_some_and(|waiting| waiting.written) {
            if pending.given_up.len() >= MAX_GIVEN_UP {
                pending.given_up.pop_front();
            }
            pending.given_up.push_back(id);
        }
        drop(pending);
        drop(forgotten);
    }

    /// Whether the request of that id was sent, as far as is known.
    pub(super) fn certainty(&self, id: u64) -> Dispatched {
        self.pending.lock().waiting.get(&id).map_or(Dispatched::Indeterminate, Waiting::certainty)
    }

    /// Notes that the request of that id is about to be written; false where nobody waits for its reply.
    pub(super) fn begin_write(&self, id: u64) -> bool {
        self.pending.lock().waiting.get_mut(&id).map(|waiting| waiting.written = true).is_some()
    }

    /// Takes whoever waits for the reply to that id.
    pub(super) fn take(&self, id: u64) -> Option<Waiter> {
        self.pending.lock().waiting.remove(&id).map(|waiting| waiting.waiter)
    }

    /// Takes the only one who waits for a reply to what was sent, if it is only one.
    pub(super) fn take_only(&self) -> Option<Waiter> {
        let mut pending = self.pending.lock();
        let mut written = pending.waiting.iter().filter(|(_, waiting)| waiting.written).map(|(id, _)| *id);
        let (only, None) = (written.next()?, written.next()) else { return None };
        drop(written);
        pending.waiting.remove(&only).map(|waiting| waiting.waiter)
    }

    /// Whether a request of that id was sent, whose reply nobody waits for any more.
    pub(super) fn was_asked(&self, id: u64) -> bool {
        let own = (OWN_IDS..self.own_ids.load(Ordering::Relaxed)).contains(&id);
        own || self.pending.lock().given_up.contains(&id)
    }

    pub(super) fn dial(&self) {
        self.state.send_replace(State::Connecting);
    }

    /// A connection stands; returns its number.
    pub(super) fn connect(&self) -> u64 {
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.pending.lock().connection = Some(number);
        self.counts.connected.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(State::Connected(number));
        number
    }

    /// The connection is gone: everybody who waits is told so.
    pub(super) fn lose(&self, lost: Lost) {
        let mut pending = self.pending.lock();
        pending.connection = None;
        pending.given_up.clear();
        let waiting = std::mem::take(&mut pending.waiting);
        drop(pending);
        let mut is_echo = false;
        for (_, waiting) in waiting {
            let dispatched = waiting.certainty();
            is_echo |= waiting.waiter.fail(Loss { lost, dispatched, is_echo });
        }
        self.counts.lost.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(State::Lost(lost));
    }

    pub(super) fn refuse(&self, error: DialError) {
        self.counts.not_connected.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(State::Refused(error));
    }
}
