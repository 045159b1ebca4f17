//! What is kept, by whom it is decided, and that the weights of what is kept are right (I-4).

use arrow::array::Array as _;
use lariat_schema::tables::Table;
use serde_json::{Value, json};

use super::*;
use crate::columns::{doubles, text, texts};
use crate::fixtures::{SECOND, START, batch, decision, span};

mod statistics;

struct Store {
    keeper: Keeper,
    lsn: u64,
    now: i64,
    kept: Vec<RecordBatch>,
    sampled_out: i64,
    waiting: i64,
}

impl Store {
    fn new(policy: SamplingPolicy) -> Self {
        let mut keeper = Keeper::new(120 * SECOND);
        keeper.set_policies(Policies::default().with("public", policy));
        Self { keeper, lsn: 0, now: START, kept: Vec::new(), sampled_out: 0, waiting: 0 }
    }

    fn send(&mut self, rows: &[Value]) {
        self.lsn += 1;
        self.now += 1;
        let batch = batch(Table::Spans, rows);
        let arrival = Arrival {
            lsn: self.lsn,
            at: Moment { commit_unix_nanos: self.now, jumped_nanos: 0 },
            trusted: true,
            batch: &batch,
            wanted: true,
        };
        let outcome = self.keeper.take(arrival).unwrap();
        self.absorb(outcome);
    }

    fn absorb(&mut self, outcome: Outcome) {
        self.kept.extend(outcome.kept.into_iter().map(|(_, batch)| batch));
        for fate in outcome.fates {
            self.sampled_out += fate.sampled_out;
            self.waiting += fate.waiting;
        }
    }

    fn reasons(&self) -> Vec<String> {
        self.kept.iter().flat_map(|batch| texts(batch, "keep_reason").iter().flatten().map(str::to_owned)).collect()
    }

    fn weight(&self) -> f64 {
        self.kept.iter().map(|batch| doubles(batch, "adjusted_count").iter().flatten().sum::<f64>()).sum()
    }
}

/// Trace ids whose random bits are spread evenly and without a pattern.
fn trace(n: u128) -> u128 {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).wrapping_add(0x1234_5678_9abc_def1);
    x ^= x >> 67;
    x = x.wrapping_mul(0xda94_2042_e4dd_58b5_c0f6_e4b2_9d3c_7a11);
    x ^ (x >> 61)
}

const NOTHING: SamplingPolicy = SamplingPolicy { rate: 0.0, slow_ms: 1_000, kept_whole_per_second: 100 };

#[test]
fn what_must_be_kept_is_kept_whole_with_its_attempts() {
    let mut store = Store::new(NOTHING);
    for (n, (fields, reason)) in [
        (json!({"result": "error"}), "error"),
        (json!({"attempts": 2, "failovers": 1}), "failover"),
        (json!({"attempts": 2}), "hedge"),
        (json!({"duration_ns": 1_000_000_000_i64}), "slow"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = trace(u128::try_from(n).unwrap());
        store.send(&[span(id, 2, Some(1), json!({"span_kind": "client"})), decision(id, fields)]);
        let reasons = store.reasons();
        assert_eq!(&reasons[reasons.len() - 2..], [reason, reason]);
    }
    store.send(&[decision(trace(99), json!({"result": "application_error"}))]);
    assert_eq!((store.reasons().len(), store.sampled_out), (8, 1));
    assert!((store.weight() - 8.0).abs() < 1e-9);
}

#[test]
fn above_its_budget_an_outage_is_sampled_and_says_so() {
    let mut store = Store::new(SamplingPolicy { rate: 0.5, slow_ms: 1_000, kept_whole_per_second: 10 });
    let rows: Vec<Value> = (0..1_000).map(|n| decision(trace(n), json!({"result": "error"}))).collect();
    store.send(&rows);
    let reasons = store.reasons();
    assert_eq!(reasons.iter().filter(|reason| *reason == "error").count(), 10);
    assert!(reasons.iter().any(|reason| reason == "budget"));
    assert!((store.weight() - 1_000.0).abs() < 4.0 * 990_f64.sqrt(), "{}", store.weight());
    store.now += SECOND;
    store.send(&[decision(trace(5_000), json!({"result": "error"}))]);
    assert_eq!(store.reasons().last().map(String::as_str), Some("error"), "a new second has a new budget");
}

#[test]
fn children_before_and_after_their_root_follow_it() {
    let mut store = Store::new(NOTHING);
    store.send(&[span(1, 3, Some(2), json!({}))]);
    store.send(&[span(1, 2, Some(1), json!({}))]);
    assert_eq!((store.waiting, store.keeper.waiting_rows().unwrap().len()), (2, 2));
    store.send(&[decision(1, json!({"result": "error"}))]);
    assert_eq!((store.reasons(), store.waiting), (vec!["error".to_owned(); 3], 0));
    store.send(&[span(1, 4, Some(3), json!({}))]);
    assert_eq!(store.reasons().len(), 4);
    store.send(&[decision(2, json!({}))]);
    store.send(&[span(2, 2, Some(1), json!({}))]);
    assert_eq!((store.reasons().len(), store.sampled_out), (4, 2));
}

fn missing(store: &Store) -> Vec<Option<i32>> {
    store.kept.iter().flat_map(|batch| crate::columns::ints(batch, "missing_attempts").iter()).collect()
}

#[test]
fn a_kept_decision_says_how_many_of_its_attempts_are_missing() {
    let mut store = Store::new(SamplingPolicy::with_rate(1.0));
    let attempt = |trace, id| span(trace, id, Some(1), json!({"span_kind": "client", "ordinal": id - 1}));
    // Beside it and waiting for it, whole.
    store.send(&[attempt(1, 2)]);
    store.send(&[attempt(1, 3), decision(1, json!({"attempts": 2}))]);
    assert_eq!(missing(&store), [None, Some(0), None]);
    store.kept.clear();
    // Two of three; a span below it that is no attempt is none.
    let other = span(2, 9, Some(1), json!({}));
    store.send(&[decision(2, json!({"attempts": 3})), attempt(2, 2), other]);
    assert_eq!(missing(&store), [Some(2), None, None]);
    store.kept.clear();
    // Without any attempt, without saying how many, and no decision at all.
    store.send(&[
        decision(3, json!({"attempts": 0})),
        decision(4, json!({"attempts": null})),
        span(5, 1, None, json!({})),
    ]);
    assert_eq!(missing(&store), [Some(0), None, None]);
    assert_eq!(store.keeper.incomplete(), 1);
}

#[test]
fn a_child_whose_root_never_comes_is_decided_alone_after_thirty_seconds() {
    let mut store = Store::new(SamplingPolicy::with_rate(1.0));
    store.send(&[span(1, 3, Some(2), json!({"profile": "public"}))]);
    let early = store.keeper.expire(store.now + WAIT_NANOS - 1).unwrap();
    assert!(early.kept.is_empty());
    let outcome = store.keeper.expire(store.now + WAIT_NANOS).unwrap();
    store.absorb(outcome);
    assert_eq!((store.reasons(), store.waiting), (vec!["orphan".to_owned()], 0));
}

#[test]
fn a_trusted_threshold_is_honoured_and_written_back() {
    let mut store = Store::new(SamplingPolicy::with_rate(1.0));
    store.send(&[decision(7, json!({"trace_state": "ot=th:c;rv:d0000000000000"}))]);
    assert_eq!(store.reasons(), ["upstream"]);
    assert!((store.weight() - 4.0).abs() < 1e-9);
    let state = text(texts(&store.kept[0], "trace_state"), 0).map(str::to_owned);
    assert_eq!(state.as_deref(), Some("ot=th:c;rv:d0000000000000"));
}

#[test]
fn a_threshold_that_contradicts_its_record_makes_the_weight_unknown_and_never_one() {
    for state in ["ot=th:c;rv:10000000000000", "ot=th:xyz", "ot=th:;rv:ffffffffffffff"] {
        let mut store = Store::new(SamplingPolicy::with_rate(1.0));
        store.send(&[decision(7, json!({"trace_state": state})), span(7, 2, Some(1), json!({}))]);
        assert_eq!(store.reasons(), ["upstream", "upstream"], "{state}");
        let unknown: usize = store.kept.iter().map(|batch| doubles(batch, "adjusted_count").null_count()).sum();
        assert_eq!((unknown, store.keeper.unknown_weights()), (2, 1), "{state}");
    }
}

#[test]
fn an_orphan_honours_its_senders_threshold_and_its_errors_have_a_budget() {
    let mut store = Store::new(SamplingPolicy { rate: 0.0, slow_ms: 1_000, kept_whole_per_second: 3 });
    let rows: Vec<Value> = (0..10)
        .map(|n| {
            let state = "ot=th:8;rv:90000000000000";
            span(n, 3, Some(2), json!({"profile": "public", "status": "error", "trace_state": state}))
        })
        .collect();
    store.send(&rows);
    let outcome = store.keeper.expire(store.now + WAIT_NANOS).unwrap();
    store.absorb(outcome);
    assert_eq!((store.reasons(), store.sampled_out), (vec!["orphan".to_owned(); 3], 7));
    assert!((store.weight() - 6.0).abs() < 1e-9, "each stands for two");
}

#[test]
fn a_child_that_comes_after_the_verdict_is_forgotten_is_decided_alone() {
    let mut store = Store::new(NOTHING);
    store.send(&[decision(1, json!({"result": "error"}))]);
    store.now += 121 * SECOND;
    store.send(&[span(1, 2, Some(1), json!({"profile": "public"}))]);
    assert_eq!((store.reasons().len(), store.waiting), (1, 1));
    let outcome = store.keeper.expire(store.now + WAIT_NANOS).unwrap();
    store.absorb(outcome);
    assert_eq!((store.reasons().len(), store.sampled_out, store.waiting), (1, 1, 0));
}

#[test]
fn children_that_are_slow_or_fail_do_not_change_the_verdict_of_their_root() {
    let mut store = Store::new(NOTHING);
    store.send(&[decision(1, json!({}))]);
    store.send(&[span(1, 2, Some(1), json!({"status": "error", "duration_ns": 9 * SECOND}))]);
    assert_eq!((store.reasons().len(), store.sampled_out), (0, 2));
}

#[test]
fn calls_of_one_batch_share_a_trace_and_each_decides_for_its_own_attempts() {
    let mut store = Store::new(NOTHING);
    store.send(&[
        decision(1, json!({"batch_index": 0})),
        decision(1, json!({"batch_index": 1, "span_id": "000000000000000a", "result": "error"})),
        span(1, 11, Some(10), json!({"span_kind": "client"})),
        span(1, 12, Some(1), json!({"span_kind": "client"})),
    ]);
    assert_eq!((store.reasons(), store.sampled_out), (vec!["error".to_owned(); 2], 2));
}

#[test]
fn a_flood_of_drawn_units_takes_no_verdict_of_what_was_kept_whole_and_its_own_late_spans_are_drawn_alike() {
    let mut store = Store::new(SamplingPolicy { rate: 0.5, slow_ms: 1_000, kept_whole_per_second: 100 });
    let failed = trace(1);
    store.send(&[decision(failed, json!({"result": "error"}))]);
    let early: Vec<u128> = (2..42).map(trace).collect();
    let fates: Vec<bool> = early
        .iter()
        .map(|id| {
            let before = store.reasons().len();
            store.send(&[decision(*id, json!({}))]);
            store.reasons().len() > before
        })
        .collect();
    assert!(fates.contains(&true) && fates.contains(&false));
    store.kept.clear();
    // More than are remembered; the keeper sees one span each.
    for flood in 0..MAX_DRAWN_VERDICTS / 1_000 + 2 {
        let rows: Vec<Value> = (0..1_000)
            .map(|n| decision(trace(u128::try_from(1_000 + flood * 1_000 + n).unwrap()), json!({})))
            .collect();
        store.send(&rows);
        store.kept.clear();
    }
    let (whole, drawn) = store.keeper.forgotten_early();
    assert!(whole == 0 && drawn > 40, "{whole} and {drawn}");
    store.send(&[span(failed, 2, Some(1), json!({"profile": "public"}))]);
    assert_eq!(store.reasons(), ["error"]);
    store.kept.clear();
    let late: Vec<Value> = early.iter().map(|id| span(*id, 2, Some(1), json!({"profile": "public"}))).collect();
    store.send(&late);
    let outcome = store.keeper.expire(store.now + WAIT_NANOS).unwrap();
    store.absorb(outcome);
    assert_eq!(store.reasons().len(), fates.iter().filter(|kept| **kept).count());
    assert!((store.weight() - 2.0 * store.reasons().len() as f64).abs() < 1e-6);
}
