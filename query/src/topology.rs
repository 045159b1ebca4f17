//! Which nodes there are, where, and in which state: discovery, health rounds and the memory of earlier members.
//!
//! Each known address has a state machine ([`state`], pure) that a loop feeds with what a health round saw ([`poll`]).
//! A query reads one consistent copy of all of it and reports back what it met, so that a killed node costs the first
//! query one refused connection and the following ones nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lariat_schema::coverage::NodeState;
use lariat_schema::node_api::NodeInfo;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;
use url::Url;

use crate::membership::{Member, Membership, MembershipError};
use client::{ClientError, NodeClient};
use state::{Progress, Seen};

pub(crate) mod client;
mod directory;
pub(crate) mod poll;
pub(crate) mod state;

/// Port of the node API where discovery gives addresses only.
pub const NODE_API_PORT: u16 = 4_319;

/// A secret that is never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes the text as it is.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &Arc<str> {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Section `cluster` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Addresses of node APIs, `host:port`.
    pub nodes: Vec<String>,
    /// Name whose A and AAAA records are the nodes; none: only `nodes`.
    pub dns_query: Option<String>,
    /// Size of the fleet.
    pub expected_nodes: u32,
    /// Region of this process.
    pub region: String,
    /// First part of this node's id, equal on all nodes.
    pub node_basename: String,
    /// This node's address as the others reach it.
    pub node_ip: String,
    /// Shared secret between query service and nodes.
    pub token: Option<Secret>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            nodes: vec![format!("127.0.0.1:{NODE_API_PORT}")],
            dns_query: None,
            expected_nodes: DEFAULT_EXPECTED_NODES,
            region: DEFAULT_REGION.to_owned(),
            node_basename: DEFAULT_NODE_BASENAME.to_owned(),
            node_ip: DEFAULT_NODE_IP.to_owned(),
            token: None,
        }
    }
}

/// A fleet of one: standalone.
const DEFAULT_EXPECTED_NODES: u32 = 1;
/// Region where none is configured.
const DEFAULT_REGION: &str = "local";
/// First part of a node's id where none is configured.
const DEFAULT_NODE_BASENAME: &str = "lariat";
/// Address of a node that only its own host reaches.
const DEFAULT_NODE_IP: &str = "127.0.0.1";

/// How long a pin or release may take in health rounds, and a health round itself.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of one address.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) address: String,
    pub(crate) base: Url,
    pub(crate) progress: Progress,
    pub(crate) info: Option<NodeInfo>,
    /// The node's clock minus ours, in nanoseconds, at the last round.
    pub(crate) clock_offset_nanos: i64,
    pub(crate) error: Option<String>,
    pub(crate) configured: bool,
}

/// One consistent copy of what is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) known: Vec<Known>,
    pub(crate) members: Vec<Member>,
    pub(crate) expected_nodes: u32,
}

/// The live picture of the fleet.
pub(crate) struct Topology {
    known: Mutex<BTreeMap<String, Known>>,
    membership: Mutex<Membership>,
    pub(crate) client: NodeClient,
    expected_nodes: u32,
    token: Option<Secret>,
    changes: watch::Sender<u64>,
}

impl Topology {
    /// Starts with the configured addresses and the remembered members.
    pub(crate) fn open(config: &ClusterConfig, data_dir: Option<PathBuf>) -> Result<Arc<Self>, MembershipError> {
        let membership = Membership::open(data_dir)?;
        let topology = Self {
            known: Mutex::default(),
            membership: Mutex::new(membership),
            client: NodeClient::new(config.token.as_ref()),
            expected_nodes: config.expected_nodes,
            token: config.token.clone(),
            changes: watch::Sender::new(0),
        };
        // The default list is for a fleet that nobody has named: a name in DNS replaces it.
        let named_in_dns = config.dns_query.is_some() && config.nodes == ClusterConfig::default().nodes;
        for address in config.nodes.iter().filter(|_| !named_in_dns) {
            topology.learn(address, true);
        }
        Ok(Arc::new(topology))
    }

    /// Adds an address that discovery found.
    pub(crate) fn learn(&self, address: &str, configured: bool) {
        let Ok(base) = Url::parse(&format!("http://{address}")) else {
            tracing::warn!(address, "not an address of a node API");
            return;
        };
        let mut known = self.known.lock();
        if known.contains_key(address) {
            return;
        }
        let entry = Known {
            address: address.to_owned(),
            base,
            progress: Progress::default(),
            info: None,
            clock_offset_nanos: 0,
            error: None,
            configured,
        };
        known.insert(address.to_owned(), entry);
        drop(known);
        self.changed();
    }

    /// Takes back addresses that discovery no longer gives.
    pub(crate) fn keep_discovered(&self, found: &[SocketAddr]) {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        for address in &found {
            self.learn(address, false);
        }
        let mut known = self.known.lock();
        for entry in known.values_mut().filter(|entry| !entry.configured && !found.contains(&entry.address)) {
            entry.progress.see(&Seen::Gone);
        }
        // A vanished address whose node never told who it is leaves nothing to remember.
        known.retain(|_, entry| {
            entry.configured || entry.info.is_some() || entry.progress.state != NodeState::Disconnected
        });
    }

    /// A copy of everything.
    pub(crate) fn view(&self) -> View {
        let members = self.membership.lock().members(now_unix_nanos());
        let known = self.known.lock().values().cloned().collect();
        View { known, members, expected_nodes: self.expected_nodes }
    }

    /// Counts up with every change of a node's state or identity.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// True once every configured address is ready or has failed one health round.
    pub(crate) fn settled(&self) -> bool {
        self.known.lock().values().all(|entry| entry.progress.settled())
    }

    /// What a health round or a query met at an address.
    pub(crate) fn report(&self, address: &str, outcome: Result<Option<NodeInfo>, &ClientError>) {
        let mut known = self.known.lock();
        let Some(entry) = known.get_mut(address) else { return };
        let before = entry.progress.state;
        match outcome {
            Ok(info) => {
                let seen = if info.as_ref().is_some_and(recently_committed) { Seen::Proved } else { Seen::Answered };
                entry.progress.see(&seen);
                entry.error = None;
                if let Some(info) = info {
                    entry.clock_offset_nanos = info.now_unix_nanos.saturating_sub(now_unix_nanos());
                    self.remember(&entry.address, &info);
                    entry.info = Some(info);
                }
            }
            Err(error) => {
                entry.progress.see(&error.seen());
                entry.error = Some(error.to_string());
            }
        }
        let after = entry.progress.state;
        drop(known);
        if before != after {
            tracing::info!(address, %before, %after, "node changed its state");
            self.changed();
        }
    }

    /// A second address that leads to the same store is the older name of it: it goes.
    fn remember(&self, address: &str, info: &NodeInfo) {
        let joined = self.membership.lock().seen(info, address, now_unix_nanos());
        match joined {
            Ok(true) => self.changed(),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "cannot remember a member"),
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// A node that has nothing to commit has nothing to prove; one that has rows commits its own status every 10 s.
fn recently_committed(info: &NodeInfo) -> bool {
    /// Six rounds of a node's own status: a store that commits nothing for so long has stopped.
    const RECENT_NANOS: i64 = 60 * lariat_schema::time_range::NANOS_PER_SECOND;
    info.ranges.iter().all(|range| range.rows == 0)
        || info.now_unix_nanos.saturating_sub(info.watermark_unix_nanos) < RECENT_NANOS
}

/// Our clock, Unix nanoseconds.
pub(crate) fn now_unix_nanos() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
