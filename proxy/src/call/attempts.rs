//! The attempts of a call: select, try, and select anew after a failure. At most two are under way at once, the first and
//! its hedge; the first answer of use ends the call and the other attempt is dropped, which frees its connection. The
//! bounds are in `envelope`, when to hedge in `hedge`, what a decision is in `decide`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use lariat_schema::vocabulary::{
    AttemptKind, Dispatched, ErrorCategory, ExclusionReason, HedgeOutcome, Outcome, Transport,
};
use tokio::time::Instant;

use super::envelope::{self, Used};
use super::hedge::{self, Situation};
use super::recording::nanos;
use super::{Answered, Ended, Run};
use crate::circuit::Denied;
use crate::classify;
use crate::decide::{Ask, Tried, decide};
use crate::health::{Admission, ChannelIndex};
use crate::policy::{self, BlockNeed, Safety};
use crate::record::{Attempt, AttemptEnd, Chosen, Selection, now_unix_nanos};
use crate::refusal::Refusal;
use crate::strategies::Candidate;
use crate::upstream::{self, Answer, Outgoing};

/// What is not known of an attempt that was not waited for.
const CANCELLED: AttemptEnd = AttemptEnd {
    outcome: Outcome::Cancelled,
    category: None,
    code: None,
    http_status: None,
    dispatched: Dispatched::Indeterminate,
    failure: None,
};

/// Where a call is to go.
pub(super) struct Aim {
    /// Place of the pinned provider in the chain.
    pub(super) pin: Option<usize>,
    pub(super) transport: Option<Transport>,
    /// What is sent in place of the client's own parameters.
    pub(super) params: Option<Bytes>,
}

/// How far a call has come.
pub(super) struct Way {
    pub(super) pin: Option<usize>,
    transport: Option<Transport>,
    need: BlockNeed,
    deadline: Instant,
    outgoing: Outgoing,
    pub(super) tried: Vec<Tried>,
    used: Used,
    pub(super) last: Option<Answered>,
}

impl Way {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// An attempt under way, in a box: it is handed from function to function, and as a value it is a few kilobytes each time.
type Answering<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What is kept of an attempt under way besides its future.
pub(super) struct Flight<'a> {
    /// Its place in the record.
    at: usize,
    pub(super) channel: ChannelIndex,
    admission: Admission<'a>,
    pub(super) chosen: Chosen,
    pub(super) timeout: Duration,
    /// Whether another channel was eligible when it was chosen.
    others: bool,
}

/// What an answer leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stop,
    GoOn,
}

impl<'a> Run<'a> {
    /// Where the request wants its calls to go.
    pub(super) fn aim(&self) -> Result<Aim, Refusal> {
        let pin = match self.route.pin {
            Some(id) => match self.route.chain.providers.iter().position(|provider| provider.id.as_str() == id) {
                Some(pin) => Some(pin),
                None => return Err(Refusal::UnknownProvider(id.to_owned())),
            },
            None => None,
        };
        Ok(Aim { pin, transport: self.route.transport, params: None })
    }

    pub(super) fn way(&self, Aim { pin, transport, params }: Aim) -> Way {
        let call = self.call;
        let payload = match params {
            Some(params) => call.with_params(params).payload(self.seq),
            None => call.payload(self.seq),
        };
        Way {
            pin,
            transport,
            need: policy::block_need(call.policy, call.params.as_deref()),
            deadline: self.deadline(),
            outgoing: Outgoing { payload, id: self.seq, trace: None },
            tried: Vec::new(),
            used: Used::default(),
            last: None,
        }
    }

    pub(super) async fn over_providers(&mut self, aim: Aim) -> Ended {
        let mut way = self.way(aim);
        loop {
            let first = self.look().attempts.is_empty();
            let kind = if first { AttemptKind::Primary } else { AttemptKind::Failover };
            let Some((flight, answering)) = self.start(&mut way, kind) else { break };
            let wait = if first { self.hedge_wait(&flight, &way) } else { None };
            if self.fly(flight, answering, wait, &mut way).await == Next::Stop || way.pin.is_some() {
                break;
            }
        }
        match way.last {
            Some(answered) => Ended::Replied(Box::new(answered)),
            None => Ended::Refused(self.nobody(way.pin)),
        }
    }

    /// Waits for an attempt, and after `wait` for a hedge beside it.
    async fn fly(
        &mut self,
        flight: Flight<'a>,
        mut answering: Answering<'a>,
        wait: Option<Duration>,
        way: &mut Way,
    ) -> Next {
        let Some(wait) = wait else { return self.land(flight, answering.await, way) };
        tokio::select! {
            biased;
            answer = &mut answering => return self.land(flight, answer, way),
            () = tokio::time::sleep(wait) => {}
        }
        let Some((hedge, mut hedging)) = self.start_hedge(way) else {
            return self.land(flight, answering.await, way);
        };
        let counters = &self.core.recorder.counters;
        tokio::select! {
            biased;
            answer = &mut answering => {
                if self.land(flight, answer, way) == Next::Stop {
                    self.outrun(hedge);
                    counters.count_hedge(HedgeOutcome::Lost);
                    return Next::Stop;
                }
                let next = self.land(hedge, hedging.await, way);
                counters.count_hedge(if next == Next::Stop { HedgeOutcome::Won } else { HedgeOutcome::Failed });
                next
            }
            answer = &mut hedging => {
                if self.land(hedge, answer, way) == Next::Stop {
                    self.outrun(flight);
                    counters.count_hedge(HedgeOutcome::Won);
                    return Next::Stop;
                }
                counters.count_hedge(HedgeOutcome::Failed);
                self.land(flight, answering.await, way)
            }
        }
    }

    /// When a hedge is sent beside this first attempt, if at all.
    fn hedge_wait(&self, flight: &Flight<'_>, way: &Way) -> Option<Duration> {
        let hedging = self.route.profile.hedging?;
        let share = &self.core.saving.profile(self.route.profile_at).hedges;
        share.add(hedging.budget);
        let snapshot = self.core.book.snapshot();
        let evidence = snapshot.channel(flight.channel).evidence.get(&(self.route.profile.key, self.call.policy.name));
        hedge::wait(&Situation {
            hedging: Some(hedging),
            safety: self.call.policy.safety,
            others: flight.others && way.pin.is_none(),
            quantile_ms: evidence.and_then(|evidence| evidence.latencies.quantile_ms(hedging.quantile)),
            timeout: flight.timeout,
            left: way.left(),
        })
    }

    fn start_hedge(&mut self, way: &mut Way) -> Option<(Flight<'a>, Answering<'a>)> {
        let core = self.core;
        let (budget, counters) = (&core.saving.profile(self.route.profile_at).hedges, &core.recorder.counters);
        if !budget.take() {
            counters.count_hedge(HedgeOutcome::OverBudget);
            return None;
        }
        let started = self.start(way, AttemptKind::Hedge);
        if started.is_none() {
            budget.give_back();
            counters.count_hedge(HedgeOutcome::NoCandidate);
        }
        started
    }

    /// Selects a channel, asks to use it and starts an attempt; none where the bounds or the candidates are exhausted.
    pub(super) fn start(&mut self, way: &mut Way, kind: AttemptKind) -> Option<(Flight<'a>, Answering<'a>)> {
        let core = self.core;
        loop {
            let left = way.left();
            if !way.used.allows_another(left) {
                return None;
            }
            let (candidate, others) = self.select(way)?;
            way.used.admissions += 1;
            let channel = candidate.channel;
            match core.book.admit(channel) {
                Ok(admission) => {
                    way.tried.push(Tried { channel, reason: ExclusionReason::Tried });
                    way.used.dispatches += 1;
                    let repeatable =
                        self.call.policy.is_replay_safe() || self.call.policy.safety == Safety::Subscription;
                    let may_follow = others && way.pin.is_none() && repeatable;
                    let timeout = envelope::attempt_timeout(left, kind == AttemptKind::Primary, may_follow);
                    return Some(self.dispatch(way, &candidate, admission, kind, timeout, others));
                }
                Err(denied) => {
                    let reason = match denied {
                        Denied::Open => ExclusionReason::CircuitOpen,
                        Denied::HalfOpenBusy => ExclusionReason::HalfOpenBusy,
                    };
                    way.tried.push(Tried { channel, reason });
                }
            }
        }
    }

    /// Decides, records it, and returns the choice and whether there were others.
    fn select(&mut self, way: &Way) -> Option<(Candidate, bool)> {
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
            transport: way.transport,
            pin: way.pin,
            excluded: route.excluded,
            leave_out_limited: route.leave_out_limited,
            need: way.need,
            now_ms: core.book.now_ms(),
        };
        let ordinal = self.look().selections.len() as u64 + 1;
        let decision = decide(&ask, &core.book.snapshot(), &way.tried, core.seed(self.seq, ordinal));
        let chosen = decision.eligible.first().cloned();
        let others = decision.eligible.len() > 1;
        // Beside an attempt under way it costs no time of its own.
        let alone = !self.recording.is_busy();
        let record = self.record();
        record.selections.push(Selection { at_unix_nanos: now_unix_nanos(), decision });
        if alone {
            record.timing.selection_ns += nanos(began.elapsed());
        }
        chosen.map(|chosen| (chosen, others))
    }

    fn dispatch(
        &mut self,
        way: &Way,
        candidate: &Candidate,
        admission: Admission<'a>,
        kind: AttemptKind,
        timeout: Duration,
        others: bool,
    ) -> (Flight<'a>, Answering<'a>) {
        let (core, route) = (self.core, self.route);
        let provider = &route.chain.providers[candidate.provider];
        let instance = &core.catalog.instances[provider.instance];
        let channel = candidate.channel;
        let transport = channel.transport();
        // The decision's own snapshot is gone; what it agreed on is not.
        let consensus = self.look().selections.last().and_then(|selection| selection.decision.consensus);
        let snapshot = core.book.snapshot();
        let chosen = Chosen {
            provider_id: provider.id.clone(),
            instance_id: instance.id.clone(),
            transport,
            head_lag_blocks: consensus.and_then(|consensus| snapshot.lag(provider.instance, consensus)),
        };
        let (seq, alone) = (self.seq, !self.recording.is_busy());
        let record = self.record();
        let ordinal = u32::try_from(record.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
        let span_id = core.span_ids.of_attempt(seq, ordinal);
        let mut outgoing = way.outgoing.clone();
        if provider.trace_context {
            outgoing.trace = record.scope.trace.outgoing(record.scope.request_id.as_bytes(), span_id);
        }
        if alone {
            record.ending.provider = Some(chosen.clone());
        }
        let at = self.recording.begin(Attempt {
            span_id,
            ordinal,
            kind,
            chosen: chosen.clone(),
            circuit: (admission.lease.state, admission.lease.epoch),
            server: instance.server(transport),
            start_unix_nanos: now_unix_nanos(),
            duration_ns: 0,
            // What is true if the client goes away while the attempt is under way.
            end: CANCELLED,
        });
        let rules = &provider.capabilities.error_rules;
        let place = (provider.instance, instance);
        let answering = Box::pin(upstream::attempt(&core.upstreams, place, transport, rules, outgoing, timeout));
        (Flight { at, channel, admission, chosen, timeout, others }, answering)
    }

    /// Takes an attempt's answer: into the record, to the book, and to the client unless another provider may do better.
    pub(super) fn land(&mut self, flight: Flight<'a>, answer: Answer, way: &mut Way) -> Next {
        let (core, profile, method) = (self.core, self.route.profile.key, self.call.policy.name);
        let Flight { at, channel, admission, chosen, .. } = flight;
        let end = answer.end;
        let attempt = self.recording.end(at);
        (attempt.duration_ns, attempt.end) = (nanos(answer.took), end);
        let change = match end.category {
            _ if answer.is_echo => {
                drop(admission);
                None
            }
            None => admission.succeed(Some((profile, method, answer.took.as_secs_f64() * 1_000.0))),
            Some(category) if end.outcome == Outcome::ApplicationError && !classify::is_penalised(category) => {
                admission.succeed(None)
            }
            Some(category) => admission.fail(category, Some((profile, method)), answer.retry_after_ms),
        };
        if let Some(change) = change {
            core.tell_change(change);
        }
        if end.dispatched == Dispatched::NotDispatched {
            way.used.dispatches -= 1;
        }
        if end.category == Some(ErrorCategory::MethodNotFound) {
            // The whole provider lacks it.
            for transport in [Transport::Http, Transport::Ws] {
                let other = ChannelIndex::new(channel.instance(), transport);
                if other != channel {
                    way.tried.push(Tried { channel: other, reason: ExclusionReason::Tried });
                }
            }
        }
        let before = way.last.as_ref().map(|answered| answered.end);
        let may_go_on = envelope::may_go_on(self.call.policy.safety, &answer, before);
        if let Some(reply) = answer.reply {
            way.last = Some(Answered { reply, chosen, end });
        }
        if may_go_on { Next::GoOn } else { Next::Stop }
    }

    /// Gives up an attempt since another one answered; its future is dropped by whoever holds it.
    fn outrun(&mut self, flight: Flight<'a>) {
        let (profile, method) = (self.route.profile.key, self.call.policy.name);
        #[allow(clippy::cast_precision_loss, reason = "a duration")]
        let waited_ms = self.recording.end(flight.at).duration_ns as f64 / 1e6;
        flight.admission.outrun(profile, method, waited_ms);
    }

    /// What the client is told where no provider answered.
    fn nobody(&self, pin: Option<usize>) -> Refusal {
        let retry_after_ms = self.retry_after_ms(pin);
        let last = self.look().attempts.last().and_then(|attempt| attempt.end.category);
        match last {
            Some(ErrorCategory::LocalCapacity) => Refusal::NoRoom { retry_after_ms },
            _ => Refusal::Exhausted { retry_after_ms },
        }
    }

    /// When the first circuit on the way is tried again, or a second where none is open.
    pub(super) fn retry_after_ms(&self, pin: Option<usize>) -> u64 {
        let (snapshot, now_ms) = (self.core.book.snapshot(), self.core.book.now_ms());
        let providers = self.route.chain.providers.iter().enumerate();
        providers
            .filter(|(at, _)| pin.is_none_or(|pin| pin == *at))
            .flat_map(|(_, provider)| [(provider, Transport::Http), (provider, Transport::Ws)])
            .filter(|(provider, transport)| provider.has(*transport))
            .filter(|(_, transport)| self.route.transport.is_none_or(|wanted| wanted == *transport))
            .map(|(provider, transport)| {
                snapshot.channel(ChannelIndex::new(provider.instance, transport)).open_until_ms
            })
            .filter_map(|until_ms| until_ms.checked_sub(now_ms))
            .filter(|wait_ms| *wait_ms > 0)
            .min()
            .unwrap_or(1_000)
    }
}
