//! What the manifest says of files of longer cells, and for which hours they are to be made.
//!
//! Such a file is a cache: it holds the rows of other files added up, names them by hour, and counts as none of their rows.
//! An hour of it stands only as long as every file that it was made of is on this disk, and whoever reads takes either
//! that hour or those files. Cells are made of final files alone, so that what merging writes anew is not added up twice;
//! what comes late is read beside them until it is final too. Several hours of a day go into one file where they are there
//! together, as at the first start over a past: a file for each would only have to be [packed](super::pack) afterwards.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use lariat_schema::cells::CellWidth;
use lariat_schema::layout::sequence_of;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use serde::{Deserialize, Serialize};

use super::manifest::FileEntry;
use super::merge::MERGE_INPUTS;
use super::write::hour_of;
use super::{CellHour, SealedFile};

/// Hours of a day.
const DAY_HOURS: i64 = 24;
/// Rows that are added up into one file of each width: a second of work, so that merging and clearing do not wait longer
/// for it.
pub(crate) const PLAN_ROWS: u64 = if cfg!(test) { 16 } else { 200_000 };

/// The UTC day of an hour, both counted from 1970.
pub(crate) fn day_of(hour: i64) -> i64 {
    hour.div_euclid(DAY_HOURS)
}

/// One file of longer cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DerivedEntry {
    /// Below the Parquet folder.
    pub(crate) path: String,
    pub(crate) width: CellWidth,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) crc32: u32,
    /// Times of its rows, each the start of its cell.
    pub(crate) times: TimeRange,
    /// The hours of it that stand. It may have rows of others, whose files have changed since.
    pub(crate) hours: Vec<CellHour>,
}

impl DerivedEntry {
    /// What readers hold of it.
    pub(crate) fn as_file(&self, parquet: &Path) -> SealedFile {
        let (bytes, rows, times) = (self.bytes, self.rows, self.times);
        SealedFile {
            path: parquet.join(&self.path),
            bytes,
            rows,
            times,
            only_in_bucket: false,
            weights: None,
            request_ids: None,
        }
    }
}

/// The sequence of a file, by which it is named as a source.
fn sequence(file: &FileEntry) -> Option<u64> {
    sequence_of(Path::new(&file.path))
}

/// The hour of a file that longer cells can be made of.
fn source_hour(file: &FileEntry) -> Option<i64> {
    if file.table == Table::Rollups && file.is_local() { hour_of(file.times) } else { None }
}

/// Takes out the hours that were made of a file that is not there any longer. Those that nothing is left of go.
pub(crate) fn settle(derived: &mut Vec<DerivedEntry>, files: &[FileEntry]) {
    if derived.is_empty() {
        return;
    }
    let there: HashSet<u64> = files.iter().filter(|file| source_hour(file).is_some()).filter_map(sequence).collect();
    for entry in derived.iter_mut() {
        entry.hours.retain(|hour| hour.of.iter().all(|source| there.contains(source)));
    }
    derived.retain(|entry| !entry.hours.is_empty());
}

/// Takes out what was made of one of these files, in favour of cells that are made of all of them.
pub(crate) fn supersede(derived: &mut Vec<DerivedEntry>, width: CellWidth, sources: &[u64]) {
    for entry in derived.iter_mut().filter(|entry| entry.width == width) {
        entry.hours.retain(|hour| !hour.of.iter().any(|source| sources.contains(source)));
    }
    derived.retain(|entry| !entry.hours.is_empty());
}

/// Cells to be made, of hours of one day.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// The oldest first.
    pub(crate) hours: Vec<HourPlan>,
}

/// Files of an hour whose rows are to be added up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HourPlan {
    pub(crate) hour: i64,
    pub(crate) old: Vec<FileEntry>,
}

impl HourPlan {
    fn rows(&self) -> u64 {
        self.old.iter().map(|file| file.rows).sum()
    }
}

impl Plan {
    pub(crate) fn rows(&self) -> u64 {
        self.hours.iter().map(HourPlan::rows).sum()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.hours.iter().flat_map(|hour| &hour.old)
    }

    /// What the manifest will say of the hours.
    pub(crate) fn made(&self) -> Vec<CellHour> {
        let made = |hour: &HourPlan| CellHour { hour: hour.hour, of: hour.old.iter().filter_map(sequence).collect() };
        self.hours.iter().map(made).collect()
    }
}

/// The next hours whose final files do not all stand in cells of every width: the newest, since it is what is asked for
/// most, and those before it in the same day, up to [`PLAN_ROWS`].
pub(crate) fn plan(files: &[FileEntry], derived: &[DerivedEntry]) -> Option<Plan> {
    let mut hours: BTreeMap<i64, Vec<&FileEntry>> = BTreeMap::new();
    for file in files {
        if let Some(hour) = source_hour(file) {
            hours.entry(hour).or_default().push(file);
        }
    }
    let covered: Vec<HashSet<u64>> = CellWidth::ALL.iter().map(|width| sources_of(derived, *width)).collect();
    let stands = |file: &FileEntry| {
        sequence(file).is_some_and(|sequence| covered.iter().all(|covered| covered.contains(&sequence)))
    };
    let mut wanted = hours.into_iter().rev().filter_map(|(hour, files)| of_hour(hour, files, stands));
    let newest = wanted.next()?;
    let (day, mut rows) = (day_of(newest.hour), newest.rows());
    let mut chosen = vec![newest];
    chosen.extend(wanted.take_while(|hour| {
        rows = rows.saturating_add(hour.rows());
        day_of(hour.hour) == day && rows <= PLAN_ROWS
    }));
    chosen.reverse();
    Some(Plan { hours: chosen })
}

fn of_hour(hour: i64, files: Vec<&FileEntry>, stands: impl Fn(&FileEntry) -> bool) -> Option<HourPlan> {
    if files.iter().any(|file| !file.is_final) || files.iter().all(|file| stands(file)) {
        return None;
    }
    let mut old: Vec<FileEntry> = if files.len() <= MERGE_INPUTS {
        files.into_iter().cloned().collect()
    } else {
        files.into_iter().filter(|file| !stands(file)).cloned().collect()
    };
    old.sort_by(|one, other| one.path.cmp(&other.path));
    old.truncate(MERGE_INPUTS);
    Some(HourPlan { hour, old })
}

fn sources_of(derived: &[DerivedEntry], width: CellWidth) -> HashSet<u64> {
    let hours = derived.iter().filter(|entry| entry.width == width).flat_map(|entry| &entry.hours);
    hours.flat_map(|hour| hour.of.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use lariat_schema::time_range::NANOS_PER_SECOND;

    use super::*;

    const HOUR: i64 = 3_600 * NANOS_PER_SECOND;

    fn cells(hour: i64, sequence: u64, is_final: bool) -> FileEntry {
        let path = format!("rollups/{sequence:012}.parquet");
        let times = TimeRange::new(hour * HOUR, hour * HOUR + 1);
        FileEntry { times, is_final, ..FileEntry::for_test(Table::Rollups, &path, 1) }
    }

    fn derived(width: CellWidth, hours: &[(i64, &[u64])]) -> DerivedEntry {
        let hours = hours.iter().map(|(hour, of)| CellHour { hour: *hour, of: of.to_vec() }).collect();
        let times = TimeRange::new(0, 1);
        DerivedEntry { path: width.relation().to_owned(), width, bytes: 1, rows: 1, crc32: 0, times, hours }
    }

    fn both(hours: &[(i64, &[u64])]) -> Vec<DerivedEntry> {
        CellWidth::ALL.iter().map(|width| derived(*width, hours)).collect()
    }

    /// Hours that are planned, and the files of each.
    fn planned(files: &[FileEntry], derived: &[DerivedEntry]) -> Vec<(i64, Vec<u64>)> {
        let made = plan(files, derived).map(|plan| plan.made()).unwrap_or_default();
        made.into_iter().map(|hour| (hour.hour, hour.of)).collect()
    }

    #[test]
    fn hours_whose_files_are_final_are_made_from_the_newest_on_and_what_is_made_is_not_made_again() {
        let files = [cells(1, 1, true), cells(1, 2, true), cells(2, 3, true), cells(3, 4, true), cells(3, 5, false)];
        assert_eq!(planned(&files, &[]), [(1, vec![1, 2]), (2, vec![3])]);
        assert_eq!(planned(&files, &both(&[(2, &[3])])), [(1, vec![1, 2])]);
        assert_eq!(plan(&files, &both(&[(2, &[3]), (1, &[1, 2])])), None);
        // One width alone is not enough, and what came late makes the whole hour anew.
        assert!(plan(&files, &[derived(CellWidth::Hour, &[(2, &[3]), (1, &[1, 2])])]).is_some());
        assert_eq!(planned(&files, &both(&[(2, &[3]), (1, &[1])])), [(1, vec![1, 2])]);
    }

    #[test]
    fn hours_are_made_together_up_to_a_number_of_rows_and_never_of_two_days() {
        let large = |hour, sequence, rows| FileEntry { rows, ..cells(hour, sequence, true) };
        let files = [large(22, 1, 1), large(23, 2, 1), large(24, 3, 9), large(25, 4, PLAN_ROWS - 4), large(26, 5, 4)];
        assert_eq!(planned(&files, &[]), [(25, vec![4]), (26, vec![5])]);
        assert_eq!(planned(&files[..3], &[]), [(24, vec![3])]);
        assert_eq!(planned(&files[..2], &[]), [(22, vec![1]), (23, vec![2])]);
        assert_eq!(planned(&[large(3, 1, PLAN_ROWS + 1)], &[]), [(3, vec![1])]);
    }

    #[test]
    fn files_of_other_tables_of_odd_times_or_in_the_bucket_only_are_no_sources() {
        let odd = FileEntry { times: TimeRange::new(0, 3 * HOUR), ..cells(1, 1, true) };
        let gone = FileEntry { only_in_bucket: true, ..cells(1, 2, true) };
        let spans = FileEntry { table: Table::Spans, ..cells(1, 3, true) };
        assert_eq!(plan(&[odd, gone, spans], &[]), None);
    }

    #[test]
    fn more_files_than_are_read_at_once_are_added_up_in_several_parts() {
        let files: Vec<_> = (0..40).map(|sequence| cells(1, sequence, true)).collect();
        let of = |derived: &[DerivedEntry]| planned(&files, derived).remove(0).1;
        let first = of(&[]);
        assert_eq!(first.len(), MERGE_INPUTS);
        let second = of(&both(&[(1, &first)]));
        assert_eq!(second, (32..40).collect::<Vec<_>>());
        assert_eq!(plan(&files, &both(&[(1, &first), (1, &second)])), None);
    }

    #[test]
    fn an_hour_goes_with_any_of_its_files_and_a_file_with_its_last_hour() {
        let mut entries = both(&[(1, &[1, 2]), (2, &[3])]);
        settle(&mut entries, &[cells(1, 1, true), cells(2, 3, true)]);
        assert!(entries.iter().all(|entry| entry.hours.iter().map(|hour| hour.hour).collect::<Vec<_>>() == [2]));
        settle(&mut entries, &[FileEntry { only_in_bucket: true, ..cells(2, 3, true) }]);
        assert!(entries.is_empty());
        let mut entries = both(&[(1, &[1]), (2, &[3])]);
        supersede(&mut entries, CellWidth::Hour, &[1, 2]);
        assert_eq!(entries.iter().map(|entry| entry.hours.len()).collect::<Vec<_>>(), [2, 1]);
    }
}
