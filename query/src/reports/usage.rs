//! The report `usage`: what each account used, from the `usage` family of rollups, which is counted before sampling and
//! never collapses an account.

use arrow::array::RecordBatch;
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

pub(super) fn question(parameters: &Parameters) -> String {
    format!(
        "SELECT account_id, profile, chain, method_class, result, sum(calls) AS calls, sum(bytes_in) AS bytes_in, \
         sum(bytes_out) AS bytes_out, sum(billable_units) AS billable_units FROM rollups \
         WHERE family = 'usage' AND {}{} GROUP BY account_id, profile, chain, method_class, result",
        sql_text::within(parameters.cell_window()),
        parameters.conditions(),
    )
}

/// Rows, the most billable first.
pub(super) fn sheet(batches: &[RecordBatch], limit: usize) -> Result<Sheet, BadAnswer> {
    let mut rows = Vec::new();
    for batch in batches {
        let [accounts, profiles, chains, classes, results] =
            ["account_id", "profile", "chain", "method_class", "result"].map(|name| texts(batch, name));
        let (accounts, profiles, chains, classes, results) = (accounts?, profiles?, chains?, classes?, results?);
        let [calls, bytes_in, bytes_out] = ["calls", "bytes_in", "bytes_out"].map(|name| integers(batch, name));
        let (calls, bytes_in, bytes_out) = (calls?, bytes_in?, bytes_out?);
        let units = floats(batch, "billable_units")?;
        rows.extend((0..batch.num_rows()).map(|row| Row {
            account_id: text_at(&accounts, row),
            profile: text_at(&profiles, row),
            chain: text_at(&chains, row),
            method_class: text_at(&classes, row),
            result: text_at(&results, row),
            calls: count_at(&calls, row),
            bytes_in: count_at(&bytes_in, row),
            bytes_out: count_at(&bytes_out, row),
            billable_units: units.value(row),
        }));
    }
    rows.sort_by(|left, right| right.billable_units.total_cmp(&left.billable_units).then(right.calls.cmp(&left.calls)));
    Ok(Sheet::new(COLUMNS.to_vec(), rows, limit))
}
