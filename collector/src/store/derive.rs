//! Makes files of longer cells, in the background: of hours that a merge has just made final, of those that were there before
//! anybody made such cells, and, once there is nothing of that to do, of files that are to be packed.
//!
//! The order of a change is that of all sealed files: files durable, then the manifest, then readers. Making the cells
//! within the merge would save reading an hour once more, and would leave out every hour that needs no merge.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;
use tracing::field::Empty;

use super::CellHour;
use super::core::Core;
use super::derived::{DerivedEntry, PLAN_ROWS, Plan, plan, settle, supersede};
use super::encode::Stage;
use super::lengthen::Lengthen;
use super::manifest::{FileEntry, NotSaved};
use super::merge::Merged;
use super::steps::Step;
use super::write::{FileWriter, SealError, Sequence, Target};
use crate::columns::count;

impl Core {
    /// Makes longer cells of hours that have none, and packs what there is, for as long as a round may take.
    pub(crate) fn derive(&self) -> Result<(), SealError> {
        let mut rows = 0;
        while rows < PLAN_ROWS {
            let done = match self.derive_next()? {
                None => self.pack_next()?,
                made => made,
            };
            match done {
                Some(more) => rows += more,
                None => break,
            }
        }
        Ok(())
    }

    /// Makes the longer cells of the next hours. Returns how many rows were added up.
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
        let (rows, old): (u64, Vec<FileEntry>) = (plan.rows(), plan.files().cloned().collect());
        let span = tracing::info_span!(
            "derive",
            hours = plan.hours.len(),
            files = old.len(),
            rows,
            into_rows = Empty,
            otel.status_code = Empty
        );
        let _inside = span.enter();
        if !self.set_damaged_aside(&old)? {
            return Ok(Some(rows));
        }
        match self.make_cells(&plan) {
            Ok(into) => span.record("into_rows", into),
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                return Err(error);
            }
        };
        self.counters.derived_hours.fetch_add(count(plan.hours.len()), Ordering::Relaxed);
        Ok(Some(rows))
    }

    /// Makes the cells of a plan, in place of what was made of any of its files.
    pub(crate) fn make_cells(&self, plan: &Plan) -> Result<u64, SealError> {
        let written = self.target().write_cells(plan, &|| self.next_sequence(), &self.closing)?;
        let into = written.iter().map(|(_, file)| file.rows).sum();
        let hours = plan.made();
        let sources: Vec<u64> = hours.iter().flat_map(|hour| hour.of.iter().copied()).collect();
        let added = written.into_iter().map(|(width, file)| entry_of(width, file, hours.clone()));
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

/// What the manifest says of a file of longer cells.
pub(crate) fn entry_of(width: CellWidth, file: FileEntry, hours: Vec<CellHour>) -> DerivedEntry {
    let FileEntry { path, bytes, rows, crc32, times, .. } = file;
    DerivedEntry { path, width, bytes, rows, crc32, times, hours }
}

impl Target {
    /// Writes the longer cells of some hours, of each width one file, all durable when this returns. On an error nothing
    /// remains.
    ///
    /// Rows stand hour by hour, and only within one in the table's order: who reads an edge of a window leaves out the
    /// pages of all other hours by their times, which lie in every page where the table's order goes through a day.
    pub(crate) fn write_cells(
        &self,
        plan: &Plan,
        sequence: Sequence<'_>,
        closing: &AtomicBool,
    ) -> Result<Vec<(CellWidth, FileEntry)>, SealError> {
        let mut levels = Vec::with_capacity(CellWidth::ALL.len());
        for width in CellWidth::ALL {
            levels.push(Level::begin(self, *width, sequence())?);
        }
        for hour in &plan.hours {
            let mut rows = Merged::open(self, Table::Rollups, &hour.old)?;
            while let Some(batch) = rows.next(closing)? {
                add(&mut levels, &[batch])?;
            }
            for at in 0..levels.len() {
                let (level, above) = levels[at..].split_first_mut().ok_or(SealError::Closing)?;
                let last = level.cells.close().map_err(rows_error)?;
                level.write(&last)?;
                add(above, &last)?;
            }
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
        Ok(Self { width, cells, file: target.start(Table::Rollups, 0, sequence, Stage::Cells)? })
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
