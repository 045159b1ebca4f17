//! Whatever collapses, totals are exact, accounts and profiles stay apart, and a named cell holds nobody else's calls.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One decision: account, profile, chain, method, provider, probability of the provider in quarters.
type Call = (Option<u8>, u8, u8, u8, u8, u8);

fn call() -> impl Strategy<Value = Call> {
    (proptest::option::of(0_u8..4), 0_u8..3, 0_u8..12, 0_u8..30, 0_u8..6, 0_u8..5)
}

fn row(nth: usize, (account, profile, chain, method, provider, quarters): Call) -> serde_json::Value {
    let mut fields = json!({
        "profile": format!("f{profile}"), "chain": format!("c{chain}"), "method": format!("m{method}"),
        "provider_id": format!("p{provider}"), "bytes_in": 3, "duration_ns": 1_000_000,
        "eligible": [{"selection": 1, "rank": 1, "provider_id": format!("p{provider}"), "transport": "http",
            "probability": f64::from(quarters) / 4.0}],
        "excluded": [{"selection": 1, "provider_id": "px", "transport": "ws", "reason": "lagging"}]});
    if let Some(account) = account {
        fields["account_id"] = json!(format!("a{account}"));
    }
    decision(nth as u128 + 1, fields)
}

type Key = (Option<String>, Option<String>);

/// Calls of a family by account and profile.
fn by_owner(rows: &RecordBatch, of: &str) -> BTreeMap<Key, i64> {
    let owned = |name, row| text(texts(rows, name), row).map(str::to_owned);
    let mut found = BTreeMap::new();
    for row in family(rows, of) {
        let calls = longs(rows, "calls").value(row);
        if calls > 0 {
            *found.entry((owned("account_id", row), owned("profile", row))).or_insert(0) += calls;
        }
    }
    found
}

fn expected(calls: &[Call], with_account: bool) -> BTreeMap<Key, i64> {
    let mut found = BTreeMap::new();
    for (account, profile, ..) in calls {
        let account = account.filter(|_| with_account).map(|account| format!("a{account}"));
        *found.entry((account, Some(format!("f{profile}")))).or_insert(0) += 1;
    }
    found
}

proptest! {
    #[test]
    fn totals_are_exact_and_nothing_mixes(calls in prop::collection::vec(call(), 1..150), max_cells in 1_usize..60) {
        let mut rollup = Rollup { max_cells, ..Rollup::default() };
        let spans: Vec<_> = calls.iter().enumerate().map(|(nth, call)| row(nth, *call)).collect();
        rollup.fold(&batch(Table::Spans, &spans), 0);
        // Profiles and accounts are never collapsed, so their number adds to the bound.
        prop_assert!(rollup.len() <= 2 * max_cells + 3 * 5 * 4, "{} cells", rollup.len());
        let rows = rollup.rows().unwrap().unwrap();
        prop_assert_eq!(by_owner(&rows, "usage"), expected(&calls, true));
        prop_assert_eq!(by_owner(&rows, "ops"), expected(&calls, false));
        for of in ["ops", "usage"] {
            let bytes: i64 = family(&rows, of).iter().map(|row| longs(&rows, "bytes_in").value(*row)).sum();
            prop_assert_eq!(bytes, 3 * calls.len() as i64);
            let sketched: i64 = family(&rows, of).iter().map(|row| {
                let counts = column::<ListArray>(&rows, "sketch_counts").value(*row);
                let counts: &arrow::array::Int64Array = arrow::array::AsArray::as_primitive(&counts);
                counts.values().iter().sum::<i64>()
            }).sum();
            prop_assert_eq!(sketched, calls.len() as i64);
        }
        let intended: f64 = (0..rows.num_rows()).map(|row| doubles(&rows, "probability_sum").value(row)).sum();
        let wanted: f64 = calls.iter().map(|call| f64::from(call.5) / 4.0).sum();
        prop_assert!((intended - wanted).abs() < 1e-9);
        let mut excluded = 0;
        for row in 0..rows.num_rows() {
            let list = column::<ListArray>(&rows, "excluded").value(row);
            let list = arrow::array::AsArray::as_struct(&list);
            let counts: &arrow::array::Int64Array = arrow::array::AsArray::as_primitive(list.column(1));
            excluded += counts.values().iter().sum::<i64>();
        }
        prop_assert_eq!(excluded, calls.len() as i64);
        // A cell that names its chain and method never holds the calls of others.
        for row in family(&rows, "ops") {
            let of = |name| text(texts(&rows, name), row);
            if of("method") == Some(OVERFLOW) || of("chain") == Some(OVERFLOW) {
                continue;
            }
            let exact = calls.iter().filter(|(_, profile, chain, method, ..)| {
                of("profile") == Some(format!("f{profile}").as_str())
                    && of("chain") == Some(format!("c{chain}").as_str())
                    && of("method") == Some(format!("m{method}").as_str())
            }).count();
            prop_assert!(longs(&rows, "calls").value(row) <= exact as i64);
        }
    }
}
