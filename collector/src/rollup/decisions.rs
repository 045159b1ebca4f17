//! What a fold reads of a batch of spans: its columns, found once, and the keys of the cells that a row counts in.

use arrow::array::{
    Array, AsArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use lariat_schema::time_range::slice_start;
use lariat_schema::vocabulary::{AttemptKind, MethodClass, OVERFLOW, RollupFamily};

use super::cell::{
    ACCOUNT_ID, CHAIN, Cell, ERROR_CATEGORY, Key, METHOD, METHOD_CLASS, NODE_ID, PROFILE, PROVIDER_ID, REGION, RESULT,
    STRATEGY, TRANSPORT,
};
use crate::columns::{column, double, doubles, ids, int, ints, long, longs, moments, text, texts};

/// Columns that are dimensions as they are, by their place in the key.
const SHARED: [(usize, &str); 5] =
    [(NODE_ID, "node_id"), (REGION, "region"), (PROFILE, "profile"), (CHAIN, "chain"), (RESULT, "result")];
/// Dimensions of the family `ops` alone.
const OPS: [(usize, &str); 4] = [
    (PROVIDER_ID, "provider_id"),
    (TRANSPORT, "transport"),
    (STRATEGY, "strategy"),
    (ERROR_CATEGORY, "error_category"),
];

/// The columns that are counted.
pub(super) struct Decisions<'a> {
    time: &'a TimestampNanosecondArray,
    duration_ns: &'a Int64Array,
    request_id: &'a FixedSizeBinaryArray,
    span_kind: &'a StringArray,
    kind: &'a StringArray,
    shared: [(usize, &'a StringArray); SHARED.len()],
    ops: [(usize, &'a StringArray); OPS.len()],
    method: &'a StringArray,
    account_id: &'a StringArray,
    attempts: &'a Int32Array,
    failovers: &'a Int32Array,
    provider_ns: &'a Int64Array,
    overhead_ns: &'a Int64Array,
    bytes_in: &'a Int64Array,
    bytes_out: &'a Int64Array,
    billable_units: &'a Float64Array,
    pub(super) eligible: Candidates<'a>,
    pub(super) excluded: Candidates<'a>,
}

/// One of the two lists of candidates, taken apart.
pub(super) struct Candidates<'a> {
    lists: &'a ListArray,
    provider_id: Option<&'a StringArray>,
    transport: Option<&'a StringArray>,
    selection: Option<&'a Int32Array>,
    probability: Option<&'a Float64Array>,
    reason: Option<&'a StringArray>,
}

impl<'a> Candidates<'a> {
    fn of(lists: &'a ListArray) -> Self {
        let values = lists.values().as_struct();
        Self {
            lists,
            provider_id: values.column_by_name("provider_id").and_then(|column| column.as_string_opt()),
            transport: values.column_by_name("transport").and_then(|column| column.as_string_opt()),
            selection: values.column_by_name("selection").and_then(|column| column.as_primitive_opt()),
            probability: values.column_by_name("probability").and_then(|column| column.as_primitive_opt()),
            reason: values.column_by_name("reason").and_then(|column| column.as_string_opt()),
        }
    }

    /// Where the candidates of a row stand.
    pub(super) fn of_row(&self, row: usize) -> std::ops::Range<usize> {
        if self.lists.is_null(row) {
            return 0..0;
        }
        let at = |row: usize| usize::try_from(self.lists.value_offsets()[row]).unwrap_or_default();
        at(row)..at(row + 1)
    }

    pub(super) fn probability(&self, index: usize) -> f64 {
        self.probability.and_then(|column| double(column, index)).unwrap_or(0.0)
    }

    pub(super) fn is_of_first_selection(&self, index: usize) -> bool {
        self.selection.and_then(|column| int(column, index)) == Some(1)
    }

    pub(super) fn reason(&self, index: usize) -> &'a str {
        self.reason.and_then(|column| text(column, index)).unwrap_or(OVERFLOW)
    }
}

impl<'a> Decisions<'a> {
    pub(super) fn of(batch: &'a RecordBatch) -> Self {
        Self {
            time: moments(batch, "time"),
            duration_ns: longs(batch, "duration_ns"),
            request_id: ids(batch, "request_id"),
            span_kind: texts(batch, "span_kind"),
            kind: texts(batch, "kind"),
            shared: SHARED.map(|(at, name)| (at, texts(batch, name))),
            ops: OPS.map(|(at, name)| (at, texts(batch, name))),
            method: texts(batch, "method"),
            account_id: texts(batch, "account_id"),
            attempts: ints(batch, "attempts"),
            failovers: ints(batch, "failovers"),
            provider_ns: longs(batch, "provider_ns"),
            overhead_ns: longs(batch, "overhead_ns"),
            bytes_in: longs(batch, "bytes_in"),
            bytes_out: longs(batch, "bytes_out"),
            billable_units: doubles(batch, "billable_units"),
            eligible: Candidates::of(column(batch, "eligible")),
            excluded: Candidates::of(column(batch, "excluded")),
        }
    }

    /// True if no row is a decision or an attempt.
    pub(super) fn are_none(&self) -> bool {
        self.request_id.null_count() == self.request_id.len() && self.kind.null_count() == self.kind.len()
    }

    pub(super) fn is_decision(&self, row: usize) -> bool {
        self.request_id.is_valid(row) && self.span_kind.value(row) == "server"
    }

    /// The first attempt of a decision, as its CLIENT span tells; a probe's is of none.
    pub(super) fn is_first_attempt(&self, row: usize) -> bool {
        text(self.kind, row) == Some(AttemptKind::Primary.as_str()) && self.span_kind.value(row) == "client"
    }

    /// The cell of the call in a family.
    pub(super) fn key(&self, family: RollupFamily, row: usize) -> Key<'a> {
        let duration = long(self.duration_ns, row).unwrap_or(0);
        let end = self.time.value(row).saturating_add(duration);
        let mut dimensions = [None; 12];
        for (at, column) in self.shared {
            dimensions[at] = text(column, row);
        }
        let method = text(self.method, row);
        dimensions[METHOD_CLASS] = method.map(|method| MethodClass::of(method).as_str());
        match family {
            RollupFamily::Usage => dimensions[ACCOUNT_ID] = text(self.account_id, row),
            RollupFamily::Ops => {
                dimensions[METHOD] = method;
                for (at, column) in self.ops {
                    dimensions[at] = text(column, row);
                }
            }
        }
        Key { family, slice_unix_nanos: slice_start(end), dimensions }
    }

    /// The cell of the tried channel as a candidate.
    pub(super) fn attempt_key(&self, row: usize) -> Key<'a> {
        let mut key = self.key(RollupFamily::Ops, row);
        key.dimensions[RESULT] = None;
        key.dimensions[ERROR_CATEGORY] = None;
        key
    }

    /// The cell of a candidate of a row, whose `ops` key is `call`.
    pub(super) fn candidate_key(&self, call: &Key<'a>, candidates: &Candidates<'a>, index: usize) -> Key<'a> {
        let mut key = call.clone();
        key.dimensions[PROVIDER_ID] = candidates.provider_id.and_then(|column| text(column, index));
        key.dimensions[TRANSPORT] = candidates.transport.and_then(|column| text(column, index));
        key.dimensions[RESULT] = None;
        key.dimensions[ERROR_CATEGORY] = None;
        key
    }

    pub(super) fn count_call(&self, cell: &mut Cell, row: usize) {
        let of = |column: &Int64Array| long(column, row).unwrap_or(0);
        let duration = of(self.duration_ns);
        cell.calls += 1;
        cell.attempts += i64::from(int(self.attempts, row).unwrap_or(0));
        cell.failovers += i64::from(int(self.failovers, row).unwrap_or(0));
        cell.duration_sum_ns = cell.duration_sum_ns.saturating_add(duration);
        cell.provider_sum_ns = cell.provider_sum_ns.saturating_add(of(self.provider_ns));
        cell.overhead_sum_ns = cell.overhead_sum_ns.saturating_add(of(self.overhead_ns));
        cell.bytes_in = cell.bytes_in.saturating_add(of(self.bytes_in));
        cell.bytes_out = cell.bytes_out.saturating_add(of(self.bytes_out));
        cell.billable_units += double(self.billable_units, row).unwrap_or(0.0);
        cell.sketch.record(duration);
    }
}
