//! The snapshots that queries hold. A pin is taken before the plan arrives and not when it is executed: the coordinator
//! can then say what the answer will cover before a row has moved, and all leaves of a query see the same rows.
//!
//! The book is also the queue's bound: no leaf runs without a pin, and there are at most [`MAX_PINS`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lariat_schema::cells::CellWidth;
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::NodeIdentity;
use lariat_schema::tables::Table;
use parking_lot::Mutex;
use uuid::Uuid;

use super::cells::choose;
use super::times::Times;
use super::weights::FileWeights;
use super::wire::{CellSize, DaySize, PinReply, PinRequest, Pruned, ReleaseReply};
use crate::store::{ReadStore, SealedFile, Snapshot};

/// Queries that one node serves at a time. Each may hold files that retention wants gone and a share of the worker's
/// memory; dashboards of a few people need about a dozen.
pub const MAX_PINS: usize = 64;

/// Longest life of a pin, whatever was asked for: a query service that vanished must not keep files for ever.
pub const MAX_KEEP: Duration = Duration::from_secs(600);

/// A day, what sizes are told by.
const NANOS_PER_DAY: i64 = 86_400 * lariat_schema::time_range::NANOS_PER_SECOND;

/// Why nothing was pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinRefused {
    /// The node serves as many queries as it may: the same request succeeds later.
    #[error("the node already serves {MAX_PINS} queries; try again shortly")]
    TooMany,
}

/// What a node does for queries, for `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerFigures {
    /// Queries that hold snapshots.
    pub pins: usize,
    /// Parts of leaves that are being read.
    pub leaves: u64,
    /// Rows handed on since the start.
    pub rows: u64,
    /// Queries refused since the start (I-8).
    pub refused: u64,
}

impl WorkerFigures {
    /// As Prometheus text.
    pub fn expose(&self, text: &mut String) {
        use std::fmt::Write;
        for (name, kind, value) in [
            ("lariat_worker_pins", "gauge", self.pins as u64),
            ("lariat_worker_leaves", "gauge", self.leaves),
            ("lariat_worker_rows_total", "counter", self.rows),
            ("lariat_worker_queries_refused_total", "counter", self.refused),
        ] {
            writeln!(text, "# TYPE {name} {kind}\n{name} {value}").ok();
        }
    }
}

/// What all queries together read.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) leaves: AtomicU64,
    pub(crate) rows: AtomicU64,
}

/// What a query has read so far.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) files: AtomicU64,
    pruned: Mutex<Pruned>,
    elapsed_us: AtomicU64,
}

/// The snapshots of one query.
pub(crate) struct Pin {
    store: Arc<dyn ReadStore>,
    snapshots: Vec<Snapshot>,
    pub(crate) reading: Reading,
    totals: Arc<Totals>,
    since: Instant,
    until: Instant,
}

impl Pin {
    /// The pinned table, if the query asked for it.
    pub(crate) fn snapshot(&self, table: Table) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.table == table)
    }

    /// A leaf could not read one of these files.
    pub(crate) fn suspect(&self, files: &[Arc<SealedFile>]) {
        self.store.suspect(files);
    }

    /// A part of a leaf begins.
    pub(crate) fn leaf_began(&self) {
        self.totals.leaves.fetch_add(1, Ordering::Relaxed);
    }

    /// A part of a leaf hands rows on.
    pub(crate) fn hands_on(&self, rows: u64) {
        self.reading.rows.fetch_add(rows, Ordering::Relaxed);
        self.totals.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// So much did not have to be read.
    pub(crate) fn ruled_out(&self, pruned: Pruned) {
        let mut sum = self.reading.pruned.lock();
        *sum = sum.and(pruned);
    }

    /// A part of a leaf has ended now.
    pub(crate) fn leaf_ended(&self) {
        self.totals.leaves.fetch_sub(1, Ordering::Relaxed);
        let elapsed_us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.reading.elapsed_us.fetch_max(elapsed_us, Ordering::Relaxed);
    }
}

/// Every pin of a store.
pub struct PinBook {
    store: Arc<dyn ReadStore>,
    identity: NodeIdentity,
    has_proxy: bool,
    pins: Mutex<HashMap<Uuid, Arc<Pin>>>,
    weights: FileWeights,
    totals: Arc<Totals>,
    refused: AtomicU64,
}

impl std::fmt::Debug for PinBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinBook({})", self.store.store_id())
    }
}

impl PinBook {
    /// An empty book over a store.
    pub fn new(store: Arc<dyn ReadStore>, identity: NodeIdentity, has_proxy: bool) -> Self {
        Self {
            store,
            identity,
            has_proxy,
            pins: Mutex::default(),
            weights: FileWeights::default(),
            totals: Arc::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// The store whose rows are pinned here.
    pub fn store_id(&self) -> StoreId {
        self.store.store_id()
    }

    /// What is done for queries now, and was since the start.
    pub fn figures(&self) -> WorkerFigures {
        WorkerFigures {
            pins: self.pins.lock().len(),
            leaves: self.totals.leaves.load(Ordering::Relaxed),
            rows: self.totals.rows.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Takes the snapshots. Pinning the same query again replaces its snapshots. Reads footers of files that are new to
    /// it: not for an async thread.
    ///
    /// # Errors
    /// When the node serves as many queries as it may.
    pub fn pin(&self, request: &PinRequest) -> Result<PinReply, PinRefused> {
        self.end_overdue();
        let since = Instant::now();
        let snapshots: Vec<_> = request.tables.iter().map(|table| self.store.snapshot(*table)).collect();
        let sampling = self.weights.sampling(&snapshots);
        let watermark = snapshots.iter().map(|snapshot| snapshot.watermark_unix_nanos).min();
        let reply = PinReply {
            identity: self.identity.clone(),
            store_id: self.store.store_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            has_proxy: self.has_proxy,
            now_unix_nanos: now_unix_nanos(),
            watermark_unix_nanos: watermark.unwrap_or_else(|| self.store.watermark_unix_nanos()),
            ranges: self.store.ranges(),
            boots: self.store.boots(),
            sampling,
            sizes: sizes(&snapshots),
            cell_sizes: cell_sizes(&snapshots),
            leaves_files_out: true,
        };
        let mut pins = self.pins.lock();
        if pins.len() >= MAX_PINS && !pins.contains_key(&request.query_id) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(PinRefused::TooMany);
        }
        let keep = Duration::from_millis(request.keep_ms).min(MAX_KEEP);
        let pin = Pin {
            store: Arc::clone(&self.store),
            snapshots,
            reading: Reading::default(),
            totals: Arc::clone(&self.totals),
            since,
            until: since + keep,
        };
        pins.insert(request.query_id, Arc::new(pin));
        Ok(reply)
    }

    /// The snapshots of a query that is still pinned.
    pub(crate) fn get(&self, query_id: Uuid) -> Option<Arc<Pin>> {
        self.pins.lock().get(&query_id).cloned()
    }

    /// Ends a query and says what it read; nothing if it was not pinned, or its deadline has passed.
    pub fn release(&self, query_id: Uuid) -> Option<ReleaseReply> {
        let pin = self.pins.lock().remove(&query_id)?;
        let reading = &pin.reading;
        let micros = Duration::from_micros(reading.elapsed_us.load(Ordering::Relaxed));
        Some(ReleaseReply {
            rows: reading.rows.load(Ordering::Relaxed),
            bytes: reading.bytes.load(Ordering::Relaxed),
            files: reading.files.load(Ordering::Relaxed),
            elapsed_ms: micros.as_secs_f64() * 1e3,
            pruned: *reading.pruned.lock(),
        })
    }

    /// Ends the pins whose deadline has passed.
    pub(crate) fn end_overdue(&self) {
        let now = Instant::now();
        self.pins.lock().retain(|_, pin| now < pin.until);
    }
}

/// The sizes of files by table and day: few numbers, from which a query service tells what a question would read.
fn sizes(snapshots: &[Snapshot]) -> Vec<DaySize> {
    by_day(snapshots.iter().flat_map(|of| of.files.iter().map(move |file| (of.table, &**file))))
}

/// The same of what is read where longer cells are asked for.
fn cell_sizes(snapshots: &[Snapshot]) -> Vec<CellSize> {
    let with_cells = || snapshots.iter().filter(|snapshot| !snapshot.cells.is_empty());
    let of_width = |width: CellWidth| {
        let read = with_cells().flat_map(|snapshot| {
            let sources = choose(snapshot.files.clone(), &snapshot.cells, width, &Times::all());
            sources.into_iter().map(|source| (snapshot.table, source.file))
        });
        let read: Vec<_> = read.collect();
        by_day(read.iter().map(|(table, file)| (*table, &**file)))
    };
    CellWidth::ALL
        .iter()
        .flat_map(|width| of_width(*width).into_iter().map(|day| CellSize { width: *width, day }))
        .collect()
}

fn by_day<'a>(files: impl Iterator<Item = (Table, &'a SealedFile)>) -> Vec<DaySize> {
    let mut days: BTreeMap<(Table, i64), DaySize> = BTreeMap::new();
    for (table, file) in files {
        let (from, to) = (file.times.from_unix_nanos, file.times.to_unix_nanos);
        let day = days.entry((table, from.div_euclid(NANOS_PER_DAY))).or_insert(DaySize {
            table,
            from_unix_nanos: from,
            to_unix_nanos: to,
            bytes: 0,
        });
        day.from_unix_nanos = day.from_unix_nanos.min(from);
        day.to_unix_nanos = day.to_unix_nanos.max(to);
        day.bytes = day.bytes.saturating_add(file.bytes);
    }
    days.into_values().collect()
}

fn now_unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
