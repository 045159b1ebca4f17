//! The feed: its bounds on clocks that the tests set, and the whole way over real sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use futures::{Stream, StreamExt as _};
use lariat_schema::coverage::{Coverage, NodeCoverage, NodeState, Slices, Window};
use lariat_schema::live::{LiveBlock, LiveDecision, LiveEvent, LiveTransition};
use lariat_schema::tables::Table;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::ask::Ask;
use crate::reports::fixture::{batch, engine};
use crate::reports::now_unix_nanos;
use crate::reports::parameters::rfc3339;

use super::hub::{Hub, Joined, MAX_BUFFERED, MAX_PER_SECOND, MAX_SUBSCRIBERS, RESUME_FOR};
use super::stream::{BATCH_INTERVAL, Message, messages};
use super::topic::Subscription;
use super::{NodeAddress, NodeDirectory, router, start};

fn decision(request: usize) -> LiveEvent {
    LiveEvent::Decision(Box::new(LiveDecision {
        request_id: format!("request-{request}"),
        profile: "public".to_owned(),
        chain: "ethereum".to_owned(),
        result: "success".to_owned(),
        ..LiveDecision::default()
    }))
}

fn block(height: i64) -> LiveEvent {
    let (profile, chain) = ("public".to_owned(), "ethereum".to_owned());
    LiveEvent::Block(LiveBlock { profile, chain, height, ..LiveBlock::default() })
}

fn transition(node_id: &str, to: &str) -> LiveEvent {
    LiveEvent::Circuit(LiveTransition {
        node_id: node_id.to_owned(),
        profile: "public".to_owned(),
        chain: "ethereum".to_owned(),
        to: to.to_owned(),
        ..LiveTransition::default()
    })
}

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(7))
}

fn join(hub: &Arc<Hub>, last: Option<&str>, now: Instant) -> Joined {
    hub.join(Subscription::parse("").unwrap(), last, now).unwrap()
}

/// A directory that a test changes as it likes.
struct Directory {
    nodes: Mutex<Vec<NodeAddress>>,
    changes: watch::Sender<u64>,
}

impl Directory {
    fn of(nodes: Vec<NodeAddress>) -> Arc<Self> {
        Arc::new(Self { nodes: Mutex::new(nodes), changes: watch::channel(0).0 })
    }

    fn set(&self, nodes: Vec<NodeAddress>) {
        *self.nodes.lock() = nodes;
        self.changes.send_modify(|version| *version += 1);
    }
}

impl NodeDirectory for Directory {
    fn nodes(&self) -> Vec<NodeAddress> {
        self.nodes.lock().clone()
    }

    fn coverage(&self) -> Coverage {
        let nodes = self.nodes.lock();
        let count = u32::try_from(nodes.len()).unwrap();
        let covered = |node: &NodeAddress| NodeCoverage {
            node_id: node.node_id.clone(),
            region: node.region.clone(),
            state: NodeState::Ready,
            answered: true,
            source: Some("live".to_owned()),
            ratio: 1.0,
            missing: Vec::new(),
            watermark: None,
            rows: 0,
            elapsed_ms: 0.0,
            error: None,
            slices: Slices::default(),
        };
        Coverage {
            complete: true,
            ratio: 1.0,
            expected: count,
            connected: count,
            responding: count,
            answered: count,
            window: Window { from: None, to: None, open_from: None },
            query_id: "now".to_owned(),
            regions: Vec::new(),
            nodes: nodes.iter().map(covered).collect(),
        }
    }

    fn token(&self) -> Option<Arc<str>> {
        Some("secret".into())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn stream(joined: Joined) -> std::pin::Pin<Box<dyn Stream<Item = Message> + Send>> {
    Box::pin(messages(&*Directory::of(Vec::new()), joined))
}

async fn next(stream: &mut (impl Stream<Item = Message> + Unpin)) -> (Message, Value) {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.unwrap().unwrap();
    let data = serde_json::from_str(&message.data).unwrap();
    (message, data)
}

#[tokio::test]
async fn a_subscriber_gets_the_newest_hundred_first_and_then_what_comes() {
    let hub = hub();
    let now = Instant::now();
    for request in 0..150 {
        hub.publish("n1", decision(request), now);
    }
    hub.publish("n1", transition("n1", "open"), now);
    let mut stream = stream(join(&hub, None, now));
    hub.publish("n1", decision(150), now);
    let (first, snapshot) = next(&mut stream).await;
    assert_eq!(first.event, "snapshot");
    assert_eq!(snapshot["decisions"].as_array().unwrap().len(), 100);
    assert_eq!(snapshot["decisions"][0]["request_id"], "request-149");
    assert_eq!(snapshot["circuits"][0]["to"], "open");
    assert!(snapshot["coverage"]["ratio"].is_number());
    let (second, batch) = next(&mut stream).await;
    assert_eq!((second.event, &batch["topic"]), ("batch", &Value::from("routing:decisions:public")));
    assert_eq!(batch["events"][0]["request_id"], "request-150");
    assert_eq!(batch["events"][0]["kind"], "decision");
}

#[tokio::test]
async fn a_hundred_events_leave_at_once_and_fewer_after_the_interval() {
    let hub = hub();
    let now = Instant::now();
    let mut stream = stream(join(&hub, None, now));
    next(&mut stream).await;
    for request in 0..101 {
        hub.publish("n1", decision(request), now);
    }
    let began = tokio::time::Instant::now();
    let (_, batch) = next(&mut stream).await;
    assert_eq!(batch["events"].as_array().unwrap().len(), 100);
    let (_, rest) = next(&mut stream).await;
    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    assert!(began.elapsed() >= BATCH_INTERVAL / 2, "one event waits for others");
}

#[tokio::test]
async fn topics_leave_together_and_only_the_last_batch_carries_the_cursor() {
    let hub = hub();
    let now = Instant::now();
    let mut stream = stream(join(&hub, None, now));
    next(&mut stream).await;
    hub.publish("n1", decision(1), now);
    hub.publish("n1", block(100), now);
    let (decisions, _) = next(&mut stream).await;
    let (blocks, data) = next(&mut stream).await;
    assert_eq!((decisions.id, data["topic"].as_str()), (None, Some("block_sync:public:ethereum")));
    assert!(blocks.id.is_some());
}

#[tokio::test]
async fn one_call_told_by_two_nodes_is_shown_once() {
    let hub = hub();
    let now = Instant::now();
    let mut stream = stream(join(&hub, None, now));
    next(&mut stream).await;
    hub.publish("n1", decision(1), now);
    hub.publish("n2", decision(1), now);
    hub.publish("n2", decision(2), now);
    let (_, batch) = next(&mut stream).await;
    assert_eq!(batch["events"].as_array().unwrap().len(), 2);
    assert_eq!(hub.figures().duplicates, 1);
}

#[tokio::test]
async fn a_subscriber_over_its_rate_is_told_how_many_it_missed() {
    let hub = hub();
    let now = Instant::now();
    let joined = join(&hub, None, now);
    let over = 25;
    for request in 0..MAX_PER_SECOND as usize + over {
        hub.publish("n1", decision(request), now);
    }
    hub.publish("n1", decision(usize::MAX), now + Duration::from_secs(1));
    let mut stream = stream(joined);
    let (mut events, mut gap) = (0, None);
    while gap.is_none() || events < 1_001 {
        let (message, data) = next(&mut stream).await;
        match message.event {
            "batch" => events += data["events"].as_array().unwrap().len(),
            "gap" => gap = Some((data["missed"].clone(), data["reason"].clone())),
            _ => {}
        }
    }
    assert_eq!((events, gap), (1_001, Some((Value::from(over), Value::from("rate_limit")))));
}

#[test]
fn a_subscriber_that_does_not_read_fills_its_buffer_and_no_more() {
    let hub = hub();
    let start = Instant::now();
    let joined = join(&hub, None, start);
    for request in 0..MAX_BUFFERED + 500 {
        let second = u64::try_from(request).unwrap() / u64::from(MAX_PER_SECOND);
        hub.publish("n1", decision(request), start + Duration::from_secs(second));
    }
    assert_eq!(joined.receiver.len(), MAX_BUFFERED);
    let told = joined.missed.take();
    assert_eq!((told[0].missed, told[0].reason), (Some(500), "buffer_full"));
    assert!(joined.missed.take().is_empty(), "told once");
}

#[tokio::test]
async fn a_cursor_goes_on_where_it_stopped_without_loss_or_repetition() {
    let hub = hub();
    let now = Instant::now();
    let mut first = stream(join(&hub, None, now));
    next(&mut first).await;
    hub.publish("n1", decision(1), now);
    let (seen, _) = next(&mut first).await;
    drop(first);
    hub.publish("n1", decision(2), now);
    let mut resumed = stream(join(&hub, seen.id.as_deref(), now));
    let (_, snapshot) = next(&mut resumed).await;
    assert_eq!(snapshot["resumed"], true);
    assert_eq!(snapshot["decisions"].as_array().unwrap().len(), 1, "the snapshot is as of the cursor");
    let (_, batch) = next(&mut resumed).await;
    assert_eq!(batch["events"].as_array().unwrap().len(), 1);
    assert_eq!(batch["events"][0]["request_id"], "request-2");
}

#[test]
fn a_cursor_older_than_five_minutes_or_of_another_process_becomes_a_gap() {
    let hub = hub();
    let start = Instant::now();
    hub.publish("n1", decision(0), start);
    let cursor = join(&hub, None, start).cursor.seal();
    for request in 1..10 {
        hub.publish("n1", decision(request), start);
    }
    assert!(join(&hub, Some(&cursor), start + RESUME_FOR / 2).resumed);
    let late = join(&hub, Some(&cursor), start + RESUME_FOR);
    assert_eq!((late.resumed, late.replay.len()), (false, 0));
    let gap = late.gap.unwrap();
    assert_eq!((gap.missed, gap.reason), (Some(9), "resume_expired"));
    let foreign = join(&Arc::new(Hub::new(8)), Some(&cursor), start);
    assert_eq!(foreign.gap.map(|gap| (gap.missed, gap.reason)), Some((None, "resume_expired")));
}

#[test]
fn subscribers_are_bounded_and_a_place_is_free_again_when_one_leaves() {
    let hub = hub();
    let now = Instant::now();
    let mut joined: Vec<Joined> = (0..MAX_SUBSCRIBERS).map(|_| join(&hub, None, now)).collect();
    assert!(hub.join(Subscription::parse("").unwrap(), None, now).is_none());
    assert_eq!(hub.figures().refused_subscribers, 1);
    joined.pop();
    assert!(hub.join(Subscription::parse("").unwrap(), None, now).is_some());
}

/// A node that streams what its test sends, to those with the token.
async fn node() -> (String, broadcast::Sender<LiveEvent>) {
    let (sender, _) = broadcast::channel::<LiveEvent>(64);
    let source = sender.clone();
    let live = move |headers: HeaderMap| async move {
        if headers.get("authorization").is_none_or(|value| value != "Bearer secret") {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let events = tokio_stream::wrappers::BroadcastStream::new(source.subscribe());
        let lines = events.map(|event| {
            // Two pieces, since a line need not come in one.
            let line = serde_json::to_string(&event.unwrap()).unwrap() + "\n";
            let (head, tail) = line.split_at(line.len() / 2);
            futures::stream::iter([head.to_owned(), tail.to_owned()].map(Ok::<_, std::convert::Infallible>))
        });
        Ok(Body::from_stream(lines.flatten()))
    };
    (serve(Router::new().route("/v1/live", get(live))).await, sender)
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn address(node_id: &str, base_url: String) -> NodeAddress {
    NodeAddress { node_id: node_id.to_owned(), region: "us-east".to_owned(), base_url }
}

async fn nothing_recorded() -> Arc<dyn Ask> {
    engine(Vec::new()).await
}

/// The parsed events of a server-sent stream as they come.
struct Client {
    body: std::pin::Pin<Box<dyn Stream<Item = bytes::Bytes> + Send>>,
    text: String,
}

impl Client {
    async fn connect(base: &str) -> Self {
        let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let request = hyper::Request::get(format!("{base}/api/v1/stream")).body(Body::empty()).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = Body::new(response.into_body()).into_data_stream().map(Result::unwrap);
        Self { body: Box::pin(body), text: String::new() }
    }

    /// The data of the next event of this name; others are passed over.
    async fn next(&mut self, wanted: &str) -> Value {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let data = (field("event:") == Some(wanted)).then(|| field("data:").unwrap_or_default().to_owned());
                self.text = rest.to_owned();
                if let Some(data) = data {
                    return serde_json::from_str(&data).unwrap();
                }
            }
            let bytes = tokio::time::timeout(Duration::from_secs(30), self.body.next()).await.unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

/// Waits until somebody listens to the node.
async fn listened_to(sender: &broadcast::Sender<LiveEvent>) {
    let listened = async {
        while sender.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), listened).await.unwrap();
}

#[tokio::test]
async fn a_decision_travels_from_a_node_to_a_browser_over_real_sockets() {
    let (first, first_sender) = node().await;
    let (second, second_sender) = node().await;
    let directory = Directory::of(vec![address("n1", first)]);
    let feed = start(Arc::clone(&directory) as Arc<dyn NodeDirectory>);
    let base = serve(router(feed.clone(), nothing_recorded().await, CancellationToken::new())).await;
    let mut client = Client::connect(&base).await;
    assert_eq!(client.next("snapshot").await["coverage"]["expected"], 1);
    listened_to(&first_sender).await;
    first_sender.send(decision(1)).unwrap();
    assert_eq!(client.next("batch").await["events"][0]["request_id"], "request-1");

    directory.set(vec![directory.nodes()[0].clone(), address("n2", second)]);
    let topology = client.next("topology").await;
    assert_eq!((&topology["changes"][0]["node_id"], &topology["changes"][0]["to"]), (&"n2".into(), &"ready".into()));
    listened_to(&second_sender).await;
    second_sender.send(LiveEvent::Gap { missed: 5 }).unwrap();
    let gap = client.next("gap").await;
    assert_eq!((&gap["missed"], &gap["reason"], &gap["node_id"]), (&5.into(), &"node_left_out".into(), &"n2".into()));
}

#[tokio::test]
async fn a_node_whose_stream_breaks_is_told_as_a_gap_and_listened_to_again() {
    let (base_url, sender) = node().await;
    let directory = Directory::of(vec![address("n1", base_url)]);
    let feed = start(Arc::clone(&directory) as Arc<dyn NodeDirectory>);
    let mut client =
        Client::connect(&serve(router(feed, nothing_recorded().await, CancellationToken::new())).await).await;
    listened_to(&sender).await;
    // More at once than the node holds for a listener: its stream ends with an error.
    for request in 0..200 {
        sender.send(decision(request)).unwrap();
    }
    assert_eq!(client.next("gap").await["reason"], "node_interrupted");
    listened_to(&sender).await;
    sender.send(decision(1_000)).unwrap();
    let batch = client.next("batch").await;
    let events = batch["events"].as_array().unwrap();
    assert_eq!(events.last().unwrap()["request_id"], "request-1000");
}

#[tokio::test]
async fn a_misspelt_topic_is_a_400_that_names_the_forms() {
    let feed = start(Directory::of(Vec::new()));
    let (status, body) = crate::reports::fixture::get(
        router(feed, nothing_recorded().await, CancellationToken::new()),
        "/api/v1/stream?topic=routing",
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"]["message"].as_str().unwrap().contains("routing:decisions:{profile}"), "{body}");
}

#[tokio::test]
async fn a_snapshot_shows_what_was_recorded_before_the_service_listened_and_shows_it_once() {
    let id = uuid::Uuid::now_v7();
    let now = now_unix_nanos();
    let recorded = serde_json::json!({
        "time": rfc3339(now), "span_kind": "server", "request_id": id.simple().to_string(), "batch_index": 0,
        "profile": "public", "chain": "ethereum", "method": "eth_call", "node_id": "n1", "region": "us-east",
        "result": "success", "attempts": 1, "failovers": 0, "duration_ns": 5, "keep_reason": "rate", "adjusted_count": 1.0,
    });
    let opened = |to: &str, ago: i64| {
        serde_json::json!({
            "time": rfc3339(now - ago), "event_name": "lariat.circuit.transition", "node_id": "n1", "region": "us-east",
            "profile": "public", "chain": "ethereum", "provider_id": "a", "transport": "http", "keep_reason": "transition",
            "attributes": { "lariat.circuit.from": "", "lariat.circuit.to": to, "lariat.circuit.reason": "failures" },
        })
    };
    let logs = batch(Table::Logs, &[opened("open", 2_000), opened("half_open", 1_000)]);
    let ask = engine(vec![batch(Table::Spans, &[recorded]), logs]).await;
    let hub = hub();
    let subscription = Subscription::parse("chain=ethereum").unwrap();
    let mut joined = hub.join(subscription.clone(), None, Instant::now()).unwrap();
    super::backfill::backfill(&*ask, &subscription, &mut joined).await;
    let heard_too = LiveDecision {
        request_id: id.to_string(),
        profile: "public".into(),
        chain: "ethereum".into(),
        ..LiveDecision::default()
    };
    hub.publish("n1", LiveEvent::Decision(Box::new(heard_too)), Instant::now());
    hub.publish("n1", decision(2), Instant::now());
    let mut stream = stream(joined);
    let (_, snapshot) = next(&mut stream).await;
    assert_eq!(snapshot["decisions"][0]["request_id"], id.to_string());
    assert_eq!(
        (&snapshot["circuits"][0]["to"], snapshot["circuits"].as_array().unwrap().len()),
        (&"half_open".into(), 1)
    );
    let (_, batch) = next(&mut stream).await;
    let shown: Vec<_> = batch["events"].as_array().unwrap().iter().map(|event| event["request_id"].clone()).collect();
    assert_eq!(shown, ["request-2"]);
}
