//! Rows for tests, written as JSON with only the columns that matter; required columns get a neutral value.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::json::ReaderBuilder;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use lariat_schema::tables::Table;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::parameters::rfc3339;
use crate::ask::Ask;
use crate::ask::local::LocalEngine;

/// A moment that lies at the start of a 10 s cell.
pub(crate) const NOON: i64 = 1_763_726_400_000_000_000;

/// Rows of a table.
pub(crate) fn batch(table: Table, rows: &[Value]) -> (Table, Vec<RecordBatch>) {
    let schema = table.schema();
    let filled: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut row = row.clone();
            for field in schema.fields().iter().filter(|field| !field.is_nullable()) {
                if row[field.name()].is_null() {
                    row[field.name().as_str()] = neutral(field.data_type());
                }
            }
            row
        })
        .collect();
    let mut decoder = ReaderBuilder::new(schema).with_strict_mode(true).build_decoder().unwrap();
    decoder.serialize(&filled).unwrap();
    (table, decoder.flush().unwrap().into_iter().collect())
}

fn neutral(data_type: &DataType) -> Value {
    match data_type {
        DataType::Utf8 => json!(""),
        DataType::Timestamp(_, _) => json!(rfc3339(NOON)),
        DataType::List(_) => json!([]),
        DataType::Map(_, _) => json!({}),
        DataType::Boolean => json!(false),
        DataType::FixedSizeBinary(length) => json!("0".repeat(2 * usize::try_from(*length).unwrap())),
        _ => json!(0),
    }
}

/// A cell of the `ops` family: `calls` calls of `duration_ns` each, in a sketch of one bucket.
pub(crate) fn cell(mut columns: Value, calls: i64, duration_ns: i64) -> Value {
    let defaults = json!({
        "time": rfc3339(NOON), "family": "ops", "node_id": "n1", "region": "us-east", "profile": "public",
        "chain": "ethereum", "method": "eth_blockNumber", "provider_id": "a", "transport": "http",
        "strategy": "fastest", "result": "success",
    });
    for (name, value) in defaults.as_object().unwrap() {
        if columns.get(name).is_none() {
            columns[name.as_str()] = value.clone();
        }
    }
    columns["calls"] = json!(calls);
    columns["duration_sum_ns"] = json!(calls * duration_ns);
    columns["sketch_scale"] = json!(lariat_schema::tables::SKETCH_SCALE);
    columns["sketch_offset"] = json!(bucket_of(duration_ns) - 1);
    // An empty bucket on either side, as a fold over other calls would have left.
    columns["sketch_counts"] = json!([0, calls, 0]);
    columns
}

/// Bucket of a duration, as the collector's fold has it: `(base^index, base^(index+1)]`.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "only test durations")]
fn bucket_of(nanos: i64) -> i64 {
    ((nanos as f64).log2() * f64::from(1 << lariat_schema::tables::SKETCH_SCALE)).ceil() as i64 - 1
}

/// An engine over these rows.
pub(crate) async fn engine(rows: Vec<(Table, Vec<RecordBatch>)>) -> Arc<dyn Ask> {
    Arc::new(LocalEngine::new(rows).await.unwrap())
}

/// Status and JSON body of a GET.
pub(crate) async fn get(router: Router, path: &str) -> (StatusCode, Value) {
    let response = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}
