//! Telemetry from programs that are not ours: OpenTelemetry's own SDK over its three protocols, and a paced load whose
//! ledger says what was acknowledged.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lariat_tools::load_otlp::{self, LoadOtlpReport, LoadOtlpSettings};
use tokio::task::JoinHandle;

use super::harness::{Lariat, eventually, on_path, root, rows, tool};

#[tokio::test(flavor = "multi_thread")]
async fn spans_metrics_and_logs_of_opentelemetrys_sdk_are_read_back_over_every_protocol() {
    let packages = root().join("tests/clients/node_modules/@opentelemetry/sdk-trace-base");
    let Some(node) = tool("node with OpenTelemetry's SDK", on_path("node").filter(|_| packages.is_dir())) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0", "--nodes", "1"]).await;
    for (protocol, listener) in [("grpc", "otlp_grpc"), ("http-protobuf", "otlp_http"), ("http-json", "otlp_http")] {
        let marker = format!("sdk-{protocol}");
        let output = Command::new(&node)
            .arg(root().join("tests/clients/send_otlp.mjs"))
            .args([protocol, &demo.url(listener).await, &marker])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let counted = eventually(&format!("the records of {marker}"), async || {
            let mut counts = Vec::new();
            for table in ["spans", "metrics", "logs"] {
                let answer =
                    demo.sql(&format!("SELECT count(*) AS n FROM {table} WHERE service_name = '{marker}'")).await;
                counts.push(rows(&answer)[0]["n"].as_u64().unwrap());
            }
            (counts == [2, 3, 2]).then_some(counts)
        })
        .await;
        assert_eq!(counted, [2, 3, 2]);
        let span = demo
            .sql(&format!("SELECT status, status_message, span_kind, attributes['answer.to.everything'] AS answer FROM spans WHERE service_name = '{marker}' AND name = 'work'"))
            .await;
        let row = &rows(&span)[0];
        assert_eq!((&row["status"], &row["span_kind"]), (&"error".into(), &"server".into()), "{row}");
        assert_eq!((&row["status_message"], &row["answer"]), (&"on purpose".into(), &"42".into()), "{row}");
        let event = demo
            .sql(&format!("SELECT body FROM logs WHERE service_name = '{marker}' AND event_name = 'clients.done'"))
            .await;
        assert_eq!(rows(&event)[0]["body"], "done");
    }
}

/// What a load's ledger says was acknowledged.
pub(crate) struct Acknowledged {
    pub(crate) spans: u64,
    pub(crate) first_trace_ids: Vec<String>,
}

/// Starts a paced load of spans that writes down what was acknowledged.
pub(crate) fn start_load(url: &str, ledger: &Path) -> JoinHandle<LoadOtlpReport> {
    let mut settings = LoadOtlpSettings::new(url, 4_000.0);
    settings.spans_per_request = 20;
    settings.duration = Duration::from_secs(60);
    settings.give_up = Duration::from_secs(2);
    settings.ledger = Some(ledger.to_owned());
    tokio::spawn(async move { load_otlp::run(settings).await.expect("the ledger can be written") })
}

/// Ends a load; what its ledger says.
pub(crate) fn end_load(load: JoinHandle<LoadOtlpReport>, ledger: &Path) -> Acknowledged {
    load.abort();
    let lines = load_otlp::ledger::read(ledger).expect("the ledger can be read");
    Acknowledged {
        spans: lines.iter().map(|line| u64::from(line.spans)).sum(),
        first_trace_ids: lines
            .iter()
            .map(|line| line.first_trace_id.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect(),
    }
}

/// Sends one log record as JSON.
pub(crate) async fn send_one_log(url: &str, body: &str) {
    let request = serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"timeUnixNano": "1700000000000000000", "body": {"stringValue": body}}]}]}]});
    let response = super::harness::client().post(format!("{url}/v1/logs")).json(&request).send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.text().await.unwrap());
}
