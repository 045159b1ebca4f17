//! The report `errors`: calls that ended with an error category, by provider, category and result. Faults of the call
//! itself are listed too, under their own `result`: a wave of reverts is worth seeing, and is not the providers' fault.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::time_range::TimeRange;
use serde::Serialize;

use super::cells::{UNKNOWN_REGION, share};
use super::columns::{BadAnswer, count_at, integers, text_at, texts};
use super::parameters::Parameters;
use super::sheet::{Column, Sheet};
use super::sql_text;

pub(super) const COLUMNS: &[Column] = &[
    ("region", "Utf8"),
    ("provider_id", "Utf8"),
    ("error_category", "Utf8"),
    ("result", "Utf8"),
    ("count", "Int64"),
    ("share", "Float64"),
];

#[derive(Serialize)]
struct Row {
    region: Option<String>,
    provider_id: Option<String>,
    error_category: String,
    result: Option<String>,
    count: i64,
    share: Option<f64>,
}

pub(super) fn question(parameters: &Parameters, times: &[TimeRange]) -> String {
    format!(
        "SELECT region, provider_id, error_category, result, sum(calls) AS calls FROM {cells} \
         WHERE family = 'ops' AND calls > 0 AND error_category IS NOT NULL AND {}{} \
         GROUP BY region, provider_id, error_category, result",
        sql_text::within_any(times),
        parameters.conditions(),
        cells = sql_text::cells(None),
    )
}

/// Rows over all regions first, then by region; the most frequent first. A share is of the errors in the same region.
pub(super) fn sheet(batches: &[RecordBatch], limit: usize) -> Result<Sheet, BadAnswer> {
    type Key = (Option<String>, Option<String>, String, Option<String>);
    let mut counts: BTreeMap<Key, i64> = BTreeMap::new();
    let mut totals: BTreeMap<Option<String>, i64> = BTreeMap::new();
    for batch in batches {
        let (regions, providers) = (texts(batch, "region")?, texts(batch, "provider_id")?);
        let (categories, results) = (texts(batch, "error_category")?, texts(batch, "result")?);
        let calls = integers(batch, "calls")?;
        for row in 0..batch.num_rows() {
            let region = text_at(&regions, row).unwrap_or_else(|| UNKNOWN_REGION.to_owned());
            for region in [None, Some(region)] {
                let category = text_at(&categories, row).unwrap_or_default();
                let key = (region.clone(), text_at(&providers, row), category, text_at(&results, row));
                *counts.entry(key).or_default() += count_at(&calls, row);
                *totals.entry(region).or_default() += count_at(&calls, row);
            }
        }
    }
    let mut rows: Vec<Row> = counts
        .into_iter()
        .map(|((region, provider_id, error_category, result), count)| {
            let total = totals.get(&region).copied().unwrap_or(0);
            Row { share: share(count, total), region, provider_id, error_category, result, count }
        })
        .collect();
    rows.sort_by(|left, right| left.region.cmp(&right.region).then(right.count.cmp(&left.count)));
    Ok(Sheet::new(COLUMNS.to_vec(), rows, limit))
}
