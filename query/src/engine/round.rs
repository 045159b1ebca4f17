//! The nodes of one query: who was asked, who pinned, who was left out on the way and why.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lariat_collector::worker::wire::{PinReply, PinRequest, ReleaseReply, ReleaseRequest};
use lariat_schema::coverage::{Coverage, NodeState};
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::NodeInfo;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use url::Url;
use uuid::Uuid;

use super::statement::Parsed;
use crate::coverage::{NodeFacts, Part, coverage};
use crate::membership::Member;
use crate::scan::window::Asked;
use crate::topology::client::ClientError;
use crate::topology::{Known, Topology, View};

/// Longest wait for a pin; a shorter deadline shortens it.
const PIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Part of the deadline that pins may take.
const PIN_SHARE: f64 = 0.4;
/// How long a pin outlives its query's deadline, for the release.
const PIN_SLACK: Duration = Duration::from_secs(5);
/// Longest wait for the account of what was read: the rows are already here.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// A node that holds a snapshot for the query.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    pub(crate) base: Url,
    pub(crate) reply: PinReply,
    elapsed_ms: f64,
}

/// The nodes of one query.
pub(crate) struct Round {
    pub(crate) query_id: Uuid,
    pinned: Vec<Pinned>,
    left_out: HashMap<StoreId, (Pinned, String)>,
    errors: HashMap<String, String>,
}

impl Round {
    /// Asks every node that is worth asking for a snapshot, all at once.
    pub(crate) async fn pin(topology: &Topology, parsed: &Parsed, deadline: Duration) -> Self {
        let query_id = super::query_id();
        let keep_ms = u64::try_from((deadline + PIN_SLACK).as_millis()).unwrap_or(u64::MAX);
        let request = PinRequest { query_id, tables: parsed.tables.clone(), keep_ms };
        let timeout = deadline.mul_f64(PIN_SHARE).min(PIN_TIMEOUT);
        let known = topology.view().known;
        let asked = known.into_iter().filter(|node| node.progress.worth_asking()).map(|node| {
            let request = &request;
            async move {
                let since = Instant::now();
                let reply = topology.client.pin(&node.base, request, timeout).await;
                (node, reply, since.elapsed().as_secs_f64() * 1e3)
            }
        });
        let mut round = Self { query_id, pinned: Vec::new(), left_out: HashMap::new(), errors: HashMap::new() };
        for (node, reply, elapsed_ms) in join_all(asked).await {
            match reply {
                Ok(reply) => {
                    topology.report(&node.address, Ok(Some(info(&reply, &node))));
                    // One store under two addresses is still one store.
                    if round.pinned.iter().all(|pinned| pinned.reply.store_id != reply.store_id) {
                        round.pinned.push(Pinned { base: node.base, reply, elapsed_ms });
                    }
                }
                Err(error) => {
                    // A caller in a hurry says nothing about a node that was given no time.
                    if timeout >= PIN_TIMEOUT || !matches!(error, ClientError::Silent(_)) {
                        topology.report(&node.address, Err(&error));
                    }
                    round.errors.insert(node.address, error.to_string());
                }
            }
        }
        round.pinned.sort_by_key(|pinned| pinned.reply.store_id);
        round
    }

    /// The nodes that hold a snapshot, in an order that does not change.
    pub(crate) fn pinned(&self) -> &[Pinned] {
        &self.pinned
    }

    /// A node failed: the answer goes on without it.
    pub(crate) fn leave_out(&mut self, store: StoreId, error: String) {
        if let Some(at) = self.pinned.iter().position(|pinned| pinned.reply.store_id == store) {
            let pinned = self.pinned.remove(at);
            self.left_out.insert(store, (pinned, error));
        }
    }

    /// Ends the query on every node and returns what those in the answer read.
    pub(crate) async fn release(&self, topology: &Topology) -> HashMap<StoreId, ReleaseReply> {
        self.release_in_background(topology, self.left_out.values().map(|(pinned, _)| pinned));
        let request = ReleaseRequest { query_id: self.query_id };
        let released = self.pinned.iter().map(|pinned| {
            let request = &request;
            async move {
                let reply = topology.client.release(&pinned.base, request, RELEASE_TIMEOUT).await;
                (pinned.reply.store_id, reply)
            }
        });
        join_all(released).await.into_iter().filter_map(|(store, reply)| Some((store, reply.ok()?))).collect()
    }

    /// Ends the query on every node without waiting for it.
    pub(crate) fn abandon(&self, topology: &Topology) {
        self.release_in_background(
            topology,
            self.pinned.iter().chain(self.left_out.values().map(|(pinned, _)| pinned)),
        );
    }

    fn release_in_background<'a>(&self, topology: &Topology, nodes: impl Iterator<Item = &'a Pinned>) {
        for pinned in nodes {
            let (client, base, query_id) = (topology.client.clone(), pinned.base.clone(), self.query_id);
            tokio::spawn(
                async move { client.release(&base, &ReleaseRequest { query_id }, RELEASE_TIMEOUT).await.ok() },
            );
        }
    }

    /// The window of the answer: what was asked for; where that is open, from the oldest row of the tables to now.
    pub(crate) fn window(
        &self,
        given: Option<TimeRange>,
        asked: Asked,
        tables: &[Table],
        now: i64,
    ) -> Option<TimeRange> {
        if given.is_some() {
            return given;
        }
        let ranges = self.pinned.iter().flat_map(|pinned| &pinned.reply.ranges);
        let oldest =
            ranges.filter(|range| tables.contains(&range.table)).filter_map(|range| range.from_unix_nanos).min();
        let from = asked.from_unix_nanos.or(oldest)?;
        Some(TimeRange::new(from, asked.to_unix_nanos.unwrap_or(now)))
    }

    /// Coverage of this query's answer.
    pub(crate) fn coverage(
        &self,
        view: &View,
        window: Option<TimeRange>,
        now: i64,
        readings: &HashMap<StoreId, ReleaseReply>,
    ) -> Coverage {
        let mut facts: Vec<_> = view.members.iter().map(|member| self.of_member(view, member, readings)).collect();
        let unknown =
            |node: &&Known| node.info.is_none() && view.members.iter().all(|member| member.address != node.address);
        facts.extend(view.known.iter().filter(unknown).map(|node| self.of_stranger(node)));
        coverage(self.query_id.to_string(), window, now, &facts, view.expected_nodes)
    }

    fn of_member(&self, view: &View, member: &Member, readings: &HashMap<StoreId, ReleaseReply>) -> NodeFacts {
        let lives_at = |node: &&Known| {
            node.info.as_ref().is_some_and(|info| info.store_id == member.store_id)
                || (node.info.is_none() && node.address == member.address)
        };
        let known = view.known.iter().filter(lives_at).max_by_key(|node| node.progress.worth_asking());
        let pinned = self.pinned.iter().find(|pinned| pinned.reply.store_id == member.store_id);
        let part = pinned.map(|pinned| {
            let reading = readings.get(&member.store_id).copied().unwrap_or_default();
            Part {
                watermark_unix_nanos: pinned.reply.watermark_unix_nanos,
                rows: reading.rows,
                elapsed_ms: pinned.elapsed_ms.max(reading.elapsed_ms),
            }
        });
        let error = part.is_none().then(|| {
            let left_out = self.left_out.get(&member.store_id).map(|(_, error)| error.clone());
            let of_pin = || known.and_then(|node| self.errors.get(&node.address).or(node.error.as_ref())).cloned();
            left_out.or_else(of_pin).unwrap_or_else(|| "not reachable".to_owned())
        });
        NodeFacts {
            node_id: member.node_id.to_string(),
            region: Some(member.region.to_string()),
            state: known.map_or(NodeState::Disconnected, |node| node.progress.state),
            since_unix_nanos: Some(member.since_unix_nanos),
            clock_offset_nanos: known.map_or(0, |node| node.clock_offset_nanos),
            answered: part,
            error,
        }
    }

    /// An address that never told who is there.
    fn of_stranger(&self, node: &Known) -> NodeFacts {
        let error = self.errors.get(&node.address).or(node.error.as_ref()).cloned();
        NodeFacts {
            node_id: node.address.clone(),
            region: None,
            state: NodeState::NeverSeen,
            since_unix_nanos: None,
            clock_offset_nanos: 0,
            answered: None,
            error: Some(error.unwrap_or_else(|| "it never told who it is".to_owned())),
        }
    }
}

/// What a pin says about the node, as a health round would.
fn info(reply: &PinReply, node: &Known) -> NodeInfo {
    NodeInfo {
        identity: reply.identity.clone(),
        store_id: reply.store_id,
        version: reply.version.clone(),
        started_unix_nanos: node.info.as_ref().map_or(reply.now_unix_nanos, |info| info.started_unix_nanos),
        now_unix_nanos: reply.now_unix_nanos,
        watermark_unix_nanos: reply.watermark_unix_nanos,
        has_proxy: reply.has_proxy,
        ranges: reply.ranges.clone(),
        forward: node.info.as_ref().and_then(|info| info.forward.clone()),
    }
}
