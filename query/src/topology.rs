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
use lariat_schema::duration_text;
use lariat_schema::ids::{BootId, StoreId};
use lariat_schema::node_api::NodeInfo;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use url::Url;

use crate::membership::{Member, Membership, MembershipError, Retirement};
use client::{ClientError, NodeClient};
use state::{Action, Event, Health, Progress};

pub(crate) mod client;
pub(crate) mod directory;
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
    /// Addresses of the query services' HTTP, `host:port`, which share the reading of the bucket; this one's may be among
    /// them.
    pub queries: Vec<String>,
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
    /// How long a node that was lost without farewell stays expected, as `24h`.
    #[serde(deserialize_with = "duration_text::deserialize")]
    pub retire_after: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            nodes: vec![format!("127.0.0.1:{NODE_API_PORT}")],
            queries: Vec::new(),
            dns_query: None,
            expected_nodes: DEFAULT_EXPECTED_NODES,
            region: DEFAULT_REGION.to_owned(),
            node_basename: DEFAULT_NODE_BASENAME.to_owned(),
            node_ip: DEFAULT_NODE_IP.to_owned(),
            token: None,
            retire_after: DEFAULT_RETIRE_AFTER,
        }
    }
}

/// How long a lost node stays expected.
const DEFAULT_RETIRE_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// A fleet of one: standalone.
const DEFAULT_EXPECTED_NODES: u32 = 1;
/// Region where none is configured.
const DEFAULT_REGION: &str = "local";
/// First part of a node's id where none is configured.
const DEFAULT_NODE_BASENAME: &str = "lariat";
/// Address of a node that only its own host reaches.
const DEFAULT_NODE_IP: &str = "127.0.0.1";

/// How long a look at a node may take, and a question to DNS.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Addresses that are known at a time. A fleet is some dozens; a resolver gone mad gives no more than these.
const MAX_ADDRESSES: usize = 4_096;

/// What is known of one address.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) address: String,
    pub(crate) base: Url,
    pub(crate) progress: Progress,
    /// Who was there last. None: nobody ever told, or the store lives at another address by now.
    pub(crate) info: Option<NodeInfo>,
    /// True if somebody was met here, whoever it was.
    pub(crate) was_met: bool,
    pub(crate) clock: ClockOffset,
    pub(crate) error: Option<String>,
    pub(crate) configured: bool,
    /// Told when the next look has become due sooner.
    nudge: Arc<Notify>,
}

/// A node's clock minus ours, and what the measurement may be wrong by: half of the time that the answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ClockOffset {
    pub(crate) nanos: i64,
    pub(crate) error_nanos: i64,
}

impl ClockOffset {
    /// From a node's clock, read at some moment between two of ours.
    pub(crate) fn measured(node_unix_nanos: i64, asked_unix_nanos: i64, answered_unix_nanos: i64) -> Self {
        let half = answered_unix_nanos.saturating_sub(asked_unix_nanos).max(0) / 2;
        Self { nanos: node_unix_nanos.saturating_sub(asked_unix_nanos.saturating_add(half)), error_nanos: half }
    }

    /// What it is at least; the sign is kept.
    pub(crate) fn certain_nanos(self) -> i64 {
        let size = self.nanos.saturating_abs().saturating_sub(self.error_nanos).max(0);
        size.saturating_mul(self.nanos.signum())
    }
}

/// What an answering node told of itself.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    pub(crate) info: NodeInfo,
    pub(crate) clock: ClockOffset,
}

/// One consistent copy of what is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) known: Vec<Known>,
    /// Everyone who belongs to the fleet, or did.
    pub(crate) members: Vec<Member>,
    /// Stores that found no room among the members.
    pub(crate) members_refused: u64,
    pub(crate) expected_nodes: u32,
}

impl View {
    /// The address at which a store is reached, or was last.
    pub(crate) fn home(&self, store_id: StoreId, address: &str) -> Option<&Known> {
        let lives_at = |node: &&Known| match &node.info {
            Some(info) => info.store_id == store_id,
            None => node.address == address && !node.was_met,
        };
        let homes = self.known.iter().filter(lives_at);
        homes.max_by_key(|node| (node.progress.worth_asking(), node.info.is_some()))
    }

    /// Addresses at which nobody ever told who is there.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = &Known> {
        let remembered = |node: &&Known| self.members.iter().any(|member| member.address == node.address);
        self.known.iter().filter(move |node| !node.was_met && !remembered(node))
    }
}

/// The live picture of the fleet.
pub(crate) struct Topology {
    known: Mutex<BTreeMap<String, Known>>,
    membership: Mutex<Membership>,
    pub(crate) client: NodeClient,
    expected_nodes: u32,
    token: Option<Secret>,
    changes: watch::Sender<u64>,
    /// What the states' times are counted from.
    epoch: Instant,
}

impl Topology {
    /// Starts with the configured addresses and the remembered members.
    pub(crate) fn open(config: &ClusterConfig, data_dir: Option<PathBuf>) -> Result<Arc<Self>, MembershipError> {
        let retire_after_nanos = i64::try_from(config.retire_after.as_nanos()).unwrap_or(i64::MAX);
        let membership = Membership::open(data_dir, retire_after_nanos, now_unix_nanos())?;
        let topology = Self {
            known: Mutex::default(),
            membership: Mutex::new(membership),
            client: NodeClient::new(config.token.as_ref()),
            expected_nodes: config.expected_nodes,
            token: config.token.clone(),
            changes: watch::Sender::new(0),
            epoch: Instant::now(),
        };
        // The default list is for a fleet that nobody has named: a name in DNS replaces it.
        let named_in_dns = config.dns_query.is_some() && config.nodes == ClusterConfig::default().nodes;
        for address in config.nodes.iter().filter(|_| !named_in_dns) {
            topology.learn(address, true);
        }
        Ok(Arc::new(topology))
    }

    /// Time since the start, as the states count it.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Adds an address.
    pub(crate) fn learn(&self, address: &str, configured: bool) {
        let Ok(base) = Url::parse(&format!("http://{address}")) else {
            tracing::warn!(address, "not an address of a node API");
            return;
        };
        let mut known = self.known.lock();
        if known.contains_key(address) {
            return;
        }
        if known.len() >= MAX_ADDRESSES {
            tracing::warn!(address, "more than {MAX_ADDRESSES} addresses: this one is left out");
            return;
        }
        let entry = Known {
            address: address.to_owned(),
            base,
            progress: Progress::learned(self.now()),
            info: None,
            was_met: false,
            clock: ClockOffset::default(),
            error: None,
            configured,
            nudge: Arc::default(),
        };
        known.insert(address.to_owned(), entry);
        drop(known);
        self.changed();
    }

    /// Takes in an answer of DNS.
    pub(crate) fn discovered(&self, found: &[SocketAddr]) {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        for address in &found {
            self.learn(address, false);
        }
        let by_dns: Vec<String> =
            self.known.lock().values().filter(|entry| !entry.configured).map(|entry| entry.address.clone()).collect();
        for address in by_dns {
            let event = if found.contains(&address) { Event::Listed } else { Event::Unlisted };
            self.feed(&address, event);
        }
    }

    /// Gives an event to an address's machine; returns what the loop has to do.
    pub(crate) fn feed(&self, address: &str, event: Event) -> Vec<Action> {
        let now = self.now();
        let mut known = self.known.lock();
        let Some(entry) = known.get_mut(address) else { return Vec::new() };
        let (progress, actions) = entry.progress.clone().step(event, now);
        let sooner = progress.next_look() < entry.progress.next_look();
        entry.progress = progress;
        if sooner {
            entry.nudge.notify_one();
        }
        let (state, store) = (entry.progress.state, entry.info.as_ref().map(|info| info.store_id));
        if actions.contains(&Action::Forget) {
            known.remove(address);
        }
        drop(known);
        for action in &actions {
            match action {
                Action::Tell { from } => {
                    tracing::info!(address, %from, to = %state, "node changed its state");
                    if let Some(store) = store.filter(|_| is_loss(state)) {
                        self.noted(|membership| membership.lost(store));
                    }
                    self.changed();
                }
                Action::Forget => self.changed(),
                Action::Look => {}
            }
        }
        actions
    }

    /// A copy of everything.
    pub(crate) fn view(&self) -> View {
        let (members, members_refused) = {
            let membership = self.membership.lock();
            (membership.members(), membership.refused)
        };
        let known = self.known.lock().values().cloned().collect();
        View { known, members, members_refused, expected_nodes: self.expected_nodes }
    }

    /// Counts up with every change of a node's state or identity.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// True once every configured address is ready or has failed one health round.
    pub(crate) fn settled(&self) -> bool {
        self.known.lock().values().all(|entry| entry.progress.settled())
    }

    /// What a look or a query met at an address.
    pub(crate) fn report(&self, address: &str, how: fn(Health) -> Event, outcome: Result<Met, &ClientError>) {
        let health = match &outcome {
            Ok(met) if recently_committed(&met.info) => Health::Proved,
            Ok(_) => Health::Answered,
            Err(error) => error.health(),
        };
        // Who it is stands before what state it is in, so that nobody is told of a ready node without a name.
        match outcome {
            Ok(met) => self.remember(address, met),
            Err(error) => {
                if let Some(entry) = self.known.lock().get_mut(address) {
                    entry.error = Some(error.to_string());
                }
            }
        }
        self.feed(address, how(health));
    }

    fn remember(&self, address: &str, met: Met) {
        let Met { info, clock } = met;
        let joined = self.noted(|membership| membership.seen(&info, address, now_unix_nanos()));
        let mut known = self.known.lock();
        // A store that answers here and not there has moved.
        for other in known.values_mut().filter(|other| other.address != address) {
            let same = other.info.as_ref().is_some_and(|of| of.store_id == info.store_id);
            if same && !other.progress.worth_asking() {
                other.info = None;
            }
        }
        if let Some(entry) = known.get_mut(address) {
            entry.clock = clock;
            entry.error = None;
            entry.was_met = true;
            entry.info = Some(info);
        }
        drop(known);
        if joined {
            self.changed();
        }
    }

    /// A node said farewell at a moment of its own clock.
    pub(crate) fn farewell(&self, address: &str, boot_id: BootId, at_unix_nanos: i64) {
        let of = self.known.lock().get(address).and_then(|entry| Some((entry.info.as_ref()?.store_id, entry.clock)));
        let Some((store_id, clock)) = of else { return };
        let at = at_unix_nanos.saturating_sub(clock.certain_nanos());
        self.noted(|membership| membership.farewell(store_id, boot_id, at));
        if let Some(entry) = self.known.lock().get_mut(address) {
            entry.error = Some("it ended cleanly and said farewell".to_owned());
        }
        self.feed(address, Event::Farewell);
        self.changed();
    }

    /// An operator's word. A node that answers is not retired: its next answer would bring it back.
    pub(crate) fn retire(&self, name: &str) -> Result<Retirement, RetireError> {
        let answers = |node: &Known| {
            let names = |info: &NodeInfo| info.identity.node_id.as_str() == name || info.store_id.to_string() == name;
            node.info.as_ref().is_some_and(names)
                && matches!(node.progress.state, NodeState::Responding | NodeState::Ready)
        };
        if self.known.lock().values().any(answers) {
            return Err(RetireError::Answers);
        }
        let retired = self.membership.lock().retire(name, now_unix_nanos())?;
        if matches!(retired, Retirement::Done(_)) {
            self.changed();
        }
        Ok(retired)
    }

    /// Whether a word comes from an operator: it carries the cluster's token. Without one nobody is.
    pub(crate) fn is_operator(&self, given: &str) -> bool {
        let Some(token) = &self.token else { return false };
        let (given, token) = (given.as_bytes(), token.reveal().as_bytes());
        // Takes a time that tells nothing about where the first difference is.
        let differences = given.iter().zip(token).fold(0, |found, (left, right)| found | (left ^ right));
        given.len() == token.len() && differences == 0
    }

    /// Takes in what is known of members elsewhere.
    pub(crate) fn learn_members(&self, theirs: &[Member]) {
        if self.noted(|membership| membership.learn(theirs)) {
            self.changed();
        }
    }

    /// Everyone, also those who left, and how long a lost one stays expected.
    pub(crate) fn members(&self) -> (Vec<Member>, i64) {
        let membership = self.membership.lock();
        (membership.members(), membership.retire_after_nanos())
    }

    /// Retires members that were lost long enough.
    pub(crate) fn retire_aged(&self) {
        if self.noted(|membership| membership.retire_aged(now_unix_nanos())) {
            self.changed();
        }
    }

    /// Writes something down; where that fails the fleet is still served.
    fn noted<T: Default>(&self, note: impl FnOnce(&mut Membership) -> Result<T, MembershipError>) -> T {
        note(&mut self.membership.lock()).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot remember what happened to a member");
            T::default()
        })
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Why a node was not retired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetireError {
    /// It is alive.
    #[error("the node answers: stop it first")]
    Answers,
    /// It could not be written down.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

fn is_loss(state: NodeState) -> bool {
    matches!(state, NodeState::Unresponsive | NodeState::Disconnected)
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

#[cfg(test)]
mod tests;
