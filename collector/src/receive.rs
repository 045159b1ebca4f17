//! Receives OTLP over gRPC and HTTP.
//!
//! A request is acknowledged when what it carried is durable, and refused as early and as cheaply as it can be: by its
//! sender, its declared size, the budget for bytes in flight, in this order. Both protocols end in one way in, so that a limit, a
//! count or an error cannot hold for one and not for the other. The receiver keeps nothing: between a
//! reservation and an acknowledgement a record is in the sender's hands or in the log.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::decode::Mapping;
use crate::forward::Forwarder;
use crate::ingest::Ingest;

mod body;
mod budget;
mod counters;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod grpc;
mod http;
mod intake;
mod listen;
mod refusal;
mod trust;

#[cfg(test)]
mod tests;

pub use counters::{Counters, Counts, Refusals};
use intake::Intake;
use listen::{Ending, Protocol, Shared};
#[cfg(test)]
pub(crate) use refusal::{AnyMessage, DurationMessage};
pub(crate) use refusal::{RetryInfo, RpcStatus};

/// The body of an answer.
type ResponseBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Default of [`Config::max_request_bytes`].
pub const MAX_REQUEST_BYTES: usize = 16 << 20;
/// Default of [`Config::in_flight_bytes`]: the receiver's share of the collector's 128 MiB.
pub const IN_FLIGHT_BYTES: usize = 32 << 20;
/// Default of [`Config::max_connections`]: a node has one proxy and a few other senders.
pub const MAX_CONNECTIONS: usize = 256;

/// Where to listen, and how much to take. Part of the section `collector`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listener for OTLP over gRPC.
    pub otlp_grpc: SocketAddr,
    /// Listener for OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// Most bytes of one request, as sent and again after decompression.
    pub max_request_bytes: usize,
    /// Bytes that all requests in flight may hold; at least twice `max_request_bytes`.
    pub in_flight_bytes: usize,
    /// Connections open at one time, of both listeners.
    pub max_connections: usize,
    /// What spans of other proxies are.
    #[serde(skip)]
    pub mapping: Option<Arc<Mapping>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            otlp_grpc: SocketAddr::from(([127, 0, 0, 1], 4317)),
            otlp_http: SocketAddr::from(([127, 0, 0, 1], 4318)),
            max_request_bytes: MAX_REQUEST_BYTES,
            in_flight_bytes: IN_FLIGHT_BYTES,
            max_connections: MAX_CONNECTIONS,
            mapping: None,
        }
    }
}

/// Why the receiver did not start: the configuration's fault.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen for {listener} on {address}: {source}; stop what uses the address or set collector.{key} to a free one (port 0 lets the system choose)"
    )]
    Bind {
        /// What was to be listened for.
        listener: &'static str,
        /// Its key in the section `collector`.
        key: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// One request of the allowed size would not fit into the budget.
    #[error(
        "collector.in_flight_bytes is {in_flight_bytes}, less than twice collector.max_request_bytes ({max_request_bytes}): a request and its rows would never fit"
    )]
    Limits {
        /// Configured budget.
        in_flight_bytes: usize,
        /// Configured limit of one request.
        max_request_bytes: usize,
    },
}

/// A running receiver. Dropping it without [`Receiver::shutdown`] or [`Receiver::kill`] leaves it running.
pub struct Receiver {
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    intake: Arc<Intake>,
    ending: Ending,
}

/// Binds both listeners and serves them until the receiver is told to stop. With `token`, a sender from beyond
/// loopback has to present it; without, there can be none.
///
/// # Errors
/// An address cannot be bound, or the limits contradict each other.
pub async fn start(config: Config, ingest: Arc<dyn Ingest>, token: Option<Arc<str>>) -> Result<Receiver, StartError> {
    start_beside(config, ingest, Beside { token, ..Beside::default() }).await
}

/// What a receiver shares with the rest of its collector.
#[derive(Default)]
pub(crate) struct Beside {
    /// What a sender from beyond loopback has to present.
    pub(crate) token: Option<Arc<str>>,
    /// Where it counts.
    pub(crate) counters: Arc<Counters>,
    /// Where accepted requests go on to.
    pub(crate) forwarder: Option<Forwarder>,
}

/// The same as [`start`], with all that a whole collector has.
pub(crate) async fn start_beside(
    config: Config,
    ingest: Arc<dyn Ingest>,
    beside: Beside,
) -> Result<Receiver, StartError> {
    let Config { otlp_grpc, otlp_http, max_request_bytes, in_flight_bytes, max_connections, mapping } = config;
    if in_flight_bytes / 2 < max_request_bytes {
        return Err(StartError::Limits { in_flight_bytes, max_request_bytes });
    }
    let (grpc, grpc_address) = bind("OTLP over gRPC", "otlp_grpc", otlp_grpc).await?;
    let (http, http_address) = bind("OTLP over HTTP", "otlp_http", otlp_http).await?;
    let intake = Arc::new(Intake::new(ingest, beside, max_request_bytes, in_flight_bytes));
    intake.set_mapping(mapping);
    let ending = Ending::default();
    let connections = Arc::new(Semaphore::new(max_connections));
    let shared = Shared { intake: Arc::clone(&intake), connections, ending: ending.clone() };
    ending.tasks.spawn(listen::serve(grpc, Protocol::Grpc, shared.clone()));
    ending.tasks.spawn(listen::serve(http, Protocol::Http, shared));
    Ok(Receiver { grpc_address, http_address, intake, ending })
}

async fn bind(
    listener: &'static str,
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let refused = |source| StartError::Bind { listener, key, address, source };
    let bound = TcpListener::bind(address).await.map_err(refused)?;
    let address = bound.local_addr().map_err(refused)?;
    Ok((bound, address))
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("grpc_address", &self.grpc_address)
            .field("http_address", &self.http_address)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Where gRPC is accepted.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where HTTP is accepted.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// What was received and refused so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.intake.counters)
    }

    /// What lets spans of other proxies be read by another mapping, from the next request on; it does nothing once the
    /// receiver is gone.
    pub(crate) fn mapping_setter(&self) -> impl Fn(Arc<Mapping>) + Send + Sync + use<> {
        let intake = Arc::downgrade(&self.intake);
        move |mapping| {
            if let Some(intake) = intake.upgrade() {
                intake.set_mapping(Some(mapping));
            }
        }
    }

    /// Bytes that requests in flight hold at the moment.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        self.intake.in_flight_bytes()
    }

    /// Stops accepting, answers the requests under way, and closes. What takes longer than `deadline` is dropped;
    /// tells whether everything was answered.
    pub async fn shutdown(self, deadline: Duration) -> bool {
        self.ending.closing.cancel();
        self.ending.tasks.close();
        let answered = tokio::time::timeout(deadline, self.ending.tasks.wait()).await.is_ok();
        self.ending.killed.cancel();
        answered
    }

    /// Ends at once: connections are closed, and requests under way get no answer.
    pub fn kill(self) {
        self.ending.killed.cancel();
        self.ending.tasks.close();
    }
}
