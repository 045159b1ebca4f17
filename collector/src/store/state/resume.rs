//! How a state goes on where an earlier process ended: from a checkpoint, or from the log before the manifest's cut.
//!
//! The log tells the same as a checkpoint, at the price of reading the rows of a whole dedup window. Which rows waited at the
//! cut is the manifest's to say and not the replay's, so that no row is in a file and waits as well, whatever was
//! forgotten meanwhile.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::vocabulary::Signal;

use super::State;
use crate::columns::{count, signed};
use crate::keep::memory::WaitingRows;
use crate::ledger::LedgerKey;
use crate::log::Header;
use crate::store::checkpoint::Checkpoint;
use crate::store::manifest::Manifest;
use crate::store::owners::Owners;

/// Rows before the cut that stand in no file: which they are, and those that were found.
#[derive(Debug, Default)]
pub(super) struct Missing {
    wanted: BTreeMap<u64, Vec<usize>>,
    found: Vec<WaitingRows>,
}

impl Missing {
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self { wanted: manifest.waiting.iter().cloned().collect(), found: Vec::new() }
    }
}

impl State {
    /// What the next process needs of it, with the log's entries from the next one on.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            lsn: self.next_lsn,
            keeper: self.keeper.memory(),
            span_metrics: self.span_metrics.memory(),
            segments: Vec::new(),
        }
    }

    /// Goes on from a checkpoint at the cut: the log before it is not to be replayed.
    pub(crate) fn recall(&mut self, checkpoint: Checkpoint) {
        let Checkpoint { keeper, span_metrics, .. } = checkpoint;
        self.missing = Some(Missing { wanted: BTreeMap::new(), found: Vec::new() });
        self.keeper.recall(keeper);
        self.span_metrics.recall(span_metrics);
    }

    /// Keeps what stands in no file of an entry before the cut.
    pub(super) fn look_for_missing(&mut self, header: &Header, batch: &RecordBatch) {
        let Some(missing) = &mut self.missing else { return };
        let Some(rows) = missing.wanted.get(&header.lsn) else { return };
        match WaitingRows::of(header.lsn, header.moment(), header.trusted, batch, rows) {
            Ok(rows) => missing.found.push(rows),
            Err(error) => tracing::error!(%error, lsn = header.lsn, "rows that wait for their root are lost"),
        }
    }

    /// The replay comes to the cut: from here on entries are in no file, and what waited waits.
    pub(crate) fn pass_cut(&mut self) {
        let Some(missing) = self.missing.take() else { return };
        self.keeper.recall_waiting(missing.found);
        let mut waiting: BTreeMap<LedgerKey, i64> = BTreeMap::new();
        match self.keeper.waiting_rows() {
            Ok(batches) => {
                for batch in &batches {
                    for (owner, run) in Owners::of(Signal::Traces, batch).runs() {
                        *waiting.entry(owner).or_insert(0) += signed(count(run.len()));
                    }
                }
            }
            Err(error) => tracing::error!(%error, "cannot count what waits"),
        }
        let dropped = self.ledger.drop_all_but(&waiting);
        if dropped > 0 {
            tracing::error!(dropped, "spans that waited for their root are neither in the log nor in a checkpoint");
        }
    }
}
