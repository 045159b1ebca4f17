//! Rows that no file has yet: table by table, those of a seal under way apart from those that came since.
//!
//! A batch comes with each request. Small ones are joined, since of a batch with few rows hardly anything is rows: a
//! hundred columns take some 20 KB before the first value. Large ones stay as they came, and are copied when they are
//! sealed. A row is always in exactly one batch of one of both sides.

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;

use super::write::times_of;
use crate::columns::{bytes_of, count, joined};

/// Rows below which a batch is small: what it takes beside its values is then a good part of it.
const SMALL_ROWS: usize = 256;
/// Small batches that are joined: enough that a row is not copied for each of its neighbours.
const SMALL_BATCHES: usize = 16;

/// Rows with the entries of the log that they came with.
#[derive(Debug, Clone)]
struct HotBatch {
    /// Entry and number of rows of each stretch.
    parts: Vec<(u64, usize)>,
    batch: RecordBatch,
    times: TimeRange,
    bytes: usize,
}

impl HotBatch {
    fn new(parts: Vec<(u64, usize)>, batch: RecordBatch) -> Self {
        let (times, bytes) = (times_of(&batch), bytes_of(&batch));
        Self { parts, batch, times, bytes }
    }

    /// What came before entry `cut`, and the rest.
    fn split(self, cut: u64) -> (Vec<Self>, Vec<Self>) {
        let before = self.parts.iter().filter(|(lsn, _)| *lsn < cut).count();
        if before == self.parts.len() {
            return (vec![self], Vec::new());
        }
        if before == 0 {
            return (Vec::new(), vec![self]);
        }
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        let (mut at, rows) = (0, self.batch.num_rows());
        for (lsn, length) in &self.parts {
            let batch = self.batch.slice(at, *length);
            at += length;
            // Pieces share their buffers: each counts its part of them.
            let bytes = self.bytes * length / rows.max(1);
            let piece = Self { parts: vec![(*lsn, *length)], times: times_of(&batch), batch, bytes };
            if *lsn < cut { &mut taken } else { &mut left }.push(piece);
        }
        (taken, left)
    }
}

/// Hot rows of all tables.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    tables: HashMap<Table, Vec<HotBatch>>,
    /// Rows of the seal under way: still read from here until its files are.
    sealing: HashMap<Table, Vec<HotBatch>>,
    bytes: usize,
    rows: u64,
    /// Commit time of the oldest row since the last seal.
    since: Option<i64>,
}

impl Hot {
    /// Takes in rows of an entry, committed at `commit_unix_nanos` or before.
    pub(crate) fn push(&mut self, table: Table, lsn: u64, batch: RecordBatch, commit_unix_nanos: i64) {
        if batch.num_rows() == 0 {
            return;
        }
        self.rows += count(batch.num_rows());
        self.since.get_or_insert(commit_unix_nanos);
        let hot = HotBatch::new(vec![(lsn, batch.num_rows())], batch);
        self.bytes += hot.bytes;
        let batches = self.tables.entry(table).or_default();
        batches.push(hot);
        let small = batches.iter().rev().take_while(|hot| hot.batch.num_rows() < SMALL_ROWS).count();
        if small >= SMALL_BATCHES {
            let first = batches.len() - small;
            let together: Vec<&RecordBatch> = batches[first..].iter().map(|hot| &hot.batch).collect();
            match joined(&together) {
                Ok(batch) => {
                    let old: Vec<HotBatch> = batches.drain(first..).collect();
                    self.bytes = self.bytes.saturating_sub(old.iter().map(|hot| hot.bytes).sum());
                    let hot = HotBatch::new(old.into_iter().flat_map(|hot| hot.parts).collect(), batch);
                    self.bytes += hot.bytes;
                    batches.push(hot);
                }
                Err(error) => tracing::error!(%error, %table, "cannot join small batches: they stay apart"),
            }
        }
    }

    /// Begins a seal of what came before each table's cut.
    pub(crate) fn take(&mut self, cut: impl Fn(Table) -> u64) -> BTreeMap<Table, Vec<RecordBatch>> {
        let mut taken = BTreeMap::new();
        for (table, batches) in &mut self.tables {
            let mut sealing = Vec::new();
            for hot in std::mem::take(batches) {
                let (before, after) = hot.split(cut(*table));
                sealing.extend(before);
                batches.extend(after);
            }
            if !sealing.is_empty() {
                taken.insert(*table, sealing.iter().map(|hot| hot.batch.clone()).collect());
                self.sealing.insert(*table, sealing);
            }
        }
        taken
    }

    /// What was taken stands in files.
    pub(crate) fn sealed(&mut self, last_commit_unix_nanos: i64) {
        for hot in self.sealing.drain().flat_map(|(_, batches)| batches) {
            self.bytes = self.bytes.saturating_sub(hot.bytes);
            self.rows = self.rows.saturating_sub(count(hot.batch.num_rows()));
        }
        self.since = (self.rows > 0).then_some(last_commit_unix_nanos);
    }

    /// What was taken could not be sealed: it is hot as before.
    pub(crate) fn put_back(&mut self) {
        for (table, mut batches) in std::mem::take(&mut self.sealing) {
            let hot = self.tables.entry(table).or_default();
            batches.append(hot);
            *hot = batches;
        }
    }

    fn of(&self, table: Table) -> impl Iterator<Item = &HotBatch> {
        [&self.sealing, &self.tables].into_iter().filter_map(move |batches| batches.get(&table)).flatten()
    }

    /// The rows of a table.
    pub(crate) fn batches(&self, table: Table) -> impl Iterator<Item = &RecordBatch> {
        self.of(table).map(|hot| &hot.batch)
    }

    /// Times and number of the rows of each batch of a table.
    pub(crate) fn ranges(&self, table: Table) -> impl Iterator<Item = (TimeRange, u64)> {
        self.of(table).map(|hot| (hot.times, count(hot.batch.num_rows())))
    }

    /// Bytes of all rows.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of all rows.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Commit time of the oldest row since the last seal.
    pub(crate) fn since(&self) -> Option<i64> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::columns::longs;
    use crate::fixtures::{batch, decision};

    fn one(seq: u64) -> RecordBatch {
        batch(Table::Spans, &[decision(u128::from(seq), json!({"decision_seq": seq}))])
    }

    fn seqs<'a>(batches: impl Iterator<Item = &'a RecordBatch>) -> Vec<i64> {
        batches.flat_map(|batch| longs(batch, "decision_seq").values().to_vec()).collect()
    }

    #[test]
    fn rows_that_come_one_by_one_are_joined_and_take_less_than_apart() {
        let mut hot = Hot::default();
        for seq in 1..=300 {
            hot.push(Table::Spans, seq, one(seq), 7);
        }
        let batches: Vec<_> = hot.batches(Table::Spans).collect();
        assert!(batches.len() < 40, "{}", batches.len());
        assert_eq!(seqs(batches.into_iter()), (1..=300).collect::<Vec<_>>());
        assert_eq!((hot.rows(), hot.since()), (300, Some(7)));
        assert!(hot.bytes() < 300 * bytes_of(&one(1)) / 4, "{}", hot.bytes());
        hot.take(|_| u64::MAX);
        hot.sealed(8);
        assert_eq!((hot.rows(), hot.bytes(), hot.since()), (0, 0, None));
    }

    #[test]
    fn a_cut_through_joined_rows_takes_exactly_those_before_it() {
        let mut hot = Hot::default();
        // Spans that waited come later than younger ones.
        let lsns: Vec<u64> = (1..=40).map(|at| if at % 3 == 0 { at / 3 } else { at }).collect();
        for lsn in &lsns {
            hot.push(Table::Spans, *lsn, one(*lsn), 7);
        }
        let taken = hot.take(|_| 20);
        let (mut before, mut after): (Vec<u64>, Vec<u64>) = lsns.iter().partition(|lsn| **lsn < 20);
        let mut found = seqs(taken[&Table::Spans].iter());
        let mut rest: Vec<i64> = seqs(hot.tables[&Table::Spans].iter().map(|hot| &hot.batch));
        for numbers in [&mut before, &mut after] {
            numbers.sort_unstable();
        }
        found.sort_unstable();
        rest.sort_unstable();
        assert!(found.iter().map(|seq| seq.unsigned_abs()).eq(before.iter().copied()));
        assert!(rest.iter().map(|seq| seq.unsigned_abs()).eq(after.iter().copied()));
        assert_eq!(hot.batches(Table::Spans).map(RecordBatch::num_rows).sum::<usize>(), 40);
        hot.put_back();
        assert_eq!(hot.take(|_| u64::MAX)[&Table::Spans].iter().map(RecordBatch::num_rows).sum::<usize>(), 40);
    }
}
