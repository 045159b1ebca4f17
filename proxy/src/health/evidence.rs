//! Latency and success of a channel for one method in one profile, as running averages. Only answers that were of use
//! move the latency: a timeout's true latency is not known, and a revert says nothing of the provider.

use super::latencies::Latencies;

/// Weight of the newest observation.
const ALPHA: f64 = 1.0 / 8.0;
/// Age beyond which evidence does not qualify a channel.
const MAX_AGE_MS: u64 = 300_000;
const MIN_SUCCESSES: u32 = 3;
const MAX_FAILURES_IN_A_ROW: u32 = 3;
const MIN_SUCCESS_SHARE: f64 = 0.75;

/// Running averages, and the spread of the latencies.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Evidence {
    pub(crate) latency_ms: Option<f64>,
    pub(crate) latencies: Latencies,
    success_share: f64,
    successes: u32,
    failures_in_a_row: u32,
    last_ms: u64,
}

impl Evidence {
    pub(crate) fn succeed(&mut self, latency_ms: f64, now_ms: u64) {
        let first = self.successes == 0 && self.failures_in_a_row == 0;
        self.latency_ms = Some(average(self.latency_ms, latency_ms));
        self.latencies.note(latency_ms);
        self.success_share = if first { 1.0 } else { average(Some(self.success_share), 1.0) };
        self.successes = self.successes.saturating_add(1);
        self.failures_in_a_row = 0;
        self.last_ms = now_ms;
    }

    pub(crate) fn fail(&mut self, now_ms: u64) {
        self.success_share = average(Some(self.success_share), 0.0);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.last_ms = now_ms;
    }

    /// An answer that was not waited for any longer, since another channel's came first. It leaves the average alone and
    /// counts among the latencies; without it only fast answers would, and a hedge would come ever earlier.
    pub(crate) fn outrun(&mut self, waited_ms: f64) {
        self.latencies.note(waited_ms);
    }

    /// True where there is enough of it, recent and good, to rank by.
    pub(crate) fn is_qualified(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.last_ms) < MAX_AGE_MS
            && self.successes >= MIN_SUCCESSES
            && self.failures_in_a_row < MAX_FAILURES_IN_A_ROW
            && self.success_share >= MIN_SUCCESS_SHARE
    }
}

/// One step of an exponentially weighted average.
pub(crate) fn average(before: Option<f64>, now: f64) -> f64 {
    before.map_or(now, |before| before + ALPHA * (now - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_recent_successes_qualify_and_three_failures_in_a_row_do_not() {
        let mut evidence = Evidence::default();
        for _ in 0..3 {
            assert!(!evidence.is_qualified(0));
            evidence.succeed(10.0, 0);
        }
        assert!(evidence.is_qualified(0));
        assert!(!evidence.is_qualified(MAX_AGE_MS));
        for _ in 0..3 {
            evidence.fail(0);
        }
        assert!(!evidence.is_qualified(0));
    }
}
