//! The nodes of one query: who was asked, who pinned, who was left out on the way and why.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lariat_collector::worker::wire::{PinReply, PinRequest, ReleaseReply, ReleaseRequest};
use lariat_schema::coverage::{Coverage, NodeCoverage};
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::NodeInfo;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use url::Url;
use uuid::Uuid;

use super::burden::Burden;
use super::statement::Parsed;
use crate::ask::{Question, Scope};
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

/// The nodes of one query. They hold its snapshots until it is dropped.
pub(crate) struct Round {
    pub(crate) query_id: Uuid,
    /// When the nodes were asked for their snapshots: the moment that the answer is of, however long it takes.
    pub(crate) pinned_unix_nanos: i64,
    topology: Arc<Topology>,
    pinned: Vec<Pinned>,
    left_out: HashMap<StoreId, LeftOut>,
    errors: HashMap<String, String>,
    released: bool,
}

/// A node that is not in the answer, or not with all its rows.
struct LeftOut {
    pinned: Pinned,
    error: String,
    /// Rows of it that had gone to the reader.
    rows: u64,
}

impl Round {
    /// A round without nodes.
    pub(crate) fn nobody(topology: &Arc<Topology>) -> Self {
        Self {
            query_id: super::query_id(),
            pinned_unix_nanos: now_unix_nanos(),
            topology: Arc::clone(topology),
            pinned: Vec::new(),
            left_out: HashMap::new(),
            errors: HashMap::new(),
            released: false,
        }
    }

    /// Asks every node that is worth asking for a snapshot, all at once.
    pub(crate) async fn pin(
        topology: &Arc<Topology>,
        parsed: &Parsed,
        scope: &Scope,
        deadline: Duration,
        keep: Duration,
    ) -> Self {
        let (query_id, pinned_unix_nanos) = (super::query_id(), now_unix_nanos());
        let keep_ms = u64::try_from((keep + PIN_SLACK).as_millis()).unwrap_or(u64::MAX);
        let request = PinRequest { query_id, tables: parsed.tables.clone(), keep_ms };
        let timeout = deadline.mul_f64(PIN_SHARE).min(PIN_TIMEOUT);
        let known = topology.view().known;
        let asked = known.into_iter().filter(|node| is_asked(node, scope)).map(|node| {
            let request = &request;
            async move {
                let (since, asked) = (Instant::now(), now_unix_nanos());
                let reply = topology.client.pin(&node.base, request, timeout).await;
                (node, reply, (asked, now_unix_nanos()), since.elapsed().as_secs_f64() * 1e3)
            }
        });
        let mut round = Self {
            query_id,
            pinned_unix_nanos,
            topology: Arc::clone(topology),
            pinned: Vec::new(),
            left_out: HashMap::new(),
            errors: HashMap::new(),
            released: false,
        };
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

    /// A node failed: the answer goes on without it, save so many rows that cannot be taken back.
    pub(crate) fn leave_out(&mut self, store: StoreId, error: String, rows: u64) {
        if let Some(at) = self.pinned.iter().position(|pinned| pinned.reply.store_id == store) {
            let pinned = self.pinned.remove(at);
            self.left_out.insert(store, LeftOut { pinned, error, rows });
        }
    }

    /// Counts what nodes that broke off had sent.
    pub(crate) fn count_sent(&self, coverage: &mut Coverage) {
        for LeftOut { pinned, rows, .. } in self.left_out.values() {
            let named = |node: &&mut NodeCoverage| node.node_id == pinned.reply.identity.node_id.as_str();
            if let Some(node) = coverage.nodes.iter_mut().find(named) {
                node.rows = *rows;
            }
        }
    }

    /// Ends the query on every node and returns what those in the answer read.
    pub(crate) async fn release(&mut self) -> HashMap<StoreId, ReleaseReply> {
        let (client, request) = (&self.topology.client, &ReleaseRequest { query_id: self.query_id });
        let released = self.pinned.iter().map(|pinned| async move {
            (pinned.reply.store_id, client.release(&pinned.base, request, RELEASE_TIMEOUT).await)
        });
        let readings = join_all(released).await.into_iter().filter_map(|(store, reply)| Some((store, reply.ok()?)));
        let readings = readings.collect();
        self.released = true;
        readings
    }

    /// What the files weigh that may have rows of these tables and times.
    pub(crate) fn burden(&self, asked: &[(Table, Asked)]) -> Burden {
        let mut burden = Burden::default();
        for size in self.pinned.iter().flat_map(|pinned| &pinned.reply.sizes) {
            let within = |(table, asked): &(Table, Asked)| {
                *table == size.table
                    && asked.from_unix_nanos.is_none_or(|from| from < size.to_unix_nanos)
                    && asked.to_unix_nanos.is_none_or(|to| size.from_unix_nanos < to)
            };
            if asked.iter().any(within) {
                burden.add(size);
            }
        }
        burden
    }

    /// What coverage is judged over: each table that the plan reads, in the time that it asks about. Where that is open, it
    /// is from the table's oldest row that is retained to now.
    pub(crate) fn inputs(&self, question: &Question, asked: &[(Table, Asked)], now: i64) -> Vec<Input> {
        let Question { window: given, scope, .. } = question;
        let given = *given;
        if asked.is_empty() {
            return vec![Input { table: None, window: given, without: scope.without }];
        }
        let window = |table: Table, asked: Asked| {
            let from = asked.from_unix_nanos.or_else(|| self.oldest(table))?;
            Some(TimeRange::new(from, asked.to_unix_nanos.unwrap_or(now)))
        };
        let of = |(table, asked): &(Table, Asked)| Input {
            table: Some(*table),
            window: given.or_else(|| window(*table, *asked)),
            without: scope.without,
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
        for (store, LeftOut { error, .. }) in &self.left_out {
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

/// Whether a node is worth asking, and one of those that the question is for.
fn is_asked(node: &Known, scope: &Scope) -> bool {
    let store = node.info.as_ref().map(|info| info.store_id);
    let wanted = |only: &Arc<[StoreId]>| store.is_some_and(|store| only.contains(&store));
    node.progress.worth_asking() && scope.only.as_ref().is_none_or(wanted)
}

impl Drop for Round {
    /// Ends the query on every node, however it ended here: also when its reader has gone.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let left_out = self.left_out.values().map(|left_out| &left_out.pinned);
        let held = self.pinned.iter().filter(|_| !self.released);
        let bases: Vec<Url> = held.chain(left_out).map(|pinned| pinned.base.clone()).collect();
        for base in bases {
            let (client, query_id) = (self.topology.client.clone(), self.query_id);
            runtime
                .spawn(async move { client.release(&base, &ReleaseRequest { query_id }, RELEASE_TIMEOUT).await.ok() });
        }
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
