//! Subscriptions of clients. All who mean the same share one stream: one subscription at one provider at a time, kept by
//! a task that changes the provider when it fails and fills what was missed (`stream` decides, `keeper` acts, `gap`
//! asks). A client's subscription has a name of ours, so that it outlives every provider. A stream ends a while after
//! its last client.
//!
//! One upstream subscription per client was rejected: providers limit them, and every one of them would have to be
//! failed over by itself.

mod gap;
mod keeper;
mod members;
mod notice;
mod stream;
pub(crate) mod subject;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use lariat_schema::ids::{ChainName, ProfileName};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::call::subscribing::Subscribing;
use crate::call::{Done, Position, Route};
use crate::core::Core;
use crate::jsonrpc::Call;
use crate::refusal::Refusal;
use crate::server::Site;
use keeper::Keeper;
use members::Members;
pub(crate) use members::{Client, MAX_PER_CLIENT};
use subject::Subject;

/// Streams of a node at most: each is a task and a subscription at a provider.
const MAX_STREAMS: usize = 4_096;

/// What tells one stream from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    profile: ProfileName,
    chain: ChainName,
    /// The provider that was pinned.
    pin: Option<Box<str>>,
    subject: Subject,
}

/// The place of a stream. Whoever starts it holds the lock until it runs or cannot; others wait, and join or try
/// themselves. If the first one goes away meanwhile, the next one takes over.
#[derive(Default)]
struct Slot {
    running: tokio::sync::Mutex<Option<Arc<Members>>>,
}

/// Figures of all streams of this boot.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Subscriptions of clients that are open.
    pub(crate) open: AtomicI64,
    /// Streams that run.
    pub(crate) streams: AtomicI64,
    /// Events handed to clients.
    pub(crate) delivered: AtomicU64,
    /// Events of providers that were known already.
    pub(crate) duplicates: AtomicU64,
    /// Events of providers that could not be read.
    pub(crate) unreadable: AtomicU64,
    /// Changes of a stream's provider.
    pub(crate) failovers: AtomicU64,
    /// Blocks that were asked for since a stream may have missed them.
    pub(crate) filled: AtomicU64,
    /// Clients' subscriptions that were ended since something was lost for good.
    pub(crate) lost: AtomicU64,
}

impl Counts {
    /// Its figures as Prometheus text.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        let gauge = |value: &AtomicI64| u64::try_from(value.load(Ordering::Relaxed)).unwrap_or(0);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            ("s", "gauge", "Subscriptions of clients that are open.", gauge(&self.open)),
            ("_streams", "gauge", "Streams that run, each for all who mean the same.", gauge(&self.streams)),
            ("_events_total", "counter", "Events handed to clients.", load(&self.delivered)),
            ("_duplicates_total", "counter", "Events of providers that were known already.", load(&self.duplicates)),
            ("_unreadable_total", "counter", "Events of providers that could not be read.", load(&self.unreadable)),
            ("_failovers_total", "counter", "Changes of a stream's provider.", load(&self.failovers)),
            (
                "_blocks_filled_total",
                "counter",
                "Blocks asked for since they may have been missed.",
                load(&self.filled),
            ),
            ("s_lost_total", "counter", "Subscriptions that ended since something is lost for good.", load(&self.lost)),
        ] {
            let name = format!("lariat_subscription{name}");
            // Writing to a String cannot fail.
            let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
}

/// All streams of a node.
#[derive(Default)]
pub(crate) struct Subscriptions {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    pub(crate) counts: Arc<Counts>,
}

impl Subscriptions {
    /// The place of a stream; none where there are too many.
    fn slot(&self, key: &Key) -> Option<Arc<Slot>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(key) {
            return Some(slot.clone());
        }
        (slots.len() < MAX_STREAMS).then(|| slots.entry(key.clone()).or_default().clone())
    }

    /// True while that is still the place of the stream.
    fn is_current(&self, key: &Key, slot: &Arc<Slot>) -> bool {
        self.slots.lock().get(key).is_some_and(|current| Arc::ptr_eq(current, slot))
    }

    /// Gives a place up that no stream runs in; whoever waits for it finds that it is not current.
    fn forget(&self, key: &Key, slot: &Arc<Slot>) {
        let mut slots = self.slots.lock();
        if slots.get(key).is_some_and(|current| Arc::ptr_eq(current, slot)) {
            slots.remove(key);
        }
    }
}

/// The reply to a call about subscriptions, and the subscription that it opened.
pub(crate) struct Answered {
    pub(crate) done: Done,
    pub(crate) opened: Option<Arc<str>>,
}

impl From<Done> for Answered {
    fn from(done: Done) -> Self {
        Self { done, opened: None }
    }
}

/// Answers `eth_subscribe` and `eth_unsubscribe` of a client.
pub(crate) async fn answer(
    site: &Arc<Site>,
    core: &Core,
    route: &Route<'_>,
    client: &Client,
    call: &Call,
    position: Position,
) -> Answered {
    let deciding = match Subscribing::begin(core, route, call, position) {
        Ok(deciding) => deciding,
        Err(done) => return done.into(),
    };
    if call.policy.name == "eth_unsubscribe" {
        let names: Vec<String> =
            call.params.as_ref().and_then(|params| serde_json::from_slice(params).ok()).unwrap_or_default();
        let [name] = &names[..] else {
            return deciding.refused(Refusal::BadSubscription("give its name".to_owned())).into();
        };
        return deciding.local(if client.leave(name) { "true" } else { "false" }).into();
    }
    match Subject::read(call.params.as_deref()) {
        // Without a reply nobody would know what to unsubscribe from.
        Ok(_) if call.id.is_none() => {
            deciding.refused(Refusal::BadSubscription("a notification cannot subscribe".to_owned())).into()
        }
        Ok(subject) => subscribe(site, route, client, deciding, subject, call.policy.timeout_ms).await,
        Err(refusal) => deciding.refused(refusal).into(),
    }
}

async fn subscribe(
    site: &Arc<Site>,
    route: &Route<'_>,
    client: &Client,
    mut deciding: Subscribing<'_>,
    subject: Subject,
    timeout_ms: u64,
) -> Answered {
    let Some(place) = client.place() else {
        let refusal = Refusal::TooManySubscriptions { limit: MAX_PER_CLIENT, place: "on a connection" };
        return deciding.refused(refusal).into();
    };
    let hub = &site.subscriptions;
    let key = Key {
        profile: route.profile.slug.clone(),
        chain: route.chain.key.clone(),
        pin: route.pin.map(Into::into),
        subject,
    };
    let name: Arc<str> = format!("{:#034x}", rand::random::<u128>()).into();
    loop {
        let Some(slot) = hub.slot(&key) else {
            let refusal = Refusal::TooManySubscriptions { limit: MAX_STREAMS, place: "on this node" };
            return deciding.refused(refusal).into();
        };
        let Ok(mut running) = timeout(Duration::from_millis(timeout_ms), slot.running.lock()).await else {
            return deciding.refused(Refusal::TooLate).into();
        };
        if let Some(members) = &*running {
            client.enter(name.clone(), members.clone(), place);
            return Answered { done: deciding.joined(&name), opened: Some(name) };
        }
        if !hub.is_current(&key, &slot) {
            continue;
        }
        return match deciding.open(&keeper::wanted(&key.subject, None)).await {
            Ok(opened) => {
                let members = Arc::new(Members::new(hub.counts.clone()));
                client.enter(name.clone(), members.clone(), place);
                *running = Some(members.clone());
                let chosen = opened.chosen.clone();
                drop(running);
                Keeper::start(site.clone(), key, slot, members, opened);
                Answered { done: deciding.opened(&name, chosen), opened: Some(name) }
            }
            Err(not_opened) => {
                hub.forget(&key, &slot);
                deciding.failed(not_opened).into()
            }
        };
    }
}
