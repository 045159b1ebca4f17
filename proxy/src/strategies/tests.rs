//! What the strategies really produce, over many seeds.

use super::*;
use lariat_schema::ids::BootId;
use lariat_schema::seeds::selection_seed;
use lariat_schema::vocabulary::Strategy;
use proptest::prelude::*;

fn candidate(name: &str, inputs: Inputs) -> Candidate {
    let channel = crate::health::ChannelIndex(0);
    Candidate {
        name: format!("{name}:http").into(),
        provider: 0,
        channel,
        inputs,
        score: 0.0,
        probability: 0.0,
        group: 0,
    }
}

fn measured(name: &str, latency_ms: f64) -> Candidate {
    candidate(name, Inputs { latency_ms: Some(latency_ms), qualified: true, ..Inputs::default() })
}

fn firsts(strategy: Strategy, candidates: &[Candidate], draws: u64) -> std::collections::HashMap<String, f64> {
    let mut shares = std::collections::HashMap::new();
    for seed in 0..draws {
        let mut ranked = candidates.to_vec();
        rank(strategy, &mut ranked, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        *shares.entry(ranked[0].name.to_string()).or_insert(0.0) += 1.0 / draws as f64;
    }
    shares
}

#[test]
fn load_balanced_gives_every_candidate_the_same_share() {
    let candidates: Vec<_> = ["a", "b", "c", "d"].map(|name| candidate(name, Inputs::default())).to_vec();
    for (name, share) in firsts(Strategy::LoadBalanced, &candidates, 20_000) {
        // Five standard deviations of a binomial share.
        assert!((share - 0.25).abs() < 5.0 * (0.25f64 * 0.75 / 20_000.0).sqrt(), "{name}: {share}");
    }
}

#[test]
fn latency_weighted_gives_the_shares_that_it_states() {
    let candidates = [measured("a", 10.0), measured("b", 20.0), measured("c", 15.0)];
    let shares = firsts(Strategy::LatencyWeighted, &candidates, 20_000);
    let mut ranked = candidates.to_vec();
    rank(Strategy::LatencyWeighted, &mut ranked, 1);
    for candidate in ranked {
        let (share, p) = (shares[&*candidate.name], candidate.probability);
        assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / 20_000.0).sqrt(), "{}: {share} for {p}", candidate.name);
    }
}

#[test]
fn fastest_prefers_evidence_to_probes_and_priority_the_lower_number() {
    let mut ranked = [
        candidate("probed", Inputs { prior_ms: Some(1.0), ..Inputs::default() }),
        measured("slow", 30.0),
        measured("quick", 5.0),
        candidate("unknown", Inputs::default()),
    ];
    rank(Strategy::Fastest, &mut ranked, 0);
    assert_eq!(ranked.each_ref().map(|c| &*c.name), ["quick:http", "slow:http", "probed:http", "unknown:http"]);
    let with = |priority| Inputs { priority, ..Inputs::default() };
    let mut ranked = [candidate("a", with(3)), candidate("b", with(1)), candidate("c", with(2))];
    rank(Strategy::Priority, &mut ranked, 0);
    assert_eq!(ranked.each_ref().map(|c| &*c.name), ["b:http", "c:http", "a:http"]);
}

#[test]
fn a_limited_or_half_open_channel_comes_after_the_others() {
    let limited = candidate("limited", Inputs { limited: true, priority: 1, ..Inputs::default() });
    let half_open = candidate("half", Inputs { half_open: true, priority: 2, ..Inputs::default() });
    let good = candidate("good", Inputs { priority: 9, ..Inputs::default() });
    for strategy in Strategy::ALL {
        let mut ranked = [limited.clone(), half_open.clone(), good.clone()];
        rank(*strategy, &mut ranked, 7);
        assert_eq!(ranked.each_ref().map(|c| &*c.name), ["good:http", "half:http", "limited:http"], "{strategy}");
        assert_eq!(ranked[0].probability, 1.0);
    }
}

#[test]
fn consecutive_decisions_of_a_boot_give_every_candidate_the_same_share() {
    let candidates: Vec<_> = ["a", "b", "c", "d"].map(|name| candidate(name, Inputs::default())).to_vec();
    let boot_id = BootId(uuid::Uuid::from_u128(0x0192_f0c4_8a5b_4c3d_9e1f_0123_4567_89ab));
    let mut firsts = std::collections::HashMap::new();
    for decision_seq in 1..=20_000 {
        let mut ranked = candidates.clone();
        rank(Strategy::LoadBalanced, &mut ranked, selection_seed(boot_id, decision_seq, 1));
        *firsts.entry(ranked[0].name.to_string()).or_insert(0.0) += 1.0 / 20_000.0;
    }
    for (name, share) in firsts {
        assert!((share - 0.25f64).abs() < 5.0 * (0.25f64 * 0.75 / 20_000.0).sqrt(), "{name}: {share}");
    }
}

#[test]
fn a_latency_is_known_to_three_digits() {
    for (exact, known) in [
        (0.000_4, 0.0),
        (0.123_456, 0.123),
        (1.234_9, 1.23),
        (9.996, 10.0),
        (45.678_9, 45.7),
        (456.78, 457.0),
        (9_876.5, 9_877.0),
    ] {
        assert_eq!(known_ms(exact), known);
        assert_eq!(known_ms(known), known, "rounding again changes nothing");
    }
}

proptest! {
    #[test]
    fn what_is_told_of_a_number_is_near_it_and_in_the_same_order(one in 0.0f64..1e9, other in 0.0f64..1e9) {
        prop_assert!((told(one) - one).abs() <= one / 65_536.0);
        prop_assert_eq!(told(told(one)), told(one));
        prop_assert!(one > other || told(one) <= told(other));
    }
}

prop_compose! {
    fn any_inputs()(
        latency_ms in proptest::option::of(0.001f64..10_000.0), prior_ms in proptest::option::of(0.001f64..10_000.0),
        qualified: bool, half_open: bool, limited: bool, behind: bool, priority in 1u32..1_000_000,
    ) -> Inputs {
        Inputs { latency_ms, qualified, prior_ms, priority, half_open, limited, behind }
    }
}

proptest! {
    #[test]
    fn replaying_the_record_gives_the_recorded_order(
        inputs in proptest::collection::vec(any_inputs(), 1..10), seed: u64, strategy in 0..Strategy::ALL.len()
    ) {
        let strategy = Strategy::ALL[strategy];
        let mut ranked: Vec<_> = inputs.into_iter().enumerate().map(|(i, it)| candidate(&format!("p{i}"), it)).collect();
        rank(strategy, &mut ranked, seed);
        let record: Vec<_> = ranked.iter().map(|c| (c.name.to_string(), c.inputs.to_string())).collect();
        let order: Vec<_> = ranked.iter().map(|c| c.name.to_string()).collect();
        prop_assert_eq!(replay(strategy, seed, &record), Some(order));
        let sum: f64 = ranked.iter().map(|c| c.probability).sum();
        prop_assert!((sum - 1.0).abs() <= 1.0 / 65_536.0);
    }
}
