//! What a start does before anything is taken in: rebuilds what an earlier process knew.
//!
//! Most of it is not computed again: sealed rows are in files, the ledger is in the manifest, verdicts and rows that wait are in
//! the checkpoint, dedup keys are in their runs. Only the entries of the log after these are read, so that a start takes as
//! long as what memory held, whatever the log holds. Where one of these is missing or damaged, the log has the same and is
//! read from the beginning of the dedup window on.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use arrow::array::RecordBatch;
use lariat_schema::tables::Table;
use parking_lot::Mutex;

use super::spine::{OpenError, SpineSettings};
use crate::columns::count;
use crate::dedup::{Dedup, Keys, Window};
use crate::keep::{Keeper, Policies};
use crate::live::Live;
use crate::log::{CreateSegment, Damage, Entry, Facts, Header, InForce, Log, Schemas, Unread};
use crate::store::checkpoint::{Checkpoint, delete_others};
use crate::store::core::{Core, Counters};
use crate::store::directory::Directory;
use crate::store::manifest::{Cuts, Manifest, Pinned, open_files};
use crate::store::state::State;

/// Entries that are unpacked before they are taken in: enough that neither side waits for the other, and no more rows than a
/// few requests have.
const ENTRIES_AHEAD: usize = 4;

/// The store as it was, and what goes on writing it.
pub(super) type Restored = (Arc<Core>, Log, Dedup, Arc<Policies>);

/// Rebuilds what the manifest, the checkpoint and the log say.
pub(super) fn restore(settings: SpineSettings) -> Result<Restored, OpenError> {
    let began = (settings.clock)().elapsed_nanos;
    let directory = Directory::open(&settings.data_dir)?;
    let mut manifest = Manifest::load(&directory.root, directory.store_id)?;
    manifest.forget_missing_cells(&directory.parquet());
    if settings.store.bucket.is_none() && manifest.files.iter().any(|file| !file.is_local()) {
        return Err(OpenError::OnlyInBucket { path: directory.root.clone() });
    }
    let (files, faulty) = open_files(&directory.parquet(), &manifest);
    // The oldest last: who asks mostly asks about what is new.
    let mut unverified: Vec<_> =
        manifest.files.iter().map(|file| (file.times.to_unix_nanos.saturating_neg(), file.path.clone())).collect();
    unverified.extend(manifest.derived.iter().map(|cells| (0, cells.path.clone())));
    unverified.sort_unstable();
    let files: Vec<Pinned> = files.into_values().flatten().collect();
    let place = Place { directory: &directory, manifest: &manifest, files: &files, window: settings.window };
    let Rebuilt { state, dedup, log, live, replayed, damage, has_checkpoint } =
        place.rebuild(settings.create_segment)?;
    let counters = Counters {
        torn_bytes: AtomicU64::new(damage.torn_bytes),
        quarantined: AtomicU64::new(count(directory.quarantined())),
        checkpoint_used: AtomicU64::new(u64::from(has_checkpoint)),
        start_log_bytes: AtomicU64::new(log.read_bytes),
        replayed_entries: AtomicU64::new(replayed),
        ..Counters::default()
    };
    let core = Core {
        clock: settings.clock,
        identity: settings.identity,
        window: settings.window,
        flush_age_nanos: i64::try_from(settings.flush_age.as_nanos()).unwrap_or(i64::MAX),
        settings: settings.store,
        sealing: Mutex::new(()),
        tending: Mutex::new(()),
        closing: AtomicBool::new(false),
        over_budget: AtomicBool::new(false),
        unverified: Mutex::new(unverified.into_iter().map(|(_, path)| path).collect::<VecDeque<_>>()),
        state: Mutex::new(state),
        keys_needed_from: AtomicU64::new(manifest.keys.needed_from),
        manifest: Mutex::new(manifest),
        closed: log.closed(),
        live,
        counters,
        directory,
    };
    for (entry, fault) in faulty {
        if let Err(error) = core.set_aside(&entry, &fault) {
            tracing::error!(%error, "cannot write down that a file is lost: the next start does");
        }
    }
    let took = (core.clock)().elapsed_nanos.saturating_sub(began);
    core.counters.start_nanos.store(u64::try_from(took).unwrap_or(0), Ordering::Relaxed);
    Ok((Arc::new(core), log, dedup, Arc::new(settings.policies)))
}

/// What a store is rebuilt from.
struct Place<'a> {
    directory: &'a Directory,
    manifest: &'a Manifest,
    files: &'a [Pinned],
    window: Window,
}

struct Rebuilt {
    state: State,
    dedup: Dedup,
    log: Log,
    live: Live,
    replayed: u64,
    damage: Damage,
    has_checkpoint: bool,
}

impl Place<'_> {
    fn rebuild(&self, create: CreateSegment) -> Result<Rebuilt, OpenError> {
        let dedup_folder = self.directory.dedup();
        let of_dedup = |source| OpenError::Dedup { path: dedup_folder.clone(), source };
        let dedup = Dedup::open(self.window, &dedup_folder, self.manifest.keys).map_err(of_dedup)?;
        let has_runs = dedup.0.settled_to() > self.manifest.keys.needed_from;
        let rebuilt = self.read(dedup, create)?;
        if rebuilt.damage.set_aside.is_empty() || !has_runs {
            return Ok(rebuilt);
        }
        // The runs may hold keys of entries that were lost just now, whose retry must not be taken for a repetition.
        let Rebuilt { log, damage, .. } = rebuilt;
        Dedup::clear(&dedup_folder).map_err(of_dedup)?;
        let dedup = Dedup::open(self.window, &dedup_folder, self.manifest.keys).map_err(of_dedup)?;
        let mut again = self.read(dedup, log.into_create())?;
        again.damage.torn_bytes += damage.torn_bytes;
        again.damage.set_aside.extend(damage.set_aside);
        Ok(again)
    }

    /// Reads the log beside the keys that are there; `keys_from` is the first entry whose keys are not.
    fn read(&self, (dedup, keys_from): (Dedup, u64), create: CreateSegment) -> Result<Rebuilt, OpenError> {
        let checkpoint = self.checkpoint();
        let has_checkpoint = checkpoint.is_some();
        let mut files = std::collections::BTreeMap::<Table, Vec<Pinned>>::new();
        for file in self.files {
            files.entry(file.entry.table).or_default().push(file.clone());
        }
        let mut state = State::new(self.manifest, files, Keeper::new(self.window.age_nanos));
        state.show_derived(&self.directory.parquet(), &self.manifest.derived);
        let mut segments = Vec::new();
        let mut replay_from = 0;
        if let Some(mut checkpoint) = checkpoint {
            replay_from = checkpoint.lsn;
            segments = std::mem::take(&mut checkpoint.segments);
            state.recall(checkpoint);
        }
        let read_from = keys_from.min(replay_from);
        let live = Live::default();
        let folder = self.directory.log();
        let reading =
            Reading { folder: &folder, segments: &segments, read_from, replay_from, cuts: self.manifest.cuts };
        let mut replay = Replay { state, dedup, live: &live, keys_from, replay_from, policies: None, replayed: 0 };
        let read = reading.beside(create, &mut |entry| replay.take(entry));
        let (log, damage) = read.map_err(|source| OpenError::Log { path: folder.clone(), source })?;
        let Replay { mut state, dedup, replayed, .. } = replay;
        state.pass_cut();
        // Numbers of entries whose keys are held are not given out again, though the log lost them.
        state.next_lsn = state.next_lsn.max(dedup.settled_to());
        state.keys = dedup.cut(state.next_lsn);
        // What had waited long enough before the end has its verdict before anybody reads.
        live.show(&state.expire(state.moment().steady_nanos()));
        Ok(Rebuilt { state, dedup, log, live, replayed, damage, has_checkpoint })
    }

    /// The checkpoint that the manifest names, if it can be read; others are deleted.
    fn checkpoint(&self) -> Option<Checkpoint> {
        let folder = self.directory.checkpoints();
        let Manifest { checkpoint, waiting, cuts, .. } = self.manifest;
        delete_others(&folder, checkpoint.as_ref());
        let entry = checkpoint.as_ref()?;
        match Checkpoint::load(&folder, entry, cuts.spans, waiting) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => {
                let file = folder.join(&entry.name);
                tracing::warn!(file = %file.display(), %error, "cannot use the checkpoint: the log is read instead");
                None
            }
        }
    }
}

/// An entry with its rows, if these are wanted.
struct Unpacked {
    header: Header,
    keys: Vec<(u128, u64)>,
    rows: Option<RecordBatch>,
}

/// What of the log is read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    folder: &'a Path,
    segments: &'a [Facts],
    /// First entry of which anything is wanted.
    read_from: u64,
    /// First entry whose rows are.
    replay_from: u64,
    cuts: Cuts,
}

impl Reading<'_> {
    /// Reads and unpacks in a thread of its own, beside what `take` does with the entries in their order.
    fn beside(self, create: CreateSegment, take: &mut dyn FnMut(Unpacked)) -> io::Result<(Log, Damage)> {
        std::thread::scope(|scope| {
            let (sender, entries) = sync_channel(ENTRIES_AHEAD);
            let reader =
                std::thread::Builder::new().name("lariat-replay".to_owned()).spawn_scoped(scope, move || {
                    let is_needed = |segment: &Facts| segment.last_lsn >= self.read_from;
                    let unread = Unread { known: self.segments, is_needed: &is_needed };
                    Log::open(self.folder, create, &unread, &mut |entry, schemas| {
                        if entry.header.table.is_none() || entry.header.lsn >= self.read_from {
                            // It fails only if nobody takes entries any longer.
                            let _ = sender.send(self.unpacked(entry, schemas));
                        }
                    })
                })?;
            entries.iter().for_each(&mut *take);
            reader.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads the log ended by a panic")))
        })
    }

    fn unpacked(&self, entry: &Entry, schemas: &Schemas) -> Unpacked {
        let header = &entry.header;
        // Of what is sealed only spans matter again, for the verdicts that their descendants follow.
        let is_wanted = header.table.is_some_and(|table| table == Table::Spans || !self.cuts.hold(header.lsn, table));
        let rows = if is_wanted && header.lsn >= self.replay_from { schemas.rows(entry) } else { Ok(None) };
        let rows = rows.unwrap_or_else(|error| {
            tracing::error!(lsn = header.lsn, table = ?header.table, %error, "rows of the log cannot be read: they are lost");
            None
        });
        Unpacked { header: header.clone(), keys: entry.keys.clone(), rows }
    }
}

/// Takes in the entries of the log again.
struct Replay<'a> {
    state: State,
    dedup: Dedup,
    live: &'a Live,
    /// First entry whose keys are in no run.
    keys_from: u64,
    /// First entry that is not in the checkpoint.
    replay_from: u64,
    /// Of the segment that is read, until its first entry that is replayed.
    policies: Option<InForce>,
    replayed: u64,
}

impl Replay<'_> {
    fn take(&mut self, entry: Unpacked) {
        let Unpacked { header, keys, rows } = entry;
        let Some(table) = header.table else {
            let since = header.moment();
            self.policies = header.policies.map(|policies| InForce { policies, since });
            return;
        };
        if header.lsn >= self.keys_from && !keys.is_empty() {
            self.remember(&header, &keys);
        }
        if header.lsn < self.replay_from {
            return;
        }
        self.replayed += 1;
        if let Some(in_force) = self.policies.take() {
            self.live.show(&self.state.put_in_force(&in_force));
        }
        self.live.show(&self.state.apply(&header, rows));
        // What these series count is in the table; what follows in the log is counted from here on.
        if table == Table::Metrics && header.is_own() {
            self.state.span_metrics.begin_anew(header.commit_unix_nanos);
        }
    }

    fn remember(&mut self, header: &Header, keys: &[(u128, u64)]) {
        self.dedup.replay(&Keys {
            lsn: header.lsn,
            steady_nanos: header.moment().steady_nanos(),
            decisions: header.decisions,
            may_conflict: true,
            keys,
        });
        if let Err(error) = self.dedup.settle() {
            tracing::warn!(%error, "cannot move dedup keys to disk: they stay in memory");
        }
    }
}
