//! OTLP's own example files, over every way in.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;

use serde_json::json;

use super::over_http::send;
use super::*;

/// The files, or nothing where they are not at hand and need not be.
fn files() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let folder = std::env::var_os("LARIAT_CONFORMANCE").map_or_else(beside, PathBuf::from).join("otlp");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var_os("LARIAT_REQUIRE_ALL").is_none(), "the conformance files are not at {}", folder.display());
    println!("not run: conformance files (set LARIAT_CONFORMANCE)");
    None
}

/// A batch without the time of decoding, which differs from request to request.
fn comparable(batch: &RecordBatch) -> RecordBatch {
    let observed = batch.schema().index_of("observed_time").unwrap();
    let others: Vec<_> = (0..batch.num_columns()).filter(|column| *column != observed).collect();
    batch.project(&others).unwrap()
}

async fn over_grpc(receiver: &Receiver, name: &str, json: &[u8]) -> Vec<u8> {
    let url = format!("http://{}", receiver.grpc_address());
    match name {
        "trace.json" => {
            let request: ExportTraceServiceRequest = serde_json::from_slice(json).unwrap();
            let answer = client(receiver).await.export(request.clone()).await.unwrap();
            assert_eq!(answer.into_inner().partial_success, None);
            request.encode_to_vec()
        }
        "metrics.json" => {
            let request: ExportMetricsServiceRequest = serde_json::from_slice(json).unwrap();
            let answer = MetricsServiceClient::connect(url).await.unwrap().export(request.clone()).await.unwrap();
            assert_eq!(answer.into_inner().partial_success, None);
            request.encode_to_vec()
        }
        _ => {
            let request: ExportLogsServiceRequest = serde_json::from_slice(json).unwrap();
            let answer = LogsServiceClient::connect(url).await.unwrap().export(request.clone()).await.unwrap();
            assert_eq!(answer.into_inner().partial_success, None);
            request.encode_to_vec()
        }
    }
}

#[tokio::test]
async fn the_conformance_files_arrive_whole_and_equal_over_all_three_ways() {
    let Some(folder) = files() else { return };
    for (name, path, rows) in [
        ("trace.json", "/v1/traces", 1),
        ("metrics.json", "/v1/metrics", 4),
        ("logs.json", "/v1/logs", 1),
        ("events.json", "/v1/logs", 1),
    ] {
        let (receiver, ingest) = running(None).await;
        let json = std::fs::read(folder.join(name)).unwrap();
        let protobuf = over_grpc(&receiver, name, &json).await;
        for (content_type, body) in [("application/x-protobuf", &protobuf), ("application/json", &json)] {
            let answer = send(&receiver, "POST", path, &format!("content-type: {content_type}\r\n"), body).await;
            assert_eq!(answer.status, 200, "{name}: {}", String::from_utf8_lossy(&answer.body));
        }
        let seen = ingest.requests.lock();
        assert_eq!(seen.len(), 3, "{name}");
        for decoded in seen.iter() {
            assert_eq!((decoded.batch.num_rows(), decoded.rejected), (rows, 0), "{name}");
            assert_eq!(comparable(&decoded.batch), comparable(&seen[0].batch), "{name}");
            assert_eq!(decoded.keys, seen[0].keys, "{name}");
            assert_eq!(decoded.contents, seen[0].contents, "{name}");
        }
        assert_eq!(seen[0].fingerprint, seen[1].fingerprint, "{name}: the same bytes over gRPC and HTTP");
    }
}

/// What stands in the file, as rows: every value of it under its column, read off the file by hand.
fn expected(name: &str) -> Vec<serde_json::Value> {
    let mut rows = match name {
        "trace.json" => vec![json!({"time": "2018-12-13T14:51:00Z", "duration_ns": 1_000_000_000,
            "trace_id": "5b8efff798038103d269b633813fc60c", "span_id": "eee19b7ec3c1b174",
            "parent_span_id": "eee19b7ec3c1b173", "name": "I'm a server span", "span_kind": "server", "status": "unset",
            "scope_version": "1.0.0", "adjusted_count": 1.0, "keep_reason": "undecided",
            "attributes": {"my.span.attr": "some value"}})],
        "metrics.json" => metrics(),
        "logs.json" => vec![json!({"time": "2018-12-13T14:51:00.300Z", "severity_number": 10,
            "severity_text": "Information", "body": "Example log record",
            "trace_id": "5b8efff798038103d269b633813fc60c", "span_id": "eee19b7ec3c1b174",
            "adjusted_count": 1.0, "keep_reason": "always",
            "attributes": {"array.attribute": "[\"many\",\"values\"]", "boolean.attribute": "true",
                "double.attribute": "637.704", "int.attribute": "10",
                "map.attribute": "{\"some.map.key\":\"some value\"}", "string.attribute": "some string"}})],
        _ => vec![json!({"time": "2018-12-13T14:51:00.300Z", "event_name": "browser.page_view", "severity_number": 9,
            "severity_text": "test severity text", "adjusted_count": 1.0, "keep_reason": "always",
            "body": "{\"type\":0,\"url\":\"https://www.guidgenerator.com/online-guid-generator.aspx\",\"referrer\":\"https://wwww.google.com\",\"title\":\"Free Online GUID Generator\"}",
            "attributes": {"event.attribute": "some event attribute"}})],
    };
    for row in &mut rows {
        row["service_name"] = json!("my.service");
        row["scope_name"] = json!("my.library");
        row["resource_attributes"] = json!({"otel.scope.my.scope.attribute": "some scope attribute"});
        if row["scope_version"].is_null() {
            row.as_object_mut().unwrap().remove("scope_version");
            row["resource_attributes"]["otel.scope.version"] = json!("1.0.0");
        }
    }
    rows
}

fn metrics() -> Vec<serde_json::Value> {
    let at = "2018-12-13T14:51:00.300Z";
    let mut rows = vec![
        json!({"name": "my.counter", "description": "I am a Counter", "instrument": "sum", "temporality": "delta",
            "monotonic": true, "start_time": at, "value": 5.0, "labels": {"my.counter.attr": "some value"}}),
        json!({"name": "my.gauge", "description": "I am a Gauge", "instrument": "gauge", "value": 10.0,
            "labels": {"my.gauge.attr": "some value"}}),
        json!({"name": "my.histogram", "description": "I am a Histogram", "instrument": "histogram",
            "temporality": "delta", "start_time": at, "count": 2, "sum": 2.0, "min": 0.0, "max": 2.0, "bounds": [1.0],
            "bucket_counts": [1, 1], "labels": {"my.histogram.attr": "some value"}}),
        json!({"name": "my.exponential.histogram", "description": "I am an Exponential Histogram",
            "instrument": "exponential_histogram", "temporality": "delta", "start_time": at, "count": 3, "sum": 10.0,
            "min": 0.0, "max": 5.0, "scale": 0, "zero_count": 1, "zero_threshold": 0.0, "positive_offset": 1,
            "positive_counts": [0, 2], "labels": {"my.exponential.histogram.attr": "some value"}}),
    ];
    for row in &mut rows {
        row["time"] = json!(at);
        row["unit"] = json!("1");
        row["no_recorded_value"] = json!(false);
    }
    rows
}

#[tokio::test]
async fn every_value_of_the_conformance_files_stands_in_a_row() {
    let Some(folder) = files() else { return };
    for (name, path) in [
        ("trace.json", "/v1/traces"),
        ("metrics.json", "/v1/metrics"),
        ("logs.json", "/v1/logs"),
        ("events.json", "/v1/logs"),
    ] {
        let (receiver, ingest) = running(None).await;
        let body = std::fs::read(folder.join(name)).unwrap();
        send(&receiver, "POST", path, "content-type: application/json\r\n", &body).await;
        let seen = ingest.requests.lock();
        let mut rows = crate::fixtures::as_json(&comparable(&seen[0].batch));
        for row in &mut rows {
            // Made here of the other values.
            row.as_object_mut().unwrap().remove("series_id");
        }
        assert_eq!(rows, expected(name), "{name}");
    }
}
