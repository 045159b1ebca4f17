//! The bucket against a real S3 server, over a line that fails: nothing is lost, each file is there once, and what is
//! given up on the node is still answered for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lariat_tools::relay::{self, RelayFaults};
use serde_json::Value;

use super::harness::{Lariat, client, eventually, free_port, root, rows, tool};

/// moto's S3 server, which checks no signature but wants one.
pub(super) struct S3 {
    child: Child,
    pub(super) url: String,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Python with the packages of `tests/clients/requirements.txt`.
pub(super) fn python() -> Option<PathBuf> {
    let python = std::env::var_os("LARIAT_PYTHON").map(PathBuf::from)?;
    let checked = Command::new(&python).args(["-c", "import moto.server, duckdb"]).stderr(Stdio::null()).status();
    checked.is_ok_and(|status| status.success()).then_some(python)
}

impl S3 {
    pub(super) async fn start(python: &Path, port: u16) -> Self {
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let s3 = Self { child, url: format!("http://127.0.0.1:{port}") };
        eventually("the S3 server", async || {
            let made = client().put(format!("{}/lariat", s3.url)).send().await.ok()?;
            made.status().is_success().then_some(())
        })
        .await;
        s3
    }

    pub(super) async fn get(&self, path: &str) -> Vec<u8> {
        let credential =
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
        let request = client().get(format!("{}/lariat{path}", self.url)).header("authorization", credential);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.bytes().await.unwrap().to_vec()
    }

    pub(super) async fn keys(&self) -> Vec<String> {
        let listed = String::from_utf8(self.get("?list-type=2").await).unwrap();
        listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).map(str::to_owned).collect()
    }
}

/// A collector with a bucket, and a query service over it.
async fn node(dir: &Path, endpoint: &str, further: &str) -> (Lariat, Lariat) {
    let config = dir.join("collector.yaml");
    std::fs::create_dir_all(dir.join("profiles")).unwrap();
    std::fs::write(dir.join("profiles/public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
    let text = format!(
        "data_dir: {0}/data\nprofiles_dir: {0}/profiles\ncollector:\n  otlp_grpc: 127.0.0.1:0\n  otlp_http: 127.0.0.1:0\n  node_api: 127.0.0.1:0\n  \
         flush_age: 1s\n  bucket: {{ url: \"s3://lariat/telemetry\", endpoint: \"{endpoint}\", region: us-east-1, upload_after: 1s }}\n{further}",
        dir.display()
    );
    std::fs::write(&config, text).unwrap();
    let secrets =
        [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2"), ("OTEL_SDK_DISABLED", "true")];
    let collector = Lariat::start_with(&["collector", "--config", &config.display().to_string()], &secrets);
    collector.ready("node_api").await;
    let nodes = format!("[\"{}\"]", collector.url("node_api").await.trim_start_matches("http://"));
    let query = Lariat::start_with(
        &["query", "--data-dir", &dir.join("query").display().to_string()],
        &[
            secrets[0],
            secrets[1],
            ("LARIAT_QUERY__HTTP", "127.0.0.1:0"),
            ("LARIAT_QUERY__BUCKET__URL", "s3://lariat/telemetry"),
            ("LARIAT_QUERY__BUCKET__ENDPOINT", endpoint),
            ("LARIAT_QUERY__BUCKET__REGION", "us-east-1"),
            ("LARIAT_CLUSTER__NODES", &nodes),
        ],
    );
    query.ready("query").await;
    (collector, query)
}

/// A figure of the node API.
pub(super) async fn figure(collector: &Lariat, name: &str) -> u64 {
    let text = client().get(format!("{}/metrics", collector.url("node_api").await)).send().await.unwrap().text().await;
    let wanted = format!("lariat_collector_{name} ");
    let text = text.unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(&wanted)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.parse().unwrap()
}

async fn spans(query: &Lariat) -> u64 {
    rows(&query.sql("SELECT count(*) AS n FROM spans WHERE service_name = 'checkout'").await)[0]["n"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_reach_a_real_s3_server_over_a_bad_line_once_each_and_are_read_back_from_there() {
    let Some(python) = tool("moto[server] and DuckDB in LARIAT_PYTHON", python()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let line = relay::start(([127, 0, 0, 1], 0).into(), &format!("127.0.0.1:{port}")).await.unwrap();
    let endpoint = format!("http://{}", line.address());
    // The bucket is away when the node starts: it records all the same.
    let (collector, query) = node(dir.path(), &endpoint, "").await;
    let ledger = dir.path().join("acknowledged");
    let load = super::clients::start_load(&collector.url("otlp_grpc").await, &ledger);
    eventually("attempts without a bucket", async || {
        (figure(&collector, "upload_failures_total").await >= 2 && spans(&query).await > 500).then_some(())
    })
    .await;
    let s3 = S3::start(&python, port).await;
    line.set_faults(RelayFaults { cut_after_bytes: Some(20_000), ..RelayFaults::default() });
    eventually("connections cut", async || (line.counts().cut >= 3).then_some(())).await;
    line.set_faults(RelayFaults { delay_ms: 5, bytes_per_second: Some(2_000_000), ..RelayFaults::default() });
    let acknowledged = super::clients::end_load(load, &ledger);
    assert!(acknowledged.spans > 0);
    let stored = spans(&query).await;
    assert!(stored >= acknowledged.spans, "{stored} of {}", acknowledged.spans);
    line.set_faults(RelayFaults::default());

    let said = eventually("every span in the bucket", async || {
        let key = s3.keys().await.into_iter().find(|key| key.contains("/manifests/"))?;
        let said: Value = serde_json::from_slice(&s3.get(&format!("/{key}")).await).unwrap();
        (in_bucket(&said) >= spans(&query).await).then_some(said)
    })
    .await;
    let named: BTreeSet<String> = tables(&said).flat_map(|table| files(table).map(path_of)).collect();
    let there: Vec<String> = s3.keys().await.into_iter().filter(|key| key.ends_with(".parquet")).collect();
    let missing: Vec<_> = named.iter().filter(|path| !there.contains(&format!("telemetry/{path}"))).collect();
    assert!(missing.is_empty() && !named.is_empty(), "named and not there: {missing:?}");
    assert_eq!(figure(&collector, "upload_conflicts_total").await, 0);
    assert!(!collector.text().contains("hunter2"), "a secret in the log");

    let local = dir.path().join("from-the-bucket");
    for key in there.iter().filter(|key| key.starts_with("telemetry/spans/")) {
        let path = local.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, s3.get(&format!("/{key}")).await).unwrap();
    }
    let counted = duckdb(&python, &local);
    let stored = spans(&query).await;
    assert_eq!(
        (counted["n"].as_u64(), counted["ids"].as_u64(), counted["stores"].as_u64()),
        (Some(stored), Some(stored), Some(1))
    );
    collector.kill();
    drop(query);

    // With hardly any disk of its own the node answers from the bucket.
    let (collector, query) = node(dir.path(), &endpoint, "  disk_budget: 200000\n").await;
    eventually("local copies given up", async || {
        (figure(&collector, "copies_dropped_total").await > 0 && !has_parquet(&dir.path().join("data/parquet/spans")))
            .then_some(())
    })
    .await;
    assert_eq!(spans(&query).await, stored);
    assert_eq!(figure(&collector, "lost_rows_total").await, 0);

    // And without the node the query service does.
    collector.kill();
    assert_eq!(spans(&query).await, stored);
    assert!(!query.text().contains("hunter2"), "a secret in the log");
}

pub(super) fn tables(said: &Value) -> impl Iterator<Item = &Value> {
    said["tables"].as_array().unwrap().iter()
}

pub(super) fn files(table: &Value) -> impl Iterator<Item = &Value> {
    table["files"].as_array().unwrap().iter()
}

fn path_of(file: &Value) -> String {
    file["path"].as_str().unwrap().to_owned()
}

fn in_bucket(said: &Value) -> u64 {
    let spans = tables(said).find(|table| table["table"] == "spans").unwrap();
    files(spans).map(|file| file["rows"].as_u64().unwrap()).sum()
}

fn has_parquet(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| if path.is_dir() { has_parquet(&path) } else { true })
}

/// What a reader that knows nothing of Lariat finds.
fn duckdb(python: &Path, folder: &Path) -> Value {
    let output = Command::new(python)
        .arg(root().join("tests/clients/read_parquet.py"))
        .arg(folder.join("telemetry/spans/**/*.parquet"))
        .arg("SELECT count(*) AS n, count(DISTINCT hex(span_id)) AS ids, count(DISTINCT store) AS stores FROM files WHERE service_name = 'checkout' AND date IS NOT NULL")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    found[0].clone()
}
