//! The report `trace`: the spans of one trace, by id, in the order of their start. It shows what was kept: a trace of
//! which some units were sampled out has no rows for them, and the spans' `adjusted_count` says at which rate.

use arrow::array::RecordBatch;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;

use super::encode;
use super::parameters::{BadParameter, Parameters};
use super::sheet::Sheet;
use super::sql_text;

/// The trace id that was asked for: 32 hexadecimal digits, with or without a UUID's hyphens.
pub(super) fn trace_id(parameters: &Parameters) -> Result<[u8; 16], BadParameter> {
    let value = parameters.own("trace_id").unwrap_or_default();
    uuid::Uuid::try_parse(value).map(uuid::Uuid::into_bytes).map_err(|_| BadParameter::Value {
        name: "trace_id".to_owned(),
        value: value.to_owned(),
        expected: "32 hexadecimal digits, or a UUID",
    })
}

pub(super) fn question(trace_id: &[u8; 16], window: Option<TimeRange>, limit: usize) -> String {
    let window = window.map_or_else(String::new, |window| format!(" AND {}", sql_text::within(window)));
    let id = sql_text::id(trace_id);
    format!("SELECT * FROM spans WHERE trace_id = {id}{window} ORDER BY time LIMIT {limit}")
}

/// Rows as they came.
pub(super) fn sheet(batches: &[RecordBatch], limit: usize) -> Sheet {
    let rows = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| encode::object(batch, row)));
    Sheet::of_schema(&Table::Spans.schema(), rows, limit)
}
