//! Where the nodes' streams meet: dedup, the ring of recent events, the latest state of circuits, and the subscribers'
//! buffers. Publishing never waits for a subscriber: what does not fit is counted and told to that one as a gap. A
//! broadcast channel would be simpler, but its lag counts events that the subscriber had filtered out.
//!
//! One lock guards all; publishing holds it for matching and a few pushes, never for IO.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lariat_schema::coverage::Coverage;
use lariat_schema::live::{LiveDecision, LiveEvent, LiveTransition};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::cursor::Cursor;
use super::seen::Seen;
use super::topic::Subscription;

/// Decisions of a snapshot.
pub(super) const SNAPSHOT_DECISIONS: usize = 100;
/// How long an event can be resumed from.
pub(super) const RESUME_FOR: Duration = Duration::from_secs(5 * 60);
/// Most events kept for resuming, at about 2 KiB each 40 MiB: five minutes at 66 events a second.
pub(super) const MAX_RING: usize = 20_000;
/// Events that wait for one subscriber; the contract's number.
pub(super) const MAX_BUFFERED: usize = 10_000;
/// Events that one subscriber is given in a second; the contract's number.
pub(super) const MAX_PER_SECOND: u32 = 1_000;
/// Most subscribers at once: each may hold 10,000 references, and is matched against every event.
pub(super) const MAX_SUBSCRIBERS: usize = 256;
/// Most circuits whose state is held: a fleet of 50 nodes with 100 channels each.
const MAX_CIRCUITS: usize = 5_000;

/// An event in the sequence of this process.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) seq: u64,
    at: Instant,
    event: LiveEvent,
    /// The event as JSON, made once for all subscribers.
    pub(super) json: Box<RawValue>,
}

impl Published {
    /// Request id and batch index, if it is a decision.
    pub(super) fn decision_name(&self) -> Option<(&str, i32)> {
        match &self.event {
            LiveEvent::Decision(decision) => Some((&decision.request_id, decision.batch_index)),
            _ => None,
        }
    }
}

/// What a subscriber finds in its buffer.
#[derive(Debug)]
pub(super) enum Delivery {
    Event { topics: Vec<Arc<str>>, event: Arc<Published> },
    Topology(Arc<TopologyChanged>),
    Gap(Gap),
}

/// Nodes whose state changed, with the coverage after it.
#[derive(Debug, Serialize)]
pub(super) struct TopologyChanged {
    pub(super) changes: Vec<NodeChange>,
    pub(super) coverage: Coverage,
}

/// One node's change; `from` is null for a new node, `to` for one that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NodeChange {
    pub(super) node_id: String,
    pub(super) region: String,
    pub(super) from: Option<&'static str>,
    pub(super) to: Option<&'static str>,
}

/// Events that a subscriber does not get; `missed` is null where nobody can know how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    pub(super) missed: Option<u64>,
    pub(super) reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node_id: Option<String>,
}

/// Events refused to one subscriber since it was last told.
#[derive(Debug, Default)]
pub(super) struct Missed {
    by_rate: AtomicU64,
    by_buffer: AtomicU64,
}

impl Missed {
    /// What to tell, and forgets it.
    pub(super) fn take(&self) -> Vec<Gap> {
        let told = [(&self.by_rate, "rate_limit"), (&self.by_buffer, "buffer_full")];
        told.into_iter()
            .map(|(count, reason)| (count.swap(0, Ordering::Relaxed), reason))
            .filter(|(missed, _)| *missed > 0)
            .map(|(missed, reason)| Gap { missed: Some(missed), reason, node_id: None })
            .collect()
    }
}

/// What a new subscriber starts with.
pub(super) struct Joined {
    pub(super) membership: Membership,
    pub(super) receiver: mpsc::Receiver<Delivery>,
    pub(super) missed: Arc<Missed>,
    /// The newest decisions up to the place that is resumed from, newest first.
    pub(super) decisions: Vec<LiveDecision>,
    pub(super) circuits: Vec<LiveTransition>,
    /// Where the snapshot stands.
    pub(super) cursor: Cursor,
    /// Events after that place.
    pub(super) replay: Vec<(Vec<Arc<str>>, Arc<Published>)>,
    /// Set where it could not be resumed.
    pub(super) gap: Option<Gap>,
    /// True if the cursor was good.
    pub(super) resumed: bool,
}

/// A place among the subscribers, free again when this is dropped, however the connection ends.
pub(super) struct Membership {
    hub: Arc<Hub>,
    id: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.state.lock().subscribers.remove(&self.id);
    }
}

struct Subscriber {
    subscription: Subscription,
    sender: mpsc::Sender<Delivery>,
    missed: Arc<Missed>,
    second_began: Instant,
    in_second: u32,
}

impl Subscriber {
    fn offer(&mut self, delivery: Delivery, now: Instant) {
        if now.duration_since(self.second_began) >= Duration::from_secs(1) {
            (self.second_began, self.in_second) = (now, 0);
        }
        if self.in_second >= MAX_PER_SECOND {
            self.missed.by_rate.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.in_second += 1;
        if self.sender.try_send(delivery).is_err() {
            self.missed.by_buffer.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A channel on a node.
pub(super) type CircuitKey = (String, String, String, String, String);

/// The channel and node of a transition.
pub(super) fn circuit_key(event: &LiveTransition) -> CircuitKey {
    let channel = (&event.profile, &event.chain, &event.provider_id, &event.transport);
    let (profile, chain, provider_id, transport) = channel;
    (event.node_id.clone(), profile.clone(), chain.clone(), provider_id.clone(), transport.clone())
}

/// Figures of the feed, for the service's own metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedFigures {
    /// Events passed on since the start.
    pub published: u64,
    /// Decisions left out since they had been passed on before.
    pub duplicates: u64,
    /// Events that nodes left out, as they said.
    pub missed_by_nodes: u64,
    /// Subscriptions refused since there were too many.
    pub refused_subscribers: u64,
    /// Subscribers now.
    pub subscribers: usize,
}

struct State {
    next_seq: u64,
    ring: VecDeque<Arc<Published>>,
    seen: Seen,
    circuits: HashMap<CircuitKey, LiveTransition>,
    subscribers: HashMap<u64, Subscriber>,
    next_subscriber: u64,
    figures: FeedFigures,
}

/// The meeting point.
pub(super) struct Hub {
    epoch: u64,
    state: Mutex<State>,
}

impl Hub {
    /// An empty one; `epoch` tells its cursors from another process'.
    pub(super) fn new(epoch: u64) -> Self {
        let state = State {
            next_seq: 1,
            ring: VecDeque::new(),
            seen: Seen::default(),
            circuits: HashMap::new(),
            subscribers: HashMap::new(),
            next_subscriber: 0,
            figures: FeedFigures::default(),
        };
        Self { epoch, state: Mutex::new(state) }
    }

    /// Passes on what a node told.
    pub(super) fn publish(&self, node_id: &str, event: LiveEvent, now: Instant) {
        let mut state = self.state.lock();
        match &event {
            LiveEvent::Heartbeat => return,
            LiveEvent::Gap { missed } => {
                state.figures.missed_by_nodes += missed;
                let gap = Gap { missed: Some(*missed), reason: "node_left_out", node_id: Some(node_id.to_owned()) };
                return state.tell_all(now, &gap);
            }
            LiveEvent::Decision(decision) => {
                if !state.seen.is_new(&decision.request_id, decision.batch_index, now) {
                    state.figures.duplicates += 1;
                    return;
                }
            }
            LiveEvent::Circuit(transition) => state.note_circuit(transition),
            LiveEvent::Health(_) | LiveEvent::Block(_) => {}
        }
        state.append(event, now);
    }

    /// A node's stream broke; what it told until it is back is not known.
    pub(super) fn node_interrupted(&self, node_id: &str, now: Instant) {
        let gap = Gap { missed: None, reason: "node_interrupted", node_id: Some(node_id.to_owned()) };
        self.state.lock().tell_all(now, &gap);
    }

    /// Tells of a change of the topology.
    pub(super) fn topology_changed(&self, change: TopologyChanged, now: Instant) {
        let change = Arc::new(change);
        let mut state = self.state.lock();
        for subscriber in state.subscribers.values_mut().filter(|of| of.subscription.hears_topology()) {
            subscriber.offer(Delivery::Topology(Arc::clone(&change)), now);
        }
    }

    /// Takes on a subscriber, from `last` on where that is a cursor of the last five minutes; none if there are too many.
    pub(super) fn join(
        self: &Arc<Self>,
        subscription: Subscription,
        last: Option<&str>,
        now: Instant,
    ) -> Option<Joined> {
        let mut state = self.state.lock();
        if state.subscribers.len() >= MAX_SUBSCRIBERS {
            state.figures.refused_subscribers += 1;
            return None;
        }
        let newest = state.next_seq - 1;
        let resume = last.map(|text| state.resumable(Cursor::open(text).filter(|of| of.epoch == self.epoch), now));
        let (from, gap) = match resume {
            Some(Ok(seq)) => (seq, None),
            Some(Err(missed)) => (newest, Some(Gap { missed, reason: "resume_expired", node_id: None })),
            None => (newest, None),
        };
        let (sender, receiver) = mpsc::channel(MAX_BUFFERED);
        let missed = Arc::new(Missed::default());
        let id = state.next_subscriber;
        state.next_subscriber += 1;
        let joined = Joined {
            membership: Membership { hub: Arc::clone(self), id },
            receiver,
            missed: Arc::clone(&missed),
            decisions: state.newest_decisions(&subscription, from),
            circuits: state.circuits_for(&subscription),
            cursor: Cursor { epoch: self.epoch, seq: from },
            replay: state.after(&subscription, from),
            resumed: gap.is_none() && last.is_some(),
            gap,
        };
        state.subscribers.insert(id, Subscriber { subscription, sender, missed, second_began: now, in_second: 0 });
        Some(joined)
    }

    /// Figures of now.
    pub(super) fn figures(&self) -> FeedFigures {
        let state = self.state.lock();
        FeedFigures { subscribers: state.subscribers.len(), ..state.figures }
    }
}

impl State {
    fn append(&mut self, event: LiveEvent, now: Instant) {
        let Ok(json) = serde_json::value::to_raw_value(&event) else {
            return;
        };
        let published = Arc::new(Published { seq: self.next_seq, at: now, event, json });
        self.next_seq += 1;
        self.figures.published += 1;
        for subscriber in self.subscribers.values_mut() {
            let topics = subscriber.subscription.topics_of(&published.event);
            if !topics.is_empty() {
                subscriber.offer(Delivery::Event { topics, event: Arc::clone(&published) }, now);
            }
        }
        self.ring.push_back(published);
        // The newest stay whatever their age: a snapshot of a quiet fleet shows what happened last.
        while self.ring.len() > MAX_RING
            || (self.ring.len() > SNAPSHOT_DECISIONS
                && self.ring.front().is_some_and(|oldest| now.duration_since(oldest.at) >= RESUME_FOR))
        {
            self.ring.pop_front();
        }
    }

    fn note_circuit(&mut self, event: &LiveTransition) {
        let key = circuit_key(event);
        if self.circuits.len() < MAX_CIRCUITS || self.circuits.contains_key(&key) {
            self.circuits.insert(key, event.clone());
        }
    }

    fn tell_all(&mut self, now: Instant, gap: &Gap) {
        for subscriber in self.subscribers.values_mut() {
            subscriber.offer(Delivery::Gap(gap.clone()), now);
        }
    }

    /// The place to go on from; else how many events lie between, where that can be known.
    fn resumable(&self, cursor: Option<Cursor>, now: Instant) -> Result<u64, Option<u64>> {
        let cursor = cursor.filter(|cursor| cursor.seq < self.next_seq).ok_or(None)?;
        let held_from = self.ring.front().map_or(self.next_seq, |oldest| oldest.seq);
        let next = cursor.seq + 1;
        if next < held_from {
            return Err(Some(held_from - next));
        }
        let index = usize::try_from(next - held_from).unwrap_or(usize::MAX);
        match self.ring.get(index) {
            // It was passed on so long ago that the subscriber must have been away for longer.
            Some(missed) if now.duration_since(missed.at) >= RESUME_FOR => Err(Some(self.next_seq - next)),
            _ => Ok(cursor.seq),
        }
    }

    fn newest_decisions(&self, subscription: &Subscription, up_to: u64) -> Vec<LiveDecision> {
        let newest = self.ring.iter().rev().filter(|event| event.seq <= up_to);
        let wanted = newest.filter_map(|published| match &published.event {
            LiveEvent::Decision(decision) if !subscription.topics_of(&published.event).is_empty() => {
                Some(LiveDecision::clone(decision))
            }
            _ => None,
        });
        wanted.take(SNAPSHOT_DECISIONS).collect()
    }

    fn circuits_for(&self, subscription: &Subscription) -> Vec<LiveTransition> {
        let mut circuits: Vec<LiveTransition> = self
            .circuits
            .values()
            .filter(|of| subscription.concerns(&LiveEvent::Circuit((*of).clone()), &of.profile))
            .cloned()
            .collect();
        circuits.sort_by(|left, right| right.time.cmp(&left.time));
        circuits
    }

    fn after(&self, subscription: &Subscription, seq: u64) -> Vec<(Vec<Arc<str>>, Arc<Published>)> {
        let later = self.ring.iter().filter(|event| event.seq > seq);
        let matched = later.map(|event| (subscription.topics_of(&event.event), Arc::clone(event)));
        matched.filter(|(topics, _)| !topics.is_empty()).collect()
    }
}
