//! What a node answers on its own port: health for everybody; who it is, its live events and its figures for those who
//! have the cluster token; and the worker that queries read it through.
//!
//! One port for HTTP and gRPC, because a node should be reachable through one hole in a firewall. Without a token only
//! loopback may be bound. The token is asked for in front of everything but what is listed as open, so that a new route, and a
//! path that is none, are closed without anybody's doing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lariat_schema::ids::BootId;
use lariat_schema::live::LiveEvent;
use lariat_schema::node_api::{LastWord, NodeInfo};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

mod exposition;
mod serve;

pub(crate) use serve::Server;

use crate::forward;
use crate::live::{RECENT, gap};
use crate::store::ReadStore;
use crate::store::core::Core;
#[cfg(feature = "worker")]
use crate::worker::pins::PinBook;

/// Pause after which a live stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The cluster token; never printed.
#[derive(Clone)]
struct Token(Option<Arc<str>>);

impl Token {
    /// Compares in a time that tells nothing about where the first difference is.
    fn admits(&self, authorization: Option<&str>) -> bool {
        let Some(token) = &self.0 else { return true };
        let Some(given) = authorization.and_then(|text| text.strip_prefix("Bearer ")) else { return false };
        let (given, token) = (given.as_bytes(), token.as_bytes());
        let differences = given.iter().zip(token).fold(0, |found, (left, right)| found | (left ^ right));
        given.len() == token.len() && differences == 0
    }
}

/// What is counted in a collector, for `/metrics` and `/v1/info`.
#[derive(Clone)]
pub(crate) struct Figures {
    pub(crate) core: Arc<Core>,
    pub(crate) forwarded: Option<Arc<forward::Counters>>,
    #[cfg(feature = "worker")]
    pub(crate) pins: Arc<PinBook>,
}

/// What the handlers need.
#[derive(Clone)]
struct Node {
    figures: Figures,
    has_proxy: bool,
    started_unix_nanos: i64,
    closing: CancellationToken,
}

/// Whether the node takes new work, as health checks are told.
#[derive(Clone)]
pub(crate) struct Readiness {
    draining: Arc<AtomicBool>,
    grpc: HealthReporter,
}

impl Readiness {
    /// From now on whoever asks is told to go elsewhere; what comes all the same is still answered.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.grpc.set_service_status("", ServingStatus::NotServing).await;
    }
}

/// The node API of one collector, before it listens.
pub(crate) struct NodeApi {
    router: Router,
    closing: CancellationToken,
    token: Token,
    readiness: Readiness,
}

/// Why the node API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum NodeApiError {
    /// Without a token others than this host would be let in.
    #[error("`collector.node_api` is {address}, which others can reach: set `cluster.token`, or bind loopback")]
    Open {
        /// The configured address.
        address: SocketAddr,
    },
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address} for `collector.node_api`: {source}; choose another address, or stop what listens there"
    )]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

impl NodeApi {
    pub(crate) async fn new(figures: Figures, has_proxy: bool, token: Option<Arc<str>>) -> Self {
        let closing = CancellationToken::new();
        let token = Token(token);
        let started_unix_nanos = figures.core.now();
        let node = Node { figures, has_proxy, started_unix_nanos, closing: closing.clone() };
        let closed = Router::new()
            .route("/v1/info", get(info))
            .route("/v1/live", get(live))
            .route("/v1/farewell", get(farewell))
            .route("/metrics", get(metrics))
            .with_state(node);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", ServingStatus::Serving).await;
        let readiness = Readiness { draining: Arc::default(), grpc: reporter };
        let open = Router::new()
            .route("/health", get(ok))
            .route("/ready", get(ready).with_state(Arc::clone(&readiness.draining)));
        let grpc = tonic::service::Routes::new(health).into_axum_router().reset_fallback();
        Self { router: open.merge(closed).merge(grpc), closing, token, readiness }
    }

    /// What health checks are told.
    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Adds the worker's routes.
    #[cfg(feature = "worker")]
    pub(crate) fn with_routes(mut self, routes: Router) -> Self {
        self.router = self.router.merge(routes);
        self
    }

    /// Binds and serves.
    pub(crate) async fn listen(self, address: SocketAddr) -> Result<Server, NodeApiError> {
        if self.token.0.is_none() && !address.ip().is_loopback() {
            return Err(NodeApiError::Open { address });
        }
        let router = self.router.layer(middleware::from_fn_with_state(self.token, authorize));
        Server::start(router, address, self.closing).await.map_err(|source| NodeApiError::Bind { address, source })
    }
}

/// What everybody may ask: paths, and the service of gRPC's health checks.
const OPEN: [&str; 2] = ["/health", "/ready"];
const OPEN_SERVICE: &str = "/grpc.health.v1.Health/";

async fn authorize(State(token): State<Token>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if OPEN.contains(&path) || path.starts_with(OPEN_SERVICE) {
        return next.run(request).await;
    }
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if token.admits(given) {
        return next.run(request).await;
    }
    let body = r#"{"error":{"code":"unauthenticated","message":"the cluster token is missing or wrong","hint":"send Authorization: Bearer <CLUSTER_TOKEN>"}}"#;
    (StatusCode::UNAUTHORIZED, [(header::CONTENT_TYPE, "application/json"), (header::WWW_AUTHENTICATE, "Bearer")], body)
        .into_response()
}

async fn ok() -> &'static str {
    "ok\n"
}

/// The listener is bound after the log was replayed: who is answered at all finds the node ready, unless it is ending.
async fn ready(State(draining): State<Arc<AtomicBool>>) -> (StatusCode, &'static str) {
    if draining.load(Ordering::Acquire) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn info(State(node): State<Node>) -> axum::Json<NodeInfo> {
    let core = &node.figures.core;
    axum::Json(NodeInfo {
        identity: core.identity.clone(),
        store_id: core.store_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_nanos: node.started_unix_nanos,
        now_unix_nanos: core.now(),
        watermark_unix_nanos: core.watermark_unix_nanos(),
        has_proxy: node.has_proxy,
        ranges: core.ranges(),
        forward: node.figures.forwarded.as_ref().map(|counters| counters.info(core.now())),
        boots: core.boots(),
    })
}

/// One line at once, and one when the node ends cleanly. Query services hold this open, so that they hear of a farewell
/// at that moment and of a crash by the connection's end.
async fn farewell(State(node): State<Node>) -> Response {
    let boot_id = node.figures.core.identity.boot_id;
    let first = futures::stream::iter([last_word(boot_id, None)]);
    let last = futures::stream::once(async move {
        node.closing.cancelled().await;
        last_word(boot_id, Some(node.figures.core.now()))
    });
    let body = Body::from_stream(futures::StreamExt::chain(first, last));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn last_word(boot_id: BootId, farewell_unix_nanos: Option<i64>) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string(&LastWord { boot_id, farewell_unix_nanos })? + "\n")
}

#[derive(Deserialize)]
struct LiveQuery {
    /// How many of the newest decisions come first.
    #[serde(default)]
    recent: usize,
}

async fn live(State(node): State<Node>, Query(query): Query<LiveQuery>) -> Response {
    let (recent, events) = node.figures.core.live.subscribe(query.recent.min(RECENT));
    let first = futures::stream::iter(recent.into_iter().map(|event| Ok(line(&event))));
    let rest = futures::stream::unfold((events, node.closing), |(mut events, closing)| async move {
        let event = tokio::select! {
            () = closing.cancelled() => return None,
            event = tokio::time::timeout(HEARTBEAT, events.recv()) => event,
        };
        let text = match event {
            Err(_) => line(&LiveEvent::Heartbeat),
            Ok(Ok(event)) => line(&event),
            Ok(Err(broadcast::error::RecvError::Lagged(missed))) => line(&gap(missed)),
            Ok(Err(broadcast::error::RecvError::Closed)) => return None,
        };
        Some((Ok::<_, std::convert::Infallible>(text), (events, closing)))
    });
    let body = Body::from_stream(futures::StreamExt::chain(first, rest));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn line(event: &LiveEvent) -> String {
    let mut text = serde_json::to_string(event).expect("a live event has text keys only");
    text.push('\n');
    text
}

async fn metrics(State(node): State<Node>) -> Response {
    let Figures { core, forwarded, .. } = &node.figures;
    let mut text = exposition::of(core);
    core.counters.received.expose(&mut text);
    core.counters.received.expose_held(&mut text);
    #[cfg(feature = "worker")]
    node.figures.pins.figures().expose(&mut text);
    // Written after the state is free again.
    let calls = core.state.lock().call_metrics();
    calls.expose(&mut text);
    if let Some(forwarded) = forwarded {
        forwarded.expose(core.now(), &mut text);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
