//! One call from its selection to its reply: select, attempt, and select anew after a failure, within one deadline. The
//! loop holds the rules of failover; what a decision is lives in `decide`, what an error means in `classify`. Whatever
//! happens, even that the client goes away, exactly one record is handed over.

use std::time::{Duration, Instant};

use lariat_schema::vocabulary::{
    AnsweredBy, AttemptKind, CallResult, Dispatched, ErrorCategory, ExclusionReason, Origin, Outcome, Strategy,
    Transport,
};
use uuid::Uuid;

use crate::attempt::{self, Answer};
use crate::circuit::Denied;
use crate::classify;
use crate::core::Core;
use crate::decide::{Ask, Tried, decide};
use crate::health::{Admission, ChannelIndex};
use crate::jsonrpc::{self, Call, Reply};
use crate::policy::{self, Safety};
use crate::profiles::{Chain, Profile};
use crate::record::{
    Attempt, AttemptEnd, Chosen, DecisionRecord, Ending, Item, Recorder, Scope, Selection, Timing, now_unix_nanos,
    span_id,
};
use crate::refusal::Refusal;
use crate::strategies::Candidate;

/// Attempts of a call that may be sent again.
const MAX_DISPATCHES: usize = 3;
/// Channels asked for at most, refused ones included.
const MAX_ADMISSIONS: usize = 16;
/// Less time than this is not worth an attempt.
const MIN_USEFUL: Duration = Duration::from_millis(25);
/// Share of the time that the first attempt gets where others could follow.
const FIRST_SHARE: f64 = 0.6;

/// Where a call goes and how, as its request said.
#[derive(Clone, Copy)]
pub(crate) struct Route<'a> {
    pub(crate) profile_at: usize,
    pub(crate) profile: &'a Profile,
    pub(crate) chain_at: usize,
    pub(crate) chain: &'a Chain,
    pub(crate) strategy: Strategy,
    pub(crate) transport: Option<Transport>,
    /// The provider that was pinned, by id.
    pub(crate) pin: Option<&'a str>,
}

/// The place of a call in its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub(crate) request_id: Uuid,
    pub(crate) batch_index: u32,
    pub(crate) batch_size: u32,
}

/// The reply to a call, and what the metadata tell of it.
pub(crate) struct Done {
    /// None for a notification.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) meta: serde_json::Value,
}

/// A record under way. It is handed over when finished, or, as abandoned, when dropped before.
struct Recording<'a> {
    recorder: &'a Recorder,
    record: Option<Box<DecisionRecord>>,
    started: Instant,
    /// Start of the attempt that is under way; its record is the last one.
    attempting: Option<Instant>,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            if let (Some(since), Some(attempt)) = (self.attempting, record.attempts.last_mut()) {
                attempt.duration_ns = nanos(since.elapsed());
                record.timing.provider_ns += attempt.duration_ns;
            }
            record.timing.duration_ns = nanos(self.started.elapsed());
            self.recorder.hand_over(Item::Decision(record));
        }
        self.recorder.counters.in_flight.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Routes a call.
pub(crate) async fn answer(core: &Core, route: &Route<'_>, call: &Call, position: Position) -> Done {
    let mut run = Run::new(core, route, call, position);
    let ended = match run.without_provider() {
        Some(ended) => ended,
        None => run.over_providers().await,
    };
    run.finish(ended)
}

enum Ended {
    Local(String),
    Refused(Refusal),
    Replied(Reply, Box<Chosen>, AttemptEnd),
}

struct Run<'a> {
    core: &'a Core,
    route: &'a Route<'a>,
    call: &'a Call,
    seq: u64,
    recording: Recording<'a>,
}

impl<'a> Run<'a> {
    fn new(core: &'a Core, route: &'a Route<'a>, call: &'a Call, position: Position) -> Self {
        let seq = core.recorder.next_seq();
        core.recorder.counters.in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let known = call.policy.name == &*call.method;
        let scope = Scope {
            request_id: position.request_id,
            batch_index: position.batch_index,
            batch_size: position.batch_size,
            profile: route.profile.slug.clone(),
            chain: route.chain.key.clone(),
            chain_id: route.chain.chain_id,
            method: call.policy.name,
            method_original: (!known).then(|| call.method.clone()),
            origin: Origin::Client,
        };
        let record = Box::new(DecisionRecord {
            scope,
            seq,
            span_id: span_id(),
            jsonrpc_id: call.id.as_ref().map(|id| String::from_utf8_lossy(&id[..id.len().min(256)]).into()),
            strategy: route.strategy,
            bytes_in: call.bytes as u64,
            params_digest: call.params.as_ref().map(|params| core.digest(params)),
            timing: Timing { start_unix_nanos: now_unix_nanos(), ..Timing::default() },
            selections: Vec::with_capacity(1),
            attempts: Vec::with_capacity(1),
            ending: Ending {
                answered_by: AnsweredBy::None,
                result: CallResult::ApplicationError,
                category: Some(ErrorCategory::ClientError),
                code: None,
                provider: None,
                bytes_out: 0,
                response_digest: None,
            },
        });
        let recorder = &core.recorder;
        let recording = Recording { recorder, record: Some(record), started: Instant::now(), attempting: None };
        Self { core, route, call, seq, recording }
    }

    /// The answer, where no provider is asked.
    fn without_provider(&self) -> Option<Ended> {
        let method = || self.call.method.to_string();
        match self.call.policy.safety {
            Safety::Keystore => Some(Ended::Refused(Refusal::Keystore(method()))),
            Safety::Subscription => Some(Ended::Refused(Refusal::NeedsWebSocket(method()))),
            _ if self.call.policy.name == "eth_chainId" && self.route.pin.is_none() => {
                Some(Ended::Local(format!("\"0x{:x}\"", self.route.chain.chain_id)))
            }
            _ => None,
        }
    }

    async fn over_providers(&mut self) -> Ended {
        let pin = match self.route.pin {
            Some(id) => match self.route.chain.providers.iter().position(|provider| provider.id.as_str() == id) {
                Some(pin) => Some(pin),
                None => return Ended::Refused(Refusal::UnknownProvider(id.to_owned())),
            },
            None => None,
        };
        let deadline = self.recording.started + Duration::from_millis(self.call.policy.timeout_ms);
        let payload = self.call.payload(self.seq);
        let mut tried: Vec<Tried> = Vec::new();
        let mut last: Option<(Reply, Box<Chosen>, AttemptEnd)> = None;
        let core = self.core;
        for _ in 0..MAX_ADMISSIONS {
            let left = deadline.saturating_duration_since(Instant::now());
            if left < MIN_USEFUL || self.dispatches() >= MAX_DISPATCHES {
                break;
            }
            let Some((candidate, alternatives)) = self.select(pin, &tried) else { break };
            let channel = candidate.channel;
            let admission = match core.book.admit(channel) {
                Ok(admission) => admission,
                Err(denied) => {
                    let reason = match denied {
                        Denied::Open => ExclusionReason::CircuitOpen,
                        Denied::HalfOpenBusy => ExclusionReason::HalfOpenBusy,
                    };
                    tried.push(Tried { channel, reason });
                    continue;
                }
            };
            let others = alternatives && pin.is_none() && self.call.policy.safety == Safety::ReplaySafe;
            let timeout =
                if self.dispatches() == 0 && others { left.mul_f64(FIRST_SHARE).max(MIN_USEFUL) } else { left };
            let (answer, chosen) = self.attempt(&candidate, admission, (payload.clone(), self.seq), timeout).await;
            let (end, took_back) = (answer.end, self.may_go_on(&answer, last.as_ref()));
            if let Some(reply) = answer.reply {
                last = Some((reply, Box::new(chosen), end));
            }
            if pin.is_some() || !took_back {
                break;
            }
            exclude(&mut tried, channel, end.category);
        }
        match last {
            Some((reply, chosen, end)) => Ended::Replied(reply, chosen, end),
            None => Ended::Refused(Refusal::Exhausted { retry_after_ms: self.retry_after_ms(pin) }),
        }
    }

    fn record(&mut self) -> &mut DecisionRecord {
        self.recording.record.as_mut().expect("the record is taken only at the end")
    }

    fn dispatches(&self) -> usize {
        self.recording.record.as_ref().map_or(0, |record| record.attempts.len())
    }

    /// Decides, records it, and returns the choice and whether there were others.
    fn select(&mut self, pin: Option<usize>, tried: &[Tried]) -> Option<(Candidate, bool)> {
        let began = Instant::now();
        let (core, route, call) = (self.core, self.route, self.call);
        let ask = Ask {
            profile: route.profile_at,
            chain_at: route.chain_at,
            chain: route.chain,
            method: &call.method,
            policy: call.policy,
            strategy: route.strategy,
            transport: route.transport,
            pin,
            need: policy::block_need(call.policy, call.params.as_deref()),
            now_ms: core.book.now_ms(),
        };
        let ordinal = self.record().selections.len() as u64 + 1;
        let decision = decide(&ask, &core.book.snapshot(), tried, core.seed(self.seq, ordinal));
        let chosen = decision.eligible.first().cloned();
        let others = decision.eligible.len() > 1;
        let record = self.record();
        record.selections.push(Selection { at_unix_nanos: now_unix_nanos(), decision });
        record.timing.selection_ns += nanos(began.elapsed());
        chosen.map(|chosen| (chosen, others))
    }

    async fn attempt(
        &mut self,
        candidate: &Candidate,
        admission: Admission<'_>,
        payload: (bytes::Bytes, u64),
        timeout: Duration,
    ) -> (Answer, Chosen) {
        let (core, profile, method) = (self.core, self.route.profile_at, self.call.policy.name);
        let provider = &self.route.chain.providers[candidate.provider];
        let instance = &core.catalog.instances[provider.instance];
        let transport = candidate.channel.transport();
        let endpoint = instance.endpoint(transport).expect("an eligible channel has an endpoint");
        let snapshot = core.book.snapshot();
        let instances = self.route.chain.providers.iter().map(|provider| provider.instance);
        let consensus = snapshot.consensus(instances, core.book.now_ms());
        let chosen = Chosen {
            provider_id: provider.id.clone(),
            instance_id: instance.id.clone(),
            transport,
            head_lag_blocks: consensus.and_then(|consensus| snapshot.lag(provider.instance, consensus)),
        };
        let ordinal = u32::try_from(self.dispatches()).unwrap_or(u32::MAX).saturating_add(1);
        // What is true if the client goes away while the attempt is under way.
        let end = AttemptEnd {
            outcome: Outcome::Cancelled,
            category: None,
            code: None,
            http_status: None,
            dispatched: Dispatched::Indeterminate,
        };
        self.record().ending.provider = Some(chosen.clone());
        self.record().attempts.push(Attempt {
            ordinal,
            kind: if ordinal == 1 { AttemptKind::Primary } else { AttemptKind::Failover },
            chosen: chosen.clone(),
            circuit: (admission.lease.state, admission.lease.epoch),
            server: (endpoint.host.clone(), endpoint.port),
            start_unix_nanos: now_unix_nanos(),
            duration_ns: 0,
            end,
        });
        self.recording.attempting = Some(Instant::now());
        let rules = &provider.capabilities.error_rules;
        let answer = attempt::attempt(&core.upstreams, instance, endpoint, rules, payload, timeout).await;
        self.recording.attempting = None;
        let took_ns = nanos(answer.took);
        let record = self.record();
        record.timing.provider_ns += took_ns;
        if let Some(attempt) = record.attempts.last_mut() {
            (attempt.duration_ns, attempt.end) = (took_ns, answer.end);
        }
        let change = match answer.end.category {
            None => admission.succeed(Some((profile, method, answer.took.as_secs_f64() * 1_000.0))),
            Some(category) if answer.end.outcome == Outcome::ApplicationError && !classify::is_penalised(category) => {
                admission.succeed(None)
            }
            Some(category) => admission.fail(category, Some((profile, method)), answer.retry_after_ms),
        };
        if let Some(change) = change {
            core.tell_change(change);
        }
        (answer, chosen)
    }

    /// True where another provider may be asked after this answer.
    fn may_go_on(&self, answer: &Answer, before: Option<&(Reply, Box<Chosen>, AttemptEnd)>) -> bool {
        let Some(category) = answer.end.category else { return false };
        if classify::is_the_calls_own(category) {
            return false;
        }
        // Two providers that say the same thing that is nobody's fault in particular are believed.
        let agreed = category == ErrorCategory::UnclassifiedServerError
            && before.is_some_and(|(_, _, end)| end.category == Some(category) && end.code == answer.end.code);
        if agreed {
            return false;
        }
        self.call.policy.safety == Safety::ReplaySafe
            || answer.end.dispatched == Dispatched::NotDispatched
            || (answer.reply.is_some() || answer.end.http_status == Some(429)) && classify::surely_refused(category)
    }

    /// When the first circuit on the way is tried again, or a second where none is open.
    fn retry_after_ms(&self, pin: Option<usize>) -> u64 {
        let (snapshot, now_ms) = (self.core.book.snapshot(), self.core.book.now_ms());
        let providers = self.route.chain.providers.iter().enumerate();
        providers
            .filter(|(at, _)| pin.is_none_or(|pin| pin == *at))
            .map(|(_, provider)| snapshot.channel(ChannelIndex::new(provider.instance, Transport::Http)).open_until_ms)
            .filter_map(|until_ms| until_ms.checked_sub(now_ms))
            .filter(|wait_ms| *wait_ms > 0)
            .min()
            .unwrap_or(1_000)
    }

    fn finish(mut self, ended: Ended) -> Done {
        let (core, call, attempts) = (self.core, self.call, self.dispatches());
        let id: &[u8] = call.id.as_deref().unwrap_or(b"null");
        let record = self.record();
        let ending = &mut record.ending;
        let body = match ended {
            Ended::Local(result) => {
                (ending.answered_by, ending.result, ending.category) = (AnsweredBy::Local, CallResult::Success, None);
                jsonrpc::result_reply(id, &result)
            }
            Ended::Refused(refusal) => {
                let category = match record.attempts.last() {
                    Some(attempt) => attempt.end.category.unwrap_or(refusal.category()),
                    None => refusal.category(),
                };
                ending.result = match refusal {
                    Refusal::Exhausted { .. } => CallResult::Error,
                    _ => CallResult::ApplicationError,
                };
                (ending.category, ending.code) = (Some(category), Some(refusal.code()));
                refusal.reply(id)
            }
            Ended::Replied(reply, chosen, end) => {
                ending.answered_by = AnsweredBy::Provider;
                ending.result = end.category.map_or(CallResult::Success, classify::result_of);
                (ending.category, ending.code) = (end.category, end.code);
                ending.provider = Some(*chosen);
                ending.response_digest = reply.result.as_ref().map(|result| core.digest(result));
                reply.under(id)
            }
        };
        ending.bytes_out = if call.id.is_some() { body.len() as u64 } else { 0 };
        let elapsed = nanos(self.recording.started.elapsed());
        let meta = self.meta(elapsed, attempts);
        Done { body: call.id.is_some().then_some(body), meta }
    }

    fn meta(&self, elapsed_ns: u64, attempts: usize) -> serde_json::Value {
        let Some(record) = &self.recording.record else { return serde_json::Value::Null };
        #[allow(clippy::cast_precision_loss, reason = "durations for people")]
        let ms = |ns: u64| ns as f64 / 1e6;
        let (timing, chosen) = (&record.timing, record.ending.provider.as_ref());
        let candidates: Vec<&str> = record
            .selections
            .first()
            .map(|selection| selection.decision.eligible.iter().map(|candidate| &*candidate.name).collect())
            .unwrap_or_default();
        serde_json::json!({
            "version": "1.0",
            "request_id": record.scope.request_id.to_string(),
            "strategy": record.strategy,
            "chain_id": record.scope.chain_id,
            "transport": chosen.map(|chosen| chosen.transport),
            "candidate_providers": candidates,
            "selected_provider": chosen.map(|it| serde_json::json!({ "id": it.provider_id, "protocol": it.transport })),
            "selection_latency_ms": ms(timing.selection_ns),
            "upstream_latency_ms": ms(timing.provider_ns),
            "end_to_end_latency_ms": ms(elapsed_ns),
            "lariat_overhead_ms": ms(elapsed_ns.saturating_sub(timing.provider_ns)),
            "retries": attempts.saturating_sub(1),
            "circuit_breaker_state": record.attempts.last().map(|attempt| attempt.circuit.0),
        })
    }
}

/// Leaves out what was tried; after "method not found" the whole provider.
fn exclude(tried: &mut Vec<Tried>, channel: ChannelIndex, category: Option<ErrorCategory>) {
    tried.push(Tried { channel, reason: ExclusionReason::Tried });
    if category == Some(ErrorCategory::MethodNotFound) {
        let other = match channel.transport() {
            Transport::Http => Transport::Ws,
            Transport::Ws => Transport::Http,
        };
        tried.push(Tried { channel: ChannelIndex::new(channel.instance(), other), reason: ExclusionReason::Tried });
    }
}
