//! The nodes of one query: who was asked, who pinned, who was left out on the way and why.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lariat_collector::worker::wire::{PinReply, PinRequest, ReleaseReply, ReleaseRequest};
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::NodeInfo;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use url::Url;
use uuid::Uuid;

use super::statement::Parsed;
use crate::coverage::slices::Told;
use crate::coverage::{Input, NodeFacts, Part};
use crate::membership::Member;
use crate::scan::window::Asked;
use crate::topology::client::ClientError;
use crate::topology::directory::facts;
use crate::topology::state::Event;
use crate::topology::{ClockOffset, Known, Met, Topology, View, now_unix_nanos};

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
                let (since, asked) = (Instant::now(), now_unix_nanos());
                let reply = topology.client.pin(&node.base, request, timeout).await;
                (node, reply, (asked, now_unix_nanos()), since.elapsed().as_secs_f64() * 1e3)
            }
        });
        let mut round = Self { query_id, pinned: Vec::new(), left_out: HashMap::new(), errors: HashMap::new() };
        for (node, reply, (asked, answered), elapsed_ms) in join_all(asked).await {
            match reply {
                Ok(reply) => {
                    let clock = ClockOffset::measured(reply.now_unix_nanos, asked, answered);
                    topology.report(&node.address, Event::Queried, Ok(met(&reply, &node, clock)));
                    // One store under two addresses is still one store.
                    if round.pinned.iter().all(|pinned| pinned.reply.store_id != reply.store_id) {
                        round.pinned.push(Pinned { base: node.base, reply, elapsed_ms });
                    }
                }
                Err(error) => {
                    // A caller in a hurry says nothing about a node that was given no time.
                    if timeout >= PIN_TIMEOUT || !matches!(error, ClientError::Silent(_)) {
                        topology.report(&node.address, Event::Queried, Err(&error));
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

    /// What coverage is judged over: each table that the plan reads, in the time that it asks about. Where that is open, it
    /// is from the table's oldest row that is retained to now.
    pub(crate) fn inputs(&self, given: Option<TimeRange>, asked: &[(Table, Asked)], now: i64) -> Vec<Input> {
        if asked.is_empty() {
            return vec![Input { table: None, window: given }];
        }
        let window = |table: Table, asked: Asked| {
            let from = asked.from_unix_nanos.or_else(|| self.oldest(table))?;
            Some(TimeRange::new(from, asked.to_unix_nanos.unwrap_or(now)))
        };
        let of = |(table, asked): &(Table, Asked)| Input {
            table: Some(*table),
            window: given.or_else(|| window(*table, *asked)),
        };
        asked.iter().map(of).collect()
    }

    fn oldest(&self, table: Table) -> Option<i64> {
        let ranges = self.pinned.iter().flat_map(|pinned| &pinned.reply.ranges);
        ranges.filter(|range| range.table == table).filter_map(|range| range.from_unix_nanos).min()
    }

    /// What coverage needs to know of every node.
    pub(crate) fn facts(&self, view: &View, readings: &HashMap<StoreId, ReleaseReply>) -> Vec<NodeFacts> {
        let mut facts = facts(
            view,
            |member, _| self.part(member.store_id, readings),
            |node| self.errors.get(&node.address).or(node.error.as_ref()).cloned(),
        );
        for (store, (_, error)) in &self.left_out {
            let named = |member: &&Member| member.store_id == *store;
            let Some(member) = view.members.iter().find(named) else { continue };
            let of = |facts: &&mut NodeFacts| facts.answered.is_none() && facts.node_id == member.node_id.as_str();
            if let Some(facts) = facts.iter_mut().find(of) {
                facts.error = Some(error.clone());
            }
        }
        facts
    }

    fn part(&self, store: StoreId, readings: &HashMap<StoreId, ReleaseReply>) -> Option<Part> {
        let pinned = self.pinned.iter().find(|pinned| pinned.reply.store_id == store)?;
        let reading = readings.get(&store).copied().unwrap_or_default();
        let reply = &pinned.reply;
        let told = Told {
            watermark_unix_nanos: reply.watermark_unix_nanos,
            now_unix_nanos: reply.now_unix_nanos,
            has_proxy: reply.has_proxy,
            boots: reply.boots.clone(),
        };
        let elapsed_ms = pinned.elapsed_ms.max(reading.elapsed_ms);
        Some(Part { told, ranges: reply.ranges.clone(), rows: reading.rows, elapsed_ms })
    }
}

/// What a pin says about the node, as a look would.
fn met(reply: &PinReply, node: &Known, clock: ClockOffset) -> Met {
    let info = NodeInfo {
        identity: reply.identity.clone(),
        store_id: reply.store_id,
        version: reply.version.clone(),
        started_unix_nanos: node.info.as_ref().map_or(reply.now_unix_nanos, |info| info.started_unix_nanos),
        now_unix_nanos: reply.now_unix_nanos,
        watermark_unix_nanos: reply.watermark_unix_nanos,
        has_proxy: reply.has_proxy,
        ranges: reply.ranges.clone(),
        forward: node.info.as_ref().and_then(|info| info.forward.clone()),
        boots: reply.boots.clone(),
    };
    Met { info, clock }
}
