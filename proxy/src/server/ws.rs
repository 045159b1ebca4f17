//! WebSocket clients: from the upgrade to the end of the connection. A route is chosen once, by the path, query and
//! headers of the upgrade, and looked up anew for each frame, so that a connection of hours follows a reload. What a
//! route cannot be is said over HTTP, before there is a connection: a close code could not tell the chain's name.
//!
//! hyper keeps the port and the protocols of HTTP; what it hands over after the upgrade is spoken to by tungstenite. A
//! second listener for WebSockets was rejected: clients expect one address.

mod connection;
mod frame;
mod outbox;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use outbox::Outbox;

use super::routes::{Target, target};
use super::{Reply, Site, body, rpc, text};
use crate::refusal::Refusal;
use crate::trace_context::TraceContext;

/// What spawns and what ends the tasks of a proxy's connections.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) tasks: TaskTracker,
    /// No new work; what is under way may finish.
    pub(crate) draining: CancellationToken,
    /// Everything stops where it stands.
    pub(crate) kill: CancellationToken,
}

/// A connection as it was accepted.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) peer: SocketAddr,
    /// Its place among all connections, which an upgrade keeps.
    pub(crate) _place: Arc<OwnedSemaphorePermit>,
}

/// What the upgrade said for every call of its connection.
pub(super) struct Way {
    pub(super) target: Target,
    /// The client's trace, which is older than every frame: calls link to it.
    pub(super) context: Option<Arc<TraceContext>>,
}

/// What became of the WebSocket connections of this boot.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Open now.
    pub(crate) open: AtomicI64,
    /// Frames refused since too much was under way on their connection or on the node.
    pub(crate) overloads: AtomicU64,
    /// Ended since the client did not read its events.
    pub(crate) ended_slow: AtomicU64,
    /// Ended since the client did not answer pings.
    pub(crate) ended_silent: AtomicU64,
}

impl Counts {
    /// Its figures as Prometheus text.
    pub(super) fn write_metrics(&self, out: &mut String) {
        let open = u64::try_from(self.open.load(Ordering::Relaxed)).unwrap_or(0);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            ("connections", "gauge", "WebSocket connections that are open.", open),
            ("frames_refused_total", "counter", "Frames refused since too much was under way.", load(&self.overloads)),
            (
                "ended_slow_total",
                "counter",
                "Connections whose client did not read its events.",
                load(&self.ended_slow),
            ),
            (
                "ended_silent_total",
                "counter",
                "Connections whose client did not answer pings.",
                load(&self.ended_silent),
            ),
        ] {
            // Writing to a String cannot fail.
            let _infallible = write!(
                out,
                "# HELP lariat_ws_{name} {help}\n# TYPE lariat_ws_{name} {kind}\nlariat_ws_{name} {value}\n"
            );
        }
    }
}

/// True where a request wants another protocol.
pub(super) fn is_upgrade(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(header::UPGRADE)
}

/// Answers an upgrade, and serves the connection that follows on a task of its own.
pub(super) fn upgrade(site: &Arc<Site>, guest: &Guest, mut request: Request<Incoming>) -> Reply {
    let target = match route(site, &request) {
        Ok(Some(target)) => target,
        Ok(None) => return text(StatusCode::NOT_FOUND, "unknown path; calls go to /ws/rpc/{chain}\n"),
        Err(refusal) => {
            site.gate.count_refusal();
            // A refused upgrade is never a 200, which clients would take for a broken server.
            let status = Some(refusal.status()).filter(|status| status.is_client_error() || status.is_server_error());
            let reply = Bytes::from(refusal.reply(b"null"));
            return body(status.unwrap_or(StatusCode::BAD_REQUEST), "application/json", reply);
        }
    };
    let response = match create_response_with_body(&request, Full::<Bytes>::default) {
        Ok(response) => response,
        Err(error) => return no_handshake(&error),
    };
    let way = Way { target, context: TraceContext::read(request.headers()).map(Arc::new) };
    let upgrading = hyper::upgrade::on(&mut request);
    let (site, guest) = (site.clone(), guest.clone());
    let Life { tasks, kill, .. } = site.life.clone();
    let serving = async move {
        match upgrading.await {
            Ok(upgraded) => {
                site.sockets.open.fetch_add(1, Ordering::Relaxed);
                let _counted = Counted(site.clone());
                connection::serve(site, &way, TokioIo::new(upgraded), &guest).await;
            }
            Err(error) => tracing::debug!(peer = %guest.peer, %error, "an upgrade was not completed"),
        }
    };
    tasks.spawn(async move { kill.run_until_cancelled_owned(serving).await });
    response
}

/// An open connection in the counts.
struct Counted(Arc<Site>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sockets.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads where the connection wants to go, and sees that it exists now.
fn route(site: &Site, request: &Request<Incoming>) -> Result<Option<Target>, Refusal> {
    let Some(target) = target(request.uri(), request.headers())? else { return Ok(None) };
    let core = site.core();
    let route = rpc::route(&core, &target)?;
    match route.pin {
        Some(pin) if !route.chain.providers.iter().any(|provider| provider.id.as_str() == pin) => {
            Err(Refusal::UnknownProvider(pin.to_owned()))
        }
        _ => Ok(Some(target)),
    }
}

fn no_handshake(error: &Error) -> Reply {
    match error {
        Error::Protocol(ProtocolError::WrongHttpMethod) => {
            text(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is asked for with GET\n")
        }
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            let mut reply = text(StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken here\n");
            reply.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            reply
        }
        _ => text(StatusCode::BAD_REQUEST, "the upgrade is no WebSocket handshake\n"),
    }
}

/// What a plain request to a path of WebSockets is told.
pub(super) fn needs_upgrade(method: &Method) -> Reply {
    let mut reply = text(
        StatusCode::UPGRADE_REQUIRED,
        "this path is for WebSockets; send single requests with HTTP POST to /rpc/{chain}\n",
    );
    if method == Method::GET {
        reply.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    reply
}
