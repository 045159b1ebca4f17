//! Sending on, between real collectors over real sockets, with a faulty relay between them, and to servers that refuse.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lariat_schema::node_api::NodeInfo;
use lariat_schema::tables::Table;
use lariat_tools::relay::{self, RelayFaults};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::fixtures::{identity, kept, rows, visible};
use crate::{Collector, Config, Policies, Settings, start};

mod encrypted;

const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const LONG: Duration = Duration::from_secs(60);

async fn collector(root: &Path, forward: Option<Value>) -> Collector {
    collector_at(root, forward, FREE).await
}

async fn collector_at(root: &Path, forward: Option<Value>, otlp_grpc: SocketAddr) -> Collector {
    let forward = forward.map(|forward| serde_json::from_value(forward).unwrap());
    let config = Config { otlp_grpc, otlp_http: FREE, node_api: FREE, forward, ..Config::default() };
    let settings = Settings {
        config,
        data_dir: root.to_owned(),
        identity: identity(),
        token: None,
        policies: Policies::default().with("public", crate::SamplingPolicy::with_rate(1.0)),
        has_proxy: false,
    };
    start(settings).await.unwrap()
}

async fn http(address: SocketAddr, path: &str, body: Option<String>) -> (u16, String) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = hyper::Request::builder().uri(format!("http://{address}{path}"));
    if body.is_some() {
        request = request.method("POST").header("content-type", "application/json");
    }
    let response = client.request(request.body(Full::from(body.unwrap_or_default())).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// Sends one span in a request of its own.
async fn send(node: &Collector, trace: u128) {
    let body = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": format!("{trace:032x}"), "spanId": "0000000000000001", "name": "x", "kind": 2,
        "startTimeUnixNano": "1763683200000000000", "endTimeUnixNano": "1763683200005000000",
        "attributes": [{"key": "lariat.profile", "value": {"stringValue": "public"}}]}]}]}]});
    let (status, answer) = http(node.addresses().otlp_http, "/v1/traces", Some(body.to_string())).await;
    assert_eq!(status, 200, "{answer}");
}

async fn info(node: &Collector) -> lariat_schema::node_api::ForwardInfo {
    let (_, body) = http(node.addresses().node_api, "/v1/info", None).await;
    serde_json::from_str::<NodeInfo>(&body).unwrap().forward.unwrap()
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + LONG;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn arrived(node: &Collector, spans: usize) {
    until("the spans arrive", async || rows(&visible(&*node.store(), Table::Spans)) >= spans).await;
}

fn to(address: SocketAddr, protocol: &str) -> Value {
    json!({"endpoint": format!("http://{address}"), "protocol": protocol, "timeout": "1s"})
}

#[tokio::test]
async fn what_one_collector_receives_another_has_too_in_both_protocols_and_every_compression() {
    for (protocol, compression) in
        [("grpc", "gzip"), ("grpc", "none"), ("http/protobuf", "zstd"), ("http/protobuf", "none")]
    {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let far = collector(there.path(), None).await;
        let addresses = far.addresses();
        let address = if protocol == "grpc" { addresses.otlp_grpc } else { addresses.otlp_http };
        let mut settings = to(address, protocol);
        settings["compression"] = json!(compression);
        let near = collector(here.path(), Some(settings)).await;
        for trace in 1..=5 {
            send(&near, trace).await;
        }
        let log = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "7", "body": {"stringValue": "x"}}]}]}]});
        assert_eq!(http(near.addresses().otlp_http, "/v1/logs", Some(log.to_string())).await.0, 200);
        arrived(&far, 5).await;
        until("the log arrives", async || rows(&visible(&*far.store(), Table::Logs)) == 1).await;
        until("all is acknowledged", async || info(&near).await.delivered_requests == 6).await;
        assert_eq!(kept(&*near.store()), kept(&*far.store()));
        let (_, metrics) = http(near.addresses().node_api, "/metrics", None).await;
        assert!(metrics.contains("lariat_forward_delivered_requests_total 6"), "{metrics}");
        near.shutdown(LONG).await;
        far.shutdown(LONG).await;
    }
}

#[tokio::test]
async fn through_a_faulty_relay_and_two_kills_nothing_is_lost_and_nothing_counts_twice() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut far = collector(there.path(), None).await;
    let address = far.addresses().otlp_grpc;
    let between = relay::start(FREE, &address.to_string()).await.unwrap();
    let settings = to(between.address(), "grpc");
    let mut near = collector(here.path(), Some(settings.clone())).await;
    let mut sent = 0;
    for faults in [
        RelayFaults::default(),
        RelayFaults { cut_after_bytes: Some(1_500), ..RelayFaults::default() },
        RelayFaults { refuse: true, ..RelayFaults::default() },
        RelayFaults { stalled: true, ..RelayFaults::default() },
        RelayFaults { delay_ms: 20, ..RelayFaults::default() },
    ] {
        between.set_faults(faults.clone());
        between.reset_connections();
        for _ in 0..10 {
            sent += 1;
            send(&near, sent).await;
        }
        if faults.cut_after_bytes.is_some() {
            // The other side is gone for a while, and comes back where it was.
            far.kill();
            far = collector_at(there.path(), None, address).await;
        }
        if faults.stalled {
            // This side is killed with requests under way and in the queue.
            near.kill();
            near = collector(here.path(), Some(settings.clone())).await;
        }
    }
    let expected = usize::try_from(sent).unwrap();
    arrived(&far, expected).await;
    until("the queue is empty", async || info(&near).await.waiting_requests == 0).await;
    assert_eq!(kept(&*far.store()).len(), expected);
    assert_eq!(kept(&*far.store()), kept(&*near.store()));
    assert_eq!(info(&near).await.dropped_requests, 0);
    near.shutdown(LONG).await;
    far.shutdown(LONG).await;
}

#[tokio::test]
async fn with_the_other_side_gone_receiving_goes_on_the_end_does_not_wait_and_the_next_start_delivers() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Held without listening: connections are refused, and no other test is given the port meanwhile.
    let held = TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind(FREE).unwrap();
    let address = held.local_addr().unwrap();
    let near = collector(here.path(), Some(to(address, "grpc"))).await;
    for trace in 1..=4 {
        send(&near, trace).await;
    }
    until("the failure shows", async || info(&near).await.failing).await;
    let (_, metrics) = http(near.addresses().node_api, "/metrics", None).await;
    assert!(metrics.contains("lariat_forward_waiting_requests 4"), "{metrics}");
    let began = Instant::now();
    near.shutdown(LONG).await;
    assert!(began.elapsed() < LONG / 2, "the end waited for a dead collector: {:?}", began.elapsed());
    let far = collector_at(there.path(), None, address).await;
    let near = collector(here.path(), Some(to(address, "grpc"))).await;
    arrived(&far, 4).await;
    near.shutdown(LONG).await;
    far.shutdown(LONG).await;
}

#[tokio::test]
async fn the_end_sends_what_still_waits() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let far = collector(there.path(), None).await;
    let between = relay::start(FREE, &far.addresses().otlp_grpc.to_string()).await.unwrap();
    between.set_faults(RelayFaults { delay_ms: 30, ..RelayFaults::default() });
    let near = collector(here.path(), Some(to(between.address(), "grpc"))).await;
    for trace in 1..=20 {
        send(&near, trace).await;
    }
    near.shutdown(LONG).await;
    assert_eq!(rows(&visible(&*far.store(), Table::Spans)), 20);
    far.shutdown(LONG).await;
}

#[tokio::test]
async fn a_collector_that_sends_to_itself_stops_after_a_few_rounds() {
    let here = tempfile::tempdir().unwrap();
    let free = TcpListener::bind(FREE).await.unwrap().local_addr().unwrap();
    let node = collector_at(here.path(), Some(to(free, "grpc")), free).await;
    send(&node, 1).await;
    until("it is noticed", async || info(&node).await.dropped_requests == 1).await;
    until("the last round ends", async || info(&node).await.delivered_requests == 4).await;
    let (_, metrics) = http(node.addresses().node_api, "/metrics", None).await;
    assert!(metrics.contains("lariat_forward_dropped_requests_total{reason=\"loop\"} 1"), "{metrics}");
    assert_eq!(rows(&visible(&*node.store(), Table::Spans)), 1);
    node.shutdown(LONG).await;
}

/// A server that gives these answers, one to each request, the last for ever.
async fn answering(answers: Vec<&'static str>) -> (SocketAddr, Arc<parking_lot::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(FREE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heads = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut bytes = Vec::new();
            let mut chunk = [0; 4_096];
            let head = loop {
                let read = stream.read(&mut chunk).await.unwrap_or(0);
                bytes.extend_from_slice(&chunk[..read]);
                let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
                let Some(end) = end else {
                    if read == 0 {
                        break None;
                    }
                    continue;
                };
                let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                while bytes.len() < end + 4 + length.unwrap_or(0) {
                    let read = stream.read(&mut chunk).await.unwrap_or(0);
                    if read == 0 {
                        break;
                    }
                    bytes.extend_from_slice(&chunk[..read]);
                }
                break Some(head);
            };
            let Some(head) = head else { continue };
            let nth = {
                let mut heads = heads.lock();
                heads.push(head);
                heads.len() - 1
            };
            let answer = answers[nth.min(answers.len() - 1)];
            let _ = stream.write_all(format!("HTTP/1.1 {answer}connection: close\r\n\r\n").as_bytes()).await;
        }
    });
    (address, seen)
}

#[tokio::test]
async fn what_is_refused_for_good_is_dropped_with_its_reason_and_the_next_goes_on() {
    let here = tempfile::tempdir().unwrap();
    let (address, seen) = answering(vec!["401 No\r\ncontent-length: 0\r\n", "200 OK\r\ncontent-length: 0\r\n"]).await;
    let mut settings = to(address, "http/protobuf");
    settings["headers"] = json!({"authorization": "Bearer s3cret"});
    let near = collector(here.path(), Some(settings)).await;
    for trace in 1..=2 {
        send(&near, trace).await;
        until("it is answered", async || info(&near).await.waiting_requests == 0).await;
    }
    let (_, metrics) = http(near.addresses().node_api, "/metrics", None).await;
    assert!(metrics.contains("lariat_forward_dropped_requests_total{reason=\"http_401\"} 1"), "{metrics}");
    assert!(!metrics.contains("s3cret"));
    let info = info(&near).await;
    assert_eq!((info.delivered_requests, info.dropped_requests), (1, 1));
    let heads = seen.lock().clone();
    assert_eq!(heads.len(), 2);
    for expected in [
        "post /v1/traces",
        "authorization: bearer s3cret",
        "content-type: application/x-protobuf",
        "content-encoding: gzip",
    ] {
        assert!(heads[0].contains(expected), "{expected} is not in {}", heads[0]);
    }
    near.shutdown(LONG).await;
}

#[tokio::test]
async fn a_server_that_says_when_to_come_back_is_left_alone_until_then() {
    let here = tempfile::tempdir().unwrap();
    let (address, seen) =
        answering(vec!["429 Slow\r\nretry-after: 2\r\ncontent-length: 0\r\n", "200 OK\r\ncontent-length: 0\r\n"]).await;
    let near = collector(here.path(), Some(to(address, "http/protobuf"))).await;
    let began = Instant::now();
    send(&near, 1).await;
    until("it is delivered", async || info(&near).await.delivered_requests == 1).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(seen.lock().len(), 2);
    near.shutdown(LONG).await;
}

#[tokio::test]
async fn a_full_queue_drops_its_oldest_and_receiving_never_waits() {
    let here = tempfile::tempdir().unwrap();
    let (address, _) = answering(vec!["503 Later\r\nretry-after: 300\r\ncontent-length: 0\r\n"]).await;
    let mut settings = to(address, "http/protobuf");
    settings["queue_bytes"] = json!(262_144);
    settings["signals"] = json!(["logs"]);
    let near = collector(here.path(), Some(settings)).await;
    send(&near, 1).await;
    for number in 0..40 {
        let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
            {"timeUnixNano": "7", "body": {"stringValue": format!("{number}{}", "x".repeat(20_000))}}]}]}]});
        assert_eq!(http(near.addresses().otlp_http, "/v1/logs", Some(body.to_string())).await.0, 200);
    }
    let info = info(&near).await;
    assert!(info.dropped_requests > 20 && info.waiting_bytes <= 262_144, "{info:?}");
    assert_eq!(info.dropped_requests + info.waiting_requests, 40, "{info:?}");
    let (_, metrics) = http(near.addresses().node_api, "/metrics", None).await;
    let dropped = format!("lariat_forward_dropped_requests_total{{reason=\"queue_full\"}} {}", info.dropped_requests);
    assert!(metrics.contains(&dropped), "{metrics}");
    assert_eq!(rows(&visible(&*near.store(), Table::Logs)), 40);
    near.kill();
}
