//! The listener and its connections: accept, serve, stop. Hyper is used directly, without a web framework: there are few
//! routes, and every layer above it costs on each call. A graceful stop lets calls that are under way finish; a kill
//! drops every connection where it stands.

pub(crate) mod admin;
mod patience;
pub(crate) mod routes;
pub(crate) mod rpc;
mod seldom;
mod state;
pub(crate) mod ws;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lariat_schema::node_api::NodeIdentity;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::admit::Gate;
use crate::core::Core;
use crate::reload::Reloader;
use crate::server::patience::Patient;
use crate::server::seldom::Seldom;
use crate::subscribe::Subscriptions;
use ws::{Guest, Life};

/// Connections at once; further ones wait in the system's backlog.
const MAX_CONNECTIONS: usize = 10_000;
/// Bytes of a request's head at most; a longer one is answered 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Requests at once on one connection of HTTP/2.
const MAX_STREAMS: u32 = 128;
/// Pause after a failed accept, which is mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(crate) type Reply = Response<Full<Bytes>>;

/// What every request is served with.
pub(crate) struct Site {
    core: ArcSwap<Core>,
    pub(crate) gate: Gate,
    pub(crate) admin_token: Option<String>,
    pub(crate) identity: NodeIdentity,
    pub(crate) started: Instant,
    /// True once every provider of the start has been probed.
    pub(crate) probed: AtomicBool,
    pub(crate) reloader: Reloader,
    /// Held while the core is replaced, and by what must not be lost between the old and the new one.
    pub(crate) changing: Mutex<()>,
    pub(crate) sockets: ws::Counts,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) life: Life,
}

impl Site {
    pub(crate) fn new(
        core: Core,
        gate: Gate,
        admin_token: Option<String>,
        identity: NodeIdentity,
        reloader: Reloader,
        life: Life,
    ) -> Self {
        Self {
            core: ArcSwap::from_pointee(core),
            gate,
            admin_token,
            identity,
            started: Instant::now(),
            probed: AtomicBool::new(false),
            reloader,
            changing: Mutex::new(()),
            sockets: ws::Counts::default(),
            subscriptions: Subscriptions::default(),
            life,
        }
    }

    /// What is routed and what is known of it as of now. A request asks once and keeps what it got, so that a reload
    /// never changes the rules under a call.
    pub(crate) fn core(&self) -> Arc<Core> {
        self.core.load_full()
    }

    /// Puts another core in force for the requests from now on.
    pub(crate) fn replace(&self, core: Arc<Core>) {
        self.core.store(core);
    }
}

/// Accepts until told to stop.
pub(crate) async fn accept(listener: TcpListener, site: Arc<Site>) {
    let life = site.life.clone();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = life.draining.cancelled() => return,
            () = life.kill.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let guest = Guest { peer, _place: Arc::new(place) };
                life.tasks.spawn(connection(stream, guest, site.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, guest: Guest, site: Arc<Site>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let patience = site.gate.patience;
    // More than 100 headers are answered 431, which is hyper's own bound; where the builder is told one, even the same, it
    // fills a list of that length for every request.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.head).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(patience.head)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    let (peer, life) = (guest.peer, site.life.clone());
    let serving = site.clone();
    let service = service_fn(move |request| {
        let (site, guest) = (serving.clone(), guest.clone());
        async move { Ok::<_, Infallible>(serve(&site, &guest, request).await) }
    });
    let stream = Patient::new(stream, patience);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let killed = Seldom::new(async {
        tokio::select! {
            () = life.kill.cancelled() => true,
            () = life.draining.cancelled() => false,
        }
    });
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        killed = killed => {
            if killed {
                return;
            }
            connection.as_mut().graceful_shutdown();
            let Some(served) = life.kill.run_until_cancelled(connection).await else { return };
            served
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection ended early");
        // What is no HTTP is answered by hyper; it never was a request here.
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            site.gate.count_refusal();
        }
    }
}

async fn serve(site: &Arc<Site>, guest: &Guest, request: Request<Incoming>) -> Reply {
    let mut reply = dispatch(site, guest, request).await;
    let headers = reply.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    reply
}

async fn dispatch(site: &Arc<Site>, guest: &Guest, request: Request<Incoming>) -> Reply {
    let path = request.uri().path();
    let over_ws = path.starts_with("/ws/rpc/");
    if over_ws || path.starts_with("/rpc/") {
        if ws::is_upgrade(&request) {
            return ws::upgrade(site, guest, request);
        }
        if over_ws {
            return ws::needs_upgrade(request.method());
        }
        return match *request.method() {
            Method::POST => rpc::serve(site, request).await,
            Method::OPTIONS => preflight(),
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "send JSON-RPC calls with POST\n"),
        };
    }
    match (request.method(), path) {
        (&Method::GET, "/health") => text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/ready") => state::ready(site),
        (&Method::GET, "/metrics") => admin::metrics(site),
        (&Method::GET, "/v1/providers") => state::providers(site, guest.peer, &request),
        (&Method::GET, "/api/chains") => state::chains(site),
        (&Method::GET, "/api/health") => state::api_health(site),
        (_, path) if path.starts_with("/admin/") => admin::act(site, path, &request).await,
        _ => text(StatusCode::NOT_FOUND, "unknown path; calls go to POST /rpc/{chain}\n"),
    }
}

fn preflight() -> Reply {
    let mut reply = text(StatusCode::NO_CONTENT, "");
    let headers = reply.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, OPTIONS"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "content-type, traceparent, tracestate, x-lariat-provider, x-lariat-transport, x-lariat-include-meta, \
             x-lariat-exclude, x-lariat-exclude-limited, x-lariat-timeout-ms",
        ),
    );
    reply
}

/// A reply of plain text.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Reply {
    body(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

/// A reply of that type.
pub(crate) fn body(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(bytes));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
