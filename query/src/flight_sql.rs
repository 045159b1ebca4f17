//! Flight SQL: Arrow in, Arrow out, for ADBC, JDBC and Grafana's old plugin.
//!
//! `GetFlightInfo` plans and `DoGet` executes, so an answer is made once and where it is read. A ticket holds the question
//! itself: nothing has to be remembered between the two calls, and either may come to another query service. Prepared
//! statements are remembered, since their protocol gives them a handle before they have their values. This is not the
//! port over which nodes are asked; that protocol carries plans, this one SQL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::stream;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::ports::tally::{Protocol, Tally, Turned};
use crate::ports::{ACCEPT_PAUSE, Shared};
use connection::Counted;
use service::FlightSql;

mod answer;
mod catalog;
mod connection;
mod credentials;
mod failure;
mod parameters;
mod prepared;
mod running;
mod service;
mod ticket;

/// Most connections; each may hold an answer.
const MAX_CONNECTIONS: usize = 256;
/// Most questions at a time on one connection.
const MAX_STREAMS: u32 = 64;
/// Largest message: a question, or the values of its parameters.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// How often a silent connection is asked for a sign of life: behind one that has vanished an answer is kept for nobody.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the sign may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop`, then until its connections have ended.
pub(crate) fn serve(listener: TcpListener, shared: Shared, stop: CancellationToken) -> JoinHandle<()> {
    let tally = Arc::clone(&shared.tally);
    let service = FlightServiceServer::new(FlightSql::new(shared)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let accepted = stream::unfold((listener, tally, Arc::new(Semaphore::new(MAX_CONNECTIONS))), accept);
    tokio::spawn(async move {
        let served = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(service)
            .serve_with_incoming_shutdown(accepted, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "Flight SQL stopped serving");
        }
    })
}

type Accepting = (TcpListener, Arc<Tally>, Arc<Semaphore>);

/// The next connection that there is room for.
async fn accept((listener, tally, room): Accepting) -> Option<(std::io::Result<Counted>, Accepting)> {
    loop {
        let accepted = listener.accept().await;
        let counted = match (accepted, Arc::clone(&room).try_acquire_owned()) {
            (Ok((stream, _peer)), Ok(permit)) => Ok(Counted::new(stream, tally.connected(Protocol::FlightSql), permit)),
            (Ok(_), Err(_)) => {
                tally.turned(Protocol::FlightSql, Turned::TooMany);
                continue;
            }
            (Err(_), _) => {
                // The system is out of something that a connection needs; those that end give it back.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        return Some((counted, (listener, tally, room)));
    }
}

/// Where it listens, as a URL.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("grpc://{address}")
}

#[cfg(test)]
mod tests;
