//! What a node tells of itself as rows of `node_status`: every 10 s, at its start and at a clean end, through the log like
//! any record, so that a crash does not lose the statement that the node was there.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::error::ArrowError;
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::{NodeIdentity, TableRange};
use lariat_schema::tables::{
    Table, gone_fields, ledger_fields, missing_fields, range_fields, refusal_fields, sequence_fields,
};

use crate::columns::signed;
use crate::ledger::{Counts, Line};
use crate::receive::Refusals;
use crate::rollup::rows::{in_order, lists, moments};
use crate::sequences::{Lost, Sequences};

/// Seconds between two rows.
pub(crate) const INTERVAL_SECONDS: u64 = 10;
/// What a row says.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) now_unix_nanos: i64,
    pub(crate) watermark_unix_nanos: i64,
    pub(crate) identity: &'a NodeIdentity,
    pub(crate) store_id: StoreId,
    pub(crate) refused_requests: u64,
    pub(crate) refused_bytes: u64,
    pub(crate) ledger: &'a [Line],
    pub(crate) ranges: &'a [TableRange],
    pub(crate) quarantined: u64,
    pub(crate) sequences: &'a Sequences,
    pub(crate) lost: &'a [Lost],
    /// What the receivers refused since the start, for whatever reason.
    pub(crate) refusals: &'a [Refusals],
    /// The most bytes that stood between the receivers and the log since the start.
    pub(crate) receive_to_log_peak_bytes: u64,
    /// True in the last row of a clean end.
    pub(crate) farewell: bool,
}

/// The row.
pub(crate) fn row(facts: &Facts<'_>) -> Result<RecordBatch, ArrowError> {
    let one = |value: String| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let number = |value: u64| -> ArrayRef { Arc::new(Int64Array::from(vec![signed(value)])) };
    let columns = HashMap::from([
        ("time", moments(vec![facts.now_unix_nanos])),
        ("observed_time", moments(vec![facts.now_unix_nanos])),
        ("node_id", one(facts.identity.node_id.to_string())),
        ("region", one(facts.identity.region.to_string())),
        ("boot_id", one(facts.identity.boot_id.to_string())),
        ("store_id", one(facts.store_id.to_string())),
        ("version", one(env!("CARGO_PKG_VERSION").to_owned())),
        ("watermark", moments(vec![facts.watermark_unix_nanos])),
        ("refused_requests", number(facts.refused_requests)),
        ("refused_bytes", number(facts.refused_bytes)),
        ("ledger", ledger(facts.ledger)?),
        ("ranges", ranges(facts.ranges)?),
        ("sequences", sequences(facts.sequences)?),
        ("gone", gone(facts.ranges)?),
        ("quarantined", number(facts.quarantined)),
        ("missing", missing(facts.lost)?),
        ("refusals", refusals(facts.refusals)?),
        ("receive_to_log_peak_bytes", number(facts.receive_to_log_peak_bytes)),
        ("farewell", Arc::new(BooleanArray::from(vec![facts.farewell]))),
    ]);
    in_order(Table::NodeStatus, columns)
}

fn ledger(lines: &[Line]) -> Result<ArrayRef, ArrowError> {
    let texts = |of: &dyn Fn(&Line) -> String| -> ArrayRef {
        Arc::new(lines.iter().map(|line| Some(of(line))).collect::<StringArray>())
    };
    let counts = |of: fn(&Counts) -> i64| -> ArrayRef {
        Arc::new(lines.iter().map(|line| of(&line.counts)).collect::<Int64Array>())
    };
    let columns = vec![
        texts(&|line| line.key.signal.to_string()),
        texts(&|line| line.key.profile.clone()),
        texts(&|line| line.key.account_id.clone()),
        counts(|counts| counts.received),
        counts(|counts| counts.stored),
        counts(|counts| counts.sampled_out),
        counts(|counts| counts.deduplicated),
        counts(|counts| counts.rejected),
        counts(|counts| counts.dropped),
        counts(|counts| counts.in_flight),
    ];
    lists(ledger_fields(), columns, vec![lines.len()])
}

fn ranges(ranges: &[TableRange]) -> Result<ArrayRef, ArrowError> {
    let optional = |of: fn(&TableRange) -> Option<i64>| -> ArrayRef {
        Arc::new(ranges.iter().map(of).collect::<TimestampNanosecondArray>().with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ranges.iter().map(|range| Some(range.table.as_str())).collect::<StringArray>()),
        optional(|range| range.from_unix_nanos),
        optional(|range| range.to_unix_nanos),
        Arc::new(ranges.iter().map(|range| signed(range.rows)).collect::<Int64Array>()),
    ];
    lists(range_fields(), columns, vec![ranges.len()])
}

fn gone(ranges: &[TableRange]) -> Result<ArrayRef, ArrowError> {
    let all = || ranges.iter().flat_map(|range| range.gone.iter().map(move |gone| (range.table, gone)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all().map(|(table, _)| Some(table.as_str())).collect::<StringArray>()),
        moments(all().map(|(_, gone)| gone.from_unix_nanos).collect()),
        moments(all().map(|(_, gone)| gone.to_unix_nanos).collect()),
        Arc::new(all().map(|(_, gone)| Some(gone.why.as_str())).collect::<StringArray>()),
        Arc::new(all().map(|(_, gone)| signed(gone.rows)).collect::<Int64Array>()),
    ];
    lists(gone_fields(), columns, vec![all().count()])
}

fn sequences(sequences: &Sequences) -> Result<ArrayRef, ArrowError> {
    let all = || sequences.stretches();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all().map(|(boot, ..)| Some(boot)).collect::<StringArray>()),
        Arc::new(all().map(|(_, first, _)| first).collect::<Int64Array>()),
        Arc::new(all().map(|(_, _, last)| last).collect::<Int64Array>()),
    ];
    lists(sequence_fields(), columns, vec![all().count()])
}

fn missing(lost: &[Lost]) -> Result<ArrayRef, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(lost.iter().map(|lost| Some(lost.boot_id.as_str())).collect::<StringArray>()),
        Arc::new(lost.iter().map(|lost| lost.decisions).collect::<Int64Array>()),
    ];
    lists(missing_fields(), columns, vec![lost.len()])
}

fn refusals(refusals: &[Refusals]) -> Result<ArrayRef, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(refusals.iter().map(|refused| Some(refused.reason.as_str())).collect::<StringArray>()),
        Arc::new(refusals.iter().map(|refused| signed(refused.requests)).collect::<Int64Array>()),
        Arc::new(refusals.iter().map(|refused| signed(refused.bytes)).collect::<Int64Array>()),
    ];
    lists(refusal_fields(), columns, vec![refusals.len()])
}
