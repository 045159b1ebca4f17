//! What the collector acknowledged survives `kill -9` (I-2), and a retry after it adds nothing (I-3).

use std::path::Path;
use std::time::Duration;

use super::harness::{Lariat, eventually, rows};

/// Starts a collector and a query service over it, with free ports.
async fn collector_and_query(dir: &Path) -> (Lariat, Lariat) {
    let config = dir.join("collector.yaml");
    let data = dir.join("data");
    let text = format!(
        "data_dir: {}\nprofiles_dir: {}\ncollector: {{ otlp_grpc: 127.0.0.1:0, otlp_http: 127.0.0.1:0, node_api: 127.0.0.1:0 }}\n",
        data.display(),
        dir.join("profiles").display(),
    );
    std::fs::create_dir_all(dir.join("profiles")).unwrap();
    std::fs::write(dir.join("profiles/public.yml"), super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
    std::fs::write(&config, text).unwrap();
    let collector = Lariat::start(&["collector", "--config", &config.display().to_string()]);
    collector.ready("node_api").await;
    let node = collector.url("node_api").await;
    let query = Lariat::start_with(
        &["query", "--data-dir", &dir.join("query").display().to_string()],
        &[
            ("LARIAT_QUERY__HTTP", "127.0.0.1:0"),
            ("LARIAT_CLUSTER__NODES", &format!("[\"{}\"]", node.trim_start_matches("http://"))),
        ],
    );
    query.ready("query").await;
    (collector, query)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_span_survives_kill_9_in_the_middle_of_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, query) = collector_and_query(dir.path()).await;
    let ledger = dir.path().join("acknowledged");
    let load = super::clients::start_load(&collector.url("otlp_grpc").await, &ledger);
    let lines = || std::fs::read_to_string(&ledger).map_or(0, |text| text.lines().count());
    eventually("some requests are acknowledged", async || (lines() >= 40).then_some(())).await;
    collector.kill();
    let acknowledged = super::clients::end_load(load, &ledger);
    assert!(acknowledged.spans > 0);
    drop(query);

    let (_collector, query) = collector_and_query(dir.path()).await;
    let answer = query
        .sql("SELECT count(*) AS n, count(DISTINCT span_id) AS ids FROM spans WHERE service_name = 'checkout'")
        .await;
    let stored = rows(&answer)[0]["n"].as_u64().unwrap();
    assert_eq!(answer["rows"][0]["ids"].as_u64(), Some(stored), "nothing is there twice");
    assert!(stored >= acknowledged.spans, "{stored} spans are stored, {} were acknowledged", acknowledged.spans);
    for trace in acknowledged.first_trace_ids.iter().step_by(7) {
        let answer = query.sql(&format!("SELECT count(*) AS n FROM spans WHERE trace_id = '{trace}'")).await;
        assert!(rows(&answer)[0]["n"].as_u64() >= Some(1), "trace {trace} was acknowledged and is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_log_tail_and_a_corrupt_file_are_told_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, query) = collector_and_query(dir.path()).await;
    let marker = "torn";
    super::clients::send_one_log(&collector.url("otlp_http").await, marker).await;
    eventually("the log record", async || {
        let answer = query.sql(&format!("SELECT body FROM logs WHERE body = '{marker}'")).await;
        rows(&answer).first().cloned()
    })
    .await;
    collector.kill();
    drop(query);
    let log = dir.path().join("data/log");
    let segment = std::fs::read_dir(&log).unwrap().flatten().map(|entry| entry.path()).max().expect("a log segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.extend_from_slice(&[0x42; 37]);
    std::fs::write(&segment, bytes).unwrap();
    let broken = dir.path().join("data/parquet/spans/date=2026-01-01/hour=00/store=x");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("000000000001.parquet"), b"PAR1 this is none").unwrap();

    let (collector, query) = collector_and_query(dir.path()).await;
    let answer = query.sql(&format!("SELECT body FROM logs WHERE body = '{marker}'")).await;
    assert_eq!(rows(&answer).len(), 1, "what was acknowledged is still there");
    query.sql("SELECT count(*) FROM spans").await;
    assert!(!collector.text().contains("panicked"), "{}", collector.text());
    collector.signal("TERM");
    let mut collector = collector;
    let status = tokio::time::timeout(Duration::from_secs(30), collector.wait()).await.unwrap();
    assert!(status.success(), "{}", collector.text());
}
