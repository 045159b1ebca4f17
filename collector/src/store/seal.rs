//! Moves hot rows into sealed files, and lets the log shrink.
//!
//! The order is the promise: files durable, then the checkpoint and the manifest durable, then readers switch, then the log
//! shrinks. A crash between any two leaves either rows in the log without files, or files that the manifest does not name.
//! The log keeps the whole dedup window all the same, from which everything can be made anew.

use std::sync::atomic::Ordering;

use tracing::field::Empty;

use super::checkpoint::{BadCheckpoint, delete_others};
use super::core::Core;
use super::encode::Stage;
use super::manifest::{CheckpointEntry, FileEntry, NotSaved, Pinned};
use super::state::Taken;
use super::steps::Step;
use super::write::{SealError, Target, hour_of, paths};
use crate::columns::count;
use crate::log::{Segment, delete_spent};

/// Rows from which hot batches are sealed before their time.
pub(crate) const HOT_ROWS: u64 = 500_000;
/// Bytes from which they are: some fifty thousand spans.
pub(crate) const HOT_BYTES: usize = 32 << 20;
/// Bytes beyond which requests are refused, those being sealed included: sealing does not keep up, or fails.
pub(crate) const HOT_BYTES_LIMIT: usize = 2 * HOT_BYTES;

impl Core {
    /// True if hot rows are old or many enough.
    pub(crate) fn seal_is_due(&self) -> bool {
        let figures = self.state.lock().figures();
        let aged = figures.hot_age_nanos.is_some_and(|age| age >= self.flush_age_nanos);
        aged || figures.hot_rows >= HOT_ROWS || figures.hot_bytes >= HOT_BYTES
    }

    /// Seals what can be; with `everything` also what would wait for its root.
    pub(crate) fn seal(&self, everything: bool) -> Result<(), SealError> {
        let span = tracing::info_span!("flush", files = Empty, otel.status_code = Empty);
        let _inside = span.enter();
        // Readers, the writer of the log and merges do not wait for it.
        let _one = self.sealing.lock();
        let (mut taken, shown) = self.state.lock().begin_seal(everything);
        self.live.show(&shown);
        let sealed = self.write(&taken).and_then(|entries| {
            let checkpoint = self.write_checkpoint(&mut taken);
            self.name_sealed(&taken, entries, checkpoint)
        });
        match sealed {
            Ok(files) => span.record("files", files),
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                self.state.lock().abort_seal();
                self.counters.seal_failures.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        };
        self.counters.seals.fetch_add(1, Ordering::Relaxed);
        self.keys_needed_from.store(taken.keys.needed_from, Ordering::Release);
        let needed_from = taken.cuts.spans.min(taken.keys.needed_from);
        let young = taken.cut_steady_nanos.saturating_sub(self.window.age_nanos);
        delete_spent(&self.closed, &|segment| segment.last_lsn < needed_from && segment.last_steady_nanos < young);
        Ok(())
    }

    /// Writes what the next start reads in place of the log. Without it that start takes longer, so that a seal goes on.
    fn write_checkpoint(&self, taken: &mut Taken) -> Option<CheckpointEntry> {
        let lsn = taken.checkpoint.lsn;
        let closed = self.closed.lock().iter().map(Segment::facts).collect::<Vec<_>>();
        taken.checkpoint.segments = closed.into_iter().filter(|segment| segment.last_lsn < lsn).collect();
        let name = format!("{:012}", self.next_sequence());
        let step = self.settings.steps.before(Step::Checkpoint).map_err(BadCheckpoint::from);
        match step.and_then(|()| taken.checkpoint.save(&self.directory.checkpoints(), name)) {
            Ok(entry) => Some(entry),
            Err(error) => {
                self.counters.checkpoint_failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "cannot write a checkpoint: the next start reads the log");
                None
            }
        }
    }

    fn write(&self, taken: &Taken) -> Result<Vec<FileEntry>, SealError> {
        let target = self.target();
        let mut entries = Vec::new();
        for (table, batches) in &taken.tables {
            match target.write(*table, batches, &|| self.next_sequence(), Stage::Seal) {
                Ok(written) => entries.extend(written),
                Err(error) => {
                    target.discard(paths(&entries));
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    fn name_sealed(
        &self,
        taken: &Taken,
        entries: Vec<FileEntry>,
        checkpoint: Option<CheckpointEntry>,
    ) -> Result<usize, SealError> {
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        next.keys = taken.keys;
        next.waiting = taken.checkpoint.keeper.waiting.iter().map(|one| (one.lsn, one.rows.clone())).collect();
        next.checkpoint = checkpoint;
        next.cuts = taken.cuts;
        next.cut_commits = Some(taken.cut_commits);
        next.ledger.clone_from(&taken.ledger);
        next.sequences = taken.sequences.clone();
        next.attendance = taken.attendance.clone();
        next.last_commit_unix_nanos = taken.moment.commit_unix_nanos;
        next.jumped_nanos = taken.moment.jumped_nanos;
        next.files.extend(entries.iter().cloned());
        if let Err(NotSaved { may_be_in_force, source }) = self.save(&next) {
            if !may_be_in_force {
                self.target().discard(paths(&entries));
                self.keep_checkpoint(manifest.checkpoint.as_ref());
            }
            return Err(self.manifest_error(source));
        }
        self.settings.steps.before(Step::Readers).map_err(|source| self.manifest_error(source))?;
        *manifest = next;
        self.keep_checkpoint(manifest.checkpoint.as_ref());
        let parquet = self.directory.parquet();
        let odd = entries.iter().filter(|entry| hour_of(entry.times).is_none()).count();
        self.counters.odd_files.fetch_add(count(odd), Ordering::Relaxed);
        let files: Vec<_> = entries.into_iter().map(|entry| Pinned::new(&parquet, entry)).collect();
        let sealed = files.len();
        self.state.lock().end_seal(taken, files);
        Ok(sealed)
    }

    /// Deletes the other checkpoints.
    fn keep_checkpoint(&self, named: Option<&CheckpointEntry>) {
        if self.settings.steps.before(Step::Delete).is_ok() {
            delete_others(&self.directory.checkpoints(), named);
        }
    }

    pub(crate) fn target(&self) -> Target {
        let steps = self.settings.steps.clone();
        Target { parquet: self.directory.parquet(), store_id: self.directory.store_id, steps }
    }

    /// The number of the next file. It is given out once, whether or not the file comes to be: a file of a failed
    /// attempt may lie under it until the next start.
    pub(crate) fn next_sequence(&self) -> u64 {
        let mut manifest = self.manifest.lock();
        let sequence = manifest.next_sequence;
        manifest.next_sequence += 1;
        sequence
    }
}
