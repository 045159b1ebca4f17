//! The circuit breaker of one channel, as a pure state machine: times come in as milliseconds of the node's own clock,
//! transitions come out as values. It holds no timer; whoever looks at it moves it on. Results of an older epoch are
//! ignored, so that a slow reply from before a transition cannot undo it.

use lariat_schema::vocabulary::{CircuitState, ErrorCategory};

/// Consecutive failures that open it, of any kind.
const FAILURES_TO_OPEN: u32 = 5;
/// Trial calls that must succeed to close it; one is enough where a rate limit opened it, which ends by itself.
const SUCCESSES_TO_CLOSE: u32 = 2;
/// Longest time that it stays open.
const MAX_RECOVERY_MS: u64 = 600_000;
/// Recovery time where the credentials were refused.
const AUTH_RECOVERY_MS: u64 = 10_000;
/// Doublings of the recovery time at most.
const MAX_DOUBLINGS: u32 = 4;

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) from: CircuitState,
    pub(crate) to: CircuitState,
    pub(crate) reason: &'static str,
}

/// The right to make one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) state: CircuitState,
    pub(crate) epoch: u64,
}

/// Why an attempt was not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    Open,
    HalfOpenBusy,
}

/// The breaker of one channel.
#[derive(Debug, Clone)]
pub(crate) struct Circuit {
    pub(crate) state: CircuitState,
    pub(crate) epoch: u64,
    /// When an open one is tried again.
    pub(crate) open_until_ms: u64,
    pub(crate) trial_under_way: bool,
    recovery_ms: u64,
    failures: u32,
    failures_of: [u32; 4],
    successes: u32,
    reopenings: u32,
    /// Whether a rate limit opened it.
    limited: bool,
}

/// Place in `failures_of`, and how many open it.
const fn threshold(category: ErrorCategory) -> (usize, u32) {
    match category {
        ErrorCategory::NetworkError => (0, 3),
        ErrorCategory::Timeout => (1, 2),
        ErrorCategory::AuthError => (2, 3),
        _ => (3, FAILURES_TO_OPEN),
    }
}

impl Circuit {
    pub(crate) const fn new(recovery_ms: u64) -> Self {
        Self {
            state: CircuitState::Closed,
            epoch: 1,
            open_until_ms: 0,
            trial_under_way: false,
            recovery_ms,
            failures: 0,
            failures_of: [0; 4],
            successes: 0,
            reopenings: 0,
            limited: false,
        }
    }

    fn go(&mut self, to: CircuitState, reason: &'static str) -> Transition {
        let from = std::mem::replace(&mut self.state, to);
        self.epoch += 1;
        self.trial_under_way = false;
        self.failures = 0;
        self.failures_of = [0; 4];
        self.successes = 0;
        Transition { from, to, reason }
    }

    /// Half-opens an open one whose time has come.
    pub(crate) fn tick(&mut self, now_ms: u64) -> Option<Transition> {
        (self.state == CircuitState::Open && now_ms >= self.open_until_ms)
            .then(|| self.go(CircuitState::HalfOpen, "recovery time over"))
    }

    /// Asks for the right to make an attempt.
    pub(crate) fn admit(&mut self) -> Result<Lease, Denied> {
        match self.state {
            CircuitState::Open => return Err(Denied::Open),
            CircuitState::HalfOpen if self.trial_under_way => return Err(Denied::HalfOpenBusy),
            CircuitState::HalfOpen => self.trial_under_way = true,
            CircuitState::Closed => {}
        }
        Ok(Lease { state: self.state, epoch: self.epoch })
    }

    /// Gives the right back without having learned anything.
    pub(crate) fn release(&mut self, lease: Lease) {
        if lease.epoch == self.epoch {
            self.trial_under_way = false;
        }
    }

    pub(crate) fn succeed(&mut self, lease: Lease) -> Option<Transition> {
        if lease.epoch != self.epoch {
            return None;
        }
        self.failures = 0;
        self.failures_of = [0; 4];
        self.trial_under_way = false;
        if self.state != CircuitState::HalfOpen {
            return None;
        }
        self.successes += 1;
        if self.successes < SUCCESSES_TO_CLOSE && !self.limited {
            return None;
        }
        (self.reopenings, self.limited) = (0, false);
        Some(self.go(CircuitState::Closed, "trial calls succeeded"))
    }

    /// Notes a failure that counts; `jitter` from 0 to 1 spreads the recovery of many nodes by up to 5 %.
    pub(crate) fn fail(
        &mut self,
        lease: Lease,
        category: ErrorCategory,
        now_ms: u64,
        jitter: f64,
    ) -> Option<Transition> {
        if lease.epoch != self.epoch || self.state == CircuitState::Open {
            return None;
        }
        let (kind, limit) = threshold(category);
        self.failures += 1;
        self.failures_of[kind] += 1;
        if self.state == CircuitState::HalfOpen {
            self.reopenings += 1;
        } else if self.failures < FAILURES_TO_OPEN && self.failures_of[kind] < limit {
            return None;
        }
        let base = if category == ErrorCategory::AuthError {
            AUTH_RECOVERY_MS.min(self.recovery_ms)
        } else {
            self.recovery_ms
        };
        let wait_ms = base << self.reopenings.min(MAX_DOUBLINGS);
        self.limited = false;
        Some(self.open(category, wait_ms, now_ms, jitter))
    }

    /// Notes that a call met the provider's rate limit. That is no failure, and a closed circuit stays so; but a trial
    /// that meets it shows that the provider is not to be tried again before the limit ends.
    pub(crate) fn limit(&mut self, lease: Lease, wait_ms: u64, now_ms: u64, jitter: f64) -> Option<Transition> {
        if lease.epoch != self.epoch || self.state != CircuitState::HalfOpen {
            self.release(lease);
            return None;
        }
        self.limited = true;
        Some(self.open(ErrorCategory::RateLimit, wait_ms, now_ms, jitter))
    }

    fn open(&mut self, category: ErrorCategory, wait_ms: u64, now_ms: u64, jitter: f64) -> Transition {
        let wait = wait_ms.min(MAX_RECOVERY_MS);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 30 s"
        )]
        let extra = (wait as f64 * 0.05 * jitter.clamp(0.0, 1.0)) as u64;
        self.open_until_ms = now_ms + wait + extra;
        self.go(CircuitState::Open, category.as_str())
    }

    /// An operator's wish.
    pub(crate) fn force(&mut self, to: CircuitState, now_ms: u64) -> Option<Transition> {
        if self.state == to {
            return None;
        }
        (self.reopenings, self.limited) = (0, false);
        self.open_until_ms = now_ms + self.recovery_ms;
        Some(self.go(to, "operator"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(circuit: &mut Circuit, category: ErrorCategory, now_ms: u64) -> Option<Transition> {
        let lease = circuit.admit().unwrap();
        circuit.fail(lease, category, now_ms, 0.0)
    }

    #[test]
    fn it_opens_after_as_many_failures_as_the_category_has() {
        for (category, limit) in [
            (ErrorCategory::ServerError, 5),
            (ErrorCategory::NetworkError, 3),
            (ErrorCategory::Timeout, 2),
            (ErrorCategory::AuthError, 3),
        ] {
            let mut circuit = Circuit::new(30_000);
            for n in 1..=limit {
                assert_eq!(fail(&mut circuit, category, 0).is_some(), n == limit, "{category} {n}");
            }
            assert_eq!(circuit.admit(), Err(Denied::Open));
        }
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let mut circuit = Circuit::new(30_000);
        for _ in 0..10 {
            assert_eq!(fail(&mut circuit, ErrorCategory::Timeout, 0), None);
            let lease = circuit.admit().unwrap();
            assert_eq!(circuit.succeed(lease), None);
        }
    }

    #[test]
    fn half_open_lets_one_call_through_and_closes_after_two_successes() {
        let mut circuit = Circuit::new(1_000);
        let late = circuit.admit().unwrap();
        for _ in 0..2 {
            fail(&mut circuit, ErrorCategory::Timeout, 0);
        }
        assert_eq!(circuit.tick(999), None);
        assert_eq!(circuit.tick(1_000).unwrap().to, CircuitState::HalfOpen);
        let lease = circuit.admit().unwrap();
        assert_eq!(circuit.admit(), Err(Denied::HalfOpenBusy));
        assert_eq!(circuit.succeed(late), None, "a reply from before the transition changes nothing");
        assert_eq!(circuit.succeed(lease), None);
        let lease = circuit.admit().unwrap();
        assert_eq!(circuit.succeed(lease).unwrap().to, CircuitState::Closed);
    }

    #[test]
    fn each_failed_trial_doubles_the_wait_up_to_sixteen_times() {
        let mut circuit = Circuit::new(1_000);
        let mut now = 0;
        for _ in 0..2 {
            fail(&mut circuit, ErrorCategory::Timeout, now);
        }
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 16_000] {
            assert_eq!(circuit.open_until_ms - now, wait);
            now = circuit.open_until_ms;
            circuit.tick(now).unwrap();
            fail(&mut circuit, ErrorCategory::Timeout, now).unwrap();
        }
    }

    #[test]
    fn a_rate_limit_opens_only_a_trial_for_as_long_as_the_provider_asks_and_one_success_closes_it() {
        let mut circuit = Circuit::new(1_000);
        for _ in 0..20 {
            let lease = circuit.admit().unwrap();
            assert_eq!(circuit.limit(lease, 7_000, 0, 0.0), None);
        }
        for _ in 0..2 {
            fail(&mut circuit, ErrorCategory::Timeout, 0);
        }
        circuit.tick(1_000).unwrap();
        let lease = circuit.admit().unwrap();
        assert_eq!(circuit.limit(lease, 7_000, 1_000, 0.0).unwrap().to, CircuitState::Open);
        assert_eq!(circuit.open_until_ms, 8_000);
        circuit.tick(8_000).unwrap();
        let lease = circuit.admit().unwrap();
        assert_eq!(circuit.succeed(lease).unwrap().to, CircuitState::Closed);
        for _ in 0..2 {
            fail(&mut circuit, ErrorCategory::Timeout, 9_000);
        }
        circuit.tick(10_000).unwrap();
        let lease = circuit.admit().unwrap();
        assert_eq!(circuit.succeed(lease), None, "opened by failures, it takes two again");
    }

    #[test]
    fn failures_of_mixed_kinds_add_up_to_five_and_jitter_is_at_most_a_twentieth() {
        let mut circuit = Circuit::new(10_000);
        let kinds = [
            ErrorCategory::NetworkError,
            ErrorCategory::ServerError,
            ErrorCategory::Timeout,
            ErrorCategory::AuthError,
            ErrorCategory::NetworkError,
        ];
        for (n, kind) in (1..).zip(kinds) {
            let lease = circuit.admit().unwrap();
            assert_eq!(circuit.fail(lease, kind, 0, 1.0).is_some(), n == 5);
        }
        assert_eq!(circuit.open_until_ms, 10_500);
    }
}
