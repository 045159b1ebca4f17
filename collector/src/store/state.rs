//! What a store holds at one moment, and how one entry of the log changes it.
//!
//! Live and replayed entries take the same way through [`State::apply`], so that a restart rebuilds what manifest and
//! checkpoint do not hold, and nothing else. Everything a reader sees changes under one lock: a row moves from the hot
//! batches into a file in one step, and is never in both or in neither.
//!
//! A seal cuts the log at one entry, and all rows before it stand in files then, but for those that wait for their root:
//! these are named in the manifest one by one. Ending the files before the oldest of them was rejected: at full load one
//! span whose root never comes would hold back everything after it for half a minute, which is more than memory holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use lariat_schema::node_api::{Boot, TableRange};
use lariat_schema::tables::Table;
use lariat_schema::time_range::slice_start;
use lariat_schema::vocabulary::Signal;

use super::checkpoint::Checkpoint;
use super::derived::DerivedEntry;
use super::gone::GoneBook;
use super::hot::Hot;
use super::manifest::{CutCommits, Cuts, Manifest, Pinned};
use super::owners::{Owners, signal_of};
use super::{CellFile, SealedFile, Snapshot};
use crate::attendance::Attendance;
use crate::call_metrics::CallMetrics;
use crate::columns::{count, signed};
use crate::dedup::KeyCut;
use crate::keep::{Arrival, Fate, Keeper, Outcome};
use crate::ledger::{Counts, Ledger, LedgerKey, Line};
use crate::log::{Header, InForce, Moment};
use crate::rollup::Rollup;
use crate::sequences::{LOST_AFTER_NANOS, Lost, Sequences};
use crate::span_metrics::SpanMetrics;

mod resume;

/// Rows of a seal under way, and what the manifest will say once they stand in files.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) tables: BTreeMap<Table, Vec<RecordBatch>>,
    pub(crate) cuts: Cuts,
    /// Steady time of the oldest entry that is not sealed with this.
    pub(crate) cut_steady_nanos: i64,
    pub(crate) cut_commits: CutCommits,
    pub(crate) keys: KeyCut,
    pub(crate) ledger: Vec<Line>,
    pub(crate) sequences: Sequences,
    pub(crate) attendance: Attendance,
    pub(crate) moment: Moment,
    /// All of it but the log's segments.
    pub(crate) checkpoint: Checkpoint,
}

/// Rows that became visible for good, for whoever follows live.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) spans: Vec<RecordBatch>,
    pub(crate) logs: Vec<RecordBatch>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct State {
    hot: Hot,
    files: BTreeMap<Table, Vec<Pinned>>,
    /// Longer cells made of these.
    cells: Vec<(DerivedEntry, CellFile)>,
    /// Replaced files that some snapshot may still hold.
    doomed: Vec<Arc<SealedFile>>,
    keeper: Keeper,
    rollup: Rollup,
    ledger: Ledger,
    sequences: Sequences,
    call_metrics: CallMetrics,
    pub(crate) span_metrics: SpanMetrics,
    attendance: Attendance,
    cuts: Cuts,
    /// What the rest of the log before the cut is read for, where there is no checkpoint.
    missing: Option<resume::Missing>,
    /// Where in the log the dedup keys are.
    pub(crate) keys: KeyCut,
    gone: GoneBook,
    /// Ten seconds of commit time whose cells are open.
    open_slice: i64,
    pub(crate) next_lsn: u64,
    pub(crate) last_commit_unix_nanos: i64,
    jumped_nanos: i64,
    pub(crate) watermark_unix_nanos: i64,
}

impl State {
    /// What the manifest says, before the log is replayed.
    pub(crate) fn new(manifest: &Manifest, files: BTreeMap<Table, Vec<Pinned>>, keeper: Keeper) -> Self {
        Self {
            hot: Hot::default(),
            files,
            cells: Vec::new(),
            doomed: Vec::new(),
            keeper,
            rollup: Rollup::default(),
            ledger: Ledger::resume(&manifest.ledger),
            sequences: manifest.sequences.clone(),
            call_metrics: CallMetrics::default(),
            span_metrics: SpanMetrics::default(),
            attendance: manifest.attendance.clone(),
            cuts: manifest.cuts,
            missing: Some(resume::Missing::of(manifest)),
            keys: manifest.keys,
            gone: manifest.gone.clone(),
            next_lsn: manifest.cuts.others.max(1),
            open_slice: i64::MIN,
            last_commit_unix_nanos: manifest.last_commit_unix_nanos,
            jumped_nanos: manifest.jumped_nanos,
            watermark_unix_nanos: manifest.last_commit_unix_nanos,
        }
    }

    /// Puts policies in force; what waited long enough before that is decided by the old ones.
    pub(crate) fn put_in_force(&mut self, in_force: &InForce) -> Shown {
        if *self.keeper.policies() == in_force.policies {
            return Shown::default();
        }
        let shown = self.expire(in_force.since.steady_nanos());
        self.keeper.set_policies(in_force.policies.clone());
        shown
    }

    /// Takes in one entry of the log with its rows.
    pub(crate) fn apply(&mut self, header: &Header, batch: Option<RecordBatch>) -> Shown {
        if header.lsn >= self.cuts.spans {
            self.pass_cut();
        }
        // Whatever the entry is: what has waited until its commit is decided before it, now as in a replay.
        let mut shown = self.expire(header.moment().steady_nanos());
        self.close_slice(header.commit_unix_nanos);
        self.next_lsn = self.next_lsn.max(header.lsn + 1);
        self.pass(header.moment());
        let Some(table) = header.table else { return shown };
        // The manifest's sum holds all entries before.
        let counted = header.lsn >= self.cuts.spans;
        if let Some(signal) = signal_of(table).filter(|_| counted) {
            self.count_received(header, signal);
        }
        let Some(batch) = batch else { return shown };
        let wanted = header.lsn >= self.cuts.of(table);
        match table {
            Table::Spans => self.apply_spans(header, &batch, wanted, &mut shown),
            Table::Logs | Table::Metrics => {
                if counted && !header.is_own() {
                    self.count_stored(table, &batch);
                }
                if wanted {
                    self.push(table, header.lsn, batch.clone());
                }
                if table == Table::Logs {
                    if header.trusted {
                        self.attendance.take_logs(&batch, &self.sequences);
                    }
                    shown.logs.push(batch);
                }
            }
            Table::NodeStatus | Table::Rollups => {
                if table == Table::NodeStatus {
                    self.attendance.take_status(&batch);
                }
                if wanted {
                    self.push(table, header.lsn, batch);
                }
            }
        }
        shown
    }

    fn apply_spans(&mut self, header: &Header, batch: &RecordBatch, wanted: bool, shown: &mut Shown) {
        if header.lsn >= self.cuts.others {
            self.rollup.fold(batch, header.commit_unix_nanos);
        }
        self.span_metrics.fold(batch, header.commit_unix_nanos);
        self.sequences.take(batch, header.moment().steady_nanos());
        if !wanted {
            self.look_for_missing(header, batch);
        }
        let arrival = Arrival { lsn: header.lsn, at: header.moment(), trusted: header.trusted, batch, wanted };
        match self.keeper.take(arrival) {
            Ok(outcome) => self.absorb(outcome, shown),
            Err(error) => {
                tracing::error!(%error, lsn = header.lsn, "cannot decide what to keep of a request: its spans are dropped");
                for (owner, rows) in Owners::of(Signal::Traces, batch).runs().into_iter().filter(|_| wanted) {
                    let dropped = Counts { dropped: signed(count(rows.len())), ..Counts::default() };
                    self.ledger.add(owner, dropped);
                }
            }
        }
    }

    /// Decides alone what waited for its root long enough.
    pub(crate) fn expire(&mut self, now_steady_nanos: i64) -> Shown {
        let mut shown = Shown::default();
        match self.keeper.expire(now_steady_nanos) {
            Ok(outcome) => self.absorb(outcome, &mut shown),
            Err(error) => tracing::error!(%error, "cannot decide about spans whose root never came"),
        }
        shown
    }

    fn absorb(&mut self, outcome: Outcome, shown: &mut Shown) {
        for Fate { profile, account_id, kept, sampled_out, waiting, .. } in outcome.fates {
            let key = LedgerKey::new(Signal::Traces, profile.as_deref(), account_id.as_deref());
            let counts = Counts { stored: kept, sampled_out, in_flight: waiting, ..Counts::default() };
            self.ledger.add(key, counts);
        }
        for (lsn, batch) in outcome.kept {
            shown.spans.push(batch.clone());
            self.push(Table::Spans, lsn, batch);
        }
    }

    fn count_received(&mut self, header: &Header, signal: Signal) {
        for line in &header.received {
            let key = LedgerKey { signal, profile: line.profile.clone(), account_id: line.account_id.clone() };
            let counts = Counts {
                received: signed(line.received),
                deduplicated: signed(line.deduplicated),
                ..Counts::default()
            };
            self.ledger.add(key, counts);
        }
        let rejected = signed(header.rejected);
        let counts = Counts { received: rejected, rejected, ..Counts::default() };
        self.ledger.add(LedgerKey::new(signal, None, None), counts);
    }

    fn count_stored(&mut self, table: Table, batch: &RecordBatch) {
        let Some(signal) = signal_of(table) else { return };
        let mut owners: BTreeMap<LedgerKey, i64> = BTreeMap::new();
        for (owner, run) in Owners::of(signal, batch).runs() {
            *owners.entry(owner).or_insert(0) += signed(count(run.len()));
        }
        for (key, stored) in owners {
            self.ledger.add(key, Counts { stored, ..Counts::default() });
        }
    }

    fn push(&mut self, table: Table, lsn: u64, batch: RecordBatch) {
        self.hot.push(table, lsn, batch, self.last_commit_unix_nanos);
    }

    /// Everything acknowledged up to a moment is in.
    pub(crate) fn pass(&mut self, moment: Moment) {
        self.last_commit_unix_nanos = self.last_commit_unix_nanos.max(moment.commit_unix_nanos);
        self.jumped_nanos = self.jumped_nanos.max(moment.jumped_nanos);
        self.watermark_unix_nanos = self.last_commit_unix_nanos;
    }

    /// The moment up to which everything acknowledged is in.
    pub(crate) fn moment(&self) -> Moment {
        Moment { commit_unix_nanos: self.last_commit_unix_nanos, jumped_nanos: self.jumped_nanos }
    }

    /// Puts the cells away when commit time enters the next slice: a function of the log alone, so that a replay
    /// collapses the same methods as before.
    fn close_slice(&mut self, commit_unix_nanos: i64) {
        let slice = slice_start(commit_unix_nanos);
        if slice > self.open_slice {
            self.flush_rollups();
            self.open_slice = slice;
        }
    }

    /// Puts the open cells among the hot rows.
    fn flush_rollups(&mut self) {
        match self.rollup.rows() {
            Ok(Some(rows)) => {
                self.rollup.clear();
                self.call_metrics.add(&rows);
                self.push(Table::Rollups, self.next_lsn - 1, rows);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot make rows of the open cells"),
        }
    }

    /// Takes what can be sealed. With `everything`, what waits for its root is decided first.
    pub(crate) fn begin_seal(&mut self, everything: bool) -> (Taken, Shown) {
        let mut shown = Shown::default();
        if everything {
            match self.keeper.expire_all(self.moment().steady_nanos()) {
                Ok(outcome) => self.absorb(outcome, &mut shown),
                Err(error) => tracing::error!(%error, "cannot decide about spans whose root never came"),
            }
        }
        self.flush_rollups();
        let oldest = self.keeper.oldest_waiting();
        let cuts = Cuts { spans: self.next_lsn, others: self.next_lsn };
        let tables = self.hot.take(|table| cuts.of(table));
        let others_unix_nanos = self.last_commit_unix_nanos.saturating_add(1);
        let taken = Taken {
            tables,
            cuts,
            cut_steady_nanos: oldest.map_or(self.moment(), |(_, at)| at).steady_nanos(),
            cut_commits: CutCommits {
                spans_unix_nanos: oldest.map_or(others_unix_nanos, |(_, at)| at.commit_unix_nanos),
                others_unix_nanos,
            },
            keys: self.keys,
            ledger: self.ledger.lines(),
            sequences: self.sequences.clone(),
            attendance: self.attendance.clone(),
            moment: self.moment(),
            checkpoint: self.checkpoint(),
        };
        (taken, shown)
    }

    /// The manifest names the files: their rows are read from there.
    pub(crate) fn end_seal(&mut self, taken: &Taken, files: Vec<Pinned>) {
        for file in files {
            self.files.entry(file.entry.table).or_default().push(file);
        }
        self.hot.sealed(self.last_commit_unix_nanos);
        self.cuts = taken.cuts;
    }

    /// The rows could not be sealed: they are hot as before.
    pub(crate) fn abort_seal(&mut self) {
        self.hot.put_back();
    }

    /// Takes files off the list and puts others on it, in one step for readers. A file that only changed what is said
    /// of it stays the same file.
    pub(crate) fn change_files(&mut self, gone: &HashSet<&str>, added: Vec<Pinned>, book: &GoneBook) {
        let mut removed = Vec::new();
        for files in self.files.values_mut() {
            removed.extend(files.extract_if(.., |file| gone.contains(file.entry.path.as_str())));
        }
        for mut file in added {
            let same = |old: &Pinned| old.file.path == file.file.path && old.entry.is_local() == file.entry.is_local();
            if let Some(at) = removed.iter().position(same) {
                file.file = removed.swap_remove(at).file;
            }
            self.files.entry(file.entry.table).or_default().push(file);
        }
        self.doomed.extend(removed.into_iter().filter(|file| file.entry.is_local()).map(|file| file.file));
        self.gone.clone_from(book);
    }

    /// Shows the longer cells that stand, in place of those before.
    pub(crate) fn show_derived(&mut self, parquet: &Path, derived: &[DerivedEntry]) {
        if self.cells.iter().map(|(entry, _)| entry).eq(derived) {
            return;
        }
        let before = std::mem::take(&mut self.cells).into_iter();
        let mut before: HashMap<String, CellFile> = before.map(|(entry, cells)| (entry.path, cells)).collect();
        for entry in derived {
            let file = before.remove(&entry.path).map(|cells| cells.file);
            let file = file.unwrap_or_else(|| Arc::new(entry.as_file(parquet)));
            let cells = CellFile { file, width: entry.width, hours: entry.hours.clone().into() };
            self.cells.push((entry.clone(), cells));
        }
        self.doomed.extend(before.into_values().map(|cells| cells.file));
    }

    /// Bytes on the disk that go as soon as no snapshot holds them.
    pub(crate) fn doomed_bytes(&self) -> u64 {
        self.doomed.iter().map(|file| file.bytes).sum()
    }

    /// Replaced files that nobody holds any longer.
    pub(crate) fn unpinned(&mut self) -> Vec<Arc<SealedFile>> {
        let (free, held) = self.doomed.drain(..).partition(|file| Arc::strong_count(file) == 1);
        self.doomed = held;
        free
    }

    /// Pins a table.
    pub(crate) fn snapshot(&self, table: Table) -> Snapshot {
        let mut batches: Vec<RecordBatch> = self.hot.batches(table).cloned().collect();
        let open: Result<Vec<RecordBatch>, ArrowError> = match table {
            Table::Spans => self.keeper.waiting_rows(),
            Table::Rollups => self.rollup.rows().map(|rows| rows.into_iter().collect()),
            Table::Metrics | Table::Logs | Table::NodeStatus => Ok(Vec::new()),
        };
        match open {
            Ok(open) => batches.extend(open),
            Err(error) => tracing::error!(%error, %table, "cannot show the open rows"),
        }
        let files = self.files.get(&table).into_iter().flatten().map(|file| Arc::clone(&file.file)).collect();
        let cells = self.cells.iter().filter(|_| table == Table::Rollups).map(|(_, cells)| cells.clone()).collect();
        Snapshot { table, files, cells, batches, watermark_unix_nanos: self.watermark_unix_nanos }
    }

    /// What each table holds.
    pub(crate) fn ranges(&self) -> Vec<TableRange> {
        Table::ALL.iter().map(|table| self.range(*table)).collect()
    }

    fn range(&self, table: Table) -> TableRange {
        let files = self.files.get(&table).into_iter().flatten().map(|file| (file.entry.times, file.entry.rows));
        let (mut from, mut to, mut rows) = (None, None, 0);
        for (times, held) in files.chain(self.hot.ranges(table)) {
            from = Some(from.map_or(times.from_unix_nanos, |from: i64| from.min(times.from_unix_nanos)));
            to = Some(to.map_or(times.to_unix_nanos.saturating_sub(1), |to: i64| {
                to.max(times.to_unix_nanos.saturating_sub(1))
            }));
            rows += held;
        }
        TableRange { table, from_unix_nanos: from, to_unix_nanos: to, rows, gone: self.gone.of(table) }
    }

    /// Figures for whoever watches the store.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            hot_bytes: self.hot.bytes(),
            hot_rows: self.hot.rows(),
            hot_age_nanos: self.hot.since().map(|since| self.last_commit_unix_nanos.saturating_sub(since)),
            cells: self.rollup.len(),
            waiting: self.keeper.waiting(),
            waiting_bytes: self.keeper.waiting_bytes(),
            unknown_weights: self.keeper.unknown_weights(),
            verdicts_forgotten_early: self.keeper.forgotten_early(),
            incomplete: self.keeper.incomplete(),
            files: self.files.values().map(Vec::len).sum(),
        }
    }

    /// Bytes that undecided spans and verdicts take.
    pub(crate) fn undecided_bytes(&self) -> usize {
        self.keeper.memory_bytes()
    }

    /// Calls by their dimensions since the start, those of the open cells included.
    pub(crate) fn call_metrics(&self) -> CallMetrics {
        let mut metrics = self.call_metrics.clone();
        match self.rollup.rows() {
            Ok(Some(open)) => metrics.add(&open),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot make rows of the open cells"),
        }
        metrics
    }

    /// The ledger's lines.
    pub(crate) fn ledger(&self) -> Vec<Line> {
        self.ledger.lines()
    }

    /// The lives of the store's node.
    pub(crate) fn boots(&self) -> Vec<Boot> {
        self.attendance.boots(&self.sequences)
    }

    /// What was lost before the collector.
    pub(crate) fn lost(&self) -> Vec<Lost> {
        let at_unix_nanos = self.last_commit_unix_nanos.saturating_sub(LOST_AFTER_NANOS);
        self.sequences.lost(self.moment().steady_nanos(), |boot_id| self.attendance.numbered(boot_id, at_unix_nanos))
    }

    /// Received stretches of `decision_seq`.
    pub(crate) fn sequences(&self) -> &Sequences {
        &self.sequences
    }
}

/// Sizes of a store's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) hot_bytes: usize,
    pub(crate) hot_rows: u64,
    /// How long the oldest hot row has waited for its seal.
    pub(crate) hot_age_nanos: Option<i64>,
    pub(crate) cells: usize,
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: usize,
    pub(crate) unknown_weights: u64,
    /// Of units kept whole, and of drawn ones.
    pub(crate) verdicts_forgotten_early: (u64, u64),
    pub(crate) incomplete: u64,
    pub(crate) files: usize,
}
