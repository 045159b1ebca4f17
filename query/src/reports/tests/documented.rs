//! The SQL that the documentation prints beside each report gives the report's numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use lariat_collector::worker::sketches::ERROR_BOUND;
use serde_json::Map;

use super::*;
use crate::api::sql::as_json;
use crate::ask::{Ask, Question};

/// The window of the examples.
const WINDOW: &str = "from=1763726400&to=1763727300";
const TRACE: &str = "0192f0c48a5b7c3d9e1f0123456789ab";

/// The examples of a report, in their order.
fn examples(report: &str) -> Vec<&'static str> {
    let text = include_str!("../../../../docs/reports.md");
    let (_, section) = text.split_once(&format!("### `{report}`\n")).unwrap();
    let section = section.split("\n### ").next().unwrap();
    section.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

fn calls() -> Vec<Value> {
    let at = |after_s: i64| rfc3339(NOON + after_s * NANOS_PER_SECOND);
    let mut cells = vec![
        cell(json!({}), 40, 10_000_000),
        cell(json!({ "time": at(70), "provider_id": "b", "region": "eu-west" }), 9, 35_000_000),
        cell(json!({ "time": at(75), "result": "error", "error_category": "timeout" }), 3, 900_000_000),
        cell(json!({ "provider_id": "b", "result": "error", "error_category": "rate_limit" }), 2, 1_000_000),
        cell(json!({ "provider_id": null, "result": "application_error", "error_category": "revert" }), 5, 1_000_000),
        cell(json!({ "time": at(900) }), 1_000, 10_000_000),
        cell(json!({ "time": at(-10) }), 1_000, 10_000_000),
    ];
    for (provider, probability, first_attempts, reason) in [("a", 30.0, 31, "lagging"), ("b", 10.0, 9, "circuit_open")]
    {
        let mut row = cell(json!({ "provider_id": provider, "result": null }), 0, 1_000_000);
        row["first_probability_sum"] = json!(probability);
        row["first_attempts"] = json!(first_attempts);
        row["eligible_count"] = json!(40);
        row["excluded"] = json!([{ "reason": reason, "count": 2 }]);
        cells.push(row);
    }
    for (account, units) in [("x", 1.5), ("y", 9.0), ("x", 1.0)] {
        let class = json!({ "family": "usage", "account_id": account, "method_class": "state", "provider_id": null });
        let mut row = cell(class, 2, 1_000);
        (row["billable_units"], row["bytes_in"], row["bytes_out"]) = (json!(units), json!(10), json!(100));
        cells.push(row);
    }
    cells
}

async fn fleet() -> Arc<dyn Ask> {
    let logs = [
        transition("n1", "us-east", 1, "closed", "open"),
        transition("n2", "eu-west", 2, "closed", "open"),
        transition("n1", "us-east", 600, "open", "half_open"),
        head("n1", "us-east", 1, 100, 0),
        head("n1", "us-east", 30, 103, 0),
        head("n2", "eu-west", 2, 97, -3),
    ];
    let span = json!({
        "time": rfc3339(NOON), "trace_id": TRACE, "span_id": "0102030405060708", "name": "eth_call",
        "span_kind": "server", "status": "unset", "keep_reason": "rate",
    });
    let tables = [(Table::Rollups, calls()), (Table::Logs, logs.to_vec()), (Table::Spans, vec![span])];
    engine(tables.into_iter().map(|(table, rows)| batch(table, &rows)).collect()).await
}

async fn asked(fleet: &Arc<dyn Ask>, sql: &str) -> Vec<Value> {
    let answer = fleet.ask(Question::new(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let body: Value = serde_json::from_slice(&as_json(&answer).unwrap()).unwrap();
    body["rows"].as_array().unwrap().clone()
}

/// The rows of a report over all regions, or of each.
async fn reported(fleet: &Arc<dyn Ask>, path: &str, of_regions: Option<bool>) -> Vec<Value> {
    let (status, body) = get(router(Arc::clone(fleet)), &format!("/api/v1/{path}")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let rows = body["rows"].as_array().unwrap().iter();
    rows.filter(|row| of_regions.is_none_or(|of_regions| of_regions != row["region"].is_null())).cloned().collect()
}

/// Some columns of each row, by others.
fn by(rows: &[Value], keys: &[&str], values: &[&str]) -> BTreeMap<String, Vec<String>> {
    let texts = |row: &Value, names: &[&str]| -> Vec<String> {
        // A whole number is one whatever its type.
        let text = |value: &Value| value.as_f64().map_or_else(|| value.to_string(), |number| format!("{number:.9}"));
        names.iter().map(|name| text(row.get(*name).unwrap_or_else(|| panic!("no {name} in {row}")))).collect()
    };
    rows.iter().map(|row| (texts(row, keys).join(" "), texts(row, values))).collect()
}

#[tokio::test]
async fn the_sql_beside_a_report_about_calls_gives_its_numbers() {
    let fleet = fleet().await;
    let traffic = asked(&fleet, examples("traffic")[0]).await;
    let report = reported(&fleet, &format!("traffic?step=60s&{WINDOW}"), Some(true)).await;
    assert_eq!(
        by(&traffic, &["step", "region"], &["calls", "errors"]),
        by(&report, &["time", "region"], &["calls", "errors"])
    );
    let [percentiles, buckets, means] = examples("latency")[..] else { panic!("three examples") };
    let report = reported(&fleet, &format!("latency?{WINDOW}"), Some(false)).await;
    let columns = ["calls", "mean_ms"];
    assert_eq!(
        by(&asked(&fleet, percentiles).await, &["provider_id"], &["p95_ms"]),
        by(&report, &["provider_id"], &["p95_ms"])
    );
    assert_eq!(by(&asked(&fleet, means).await, &["provider_id"], &columns), by(&report, &["provider_id"], &columns));
    for row in &report {
        let buckets = asked(&fleet, buckets).await;
        let of_key: Vec<_> = buckets.iter().filter(|bucket| bucket["provider_id"] == row["provider_id"]).collect();
        let count = |bucket: &Value| bucket["n"].as_i64().unwrap();
        let rank = (of_key.iter().map(|bucket| count(bucket)).sum::<i64>() + 1) / 2;
        let mut sum = 0;
        let reached = of_key.into_iter().find(|bucket| {
            sum += count(bucket);
            sum >= rank
        });
        let index = reached.unwrap()["bucket"].as_f64().unwrap();
        let (expected, found) = (((index + 0.5) / 64.0).exp2() / 1e6, row["p50_ms"].as_f64().unwrap());
        assert!((found / expected - 1.0).abs() <= ERROR_BOUND, "{row}: {expected}");
    }
    let keys = ["provider_id", "error_category", "result"];
    assert_eq!(
        by(&asked(&fleet, examples("errors")[0]).await, &keys, &["count"]),
        by(&reported(&fleet, &format!("errors?{WINDOW}"), Some(false)).await, &keys, &["count"])
    );
    let (keys, columns) = (["profile", "chain", "provider_id", "transport"], ["calls", "errors", "mean_ms"]);
    assert_eq!(
        by(&asked(&fleet, examples("providers")[0]).await, &keys, &columns),
        by(&reported(&fleet, &format!("providers?{WINDOW}"), Some(false)).await, &keys, &columns)
    );
    let keys = ["account_id", "profile", "chain", "method_class", "result"];
    let columns = ["calls", "bytes_in", "bytes_out", "billable_units"];
    assert_eq!(
        by(&asked(&fleet, examples("usage")[0]).await, &keys, &columns),
        by(&reported(&fleet, &format!("usage?{WINDOW}"), None).await, &keys, &columns)
    );
}

#[tokio::test]
async fn the_sql_beside_the_report_routing_gives_its_numbers() {
    let fleet = fleet().await;
    let [sums, exclusions] = examples("routing")[..] else { panic!("two examples") };
    let report = reported(&fleet, &format!("routing?{WINDOW}"), Some(false)).await;
    let keys = ["profile", "chain", "strategy", "provider_id", "transport"];
    let sums = asked(&fleet, sums).await;
    assert_eq!(by(&sums, &keys, &["first_attempts", "calls"]), by(&report, &keys, &["first_attempts", "calls"]));
    let all: f64 = sums.iter().map(|row| row["probability"].as_f64().unwrap()).sum();
    for row in &sums {
        let intended = row["probability"].as_f64().unwrap() / all;
        let shown = report.iter().find(|shown| shown["provider_id"] == row["provider_id"]).unwrap();
        assert!((shown["intended_share"].as_f64().unwrap() - intended).abs() < 1e-9, "{shown}");
    }
    let shown = |row: &Value| report.iter().find(|shown| shown["provider_id"] == row["provider_id"]).unwrap();
    for row in asked(&fleet, exclusions).await {
        let shown = shown(&row);
        assert_eq!(shown["excluded"][row["reason"].as_str().unwrap()], row["count"], "{shown}");
    }
    for row in &sums {
        let listed = row["excluded"].as_array().unwrap().iter();
        let listed: Map<String, Value> =
            listed.map(|one| (one["reason"].as_str().unwrap().to_owned(), one["count"].clone())).collect();
        assert_eq!(shown(row)["excluded"], Value::Object(listed), "{row}");
    }
}

#[tokio::test]
async fn the_sql_beside_a_report_about_events_or_one_trace_gives_its_rows() {
    let fleet = fleet().await;
    let circuits = asked(&fleet, examples("circuits")[0]).await;
    assert_eq!(circuits.len(), 3);
    assert_eq!(circuits, reported(&fleet, &format!("circuits?{WINDOW}"), None).await);
    let (keys, columns) = (["node_id", "profile", "chain", "provider_id", "transport"], ["time", "height"]);
    let blocks = asked(&fleet, examples("blocks")[0]).await;
    assert_eq!(
        by(&blocks, &keys, &columns),
        by(&reported(&fleet, &format!("blocks?{WINDOW}"), None).await, &keys, &columns)
    );
    let trace = asked(&fleet, examples("trace")[0]).await;
    let shown = reported(&fleet, &format!("trace/{TRACE}"), None).await;
    assert_eq!((trace.len(), &trace), (1, &shown));
}
