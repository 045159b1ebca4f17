//! OTLP's own example files, over every way in.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;

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
