//! The report `usage`: what each account used, from the `usage` family of rollups, which is counted before sampling and
//! never collapses an account.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::time_range::TimeRange;
use serde::Serialize;

use super::columns::{BadAnswer, count_at, floats, integers, text_at, texts};
use super::parameters::Parameters;
use super::sheet::{Column, Sheet};
use super::sql_text;

pub(super) const COLUMNS: &[Column] = &[
    ("account_id", "Utf8"),
    ("profile", "Utf8"),
    ("chain", "Utf8"),
    ("method_class", "Utf8"),
    ("result", "Utf8"),
    ("calls", "Int64"),
    ("bytes_in", "Int64"),
    ("bytes_out", "Int64"),
    ("billable_units", "Float64"),
];

#[derive(Serialize)]
struct Row {
    account_id: Option<String>,
    profile: Option<String>,
    chain: Option<String>,
    method_class: Option<String>,
    result: Option<String>,
    calls: i64,
    bytes_in: i64,
    bytes_out: i64,
    billable_units: f64,
}

pub(super) fn question(parameters: &Parameters, times: &[TimeRange]) -> String {
    format!(
        "SELECT account_id, profile, chain, method_class, result, sum(calls) AS calls, sum(bytes_in) AS bytes_in, \
         sum(bytes_out) AS bytes_out, sum(billable_units) AS billable_units FROM {cells} \
         WHERE family = 'usage' AND {}{} GROUP BY account_id, profile, chain, method_class, result",
        sql_text::within_any(times),
        parameters.conditions(),
        cells = sql_text::cells(None),
    )
}

/// Who used what: account, profile, chain, class of method and result.
type Key = [Option<String>; 5];

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    calls: i64,
    bytes_in: i64,
    bytes_out: i64,
    billable_units: f64,
}

/// Rows, the most billable first. What is of one key is added up: an answer may be of several parts of the time.
pub(super) fn sheet(batches: &[RecordBatch], limit: usize) -> Result<Sheet, BadAnswer> {
    let mut sums: BTreeMap<Key, Sums> = BTreeMap::new();
    for batch in batches {
        let names = ["account_id", "profile", "chain", "method_class", "result"];
        let columns = names.iter().map(|name| texts(batch, name)).collect::<Result<Vec<_>, _>>()?;
        let [calls, bytes_in, bytes_out] = ["calls", "bytes_in", "bytes_out"].map(|name| integers(batch, name));
        let (calls, bytes_in, bytes_out) = (calls?, bytes_in?, bytes_out?);
        let units = floats(batch, "billable_units")?;
        for row in 0..batch.num_rows() {
            let at = |column: usize| text_at(&columns[column], row);
            let sum = sums.entry([at(0), at(1), at(2), at(3), at(4)]).or_default();
            sum.calls = sum.calls.saturating_add(count_at(&calls, row));
            sum.bytes_in = sum.bytes_in.saturating_add(count_at(&bytes_in, row));
            sum.bytes_out = sum.bytes_out.saturating_add(count_at(&bytes_out, row));
            sum.billable_units += units.value(row);
        }
    }
    let row = |([account_id, profile, chain, method_class, result], sums): (Key, Sums)| Row {
        account_id,
        profile,
        chain,
        method_class,
        result,
        calls: sums.calls,
        bytes_in: sums.bytes_in,
        bytes_out: sums.bytes_out,
        billable_units: sums.billable_units,
    };
    let mut rows: Vec<Row> = sums.into_iter().map(row).collect();
    rows.sort_by(|left, right| right.billable_units.total_cmp(&left.billable_units).then(right.calls.cmp(&left.calls)));
    Ok(Sheet::new(COLUMNS.to_vec(), rows, limit))
}
