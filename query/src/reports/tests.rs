//! Reports over rows in memory, against figures counted by hand.

mod documented;
mod parts;
mod travel;

use axum::http::StatusCode;
use lariat_schema::tables::Table;
use lariat_schema::time_range::NANOS_PER_SECOND;
use serde_json::{Value, json};

use super::fixture::{NOON, batch, cell, engine, get};
use super::parameters::rfc3339;
use super::{SERVED, router};

/// Ten minutes around noon.
const WINDOW: &str = "from=1763726100&to=1763726700";

async fn rows_of(tables: Vec<(Table, Vec<arrow::array::RecordBatch>)>, path: &str) -> Vec<Value> {
    let (status, body) = get(router(engine(tables).await), &format!("/api/v1/{path}")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let columns: Vec<&Value> = body["columns"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    let rows = body["rows"].as_array().unwrap().clone();
    for row in &rows {
        let names: Vec<Value> = row.as_object().unwrap().keys().map(|name| json!(name)).collect();
        assert_eq!(names.iter().collect::<Vec<_>>(), columns, "a row of {path} has other columns than it says");
    }
    assert_eq!(body["stats"]["rows"], json!(rows.len()));
    assert!(body["coverage"]["ratio"].is_number() && body["sampling"]["weighted"] == json!(false));
    rows
}

fn close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!(
        (found / expected - 1.0).abs() <= lariat_collector::worker::sketches::ERROR_BOUND,
        "{found} is not {expected}"
    );
}

/// The worked example: 1,000 calls of 100 ms on node A, 100 of 200 ms on node B.
fn two_nodes() -> (Table, Vec<arrow::array::RecordBatch>) {
    batch(
        Table::Rollups,
        &[
            cell(json!({ "node_id": "a", "region": "us-east" }), 600, 100_000_000),
            cell(json!({ "node_id": "a", "region": "us-east" }), 400, 100_000_000),
            cell(json!({ "node_id": "b", "region": "eu-west", "result": "error" }), 100, 200_000_000),
        ],
    )
}

#[tokio::test]
async fn percentiles_of_two_nodes_come_from_their_union_and_means_from_sums() {
    let rows = rows_of(vec![two_nodes()], &format!("latency?{WINDOW}")).await;
    let all = &rows[0];
    assert_eq!((&all["provider_id"], &all["region"], &all["calls"]), (&json!("a"), &Value::Null, &json!(1_100)));
    assert!((all["mean_ms"].as_f64().unwrap() - 109.090_909).abs() < 1e-5);
    close(&all["p50_ms"], 100.0);
    close(&all["p95_ms"], 200.0);
    assert_eq!(
        rows.iter().map(|row| row["region"].clone()).collect::<Vec<_>>(),
        [Value::Null, json!("eu-west"), json!("us-east")]
    );
}

#[tokio::test]
async fn latency_by_region_has_no_key_besides_the_region() {
    let rows = rows_of(vec![two_nodes()], &format!("latency?by=region&{WINDOW}")).await;
    assert_eq!(rows[1]["region"], "eu-west");
    close(&rows[1]["p50_ms"], 200.0);
}

#[tokio::test]
async fn traffic_counts_calls_by_step_and_region_and_invents_no_empty_step() {
    let later = rfc3339(NOON + 120 * NANOS_PER_SECOND);
    let cells = batch(
        Table::Rollups,
        &[
            cell(json!({}), 30, 50_000_000),
            cell(json!({ "result": "error", "error_category": "timeout", "region": "eu-west" }), 10, 50_000_000),
            cell(json!({ "result": "application_error" }), 20, 50_000_000),
            cell(json!({ "time": later }), 6, 50_000_000),
        ],
    );
    let rows = rows_of(vec![cells], &format!("traffic?{WINDOW}&step=1m")).await;
    let shown: Vec<_> = rows.iter().map(|row| (row["time"].as_str().unwrap(), row["region"].clone())).collect();
    let (first, third) = (rfc3339(NOON), later.as_str());
    assert_eq!(
        shown,
        [
            (first.as_str(), Value::Null),
            (first.as_str(), json!("eu-west")),
            (first.as_str(), json!("us-east")),
            (third, Value::Null),
            (third, json!("us-east")),
        ]
    );
    let all = &rows[0];
    assert_eq!((&all["calls"], &all["success"], &all["errors"]), (&json!(60), &json!(30), &json!(10)));
    assert_eq!(all["application_errors"], json!(20));
    assert_eq!(all["calls_per_second"], json!(1.0));
    assert!((all["success_rate"].as_f64().unwrap() - 50.0 / 60.0).abs() < 1e-12, "a revert is no failure: {all}");
}

#[tokio::test]
async fn cells_outside_the_window_or_the_filters_are_not_counted() {
    let cells = batch(
        Table::Rollups,
        &[
            cell(json!({ "chain": "base" }), 7, 50_000_000),
            cell(json!({}), 5, 50_000_000),
            cell(json!({ "time": rfc3339(NOON - 3_600 * NANOS_PER_SECOND) }), 3, 50_000_000),
            cell(json!({ "family": "usage" }), 100, 50_000_000),
        ],
    );
    let rows = rows_of(vec![cells], &format!("latency?by=chain&chain=base&{WINDOW}")).await;
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["chain"], &rows[0]["calls"]), (&json!("base"), &json!(7)));
}

#[tokio::test]
async fn errors_are_counted_by_provider_and_category_with_their_share() {
    let failed = |provider: &str, category: &str| json!({ "result": "error", "provider_id": provider, "error_category": category });
    let cells = batch(
        Table::Rollups,
        &[
            cell(failed("a", "timeout"), 3, 1_000_000),
            cell(failed("b", "rate_limit"), 1, 1_000_000),
            cell(json!({}), 1_000, 1_000_000),
        ],
    );
    let rows = rows_of(vec![cells], &format!("errors?{WINDOW}")).await;
    assert_eq!(
        rows[0],
        json!({
            "region": null, "provider_id": "a", "error_category": "timeout", "result": "error", "count": 3, "share": 0.75
        })
    );
    assert_eq!(rows.len(), 4, "each of two over all regions and in its own");
}

#[tokio::test]
async fn routing_shows_intended_and_actual_shares_and_why_channels_were_passed_over() {
    let candidate = |provider: &str, eligible: i64, probability: f64, first_attempts: i64, excluded: Value| {
        let mut row = cell(json!({ "provider_id": provider, "result": null }), 0, 1_000_000);
        row["first_probability_sum"] = json!(probability);
        row["first_attempts"] = json!(first_attempts);
        row["eligible_count"] = json!(eligible);
        row["probability_sum"] = json!(probability + 1.0);
        row["excluded"] = excluded;
        row
    };
    let cells = batch(
        Table::Rollups,
        &[
            candidate(
                "a",
                10,
                7.5,
                8,
                json!([{ "reason": "circuit_open", "count": 2 }, { "reason": "lagging", "count": 1 }]),
            ),
            candidate("a", 0, 0.0, 0, json!([{ "reason": "circuit_open", "count": 3 }])),
            candidate("b", 10, 2.5, 2, json!(null)),
            cell(json!({ "provider_id": "a" }), 6, 1_000_000),
            cell(json!({ "provider_id": "b" }), 4, 1_000_000),
        ],
    );
    let rows = rows_of(vec![cells], &format!("routing?{WINDOW}")).await;
    assert_eq!(
        rows[0],
        json!({
            "profile": "public", "chain": "ethereum", "strategy": "fastest", "provider_id": "a", "transport": "http",
            "region": null, "selections": 16, "intended_share": 0.75, "actual_share": 0.8, "first_attempts": 8,
            "answered_share": 0.6, "calls": 6,
            "excluded": { "circuit_open": 5, "lagging": 1 },
        })
    );
    assert_eq!((&rows[2]["provider_id"], &rows[2]["intended_share"]), (&json!("b"), &json!(0.25)));
}

fn transition(node: &str, region: &str, after_s: i64, from: &str, to: &str) -> Value {
    json!({
        "time": rfc3339(NOON + after_s * NANOS_PER_SECOND), "event_name": "lariat.circuit.transition", "node_id": node,
        "region": region, "profile": "public", "chain": "ethereum", "provider_id": "a", "transport": "http",
        "keep_reason": "transition",
        "attributes": { "lariat.circuit.from": from, "lariat.circuit.to": to, "lariat.circuit.reason": "failures" },
    })
}

fn head(node: &str, region: &str, after_s: i64, height: i64, lag: i64) -> Value {
    json!({
        "time": rfc3339(NOON + after_s * NANOS_PER_SECOND), "event_name": "lariat.block.head", "node_id": node,
        "region": region, "profile": "public", "chain": "ethereum", "provider_id": "a", "transport": "http",
        "keep_reason": "always",
        "attributes": { "lariat.block.height": height.to_string(), "lariat.block.lag": lag.to_string() },
    })
}

#[tokio::test]
async fn circuits_are_listed_newest_first() {
    let logs = batch(
        Table::Logs,
        &[transition("n1", "us-east", 0, "closed", "open"), transition("n1", "us-east", 60, "open", "half_open")],
    );
    let rows = rows_of(vec![logs], &format!("circuits?{WINDOW}&limit=1")).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["from"], &rows[0]["to"], &rows[0]["reason"]),
        (&json!("open"), &json!("half_open"), &json!("failures"))
    );
    assert_eq!(rows[0]["time"], rfc3339(NOON + 60 * NANOS_PER_SECOND));
}

#[tokio::test]
async fn blocks_show_the_latest_height_of_each_node() {
    let logs = batch(
        Table::Logs,
        &[head("n1", "us-east", 0, 99, -1), head("n1", "us-east", 12, 100, 0), head("n2", "eu-west", 6, 98, -2)],
    );
    let rows = rows_of(vec![logs], &format!("blocks?{WINDOW}")).await;
    let shown: Vec<_> =
        rows.iter().map(|row| (row["node_id"].clone(), row["height"].clone(), row["lag"].clone())).collect();
    assert_eq!(shown, [(json!("n1"), json!(100), json!(0)), (json!("n2"), json!(98), json!(-2))]);
}

#[tokio::test]
async fn providers_unite_calls_heights_and_circuits_without_a_join() {
    let logs = batch(
        Table::Logs,
        &[
            transition("n1", "us-east", 0, "closed", "open"),
            transition("n2", "eu-west", 0, "closed", "open"),
            transition("n2", "eu-west", 30, "open", "closed"),
            head("n1", "us-east", 0, 100, 0),
            head("n2", "eu-west", 0, 97, -3),
        ],
    );
    let mut cells =
        vec![cell(json!({}), 90, 10_000_000), cell(json!({ "provider_id": "b", "region": "eu-west" }), 10, 10_000_000)];
    cells.push(cell(json!({ "provider_id": null, "result": "error" }), 5, 10_000_000));
    let rows = rows_of(vec![batch(Table::Rollups, &cells), logs], &format!("providers?{WINDOW}")).await;
    let all = &rows[0];
    assert_eq!((&all["provider_id"], &all["region"], &all["calls"]), (&json!("a"), &Value::Null, &json!(90)));
    assert_eq!((&all["share"], &all["height"], &all["lag"]), (&json!(0.9), &json!(100), &json!(-3)));
    assert_eq!(all["circuit"], json!({ "closed": 1, "half_open": 0, "open": 1 }));
    let regional = &rows[1];
    assert_eq!((&regional["region"], &regional["height"]), (&json!("us-east"), &json!(100)));
    assert_eq!(regional["circuit"], json!({ "closed": 0, "half_open": 0, "open": 1 }));
}

#[tokio::test]
async fn usage_is_summed_per_account_from_its_own_family() {
    let used = |account: &str, units: f64| {
        let mut row = cell(
            json!({ "family": "usage", "account_id": account, "method_class": "state", "provider_id": null }),
            2,
            1_000,
        );
        row["billable_units"] = json!(units);
        row["bytes_in"] = json!(10);
        row
    };
    let rows = rows_of(
        vec![batch(Table::Rollups, &[used("x", 1.5), used("y", 9.0), used("x", 1.0), cell(json!({}), 50, 1)])],
        &format!("usage?{WINDOW}"),
    )
    .await;
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["account_id"], &rows[1]["account_id"]), (&json!("y"), &json!("x")));
    assert_eq!(
        (&rows[1]["calls"], &rows[1]["bytes_in"], &rows[1]["billable_units"]),
        (&json!(4), &json!(20), &json!(2.5))
    );
}

#[tokio::test]
async fn a_trace_is_found_by_path_and_by_parameter_whenever_it_was() {
    let trace_id = "0192f0c48a5b7c3d9e1f0123456789ab";
    let span = json!({
        "time": rfc3339(NOON), "trace_id": trace_id, "span_id": "0102030405060708", "name": "eth_call",
        "span_kind": "server", "status": "unset", "keep_reason": "rate", "attributes": { "k": "v" },
    });
    for path in [format!("trace/{trace_id}"), format!("trace?trace_id={trace_id}")] {
        let rows = rows_of(vec![batch(Table::Spans, std::slice::from_ref(&span))], &path).await;
        assert_eq!(rows.len(), 1, "{path}");
        assert_eq!((&rows[0]["trace_id"], &rows[0]["span_id"]), (&json!(trace_id), &json!("0102030405060708")));
        assert_eq!(rows[0]["attributes"], json!({ "k": "v" }));
    }
}

#[tokio::test]
async fn every_report_answers_with_its_columns_when_there_is_nothing() {
    for report in SERVED {
        let of_trace = *report == lariat_schema::reports::Report::Trace;
        let query = if of_trace { "?trace_id=0192f0c48a5b7c3d9e1f0123456789ab" } else { "" };
        let rows = rows_of(Vec::new(), &format!("{report}{query}")).await;
        assert!(rows.is_empty(), "{report}");
    }
}

#[tokio::test]
async fn an_unknown_parameter_is_a_400_that_names_the_allowed_ones() {
    for report in SERVED {
        let (status, body) = get(router(engine(Vec::new()).await), &format!("/api/v1/{report}?provider=a")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{report}");
        assert_eq!(body["error"]["code"], "bad_request");
        assert!(body["error"]["allowed"].as_array().unwrap().contains(&json!("from")), "{report}: {body}");
    }
}

#[tokio::test]
async fn rows_beyond_the_limit_are_told_of() {
    let cells: Vec<Value> = (0..5).map(|n| cell(json!({ "method": format!("m{n}") }), n + 1, 1_000_000)).collect();
    let path = format!("/api/v1/latency?by=method&limit=2&{WINDOW}");
    let (_, body) = get(router(engine(vec![batch(Table::Rollups, &cells)]).await), &path).await;
    assert_eq!(body["rows"][0]["method"], "m4", "the busiest first");
    assert_eq!(body["hint"], "8 further rows are left out; narrow the filters or raise `limit`");
}
