//! Accepts connections and serves them until told to stop, gently or at once.
//!
//! The loop is our own and not a framework's `serve`, since three things must be set on what it hides: `TCP_NODELAY`,
//! HTTP/2 windows that hold a whole request (with the default of 64 KiB a sender of 1 MiB waits for a window update
//! sixteen times), and an end that can be sudden, for a node that is killed without farewell.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counters::Counters;
use super::intake::Intake;
use super::{ResponseBody, grpc, http as otlp_http};
use crate::held::Part;

/// Bytes that one stream may have under way: a typical large export, sent without waiting.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Largest frame: an export comes in few of them, each of which wakes two tasks. A frame is read whole before it is known which
/// request it is of, so that each connection counts as so many bytes.
const FRAME_BYTES: u32 = 64 << 10;
/// Calls of one connection at one time; an SDK uses a handful.
const STREAMS_PER_CONNECTION: u32 = 128;
/// Headers of one request.
const HEADER_LIST_BYTES: u32 = 16 << 10;
/// A peer that has gone without a word is noticed after this and [`PING_TIMEOUT`].
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an HTTP/1 connection may be idle or take over its headers.
const HEADER_DEADLINE: Duration = Duration::from_secs(60);
/// After a failed accept, which is nearly always a lack of file descriptors: time for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// The end of serving: first gently, then at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    /// No new connections, and no new requests on the open ones.
    pub(super) closing: CancellationToken,
    /// Everything is dropped.
    pub(super) killed: CancellationToken,
    /// Every task that serves.
    pub(super) tasks: TaskTracker,
}

/// What connections share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) intake: Arc<Intake>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) ending: Ending,
}

/// Runs tasks of connections so that a kill ends them too.
#[derive(Clone)]
struct Executor(Ending);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let killed = self.0.killed.clone();
        self.0.tasks.spawn(async move { killed.run_until_cancelled(task).await });
    }
}

/// Serves a listener until the end.
pub(super) async fn serve(listener: TcpListener, protocol: Protocol, shared: Shared) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.ending.closing.cancelled() => return,
            () = shared.ending.killed.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, ?protocol, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
            shared.intake.counters.refused_connection();
            continue;
        };
        let connection = connection(stream, peer, protocol, shared.clone());
        let frame = Frame::of(&shared.intake.counters);
        shared.ending.tasks.spawn(async move {
            connection.await;
            drop((permit, frame));
        });
    }
}

/// The frame that a connection may hold.
struct Frame(Arc<Counters>);

impl Frame {
    const BYTES: usize = FRAME_BYTES as usize;

    fn of(counters: &Arc<Counters>) -> Self {
        counters.held.add(Part::Connections, Self::BYTES);
        Self(Arc::clone(counters))
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.0.held.give_back(Part::Connections, Self::BYTES);
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, protocol: Protocol, shared: Shared) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    let Shared { intake, ending, .. } = shared;
    let builder = builder(protocol, &ending);
    let service = service_fn(move |request| answer(Arc::clone(&intake), request, peer.ip(), protocol));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut closing = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, %peer, ?protocol, "a connection ended with an error");
                }
                return;
            }
            () = ending.killed.cancelled() => return,
            () = ending.closing.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(
    intake: Arc<Intake>,
    request: http::Request<hyper::body::Incoming>,
    peer: IpAddr,
    protocol: Protocol,
) -> Result<Response<ResponseBody>, std::convert::Infallible> {
    Ok(match protocol {
        Protocol::Grpc => grpc::serve(&intake, request, peer).await,
        Protocol::Http => otlp_http::serve(&intake, request, peer).await,
    })
}

fn builder(protocol: Protocol, ending: &Ending) -> Builder<Executor> {
    let mut builder = Builder::new(Executor(ending.clone()));
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADER_LIST_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    match protocol {
        Protocol::Grpc => builder.http2_only(),
        Protocol::Http => builder,
    }
}
