//! The record: what a decision, an attempt, a probe or a change of state hands over, and how it becomes OTLP.
//!
//! The thread of a request pushes one boxed value into a bounded queue and goes on; when the queue is full it counts a
//! refusal (I-7, I-8). It does not even wake the recorder, which looks by itself every few milliseconds: a wake-up is a
//! system call. The OpenTelemetry SDK is not used for this path, since it keeps no exemplars, drops silently and cannot
//! resend identical bytes, on which the collector's dedup depends; its data types are.

mod counts;
mod digest;
mod events;
mod export;
mod gauges;
mod histogram;
mod points;
mod snapshots;
mod span_ids;
mod spans;
mod units;
mod wire;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use lariat_schema::ids::{ChainName, InstanceId, ProfileName, ProviderId};
use lariat_schema::vocabulary::{
    AnsweredBy, AttemptKind, CacheOutcome, CallResult, CircuitState, Dispatched, ErrorCategory, HedgeOutcome, Origin,
    Outcome, Strategy, Transport, TransportFailure,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::circuit::Transition;
use crate::decide::Decision;
use crate::health::Book;
use crate::profiles::Catalog;
use crate::trace_context::Trace;
pub(crate) use digest::{Digest, DigestKey};
pub use export::ExporterConfig;
pub(crate) use span_ids::SpanIds;
use spans::Attributes;
pub(crate) use worker::{Running, Sources, start};

/// How long the event of a reload may wait for room.
const RELOAD_PATIENCE: Duration = Duration::from_secs(5);

/// What the record says of a call, whoever makes the span.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) request_id: Uuid,
    pub(crate) trace: Trace,
    pub(crate) batch_index: u32,
    pub(crate) batch_size: u32,
    pub(crate) profile: ProfileName,
    pub(crate) chain: ChainName,
    pub(crate) chain_id: u64,
    /// The recognised method, or `_OTHER`.
    pub(crate) method: &'static str,
    /// The method as called, where that is `_OTHER`.
    pub(crate) method_original: Option<Box<str>>,
    pub(crate) origin: Origin,
}

impl Scope {
    /// The trace that the call's spans go to.
    pub(crate) fn trace_id(&self) -> [u8; 16] {
        self.trace.id(self.request_id.as_bytes())
    }
}

/// When, and how long each part took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timing {
    pub(crate) start_unix_nanos: u64,
    pub(crate) duration_ns: u64,
    pub(crate) selection_ns: u64,
    pub(crate) provider_ns: u64,
}

/// How a decision ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) answered_by: AnsweredBy,
    /// What the cache or an identical call did; none where neither was asked.
    pub(crate) cache: Option<CacheOutcome>,
    /// The request whose call got the answer that this one shares.
    pub(crate) coalesced_with: Option<Uuid>,
    pub(crate) result: CallResult,
    pub(crate) category: Option<ErrorCategory>,
    pub(crate) code: Option<i64>,
    pub(crate) provider: Option<Chosen>,
    pub(crate) bytes_out: u64,
    pub(crate) response_digest: Option<Digest>,
}

/// The channel whose answer was returned, or that was tried.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) provider_id: ProviderId,
    pub(crate) instance_id: InstanceId,
    pub(crate) transport: Transport,
    pub(crate) head_lag_blocks: Option<i64>,
}

/// One selection, with the moment of it.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) at_unix_nanos: u64,
    pub(crate) decision: Decision,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// Made before anything is sent, since a provider may be told.
    pub(crate) span_id: [u8; 8],
    pub(crate) ordinal: u32,
    pub(crate) kind: AttemptKind,
    pub(crate) chosen: Chosen,
    pub(crate) circuit: (CircuitState, u64),
    pub(crate) server: (Arc<str>, u16),
    pub(crate) start_unix_nanos: u64,
    pub(crate) duration_ns: u64,
    pub(crate) end: AttemptEnd,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptEnd {
    pub(crate) outcome: Outcome,
    pub(crate) category: Option<ErrorCategory>,
    pub(crate) code: Option<i64>,
    pub(crate) http_status: Option<u16>,
    pub(crate) dispatched: Dispatched,
    /// What went wrong on the way, where that is known.
    pub(crate) failure: Option<TransportFailure>,
}

/// Everything that one decision leaves.
#[derive(Debug, Clone)]
pub(crate) struct DecisionRecord {
    pub(crate) scope: Scope,
    pub(crate) seq: u64,
    pub(crate) span_id: [u8; 8],
    pub(crate) jsonrpc_id: Option<Box<str>>,
    pub(crate) strategy: Strategy,
    pub(crate) client_transport: Transport,
    /// Hash of the policy that the decision was made under.
    pub(crate) policy_hash: Arc<str>,
    pub(crate) bytes_in: u64,
    pub(crate) params_digest: Option<Digest>,
    pub(crate) timing: Timing,
    pub(crate) selections: Vec<Selection>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) ending: Ending,
}

/// A change of state of a provider's channel.
#[derive(Debug, Clone)]
pub(crate) struct ChannelEvent {
    pub(crate) profile: ProfileName,
    pub(crate) chain: ChainName,
    pub(crate) chain_id: u64,
    pub(crate) provider_id: ProviderId,
    pub(crate) instance_id: InstanceId,
    pub(crate) transport: Transport,
    pub(crate) at_unix_nanos: u64,
    pub(crate) what: Happened,
}

/// What changed.
#[derive(Debug, Clone)]
pub(crate) enum Happened {
    Circuit {
        transition: Transition,
        epoch: u64,
    },
    Health {
        from: &'static str,
        to: &'static str,
        reason: String,
    },
    Head {
        height: u64,
        lag: Option<i64>,
    },
    /// A block that was final is another one now.
    Reorganised {
        height: u64,
    },
    /// The provider limits us for so long.
    RateLimit {
        for_ms: u64,
    },
    /// Of a stream of events; the channel is the one that gives them, or did.
    Subscription {
        kind: &'static str,
        event: SubscriptionEvent,
    },
}

/// What happened to a stream of events.
#[derive(Debug, Clone)]
pub(crate) enum SubscriptionEvent {
    Established,
    Failed { reason: Box<str> },
    Failover { from: ProviderId },
    Stale { stale_ms: u64 },
}

/// What goes through the queue.
pub(crate) enum Item {
    Decision(Box<DecisionRecord>),
    /// A probe: an attempt that no decision asked for.
    Probe(Box<(Scope, Attempt)>),
    Event(Box<ChannelEvent>),
    /// Other profiles are in force.
    Reload(Arc<Catalog>),
}

/// Figures that the request path and the recorder share, all of them atomic.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Highest number handed out.
    pub(crate) seq: AtomicU64,
    /// Probes so far.
    probes: AtomicU64,
    /// Decisions that found the queue full.
    pub(crate) refused: AtomicU64,
    /// Decisions that were numbered and lost after the queue.
    pub(crate) lost: AtomicU64,
    /// Events that found the queue or the buffer full.
    pub(crate) events_refused: AtomicU64,
    /// Calls accepted and not yet answered.
    pub(crate) in_flight: AtomicI64,
    /// Hedges by outcome, in the order of [`HedgeOutcome::ALL`].
    hedges: [AtomicU64; HedgeOutcome::ALL.len()],
}

impl Counters {
    /// Decisions of this boot that will not be found.
    pub(crate) fn dropped(&self) -> u64 {
        self.refused.load(Ordering::Relaxed) + self.lost.load(Ordering::Relaxed)
    }

    /// Counts what became of a hedge.
    pub(crate) fn count_hedge(&self, outcome: HedgeOutcome) {
        self.hedges[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Hedges so far, by outcome.
    pub(crate) fn hedges(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HedgeOutcome::ALL.iter().zip(&self.hedges).map(|(outcome, n)| (outcome.as_str(), n.load(Ordering::Relaxed)))
    }
}

/// The request path's end of the queue.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Item>,
    routed: Arc<ArcSwap<Routed>>,
    pub(crate) counters: Arc<Counters>,
}

/// What the gauges are read from.
pub(crate) struct Routed {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) book: Arc<Book>,
}

impl Recorder {
    /// The next decision's number. It is counted before anything can be dropped, so that a gap is loss.
    pub(crate) fn next_seq(&self) -> u64 {
        self.counters.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The next probe's number, from 1.
    pub(crate) fn next_probe(&self) -> u64 {
        self.counters.probes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Hands a value over, or counts that there was no room.
    pub(crate) fn hand_over(&self, item: Item) {
        if let Err(refused) = self.queue.try_send(item) {
            let counter = match refused.into_inner() {
                Item::Decision(_) => &self.counters.refused,
                Item::Probe(_) | Item::Event(_) | Item::Reload(_) => &self.counters.events_refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads the gauges from these from now on.
    pub(crate) fn follow(&self, catalog: Arc<Catalog>, book: Arc<Book>) {
        self.routed.store(Arc::new(Routed { catalog, book }));
    }

    /// Tells of the profiles in force. A reload may wait for room in the queue, as no request does: without this event
    /// the policy hash of later decisions says nothing.
    pub(crate) async fn tell_reload(&self, catalog: Arc<Catalog>) {
        let told = tokio::time::timeout(RELOAD_PATIENCE, self.queue.send(Item::Reload(catalog))).await;
        if !matches!(told, Ok(Ok(()))) {
            self.counters.events_refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The wall clock, Unix nanoseconds.
pub(crate) fn now_unix_nanos() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
