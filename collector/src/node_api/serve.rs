//! Serves a router over HTTP/1 and HTTP/2 on one listener, without Nagle's delay, and can end both politely and at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Connections at a time: query services and operators, not the public.
const MAX_CONNECTIONS: usize = 1_024;
/// Window of an HTTP/2 stream and connection: leaves stream results of megabytes.
const HTTP2_WINDOW: u32 = 4 << 20;
/// Pause after a failed accept, as when descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server at work.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(router: Router, address: SocketAddr, closing: CancellationToken) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, router, closing.clone()));
        Ok(Self { address, closing, task })
    }

    /// Finishes what is being answered, until `deadline` has passed.
    pub(crate) async fn shutdown(mut self, deadline: Duration) {
        self.closing.cancel();
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            tracing::warn!(address = %self.address, "the node API was cut off with requests under way");
            self.task.abort();
        }
    }

    /// Ends at once; connections break.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, router: Router, closing: CancellationToken) {
    // Dropped with this task, which breaks every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, router.clone(), closing.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the node API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, router: Router, closing: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch off Nagle's delay");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().initial_stream_window_size(HTTP2_WINDOW).initial_connection_window_size(HTTP2_WINDOW);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the node API ended with an error");
    }
}
