//! Probes: each instance is asked for its chain id once it is known or suspect, and for its height at its interval. They
//! give decisions a height and a first latency, open circuits of providers that nobody calls, and close those of
//! providers that have recovered. A probe is recorded as an attempt of `origin=system`, outside any decision.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lariat_schema::ids::InstanceId;
use lariat_schema::vocabulary::{AttemptKind, ErrorCategory, Origin, Outcome, Transport};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::core::Core;
use crate::health::{Admission, ChannelIndex, PUBLISH_EVERY};
use crate::record::{Attempt, Chosen, Happened, Item, Scope, now_unix_nanos, span_id};
use crate::server::Site;
use crate::trace_context::Trace;
use crate::upstream::{Answer, Outgoing, attempt};

const TIMEOUT: Duration = Duration::from_secs(3);
/// First probes are spread over this time, or over the interval if that is shorter.
const SPREAD: Duration = Duration::from_secs(2);
/// Pause after a failure, doubled with each further one up to the longest.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Failures in a row that make a provider unhealthy.
const UNHEALTHY_AFTER: u32 = 3;

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

/// What is known of an instance's health.
struct Watch {
    status: &'static str,
    failures: u32,
    chain_checked: bool,
}

/// Probes one instance until stopped. Each probe asks anew what is routed: after a reload the instance may have another
/// place, and another interval.
pub(crate) async fn watch(site: Arc<Site>, id: InstanceId, stop: CancellationToken) {
    let mut watch = Watch { status: "connecting", failures: 0, chain_checked: false };
    let mut wait = None;
    loop {
        let core = site.core();
        let Some(at) = core.catalog.instance_at(&id).filter(|at| core.catalog.instances[*at].http.is_some()) else {
            return;
        };
        let interval = Duration::from_millis(core.catalog.instances[at].probe_interval_ms);
        let first = || SPREAD.min(interval).mul_f64(rand::random::<f64>() / 4.0);
        drop(core);
        if stop.run_until_cancelled(tokio::time::sleep(wait.unwrap_or_else(first))).await.is_none() {
            return;
        }
        let core = site.core();
        let Some(at) = core.catalog.instance_at(&id) else { return };
        if stop.run_until_cancelled(probe(&core, at, &mut watch)).await.is_none() {
            return;
        }
        wait = Some(match watch.failures {
            0 => interval,
            n => FAILURE_PAUSE.saturating_mul(1 << n.min(4)).min(LONGEST_PAUSE).min(interval.max(FAILURE_PAUSE)),
        });
    }
}

async fn probe(core: &Core, instance: usize, watch: &mut Watch) {
    let channel = ChannelIndex::new(instance, Transport::Http);
    // An open circuit is left alone; a half-open one is tried by the probe before a client has to.
    let Ok(admission) = core.book.admit(channel) else { return };
    let expected = core.catalog.instances[instance].chain_id;
    if !watch.chain_checked {
        let (answer, number) = ask(core, instance, "eth_chainId", &admission).await;
        match number {
            Some(id) if id == expected => watch.chain_checked = true,
            Some(id) => {
                let reason = format!("reports chain {id}, expected {expected}");
                return fail(core, instance, watch, admission, ErrorCategory::ChainError, reason, None);
            }
            None => return fail_answer(core, instance, watch, admission, &answer),
        }
    }
    let (answer, number) = ask(core, instance, "eth_blockNumber", &admission).await;
    let Some(height) = number else { return fail_answer(core, instance, watch, admission, &answer) };
    core.book.note_prior(channel, answer.took.as_secs_f64() * 1_000.0);
    if core.book.note_height(instance, height) {
        tell_head(core, instance, height);
    }
    if let Some(change) = admission.succeed(None) {
        core.tell_change(change);
    }
    watch.failures = 0;
    turn(core, instance, watch, "healthy", "answered");
}

/// Tells of a new height; the lag is that within each chain that uses the instance, which are of one id.
fn tell_head(core: &Core, instance: usize, height: u64) {
    let chain_id = core.catalog.instances[instance].chain_id;
    let same = core.catalog.instances.iter().enumerate().filter(|(_, it)| it.chain_id == chain_id).map(|(at, _)| at);
    // The snapshot may be older than this height, which then is its own consensus.
    let consensus = core.book.snapshot().consensus(same, core.book.now_ms()).unwrap_or(height);
    let lag = i64::try_from(height)
        .ok()
        .zip(i64::try_from(consensus).ok())
        .map(|(height, consensus)| (height - consensus).min(0));
    core.tell(instance, Transport::Http, &Happened::Head { height, lag });
}

fn fail_answer(core: &Core, instance: usize, watch: &mut Watch, admission: Admission<'_>, answer: &Answer) {
    let category = answer.end.category.unwrap_or(ErrorCategory::InvalidResponse);
    fail(core, instance, watch, admission, category, category.to_string(), answer.retry_after_ms);
}

fn fail(
    core: &Core,
    instance: usize,
    watch: &mut Watch,
    admission: Admission<'_>,
    category: ErrorCategory,
    reason: String,
    retry_after_ms: Option<u64>,
) {
    if let Some(change) = admission.fail(category, None, retry_after_ms) {
        core.tell_change(change);
    }
    watch.failures = watch.failures.saturating_add(1);
    watch.chain_checked = false;
    let status = match category {
        ErrorCategory::RateLimit => "rate_limited",
        ErrorCategory::AuthError | ErrorCategory::ChainError => "misconfigured",
        _ if watch.failures >= UNHEALTHY_AFTER => "unhealthy",
        _ => "degraded",
    };
    turn(core, instance, watch, status, &reason);
}

/// Tells of a change of health.
fn turn(core: &Core, instance: usize, watch: &mut Watch, to: &'static str, reason: &str) {
    let from = std::mem::replace(&mut watch.status, to);
    if from != to {
        core.tell(instance, Transport::Http, &Happened::Health { from, to, reason: reason.to_owned() });
    }
}

/// Asks for a number, and records the probe.
async fn ask(core: &Core, at: usize, method: &'static str, admission: &Admission<'_>) -> (Answer, Option<u64>) {
    let instance = &core.catalog.instances[at];
    let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":[]}}"#);
    let outgoing = Outgoing { payload: Bytes::from(call), id: 1, trace: None };
    let start_unix_nanos = now_unix_nanos();
    let answer = attempt(&core.upstreams, instance, Transport::Http, &[], outgoing, TIMEOUT).await;
    let number = answer.reply.as_ref().and_then(|reply| {
        let text: String = serde_json::from_slice(reply.result.as_ref()?).ok()?;
        u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    });
    let mut end = answer.end;
    if number.is_none() && end.category.is_none() {
        (end.category, end.outcome) = (Some(ErrorCategory::InvalidResponse), Outcome::ServiceFailure);
    }
    let (profile, chain, provider_id) = core.named_by(at).clone();
    let scope = Scope {
        request_id: Uuid::now_v7(),
        trace: Trace::default(),
        batch_index: 0,
        batch_size: 1,
        profile,
        chain,
        chain_id: instance.chain_id,
        method,
        method_original: None,
        origin: Origin::System,
    };
    let record = Attempt {
        span_id: span_id(),
        ordinal: 1,
        kind: AttemptKind::Probe,
        chosen: Chosen {
            provider_id,
            instance_id: instance.id.clone(),
            transport: Transport::Http,
            head_lag_blocks: None,
        },
        circuit: (admission.lease.state, admission.lease.epoch),
        server: instance.server(Transport::Http),
        start_unix_nanos,
        duration_ns: u64::try_from(answer.took.as_nanos()).unwrap_or(u64::MAX),
        end,
    };
    core.recorder.hand_over(Item::Probe(Box::new((scope, record))));
    (answer, number)
}
