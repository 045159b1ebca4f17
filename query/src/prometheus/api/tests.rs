//! Over HTTP's own types and an engine over rows in memory: from the columns of a collector to the JSON of Prometheus.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder,
    MapBuilder, MapFieldNames, RecordBatch, StringBuilder, TimestampNanosecondBuilder, new_null_array,
};
use arrow::datatypes::{DataType, Field};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use lariat_schema::metrics::{CALLS_IN_FLIGHT, RECORDER_DROPPED, SERVER_CALL_DURATION};
use lariat_schema::tables::Table;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::parameters::now;
use crate::ask::local::{Counting, LocalEngine};

/// A point of one of three metrics.
#[derive(Clone, Copy)]
struct Row {
    seconds: i64,
    start: i64,
    node: &'static str,
    name: &'static str,
    value: Option<f64>,
    /// Scale, offset and counts.
    buckets: Option<(i32, i32, &'static [i64])>,
    ended: bool,
}

const ROW: Row =
    Row { seconds: 0, start: 0, node: "n1", name: CALLS_IN_FLIGHT, value: None, buckets: None, ended: false };

fn times(rows: &[Row], of: impl Fn(&Row) -> i64) -> ArrayRef {
    let mut builder = TimestampNanosecondBuilder::new().with_timezone("UTC");
    rows.iter().for_each(|row| builder.append_value(of(row) * 1_000_000_000));
    Arc::new(builder.finish())
}

fn texts(rows: &[Row], of: impl Fn(&Row) -> &'static str) -> ArrayRef {
    let mut builder = StringBuilder::new();
    rows.iter().for_each(|row| builder.append_value(of(row)));
    Arc::new(builder.finish())
}

fn labels(rows: &[Row]) -> ArrayRef {
    let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for _ in rows {
        for (key, value) in [("lariat.profile", "public"), ("rpc.method", "eth_call")] {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true).unwrap();
    }
    Arc::new(builder.finish())
}

fn column(name: &str, rows: &[Row]) -> Option<ArrayRef> {
    Some(match name {
        "time" | "observed_time" => times(rows, |row| row.seconds),
        "start_time" => times(rows, |row| row.start),
        "series_id" => {
            let mut builder = FixedSizeBinaryBuilder::new(16);
            rows.iter().for_each(|row| {
                let mut id = [0; 16];
                id[0] = u8::try_from(row.name.len()).unwrap();
                builder.append_value(id).unwrap();
            });
            Arc::new(builder.finish())
        }
        "name" => texts(rows, |row| row.name),
        "unit" => texts(rows, |row| if row.buckets.is_some() { "s" } else { "{call}" }),
        "instrument" => texts(rows, |row| match row.name {
            SERVER_CALL_DURATION => "exponential_histogram",
            RECORDER_DROPPED => "sum",
            _ => "gauge",
        }),
        "service_name" => texts(rows, |_| "lariat"),
        "node_id" => texts(rows, |row| row.node),
        "region" => texts(rows, |_| "us-east"),
        "labels" => labels(rows),
        "monotonic" | "no_recorded_value" => {
            let mut builder = BooleanBuilder::new();
            rows.iter().for_each(|row| {
                builder.append_value(if name == "monotonic" { row.name == RECORDER_DROPPED } else { row.ended });
            });
            Arc::new(builder.finish())
        }
        "value" => {
            let mut builder = Float64Builder::new();
            rows.iter().for_each(|row| builder.append_option(row.value));
            Arc::new(builder.finish())
        }
        "sum" => {
            let mut builder = Float64Builder::new();
            rows.iter().for_each(|row| builder.append_option(row.buckets.map(|_| 1.0)));
            Arc::new(builder.finish())
        }
        "count" => {
            let mut builder = Int64Builder::new();
            rows.iter().for_each(|row| builder.append_option(row.buckets.map(|(_, _, counts)| counts.iter().sum())));
            Arc::new(builder.finish())
        }
        "scale" | "positive_offset" => {
            let mut builder = Int32Builder::new();
            rows.iter().for_each(|row| {
                builder
                    .append_option(row.buckets.map(|(scale, offset, _)| if name == "scale" { scale } else { offset }));
            });
            Arc::new(builder.finish())
        }
        "positive_counts" => {
            let item = Field::new("item", DataType::Int64, false);
            let mut builder = ListBuilder::new(Int64Builder::new()).with_field(item);
            for row in rows {
                match row.buckets {
                    Some((_, _, counts)) => {
                        builder.values().append_slice(counts);
                        builder.append(true);
                    }
                    None => builder.append(false),
                }
            }
            Arc::new(builder.finish())
        }
        _ => return None,
    })
}

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Table::Metrics.schema();
    let columns = schema
        .fields()
        .iter()
        .map(|field| column(field.name(), rows).unwrap_or_else(|| new_null_array(field.data_type(), rows.len())));
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}

async fn ask(rows: &[Row], request: Request<Body>) -> (StatusCode, Value) {
    let engine = LocalEngine::new(vec![(Table::Metrics, vec![batch(rows)])]).await.unwrap();
    let response = super::router(Arc::new(engine)).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn get(rows: &[Row], path: &str, parameters: &[(&str, &str)]) -> (StatusCode, Value) {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let uri = format!("/prometheus/api/v1/{path}?{query}");
    ask(rows, Request::get(uri).body(Body::empty()).unwrap()).await
}

/// Histograms of two nodes at 0, 10, … 60 s, one more call each time.
fn histograms() -> Vec<Row> {
    const COUNTS: [&[i64]; 7] = [&[1, 0], &[1, 1], &[1, 2], &[1, 3], &[1, 4], &[1, 5], &[1, 6]];
    let row = |node, at: usize| Row {
        seconds: 1_000 + i64::try_from(at).unwrap() * 10,
        start: 500,
        node,
        name: SERVER_CALL_DURATION,
        buckets: Some((0, -1, COUNTS[at])),
        ..ROW
    };
    (0..7).flat_map(|at| [row("n1", at), row("n2", at)]).collect()
}

#[tokio::test]
async fn a_scalar_needs_no_data() {
    let (status, body) = get(&[], "query", &[("query", "1+1"), ("time", "4")]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["status"], "success");
    assert_eq!(body["data"]["resultType"], "scalar");
    assert_eq!(body["data"]["result"], json!([4, "2"]));
}

#[tokio::test]
async fn calls_of_all_nodes_are_counted_with_coverage() {
    let rows = histograms();
    let query = "sum by (method) (increase(rpc_server_call_duration_seconds_count[1m]))";
    let (status, body) = get(&rows, "query", &[("query", query), ("time", "1060")]).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let result = &body["data"]["result"][0];
    assert_eq!(result["metric"], json!({"method": "eth_call"}));
    // Five calls in 50 s on each node, extrapolated to the minute.
    assert_eq!(result["value"], json!([1060, "12"]));
    assert_eq!(body["data"]["stats"]["coverage"]["complete"], true);
    assert!(body.get("warnings").is_none(), "{body}");
}

#[tokio::test]
async fn a_native_and_a_classic_histogram_are_one_metric() {
    let rows = histograms();
    let selector = r#"rpc_server_call_duration_seconds{node_id="n1",instance="n1",profile="public",job="lariat"}"#;
    let (_, body) = get(&rows, "query", &[("query", selector), ("time", "1060")]).await;
    let histogram = &body["data"]["result"][0]["histogram"][1];
    assert_eq!(histogram["count"], "7", "{body}");
    assert_eq!(histogram["buckets"], json!([[0, "0.5", "1", "1"], [0, "1", "2", "6"]]));
    let buckets = r#"rpc_server_call_duration_seconds_bucket{node_id="n1",le=~"1|[+]Inf"}"#;
    let (_, body) = get(&rows, "query", &[("query", buckets), ("time", "1060")]).await;
    let values: Vec<_> = body["data"]["result"].as_array().unwrap().iter().map(|series| &series["value"][1]).collect();
    assert_eq!(values, ["7", "1"], "{body}");
    let quantile = "histogram_quantile(0.5, sum(rate(rpc_server_call_duration_seconds[1m])))";
    let (_, body) = get(&rows, "query", &[("query", quantile), ("time", "1060")]).await;
    let value: f64 = body["data"]["result"][0]["value"][1].as_str().unwrap().parse().unwrap();
    assert!((value - 2_f64.sqrt()).abs() < 1e-9, "{body}");
}

#[tokio::test]
async fn a_range_query_has_a_value_per_step() {
    let rows: Vec<Row> = (0..4).map(|at| Row { seconds: 1_000 + at * 10, value: Some(at as f64), ..ROW }).collect();
    let parameters = [("query", "lariat_calls_in_flight * 2"), ("start", "1000"), ("end", "1020"), ("step", "10")];
    let (_, body) = get(&rows, "query_range", &parameters).await;
    assert_eq!(body["data"]["resultType"], "matrix");
    assert_eq!(body["data"]["result"][0]["values"], json!([[1000, "0"], [1010, "2"], [1020, "4"]]), "{body}");
}

#[tokio::test]
async fn a_new_start_time_is_a_reset_even_where_the_value_rose() {
    let row = |seconds, start, value| Row { seconds, start, name: RECORDER_DROPPED, value: Some(value), ..ROW };
    let rows = [row(1_000, 900, 3.0), row(1_010, 900, 5.0), row(1_020, 1_012, 9.0)];
    let query = "resets(lariat_recorder_dropped_total[1m])";
    let (_, body) = get(&rows, "query", &[("query", query), ("time", "1020")]).await;
    assert_eq!(body["data"]["result"][0]["value"][1], "1", "{body}");
}

#[tokio::test]
async fn a_point_without_a_value_ends_its_series() {
    let rows = [Row { seconds: 1_000, value: Some(1.0), ..ROW }, Row { seconds: 1_010, ended: true, ..ROW }];
    let (_, body) = get(&rows, "query", &[("query", "lariat_calls_in_flight"), ("time", "1005")]).await;
    assert_eq!(body["data"]["result"].as_array().unwrap().len(), 1, "{body}");
    let (_, body) = get(&rows, "query", &[("query", "lariat_calls_in_flight"), ("time", "1015")]).await;
    assert_eq!(body["data"]["result"], json!([]));
}

#[tokio::test]
async fn labels_values_series_and_metadata_can_be_discovered() {
    let rows = histograms();
    let window = [("start", "900"), ("end", "1100")];
    let (_, body) = get(&rows, "labels", &window).await;
    assert_eq!(body["data"], json!(["__name__", "instance", "job", "method", "node_id", "profile", "region"]));
    let (_, body) = get(&rows, "label/node_id/values", &window).await;
    assert_eq!(body["data"], json!(["n1", "n2"]));
    let (_, body) = get(&rows, "label/U__node_id/values", &window).await;
    assert_eq!(body["status"], "success");
    let (_, body) = get(&rows, "label/__name__/values", &window).await;
    assert!(body["data"].as_array().unwrap().contains(&json!("rpc_server_call_duration_seconds_count")), "{body}");
    let matching = ("match[]", r#"rpc_server_call_duration_seconds_count{node_id="n2"}"#);
    let (_, body) = get(&rows, "series", &[window[0], window[1], matching]).await;
    assert_eq!(body["data"].as_array().unwrap().len(), 1, "{body}");
    assert_eq!(body["data"][0]["node_id"], "n2");
    let (_, body) = get(&rows, "metadata", &window).await;
    assert_eq!(body["data"]["rpc_server_call_duration_seconds"][0]["type"], "histogram", "{body}");
    let (_, body) = get(&rows, "status/buildinfo", &[]).await;
    assert_eq!(body["data"]["features"], json!({}));
}

#[tokio::test]
async fn a_form_is_read_like_an_address() {
    let request = Request::post("/prometheus/api/v1/query")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("query=vector(3)&time=7"))
        .unwrap();
    let (_, body) = ask(&[], request).await;
    assert_eq!(body["data"]["result"], json!([{"metric": {}, "value": [7, "3"]}]));
}

#[tokio::test]
async fn errors_have_prometheus_kinds_and_statuses() {
    type Case = (&'static str, &'static [(&'static str, &'static str)], StatusCode, &'static str);
    let cases: [Case; 6] = [
        ("query", &[("query", "rate(")], StatusCode::BAD_REQUEST, "bad_data"),
        ("query", &[], StatusCode::BAD_REQUEST, "bad_data"),
        (
            "query_range",
            &[("query", "1"), ("start", "2"), ("end", "1"), ("step", "1")],
            StatusCode::BAD_REQUEST,
            "bad_data",
        ),
        (
            "query_range",
            &[("query", "1"), ("start", "0"), ("end", "11000"), ("step", "1")],
            StatusCode::BAD_REQUEST,
            "bad_data",
        ),
        ("query", &[("query", "topk(NaN, vector(1))")], StatusCode::UNPROCESSABLE_ENTITY, "execution"),
        ("series", &[], StatusCode::BAD_REQUEST, "bad_data"),
    ];
    for (path, parameters, wanted, kind) in cases {
        let (status, body) = get(&[], path, parameters).await;
        assert_eq!((status, &body["status"], &body["errorType"]), (wanted, &json!("error"), &json!(kind)), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_range_queries_read_closed_time_once_and_give_what_one_alone_gives() {
    let now = now() / 1_000;
    let rows: Vec<Row> =
        (0..60).map(|at| Row { seconds: now - 600 + at * 10, value: Some(at as f64), ..ROW }).collect();
    let engine = Counting::new(vec![(Table::Metrics, vec![batch(&rows)])]).await;
    let router = super::router(Arc::clone(&engine) as _);
    for (start, end, is_open) in [(now - 300, now, true), (now - 360, now - 60, false)] {
        let query = format!("query=sum_over_time(lariat_calls_in_flight%5B1m%5D)&start={start}&end={end}&step=30");
        let answers = futures::future::join_all((0..100).map(|_| {
            let request = Request::get(format!("/prometheus/api/v1/query_range?{query}")).body(Body::empty()).unwrap();
            let router = router.clone();
            async move {
                let body = router.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
                serde_json::from_slice::<Value>(&body).unwrap()
            }
        }))
        .await;
        // The last six points before each step, or those that there are.
        let sum = |time: i64| -> i64 { (1..60).filter(|at| (0..60).contains(&(time - now + 600 - at * 10))).sum() };
        let expected: Vec<Value> =
            (0..=10).map(|step| start + step * 30).map(|time| json!([time, sum(time).to_string()])).collect();
        assert!(
            answers.iter().all(|answer| answer["data"]["result"][0]["values"] == json!(expected)),
            "{}",
            answers[0]
        );
        let to = (end * 1_000 + 1) * 1_000_000;
        let (edges, middles): (Vec<_>, Vec<_>) =
            engine.take_asked().into_iter().partition(|sql| is_open && sql.contains(&to.to_string()));
        // The clock may have moved to further middles meanwhile; each is read once.
        let distinct: std::collections::BTreeSet<&String> = middles.iter().collect();
        assert_eq!(distinct.len(), middles.len(), "{middles:?}");
        assert!(is_open || middles.len() == 1, "{middles:?}");
        assert_eq!(edges.len(), if is_open { 100 } else { 0 });
        let kept = answers.iter().filter(|answer| answer["data"]["stats"]["cached"] == true).count();
        assert_eq!(kept, 100 - middles.len(), "all others say that a part was kept");
    }
}
