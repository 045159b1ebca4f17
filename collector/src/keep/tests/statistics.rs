//! That what is kept estimates what came (I-4): counts, sums and ratios, weighted, against the truth of simulated traffic.
//!
//! Each estimate has to lie within 3.29 of its standard deviations, where 99.9 % of those of an unbiased estimator lie.
//! The deviation is not estimated: for nested thresholds the covariance of two records of one trace, kept with
//! probabilities p and q, is their product times 1 / max(p, q) - 1. Seeds are fixed, so that a right sampler passes always.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::columns::{ids, longs};

/// Deviations within which 99.9 % of a normal distribution lie.
const CONFIDENCE: f64 = 3.29;
const TRACES: u32 = 12_000;

/// One call as it happened.
#[derive(Debug, Clone, Copy)]
struct Call {
    trace: u128,
    index: u32,
    millis: u32,
    is_error: bool,
    /// Probability of being kept.
    probability: f64,
}

/// A seeded sequence of numbers.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap()
    }

    fn trace(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }
}

fn root(call: &Call, state: Option<&str>) -> Value {
    let mut fields = json!({
        "span_id": format!("{:016x}", call.index + 1), "batch_index": call.index,
        "duration_ns": i64::from(call.millis) * 1_000_000, "result": if call.is_error { "error" } else { "success" },
    });
    if let Some(state) = state {
        fields["trace_state"] = json!(state);
    }
    decision(call.trace, fields)
}

fn child(call: &Call) -> Value {
    let fields = json!({"span_kind": "client", "profile": "public"});
    span(call.trace, u64::from(call.index) + 100, Some(u64::from(call.index) + 1), fields)
}

/// Weighted count, milliseconds and errors of the kept decisions; kept children by their root.
fn estimates(store: &Store) -> ([f64; 3], HashMap<String, usize>) {
    let (mut sums, mut children) = ([0.0; 3], HashMap::new());
    for batch in &store.kept {
        let (weights, durations) = (doubles(batch, "adjusted_count"), longs(batch, "duration_ns"));
        for row in 0..batch.num_rows() {
            if texts(batch, "span_kind").value(row) != "server" {
                let parent = ids(batch, "parent_span_id").value(row);
                *children.entry(hex::encode([ids(batch, "trace_id").value(row), parent].concat())).or_insert(0) += 1;
                continue;
            }
            let weight = weights.value(row);
            sums[0] += weight;
            sums[1] += weight * durations.value(row) as f64 / 1e6;
            sums[2] += weight * f64::from(u8::from(text(texts(batch, "result"), row) == Some("error")));
        }
    }
    (sums, children)
}

/// Standard deviation of the weighted sum of a value over these calls.
fn deviation(calls: &[Call], value: &dyn Fn(&Call) -> f64) -> f64 {
    let mut traces: BTreeMap<u128, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        traces.entry(call.trace).or_default().push(call);
    }
    let pairs = traces
        .values()
        .flat_map(|calls| calls.iter().flat_map(move |one| calls.iter().map(move |other| (*one, *other))));
    pairs
        .map(|(one, other)| value(one) * value(other) * (1.0 / one.probability.max(other.probability) - 1.0))
        .sum::<f64>()
        .sqrt()
}

fn assert_unbiased(what: &str, store: &Store, calls: &[Call]) {
    let ([count, millis, errors], _) = estimates(store);
    let sum = |value: &dyn Fn(&Call) -> f64| calls.iter().map(value).sum::<f64>();
    let is_error = |call: &Call| f64::from(u8::from(call.is_error));
    let share = sum(&is_error) / sum(&|_| 1.0);
    let of_mean = sum(&|_| 1.0);
    let within = |name: &str, found: f64, truth: f64, deviation: f64| {
        let off = (found - truth).abs();
        assert!(
            off <= CONFIDENCE * deviation + 1e-6 * truth.abs().max(1.0),
            "{what}: {name} is {found}, {truth} is true, one deviation is {deviation}"
        );
    };
    within("the count", count, of_mean, deviation(calls, &|_| 1.0));
    within("the sum", millis, sum(&|call| f64::from(call.millis)), deviation(calls, &|call| f64::from(call.millis)));
    within("the share of errors", errors / count, share, deviation(calls, &|call| (is_error(call) - share) / of_mean));
}

/// Traffic with batches, children before, with and after their roots, slow calls and failures.
fn ordinary(rate: f64, seed: u64) -> (Store, Vec<Call>) {
    let mut store = Store::new(SamplingPolicy { rate, slow_ms: 1_000, kept_whole_per_second: u64::MAX });
    let (mut draws, mut calls, mut late) = (Draws(seed), Vec::new(), Vec::new());
    for chunk in 0..TRACES / 200 {
        let (mut early, mut rows) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let (trace, batch) = (draws.trace(), 1 + draws.below(3) / 2);
            for index in 0..batch {
                let millis = if draws.below(50) == 0 { 1_500 } else { 5 + draws.below(200) };
                let is_error = draws.below(30) == 0;
                let probability = if is_error || millis >= 1_000 { 1.0 } else { rate };
                let call = Call { trace, index, millis, is_error, probability };
                rows.push(root(&call, None));
                match draws.below(8) {
                    0 => early.push(child(&call)),
                    1 => rows.insert(0, child(&call)),
                    2 => late.push(child(&call)),
                    _ => {}
                }
                calls.push(call);
            }
        }
        if !early.is_empty() {
            store.send(&early);
        }
        store.send(&rows);
        if chunk % 5 == 4 && !late.is_empty() {
            store.send(&std::mem::take(&mut late));
        }
    }
    (store, calls)
}

#[test]
fn counts_sums_and_ratios_are_unbiased_at_every_rate_whenever_children_come() {
    for (rate, seed) in [(0.01, 1), (0.05, 2), (0.2, 3)] {
        let (store, calls) = ordinary(rate, seed);
        assert_unbiased(&format!("rate {rate}"), &store, &calls);
        // A unit is kept whole or not at all.
        let (_, children) = estimates(&store);
        let kept: std::collections::HashSet<String> = store
            .kept
            .iter()
            .flat_map(|batch| {
                let (traces, spans) = (ids(batch, "trace_id"), ids(batch, "span_id"));
                (0..batch.num_rows())
                    .map(|row| hex::encode([traces.value(row), spans.value(row)].concat()))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(!children.is_empty() && children.keys().all(|root| kept.contains(root)));
    }
}

#[test]
fn a_trusted_senders_threshold_counts_what_the_sender_left_out() {
    for (rate, seed) in [(0.01, 11), (0.05, 12), (0.2, 13)] {
        // A quarter is sent, by random bits of the sender's own in every other trace.
        let threshold = Threshold::of(0.25);
        let mut store = Store::new(SamplingPolicy { rate, slow_ms: 1_000, kept_whole_per_second: u64::MAX });
        let (mut draws, mut calls) = (Draws(seed), Vec::new());
        for _ in 0..40 {
            let mut rows = Vec::new();
            for _ in 0..TRACES / 20 {
                let (trace, own) = (draws.trace(), draws.next() >> 8);
                let is_error = draws.below(10) == 0;
                let probability = if is_error { 0.25 } else { rate.min(0.25) };
                let call = Call { trace, index: 0, millis: 5 + draws.below(200), is_error, probability };
                calls.push(call);
                let has_own = draws.below(2) == 0;
                let random = if has_own { own } else { random_bits(&trace.to_be_bytes()) };
                if threshold.keeps(random) {
                    let own = if has_own { format!(";rv:{own:014x}") } else { String::new() };
                    rows.push(root(&call, Some(&format!("ot=th:{}{own}", threshold.text()))));
                }
            }
            store.send(&rows);
        }
        assert_eq!(store.keeper.unknown_weights(), 0);
        assert_unbiased(&format!("th:c, rate {rate}"), &store, &calls);
    }
}

#[test]
fn an_outage_in_which_all_fails_is_estimated_from_its_budget_and_its_sample() {
    for (rate, seed) in [(0.01, 21), (0.05, 22), (0.2, 23)] {
        let budget = 20;
        let mut store = Store::new(SamplingPolicy { rate, slow_ms: 1_000, kept_whole_per_second: budget });
        let (mut draws, mut calls) = (Draws(seed), Vec::new());
        for _ in 0..20 {
            let mut rows = Vec::new();
            for at in 0..500 {
                let probability = if at < budget { 1.0 } else { rate };
                let call =
                    Call { trace: draws.trace(), index: 0, millis: 5 + draws.below(900), is_error: true, probability };
                rows.push(root(&call, None));
                calls.push(call);
            }
            store.send(&rows);
            store.now += SECOND;
        }
        assert_unbiased(&format!("outage, rate {rate}"), &store, &calls);
        assert!(store.reasons().iter().any(|reason| reason == "budget"));
    }
}

#[test]
fn a_rate_that_changes_at_run_time_weighs_each_record_by_the_rate_that_it_was_drawn_with() {
    let mut store = Store::new(SamplingPolicy::with_rate(1.0));
    let (mut draws, mut calls) = (Draws(31), Vec::new());
    for round in 0..60 {
        let rate = [0.01, 0.2, 0.05][round % 3];
        store.keeper.set_policies(Policies::default().with("public", SamplingPolicy::with_rate(rate)));
        let fresh: Vec<Call> = (0..200)
            .map(|_| Call {
                trace: draws.trace(),
                index: 0,
                millis: 5 + draws.below(200),
                is_error: false,
                probability: rate,
            })
            .collect();
        store.send(&fresh.iter().map(|call| root(call, None)).collect::<Vec<_>>());
        calls.extend(fresh);
    }
    assert_unbiased("rates that change", &store, &calls);
}

#[test]
fn spans_whose_roots_never_come_are_estimated_too() {
    for (rate, seed) in [(0.01, 41), (0.05, 42), (0.2, 43)] {
        let mut store = Store::new(SamplingPolicy::with_rate(rate));
        let mut draws = Draws(seed);
        for _ in 0..20 {
            let rows: Vec<Value> =
                (0..500).map(|_| span(draws.trace(), 3, Some(2), json!({"profile": "public"}))).collect();
            store.send(&rows);
        }
        let outcome = store.keeper.expire(store.now + WAIT_NANOS).unwrap();
        store.absorb(outcome);
        let (truth, weight) = (10_000.0, store.weight());
        let allowed = CONFIDENCE * (truth * (1.0 / rate - 1.0_f64)).sqrt();
        assert!((weight - truth).abs() <= allowed, "rate {rate}: {weight}");
        assert_eq!(store.waiting, 0);
    }
}
