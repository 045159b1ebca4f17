//! How long to wait before the next connection, as a pure function of how the last one ended. The first reconnection
//! after a connection that held comes at once, since most losses are a provider's restart behind a balancer; after that
//! the waits grow in a line, and where nothing comes of it for long they are rare. A doubling backoff was rejected: at ten providers and one node there is no herd to thin out,
//! and a provider that is back should carry calls within half a minute.

use std::time::Duration;

use lariat_schema::vocabulary::ErrorCategory;

use super::link::DialError;

/// A connection that held for this long was a good one.
const STABLE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(30);
const JITTER: Duration = Duration::from_secs(1);
/// Attempts without a connection that held, after which it is tried rarely: some ten minutes.
const MAX_ATTEMPTS: u32 = 20;
/// Wait from then on.
const RARE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(330));
/// Where the circuit is open: no calls wait for it.
const CIRCUIT_OPEN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15));
/// Where the provider limits our rate.
const RATE_LIMITED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));
/// Where the credentials were refused: only an operator can change that.
const UNAUTHORIZED: Duration = Duration::from_secs(120);

/// Place in the sequence of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    attempt: u32,
}

impl Pace {
    /// Before anything was connected.
    pub(super) const fn new() -> Self {
        Self { attempt: 1 }
    }

    /// Wait after a connection that held for `lasted`; `luck` from 0 to 1 spreads many nodes.
    pub(super) fn after_loss(&mut self, lasted: Duration, circuit_open: bool, luck: f64) -> Duration {
        if lasted >= STABLE {
            self.attempt = 0;
        }
        self.step(circuit_open, luck)
    }

    /// Wait after a connection that was not made.
    pub(super) fn after_refusal(&mut self, error: &DialError, circuit_open: bool, luck: f64) -> Duration {
        let luck = luck.clamp(0.0, 1.0);
        match error.category {
            ErrorCategory::RateLimit => {
                let asked = error.retry_after_ms.map_or(RATE_LIMITED.0, Duration::from_millis);
                asked.clamp(RATE_LIMITED.0, RATE_LIMITED.1) + JITTER.mul_f64(luck)
            }
            ErrorCategory::AuthError => UNAUTHORIZED + JITTER.mul_f64(luck),
            _ => self.step(circuit_open, luck),
        }
    }

    fn step(&mut self, circuit_open: bool, luck: f64) -> Duration {
        let luck = luck.clamp(0.0, 1.0);
        let attempt = self.attempt;
        self.attempt = attempt.saturating_add(1);
        let between = |(least, most): (Duration, Duration)| least + (most - least).mul_f64(luck);
        if attempt >= MAX_ATTEMPTS {
            return between(RARE);
        }
        if circuit_open {
            return between(CIRCUIT_OPEN);
        }
        if attempt == 0 {
            return Duration::ZERO;
        }
        STEP.saturating_mul(attempt).min(LONGEST) + JITTER.mul_f64(luck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_secs(1);

    fn refused(category: ErrorCategory, retry_after_ms: Option<u64>) -> DialError {
        DialError { category, failure: None, http_status: None, retry_after_ms }
    }

    fn seconds(waits: impl IntoIterator<Item = Duration>) -> Vec<u64> {
        waits.into_iter().map(|wait| wait.as_secs()).collect()
    }

    #[test]
    fn the_first_reconnection_is_at_once_and_the_next_ones_five_seconds_further_apart_up_to_thirty() {
        let mut pace = Pace::new();
        let network = refused(ErrorCategory::NetworkError, None);
        let waits: Vec<_> = std::iter::once(pace.after_loss(LONG, false, 0.5))
            .chain((0..8).map(|_| pace.clone().after_refusal(&network, false, 0.0)))
            .collect();
        assert_eq!(waits[0], Duration::ZERO);
        let mut pace = Pace { attempt: 0 };
        let waits: Vec<_> = (0..9).map(|_| pace.after_refusal(&network, false, 0.0)).collect();
        assert_eq!(seconds(waits), [0, 5, 10, 15, 20, 25, 30, 30, 30]);
        assert_eq!(Pace { attempt: 1 }.after_refusal(&network, false, 1.0), STEP + JITTER);
    }

    #[test]
    fn a_connection_that_did_not_hold_does_not_start_the_sequence_again() {
        let mut pace = Pace { attempt: 0 };
        let waits: Vec<_> = (0..4).map(|_| pace.after_loss(SHORT, false, 0.0)).collect();
        assert_eq!(seconds(waits), [0, 5, 10, 15]);
        assert_eq!(pace.after_loss(STABLE, false, 0.0), Duration::ZERO);
    }

    #[test]
    fn after_twenty_attempts_in_vain_it_is_tried_every_five_minutes_until_a_connection_holds() {
        for circuit_open in [false, true] {
            let mut pace = Pace { attempt: 0 };
            let network = refused(ErrorCategory::NetworkError, None);
            let waits: Vec<_> = (0..25).map(|_| pace.after_refusal(&network, circuit_open, 0.0)).collect();
            assert!(waits[..20].iter().all(|wait| *wait <= LONGEST), "{waits:?}");
            assert_eq!(seconds(waits[20..].iter().copied()), [300; 5]);
            assert_eq!(pace.after_refusal(&network, circuit_open, 1.0).as_secs(), 330);
            assert!(pace.after_loss(SHORT, circuit_open, 0.0).as_secs() >= 300, "one that did not hold is no success");
            pace.after_loss(STABLE, circuit_open, 0.0);
            assert!(pace.after_refusal(&network, circuit_open, 0.0) <= LONGEST);
        }
    }

    #[test]
    fn an_open_circuit_a_rate_limit_and_refused_credentials_have_their_own_waits() {
        let mut pace = Pace { attempt: 0 };
        for luck in [0.0, 0.5, 1.0] {
            let wait = pace.after_loss(LONG, true, luck);
            assert!((10..=15).contains(&wait.as_secs()), "{wait:?}");
        }
        for (retry_after_ms, seconds) in [(None, 30), (Some(1_000), 30), (Some(90_000), 90), (Some(9_000_000), 300)] {
            let wait = pace.after_refusal(&refused(ErrorCategory::RateLimit, retry_after_ms), true, 0.0);
            assert_eq!(wait.as_secs(), seconds);
        }
        assert_eq!(pace.after_refusal(&refused(ErrorCategory::AuthError, None), false, 0.0).as_secs(), 120);
    }
}
