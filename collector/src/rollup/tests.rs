//! Figures counted by hand.

use lariat_schema::tables::Table;
use serde_json::json;

use arrow::array::ListArray;

use super::*;
use crate::columns::{column, doubles, longs, moments, text, texts};
use crate::fixtures::{SECOND, START, batch, decision, span};

mod collapse;

fn family(rows: &RecordBatch, family: &str) -> Vec<usize> {
    (0..rows.num_rows()).filter(|row| texts(rows, "family").value(*row) == family).collect()
}

#[test]
fn a_decision_counts_at_its_end_in_both_families_and_only_usage_names_the_account() {
    let mut rollup = Rollup::default();
    let late = json!({"account_id": "a", "duration_ns": 11 * SECOND, "attempts": 2, "failovers": 1, "bytes_in": 10,
        "billable_units": 1.5});
    rollup.fold(&batch(Table::Spans, &[decision(1, late), span(1, 2, Some(1), json!({"span_kind": "client"}))]), 5);
    let rows = rollup.rows().unwrap().unwrap();
    assert_eq!(rows.num_rows(), 2);
    let (ops, usage) = (family(&rows, "ops")[0], family(&rows, "usage")[0]);
    for row in [ops, usage] {
        assert_eq!(moments(&rows, "time").value(row), START + 10 * SECOND);
        assert_eq!(moments(&rows, "observed_time").value(row), 5);
        for (name, value) in
            [("calls", 1), ("attempts", 2), ("failovers", 1), ("duration_sum_ns", 11 * SECOND), ("bytes_in", 10)]
        {
            assert_eq!(longs(&rows, name).value(row), value, "{name}");
        }
        assert!((doubles(&rows, "billable_units").value(row) - 1.5).abs() < 1e-12);
    }
    assert_eq!(text(texts(&rows, "account_id"), ops), None);
    assert_eq!(text(texts(&rows, "account_id"), usage), Some("a"));
    assert_eq!(text(texts(&rows, "provider_id"), usage), None);
    assert_eq!(text(texts(&rows, "method_class"), usage), Some("core"));
}

#[test]
fn candidates_count_on_their_own_cells_without_calls() {
    let mut rollup = Rollup::default();
    let fields = json!({
        "eligible": [
            {"selection": 1, "rank": 1, "provider_id": "p1", "transport": "http", "probability": 0.75},
            {"selection": 1, "rank": 2, "provider_id": "p2", "transport": "http", "probability": 0.25}],
        "excluded": [{"selection": 1, "provider_id": "p3", "transport": "ws", "reason": "circuit_open"}]});
    rollup.fold(&batch(Table::Spans, &[decision(1, fields.clone()), decision(2, fields)]), 0);
    let rows = rollup.rows().unwrap().unwrap();
    let of = |provider: &str| -> Vec<usize> {
        (0..rows.num_rows()).filter(|row| text(texts(&rows, "provider_id"), *row) == Some(provider)).collect()
    };
    let sum =
        |provider: &str, column: &str| of(provider).iter().map(|row| longs(&rows, column).value(*row)).sum::<i64>();
    assert_eq!((sum("p1", "calls"), sum("p1", "eligible_count")), (2, 2));
    assert_eq!((sum("p2", "calls"), sum("p2", "eligible_count")), (0, 2));
    let intended: f64 = of("p2").iter().map(|row| doubles(&rows, "probability_sum").value(*row)).sum();
    assert!((intended - 0.5).abs() < 1e-12);
    let excluded: &ListArray = column(&rows, "excluded");
    let lists: i32 = of("p3").iter().map(|row| excluded.value_length(*row)).sum();
    assert_eq!((sum("p3", "calls"), lists), (0, 1));
}

#[test]
fn first_selections_and_first_attempts_are_counted_apart_from_what_followed() {
    let mut rollup = Rollup::default();
    let fields = json!({"attempts": 2, "failovers": 1, "provider_id": "p2", "eligible": [
        {"selection": 1, "rank": 1, "provider_id": "p1", "transport": "http", "probability": 0.75},
        {"selection": 1, "rank": 2, "provider_id": "p2", "transport": "http", "probability": 0.25},
        {"selection": 2, "rank": 1, "provider_id": "p2", "transport": "http", "probability": 1.0}]});
    let attempt = |span_id: u64, provider: &str, kind: &str, ordinal: i32| {
        let fields = json!({"span_kind": "client", "kind": kind, "ordinal": ordinal, "provider_id": provider,
            "transport": "http", "strategy": "fastest", "profile": "public", "chain": "ethereum"});
        span(1, span_id, Some(1), fields)
    };
    let rows = [
        decision(1, fields),
        attempt(2, "p1", "primary", 1),
        attempt(3, "p2", "failover", 2),
        attempt(4, "p1", "probe", 1),
    ];
    rollup.fold(&batch(Table::Spans, &rows), 0);
    let rows = rollup.rows().unwrap().unwrap();
    let of = |provider: &str| {
        let found = (0..rows.num_rows()).filter(|row| text(texts(&rows, "provider_id"), *row) == Some(provider));
        found.fold((0.0, 0.0, 0), |(all, first, attempts), row| {
            let (sums, firsts) = (doubles(&rows, "probability_sum"), doubles(&rows, "first_probability_sum"));
            (all + sums.value(row), first + firsts.value(row), attempts + longs(&rows, "first_attempts").value(row))
        })
    };
    assert_eq!((of("p1"), of("p2")), ((0.75, 0.75, 1), (1.25, 0.25, 0)));
}

#[test]
fn past_the_bound_methods_then_chains_are_counted_together_and_accounts_never() {
    let mut rollup = Rollup { max_cells: 10, ..Rollup::default() };
    let rows: Vec<_> = (0..200)
        .map(|n| {
            decision(
                n,
                json!({"method": format!("m{n}"), "chain": format!("c{n}"), "account_id": format!("a{}", n % 3)}),
            )
        })
        .collect();
    rollup.fold(&batch(Table::Spans, &rows), 0);
    assert!(rollup.len() < 40, "{} cells", rollup.len());
    let rows = rollup.rows().unwrap().unwrap();
    let calls: i64 = family(&rows, "ops").iter().map(|row| longs(&rows, "calls").value(*row)).sum();
    assert_eq!(calls, 200);
    let of_first: i64 = family(&rows, "usage")
        .iter()
        .filter(|row| text(texts(&rows, "account_id"), **row) == Some("a0"))
        .map(|row| longs(&rows, "calls").value(*row))
        .sum();
    assert_eq!(of_first, 67);
}
