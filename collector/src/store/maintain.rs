//! What is done to sealed files in the background, apart from sealing: retention, room on the disk, merging, comparing
//! checksums, deleting.
//!
//! It has a thread of its own, since a merge takes as long as it takes and rows must be sealed meanwhile. The order of a
//! change is always the same: files durable, then the manifest, then readers, then deletion; a crash between any two
//! leaves files that the manifest does not name, which the next start removes.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use lariat_schema::coverage::Why;
use lariat_schema::layout::PARQUET_DIR;
use lariat_schema::tables::Table;

use super::bucket::Bucket;
use super::core::Core;
use super::derived::settle;
use super::manifest::{Fault, FileEntry, Manifest, NotSaved, Pinned, verify};
use super::retain::{Retention, expired, relieve};
use super::steps::Step;
use super::write::{SealError, paths};
use crate::log::clock::Reading;

/// Pause after something failed.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes whose checksums are compared in one round: the disk is there for routing and queries first.
const VERIFY_BYTES: u64 = 16 << 20;
/// A wall clock that moved by more than this against the monotonic one is not believed about age: what it would expire
/// cannot be had back.
const CLOCK_JUMP: Duration = Duration::from_secs(3_600);

/// Settings of a store, from the section `collector`.
#[derive(Clone)]
pub(crate) struct StoreSettings {
    pub(crate) retention: Retention,
    /// How long the bucket's copies count as kept.
    pub(crate) bucket_retention: Retention,
    pub(crate) bucket: Option<Bucket>,
    pub(crate) disk_budget_bytes: Option<u64>,
    /// Age at which files become final for the bucket; `None` without one.
    pub(crate) upload_after_nanos: Option<i64>,
    /// Pause between two rounds of the background thread.
    pub(crate) every: Duration,
    pub(crate) steps: super::steps::Steps,
}

/// True if the wall's clock moved between the two by more, or less, than the time that elapsed.
fn has_jumped(began: Reading, now: Reading) -> bool {
    let wall = i128::from(now.unix_nanos) - i128::from(began.unix_nanos);
    let elapsed = i128::from(now.elapsed_nanos) - i128::from(began.elapsed_nanos);
    (wall - elapsed).unsigned_abs() > CLOCK_JUMP.as_nanos()
}

/// Works until told to stop.
pub(crate) fn keep_maintaining(core: &Core, stop: &Receiver<()>) {
    let began = (core.clock)();
    let mut pause = core.settings.every;
    loop {
        match stop.recv_timeout(pause) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        pause = core.settings.every;
        let jumped = has_jumped(began, (core.clock)());
        core.counters.clock_jumped.store(u64::from(jumped), Ordering::Relaxed);
        let cleared = if jumped { Ok(()) } else { core.expire() };
        for (what, done) in [
            ("clear what is past its retention", cleared),
            ("make room on the disk", core.relieve()),
            ("merge files", core.compact().map(|_| ())),
            ("add up cells", core.derive()),
        ] {
            match done {
                Ok(()) => {}
                Err(SealError::Closing) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot {what}");
                    pause = pause.max(RETRY);
                }
            }
        }
        core.sweep();
        core.forget_replaced();
        core.verify_some(VERIFY_BYTES);
    }
}

impl Core {
    /// Changes what exists: in the manifest, then for readers.
    pub(crate) fn change(
        &self,
        gone: &[FileEntry],
        added: Vec<FileEntry>,
        also: impl FnOnce(&mut Manifest),
    ) -> Result<(), SealError> {
        let mut manifest = self.manifest.lock();
        let next = changed(&manifest, gone, &added, also);
        if let Err(NotSaved { may_be_in_force, source }) = self.save(&next) {
            if !may_be_in_force {
                let fresh: Vec<_> = added.into_iter().filter(|file| manifest.names(&file.path).is_none()).collect();
                self.target().discard(paths(&fresh));
            }
            return Err(self.manifest_error(source));
        }
        self.settings.steps.before(Step::Readers).map_err(|source| self.manifest_error(source))?;
        *manifest = next;
        self.show_files(&manifest, gone, added);
        Ok(())
    }

    /// The same for files that go to make room, where the manifest finds none: readers first, then deletion, then the
    /// manifest. After a crash between them the manifest names files that are missing, which is told as lost.
    fn change_without_room(
        &self,
        gone: &[FileEntry],
        added: Vec<FileEntry>,
        also: impl FnOnce(&mut Manifest),
    ) -> Result<(), SealError> {
        let mut manifest = self.manifest.lock();
        *manifest = changed(&manifest, gone, &added, also);
        self.show_files(&manifest, gone, added);
        self.sweep();
        self.save(&manifest).map_err(|error| self.manifest_error(error.source))
    }

    fn give_up(
        &self,
        gone: &[FileEntry],
        added: Vec<FileEntry>,
        also: impl Fn(&mut Manifest),
    ) -> Result<(), SealError> {
        match self.change(gone, added.clone(), &also) {
            Err(SealError::Write { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                self.change_without_room(gone, added, &also)
            }
            done => done,
        }
    }

    fn show_files(&self, manifest: &Manifest, gone: &[FileEntry], added: Vec<FileEntry>) {
        let parquet = self.directory.parquet();
        let names: HashSet<&str> = gone.iter().map(|file| file.path.as_str()).collect();
        let added = added.into_iter().map(|entry| Pinned::new(&parquet, entry)).collect();
        let mut state = self.state.lock();
        state.change_files(&names, added, &manifest.gone);
        state.show_derived(&parquet, &manifest.derived);
    }

    pub(crate) fn save(&self, manifest: &Manifest) -> Result<(), NotSaved> {
        self.settings.steps.before(Step::Manifest).map_err(|source| NotSaved { may_be_in_force: false, source })?;
        manifest.save(&self.directory.root)
    }

    pub(crate) fn manifest_error(&self, source: io::Error) -> SealError {
        SealError::Write { path: self.directory.root.join(super::manifest::MANIFEST_FILE), source }
    }

    /// Clears what is past its retention. Of what the bucket has, only the copy on this disk.
    pub(crate) fn expire(&self) -> Result<(), SealError> {
        let _one = self.tending.lock();
        let now = self.now();
        let has_bucket = self.settings.bucket.is_some();
        let (copies, gone) = {
            let manifest = self.manifest.lock();
            let past = expired(&manifest.files, &self.settings.retention, now);
            let (uploaded, gone): (Vec<_>, Vec<_>) =
                past.into_iter().partition(|file| has_bucket && file.uploaded_unix_nanos.is_some());
            let forgotten = expired(&uploaded, &self.settings.bucket_retention, now);
            let copies: Vec<_> =
                uploaded.into_iter().filter(|file| file.is_local() && !forgotten.contains(file)).collect();
            (copies, gone.into_iter().chain(forgotten).collect::<Vec<_>>())
        };
        self.drop_copies(copies)?;
        if gone.is_empty() {
            return Ok(());
        }
        let (files, rows) = (gone.len(), gone.iter().map(|file| file.rows).sum::<u64>());
        let span = tracing::info_span!("expire", files, rows);
        let _inside = span.enter();
        self.give_up(&gone, Vec::new(), |manifest| {
            for file in &gone {
                manifest.gone.add(file, Why::Expired);
            }
            for table in Table::ALL {
                if let Some(horizon) = self.settings.retention.horizon(*table, now) {
                    manifest.gone.expire(*table, horizon);
                }
            }
        })?;
        self.counters.expired_files.fetch_add(crate::columns::count(files), Ordering::Relaxed);
        self.counters.expired_rows.fetch_add(rows, Ordering::Relaxed);
        tracing::info!(files, rows, "cleared what is past its retention");
        Ok(())
    }

    /// Keeps the store within its part of the disk.
    pub(crate) fn relieve(&self) -> Result<(), SealError> {
        let Some(budget) = self.settings.disk_budget_bytes else { return Ok(()) };
        let _one = self.tending.lock();
        let leaving = self.state.lock().doomed_bytes();
        let relief = {
            let manifest = self.manifest.lock();
            let files: u64 = manifest.files.iter().filter(|file| file.is_local()).map(|file| file.bytes).sum();
            let cells: u64 = manifest.derived.iter().map(|file| file.bytes).sum();
            let used = files + cells + leaving + bytes_beside_files(&self.directory.root);
            self.counters.disk_used_bytes.store(used, Ordering::Relaxed);
            relieve(&manifest.files, self.settings.bucket.is_some(), used, leaving, budget)
        };
        if self.over_budget.swap(relief.refuse, Ordering::AcqRel) != relief.refuse {
            let (used_bytes, refuse) = (self.counters.disk_used_bytes.load(Ordering::Relaxed), relief.refuse);
            tracing::warn!(
                used_bytes,
                budget_bytes = budget,
                refuse,
                "requests are refused until there is room, or taken again"
            );
        }
        self.drop_copies(relief.uploaded)?;
        let gone = relief.oldest;
        if gone.is_empty() {
            return Ok(());
        }
        let (files, rows) = (gone.len(), gone.iter().map(|file| file.rows).sum::<u64>());
        let span = tracing::info_span!("make_room", files, rows);
        let _inside = span.enter();
        self.give_up(&gone, Vec::new(), |manifest| {
            for file in &gone {
                manifest.gone.add(file, Why::Lost);
            }
        })?;
        self.counters.lost_files.fetch_add(crate::columns::count(files), Ordering::Relaxed);
        self.counters.lost_rows.fetch_add(rows, Ordering::Relaxed);
        tracing::warn!(
            files,
            rows,
            budget_bytes = budget,
            "the disk budget is used up: deleted the oldest files before their retention"
        );
        self.sweep();
        Ok(())
    }

    /// Gives up local copies of what the bucket has.
    fn drop_copies(&self, files: Vec<FileEntry>) -> Result<(), SealError> {
        if files.is_empty() {
            return Ok(());
        }
        let left: Vec<_> = files.iter().map(|file| FileEntry { only_in_bucket: true, ..file.clone() }).collect();
        let span = tracing::info_span!("drop_copies", files = files.len());
        let _inside = span.enter();
        self.give_up(&files, left, |_| {})?;
        self.counters.copies_dropped.fetch_add(crate::columns::count(files.len()), Ordering::Relaxed);
        self.sweep();
        Ok(())
    }

    /// Deletes files that left the list and that no snapshot holds.
    pub(crate) fn sweep(&self) {
        let free = self.state.lock().unpinned();
        for file in free {
            let deleted = self.settings.steps.before(Step::Delete).and_then(|()| std::fs::remove_file(&file.path));
            match deleted {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file = %file.path.display(), %error, "cannot delete a file: the next start does");
                }
                _ => {}
            }
        }
    }

    /// Once no replaced file lies on the disk, nobody needs to be told which they were.
    fn forget_replaced(&self) {
        let mut manifest = self.manifest.lock();
        if self.state.lock().doomed_bytes() == 0 {
            manifest.files.iter_mut().for_each(|file| file.replaces = Vec::new());
        }
    }

    /// Compares checksums of files that were there at the start, or that a query could not read, up to so many bytes.
    pub(crate) fn verify_some(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 && !self.closing.load(Ordering::Acquire) {
            let Some(path) = self.unverified.lock().pop_front() else { return };
            let Some((bytes, crc32)) = self.manifest.lock().checksum(&path) else { continue };
            left = left.saturating_sub(bytes);
            match verify(&self.directory.parquet().join(&path), bytes, crc32) {
                Ok(()) => {
                    self.counters.verified_files.fetch_add(1, Ordering::Relaxed);
                }
                Err(fault) if fault.lasts() => {
                    let _one = self.tending.lock();
                    if let Err(error) = self.take_off(&path, &fault) {
                        tracing::error!(%error, "cannot set a file aside");
                        self.unverified.lock().push_back(path);
                        return;
                    }
                }
                Err(fault) => {
                    tracing::warn!(file = path, %fault, "cannot compare a file's checksum: it is tried again");
                    self.unverified.lock().push_back(path);
                    return;
                }
            }
        }
    }

    /// A damaged file leaves the list. Cells that were added up are made anew.
    pub(crate) fn take_off(&self, path: &str, fault: &Fault) -> Result<(), SealError> {
        let entry = self.manifest.lock().names(path).cloned();
        if let Some(entry) = entry {
            return self.set_aside(&entry, fault);
        }
        tracing::warn!(file = path, %fault, "a file of longer cells is damaged: it is made anew");
        self.change_derived(Vec::new(), |derived| derived.retain(|entry| entry.path != path))?;
        self.sweep();
        Ok(())
    }
}

fn changed(manifest: &Manifest, gone: &[FileEntry], added: &[FileEntry], also: impl FnOnce(&mut Manifest)) -> Manifest {
    let mut next = manifest.clone();
    let names: HashSet<&str> = gone.iter().map(|file| file.path.as_str()).collect();
    next.files.retain(|entry| !names.contains(entry.path.as_str()));
    next.files.extend(added.iter().cloned());
    also(&mut next);
    settle(&mut next.derived, &next.files);
    next
}

/// What a store takes on the disk besides its sealed files: the log, the manifest and what else lies beside them.
fn bytes_beside_files(root: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_dir() {
                bytes += metadata.len();
            } else if folder != root || entry.file_name() != PARQUET_DIR {
                folders.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_elapses_is_no_jump_and_a_clock_that_is_set_by_hours_is_one_either_way() {
        const HOUR: i64 = 3_600 * 1_000_000_000;
        let began = Reading { unix_nanos: 500_000 * HOUR, elapsed_nanos: 3 };
        let later = |wall, elapsed| Reading {
            unix_nanos: began.unix_nanos + wall,
            elapsed_nanos: began.elapsed_nanos + elapsed,
        };
        assert!(!has_jumped(began, later(10_000 * HOUR, 10_000 * HOUR)));
        assert!(!has_jumped(began, later(2 * HOUR, HOUR)) && !has_jumped(began, later(0, HOUR)));
        assert!(has_jumped(began, later(2 * HOUR + 1, HOUR)) && has_jumped(began, later(-1, HOUR)));
    }
}
