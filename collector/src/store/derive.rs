//! Makes files of longer cells, in the background: hours that a merge has just made final, and those that were there before
//! anybody made such cells.
//!
//! The order of a change is that of all sealed files: files durable, then the manifest, then readers. Making the cells
//! within the merge would save reading an hour once more, and would leave out every hour that needs no merge.

use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;
use tracing::field::Empty;

use super::CellHour;
use super::core::Core;
use super::derived::{DerivedEntry, Plan, plan, settle, supersede};
use super::encode::Stage;
use super::lengthen::Lengthen;
use super::manifest::{FileEntry, NotSaved};
use super::merge::Merged;
use super::steps::Step;
use super::write::{FileWriter, SealError, Sequence, Target};

/// Rows that are added up in one round: a second of work, so that merging and clearing do not wait longer for it.
const ROUND_ROWS: u64 = 200_000;

impl Core {
    /// Makes longer cells of hours that have none, for as long as a round may take.
    pub(crate) fn derive(&self) -> Result<(), SealError> {
        let mut rows = 0;
        while rows < ROUND_ROWS {
            match self.derive_next()? {
                Some(of_hour) => rows += of_hour,
                None => break,
            }
        }
        Ok(())
    }

    /// Makes the longer cells of the next hour. Returns how many rows were added up.
    pub(crate) fn derive_next(&self) -> Result<Option<u64>, SealError> {
        if self.over_budget.load(Ordering::Acquire) {
            return Ok(None);
        }
        let _one = self.tending.lock();
        let planned = {
            let manifest = self.manifest.lock();
            plan(&manifest.files, &manifest.derived)
        };
        let Some(plan) = planned else { return Ok(None) };
        let rows: u64 = plan.old.iter().map(|file| file.rows).sum();
        let span =
            tracing::info_span!("derive", files = plan.old.len(), rows, into_rows = Empty, otel.status_code = Empty);
        let _inside = span.enter();
        if !self.set_damaged_aside(&plan.old)? {
            return Ok(Some(rows));
        }
        match self.make_cells(&plan) {
            Ok(into) => span.record("into_rows", into),
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                return Err(error);
            }
        };
        self.counters.derived_hours.fetch_add(1, Ordering::Relaxed);
        Ok(Some(rows))
    }

    fn make_cells(&self, plan: &Plan) -> Result<u64, SealError> {
        let written =
            self.target().write_cells(plan, &|| self.next_sequence(), &|merged| merged.next(&self.closing))?;
        let into = written.iter().map(|(_, file)| file.rows).sum();
        let sources = plan.sources();
        let added = written.into_iter().map(|(width, file)| {
            let hours = vec![CellHour { hour: plan.hour, of: sources.clone() }];
            entry_of(width, file, hours)
        });
        self.change_derived(added.collect(), |derived| {
            for width in CellWidth::ALL {
                supersede(derived, *width, &sources);
            }
        })?;
        Ok(into)
    }

    /// Changes which longer cells there are, in the manifest and then for readers. `also` is done before any are added.
    pub(crate) fn change_derived(
        &self,
        added: Vec<DerivedEntry>,
        also: impl FnOnce(&mut Vec<DerivedEntry>),
    ) -> Result<(), SealError> {
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        also(&mut next.derived);
        next.derived.extend(added.iter().cloned());
        settle(&mut next.derived, &next.files);
        if let Err(NotSaved { may_be_in_force, source }) = self.save(&next) {
            if !may_be_in_force {
                self.target().discard(added.iter().map(|entry| entry.path.as_str()));
            }
            return Err(self.manifest_error(source));
        }
        self.settings.steps.before(Step::Readers).map_err(|source| self.manifest_error(source))?;
        *manifest = next;
        self.state.lock().show_derived(&self.directory.parquet(), &manifest.derived);
        Ok(())
    }
}

fn entry_of(width: CellWidth, file: FileEntry, hours: Vec<CellHour>) -> DerivedEntry {
    let FileEntry { path, bytes, rows, crc32, times, .. } = file;
    DerivedEntry { path, width, bytes, rows, crc32, times, hours }
}

impl Target {
    /// Writes the longer cells of some files, of each width one file, all durable when this returns. On an error nothing
    /// remains.
    pub(crate) fn write_cells(
        &self,
        plan: &Plan,
        sequence: Sequence<'_>,
        next: &dyn Fn(&mut Merged) -> Result<Option<RecordBatch>, SealError>,
    ) -> Result<Vec<(CellWidth, FileEntry)>, SealError> {
        let mut rows = Merged::open(self, Table::Rollups, &plan.old)?;
        let mut levels = Vec::with_capacity(CellWidth::ALL.len());
        for width in CellWidth::ALL {
            levels.push(Level::begin(self, *width, sequence())?);
        }
        while let Some(batch) = next(&mut rows)? {
            add(&mut levels, &[batch])?;
        }
        for at in 0..levels.len() {
            let (level, above) = levels[at..].split_first_mut().ok_or(SealError::Closing)?;
            let last = level.cells.close().map_err(rows_error)?;
            level.write(&last)?;
            add(above, &last)?;
        }
        let mut written = Vec::new();
        for level in levels {
            match level.file.finish_cells(level.width) {
                Ok(file) => written.push((level.width, file)),
                Err(error) => {
                    self.discard(written.iter().map(|(_, file): &(_, FileEntry)| file.path.as_str()));
                    return Err(error);
                }
            }
        }
        Ok(written)
    }
}

/// Cells of one width, and the file that they go to.
struct Level<'a> {
    width: CellWidth,
    cells: Lengthen,
    file: FileWriter<'a>,
}

impl<'a> Level<'a> {
    fn begin(target: &'a Target, width: CellWidth, sequence: u64) -> Result<Self, SealError> {
        let cells = Lengthen::new(width).map_err(rows_error)?;
        Ok(Self { width, cells, file: target.start(Table::Rollups, 0, sequence, Stage::Merge)? })
    }

    fn write(&mut self, batches: &[RecordBatch]) -> Result<(), SealError> {
        batches.iter().try_for_each(|batch| self.file.write(batch))
    }
}

/// Adds rows to the first level, and what becomes whole there to the next: longer cells are made of shorter ones.
fn add(levels: &mut [Level<'_>], batches: &[RecordBatch]) -> Result<(), SealError> {
    let Some((level, above)) = levels.split_first_mut() else { return Ok(()) };
    for batch in batches {
        let whole = level.cells.take(batch).map_err(rows_error)?;
        level.write(&whole)?;
        add(above, &whole)?;
    }
    Ok(())
}

fn rows_error(source: arrow::error::ArrowError) -> SealError {
    SealError::Rows { table: Table::Rollups, source }
}
