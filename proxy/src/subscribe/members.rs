//! Who gets the events of a stream, seen from both sides: the members of a stream, and the subscriptions of a client. An
//! event is offered to each member's outbox and never waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::Counts;
use crate::server::ws::Outbox;

/// Subscriptions of one connection at most.
pub(crate) const MAX_PER_CLIENT: usize = 128;

/// The members of a stream.
pub(super) struct Members {
    outboxes: Mutex<HashMap<Arc<str>, Arc<Outbox>>>,
    /// The last one has left.
    pub(super) emptied: Notify,
    ended: AtomicBool,
    counts: Arc<Counts>,
}

impl Members {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Self { outboxes: Mutex::default(), emptied: Notify::new(), ended: AtomicBool::new(false), counts }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outboxes.lock().is_empty()
    }

    fn remove(&self, name: &str) {
        let mut outboxes = self.outboxes.lock();
        if outboxes.remove(name).is_some() {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
        if outboxes.is_empty() {
            self.emptied.notify_one();
        }
    }

    /// Offers an event to everybody. Who cannot take it is about to be told so, and to end.
    pub(super) fn deliver(&self, raw: &Bytes) {
        let outboxes = self.outboxes.lock();
        let taken = outboxes.iter().filter(|(name, outbox)| outbox.event(name, raw)).count();
        drop(outboxes);
        self.counts.delivered.fetch_add(taken as u64, Ordering::Relaxed);
    }

    /// Tells everybody how the stream stands.
    pub(super) fn tell(&self, state: &str, reason: &str) {
        for (name, outbox) in self.outboxes.lock().iter() {
            let params = serde_json::json!({ "subscription": &**name, "state": state, "reason": reason });
            let notice = serde_json::json!({ "jsonrpc": "2.0", "method": "lariat_subscription", "params": params });
            let _taken = outbox.notice(name, notice.to_string().into());
        }
    }

    /// Tells everybody that the stream has ended, and lets them go; says how many there were.
    pub(super) fn end(&self, reason: &str) -> usize {
        self.ended.store(true, Ordering::Release);
        self.tell("ended", reason);
        let gone = std::mem::take(&mut *self.outboxes.lock()).len();
        self.counts.open.fetch_sub(i64::try_from(gone).unwrap_or(i64::MAX), Ordering::Relaxed);
        gone
    }
}

struct Membership {
    members: Arc<Members>,
    _place: OwnedSemaphorePermit,
}

/// One connection of a client, as its subscriptions see it. Dropping it ends them.
pub(crate) struct Client {
    pub(crate) outbox: Arc<Outbox>,
    memberships: Mutex<HashMap<Arc<str>, Membership>>,
    places: Arc<Semaphore>,
}

impl Default for Client {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(MAX_PER_CLIENT));
        Self { outbox: Arc::default(), memberships: Mutex::default(), places }
    }
}

impl Client {
    /// A place for one more subscription, if there is one.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.memberships.lock().retain(|_, it| !it.members.ended.load(Ordering::Acquire));
        self.places.clone().try_acquire_owned().ok()
    }

    /// Becomes a member; its events are held back until the reply that names it is on its way.
    pub(super) fn enter(&self, name: Arc<str>, members: Arc<Members>, place: OwnedSemaphorePermit) {
        self.outbox.hold(&name);
        members.outboxes.lock().insert(name.clone(), self.outbox.clone());
        members.counts.open.fetch_add(1, Ordering::Relaxed);
        self.memberships.lock().insert(name, Membership { members, _place: place });
    }

    /// Ends a subscription; false where there is none of that name.
    pub(super) fn leave(&self, name: &str) -> bool {
        let left = self.memberships.lock().remove(name);
        if let Some(membership) = &left {
            membership.members.remove(name);
        }
        left.is_some_and(|membership| !membership.members.ended.load(Ordering::Acquire))
    }

    pub(crate) fn has_subscriptions(&self) -> bool {
        !self.memberships.lock().is_empty()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for (name, membership) in self.memberships.get_mut().drain() {
            membership.members.remove(&name);
        }
    }
}
