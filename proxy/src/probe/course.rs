//! The course of an instance's probes, as a pure state machine: what each outcome makes of its health, and how long until
//! the next probe. Failures back off so that a provider in trouble is not asked at the pace of a healthy one; one that
//! limits our rate or refuses our credentials is left alone for longer, since asking changes nothing.

use std::time::Duration;

use lariat_schema::vocabulary::ErrorCategory;

use crate::health::Status;

/// Pause after a failure, doubled with each further one up to the longest, and spread by a fifth.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SPREAD: f64 = 0.2;
const RATE_LIMITED_PAUSE: Duration = Duration::from_secs(30);
const UNAUTHORIZED_PAUSE: Duration = Duration::from_secs(120);
/// Failures in a row that make a provider unhealthy.
const UNHEALTHY_AFTER: u32 = 3;
/// Status of a provider that keeps us out for now rather than for our credentials.
const FORBIDDEN: u16 = 403;

/// How a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) category: ErrorCategory,
    pub(super) http_status: Option<u16>,
}

impl Failure {
    /// Whether the provider limits our rate: it says so, or forbids what it allowed before.
    pub(super) fn is_limit(self) -> bool {
        self.category == ErrorCategory::RateLimit || self.http_status == Some(FORBIDDEN)
    }
}

/// Where the probes of an instance are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Course {
    pub(super) failures: u32,
    pub(super) successes: u32,
    last: Option<Failure>,
}

impl Course {
    /// Notes an outcome and says what it makes of the instance.
    pub(super) fn note(&mut self, outcome: Result<(), Failure>) -> Status {
        let Err(failure) = outcome else {
            *self = Self { failures: 0, successes: self.successes.saturating_add(1), last: None };
            return Status::Healthy;
        };
        *self = Self { failures: self.failures.saturating_add(1), successes: 0, last: Some(failure) };
        match failure.category {
            _ if failure.is_limit() => Status::RateLimited,
            ErrorCategory::AuthError | ErrorCategory::ChainError => Status::Misconfigured,
            _ if self.failures >= UNHEALTHY_AFTER => Status::Unhealthy,
            _ => Status::Degraded,
        }
    }

    /// Time until the next probe; `luck` from 0 to 1 spreads many nodes.
    pub(super) fn wait(&self, interval: Duration, luck: f64) -> Duration {
        match self.last {
            None => interval,
            Some(failure) if failure.is_limit() => RATE_LIMITED_PAUSE,
            Some(Failure { category: ErrorCategory::AuthError, .. }) => UNAUTHORIZED_PAUSE,
            Some(_) => {
                let doublings = self.failures.saturating_sub(1).min(5);
                let pause = FAILURE_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
                pause.mul_f64(1.0 + SPREAD * (2.0 * luck.clamp(0.0, 1.0) - 1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(12);

    const fn failed(category: ErrorCategory, http_status: Option<u16>) -> Result<(), Failure> {
        Err(Failure { category, http_status })
    }

    #[test]
    fn failures_back_off_by_doubling_up_to_half_a_minute_and_three_are_unhealthy() {
        let mut course = Course::default();
        let mut seen = Vec::new();
        for _ in 0..6 {
            let status = course.note(failed(ErrorCategory::Timeout, None));
            seen.push((status, course.wait(INTERVAL, 0.5).as_secs()));
        }
        let (degraded, unhealthy) = (Status::Degraded, Status::Unhealthy);
        let expected =
            [(degraded, 2), (degraded, 4), (unhealthy, 8), (unhealthy, 16), (unhealthy, 30), (unhealthy, 30)];
        assert_eq!(seen, expected);
        assert_eq!(course.wait(INTERVAL, 0.0), Duration::from_secs(24));
        assert_eq!(course.wait(INTERVAL, 1.0), Duration::from_secs(36));
        assert_eq!(course.note(Ok(())), Status::Healthy);
        assert_eq!((course.failures, course.successes, course.wait(INTERVAL, 0.5)), (0, 1, INTERVAL));
    }

    #[test]
    fn limits_and_credentials_have_their_own_pauses_and_states() {
        for (category, http_status, status, seconds) in [
            (ErrorCategory::RateLimit, Some(429), Status::RateLimited, 30),
            (ErrorCategory::RateLimit, None, Status::RateLimited, 30),
            (ErrorCategory::AuthError, Some(403), Status::RateLimited, 30),
            (ErrorCategory::AuthError, Some(401), Status::Misconfigured, 120),
            (ErrorCategory::AuthError, Some(402), Status::Misconfigured, 120),
            (ErrorCategory::ChainError, Some(200), Status::Misconfigured, 2),
        ] {
            let mut course = Course::default();
            assert_eq!(course.note(failed(category, http_status)), status, "{category}");
            assert_eq!(course.wait(INTERVAL, 0.5).as_secs(), seconds, "{category}");
        }
    }
}
