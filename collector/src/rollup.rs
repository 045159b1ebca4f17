//! Counts every decision in cells of 10 s, before anything is sampled, in two families that never mix: `ops` for who
//! runs the fleet, without accounts, and `usage` for who uses it, without providers.
//!
//! A cell counts at the span's end. The fold is a function of the rows, so that replaying the log gives the same cells.
//! Counting kept rows by their weights was rejected: it would make exact figures into estimates. The number of open
//! cells is bounded: past the bound methods, then chains, are counted together, accounts never.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use lariat_schema::vocabulary::{OVERFLOW, RollupFamily};

mod cell;
mod decisions;
pub(crate) mod exclusions;
pub(crate) mod rows;
pub(crate) mod sketch;

use cell::{CHAIN, Cell, CellKey, ERROR_CATEGORY, Key, METHOD, PROVIDER_ID, STRATEGY, TRANSPORT};
use decisions::Decisions;

use crate::hashed::HashedMap;

/// Open cells beyond which methods are counted together; half as many more, and chains are too; as many more,
/// and so are providers, transports, strategies and error categories.
pub(crate) const MAX_CELLS: usize = 10_000;

/// The open cells, by the hash of what each is about: most rows meet a cell that is open, and need no key of their own.
#[derive(Debug)]
pub(crate) struct Rollup {
    cells: HashedMap<(CellKey, Cell)>,
    max_cells: usize,
    observed_unix_nanos: i64,
    /// Room for the bytes of a key while it is hashed.
    scratch: Vec<u8>,
}

impl Default for Rollup {
    fn default() -> Self {
        Self { cells: HashedMap::default(), max_cells: MAX_CELLS, observed_unix_nanos: 0, scratch: Vec::new() }
    }
}

impl Rollup {
    /// Counts the decisions among these spans.
    pub(crate) fn fold(&mut self, batch: &RecordBatch, commit_unix_nanos: i64) {
        self.observed_unix_nanos = self.observed_unix_nanos.max(commit_unix_nanos);
        let decisions = Decisions::of(batch);
        if decisions.are_none() {
            return;
        }
        for row in 0..batch.num_rows() {
            if decisions.is_decision(row) {
                self.count(&decisions, row);
            } else if decisions.is_first_attempt(row) {
                let key = decisions.attempt_key(row);
                self.cell(key).candidates.first_attempts += 1;
            }
        }
    }

    fn count(&mut self, decisions: &Decisions<'_>, row: usize) {
        let call = decisions.key(RollupFamily::Ops, row);
        decisions.count_call(self.cell(call.clone()), row);
        decisions.count_call(self.cell(decisions.key(RollupFamily::Usage, row)), row);
        let eligible = &decisions.eligible;
        for index in eligible.of_row(row) {
            let counts = &mut self.cell(decisions.candidate_key(&call, eligible, index)).candidates;
            let probability = eligible.probability(index);
            counts.eligible += 1;
            counts.probability_sum += probability;
            if eligible.is_of_first_selection(index) {
                counts.first_probability_sum += probability;
            }
        }
        let excluded = &decisions.excluded;
        for index in excluded.of_row(row) {
            let reason = excluded.reason(index);
            let counts = &mut self.cell(decisions.candidate_key(&call, excluded, index)).candidates.excluded;
            match counts.get_mut(reason) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(reason.to_owned(), 1);
                }
            }
        }
    }

    fn cell(&mut self, mut key: Key<'_>) -> &mut Cell {
        let mut hash = key.hash(&mut self.scratch);
        if self.cells.len() >= self.max_cells && !self.cells.contains_key(&hash) {
            let overflow = |dimension: &mut Option<&str>| *dimension = dimension.map(|_| OVERFLOW);
            overflow(&mut key.dimensions[METHOD]);
            hash = key.hash(&mut self.scratch);
            if self.cells.len() >= self.max_cells + self.max_cells / 2 && !self.cells.contains_key(&hash) {
                overflow(&mut key.dimensions[CHAIN]);
                hash = key.hash(&mut self.scratch);
            }
            if self.cells.len() >= self.max_cells * 2 && !self.cells.contains_key(&hash) {
                for dimension in [PROVIDER_ID, TRANSPORT, STRATEGY, ERROR_CATEGORY] {
                    overflow(&mut key.dimensions[dimension]);
                }
                hash = key.hash(&mut self.scratch);
            }
        }
        let (_, cell) = self.cells.entry(hash).or_insert_with(|| (CellKey::of(&key), Cell::default()));
        cell
    }

    /// Number of open cells.
    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    /// The open cells as rows.
    pub(crate) fn rows(&self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.cells.is_empty() {
            return Ok(None);
        }
        let mut cells: Vec<_> = self.cells.values().map(|(key, cell)| (key, cell)).collect();
        cells.sort_by_key(|(key, _)| *key);
        rows::rows(&cells, self.observed_unix_nanos).map(Some)
    }

    /// Empties the cells, after [`Self::rows`] were put away.
    pub(crate) fn clear(&mut self) {
        self.cells.clear();
    }
}

#[cfg(test)]
mod tests;
