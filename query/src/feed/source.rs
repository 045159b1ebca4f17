//! The nodes' ends of the feed: one reader per node of the directory, over HTTP, reconnecting for as long as the directory
//! names the node. A reader hands each line to the hub and waits for nothing there, so the only queue is the socket: a
//! query service that falls behind is told so by the node, as a gap.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lariat_schema::coverage::Coverage;
use lariat_schema::live::LiveEvent;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::hub::{Hub, NodeChange, TopologyChanged};
use super::{NodeAddress, NodeDirectory};

/// Longest line of a node's stream: a decision has about 1 KiB.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Time for a connection and the reply's head.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Silence after which a stream counts as dead; nodes send heartbeats more often.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// First and longest pause between two connections to a node.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How often the directory is read even if it told of no change.
const REFRESH: Duration = Duration::from_secs(5);

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

/// Follows the directory until dropped: a reader for each node, and a message for each change of a node's state.
pub(super) async fn follow(directory: Arc<dyn NodeDirectory>, hub: Arc<Hub>) {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    let client: HttpClient = Client::builder(TokioExecutor::new()).build(connector);
    let mut changes = directory.changes();
    let mut readers: HashMap<NodeAddress, AbortOnDropHandle<()>> = HashMap::new();
    let mut coverage = directory.coverage();
    loop {
        let nodes = directory.nodes();
        readers.retain(|node, _| nodes.contains(node));
        for node in nodes {
            readers.entry(node.clone()).or_insert_with(|| {
                let reader = read_forever(node, client.clone(), Arc::clone(&directory), Arc::clone(&hub));
                AbortOnDropHandle::new(tokio::spawn(reader))
            });
        }
        let now = directory.coverage();
        let changed = changes_between(&coverage, &now);
        if !changed.is_empty() {
            hub.topology_changed(TopologyChanged { changes: changed, coverage: now.clone() }, Instant::now());
        }
        coverage = now;
        // A directory that is gone tells no more changes; its last word is then read again and again.
        if let Ok(Err(_)) = timeout(REFRESH, changes.changed()).await {
            sleep(REFRESH).await;
        }
    }
}

/// Nodes that came, went or changed their state.
fn changes_between(before: &Coverage, after: &Coverage) -> Vec<NodeChange> {
    let state_in = |coverage: &Coverage, node_id: &str| {
        coverage.nodes.iter().find(|node| node.node_id == node_id).map(|node| node.state.as_str())
    };
    let gone = before.nodes.iter().filter(|node| state_in(after, &node.node_id).is_none());
    after
        .nodes
        .iter()
        .chain(gone)
        .map(|node| NodeChange {
            node_id: node.node_id.clone(),
            region: node.region.clone(),
            from: state_in(before, &node.node_id),
            to: state_in(after, &node.node_id),
        })
        .filter(|change| change.from != change.to)
        .collect()
}

/// Why a node's stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnded {
    #[error("no connection: {0}")]
    Connect(#[from] hyper_util::client::legacy::Error),
    #[error("the address is no URL: {0}")]
    Address(#[from] http::Error),
    #[error("the node answered {0}")]
    Status(StatusCode),
    #[error("the stream broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("a line is longer than 1 MiB")]
    LongLine,
    #[error("nothing came in time")]
    Silent,
    #[error("the node ended it")]
    End,
}

async fn read_forever(node: NodeAddress, client: HttpClient, directory: Arc<dyn NodeDirectory>, hub: Arc<Hub>) {
    let (first, longest) = BACKOFF;
    let mut pause = first;
    loop {
        let ended = match open(&node, &client, &*directory).await {
            Ok(response) => {
                pause = first;
                let ended = read_lines(&node.node_id, response.into_body(), &hub).await;
                hub.node_interrupted(&node.node_id, Instant::now());
                ended
            }
            Err(ended) => ended,
        };
        tracing::debug!(node_id = %node.node_id, reason = %ended, "a node's live stream ended");
        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(longest);
    }
}

async fn open(
    node: &NodeAddress,
    client: &HttpClient,
    directory: &dyn NodeDirectory,
) -> Result<Response<Incoming>, StreamEnded> {
    let uri = format!("{}/v1/live", node.base_url.trim_end_matches('/'));
    let mut request = Request::get(uri).header(ACCEPT, "application/x-ndjson");
    if let Some(token) = directory.token() {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::new())?;
    let response = timeout(CONNECT_TIMEOUT, client.request(request)).await.map_err(|_| StreamEnded::Silent)??;
    if response.status() != StatusCode::OK {
        return Err(StreamEnded::Status(response.status()));
    }
    Ok(response)
}

async fn read_lines(node_id: &str, mut body: Incoming, hub: &Hub) -> StreamEnded {
    let mut rest = BytesMut::new();
    loop {
        let frame = match timeout(IDLE_TIMEOUT, body.frame()).await {
            Err(_) => return StreamEnded::Silent,
            Ok(None) => return StreamEnded::End,
            Ok(Some(Err(error))) => return error.into(),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.split_to(end + 1);
            publish_line(node_id, &line[..end], hub);
        }
        if rest.len() > MAX_LINE_BYTES {
            return StreamEnded::LongLine;
        }
    }
}

/// A line that is no event of this version is left out: a newer node may tell more than we know.
fn publish_line(node_id: &str, line: &[u8], hub: &Hub) {
    let line = line.trim_ascii();
    if line.is_empty() {
        return;
    }
    match serde_json::from_slice::<LiveEvent>(line) {
        Ok(event) => hub.publish(node_id, event, Instant::now()),
        Err(error) => tracing::debug!(node_id, %error, "a line of a node's live stream is no known event"),
    }
}
