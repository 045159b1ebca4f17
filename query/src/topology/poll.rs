//! Looks at every known address when its state says so: who it is, whether it answers a query, what its clock says; holds a
//! connection open through which it says farewell; and asks DNS which addresses there are. Looks at different nodes never
//! wait for each other.
//!
//! A look is a request for the node's identity and the first step of a query. gRPC's own health check, which nodes answer
//! too, would say less: neither who is there, nor when it last committed, nor what its clock shows.

use std::collections::HashMap;
use std::sync::Arc;

use lariat_collector::worker::wire::{PinRequest, ReleaseRequest};
use lariat_schema::ids::BootId;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use uuid::Uuid;

use super::client::{ClientError, NodeClient};
use super::state::{Action, Event, ROUND};
use super::{ClockOffset, HEALTH_TIMEOUT, Met, NODE_API_PORT, Topology, now_unix_nanos};

/// How long a look's pin is kept at most.
const PROBE_KEEP_MS: u64 = 5_000;

/// Runs until cancelled.
pub(crate) async fn run(topology: Arc<Topology>, dns_query: Option<String>, stop: CancellationToken) {
    let mut watchers: HashMap<String, JoinHandle<()>> = HashMap::new();
    let mut changes = topology.news();
    let mut ticks = tokio::time::interval(ROUND);
    loop {
        for entry in topology.view().known {
            let topology = Arc::clone(&topology);
            watchers
                .entry(entry.address.clone())
                .or_insert_with(|| tokio::spawn(watch(topology, entry.address, entry.base, entry.nudge)));
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            _ = ticks.tick() => {
                topology.retire_aged();
                if let Some(name) = &dns_query {
                    discover(&topology, name).await;
                }
            }
        }
        watchers.retain(|_, watcher| !watcher.is_finished());
    }
    for watcher in watchers.values() {
        watcher.abort();
    }
}

async fn discover(topology: &Topology, name: &str) {
    match tokio::time::timeout(HEALTH_TIMEOUT, tokio::net::lookup_host((name, NODE_API_PORT))).await {
        Ok(Ok(found)) => topology.discovered(&found.collect::<Vec<_>>()),
        Ok(Err(error)) => tracing::warn!(name, %error, "DNS gave no nodes; keeping the known ones"),
        Err(_) => tracing::warn!(name, "DNS did not answer; keeping the known nodes"),
    }
}

/// The connection through which a boot says farewell.
struct Line {
    boot_id: BootId,
    listening: AbortOnDropHandle<()>,
}

/// Watches one address for as long as it is known.
async fn watch(topology: Arc<Topology>, address: String, base: Url, nudge: Arc<Notify>) {
    let mut line: Option<Line> = None;
    loop {
        if topology.feed(&address, Event::Tick).contains(&Action::Look) {
            let outcome = look(&topology.client, &base).await;
            let boot_id = outcome.as_ref().ok().map(|met| met.info.identity.boot_id);
            topology.report(&address, Event::Looked, outcome.as_ref().map(Met::clone));
            line = line.filter(|line| Some(line.boot_id) == boot_id && !line.listening.is_finished());
            if let (None, Some(boot_id)) = (&line, boot_id) {
                let listening = listen(Arc::clone(&topology), address.clone(), base.clone(), boot_id);
                line = Some(Line { boot_id, listening: AbortOnDropHandle::new(tokio::spawn(listening)) });
            }
        }
        let Some(pause) = topology.pause(&address) else { return };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = nudge.notified() => {}
        }
    }
}

/// Hears a boot's farewell; a connection that breaks without one is a reason to look at once.
async fn listen(topology: Arc<Topology>, address: String, base: Url, boot_id: BootId) {
    match topology.client.farewell(&base, HEALTH_TIMEOUT).await {
        Ok(Some(word)) if word.boot_id == boot_id => {
            if let Some(at) = word.farewell_unix_nanos {
                topology.farewell(&address, boot_id, at);
            }
        }
        Ok(_) => {
            topology.feed(&address, Event::LinkLost);
        }
        // It has no such stream, or none now: the next look tries again.
        Err(error) => tracing::debug!(address, %error, "no connection for a node's farewell"),
    }
}

/// One look: who are you, and do you answer a query?
async fn look(client: &NodeClient, base: &Url) -> Result<Met, ClientError> {
    let looking = async {
        let asked = now_unix_nanos();
        let mut info = client.info(base, HEALTH_TIMEOUT).await?;
        let clock = ClockOffset::measured(info.now_unix_nanos, asked, now_unix_nanos());
        let query_id = Uuid::new_v4();
        let request = PinRequest { query_id, tables: Vec::new(), keep_ms: PROBE_KEEP_MS };
        let pinned = client.pin(base, &request, HEALTH_TIMEOUT).await?;
        client.release(base, &ReleaseRequest { query_id }, HEALTH_TIMEOUT).await?;
        info.watermark_unix_nanos = pinned.watermark_unix_nanos;
        Ok(Met { info, clock })
    };
    tokio::time::timeout(HEALTH_TIMEOUT, looking).await.map_err(|_| ClientError::Silent(HEALTH_TIMEOUT))?
}

impl Topology {
    /// Time until the next look; nothing for an address that is no longer known.
    fn pause(&self, address: &str) -> Option<std::time::Duration> {
        Some(self.known.lock().get(address)?.progress.next_look().saturating_sub(self.now()))
    }
}
