//! The attempts of a call: select, try, and select anew after a failure, within one deadline. The rules of failover stand
//! here; what a decision is lives in `decide`, what an error means in `classify`.

use std::time::{Duration, Instant};

use lariat_schema::vocabulary::{AttemptKind, Dispatched, ErrorCategory, ExclusionReason, Outcome, Transport};

use super::recording::nanos;
use super::{Ended, Run};
use crate::circuit::Denied;
use crate::classify;
use crate::decide::{Ask, Tried, decide};
use crate::health::{Admission, ChannelIndex};
use crate::jsonrpc::Reply;
use crate::policy::{self, Safety};
use crate::record::{Attempt, AttemptEnd, Chosen, Selection, now_unix_nanos, span_id};
use crate::refusal::Refusal;
use crate::strategies::Candidate;
use crate::upstream::{self, Answer, Outgoing};

/// Attempts of a call that may be sent again.
const MAX_DISPATCHES: usize = 3;
/// Channels asked for at most, refused ones included.
const MAX_ADMISSIONS: usize = 16;
/// Less time than this is not worth an attempt.
const MIN_USEFUL: Duration = Duration::from_millis(25);
/// Share of the time that the first attempt gets where others could follow.
const FIRST_SHARE: f64 = 0.6;

impl Run<'_> {
    pub(super) async fn over_providers(&mut self) -> Ended {
        let pin = match self.route.pin {
            Some(id) => match self.route.chain.providers.iter().position(|provider| provider.id.as_str() == id) {
                Some(pin) => Some(pin),
                None => return Ended::Refused(Refusal::UnknownProvider(id.to_owned())),
            },
            None => None,
        };
        let deadline = self.recording.started + Duration::from_millis(self.call.policy.timeout_ms);
        let outgoing = Outgoing { payload: self.call.payload(self.seq), id: self.seq, trace: None };
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
            let (answer, chosen) = self.attempt(&candidate, admission, outgoing.clone(), timeout).await;
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

    /// Decides, records it, and returns the choice and whether there were others.
    fn select(&mut self, pin: Option<usize>, tried: &[Tried]) -> Option<(Candidate, bool)> {
        let began = Instant::now();
        let (core, route, call) = (self.core, self.route, self.call);
        let ask = Ask {
            profile: route.profile_at,
            profile_key: route.profile.key,
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
        mut outgoing: Outgoing,
        timeout: Duration,
    ) -> (Answer, Chosen) {
        let (core, profile, method) = (self.core, self.route.profile.key, self.call.policy.name);
        let provider = &self.route.chain.providers[candidate.provider];
        let instance = &core.catalog.instances[provider.instance];
        let transport = candidate.channel.transport();
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
        let span_id = span_id();
        let record = self.record();
        if provider.trace_context {
            outgoing.trace = record.scope.trace.outgoing(record.scope.request_id.as_bytes(), span_id);
        }
        record.ending.provider = Some(chosen.clone());
        record.attempts.push(Attempt {
            span_id,
            ordinal,
            kind: if ordinal == 1 { AttemptKind::Primary } else { AttemptKind::Failover },
            chosen: chosen.clone(),
            circuit: (admission.lease.state, admission.lease.epoch),
            server: instance.server(transport),
            start_unix_nanos: now_unix_nanos(),
            duration_ns: 0,
            end,
        });
        self.recording.attempting = Some(Instant::now());
        let rules = &provider.capabilities.error_rules;
        let answer = upstream::attempt(&core.upstreams, instance, transport, rules, outgoing, timeout).await;
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
