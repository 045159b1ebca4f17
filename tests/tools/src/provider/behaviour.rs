//! How a simulated provider behaves, as a value: latency, faults, limits, lag, gaps and outages. What happens to one
//! call is decided by [`Behaviour::plan`] from the seed and the call's ordinal alone, so that a story repeats; a
//! generator kept in the provider was rejected, since its draws would depend on how concurrent calls interleave.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874;
/// No simulated answer takes longer than this, however wide its distribution.
const LATENCY_CEILING_MS: f64 = 60_000.0;

/// What a provider can do other than answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// HTTP 500 with a text that is no JSON.
    ServerError,
    /// HTTP 429 with `Retry-After`.
    TooManyRequests,
    /// JSON-RPC −32005, limit exceeded, with HTTP 200.
    RpcLimitExceeded,
    /// JSON-RPC −32000, which says nothing of whose fault it is.
    RpcServerError,
    /// JSON-RPC −32603.
    RpcInternalError,
    /// JSON-RPC 3, execution reverted.
    Revert,
    /// JSON-RPC −32601.
    MethodNotFound,
    /// No answer; the connection stays open.
    Hang,
    /// The connection is reset.
    Reset,
    /// HTTP 200 with bytes that are no JSON.
    Garbage,
    /// A well-formed reply to another call.
    WrongId,
    /// Half of a reply, then the connection is closed.
    Truncated,
    /// A reply with megabytes of padding.
    Huge,
}

impl Fault {
    /// Its name in counts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerError => "server_error",
            Self::TooManyRequests => "too_many_requests",
            Self::RpcLimitExceeded => "rpc_limit_exceeded",
            Self::RpcServerError => "rpc_server_error",
            Self::RpcInternalError => "rpc_internal_error",
            Self::Revert => "revert",
            Self::MethodNotFound => "method_not_found",
            Self::Hang => "hang",
            Self::Reset => "reset",
            Self::Garbage => "garbage",
            Self::WrongId => "wrong_id",
            Self::Truncated => "truncated",
            Self::Huge => "huge",
        }
    }
}

/// A fault and how often it happens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRate {
    /// The fault.
    pub fault: Fault,
    /// Share of calls that it hits, 0 to 1.
    pub probability: f64,
}

/// A log-normal distribution of answer times, given by the two figures that people read off a chart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Half of the answers are faster, milliseconds.
    pub median_ms: f64,
    /// One in a hundred is slower, milliseconds.
    pub p99_ms: f64,
}

impl Latency {
    /// Answers at once.
    pub const NONE: Self = Self { median_ms: 0.0, p99_ms: 0.0 };

    fn draw(self, rng: &mut ChaCha8Rng) -> Duration {
        // Both numbers are always drawn, so that a change of latency does not shift the draws that follow.
        let radius: f64 = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let angle: f64 = std::f64::consts::TAU * rng.random::<f64>();
        if self.median_ms <= 0.0 {
            return Duration::ZERO;
        }
        let sigma = (self.p99_ms.max(self.median_ms) / self.median_ms).ln() / NORMAL_P99;
        let ms = self.median_ms * (sigma * radius * angle.cos()).exp();
        Duration::from_secs_f64(ms.clamp(0.0, LATENCY_CEILING_MS) / 1_000.0)
    }
}

/// Outages that come back: down for `length_ms` in each `period_ms`, first at `phase_ms` after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// From the beginning of one outage to that of the next, milliseconds.
    pub period_ms: u64,
    /// How long each lasts, milliseconds.
    pub length_ms: u64,
    /// Beginning of the first, milliseconds after the provider's start.
    pub phase_ms: u64,
    /// What callers see meanwhile.
    pub fault: Fault,
}

impl Outage {
    /// Whether the provider is down `since_start_ms` after its start.
    #[must_use]
    pub fn is_down(&self, since_start_ms: u64) -> bool {
        since_start_ms >= self.phase_ms && (since_start_ms - self.phase_ms) % self.period_ms.max(1) < self.length_ms
    }
}

/// How a provider behaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// How long answers take.
    pub latency: Latency,
    /// What goes wrong, and how often; the probabilities are added up.
    pub faults: Vec<FaultRate>,
    /// Calls allowed per second; those above get HTTP 429. None: no limit.
    pub rate_limit_per_second: Option<u32>,
    /// How many blocks behind the chain it is.
    pub lag_blocks: u64,
    /// Methods that it does not know.
    pub missing_methods: Vec<String>,
    /// When it is down.
    pub outage: Option<Outage>,
    /// How many newest blocks it keeps state of. None: all of them.
    pub state_depth_blocks: Option<u64>,
    /// Longest range of `eth_getLogs`, blocks.
    pub max_block_range: u64,
}

impl Default for Behaviour {
    /// Answers everything at once and without fault.
    fn default() -> Self {
        Self {
            latency: Latency::NONE,
            faults: Vec::new(),
            rate_limit_per_second: None,
            lag_blocks: 0,
            missing_methods: Vec::new(),
            outage: None,
            state_depth_blocks: None,
            max_block_range: 1_000,
        }
    }
}

/// When and under which load a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Place of the call among all that the provider received, from 0.
    pub ordinal: u64,
    /// Milliseconds since the provider's start.
    pub since_start_ms: u64,
    /// Calls received within the current second, this one included.
    pub calls_this_second: u32,
}

/// What will happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How long the provider takes before it does anything.
    pub delay: Duration,
    /// What it does instead of answering. None: it answers.
    pub fault: Option<Fault>,
}

impl Behaviour {
    /// A provider that answers after a fixed time.
    #[must_use]
    pub fn with_latency_ms(median_ms: f64, p99_ms: f64) -> Self {
        Self { latency: Latency { median_ms, p99_ms }, ..Self::default() }
    }

    /// A provider that does `fault` to every call.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self { faults: vec![FaultRate { fault, probability: 1.0 }], ..Self::default() }
    }

    /// Decides what happens to one call.
    #[must_use]
    pub fn plan(&self, seed: u64, moment: Moment, method: &str) -> Plan {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ moment.ordinal.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let delay = self.latency.draw(&mut rng);
        let lot: f64 = rng.random();
        if let Some(outage) = self.outage
            && outage.is_down(moment.since_start_ms)
        {
            return Plan { delay: Duration::ZERO, fault: Some(outage.fault) };
        }
        if self.rate_limit_per_second.is_some_and(|limit| moment.calls_this_second > limit) {
            return Plan { delay: Duration::ZERO, fault: Some(Fault::TooManyRequests) };
        }
        if self.missing_methods.iter().any(|missing| missing == method) {
            return Plan { delay, fault: Some(Fault::MethodNotFound) };
        }
        Plan { delay, fault: self.fault_at(lot) }
    }

    fn fault_at(&self, lot: f64) -> Option<Fault> {
        let mut below = 0.0;
        self.faults.iter().find_map(|rate| {
            below += rate.probability;
            (lot < below).then_some(rate.fault)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(ordinal: u64) -> Moment {
        Moment { ordinal, since_start_ms: ordinal * 10, calls_this_second: 1 }
    }

    fn story(seed: u64) -> Vec<Plan> {
        let behaviour = Behaviour {
            latency: Latency { median_ms: 20.0, p99_ms: 200.0 },
            faults: vec![FaultRate { fault: Fault::ServerError, probability: 0.1 }],
            ..Behaviour::default()
        };
        (0..2_000).map(|i| behaviour.plan(seed, moment(i), "eth_call")).collect()
    }

    #[test]
    fn the_same_seed_tells_the_same_story_and_another_seed_another() {
        assert_eq!(story(5), story(5));
        assert_ne!(story(5), story(6));
    }

    #[test]
    fn latency_has_the_median_and_tail_and_faults_the_share_that_were_asked_for() {
        let plans = story(5);
        let mut delays: Vec<Duration> = plans.iter().map(|plan| plan.delay).collect();
        delays.sort();
        let median_ms = delays[1_000].as_secs_f64() * 1e3;
        let p99_ms = delays[1_980].as_secs_f64() * 1e3;
        assert!((18.0..22.0).contains(&median_ms), "median is {median_ms}");
        assert!((150.0..270.0).contains(&p99_ms), "p99 is {p99_ms}");
        let failed = plans.iter().filter(|plan| plan.fault == Some(Fault::ServerError)).count();
        assert!((150..250).contains(&failed), "{failed} of 2000 failed");
    }

    #[test]
    fn an_outage_begins_at_its_phase_and_comes_back_every_period() {
        let outage = Outage { period_ms: 1_000, length_ms: 200, phase_ms: 500, fault: Fault::Reset };
        let down: Vec<u64> =
            [0, 499, 500, 699, 700, 1_499, 1_500, 1_700].into_iter().filter(|ms| outage.is_down(*ms)).collect();
        assert_eq!(down, [500, 699, 1_500]);
    }

    #[test]
    fn calls_above_the_rate_limit_are_refused_at_once() {
        let behaviour = Behaviour { rate_limit_per_second: Some(2), ..Behaviour::with_latency_ms(50.0, 60.0) };
        let third = Moment { ordinal: 2, since_start_ms: 10, calls_this_second: 3 };
        assert_eq!(
            behaviour.plan(1, third, "eth_call"),
            Plan { delay: Duration::ZERO, fault: Some(Fault::TooManyRequests) }
        );
    }
}
