//! What the keeping stage knows at one moment, taken out of it and put back by the next process.
//!
//! Without it a start would have to read every span of the window again to come to the same verdicts. It is copied under the
//! lock of the state, so that it is no more than copies of numbers and of references to rows.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use super::pending::{Waiting, picked};
use super::spans::{SpanKey, Spans};
use super::verdict::Packed;
use super::{Keeper, Policies};
use crate::log::Moment;

/// A verdict that fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fell {
    /// Steady time.
    pub(crate) at: i64,
    pub(crate) key: SpanKey,
    pub(crate) verdict: Packed,
}

/// Rows of one entry that wait for their root.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WaitingRows {
    pub(crate) lsn: u64,
    pub(crate) at: Moment,
    pub(crate) trusted: bool,
    /// Which rows of the entry they are, ascending.
    pub(crate) rows: Vec<usize>,
    /// Where each of them stands in `batch`.
    pub(crate) places: Vec<usize>,
    pub(crate) batch: RecordBatch,
}

impl WaitingRows {
    /// The rows of these places of a batch.
    pub(crate) fn of(
        lsn: u64,
        at: Moment,
        trusted: bool,
        batch: &RecordBatch,
        rows: &[usize],
    ) -> Result<Self, ArrowError> {
        let rows: Vec<usize> = rows.iter().copied().filter(|row| *row < batch.num_rows()).collect();
        let places = (0..rows.len()).collect();
        Ok(Self { lsn, at, trusted, batch: picked(batch, &rows)?, rows, places })
    }

    /// The rows without those that stand between them.
    pub(crate) fn picked(&self) -> Result<RecordBatch, ArrowError> {
        picked(&self.batch, &self.places)
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Memory {
    pub(crate) policies: Policies,
    /// The second of the budgets, and what of them is used up.
    pub(crate) second: i64,
    pub(crate) kept_whole: HashMap<String, u64>,
    /// Verdicts of units kept whole, in the order in which they fell.
    pub(crate) whole: Vec<Fell>,
    /// The same of units that were drawn.
    pub(crate) drawn: Vec<Fell>,
    pub(crate) waiting: Vec<WaitingRows>,
}

impl Keeper {
    /// What it knows now, of the rows that wait those that stand in no file.
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            policies: self.policies.clone(),
            second: self.second,
            kept_whole: self.kept_whole.clone(),
            whole: self.whole.all(),
            drawn: self.drawn.all(),
            waiting: self.pending.saved(),
        }
    }

    /// Knows what another one knew, and nothing else.
    pub(crate) fn recall(&mut self, memory: Memory) {
        let Memory { policies, second, kept_whole, whole, drawn, waiting } = memory;
        (self.policies, self.second, self.kept_whole) = (policies, second, kept_whole);
        self.whole.put_back(&whole);
        self.drawn.put_back(&drawn);
        self.pending = super::Pending::default();
        self.recall_waiting(waiting);
    }

    /// Rows wait again. Whatever else waits was decided before, though nobody knows how any longer.
    pub(crate) fn recall_waiting(&mut self, waiting: Vec<WaitingRows>) {
        for entry in waiting {
            let spans = Spans::of(&entry.batch);
            let ones: Vec<Waiting> = entry
                .rows
                .iter()
                .zip(&entry.places)
                .map(|(row, place)| Waiting {
                    row: *row,
                    place: *place,
                    key: spans.key(*place),
                    parent: spans.parent(*place).unwrap_or_default(),
                    is_attempt: spans.is_attempt(*place),
                })
                .collect();
            self.pending.forget_entry(entry.lsn);
            self.pending.put(entry.lsn, entry.at, (entry.trusted, true), entry.batch.clone(), ones);
        }
    }
}
