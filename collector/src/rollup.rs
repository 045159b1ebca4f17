//! Counts every decision in cells of 10 s, before anything is sampled, in two families that never mix: `ops` for who
//! runs the fleet, without accounts, and `usage` for who uses it, without providers.
//!
//! A cell counts at the span's end. The fold is a function of the rows, so that replaying the log gives the same cells.
//! Counting kept rows by their weights was rejected: it would make exact figures into estimates. The number of open
//! cells is bounded: past the bound methods, then chains, are counted together, accounts never.

use std::collections::HashMap;

use arrow::array::{Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::error::ArrowError;
use lariat_schema::time_range::slice_start;
use lariat_schema::vocabulary::{AttemptKind, MethodClass, OVERFLOW, RollupFamily};

mod cell;
pub(crate) mod rows;

use cell::{
    ACCOUNT_ID, CHAIN, Cell, CellKey, ERROR_CATEGORY, METHOD, METHOD_CLASS, NODE_ID, PROFILE, PROVIDER_ID, REGION,
    RESULT, STRATEGY, TRANSPORT,
};

use crate::columns::{column, double, doubles, ids, int, ints, long, longs, moments, text, texts};

/// Open cells beyond which methods are counted together; half as many more, and chains are too.
pub(crate) const MAX_CELLS: usize = 10_000;

/// The open cells.
#[derive(Debug)]
pub(crate) struct Rollup {
    cells: HashMap<CellKey, Cell>,
    max_cells: usize,
    observed_unix_nanos: i64,
}

impl Default for Rollup {
    fn default() -> Self {
        Self { cells: HashMap::new(), max_cells: MAX_CELLS, observed_unix_nanos: 0 }
    }
}

impl Rollup {
    /// Counts the decisions among these spans.
    pub(crate) fn fold(&mut self, batch: &RecordBatch, commit_unix_nanos: i64) {
        self.observed_unix_nanos = self.observed_unix_nanos.max(commit_unix_nanos);
        let decisions = Decisions::of(batch);
        for row in (0..batch.num_rows()).filter(|row| decisions.is_decision(*row)) {
            for family in [RollupFamily::Ops, RollupFamily::Usage] {
                let key = decisions.key(family, row);
                decisions.count_call(self.cell(key), row);
            }
            decisions.candidates(decisions.eligible, row, |candidate, index| {
                let cell = self.cell(decisions.candidate_key(row, candidate, index));
                cell.candidates.eligible += 1;
                cell.candidates.probability_sum += candidate.probability(index);
                if candidate.is_of_first_selection(index) {
                    cell.candidates.first_probability_sum += candidate.probability(index);
                }
            });
            decisions.candidates(decisions.excluded, row, |candidate, index| {
                let reason = candidate.reason(index);
                let cell = self.cell(decisions.candidate_key(row, candidate, index));
                *cell.candidates.excluded.entry(reason).or_insert(0) += 1;
            });
        }
        for row in (0..batch.num_rows()).filter(|row| decisions.is_first_attempt(*row)) {
            let key = decisions.attempt_key(row);
            self.cell(key).candidates.first_attempts += 1;
        }
    }

    fn cell(&mut self, mut key: CellKey) -> &mut Cell {
        if self.cells.len() >= self.max_cells && !self.cells.contains_key(&key) {
            let overflow = |dimension: &mut Option<String>| {
                if dimension.is_some() {
                    *dimension = Some(OVERFLOW.to_owned());
                }
            };
            overflow(&mut key.dimensions[METHOD]);
            if self.cells.len() >= self.max_cells + self.max_cells / 2 && !self.cells.contains_key(&key) {
                overflow(&mut key.dimensions[CHAIN]);
            }
        }
        self.cells.entry(key).or_default()
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
        let mut cells: Vec<_> = self.cells.iter().collect();
        cells.sort_by_key(|(key, _)| *key);
        rows::rows(&cells, self.observed_unix_nanos).map(Some)
    }

    /// Empties the cells, after [`Self::rows`] were put away.
    pub(crate) fn clear(&mut self) {
        self.cells.clear();
    }
}

struct Decisions<'a> {
    batch: &'a RecordBatch,
    span_kind: &'a StringArray,
    eligible: &'a ListArray,
    excluded: &'a ListArray,
}

struct Candidate<'a>(&'a StructArray);

impl Candidate<'_> {
    fn text(&self, name: &str, index: usize) -> Option<String> {
        let texts = self.0.column_by_name(name)?.as_any().downcast_ref::<StringArray>()?;
        text(texts, index).map(str::to_owned)
    }

    fn probability(&self, index: usize) -> f64 {
        let column = self.0.column_by_name("probability").and_then(|column| column.as_any().downcast_ref());
        column.and_then(|column| double(column, index)).unwrap_or(0.0)
    }

    fn is_of_first_selection(&self, index: usize) -> bool {
        let column = self.0.column_by_name("selection").and_then(|column| column.as_any().downcast_ref());
        column.and_then(|column| int(column, index)) == Some(1)
    }

    fn reason(&self, index: usize) -> String {
        self.text("reason", index).unwrap_or_else(|| OVERFLOW.to_owned())
    }
}

impl<'a> Decisions<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self {
            batch,
            span_kind: texts(batch, "span_kind"),
            eligible: column(batch, "eligible"),
            excluded: column(batch, "excluded"),
        }
    }

    fn is_decision(&self, row: usize) -> bool {
        self.span_kind.value(row) == "server" && ids(self.batch, "request_id").is_valid(row)
    }

    /// The first attempt of a decision, as its CLIENT span tells; a probe's is of none.
    fn is_first_attempt(&self, row: usize) -> bool {
        self.span_kind.value(row) == "client"
            && text(texts(self.batch, "kind"), row) == Some(AttemptKind::Primary.as_str())
    }

    fn text(&self, name: &str, row: usize) -> Option<String> {
        text(texts(self.batch, name), row).map(str::to_owned)
    }

    fn long(&self, name: &str, row: usize) -> i64 {
        long(longs(self.batch, name), row).unwrap_or(0)
    }

    fn key(&self, family: RollupFamily, row: usize) -> CellKey {
        let end = moments(self.batch, "time").value(row).saturating_add(self.long("duration_ns", row));
        let mut dimensions: [Option<String>; 12] = Default::default();
        let shared =
            [(NODE_ID, "node_id"), (REGION, "region"), (PROFILE, "profile"), (CHAIN, "chain"), (RESULT, "result")];
        for (at, name) in shared {
            dimensions[at] = self.text(name, row);
        }
        let method = self.text("method", row);
        dimensions[METHOD_CLASS] = method.as_deref().map(|method| MethodClass::of(method).as_str().to_owned());
        match family {
            RollupFamily::Usage => dimensions[ACCOUNT_ID] = self.text("account_id", row),
            RollupFamily::Ops => {
                dimensions[METHOD] = method;
                dimensions[PROVIDER_ID] = self.text("provider_id", row);
                dimensions[TRANSPORT] = self.text("transport", row);
                dimensions[STRATEGY] = self.text("strategy", row);
                dimensions[ERROR_CATEGORY] = self.text("error_category", row);
            }
        }
        CellKey { family, slice_unix_nanos: slice_start(end), dimensions }
    }

    /// The cell of the tried channel as a candidate.
    fn attempt_key(&self, row: usize) -> CellKey {
        let mut key = self.key(RollupFamily::Ops, row);
        key.dimensions[RESULT] = None;
        key.dimensions[ERROR_CATEGORY] = None;
        key
    }

    fn candidate_key(&self, row: usize, candidate: &Candidate<'_>, index: usize) -> CellKey {
        let mut key = self.key(RollupFamily::Ops, row);
        key.dimensions[PROVIDER_ID] = candidate.text("provider_id", index);
        key.dimensions[TRANSPORT] = candidate.text("transport", index);
        key.dimensions[RESULT] = None;
        key.dimensions[ERROR_CATEGORY] = None;
        key
    }

    fn candidates(&self, lists: &ListArray, row: usize, mut each: impl FnMut(&Candidate<'_>, usize)) {
        if lists.is_null(row) {
            return;
        }
        let list = lists.value(row);
        if let Some(candidates) = list.as_any().downcast_ref::<StructArray>() {
            for index in 0..candidates.len() {
                each(&Candidate(candidates), index);
            }
        }
    }

    fn count_call(&self, cell: &mut Cell, row: usize) {
        let duration = self.long("duration_ns", row);
        cell.calls += 1;
        cell.attempts += i64::from(int(ints(self.batch, "attempts"), row).unwrap_or(0));
        cell.failovers += i64::from(int(ints(self.batch, "failovers"), row).unwrap_or(0));
        cell.duration_sum_ns = cell.duration_sum_ns.saturating_add(duration);
        cell.provider_sum_ns = cell.provider_sum_ns.saturating_add(self.long("provider_ns", row));
        cell.overhead_sum_ns = cell.overhead_sum_ns.saturating_add(self.long("overhead_ns", row));
        cell.bytes_in = cell.bytes_in.saturating_add(self.long("bytes_in", row));
        cell.bytes_out = cell.bytes_out.saturating_add(self.long("bytes_out", row));
        cell.billable_units += double(doubles(self.batch, "billable_units"), row).unwrap_or(0.0);
        cell.sketch.record(duration);
    }
}

#[cfg(test)]
mod tests;
