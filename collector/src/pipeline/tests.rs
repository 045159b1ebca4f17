//! A whole collector over its sockets.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lariat_schema::live::LiveEvent;
use lariat_schema::node_api::NodeInfo;
use lariat_schema::tables::Table;
use serde_json::json;

use super::*;
use crate::fixtures::identity;

mod ending;

async fn collector(root: &std::path::Path, token: Option<&str>) -> Collector {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { otlp_grpc: free, otlp_http: free, node_api: free, ..Config::default() };
    start(Settings {
        config,
        data_dir: root.to_owned(),
        identity: identity(),
        token: token.map(Arc::from),
        policies: Policies::default(),
        has_proxy: true,
    })
    .await
    .unwrap()
}

async fn call(address: SocketAddr, path: &str, token: Option<&str>, body: Option<String>) -> (u16, String) {
    let response = response(address, path, token, body).await;
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

async fn response(
    address: SocketAddr,
    path: &str,
    token: Option<&str>,
    body: Option<String>,
) -> hyper::Response<hyper::body::Incoming> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = hyper::Request::builder().uri(format!("http://{address}{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.method("POST").header("content-type", "application/json");
    }
    client.request(request.body(Full::from(body.unwrap_or_default())).unwrap()).await.unwrap()
}

fn otlp(trace: u128) -> String {
    json!({"resourceSpans": [{"resource": {"attributes": [
        {"key": "service.instance.id", "value": {"stringValue": "lariat@test"}}]},
        "scopeSpans": [{"spans": [{
            "traceId": format!("{trace:032x}"), "spanId": "0000000000000001", "name": "eth_call", "kind": 2,
            "startTimeUnixNano": "1763683200000000000", "endTimeUnixNano": "1763683200005000000",
            "attributes": [
                {"key": "lariat.request_id", "value": {"stringValue": uuid::Uuid::from_u128(trace).to_string()}},
                {"key": "lariat.profile", "value": {"stringValue": "public"}},
                {"key": "lariat.chain", "value": {"stringValue": "ethereum"}},
                {"key": "rpc.method", "value": {"stringValue": "eth_call"}},
                {"key": "lariat.result", "value": {"stringValue": "success"}}]}]}]}]})
    .to_string()
}

#[tokio::test]
async fn a_span_goes_over_the_wire_into_the_store_the_live_stream_and_after_a_restart_into_files() {
    let root = tempfile::tempdir().unwrap();
    let node = collector(root.path(), Some("secret")).await;
    let at = node.addresses();
    let mut live = response(at.node_api, "/v1/live?recent=100", Some("secret"), None).await.into_body();
    let (status, body) = call(at.otlp_http, "/v1/traces", None, Some(otlp(7))).await;
    assert_eq!(status, 200, "{body}");
    let frame = live.frame().await.unwrap().unwrap().into_data().unwrap();
    let LiveEvent::Decision(decision) = serde_json::from_slice(&frame).unwrap() else { panic!("no decision") };
    assert_eq!((decision.method.as_str(), decision.chain.as_str()), ("eth_call", "ethereum"));
    assert_eq!(decision.request_id, uuid::Uuid::from_u128(7).to_string());
    drop(live);

    assert_eq!(call(at.node_api, "/v1/info", Some("wrong"), None).await.0, 401);
    let (status, body) = call(at.node_api, "/v1/info", Some("secret"), None).await;
    let info: NodeInfo = serde_json::from_str(&body).unwrap();
    assert_eq!((status, info.store_id, info.has_proxy), (200, node.store().store_id(), true));
    assert_eq!(info.ranges.iter().find(|range| range.table == Table::Spans).map(|range| range.rows), Some(1));
    for open in ["/health", "/ready"] {
        assert_eq!(call(at.node_api, open, None, None).await.0, 200);
    }
    let (_, metrics) = call(at.node_api, "/metrics", Some("secret"), None).await;
    assert!(metrics.contains(r#"signal="traces",profile="public",account_id="-",fate="stored"} 1"#), "{metrics}");
    assert!(metrics.contains("lariat_collector_ledger_unbalanced 0"));

    let store = node.store();
    node.shutdown(Duration::from_secs(30)).await;
    let sealed = store.snapshot(Table::Spans);
    assert_eq!((sealed.files.len(), sealed.batches.len()), (1, 0));
    let node = collector(root.path(), None).await;
    assert_eq!(node.store().snapshot(Table::Spans).files.len(), 1);
    node.kill();
}

#[tokio::test]
async fn a_killed_collector_starts_again_in_the_same_process_with_everything_it_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let node = collector(root.path(), None).await;
    for trace in 1..=5 {
        assert_eq!(call(node.addresses().otlp_http, "/v1/traces", None, Some(otlp(trace))).await.0, 200);
    }
    let held = node.store();
    node.kill();
    let node = collector(root.path(), None).await;
    assert_eq!(crate::fixtures::kept(&*node.store()).len(), 5);
    assert_eq!(held.store_id(), node.store().store_id());
    node.kill();
}

#[tokio::test]
async fn a_node_tells_of_itself_from_its_start_on() {
    let root = tempfile::tempdir().unwrap();
    let node = collector(root.path(), None).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while crate::fixtures::rows(&crate::fixtures::visible(&*node.store(), Table::NodeStatus)) == 0 {
        assert!(Instant::now() < deadline, "no row of node_status");
        tokio::task::yield_now().await;
    }
    node.kill();
}

#[tokio::test]
async fn every_route_but_health_is_closed_to_whoever_lacks_the_token() {
    let root = tempfile::tempdir().unwrap();
    let node = collector(root.path(), Some("secret-token")).await;
    let at = node.addresses().node_api;
    let worker = "/worker.WorkerService/ExecuteTask";
    for path in
        ["/v1/info", "/v1/live", "/metrics", "/v1/pin", "/v1/release", worker, "/", "/v1/unheard-of", "/health/x"]
    {
        for body in [None, Some("{}".to_owned())] {
            for wrong in
                [None, Some(""), Some("wrong"), Some("secret-toke"), Some("secret-token2"), Some("Secret-token")]
            {
                assert_eq!(call(at, path, wrong, body.clone()).await.0, 401, "{path} {wrong:?}");
            }
        }
    }
    for path in ["/v1/info", "/metrics"] {
        assert_eq!(call(at, path, Some("secret-token"), None).await.0, 200, "{path}");
    }
    assert_eq!(call(at, "/v1/unheard-of", Some("secret-token"), None).await.0, 404);
    for open in ["/health", "/ready"] {
        assert_eq!(call(at, open, None, None).await.0, 200);
    }
    let channel = tonic::transport::Channel::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let serving = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(serving, i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving));
    node.kill();
}

#[tokio::test]
async fn without_a_token_only_loopback_may_be_bound() {
    let root = tempfile::tempdir().unwrap();
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let config =
        Config { otlp_grpc: free, otlp_http: free, node_api: SocketAddr::from(([0, 0, 0, 0], 0)), ..Config::default() };
    let settings = Settings {
        config,
        data_dir: root.path().to_owned(),
        identity: identity(),
        token: None,
        policies: Policies::default(),
        has_proxy: false,
    };
    let error = start(settings).await.err().unwrap();
    assert!(error.to_string().contains("cluster.token"), "{error}");
}
