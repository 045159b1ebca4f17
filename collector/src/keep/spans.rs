//! What the keeping stage reads of a span, and the columns that it writes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::error::ArrowError;
use lariat_schema::vocabulary::{CallResult, KeepReason};
use xxhash_rust::xxh3::xxh3_128;

use super::threshold::{Threshold, with_threshold};
use crate::columns::{filtered, ids, int, ints, long, longs, place, text, texts};

/// A span by trace and span id, as one number.
pub(crate) type SpanKey = u128;

/// The columns of a batch of spans that decide.
pub(crate) struct Spans<'a> {
    trace_id: &'a FixedSizeBinaryArray,
    span_id: &'a FixedSizeBinaryArray,
    parent_span_id: &'a FixedSizeBinaryArray,
    request_id: &'a FixedSizeBinaryArray,
    trace_state: &'a StringArray,
    span_kind: &'a StringArray,
    status: &'a StringArray,
    result: &'a StringArray,
    labels: Labels<'a>,
    duration_ns: &'a Int64Array,
    attempts: &'a Int32Array,
    failovers: &'a Int32Array,
    ordinal: &'a Int32Array,
}

/// Whose record a row is.
#[derive(Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub(crate) profile: &'a StringArray,
    pub(crate) account_id: &'a StringArray,
}

/// Why a root is kept whole, before any budget.
pub(crate) type Remarkable = Option<KeepReason>;

impl<'a> Spans<'a> {
    pub(crate) fn of(batch: &'a RecordBatch) -> Self {
        Self {
            trace_id: ids(batch, "trace_id"),
            span_id: ids(batch, "span_id"),
            parent_span_id: ids(batch, "parent_span_id"),
            request_id: ids(batch, "request_id"),
            trace_state: texts(batch, "trace_state"),
            span_kind: texts(batch, "span_kind"),
            status: texts(batch, "status"),
            result: texts(batch, "result"),
            labels: Labels { profile: texts(batch, "profile"), account_id: texts(batch, "account_id") },
            duration_ns: longs(batch, "duration_ns"),
            attempts: ints(batch, "attempts"),
            failovers: ints(batch, "failovers"),
            ordinal: ints(batch, "ordinal"),
        }
    }

    pub(crate) fn key(&self, row: usize) -> SpanKey {
        span_key(self.trace_id.value(row), self.span_id.value(row))
    }

    /// The parent within the unit; `None` for a root: a span without parent, a decision's SERVER span, or the entry
    /// of a trace into a service, whose parent lives elsewhere.
    pub(crate) fn parent(&self, row: usize) -> Option<SpanKey> {
        (!self.is_root(row)).then(|| span_key(self.trace_id.value(row), self.parent_span_id.value(row)))
    }

    /// Whether the row has no parent within its unit.
    pub(crate) fn is_root(&self, row: usize) -> bool {
        self.parent_span_id.is_null(row) || self.is_entry(row)
    }

    /// Whether it is the entry of a trace into a service.
    fn is_entry(&self, row: usize) -> bool {
        matches!(self.span_kind.value(row), "server" | "consumer")
    }

    /// Whether the row is an attempt of a decision, as the view `attempts` has it.
    pub(crate) fn is_attempt(&self, row: usize) -> bool {
        self.ordinal.is_valid(row) && self.span_kind.value(row) == "client"
    }

    /// How many attempts a decision says that it made.
    pub(crate) fn attempts(&self, row: usize) -> Option<i32> {
        int(self.attempts, row).filter(|_| self.request_id.is_valid(row) && self.span_kind.value(row) == "server")
    }

    pub(crate) fn trace_id(&self, row: usize) -> &'a [u8] {
        self.trace_id.value(row)
    }

    pub(crate) fn trace_state(&self, row: usize) -> Option<&'a str> {
        text(self.trace_state, row)
    }

    pub(crate) fn profile(&self, row: usize) -> Option<&'a str> {
        text(self.labels.profile, row)
    }

    pub(crate) fn account_id(&self, row: usize) -> Option<&'a str> {
        text(self.labels.account_id, row)
    }

    /// The row after the last of those from `row` on that have the same profile and account.
    pub(crate) fn same_owner_until(&self, row: usize) -> usize {
        let Labels { profile, account_id } = self.labels;
        let rows = profile.len();
        if profile.null_count() == rows && account_id.null_count() == rows {
            return rows;
        }
        let owner = |row: usize| (self.profile(row), self.account_id(row));
        let first = owner(row);
        (row + 1..rows).find(|next| owner(*next) != first).unwrap_or(rows)
    }

    pub(crate) fn is_error(&self, row: usize) -> bool {
        match text(self.result, row) {
            Some(result) => result == CallResult::Error.as_str(),
            None => self.request_id.is_null(row) && self.status.value(row) == "error",
        }
    }

    /// Whether the root is of a class that is kept whole.
    pub(crate) fn remarkable(&self, row: usize, slow_ms: u64) -> Remarkable {
        let slow_ns = i64::try_from(slow_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        if self.is_error(row) {
            Some(KeepReason::Error)
        } else if int(self.failovers, row).unwrap_or(0) > 0 {
            Some(KeepReason::Failover)
        } else if int(self.attempts, row).unwrap_or(0) > 1 {
            Some(KeepReason::Hedge)
        } else if long(self.duration_ns, row).unwrap_or(0) >= slow_ns {
            Some(KeepReason::Slow)
        } else {
            None
        }
    }
}

fn span_key(trace_id: &[u8], span_id: &[u8]) -> SpanKey {
    let mut bytes = [0; 24];
    // Columns of ids have these widths.
    if let (Some(trace_id), Some(span_id)) = (trace_id.first_chunk::<16>(), span_id.first_chunk::<8>()) {
        bytes[..16].copy_from_slice(trace_id);
        bytes[16..].copy_from_slice(span_id);
    }
    xxh3_128(&bytes)
}

/// How a kept row is marked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mark {
    pub(crate) reason: KeepReason,
    /// None where the weight is not known.
    pub(crate) threshold: Option<Threshold>,
}

/// The rows that have a mark, with what the marks say in their columns, and of decisions how many attempts have not come.
pub(crate) fn marked(
    batch: &RecordBatch,
    marks: &[Option<Mark>],
    missing_attempts: &[Option<i32>],
) -> Result<RecordBatch, ArrowError> {
    let mask: BooleanArray = marks.iter().map(|mark| Some(mark.is_some())).collect();
    let kept = filtered(batch, &mask)?;
    let missing = || missing_attempts.iter().zip(marks).filter(|(_, mark)| mark.is_some()).map(|(missing, _)| *missing);
    let missing = missing().any(|missing| missing.is_some()).then(|| missing().collect::<Int32Array>());
    let marks: Vec<Mark> = marks.iter().flatten().copied().collect();
    let [weights, reasons] = weights_and_reasons(&marks);
    let mut columns: Vec<(&str, ArrayRef)> = vec![("adjusted_count", weights), ("keep_reason", reasons)];
    if let Some(missing) = missing {
        columns.push(("missing_attempts", Arc::new(missing)));
    }
    if marks.iter().any(|mark| mark.threshold.is_some_and(|threshold| threshold != Threshold::ALL)) {
        columns.push(("trace_state", states(texts(&kept, "trace_state"), &marks)));
    }
    with_columns(kept, &columns)
}

/// What the marks say, of rows that mostly are all marked alike.
fn weights_and_reasons(marks: &[Mark]) -> [ArrayRef; 2] {
    let weight = |mark: &Mark| mark.threshold.map(Threshold::adjusted_count);
    match marks {
        [first, rest @ ..] if rest.iter().all(|mark| mark == first) => {
            let weights = match weight(first) {
                Some(weight) => Float64Array::from(vec![weight; marks.len()]),
                None => Float64Array::new_null(marks.len()),
            };
            [Arc::new(weights), Arc::new(StringArray::new_repeated(first.reason.as_str(), marks.len()))]
        }
        _ => {
            let weights: Float64Array = marks.iter().map(weight).collect();
            let reasons = StringArray::from_iter_values(marks.iter().map(|mark| mark.reason.as_str()));
            [Arc::new(weights), Arc::new(reasons)]
        }
    }
}

/// The trace states with the marks' thresholds.
fn states(old: &StringArray, marks: &[Mark]) -> ArrayRef {
    let states: StringArray = marks
        .iter()
        .enumerate()
        .map(|(row, mark)| match (text(old, row), mark.threshold) {
            (old, None | Some(Threshold::ALL)) => old.map(str::to_owned),
            (old, Some(threshold)) => Some(with_threshold(old, threshold)),
        })
        .collect();
    Arc::new(states)
}

/// The batch with these columns in place of its own.
pub(crate) fn with_columns(batch: RecordBatch, columns: &[(&str, ArrayRef)]) -> Result<RecordBatch, ArrowError> {
    let mut all = batch.columns().to_vec();
    for (name, column) in columns {
        let place = place(&batch, name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))?;
        all[place] = Arc::clone(column);
    }
    RecordBatch::try_new(batch.schema(), all)
}
