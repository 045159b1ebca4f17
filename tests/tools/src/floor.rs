//! The least that any HTTP proxy can do: accept, hand the body to a pooled connection, hand the answer back. It reads
//! nothing, chooses nothing and records nothing. What a real proxy costs is told as the difference to this one, on the
//! same machine in the same run, since the cost of the sockets is nobody's achievement.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Idle connections kept to the target: as many as the load generators open.
const IDLE_MAX: usize = 256;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Body = BoxBody<Bytes, hyper::Error>;
type Pool = Client<HttpConnector, Incoming>;

/// A running floor. Dropping it ends it.
#[derive(Debug)]
pub struct FloorHandle {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    _guard: DropGuard,
}

impl FloorHandle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and waits until its port is free.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Listens on `listen` and forwards every request to `target`, a `host:port`, with its own path.
///
/// # Errors
/// When the address cannot be bound, or the target is no authority.
pub async fn start(listen: SocketAddr, target: &str) -> io::Result<FloorHandle> {
    let authority: http::uri::Authority = target
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{target}` is no host:port")))?;
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pool: Pool = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_MAX).build(connector);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(accept(listener, pool, authority, tasks.clone(), stop.clone()));
    Ok(FloorHandle { address, tasks, _guard: stop.clone().drop_guard(), stop })
}

async fn accept(
    listener: TcpListener,
    pool: Pool,
    authority: http::uri::Authority,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Where the option fails the connection still works, only slower.
        let _ = stream.set_nodelay(true);
        let (pool, authority, stop) = (pool.clone(), authority.clone(), stop.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request| forward(pool.clone(), authority.clone(), request));
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // An error of the connection is the client's business.
                _ = serving => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn forward(
    pool: Pool,
    authority: http::uri::Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = request.uri().path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    match pool.request(request).await {
        Ok(response) => Ok(response.map(BodyExt::boxed)),
        Err(error) => {
            let body = Full::new(Bytes::from(error.to_string())).map_err(|never| match never {}).boxed();
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            Ok(response)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Chain, ChainSettings};
    use crate::load_rpc::{self, LoadRpcSettings};
    use crate::provider::{Provider, ProviderSettings};
    use std::sync::Arc;

    #[tokio::test]
    async fn every_call_reaches_the_target_once_and_its_answer_comes_back() {
        let chain = Arc::new(Chain::new(ChainSettings::default()));
        let provider = Provider::start(ProviderSettings::new("t", chain)).await.unwrap();
        let floor = start(SocketAddr::from(([127, 0, 0, 1], 0)), &provider.address().to_string()).await.unwrap();
        let mut settings = LoadRpcSettings::new(format!("http://{}/rpc/ethereum", floor.address()), 400.0);
        settings.duration = Duration::from_millis(500);
        settings.stats_urls = vec![provider.http_url()];
        let report = load_rpc::run(settings).await.unwrap();
        assert_eq!((report.sent, report.amplification), (200, Some(1.0)));
        assert_eq!(report.ok + report.rpc_errors, 200);
        floor.shutdown().await;
    }
}
