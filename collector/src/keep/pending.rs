//! Spans that wait for their root, found by the parent that they wait for.
//!
//! A row that waits is copied out of the request that it came with, and again when most of those copied with it wait no
//! longer: 30 s are long, and one span that holds a whole request for that time would make memory a matter of luck. What
//! they take is counted from their values, so that a replay counts the same.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::error::ArrowError;

use super::memory::WaitingRows;
use super::spans::SpanKey;
use crate::columns::{filtered, value_bytes_of};
use crate::hashed::HashedMap;
use crate::held::table_bytes;
use crate::log::Moment;

/// Rows are copied once more when fewer than one in so many of an entry's copy still wait.
const COPY_AGAIN: usize = 2;

/// A row that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Which row of its entry it is.
    pub(crate) row: usize,
    /// Where it stands in the copy.
    pub(crate) place: usize,
    pub(crate) key: SpanKey,
    pub(crate) parent: SpanKey,
    pub(crate) is_attempt: bool,
}

#[derive(Debug)]
struct Entry {
    at: Moment,
    trusted: bool,
    /// The copy: rows that wait, and some that did.
    batch: RecordBatch,
    bytes: usize,
    /// False where a sealed file has the rows already and only their verdicts are wanted.
    wanted: bool,
    /// Rows that still wait, by row.
    waiting: BTreeMap<usize, Waiting>,
}

impl Entry {
    /// Copies what still waits.
    fn shrink(&mut self) -> Result<(), ArrowError> {
        let places: Vec<usize> = self.waiting.values().map(|one| one.place).collect();
        self.batch = picked(&self.batch, &places)?;
        for (place, one) in self.waiting.values_mut().enumerate() {
            one.place = place;
        }
        self.bytes = value_bytes_of(&self.batch);
        Ok(())
    }
}

/// The rows at these places, which ascend.
pub(super) fn picked(batch: &RecordBatch, places: &[usize]) -> Result<RecordBatch, ArrowError> {
    let mut mask = vec![false; batch.num_rows()];
    for place in places {
        mask[*place] = true;
    }
    filtered(batch, &BooleanArray::from(mask))
}

/// All that waits.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: BTreeMap<u64, Entry>,
    by_parent: HashedMap<Vec<(u64, usize)>>,
    rows: usize,
    bytes: usize,
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Bytes of their values, and of those that are held with them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of all of it: the rows, and for each of them its place here and the list of its parent.
    pub(crate) fn memory_bytes(&self) -> usize {
        let of_row = size_of::<(usize, Waiting)>() + size_of::<[(u64, usize); 4]>();
        let lists = table_bytes::<SpanKey, Vec<(u64, usize)>>(self.by_parent.capacity());
        self.bytes + lists + self.rows.saturating_mul(of_row)
    }

    /// The oldest entry whose waiting rows stand in no file, and its commit.
    pub(crate) fn oldest_wanted(&self) -> Option<(u64, Moment)> {
        self.entries.iter().find(|(_, entry)| entry.wanted).map(|(lsn, entry)| (*lsn, entry.at))
    }

    /// The oldest entry with waiting rows, and when its wait began.
    pub(crate) fn oldest(&self) -> Option<(u64, i64)> {
        self.entries.first_key_value().map(|(lsn, entry)| (*lsn, entry.at.steady_nanos()))
    }

    /// Takes in the rows of an arrival that wait, in their order.
    pub(crate) fn add(&mut self, arrival: super::Arrival<'_>, mut waiting: Vec<Waiting>) -> Result<(), ArrowError> {
        let rows: Vec<usize> = waiting.iter().map(|one| one.row).collect();
        let batch = picked(arrival.batch, &rows)?;
        for (place, one) in waiting.iter_mut().enumerate() {
            one.place = place;
        }
        self.put(arrival.lsn, arrival.at, (arrival.trusted, arrival.wanted), batch, waiting);
        Ok(())
    }

    /// Takes in rows of an entry that stand where `waiting` says; whether their sender is trusted, and they are wanted.
    pub(crate) fn put(
        &mut self,
        lsn: u64,
        at: Moment,
        (trusted, wanted): (bool, bool),
        batch: RecordBatch,
        waiting: Vec<Waiting>,
    ) {
        for one in &waiting {
            self.by_parent.entry(one.parent).or_default().push((lsn, one.row));
        }
        self.rows += waiting.len();
        let bytes = value_bytes_of(&batch);
        self.bytes += bytes;
        let waiting = waiting.into_iter().map(|one| (one.row, one)).collect();
        self.entries.insert(lsn, Entry { at, trusted, batch, bytes, wanted, waiting });
    }

    /// Lets go of the rows of an entry.
    pub(crate) fn forget_entry(&mut self, lsn: u64) {
        let Some(entry) = self.entries.remove(&lsn) else { return };
        self.rows -= entry.waiting.len();
        self.bytes -= entry.bytes;
        for (row, one) in entry.waiting {
            self.forget_child(one.parent, lsn, row);
        }
    }

    /// The wanted rows, as the next process needs them.
    pub(crate) fn saved(&self) -> Vec<WaitingRows> {
        let saved = |(lsn, entry): (&u64, &Entry)| WaitingRows {
            lsn: *lsn,
            at: entry.at,
            trusted: entry.trusted,
            rows: entry.waiting.keys().copied().collect(),
            places: entry.waiting.values().map(|one| one.place).collect(),
            batch: entry.batch.clone(),
        };
        self.entries.iter().filter(|(_, entry)| entry.wanted).map(saved).collect()
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

    /// The copy of an entry's rows, and whether they are wanted.
    pub(crate) fn batch(&self, lsn: u64) -> Option<(RecordBatch, bool)> {
        self.entries.get(&lsn).map(|entry| (entry.batch.clone(), entry.wanted))
    }

    /// The rows of the oldest entry that wait, their copy, and whether its sender is trusted.
    pub(crate) fn oldest_rows(&self) -> Option<(u64, bool, RecordBatch, Vec<Waiting>)> {
        let (lsn, entry) = self.entries.first_key_value()?;
        Some((*lsn, entry.trusted, entry.batch.clone(), entry.waiting.values().copied().collect()))
    }

    /// These rows wait no longer. Places of others of the entry may change.
    pub(crate) fn done(&mut self, lsn: u64, rows: impl Iterator<Item = usize>) -> Result<(), ArrowError> {
        let Some(entry) = self.entries.get_mut(&lsn) else { return Ok(()) };
        for row in rows {
            if entry.waiting.remove(&row).is_some() {
                self.rows -= 1;
            }
        }
        if entry.waiting.is_empty() {
            self.bytes -= entry.bytes;
            self.entries.remove(&lsn);
        } else if entry.waiting.len() * COPY_AGAIN <= entry.batch.num_rows() {
            self.bytes -= entry.bytes;
            let shrunk = entry.shrink();
            self.bytes += entry.bytes;
            return shrunk;
        }
        Ok(())
    }

    /// Every wanted row that waits, as it came.
    pub(crate) fn rows(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.entries
            .values()
            .filter(|entry| entry.wanted)
            .map(|entry| {
                let places: Vec<usize> = entry.waiting.values().map(|one| one.place).collect();
                picked(&entry.batch, &places)
            })
            .collect()
    }
}
