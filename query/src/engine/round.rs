//! Who takes part in one query: the nodes that were asked, those that pinned, what the bucket holds of the others, and who
//! was left out on the way and why.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lariat_collector::worker::wire::{DaySize, PinReply, PinRequest, ReleaseReply, ReleaseRequest};
use lariat_schema::bucket::StoreManifest;
use lariat_schema::coverage::{Coverage, NodeCoverage};
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::NodeInfo;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use url::Url;
use uuid::Uuid;

use super::attempt::Who;
use super::burden::Burden;
use super::statement::Parsed;
use crate::ask::{Question, Scope};
use crate::bucket::catalog;
use crate::bucket::part::BucketPart;
use crate::bucket::worker::{ReadReply, ReadRequest, StoreReading};
use crate::coverage::slices::Told;
use crate::coverage::{Input, NodeFacts, Part, PartSource};
use crate::membership::Member;
use crate::scan::window::{Asked, Relation, asked};
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

/// What was read where for an answer.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// By nodes.
    pub(crate) nodes: HashMap<StoreId, ReleaseReply>,
    /// From the bucket.
    pub(crate) bucket: ReadReply,
}

impl Readings {
    /// A figure over all.
    pub(crate) fn sum(&self, of_node: fn(&ReleaseReply) -> u64, of_store: fn(&StoreReading) -> u64) -> u64 {
        self.nodes.values().map(of_node).sum::<u64>() + self.bucket.stores.values().map(of_store).sum::<u64>()
    }
}

/// Who takes part in one query. The nodes hold its snapshots until it is dropped.
pub(crate) struct Round {
    pub(crate) query_id: Uuid,
    /// When the nodes were asked for their snapshots: the moment that the answer is of, however long it takes.
    pub(crate) pinned_unix_nanos: i64,
    topology: Arc<Topology>,
    /// What the bucket gives, as it was before the nodes were asked.
    pub(crate) bucket: Option<BucketPart>,
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
            bucket: None,
            pinned_unix_nanos: now_unix_nanos(),
            topology: Arc::clone(topology),
            pinned: Vec::new(),
            left_out: HashMap::new(),
            errors: HashMap::new(),
            released: false,
        }
    }

    /// Asks every node that is worth asking for a snapshot, all at once. The bucket's part is of before: a file that it
    /// names is then on the list of each node that pins.
    pub(crate) async fn pin(
        topology: &Arc<Topology>,
        bucket: Option<BucketPart>,
        parsed: &Parsed,
        scope: &Scope,
        (deadline, keep): (Duration, Duration),
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
            bucket,
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

    /// The query services that read the bucket.
    pub(crate) fn services(&self) -> &[Url] {
        self.bucket.as_ref().map_or(&[], BucketPart::services)
    }

    /// Somebody failed: the answer is made anew without. `stores` are those of the bucket that this query service itself
    /// could not read.
    pub(crate) fn leave_out(&mut self, who: &Who, error: String, stores: Vec<(StoreId, String)>) {
        match who {
            Who::Node(store) => self.leave_out_node(*store, error, 0),
            Who::Service(url) => {
                if let Some(bucket) = &mut self.bucket {
                    bucket.leave_out(url, error, stores);
                }
            }
        }
    }

    /// A node failed in the middle of an answer that goes on: so many of its rows cannot be taken back, and the bucket
    /// cannot give the others.
    pub(crate) fn broke_off(&mut self, store: StoreId, error: String, rows: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.leave_out_store(store, error.clone());
        }
        self.leave_out_node(store, error, rows);
    }

    fn leave_out_node(&mut self, store: StoreId, error: String, rows: u64) {
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

    /// What the other query services read of the bucket.
    pub(crate) async fn read_elsewhere(&self, read_id: Uuid) -> ReadReply {
        let (client, request) = (&self.topology.client, &ReadRequest { read_id });
        let others = self.services().iter().skip(1);
        let asked = others.map(|url| client.bucket_read(url, request, RELEASE_TIMEOUT));
        let mut sum = ReadReply::default();
        join_all(asked).await.into_iter().flatten().for_each(|reply| sum.add(&reply));
        sum
    }

    /// What the files weigh that may have rows of these relations and times. A node that tells nothing of longer cells reads
    /// the rows as they are.
    pub(crate) fn burden(&self, scanned: &[(Relation, Asked)]) -> Burden {
        let mut burden = Burden::default();
        for PinReply { sizes, cell_sizes, .. } in self.pinned.iter().map(|pinned| &pinned.reply) {
            for ((table, width), asked) in scanned {
                let of_width = cell_sizes.iter().filter(|size| Some(size.width) == *width).map(|size| size.day);
                let of_width: Vec<DaySize> = of_width.collect();
                let of_relation = if of_width.is_empty() { sizes } else { &of_width };
                for size in of_relation.iter().filter(|size| size.table == *table) {
                    if asked.touches(TimeRange::new(size.from_unix_nanos, size.to_unix_nanos)) {
                        burden.add(size);
                    }
                }
            }
        }
        for (table, asked) in asked(scanned) {
            let tables = self.held().filter_map(|said| catalog::table(said, table));
            for file in tables.flat_map(|table| &table.files).filter(|file| asked.touches(file.times)) {
                let TimeRange { from_unix_nanos, to_unix_nanos } = file.times;
                burden.add(&DaySize { table, from_unix_nanos, to_unix_nanos, bytes: file.bytes });
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
        let live = self.pinned.iter().flat_map(|pinned| &pinned.reply.ranges);
        let live = live.filter(|range| range.table == table).filter_map(|range| range.from_unix_nanos);
        let held = self.held().filter_map(|said| catalog::table(said, table));
        let held = held.flat_map(|table| &table.files).map(|file| file.times.from_unix_nanos);
        live.chain(held).min()
    }

    /// What the bucket holds of stores whose nodes do not answer.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Arc<StoreManifest>> {
        let all = self.bucket.iter().flat_map(|bucket| bucket.catalog.stores());
        all.filter(|said| self.held_of(said.store_id).is_some())
    }

    fn held_of(&self, store: StoreId) -> Option<&Arc<StoreManifest>> {
        let answers = self.pinned.iter().any(|pinned| pinned.reply.store_id == store);
        self.bucket.as_ref().filter(|_| !answers)?.held(store)
    }

    /// What coverage needs to know of every node.
    pub(crate) fn facts(&self, view: &View, readings: &Readings) -> Vec<NodeFacts> {
        let mut facts = facts(
            view,
            |member, _| self.part(member.store_id, readings),
            |node| self.errors.get(&node.address).or(node.error.as_ref()).cloned(),
        );
        for (store, LeftOut { error, .. }) in &self.left_out {
            let named = |member: &&Member| member.store_id == *store;
            let Some(member) = view.members.iter().find(named) else { continue };
            let of = |facts: &&mut NodeFacts| !facts.is_live() && facts.node_id == member.node_id.as_str();
            if let Some(facts) = facts.iter_mut().find(of) {
                facts.error = Some(error.clone());
            }
        }
        for member in &view.members {
            let Some(error) = self.bucket.as_ref().and_then(|bucket| bucket.error(member.store_id)) else { continue };
            let of = |facts: &&mut NodeFacts| facts.answered.is_none() && facts.node_id == member.node_id.as_str();
            if let Some(facts) = facts.iter_mut().find(of) {
                let node = facts.error.take().unwrap_or_else(|| "not reachable".to_owned());
                facts.error = Some(format!("{node}; its part in the bucket: {error}"));
            }
        }
        facts
    }

    fn part(&self, store: StoreId, readings: &Readings) -> Option<Part> {
        let Some(pinned) = self.pinned.iter().find(|pinned| pinned.reply.store_id == store) else {
            return Some(bucket_part(self.held_of(store)?, readings));
        };
        let reading = readings.nodes.get(&store).copied().unwrap_or_default();
        let given_up = readings.bucket.stores.get(&store).copied().unwrap_or_default();
        let reply = &pinned.reply;
        let told = Told {
            watermark_unix_nanos: reply.watermark_unix_nanos,
            now_unix_nanos: reply.now_unix_nanos,
            has_proxy: reply.has_proxy,
            boots: reply.boots.clone(),
        };
        let elapsed_ms = pinned.elapsed_ms.max(reading.elapsed_ms);
        let rows = reading.rows + given_up.rows;
        Some(Part { source: PartSource::Live, told, ranges: reply.ranges.clone(), rows, elapsed_ms })
    }
}

/// What the bucket tells of a store whose node does not.
fn bucket_part(said: &StoreManifest, readings: &Readings) -> Part {
    let reading = readings.bucket.stores.get(&said.store_id).copied().unwrap_or_default();
    let cuts = said.tables.iter().map(|table| (table.table, table.cut_unix_nanos)).collect();
    let told = Told {
        watermark_unix_nanos: said.tables.iter().map(|table| table.cut_unix_nanos).min().unwrap_or(i64::MIN),
        now_unix_nanos: said.written_unix_nanos,
        has_proxy: false,
        boots: said.boots.clone(),
    };
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of one query")]
    let elapsed_ms = reading.elapsed_ms as f64;
    Part { source: PartSource::Bucket { cuts }, told, ranges: catalog::ranges(said), rows: reading.rows, elapsed_ms }
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
