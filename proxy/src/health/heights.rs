//! The heights of one chain as its providers report them, which of them to believe, and the time between blocks learned
//! from them. A provider can be wrong about its height in both directions. Too low harms only itself. Too high would
//! make every other provider look behind, and where there are few the consensus is the highest; so a height that is
//! higher than blocks can have come since the highest credible one is doubted until another provider reports it too, or
//! until nothing else moves any more. Pure: times come in as milliseconds, and two runs of the same reports agree.

use std::collections::HashMap;

use super::Height;

/// Blocks by which honest providers may differ, however slow their chain is.
const SLACK_BLOCKS: u64 = 32;
/// A chain is believed to be this much faster than it usually is, for a while.
const HURRY: f64 = 4.0;
/// Time over which providers that are asked one after the other may differ.
const SPREAD_MS: f64 = 30_000.0;
/// So long without a higher credible height, a doubted one that rises is believed.
const STUCK_MS: u64 = 60_000;
/// Rises in a row that make a lone report believable.
const RISES: u32 = 3;
/// Weight of the newest sample of the time between blocks.
const ALPHA: f64 = 0.15;
/// Samples from which on it is used.
const MIN_SAMPLES: u32 = 5;
const FASTEST_MS: f64 = 50.0;
const SLOWEST_MS: f64 = 60_000.0;

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Believed, and another height than before.
    New,
    /// Believed, and the same as before.
    Same,
    /// Higher than blocks can have come.
    Doubted,
}

#[derive(Debug, Clone, Copy)]
struct Report {
    latest: Height,
    credible: Option<Height>,
    rises: u32,
}

/// The highest credible height.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    height: u64,
    at_ms: u64,
    of: u64,
    /// Whether more than one report of one provider stands behind it.
    confirmed: bool,
}

/// What is known of the heights of one chain. Providers are told apart by a key that their reports carry.
#[derive(Debug, Default)]
pub(crate) struct Heights {
    reports: HashMap<u64, Report>,
    anchor: Option<Anchor>,
    block_time_ms: Option<f64>,
    samples: u32,
}

impl Heights {
    /// What that provider is believed to have.
    pub(crate) fn credible(&self, key: u64) -> Option<Height> {
        self.reports.get(&key)?.credible
    }

    /// Whether its latest report is not believed.
    pub(crate) fn is_doubted(&self, key: u64) -> bool {
        self.reports.get(&key).is_some_and(|report| report.credible != Some(report.latest))
    }

    /// The learned time between blocks, once it is known well enough.
    pub(crate) fn block_time_ms(&self) -> Option<f64> {
        self.block_time_ms.filter(|_| self.samples >= MIN_SAMPLES)
    }

    /// Forgets providers that are gone.
    pub(crate) fn retain(&mut self, stays: impl Fn(u64) -> bool) {
        self.reports.retain(|key, _| stays(*key));
    }

    /// Notes a report; `configured_ms` is the profile's time between blocks.
    pub(crate) fn note(&mut self, key: u64, height: u64, now_ms: u64, configured_ms: Option<u64>) -> Noted {
        let latest = Height { height, at_ms: now_ms };
        let before = self.reports.get(&key).copied();
        let rises = match before {
            Some(before) if height > before.latest.height => before.rises.saturating_add(1),
            Some(before) if height == before.latest.height => before.rises,
            _ => 0,
        };
        let credible = before.and_then(|before| before.credible);
        self.reports.insert(key, Report { latest, credible, rises });
        let believed = match self.anchor {
            None => {
                self.raise(latest, key, false, configured_ms);
                true
            }
            Some(anchor) => self.judge(anchor, latest, key, rises, configured_ms),
        };
        if !believed {
            return Noted::Doubted;
        }
        if let Some(report) = self.reports.get_mut(&key) {
            report.credible = Some(latest);
        }
        if credible.is_some_and(|credible| credible.height == height) { Noted::Same } else { Noted::New }
    }

    fn judge(&mut self, anchor: Anchor, latest: Height, key: u64, rises: u32, configured_ms: Option<u64>) -> bool {
        let elapsed_ms = latest.at_ms.saturating_sub(anchor.at_ms);
        let near = SLACK_BLOCKS.saturating_add(blocks(SPREAD_MS, self.pace_ms(configured_ms)));
        let possible = anchor
            .height
            .saturating_add(SLACK_BLOCKS)
            .saturating_add(blocks(ms(elapsed_ms), (self.pace_ms(configured_ms) / HURRY).max(FASTEST_MS)));
        let seconded = self.second(key, latest, near);
        if latest.height > possible {
            if seconded || elapsed_ms >= STUCK_MS && rises >= RISES {
                self.believe_near(latest, near);
                self.raise(latest, key, true, None);
                return true;
            }
            return false;
        }
        let far_below = latest.height.saturating_add(near) < anchor.height;
        if far_below && !anchor.confirmed && anchor.of != key {
            // Two providers contradict each other and neither is confirmed: the lower one excludes nobody.
            for report in self.reports.values_mut() {
                report.credible = report.credible.filter(|it| it.height <= latest.height.saturating_add(near));
            }
            self.anchor = None;
            self.raise(latest, key, false, None);
            return true;
        }
        let confirmed = anchor.confirmed || seconded && !far_below || anchor.of == key && rises >= RISES;
        if latest.height > anchor.height {
            self.raise(latest, key, confirmed, configured_ms);
        } else if let Some(anchor) = &mut self.anchor {
            anchor.confirmed = confirmed;
        }
        true
    }

    /// Whether another provider lately reported about the same.
    fn second(&self, key: u64, latest: Height, near: u64) -> bool {
        self.reports.iter().any(|(other, report)| {
            *other != key
                && ms(latest.at_ms.saturating_sub(report.latest.at_ms)) <= SPREAD_MS
                && report.latest.height.abs_diff(latest.height) <= near
        })
    }

    /// Believes what those report who second that report.
    fn believe_near(&mut self, latest: Height, near: u64) {
        for report in self.reports.values_mut() {
            if report.latest.height.abs_diff(latest.height) <= near {
                report.credible = Some(report.latest);
            }
        }
    }

    fn raise(&mut self, to: Height, of: u64, confirmed: bool, sampled: Option<u64>) {
        if let Some(from) = self.anchor.filter(|_| confirmed || self.samples > 0 || sampled.is_some()) {
            self.sample(from, to, sampled);
        }
        self.anchor = Some(Anchor { height: to.height, at_ms: to.at_ms, of, confirmed });
    }

    /// Learns from the time that the chain took from one height to another.
    fn sample(&mut self, from: Anchor, to: Height, configured_ms: Option<u64>) {
        let (Some(rise), elapsed_ms) =
            (to.height.checked_sub(from.height).filter(|rise| *rise > 0), to.at_ms.saturating_sub(from.at_ms))
        else {
            return;
        };
        let sample = (ms(elapsed_ms) / ms(rise)).clamp(FASTEST_MS, SLOWEST_MS);
        let before = self.block_time_ms.or_else(|| configured_ms.map(ms));
        self.block_time_ms = Some(before.map_or(sample, |before| before + ALPHA * (sample - before)));
        self.samples = self.samples.saturating_add(1);
    }

    /// The time between blocks to reckon with; the fastest where nothing is known.
    fn pace_ms(&self, configured_ms: Option<u64>) -> f64 {
        self.block_time_ms().or_else(|| configured_ms.map(ms)).unwrap_or(FASTEST_MS).max(FASTEST_MS)
    }
}

#[allow(clippy::cast_precision_loss, reason = "heights and milliseconds stay far below 2^52")]
const fn ms(value: u64) -> f64 {
    value as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither is negative, and a float saturates"
)]
fn blocks(elapsed_ms: f64, block_time_ms: f64) -> u64 {
    (elapsed_ms / block_time_ms).ceil() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK_MS: u64 = 12_000;
    const A_LIE: u64 = 1_000_000_000;

    fn note(heights: &mut Heights, key: u64, height: u64, now_ms: u64) -> Noted {
        heights.note(key, height, now_ms, Some(BLOCK_MS))
    }

    fn heights_of(heights: &Heights, keys: u64) -> Vec<Option<u64>> {
        (0..keys).map(|key| heights.credible(key).map(|it| it.height)).collect()
    }

    #[test]
    fn a_provider_that_jumps_far_ahead_is_doubted_whether_it_speaks_first_or_last() {
        for liar in [0, 1] {
            let mut heights = Heights::default();
            for round in 0..20 {
                for key in 0..2 {
                    let height = if key == liar { A_LIE + round } else { 100 + round };
                    note(&mut heights, key, height, round * BLOCK_MS + key);
                }
            }
            let honest = 1 - liar;
            assert_eq!(heights.credible(honest).map(|it| it.height), Some(119));
            assert_eq!(heights.credible(liar), None);
        }
    }

    #[test]
    fn a_credible_provider_that_begins_to_lie_keeps_its_last_credible_height() {
        let mut heights = Heights::default();
        for round in 0..5 {
            assert_eq!(note(&mut heights, 0, 100 + round, round * BLOCK_MS), Noted::New);
            note(&mut heights, 1, 100 + round, round * BLOCK_MS + 1);
        }
        assert_eq!(note(&mut heights, 1, A_LIE, 5 * BLOCK_MS), Noted::Doubted);
        assert_eq!(heights_of(&heights, 2), [Some(104), Some(104)]);
        assert_eq!(note(&mut heights, 1, 105, 5 * BLOCK_MS + 1), Noted::New, "and is believed again");
    }

    #[test]
    fn a_provider_that_goes_backwards_harms_only_itself() {
        let mut heights = Heights::default();
        for round in 0..5 {
            note(&mut heights, 0, 100 + round, round * BLOCK_MS);
            note(&mut heights, 1, 100 - 10 * round, round * BLOCK_MS + 1);
        }
        assert_eq!(heights_of(&heights, 2), [Some(104), Some(60)]);
    }

    #[test]
    fn two_providers_that_agree_are_believed_over_one_that_is_behind() {
        let mut heights = Heights::default();
        note(&mut heights, 0, 5_000, 0);
        note(&mut heights, 1, 10, 1);
        assert_eq!(heights_of(&heights, 2), [None, Some(10)], "who of two is right is not known");
        note(&mut heights, 2, 5_000, 2);
        assert_eq!(heights_of(&heights, 3), [Some(5_000), Some(10), Some(5_000)]);
    }

    #[test]
    fn where_the_believed_one_stands_still_one_that_rises_is_believed_in_the_end() {
        let mut heights = Heights::default();
        note(&mut heights, 0, 5_000, 0);
        let believed = (0..10).find(|round| {
            note(&mut heights, 1, 10, round * BLOCK_MS + 1);
            note(&mut heights, 0, 5_000 + round, round * BLOCK_MS + 2) != Noted::Doubted
        });
        assert_eq!(believed, Some(5), "after a minute");
    }

    #[test]
    fn after_a_long_silence_the_blocks_since_are_no_lie() {
        let mut heights = Heights::default();
        for round in 0..5 {
            note(&mut heights, 0, 100 + round, round * BLOCK_MS);
        }
        assert_eq!(note(&mut heights, 0, 104 + 300, 304 * BLOCK_MS), Noted::New);
    }

    #[test]
    fn the_time_between_blocks_is_learned_after_five_samples_and_stays_in_its_bounds() {
        let mut heights = Heights::default();
        for round in 0..=4 {
            heights.note(0, 100 + 4 * round, round * 1_000, Some(BLOCK_MS));
        }
        assert_eq!(heights.block_time_ms(), None);
        for round in 5..60 {
            heights.note(0, 100 + 4 * round, round * 1_000, Some(BLOCK_MS));
        }
        let learned = heights.block_time_ms().unwrap();
        assert!((learned - 250.0).abs() < 5.0, "{learned}");
        let mut fast = Heights::default();
        for round in 0..50 {
            fast.note(0, 100 + 10 * round, round, None);
        }
        assert_eq!(fast.block_time_ms(), Some(FASTEST_MS));
    }

    proptest! {
        /// One liar among honest providers, whatever it says and in whatever order they speak.
        #[test]
        fn no_single_provider_makes_an_honest_one_look_behind(
            honest in 2u64..5, lies in proptest::collection::vec(any::<u64>(), 1..40), first in any::<bool>(),
        ) {
            let mut heights = Heights::default();
            let liar = honest;
            for (round, lie) in (0u64..).zip(&lies) {
                let now = round * BLOCK_MS;
                if first {
                    note(&mut heights, liar, *lie, now);
                }
                for key in 0..honest {
                    note(&mut heights, key, 1_000 + round, now + key);
                }
                if !first {
                    note(&mut heights, liar, *lie, now + honest);
                }
                let near = 1_000 + round + SLACK_BLOCKS + 3 + 10 * (round + 1);
                for key in 0..honest {
                    prop_assert_eq!(heights.credible(key).map(|it| it.height), Some(1_000 + round));
                }
                prop_assert!(heights.credible(liar).is_none_or(|it| it.height <= near));
            }
        }
    }
}
