//! Spans that wait for their root, found by the parent that they wait for.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::error::ArrowError;

use super::spans::SpanKey;
use crate::columns::filtered;
use crate::hashed::HashedMap;
use crate::log::Moment;

/// A row that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) row: usize,
    pub(crate) key: SpanKey,
    pub(crate) parent: SpanKey,
    pub(crate) is_attempt: bool,
}

#[derive(Debug)]
struct Entry {
    at: Moment,
    trusted: bool,
    batch: RecordBatch,
    /// False where a sealed file has the rows already and only their verdicts are wanted.
    wanted: bool,
    /// Rows that still wait, by row.
    waiting: BTreeMap<usize, Waiting>,
}

/// All that waits.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: BTreeMap<u64, Entry>,
    by_parent: HashedMap<Vec<(u64, usize)>>,
    rows: usize,
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// The oldest entry whose waiting rows stand in no file, and its commit.
    pub(crate) fn oldest_wanted(&self) -> Option<(u64, Moment)> {
        self.entries.iter().find(|(_, entry)| entry.wanted).map(|(lsn, entry)| (*lsn, entry.at))
    }

    /// The oldest entry with waiting rows, and when its wait began.
    pub(crate) fn oldest(&self) -> Option<(u64, i64)> {
        self.entries.first_key_value().map(|(lsn, entry)| (*lsn, entry.at.steady_nanos()))
    }

    pub(crate) fn add(&mut self, arrival: super::Arrival<'_>, waiting: Vec<Waiting>) {
        let lsn = arrival.lsn;
        self.rows += waiting.len();
        for one in &waiting {
            self.by_parent.entry(one.parent).or_default().push((lsn, one.row));
        }
        let waiting = waiting.into_iter().map(|one| (one.row, one)).collect();
        let (at, trusted, wanted) = (arrival.at, arrival.trusted, arrival.wanted);
        self.entries.insert(lsn, Entry { at, trusted, batch: arrival.batch.clone(), wanted, waiting });
    }

    /// How many attempts wait for a decision.
    pub(crate) fn attempts_of(&self, decision: SpanKey) -> i32 {
        let waiting = self.by_parent.get(&decision).into_iter().flatten();
        let attempts = waiting.filter(|(lsn, row)| {
            self.entries.get(lsn).and_then(|entry| entry.waiting.get(row)).is_some_and(|waiting| waiting.is_attempt)
        });
        i32::try_from(attempts.count()).unwrap_or(i32::MAX)
    }

    /// Takes the rows that wait for `parent` out of the index; [`Self::done`] lets go of them.
    pub(crate) fn children_of(&mut self, parent: SpanKey) -> Vec<(u64, Waiting)> {
        let children = self.by_parent.remove(&parent).unwrap_or_default();
        children.into_iter().filter_map(|(lsn, row)| Some((lsn, *self.entries.get(&lsn)?.waiting.get(&row)?))).collect()
    }

    /// Takes one row out of the index.
    pub(crate) fn forget_child(&mut self, parent: SpanKey, lsn: u64, row: usize) {
        if let Some(children) = self.by_parent.get_mut(&parent) {
            children.retain(|child| *child != (lsn, row));
            if children.is_empty() {
                self.by_parent.remove(&parent);
            }
        }
    }

    /// The rows of an entry, and whether they are wanted.
    pub(crate) fn batch(&self, lsn: u64) -> Option<(RecordBatch, bool)> {
        self.entries.get(&lsn).map(|entry| (entry.batch.clone(), entry.wanted))
    }

    /// The rows of the oldest entry that wait, and whether its sender is trusted.
    pub(crate) fn oldest_rows(&self) -> Option<(u64, bool, RecordBatch, Vec<Waiting>)> {
        let (lsn, entry) = self.entries.first_key_value()?;
        Some((*lsn, entry.trusted, entry.batch.clone(), entry.waiting.values().copied().collect()))
    }

    /// These rows wait no longer.
    pub(crate) fn done(&mut self, lsn: u64, rows: impl Iterator<Item = usize>) {
        let Some(entry) = self.entries.get_mut(&lsn) else { return };
        for row in rows {
            if entry.waiting.remove(&row).is_some() {
                self.rows -= 1;
            }
        }
        if entry.waiting.is_empty() {
            self.entries.remove(&lsn);
        }
    }

    /// Every wanted row that waits, as it came.
    pub(crate) fn rows(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.entries
            .values()
            .filter(|entry| entry.wanted)
            .map(|entry| {
                let mask: BooleanArray =
                    (0..entry.batch.num_rows()).map(|row| Some(entry.waiting.contains_key(&row))).collect();
                filtered(&entry.batch, &mask)
            })
            .collect()
    }
}
