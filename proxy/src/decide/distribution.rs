//! The shares that decisions really give to channels, against the probabilities that they state: over many seeds, for
//! fleets of every kind, in the first selection and in one after a failure. A strategy that states one thing and does
//! another would make the record lie.

use std::collections::BTreeMap;

use lariat_schema::vocabulary::{ExclusionReason, Strategy};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::fleets::{fleets, strategies};
use super::{Ask, Tried, decide};
use crate::health::Snapshot;

const DECISIONS: u32 = 3_000;
/// Deviations of a binomial share, and counts beside them since a rare event's share is not normal: with these, one run
/// in a million fails by chance.
const DEVIATIONS: f64 = 6.0;
const COUNTS: f64 = 12.0;
/// Share of a probability that rounding changes at most.
const ROUNDING: f64 = 1.0 / 65_536.0;

fn seeds() -> impl Iterator<Item = u64> {
    (0..DECISIONS).map(|n| xxh3_64(&n.to_be_bytes()))
}

/// How often each channel came first, and how often it was stated to.
fn shares(ask: &Ask<'_>, snapshot: &Snapshot, tried: &[Tried]) -> BTreeMap<String, (f64, f64)> {
    let mut shares = BTreeMap::new();
    for seed in seeds() {
        let decision = decide(ask, snapshot, tried, seed);
        for (rank, candidate) in decision.eligible.iter().enumerate() {
            let share: &mut (f64, f64) = shares.entry(candidate.name.to_string()).or_default();
            share.0 += f64::from(u8::from(rank == 0)) / f64::from(DECISIONS);
            share.1 += candidate.probability / f64::from(DECISIONS);
        }
    }
    shares
}

fn differs(share: f64, stated: f64) -> bool {
    let n = f64::from(DECISIONS);
    (share - stated).abs() > DEVIATIONS * (stated * (1.0 - stated) / n).max(0.0).sqrt() + COUNTS / n
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_channel_comes_first_as_often_as_is_stated(fleet in fleets(1..9, 5.0..25.0), strategy in strategies()) {
        for (name, (share, stated)) in shares(&fleet.ask(strategy), &fleet.snapshot, &[]) {
            prop_assert!(!differs(share, stated), "{}: {} comes first in {}, stated {}", strategy, name, share, stated);
        }
    }

    #[test]
    fn a_selection_after_a_failure_gives_the_rest_the_shares_that_it_states(
        fleet in fleets(3..7, 5.0..25.0), strategy in strategies(), first in 0usize..3,
    ) {
        let tried = [Tried { channel: fleet.channel(first), reason: ExclusionReason::Tried }];
        let found = shares(&fleet.ask(strategy), &fleet.snapshot, &tried);
        let gone = format!("p{first}:http");
        prop_assert!(!found.contains_key(&gone));
        for (name, (share, stated)) in found {
            prop_assert!(!differs(share, stated), "{}: {} comes first in {}, stated {}", strategy, name, share, stated);
        }
    }

    #[test]
    fn stated_probabilities_sum_to_one_and_never_favour_the_worse(
        fleet in fleets(1..14, 0.01..5_000.0), strategy in strategies(), seed: u64,
    ) {
        let decision = decide(&fleet.ask(strategy), &fleet.snapshot, &[], seed);
        let sum: f64 = decision.eligible.iter().map(|candidate| candidate.probability).sum();
        // Beyond the budget of candidates nobody is listed, and what they had is missing from the sum.
        let whole = fleet.catalog.profiles[0].chains[0].providers.len() <= super::MAX_ELIGIBLE;
        let (least, most) = (1.0 - ROUNDING, 1.0 + ROUNDING);
        prop_assert!(decision.eligible.is_empty() || sum <= most && (!whole || sum >= least), "{}", sum);
        if strategy == Strategy::LatencyWeighted {
            let contends = decision.eligible.iter().filter(|candidate| candidate.probability > 0.0);
            let measured: Vec<_> = contends.filter_map(|it| Some((it.inputs.latency_ms?, it.probability))).collect();
            for (slow, fast) in measured.iter().flat_map(|a| measured.iter().map(move |b| (a, b))) {
                prop_assert!(slow.0 <= fast.0 || slow.1 <= fast.1);
            }
        }
    }
}
