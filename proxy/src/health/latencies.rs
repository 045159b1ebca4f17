//! The latencies of a channel for one method, as far as a quantile of them is wanted: counts in buckets whose bounds grow
//! by the fourth root of two. A quantile is given as the upper bound of its bucket, so between 0.1 ms and a minute it is
//! never below the quantile of what was counted and at most 19 % above it, at any load and for any quantile. P² and
//! other estimators of five numbers are smaller, and their error has no bound. When [`WINDOW`] is reached every count is
//! halved, so that a quantile is one of the newest observations, the newer ones weighing more.

/// Upper bound of the first bucket.
const FIRST_MS: f64 = 0.1;
const BUCKETS_PER_DOUBLING: f64 = 4.0;
/// Enough for a minute, the longest that any call may take.
const BUCKETS: usize = 80;
/// Observations at most.
const WINDOW: u16 = 1_024;
/// With fewer observations nothing is said.
const MIN_OBSERVATIONS: u16 = 20;
/// Observations that must lie above a quantile for it to be known; a half rather than one, since halving leaves half of
/// the window.
const MIN_ABOVE: f64 = 0.5;

/// Counts of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latencies {
    counts: [u16; BUCKETS],
    total: u16,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Latencies {
    /// Counts one. Of an answer that was not waited for, the time waited may be counted in place of its latency: every
    /// quantile below that time stays right.
    pub(crate) fn note(&mut self, latency_ms: f64) {
        self.counts[bucket(latency_ms)] += 1;
        self.total += 1;
        if self.total >= WINDOW {
            self.halve();
        }
    }

    /// Halves from the slowest bucket on and carries what is left over to the next one, so that at every bound the number
    /// of slower ones is half of what it was, to within a half.
    fn halve(&mut self) {
        let (mut carry, mut total) = (0, 0);
        for count in self.counts.iter_mut().rev() {
            let sum = *count + carry;
            (*count, carry) = (sum / 2, sum % 2);
            total += *count;
        }
        self.total = total;
    }

    /// The latency that a share `quantile` of the answers does not exceed, in milliseconds; none where too few are known.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let total = f64::from(self.total);
        if self.total < MIN_OBSERVATIONS || total * (1.0 - quantile) < MIN_ABOVE {
            return None;
        }
        let wanted = total * quantile;
        let mut below = 0.0;
        let at = self.counts.iter().position(|count| {
            below += f64::from(*count);
            below >= wanted && below > 0.0
        });
        at.map(upper_bound_ms)
    }
}

fn bucket(latency_ms: f64) -> usize {
    let place = ((latency_ms / FIRST_MS).log2() * BUCKETS_PER_DOUBLING).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the buckets there are")]
    let place = place.clamp(0.0, (BUCKETS - 1) as f64) as usize;
    place
}

fn upper_bound_ms(bucket: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a place among 80")]
    let doublings = bucket as f64 / BUCKETS_PER_DOUBLING;
    FIRST_MS * doublings.exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Growth of a bucket's bounds, with room for rounding.
    const ERROR: f64 = 1.190;

    #[test]
    fn too_few_observations_say_nothing_and_a_far_quantile_needs_more_of_them() {
        let mut latencies = Latencies::default();
        for n in 1..=60 {
            latencies.note(10.0);
            assert_eq!(latencies.quantile_ms(0.5).is_some(), n >= 20, "{n}");
            assert_eq!(latencies.quantile_ms(0.99).is_some(), n >= 50, "{n}");
        }
    }

    #[test]
    fn what_was_slow_long_ago_is_forgotten() {
        let mut latencies = Latencies::default();
        (0..1_000).for_each(|_| latencies.note(900.0));
        (0..20_000).for_each(|_| latencies.note(5.0));
        assert!(latencies.quantile_ms(0.99).unwrap() < 5.0 * ERROR);
    }

    #[test]
    fn odd_numbers_are_counted_somewhere() {
        let mut latencies = Latencies::default();
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            (0..10).for_each(|_| latencies.note(odd));
        }
        assert!(latencies.quantile_ms(0.5).is_some());
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_below_the_true_one_and_at_most_a_bucket_above(
            observed in proptest::collection::vec(0.1f64..50_000.0, 20..1_000), quantile in 0.05f64..0.97
        ) {
            let mut latencies = Latencies::default();
            observed.iter().for_each(|latency| latencies.note(*latency));
            let Some(found) = latencies.quantile_ms(quantile) else { return Ok(()) };
            let mut sorted = observed;
            sorted.sort_by(f64::total_cmp);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a test")]
            let place = ((sorted.len() as f64 * quantile).ceil() as usize).clamp(1, sorted.len());
            let truth = sorted[place - 1];
            prop_assert!(found >= truth * 0.999_999 && found <= truth * ERROR, "{found} for {truth}");
        }

        #[test]
        fn halving_keeps_the_share_of_the_slow_ones(slow in 1usize..400) {
            let mut latencies = Latencies::default();
            (0..slow).for_each(|_| latencies.note(1_000.0));
            (slow..1_023).for_each(|_| latencies.note(1.0));
            latencies.note(1.0);
            prop_assert_eq!(latencies.total, 512);
            #[allow(clippy::cast_precision_loss, reason = "a test")]
            let share = slow as f64 / 1_024.0;
            let above = latencies.quantile_ms((1.0 - share * 0.9).min(0.99)).unwrap();
            prop_assert!(above > 500.0 || slow < 12, "{above} with {slow} slow");
        }
    }
}
