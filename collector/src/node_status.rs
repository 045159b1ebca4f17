//! What a node tells of itself as rows of `node_status`: every 10 s, at its start and at a clean end, through the log like
//! any record, so that a crash does not lose the statement that the node was there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::error::ArrowError;
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::{NodeIdentity, TableRange};
use lariat_schema::tables::{Table, gone_fields, ledger_fields, range_fields, sequence_fields};
use serde::{Deserialize, Serialize};

use crate::columns::{ids, long, longs, signed, text, texts};
use crate::ledger::{Counts, Line};
use crate::rollup::rows::{in_order, lists, moments};

/// Seconds between two rows.
pub(crate) const INTERVAL_SECONDS: u64 = 10;
/// Boots whose sequences are told; older ones are in older rows.
const MAX_BOOTS: usize = 16;
/// Stretches told per boot; more are holes upon holes, and the oldest are left out.
const MAX_STRETCHES: usize = 256;

/// Received stretches of `decision_seq` by boot, both ends included. Adding one twice changes nothing, so that a
/// replay of the log does no harm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sequences(Vec<(String, Vec<(i64, i64)>)>);

impl Sequences {
    /// Takes in the numbers of the decisions among these spans.
    pub(crate) fn take(&mut self, spans: &RecordBatch) {
        let (boots, numbers) = (texts(spans, "boot_id"), longs(spans, "decision_seq"));
        let requests = ids(spans, "request_id");
        let mut found: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for row in 0..spans.num_rows() {
            if let (Some(boot), Some(number), true) = (text(boots, row), long(numbers, row), requests.is_valid(row)) {
                found.entry(boot).or_default().push(number);
            }
        }
        for (boot, numbers) in found {
            let at = self.0.iter().position(|(known, _)| known == boot).unwrap_or_else(|| {
                self.0.push((boot.to_owned(), Vec::new()));
                self.0.len() - 1
            });
            if let Some((_, stretches)) = self.0.get_mut(at) {
                stretches.extend(numbers.into_iter().map(|number| (number, number)));
                join(stretches);
            }
        }
        let surplus = self.0.len().saturating_sub(MAX_BOOTS);
        self.0.drain(..surplus);
    }

    /// The received stretches of a boot, in order.
    pub(crate) fn stretches(&self, boot_id: &str) -> &[(i64, i64)] {
        self.0.iter().find(|(known, _)| known == boot_id).map_or(&[], |(_, stretches)| stretches)
    }
}

fn join(stretches: &mut Vec<(i64, i64)>) {
    stretches.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::with_capacity(stretches.len());
    for (first, last) in stretches.drain(..) {
        match joined.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    let surplus = joined.len().saturating_sub(MAX_STRETCHES);
    joined.drain(..surplus);
    *stretches = joined;
}

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
    let all = || sequences.0.iter().flat_map(|(boot, stretches)| stretches.iter().map(move |stretch| (boot, stretch)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all().map(|(boot, _)| Some(boot.as_str())).collect::<StringArray>()),
        Arc::new(all().map(|(_, stretch)| stretch.0).collect::<Int64Array>()),
        Arc::new(all().map(|(_, stretch)| stretch.1).collect::<Int64Array>()),
    ];
    lists(sequence_fields(), columns, vec![all().count()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_join_across_arrivals_and_a_hole_stays() {
        let mut stretches = vec![(5, 5), (1, 2), (3, 3), (9, 9), (3, 3)];
        join(&mut stretches);
        assert_eq!(stretches, [(1, 3), (5, 5), (9, 9)]);
        stretches.push((4, 4));
        join(&mut stretches);
        assert_eq!(stretches, [(1, 5), (9, 9)]);
    }
}
