//! Probes: each instance is asked for its chain id at its interval, and for its height as often, or a third as often while
//! it announces new heads. They give decisions a height and a first latency, open circuits of providers that nobody
//! calls, and close those of providers that have recovered. An instance with an HTTP address is probed there; one that
//! has only a socket is probed over it. A socket beside an HTTP address shows that it lives by its pings, so that it is
//! asked only where its half-open circuit waits for a trial.

mod ask;
mod course;
mod heads;

use std::sync::Arc;
use std::time::Duration;

use lariat_schema::ids::InstanceId;
use lariat_schema::vocabulary::{CircuitState, ErrorCategory, Transport};
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::health::{Admission, ChannelIndex, Noted, PUBLISH_EVERY, Status};
use crate::record::Happened;
use crate::server::Site;
use crate::upstream::{DialError, State};
use ask::{Told, ask};
use course::{Course, Failure};
use heads::Freshness;

const CHAIN_ID_TIMEOUT: Duration = Duration::from_secs(5);
const HEIGHT_TIMEOUT: Duration = Duration::from_secs(3);
/// First probes are spread over this time, or over the interval if that is shorter.
const SPREAD: Duration = Duration::from_secs(2);
/// Rounds for each height that is asked for while new heads come.
const ROUNDS_PER_HEIGHT: u32 = 3;
/// How long a provider that limits our probes is taken to limit our calls.
const LIMITED_MS: u64 = 60_000;

/// Publishes snapshots and half-opens circuits whose time has come.
pub(crate) async fn keep_book(site: Arc<Site>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PUBLISH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let core = site.core();
        for change in core.book.tick() {
            core.tell_change(change);
        }
        core.saving.observe(&core.catalog, &core.book.snapshot(), core.book.now_ms());
    }
}

/// Watches one instance until stopped, or until no catalog has it any more.
pub(crate) async fn watch(site: Arc<Site>, id: InstanceId, stop: CancellationToken) {
    let core = site.core();
    let Some(at) = core.catalog.instance_at(&id) else { return };
    let instance = &core.catalog.instances[at];
    let (has_http, has_ws) = (instance.http.is_some(), instance.ws.is_some());
    drop(core);
    let freshness = Freshness::default();
    let over = |transport, leads| rounds(&site, &id, transport, leads, &freshness);
    let watching = async {
        match (has_http, has_ws) {
            (true, true) => {
                tokio::join!(
                    over(Transport::Http, true),
                    over(Transport::Ws, false),
                    heads::follow(&site, &id, &freshness)
                );
            }
            (true, false) => over(Transport::Http, true).await,
            (false, _) => {
                tokio::join!(over(Transport::Ws, true), heads::follow(&site, &id, &freshness));
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// Probes over one transport, of which one `leads`: it says what the instance's health is.
async fn rounds(site: &Site, id: &InstanceId, transport: Transport, leads: bool, freshness: &Freshness) {
    let mut course = Course::default();
    let mut wait = None;
    let mut round = 0;
    loop {
        // Each round asks anew what is routed: after a reload the instance may have another place, and another interval.
        let core = site.core();
        let Some(at) = core.catalog.instance_at(id) else { return };
        let interval = Duration::from_millis(core.catalog.instances[at].probe_interval_ms);
        drop(core);
        let first = || SPREAD.min(interval).mul_f64(rand::random::<f64>() / 4.0);
        tokio::time::sleep(wait.unwrap_or_else(first)).await;
        if transport == Transport::Ws {
            settled(site, id).await;
        }
        let core = site.core();
        let Some(at) = core.catalog.instance_at(id) else { return };
        let channel = ChannelIndex::new(at, transport);
        if leads {
            let height = round % ROUNDS_PER_HEIGHT == 0 || !freshness.is_fresh(core.book.now_ms());
            probe(&core, channel, height, &mut course).await;
            round = if course.failures == 0 { round + 1 } else { 0 };
        } else if core.book.snapshot().channel(channel).circuit == CircuitState::HalfOpen {
            trial(&core, channel).await;
        }
        wait = Some(course.wait(interval, rand::random()));
    }
}

/// Waits until the socket is connected, or could not be.
async fn settled(site: &Site, id: &InstanceId) {
    let Some(socket) = site.core().upstreams.socket(id) else { return };
    let mut states = socket.link().states();
    drop(socket);
    // It fails only where the socket is gone, and then the probe finds that.
    let _gone = states.wait_for(|state| *state != State::Connecting).await.is_err();
}

/// One probe of the transport that leads.
async fn probe(core: &Core, channel: ChannelIndex, height: bool, course: &mut Course) {
    if let Some(refused) = refused(core, channel) {
        let failure = Failure { category: refused.category, http_status: refused.http_status };
        let reason = ask::reason(refused.category, refused.failure);
        limit(core, channel, failure, refused.retry_after_ms);
        return turn(core, channel, course, Err(failure), &reason);
    }
    // An open circuit is left alone; a half-open one is tried by the probe before a client has to.
    let Ok(admission) = core.book.admit(channel) else { return };
    let expected = core.catalog.instances[channel.instance()].chain_id;
    match ask(core, channel, "eth_chainId", CHAIN_ID_TIMEOUT, &admission).await {
        Told::Number { number, took } if number == expected => {
            core.book.note_prior(channel, took.as_secs_f64() * 1_000.0);
        }
        Told::Number { number, .. } => {
            let failure = Failure { category: ErrorCategory::ChainError, http_status: None };
            let reason = format!("reports chain {number}, expected {expected}");
            return fail(core, channel, course, admission, failure, &reason, None);
        }
        Told::Failed { failure, reason, is_echo: true, .. } => {
            return turn(core, channel, course, Err(failure), &reason);
        }
        Told::Failed { failure, reason, retry_after_ms, .. } => {
            return fail(core, channel, course, admission, failure, &reason, retry_after_ms);
        }
    }
    if height {
        match ask(core, channel, "eth_blockNumber", HEIGHT_TIMEOUT, &admission).await {
            Told::Number { number, .. } => tell_height(core, channel.instance(), channel.transport(), number),
            Told::Failed { failure, reason, retry_after_ms, .. } => {
                return fail(core, channel, course, admission, failure, &reason, retry_after_ms);
            }
        }
    }
    if let Some(change) = admission.succeed(None) {
        core.tell_change(change);
    }
    turn(core, channel, course, Ok(()), "answered");
}

/// Why the socket of that channel could not be connected, if that is so.
fn refused(core: &Core, channel: ChannelIndex) -> Option<DialError> {
    if channel.transport() != Transport::Ws {
        return None;
    }
    let link = core.upstreams.socket(&core.catalog.instances[channel.instance()].id)?.link();
    let state = link.states().borrow().clone();
    let category = ErrorCategory::NetworkError;
    match state {
        State::Connected(_) => None,
        State::Refused(error) => Some(error),
        State::Connecting | State::Lost(_) => {
            Some(DialError { category, failure: None, http_status: None, retry_after_ms: None })
        }
    }
}

/// The trial of a half-open circuit.
async fn trial(core: &Core, channel: ChannelIndex) {
    let Ok(admission) = core.book.admit(channel) else { return };
    let change = match ask(core, channel, "eth_chainId", CHAIN_ID_TIMEOUT, &admission).await {
        Told::Number { .. } => admission.succeed(None),
        Told::Failed { is_echo: true, .. } => None,
        Told::Failed { failure, retry_after_ms, .. } => admission.fail(failure.category, None, retry_after_ms),
    };
    if let Some(change) = change {
        core.tell_change(change);
    }
}

/// Notes a height and tells of it where it is a new one; the lag is that within all instances of the chain.
fn tell_height(core: &Core, instance: usize, transport: Transport, height: u64) {
    if core.book.note_height(instance, height) != Noted::New {
        return;
    }
    let chain_id = core.catalog.instances[instance].chain_id;
    let same = core.catalog.instances.iter().enumerate().filter(|(_, it)| it.chain_id == chain_id).map(|(at, _)| at);
    // The snapshot may be older than this height, which then is its own consensus.
    let consensus = core.book.snapshot().consensus(same, core.book.now_ms()).unwrap_or(height);
    let lag = i64::try_from(height)
        .ok()
        .zip(i64::try_from(consensus).ok())
        .map(|(height, consensus)| (height - consensus).min(0));
    core.tell(instance, transport, &Happened::Head { height, lag });
}

fn fail(
    core: &Core,
    channel: ChannelIndex,
    course: &mut Course,
    admission: Admission<'_>,
    failure: Failure,
    reason: &str,
    retry_after_ms: Option<u64>,
) {
    limit(core, channel, failure, retry_after_ms);
    if let Some(change) = admission.fail(failure.category, None, retry_after_ms) {
        core.tell_change(change);
    }
    turn(core, channel, course, Err(failure), reason);
}

/// Remembers that the provider limits our rate.
fn limit(core: &Core, channel: ChannelIndex, failure: Failure, retry_after_ms: Option<u64>) {
    if failure.is_limit() {
        core.book.note_limit(channel, retry_after_ms.unwrap_or(0).max(LIMITED_MS));
    }
}

/// Notes what a probe makes of the instance's health, and tells of a change.
fn turn(core: &Core, channel: ChannelIndex, course: &mut Course, outcome: Result<(), Failure>, reason: &str) {
    let (instance, mut to) = (channel.instance(), course.note(outcome));
    let doubted = core.book.snapshot().is_doubted(instance);
    let reason = if doubted && to == Status::Healthy {
        to = Status::Degraded;
        "reports a height that no other provider has"
    } else {
        reason
    };
    let from = core.book.note_health(instance, to, (course.failures, course.successes), reason);
    if from != to {
        let (from, to) = (from.as_str(), to.as_str());
        core.tell(instance, channel.transport(), &Happened::Health { from, to, reason: reason.to_owned() });
    }
}
