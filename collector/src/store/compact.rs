//! Which files are merged, and merging them.
//!
//! While an hour runs, files of one level become one of the next, so that each row is rewritten a few times and not once
//! per seal. Once the hour is over and nothing came for a while, all its files become few large ones in one order: they
//! are final, never merged again, and what a bucket gets. What comes later still makes a final file of its own.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use lariat_schema::coverage::Why;
use lariat_schema::tables::Table;
use lariat_schema::time_range::NANOS_PER_SECOND;
use tracing::field::Empty;

use super::core::Core;
use super::encode::is_smaller_merged;
use super::manifest::{FileEntry, verify};
use super::merge::{MERGE_INPUTS, merge};
use super::write::{NANOS_PER_HOUR, SealError, hour_of};

/// Files of an hour, table and level that are merged into one of the next level.
const FILES_PER_LEVEL: usize = 8;
/// Larger files wait for the end of their hour: merging them before costs more than reading them apart.
const LEVEL_FILE_BYTES: u64 = 32 << 20;
/// Size of final files: large enough that an hour has few, small enough to upload and to deal out.
const FINAL_FILE_BYTES: u64 = 256 << 20;
/// How long after its end an hour's files wait for rows that come late.
const FINAL_AFTER_NANOS: i64 = 600 * NANOS_PER_SECOND;

/// A merge to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) table: Table,
    pub(crate) old: Vec<FileEntry>,
    pub(crate) level: u8,
    pub(crate) is_final: bool,
}

/// The next merge, the oldest hour first. With a bucket, files become final when their oldest row was committed
/// `upload_after_nanos` ago, and final files are left alone, since one may just be on its way there.
pub(crate) fn plan(files: &[FileEntry], now_unix_nanos: i64, upload_after_nanos: Option<i64>) -> Option<Plan> {
    let mut hours: BTreeMap<(Option<i64>, Table), Vec<&FileEntry>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_local() && file.uploaded_unix_nanos.is_none()) {
        hours.entry((hour_of(file.times), file.table)).or_default().push(file);
    }
    hours.into_iter().find_map(|((hour, table), files)| {
        // Files of odd times are merged among themselves, as files of an hour that is long over.
        let ended = hour.map_or(i64::MIN, |hour| hour.saturating_add(1).saturating_mul(NANOS_PER_HOUR));
        of_hour(table, ended, &files, now_unix_nanos, upload_after_nanos)
    })
}

fn of_hour(
    table: Table,
    ended_unix_nanos: i64,
    files: &[&FileEntry],
    now_unix_nanos: i64,
    upload_after_nanos: Option<i64>,
) -> Option<Plan> {
    let (open, small): (Vec<&FileEntry>, Vec<&FileEntry>) = files.iter().partition(|file| !file.is_final);
    let newest = open.iter().map(|file| file.commits.to_unix_nanos).max()?;
    let oldest = open.iter().map(|file| file.commits.from_unix_nanos).min()?;
    let quiet = ended_unix_nanos.max(newest).saturating_add(FINAL_AFTER_NANOS) <= now_unix_nanos;
    let wanted = upload_after_nanos.is_some_and(|after| oldest.saturating_add(after) <= now_unix_nanos);
    if quiet || wanted {
        let mut old = open;
        if upload_after_nanos.is_none() {
            old.extend(small.into_iter().filter(|file| file.bytes < LEVEL_FILE_BYTES));
        }
        old.sort_by_key(|file| (file.level, file.commits.from_unix_nanos));
        let is_final = old.len() <= MERGE_INPUTS;
        old.truncate(MERGE_INPUTS);
        return Some(merged(table, &old, is_final));
    }
    let mut levels: BTreeMap<u8, Vec<&FileEntry>> = BTreeMap::new();
    for file in open.into_iter().filter(|file| file.bytes < LEVEL_FILE_BYTES) {
        levels.entry(file.level).or_default().push(file);
    }
    let mut crowd = levels.into_values().find(|files| files.len() >= FILES_PER_LEVEL)?;
    crowd.truncate(MERGE_INPUTS);
    Some(merged(table, &crowd, false))
}

fn merged(table: Table, old: &[&FileEntry], is_final: bool) -> Plan {
    let level = old.iter().map(|file| file.level).max().unwrap_or(0).saturating_add(1);
    Plan { table, old: old.iter().map(|file| (*file).clone()).collect(), level, is_final }
}

impl Core {
    /// Does the next merge; true if there was one.
    pub(crate) fn compact(&self) -> Result<bool, SealError> {
        self.compact_older_than(self.settings.upload_after_nanos)
    }

    /// Makes all files final, so that the bucket can have them before the node ends. A merge that takes too long ends with
    /// [`Core::closing`].
    pub(crate) fn finish_files(&self) -> Result<(), SealError> {
        while self.compact_older_than(Some(i64::MIN))? {}
        Ok(())
    }

    fn compact_older_than(&self, upload_after: Option<i64>) -> Result<bool, SealError> {
        let _one = self.tending.lock();
        let planned = plan(&self.manifest.lock().files, self.now(), upload_after);
        let Some(Plan { table, old, level, is_final }) = planned else { return Ok(false) };
        let span = tracing::info_span!("compact", table = %table, files = old.len(), into = Empty, is_final, otel.status_code = Empty);
        let _inside = span.enter();
        let done = self.replace(table, &old, level, is_final);
        match &done {
            Ok(files) => {
                span.record("into", files);
                self.counters.compactions.fetch_add(1, Ordering::Relaxed);
            }
            Err(SealError::Closing) => {}
            Err(_) => {
                span.record("otel.status_code", "ERROR");
                self.counters.compaction_failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        done.map(|_| true)
    }

    /// Compares the checksums of files that are about to be read whole. One that is damaged is set aside, and false
    /// returned: the next plan is without it.
    pub(crate) fn set_damaged_aside(&self, files: &[FileEntry]) -> Result<bool, SealError> {
        for entry in files {
            let path = self.target().parquet.join(&entry.path);
            if let Err(fault) = verify(&path, entry.bytes, entry.crc32) {
                if !fault.lasts() {
                    return Err(SealError::Write { path, source: std::io::Error::other(fault) });
                }
                return self.set_aside(entry, &fault).map(|()| false);
            }
        }
        Ok(true)
    }

    fn replace(&self, table: Table, old: &[FileEntry], level: u8, is_final: bool) -> Result<usize, SealError> {
        let target = self.target();
        if !self.set_damaged_aside(old)? {
            return Ok(0);
        }
        if let ([only], true) = (old, is_final)
            && (only.level > 0 || !is_smaller_merged(table))
        {
            let entry = FileEntry { is_final, ..only.clone() };
            return self.change(old, vec![entry], |_| {}).map(|()| 1);
        }
        let mut new = merge(&target, table, old, FINAL_FILE_BYTES, &|| self.next_sequence(), &self.closing)?;
        for entry in &mut new {
            (entry.level, entry.is_final) = (level, is_final);
            entry.replaces = old.iter().map(|entry| entry.path.clone()).collect();
        }
        let files = new.len();
        self.change(old, new, |_| {})?;
        Ok(files)
    }

    /// A file cannot be used: it leaves the list, its time is lost, and what there is of it is kept for an operator.
    pub(crate) fn set_aside(&self, entry: &FileEntry, fault: &super::manifest::Fault) -> Result<(), SealError> {
        let path = self.target().parquet.join(&entry.path);
        tracing::error!(file = %path.display(), table = %entry.table, rows = entry.rows, from = entry.times.from_unix_nanos,
            to = entry.times.to_unix_nanos, %fault, "a sealed file is set aside: the rest is served");
        self.counters.quarantined.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.directory.quarantine(&path) {
            tracing::error!(file = %path.display(), %error, "cannot move the file into quarantine");
        }
        if entry.uploaded_unix_nanos.is_some() {
            let left = FileEntry { only_in_bucket: true, ..entry.clone() };
            return self.change(std::slice::from_ref(entry), vec![left], |_| {});
        }
        self.counters.lost_rows.fetch_add(entry.rows, Ordering::Relaxed);
        self.change(std::slice::from_ref(entry), Vec::new(), |manifest| manifest.gone.add(entry, Why::Lost))
    }
}

#[cfg(test)]
mod tests {
    use lariat_schema::time_range::TimeRange;

    use super::*;

    const MINUTE: i64 = 60 * NANOS_PER_SECOND;

    fn sealed(minute: i64, level: u8) -> FileEntry {
        let times = TimeRange::new(minute * MINUTE, (minute + 1) * MINUTE);
        let path = format!("{level}-{minute}");
        FileEntry { times, commits: times, level, ..FileEntry::for_test(Table::Spans, &path, 1 << 20) }
    }

    #[test]
    fn files_of_a_running_hour_are_merged_by_level() {
        let mut files: Vec<_> = (0..7).map(|minute| sealed(minute, 0)).collect();
        files.extend((0..7).map(|minute| sealed(minute, 1)));
        assert_eq!(plan(&files, 8 * MINUTE, None), None);
        files.push(sealed(7, 0));
        let chosen = plan(&files, 8 * MINUTE, None).unwrap();
        assert_eq!((chosen.old.len(), chosen.level, chosen.is_final), (8, 1, false));
        assert!(chosen.old.iter().all(|file| file.level == 0));
    }

    #[test]
    fn an_hour_that_is_over_ends_in_one_merge_of_all_its_files() {
        let files: Vec<_> = [(3, 0), (20, 1), (59, 0)].map(|(minute, level)| sealed(minute, level)).to_vec();
        assert_eq!(plan(&files, 69 * MINUTE, None), None);
        let chosen = plan(&files, 70 * MINUTE, None).unwrap();
        assert_eq!((chosen.old.len(), chosen.is_final), (3, true));
        // What comes late joins what is final and small, as long as no bucket may be reading it.
        let finals = vec![
            FileEntry { is_final: true, ..sealed(0, 3) },
            FileEntry { commits: TimeRange::new(0, 80 * MINUTE), ..sealed(5, 0) },
        ];
        assert_eq!(plan(&finals, 89 * MINUTE, None), None);
        assert_eq!(plan(&finals, 90 * MINUTE, None).map(|plan| plan.old.len()), Some(2));
        assert_eq!(plan(&finals, 90 * MINUTE, Some(i64::MAX)).map(|plan| plan.old.len()), Some(1));
        assert_eq!(plan(&[finals[0].clone()], 900 * MINUTE, None), None);
    }

    #[test]
    fn files_of_odd_times_are_merged_with_each_other_and_with_no_hour() {
        let odd = |path: &str| {
            let times = TimeRange::new(0, 300 * MINUTE);
            let commits = TimeRange::new(5 * MINUTE, 6 * MINUTE);
            FileEntry { times, commits, ..FileEntry::for_test(Table::Spans, path, 1 << 20) }
        };
        let files = [odd("a"), sealed(1, 0), odd("b")];
        assert_eq!(plan(&files, 15 * MINUTE, None), None);
        let chosen = plan(&files, 16 * MINUTE, None).unwrap();
        assert_eq!(chosen.old.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(chosen.is_final);
    }

    #[test]
    fn more_files_than_are_merged_at_once_take_several_merges() {
        let files: Vec<_> = (0..40).map(|minute| sealed(minute, 0)).collect();
        let chosen = plan(&files, 100 * MINUTE, None).unwrap();
        assert_eq!((chosen.old.len(), chosen.is_final), (MERGE_INPUTS, false));
    }

    #[test]
    fn with_a_bucket_files_are_final_when_they_are_old_enough() {
        let files: Vec<_> = (0..3).map(|minute| sealed(minute, 0)).collect();
        assert_eq!(plan(&files, 4 * MINUTE, Some(5 * MINUTE)), None);
        let chosen = plan(&files, 5 * MINUTE, Some(5 * MINUTE)).unwrap();
        assert_eq!((chosen.old.len(), chosen.is_final), (3, true));
        let uploaded: Vec<_> =
            files.into_iter().map(|file| FileEntry { uploaded_unix_nanos: Some(1), ..file }).collect();
        assert_eq!(plan(&uploaded, 100 * MINUTE, Some(5 * MINUTE)), None);
    }
}
