//! The wire protocol of Postgres, for psql, drivers, and Grafana's PostgreSQL data source.
//!
//! The protocol is spoken, the database is not imitated: there is nothing to write, transactions hold nothing, and of the
//! catalog there is what clients ask for in order to list relations. Such questions are answered by small tables of their own,
//! in an engine of their own that knows neither rows nor nodes, so that no SQL over them reaches anything else.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::ports::relations::CATALOG;
use crate::ports::tally::{Protocol, Turned};
use crate::ports::{ACCEPT_PAUSE, Shared};
use service::Service;

mod catalog;
mod connection;
mod copy;
mod failure;
mod frames;
mod handlers;
mod numeric;
mod open;
mod parameters;
mod rows;
mod sending;
mod service;
mod session;
mod statement;
mod types;

/// Most connections; each may hold an answer.
const MAX_CONNECTIONS: usize = 256;

/// Serves until `stop`, then until its connections have ended; those that are idle end at once.
pub(crate) fn serve(listener: TcpListener, shared: Shared, stop: CancellationToken) -> JoinHandle<()> {
    let service = Arc::new(Service::new(shared));
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = stop.cancelled() => break,
            };
            let Ok((stream, peer)) = accepted else {
                // The system is out of something that a connection needs; those that end give it back.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
                service.shared.tally.turned(Protocol::Postgres, Turned::TooMany);
                continue;
            };
            let (service, stop) = (Arc::clone(&service), stop.clone());
            connections.spawn(async move {
                let _held = (permit, service.shared.tally.connected(Protocol::Postgres));
                if let Some(why) = connection::serve(stream, peer, Arc::clone(&service), stop).await {
                    service.shared.tally.turned(Protocol::Postgres, why);
                }
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    })
}

/// Where it listens, as a URL.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("postgresql://{address}/{CATALOG}")
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::metrics;
