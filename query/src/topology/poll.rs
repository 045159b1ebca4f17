//! Looks at every known address every five seconds: who it is, whether it answers a query, what its clock says; and
//! asks DNS which addresses there are. Rounds of different nodes never wait for each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lariat_collector::worker::wire::{PinRequest, ReleaseRequest};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::client::{ClientError, NodeClient};
use super::state::Seen;
use super::{HEALTH_TIMEOUT, NODE_API_PORT, Topology};

/// Time between two rounds of one node, and between two questions to DNS.
pub(crate) const ROUND: Duration = Duration::from_secs(5);
/// Time between two rounds of a node that is not ready yet, while it is young: a fleet that starts is complete sooner.
const YOUNG_ROUND: Duration = Duration::from_millis(250);
/// Failed rounds after which a node is no longer young.
const YOUNG_FAILURES: u32 = 20;
/// How long a health round's pin is kept at most.
const PROBE_KEEP_MS: u64 = 5_000;

/// Runs until cancelled.
pub(crate) async fn run(topology: Arc<Topology>, dns_query: Option<String>, stop: CancellationToken) {
    let mut rounds: HashMap<String, JoinHandle<()>> = HashMap::new();
    let mut changes = topology.news();
    let mut ticks = tokio::time::interval(ROUND);
    loop {
        for entry in topology.view().known {
            let topology = Arc::clone(&topology);
            rounds
                .entry(entry.address.clone())
                .or_insert_with(|| tokio::spawn(look_repeatedly(topology, entry.address, entry.base)));
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            _ = ticks.tick() => if let Some(name) = &dns_query { discover(&topology, name).await },
        }
        rounds.retain(|_, round| !round.is_finished());
    }
    for round in rounds.values() {
        round.abort();
    }
}

async fn discover(topology: &Topology, name: &str) {
    match tokio::time::timeout(HEALTH_TIMEOUT, tokio::net::lookup_host((name, NODE_API_PORT))).await {
        Ok(Ok(found)) => topology.keep_discovered(&found.collect::<Vec<_>>()),
        Ok(Err(error)) => tracing::warn!(name, %error, "DNS gave no nodes; keeping the known ones"),
        Err(_) => tracing::warn!(name, "DNS did not answer; keeping the known nodes"),
    }
}

async fn look_repeatedly(topology: Arc<Topology>, address: String, base: Url) {
    loop {
        topology.begin_round(&address);
        let outcome = look(&topology.client, &base).await;
        topology.report(&address, outcome.as_ref().map(|info| Some(info.clone())));
        let Some(pause) = topology.pause(&address) else { return };
        tokio::time::sleep(pause).await;
    }
}

/// One round: who are you, and do you answer a query?
async fn look(client: &NodeClient, base: &Url) -> Result<lariat_schema::node_api::NodeInfo, ClientError> {
    let mut info = client.info(base, HEALTH_TIMEOUT).await?;
    let query_id = Uuid::new_v4();
    let request = PinRequest { query_id, tables: Vec::new(), keep_ms: PROBE_KEEP_MS };
    let pinned = client.pin(base, &request, HEALTH_TIMEOUT).await?;
    client.release(base, &ReleaseRequest { query_id }, HEALTH_TIMEOUT).await?;
    info.watermark_unix_nanos = pinned.watermark_unix_nanos;
    Ok(info)
}

impl Topology {
    fn begin_round(&self, address: &str) {
        if let Some(entry) = self.known.lock().get_mut(address) {
            entry.progress.see(&Seen::Asked);
        }
    }

    /// Time until the next round; nothing for an address that is no longer known.
    fn pause(&self, address: &str) -> Option<Duration> {
        use lariat_schema::coverage::NodeState;
        let known = self.known.lock();
        let progress = known.get(address)?.progress;
        let young = progress.state != NodeState::Ready && progress.failures() < YOUNG_FAILURES;
        Some(if young { YOUNG_ROUND } else { ROUND })
    }
}
