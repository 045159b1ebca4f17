//! Whose records the rows of a batch are, for the ledger.
//!
//! Rows of one owner mostly stand together, so they are counted as runs: a key per row would be a text per row.

use std::ops::Range;

use arrow::array::{Array, RecordBatch, StringArray};
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::Signal;

use crate::columns::{text, texts};
use crate::ledger::LedgerKey;

/// The signal whose records a table holds.
pub(crate) fn signal_of(table: Table) -> Option<Signal> {
    match table {
        Table::Spans => Some(Signal::Traces),
        Table::Metrics => Some(Signal::Metrics),
        Table::Logs => Some(Signal::Logs),
        Table::Rollups | Table::NodeStatus => None,
    }
}

/// Whose records the rows of a batch are; metrics belong to nobody.
pub(crate) struct Owners<'a> {
    signal: Signal,
    rows: usize,
    columns: Option<(&'a StringArray, &'a StringArray)>,
}

impl<'a> Owners<'a> {
    pub(crate) fn of(signal: Signal, batch: &'a RecordBatch) -> Self {
        let named = signal != Signal::Metrics;
        let columns = named.then(|| (texts(batch, "profile"), texts(batch, "account_id")));
        Self { signal, rows: batch.num_rows(), columns }
    }

    fn names(&self, row: usize) -> (Option<&'a str>, Option<&'a str>) {
        self.columns.map_or((None, None), |(profile, account)| (text(profile, row), text(account, row)))
    }

    /// Neighbouring rows of one owner, together.
    pub(crate) fn runs(&self) -> Vec<(LedgerKey, Range<usize>)> {
        let mut runs: Vec<(LedgerKey, Range<usize>)> = Vec::new();
        let is_absent = |column: &StringArray| column.null_count() == column.len();
        if self.rows > 0 && self.columns.is_none_or(|(profile, account)| is_absent(profile) && is_absent(account)) {
            return vec![(LedgerKey::new(self.signal, None, None), 0..self.rows)];
        }
        let mut owner = (None, None);
        for row in 0..self.rows {
            let names = self.names(row);
            match runs.last_mut() {
                Some((_, run)) if names == owner => run.end = row + 1,
                _ => runs.push((LedgerKey::new(self.signal, names.0, names.1), row..row + 1)),
            }
            owner = names;
        }
        runs
    }
}
