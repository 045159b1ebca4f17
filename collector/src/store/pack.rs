//! Files of longer cells of a day become few.
//!
//! What a report over a week costs is the files that it opens and hardly their rows, and cells are made an hour at a time.
//! So the files of a day and width become one: when the day is over, and before as soon as there are so many that a
//! reader would notice. Waiting for the day's end alone was rejected, since most questions are about today. Files of
//! many rows are left alone: opening one costs nothing beside reading it, and what is packed is written anew whenever
//! something late is added up.
//!
//! Rows are copied, one file after the other, without those of hours that do not stand any longer. Merging them into the
//! table's order was rejected: nobody asks for that order here, and it would spread each hour over all pages. Nothing of
//! what is packed is counted anew, so that packing cannot change an answer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::CellHour;
use super::core::Core;
use super::derive::entry_of;
use super::derived::{DerivedEntry, day_of};
use super::encode::Stage;
use super::manifest::{FileEntry, verify};
use super::merge::{opened, widen};
use super::write::{NANOS_PER_HOUR, SealError, Target};
use crate::columns::{count, moments};

/// Files of a width that a day has at most while it runs: a day is then written anew three times.
const RUNNING_FILES: usize = 8;
/// Rows of a packed file at most: with so many, opening it is a small part of reading it, and packing takes about a
/// second.
const PACKED_ROWS: u64 = 250_000;
/// Rows that are copied at a time: some megabytes, whatever their sketches are like.
const BATCH_ROWS: usize = 1_024;

/// Files of one width and day that become one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pack {
    width: CellWidth,
    /// The oldest hours first.
    old: Vec<DerivedEntry>,
}

impl Pack {
    /// The hours that stand in any of the files. Rows of one hour in one file cannot be told apart, so that they stand
    /// together or not at all.
    fn hours(&self) -> Vec<CellHour> {
        let mut hours: BTreeMap<i64, BTreeSet<u64>> = BTreeMap::new();
        for hour in self.old.iter().flat_map(|entry| &entry.hours) {
            hours.entry(hour.hour).or_default().extend(&hour.of);
        }
        hours.into_iter().map(|(hour, of)| CellHour { hour, of: of.into_iter().collect() }).collect()
    }

    fn rows(&self) -> u64 {
        self.old.iter().map(|entry| entry.rows).sum()
    }
}

/// The next files to be packed, of the newest day first: of a day that a later one has followed any two, of the newest one as
/// many as it may have. The smallest are taken, up to [`PACKED_ROWS`].
pub(crate) fn plan(derived: &[DerivedEntry]) -> Option<Pack> {
    let mut days: BTreeMap<(CellWidth, i64), Vec<&DerivedEntry>> = BTreeMap::new();
    let mut newest = i64::MIN;
    for entry in derived {
        // All hours of a file are of one day.
        if let Some(day) = entry.hours.first().map(|hour| day_of(hour.hour)) {
            newest = newest.max(day);
            days.entry((entry.width, day)).or_default().push(entry);
        }
    }
    days.into_iter().rev().find_map(|((width, day), mut files)| {
        files.sort_by(|one, other| (one.rows, &one.path).cmp(&(other.rows, &other.path)));
        let mut rows: u64 = 0;
        let small = files.into_iter().take_while(|file| {
            rows = rows.saturating_add(file.rows);
            rows <= PACKED_ROWS
        });
        let mut old: Vec<DerivedEntry> = small.cloned().collect();
        old.sort_by_key(|entry| entry.times.from_unix_nanos);
        let wanted = if day < newest { 2 } else { RUNNING_FILES };
        (old.len() >= wanted).then_some(Pack { width, old })
    })
}

impl Core {
    /// Packs the next files. Returns how many rows they had.
    pub(crate) fn pack_next(&self) -> Result<Option<u64>, SealError> {
        if self.over_budget.load(Ordering::Acquire) {
            return Ok(None);
        }
        let _one = self.tending.lock();
        let planned = plan(&self.manifest.lock().derived);
        let Some(pack) = planned else { return Ok(None) };
        let (files, rows) = (pack.old.len(), pack.rows());
        let span =
            tracing::info_span!("pack", width = %pack.width, files, rows, otel.status_code = tracing::field::Empty);
        let _inside = span.enter();
        if !self.are_whole(&pack.old)? {
            return Ok(Some(rows));
        }
        if let Err(error) = self.pack(&pack) {
            span.record("otel.status_code", "ERROR");
            return Err(error);
        }
        self.counters.packed_files.fetch_add(count(files), Ordering::Relaxed);
        Ok(Some(rows))
    }

    /// Compares the checksums of files that are about to be copied. A damaged one leaves the list, to be made anew, and
    /// false is returned.
    fn are_whole(&self, files: &[DerivedEntry]) -> Result<bool, SealError> {
        for entry in files {
            let path = self.directory.parquet().join(&entry.path);
            if let Err(fault) = verify(&path, entry.bytes, entry.crc32) {
                if !fault.lasts() {
                    return Err(SealError::Write { path, source: std::io::Error::other(fault) });
                }
                return self.take_off(&entry.path, &fault).map(|()| false);
            }
        }
        Ok(true)
    }

    fn pack(&self, pack: &Pack) -> Result<(), SealError> {
        let file = self.target().copy_cells(pack, self.next_sequence(), &self.closing)?;
        let gone: HashSet<&str> = pack.old.iter().map(|entry| entry.path.as_str()).collect();
        // Hours whose files went meanwhile go in the same step.
        self.change_derived(vec![entry_of(pack.width, file, pack.hours())], |derived| {
            derived.retain(|entry| !gone.contains(entry.path.as_str()));
        })
    }
}

impl Target {
    /// Writes the rows of the hours that stand into one file, durable when this returns. On an error nothing remains.
    fn copy_cells(&self, pack: &Pack, sequence: u64, closing: &AtomicBool) -> Result<FileEntry, SealError> {
        let table = Table::Rollups;
        let rows_error = |source| SealError::Rows { table, source };
        let encode = |source| SealError::Encode { table, source };
        let mut file = self.start(table, 0, sequence, Stage::Cells)?;
        for entry in &pack.old {
            let standing: HashSet<i64> = entry.hours.iter().map(|hour| hour.hour).collect();
            let reader = ParquetRecordBatchReaderBuilder::try_new(opened(&self.parquet.join(&entry.path))?);
            let reader = reader.and_then(|reader| reader.with_batch_size(BATCH_ROWS).build()).map_err(encode)?;
            for batch in reader {
                if closing.load(Ordering::Acquire) {
                    return Err(SealError::Closing);
                }
                let batch = batch.and_then(|batch| rows_of(&batch, &standing)).map_err(rows_error)?;
                if batch.num_rows() > 0 {
                    file.write(&batch)?;
                }
            }
        }
        file.finish_cells(pack.width)
    }
}

/// The rows of some hours, with the table's columns of today.
fn rows_of(batch: &RecordBatch, hours: &HashSet<i64>) -> Result<RecordBatch, ArrowError> {
    let batch = widen(batch, &Table::Rollups.schema())?;
    let times = moments(&batch, "time");
    let stands = times.values().iter().map(|time| Some(hours.contains(&time.div_euclid(NANOS_PER_HOUR))));
    filter_record_batch(&batch, &stands.collect::<BooleanArray>())
}

#[cfg(test)]
mod tests {
    use lariat_schema::time_range::TimeRange;

    use super::*;

    fn file(width: CellWidth, name: &str, rows: u64, hours: &[(i64, &[u64])]) -> DerivedEntry {
        let times = TimeRange::new(hours[0].0 * NANOS_PER_HOUR, (hours[0].0 + 1) * NANOS_PER_HOUR);
        let hours = hours.iter().map(|(hour, of)| CellHour { hour: *hour, of: of.to_vec() }).collect();
        DerivedEntry { path: format!("{width}/{name}"), width, bytes: 1, rows, crc32: 0, times, hours }
    }

    fn hour(hour: i64, rows: u64) -> DerivedEntry {
        file(CellWidth::Hour, &hour.to_string(), rows, &[(hour, &[1])])
    }

    /// Names of the files that are planned.
    fn planned(derived: &[DerivedEntry]) -> Vec<String> {
        plan(derived).map(|pack| pack.old.into_iter().map(|entry| entry.path).collect()).unwrap_or_default()
    }

    #[test]
    fn a_day_is_packed_when_it_is_over_and_before_when_it_has_many_files() {
        let running: Vec<_> = (24..31).map(|at| hour(at, 10)).collect();
        assert_eq!(plan(&running), None);
        let eight: Vec<_> = (24..32).map(|at| hour(at, 10)).collect();
        assert_eq!(planned(&eight).len(), RUNNING_FILES);
        let over = [&running[..], &[hour(48, 10)]].concat();
        assert_eq!(planned(&over), (24..31).map(|at| format!("1h/{at}")).collect::<Vec<_>>());
        // What is packed is packed again with what comes late, and by itself never.
        let packed = file(CellWidth::Hour, "packed", 70, &[(24, &[1]), (30, &[2])]);
        assert_eq!(plan(&[packed.clone(), hour(48, 10)]), None);
        assert_eq!(planned(&[packed, hour(48, 10), hour(31, 10)]), ["1h/packed", "1h/31"]);
    }

    #[test]
    fn widths_and_days_are_packed_apart() {
        let short = |at: i64| file(CellWidth::FiveMinutes, &at.to_string(), 120, &[(at, &[1])]);
        let files = [hour(0, 1), short(1), short(2), hour(23, 1), hour(24, 1), short(47), hour(48, 1)];
        let first = plan(&files).unwrap();
        assert_eq!((first.width, first.old.len()), (CellWidth::Hour, 2));
        assert_eq!(planned(&files[1..3]), Vec::<String>::new());
        assert_eq!(planned(&[&files[1..3], &files[4..]].concat()), ["5m/1", "5m/2"]);
    }

    #[test]
    fn files_of_many_rows_are_left_alone_and_packs_have_no_more() {
        let next = hour(24, 1);
        assert_eq!(plan(&[hour(0, PACKED_ROWS + 1), hour(1, 1), next.clone()]), None);
        assert_eq!(plan(&[hour(0, PACKED_ROWS / 2 + 1), hour(1, PACKED_ROWS / 2 + 1), next.clone()]), None);
        let some = [hour(0, PACKED_ROWS / 2), hour(1, PACKED_ROWS / 2), hour(2, 3), hour(3, PACKED_ROWS), next];
        assert_eq!(planned(&some), ["1h/0", "1h/2"]);
    }

    #[test]
    fn an_hour_of_several_files_stands_with_all_that_it_was_made_of() {
        let parts =
            [file(CellWidth::Hour, "a", 1, &[(0, &[1, 2]), (1, &[5])]), file(CellWidth::Hour, "b", 1, &[(0, &[3, 4])])];
        let pack = Pack { width: CellWidth::Hour, old: parts.to_vec() };
        let hours: Vec<_> = pack.hours().into_iter().map(|hour| (hour.hour, hour.of)).collect();
        assert_eq!(hours, [(0, vec![1, 2, 3, 4]), (1, vec![5])]);
    }
}
