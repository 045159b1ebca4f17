//! Client rate limits: so many calls per second, so many at once. A token bucket as one atomic number (GCRA): the time at
//! which the bucket would be full again. A bucket with a counter and a clock of its last filling would need a lock, and
//! a window of a second would let twice the limit through at its edge. Nobody waits here: what is too much is refused
//! with the time after which it would not be.
//!
//! A limit belongs to a profile on this node. A call may stand under several: [`take`] goes through all of them and
//! charges none where one refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::profiles::{Catalog, ClientLimits, Profile};

const SECOND_NS: u64 = 1_000_000_000;

/// A bucket. It knows no limit: that is handed over with each call and may change while the bucket stays.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// When it is full again, nanoseconds of the limits' clock.
    full_at_ns: AtomicU64,
    /// Calls refused so far.
    pub(crate) refused: AtomicU64,
}

impl Bucket {
    /// Takes a token, or says after how many nanoseconds there is one. No limit takes none.
    fn take(&self, limits: ClientLimits, now_ns: u64) -> Result<(), u64> {
        let Some((interval_ns, size_ns)) = pace(limits) else { return Ok(()) };
        let mut full_at_ns = self.full_at_ns.load(Ordering::Relaxed);
        loop {
            let next_ns = full_at_ns.max(now_ns).saturating_add(interval_ns);
            let over_ns = next_ns.saturating_sub(now_ns).saturating_sub(size_ns);
            if over_ns > 0 {
                return Err(over_ns);
            }
            match self.full_at_ns.compare_exchange_weak(full_at_ns, next_ns, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now_there) => full_at_ns = now_there,
            }
        }
    }

    /// Gives a token back.
    fn put_back(&self, limits: ClientLimits) {
        if let Some((interval_ns, _)) = pace(limits) {
            self.full_at_ns.fetch_sub(interval_ns, Ordering::Relaxed);
        }
    }
}

/// Nanoseconds that a token takes to come back, and those that a whole bucket takes.
fn pace(limits: ClientLimits) -> Option<(u64, u64)> {
    let rps = limits.rps?;
    let interval_ns = (SECOND_NS / rps.max(1)).max(1);
    Some((interval_ns, interval_ns.saturating_mul(limits.burst.unwrap_or(rps).max(1))))
}

/// Takes a token from each bucket, or none and says after how many milliseconds all may have one.
pub(crate) fn take(buckets: &[(&Bucket, ClientLimits)], now_ns: u64) -> Result<(), u64> {
    for (at, (bucket, limits)) in buckets.iter().enumerate() {
        if let Err(wait_ns) = bucket.take(*limits, now_ns) {
            for (before, limits) in &buckets[..at] {
                before.put_back(*limits);
            }
            bucket.refused.fetch_add(1, Ordering::Relaxed);
            return Err(wait_ns.div_ceil(1_000_000));
        }
    }
    Ok(())
}

/// The buckets of all profiles, by the profile's place in the catalog.
#[derive(Debug)]
pub(crate) struct Limits {
    started: Instant,
    buckets: Vec<Arc<Bucket>>,
}

impl Limits {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        Self { started: Instant::now(), buckets: catalog.profiles.iter().map(|_| Arc::default()).collect() }
    }

    /// Those of another catalog: a profile that stays keeps its bucket, so that a reload gives nobody a full one.
    pub(crate) fn succeed(&self, before: &Catalog, after: &Catalog) -> Self {
        let bucket = |profile: &Profile| match before.profiles.iter().position(|it| it.key == profile.key) {
            Some(at) => self.buckets[at].clone(),
            None => Arc::default(),
        };
        Self { started: self.started, buckets: after.profiles.iter().map(bucket).collect() }
    }

    /// Charges one call of a profile, or says after how many milliseconds to try again.
    pub(crate) fn charge(&self, profile_at: usize, profile: &Profile) -> Result<(), u64> {
        if profile.limits.rps.is_none() {
            return Ok(());
        }
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        take(&[(&self.buckets[profile_at], profile.limits)], now_ns)
    }

    /// Calls of a profile that were refused.
    pub(crate) fn refused(&self, profile_at: usize) -> u64 {
        self.buckets[profile_at].refused.load(Ordering::Relaxed)
    }
}

/// `Retry-After` is in whole seconds, and never too early.
pub(crate) fn retry_after_seconds(retry_after_ms: u64) -> u64 {
    let wait = Duration::from_millis(retry_after_ms);
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(rps: u64, burst: Option<u64>) -> ClientLimits {
        ClientLimits { rps: Some(rps), burst }
    }

    fn taken(bucket: &Bucket, limits: ClientLimits, calls: u64, now_ns: u64) -> u64 {
        (0..calls).map(|_| u64::from(bucket.take(limits, now_ns).is_ok())).sum()
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_call_per_interval() {
        let (bucket, limits) = (Bucket::default(), limits(10, Some(3)));
        assert_eq!(taken(&bucket, limits, 5, 0), 3);
        assert_eq!(bucket.take(limits, 0), Err(100_000_000));
        assert_eq!(bucket.take(limits, 99_999_999), Err(1));
        assert_eq!(bucket.take(limits, 100_000_000), Ok(()));
        assert_eq!(taken(&bucket, limits, 5, 100_000_000), 0, "a refused call costs nothing and gains nothing");
        assert_eq!(taken(&bucket, limits, 9, 60 * SECOND_NS), 3, "after a pause the burst again, and no more");
    }

    #[test]
    fn without_a_burst_it_is_a_seconds_worth_and_without_a_rate_there_is_no_limit() {
        assert_eq!(taken(&Bucket::default(), limits(7, None), 20, 0), 7);
        assert_eq!(taken(&Bucket::default(), ClientLimits::default(), 20, 0), 20);
    }

    #[test]
    fn of_two_limits_the_stricter_refuses_and_the_other_is_not_charged() {
        let (profile, account) = (Bucket::default(), Bucket::default());
        let (wide, narrow) = (limits(10, Some(10)), limits(1, Some(1)));
        let both = || take(&[(&profile, wide), (&account, narrow)], 0);
        assert_eq!(both(), Ok(()));
        for _ in 0..5 {
            assert_eq!(both(), Err(1_000));
        }
        assert_eq!(taken(&profile, wide, 20, 0), 9);
        assert_eq!(account.refused.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_reload_gives_no_profile_that_stays_a_full_bucket() {
        let read = |rest: &str| {
            let text = format!(
                "rps_limit: 1\n{rest}\nchains: {{ e: {{ chain_id: 1, providers: [ {{ id: a, url: 'http://a' }} ] }} }}"
            );
            crate::profiles::parse("public", &text, &|_| None).unwrap()
        };
        let (before, after) = (read(""), read("name: other"));
        let limits = Limits::new(&before);
        assert_eq!(limits.charge(0, &before.profiles[0]), Ok(()));
        let limits = limits.succeed(&before, &after);
        assert!(limits.charge(0, &after.profiles[0]).is_err());
    }

    #[test]
    fn waiting_is_told_in_whole_seconds_rounded_up() {
        for (ms, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (u64::MAX, 18_446_744_073_709_552)] {
            assert_eq!(retry_after_seconds(ms), seconds, "{ms}");
        }
    }

    #[test]
    fn threads_that_race_get_no_more_than_the_burst() {
        let (bucket, limits) = (Bucket::default(), limits(1, Some(100)));
        let taken: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&bucket, limits, 100, 0))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_the_burst_and_the_rate(
            rps in 1u64..1_000, burst in 1u64..50, gaps_us in proptest::collection::vec(0u64..20_000, 1..300)
        ) {
            let (bucket, limits) = (Bucket::default(), limits(rps, Some(burst)));
            let mut now_ns = 0;
            let mut passed: Vec<u64> = Vec::new();
            for gap_us in gaps_us {
                now_ns += gap_us * 1_000;
                match bucket.take(limits, now_ns) {
                    Ok(()) => passed.push(now_ns),
                    Err(wait_ns) => prop_assert!(
                        bucket.take(limits, now_ns + wait_ns - 1).is_err(), "the wait that is told is not too long"
                    ),
                }
            }
            for (first, from_ns) in passed.iter().enumerate() {
                for (last, to_ns) in passed.iter().enumerate().skip(first) {
                    let calls = (last - first + 1) as u64;
                    let allowed = burst + (to_ns - from_ns) / (SECOND_NS / rps);
                    prop_assert!(calls <= allowed, "{calls} calls in {} ns", to_ns - from_ns);
                }
            }
        }
    }
}
