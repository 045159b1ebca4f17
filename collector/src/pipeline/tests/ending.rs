//! The end of a collector, and what can be changed before it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::columns::texts;
use crate::fixtures::visible;

const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn with(root: &std::path::Path, config: Config) -> Collector {
    start(Settings {
        config: Config { otlp_grpc: FREE, otlp_http: FREE, node_api: FREE, ..config },
        data_dir: root.to_owned(),
        identity: identity(),
        token: None,
        policies: Policies::default(),
        has_proxy: false,
    })
    .await
    .unwrap()
}

async fn health(node_api: SocketAddr) -> i32 {
    let channel =
        tonic::transport::Channel::from_shared(format!("http://{node_api}")).unwrap().connect().await.unwrap();
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    answer.into_inner().status
}

#[tokio::test]
async fn while_it_drains_a_node_says_so_and_answers_what_is_under_way() {
    let root = tempfile::tempdir().unwrap();
    let node = with(root.path(), Config::default()).await;
    let at = node.addresses();
    assert_eq!(health(at.node_api).await, i32::from(ServingStatus::Serving));
    let mut under_way = TcpStream::connect(at.otlp_http).await.unwrap();
    let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    under_way.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 1_024];
    let read = under_way.read(&mut buffer).await.unwrap();
    assert!(String::from_utf8_lossy(&buffer[..read]).contains("100"), "it is being read");
    let ending = tokio::spawn(node.shutdown(Duration::from_secs(60)));
    let deadline = Instant::now() + Duration::from_secs(30);
    while call(at.node_api, "/ready", None, None).await.0 != 503 {
        assert!(Instant::now() < deadline, "it never said that it drains");
    }
    assert_eq!(health(at.node_api).await, i32::from(ServingStatus::NotServing));
    assert_eq!(call(at.node_api, "/health", None, None).await.0, 200);
    under_way.write_all(b"{}").await.unwrap();
    let read = under_way.read(&mut buffer).await.unwrap();
    assert!(String::from_utf8_lossy(&buffer[..read]).starts_with("HTTP/1.1 200"));
    ending.await.unwrap();
}

fn objects(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()) {
        if path.is_dir() { found.extend(objects(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn a_clean_end_brings_the_last_rows_into_the_bucket_merged_and_once() {
    let (root, bucket) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let settings = serde_json::json!({"flush_age": "100ms", "bucket": {"url": url, "upload_after": "1h"}});
    let config: Config = serde_json::from_value(settings).unwrap();
    for boot in 1..=2_u128 {
        let node = with(root.path(), config.clone()).await;
        let store = node.store();
        for trace in 1..=3 {
            assert_eq!(
                call(node.addresses().otlp_http, "/v1/traces", None, Some(otlp(boot * 10 + trace))).await.0,
                200
            );
            // Each in a file of its own.
            let deadline = Instant::now() + Duration::from_secs(30);
            while !store.snapshot(Table::Spans).batches.is_empty() {
                assert!(Instant::now() < deadline, "the rows are not sealed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        node.shutdown(Duration::from_secs(60)).await;
        let there = objects(bucket.path());
        let of_spans = |path: &&std::path::PathBuf| path.to_string_lossy().contains("/spans/");
        assert_eq!(there.iter().filter(of_spans).count(), usize::try_from(boot).unwrap(), "{there:?}");
        let rows: usize =
            there.iter().filter(of_spans).map(|path| crate::fixtures::rows(&crate::fixtures::read(path))).sum();
        assert_eq!(rows, 3 * usize::try_from(boot).unwrap());
        let told = there.iter().find(|path| path.to_string_lossy().contains("manifests")).unwrap();
        let told: lariat_schema::bucket::StoreManifest = serde_json::from_slice(&std::fs::read(told).unwrap()).unwrap();
        let spans = told.tables.iter().find(|table| table.table == Table::Spans).unwrap();
        assert!(spans.cut_unix_nanos > store.watermark_unix_nanos() - 1, "what is told reaches the end");
    }
}

fn mapping(chain: &str) -> String {
    format!(
        "rules:\n  - name: a\n    when: {{ span: theirs }}\n    as: decision\n    set: {{ lariat.chain: {chain} }}\n"
    )
}

#[tokio::test]
async fn a_mapping_file_is_read_again_and_a_broken_one_leaves_the_old_in_force() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("map.yaml");
    std::fs::write(&file, mapping("one")).unwrap();
    let node = with(&root.path().join("data"), Config { mapping: Some(file.clone()), ..Config::default() }).await;
    let send = async |trace: u128| {
        let body = otlp(trace).replace("\"name\":\"eth_call\"", "\"name\":\"theirs\"");
        let body = body.replace("lariat.request_id", "their.id").replace("lariat.chain", "their.chain");
        assert_eq!(call(node.addresses().otlp_http, "/v1/traces", None, Some(body)).await.0, 200);
    };
    send(1).await;
    std::fs::write(&file, mapping("two")).unwrap();
    assert!(node.reload_mapping().await.unwrap());
    send(2).await;
    std::fs::write(&file, "rules:\n  - as: hop\n").unwrap();
    let error = node.reload_mapping().await.unwrap_err();
    assert!(error.told_apart().len() >= 2, "{error}");
    send(3).await;
    let batches = visible(&*node.store(), Table::Spans);
    let chains: Vec<_> = batches
        .iter()
        .flat_map(|batch| texts(batch, "chain").iter().flatten().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(chains, ["one", "two", "two"]);
    node.kill();
}
