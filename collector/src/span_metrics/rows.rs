//! Series as rows of the table `metrics`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryBuilder, Float64Array, Float64Builder, Int64Array, Int64Builder,
    ListBuilder, MapBuilder, MapFieldNames, RecordBatch, StringArray, StringBuilder, new_null_array,
};
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;
use lariat_schema::metrics;
use lariat_schema::node_api::NodeIdentity;
use lariat_schema::tables::Table;
use xxhash_rust::xxh3::xxh3_128;

use super::graph::Edge;
use super::{BOUNDS_NANOS, Latency, Spans};
use crate::columns::signed;
use crate::rollup::rows::moments;

/// Name of the service that these series are from.
const SERVICE: &str = "lariat-collector";

enum Value<'a> {
    Sum(u64),
    Histogram(&'a Latency),
}

struct Row<'a> {
    metric: &'static str,
    start_unix_nanos: i64,
    /// By name.
    labels: Vec<(&'static str, &'a str)>,
    value: Value<'a>,
}

/// The rows of these series at `now`.
pub(super) fn rows(
    spans: &[&Spans],
    edges: &[&Edge],
    now: i64,
    identity: &NodeIdentity,
) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<Row<'_>> =
        spans.iter().copied().flat_map(of_spans).chain(edges.iter().copied().flat_map(of_edge)).collect();
    let same = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; rows.len()])) };
    let texts = |of: &dyn Fn(&Row<'_>) -> &'static str| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>())
    };
    let mut columns: HashMap<&str, ArrayRef> = HashMap::from([
        ("time", moments(vec![now; rows.len()])),
        ("observed_time", moments(vec![now; rows.len()])),
        ("start_time", moments(rows.iter().map(|row| row.start_unix_nanos).collect())),
        ("series_id", series_ids(&rows, identity)?),
        ("name", texts(&|row| row.metric)),
        ("description", texts(&|row| declared(row.metric).map_or("", |metric| metric.doc))),
        ("unit", texts(&|row| declared(row.metric).map_or("", |metric| metric.unit))),
        ("instrument", texts(&|row| if matches!(row.value, Value::Sum(_)) { "sum" } else { "histogram" })),
        ("temporality", same("cumulative")),
        (
            "monotonic",
            Arc::new(
                rows.iter().map(|row| matches!(row.value, Value::Sum(_)).then_some(true)).collect::<BooleanArray>(),
            ),
        ),
        ("service_name", same(SERVICE)),
        ("node_id", same(identity.node_id.as_ref())),
        ("region", same(identity.region.as_ref())),
        ("boot_id", same(&identity.boot_id.to_string())),
        ("labels", labels(&rows)?),
        ("no_recorded_value", Arc::new(BooleanArray::from(vec![false; rows.len()]))),
    ]);
    columns.extend(values(&rows));
    let schema = Table::Metrics.schema();
    let ordered = schema.fields().iter().map(|field| {
        columns.remove(field.name().as_str()).unwrap_or_else(|| new_null_array(field.data_type(), rows.len()))
    });
    let ordered = ordered.collect();
    RecordBatch::try_new(schema, ordered)
}

fn of_spans(spans: &Spans) -> impl Iterator<Item = Row<'_>> {
    let whose = &spans.whose;
    let row = move |metric, value| Row {
        metric,
        start_unix_nanos: spans.start_unix_nanos,
        labels: vec![
            ("service", &*whose.service),
            ("span_kind", whose.kind),
            ("span_name", &*whose.name),
            ("status_code", whose.status),
        ],
        value,
    };
    [
        row(metrics::SPAN_CALLS, Value::Sum(spans.latency.count)),
        row(metrics::SPAN_LATENCY, Value::Histogram(&spans.latency)),
        row(metrics::SPAN_SIZE, Value::Sum(spans.bytes)),
    ]
    .into_iter()
}

fn of_edge(edge: &Edge) -> impl Iterator<Item = Row<'_>> {
    let row = move |metric, value| Row {
        metric,
        start_unix_nanos: edge.start_unix_nanos,
        labels: vec![("client", &*edge.client), ("connection_type", edge.connection), ("server", &*edge.server)],
        value,
    };
    [
        row(metrics::GRAPH_REQUESTS, Value::Sum(edge.counts.requests)),
        row(metrics::GRAPH_FAILED, Value::Sum(edge.counts.failed)),
        row(metrics::GRAPH_SERVER_SECONDS, Value::Histogram(&edge.counts.server_latency)),
        row(metrics::GRAPH_CLIENT_SECONDS, Value::Histogram(&edge.counts.client_latency)),
    ]
    .into_iter()
}

fn declared(name: &str) -> Option<&'static metrics::Metric> {
    metrics::ALL.iter().find(|metric| metric.name == name)
}

fn series_ids(rows: &[Row<'_>], identity: &NodeIdentity) -> Result<ArrayRef, ArrowError> {
    let mut ids = FixedSizeBinaryBuilder::with_capacity(rows.len(), 16);
    for row in rows {
        let mut bytes = format!("{}\0{}\0{}", row.metric, identity.node_id, identity.region).into_bytes();
        for (name, value) in &row.labels {
            for part in [name, value] {
                bytes.push(0);
                bytes.extend_from_slice(part.as_bytes());
            }
        }
        ids.append_value(xxh3_128(&bytes).to_be_bytes())?;
    }
    Ok(Arc::new(ids.finish()))
}

fn labels(rows: &[Row<'_>]) -> Result<ArrayRef, ArrowError> {
    let names = MapFieldNames { entry: "entries".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (name, value) in &row.labels {
            maps.keys().append_value(name);
            maps.values().append_value(value);
        }
        maps.append(true)?;
    }
    Ok(Arc::new(maps.finish()))
}

fn values(rows: &[Row<'_>]) -> [(&'static str, ArrayRef); 5] {
    let histogram = |row: &Row<'_>| match row.value {
        Value::Histogram(latency) => Some(*latency),
        Value::Sum(_) => None,
    };
    let seconds = |nanos: i64| nanos as f64 / 1e9;
    let (mut bounds, mut counts) = (
        ListBuilder::new(Float64Builder::new()).with_field(Field::new("item", DataType::Float64, false)),
        ListBuilder::new(Int64Builder::new()).with_field(Field::new("item", DataType::Int64, false)),
    );
    for row in rows {
        if let Some(latency) = histogram(row) {
            bounds.values().append_slice(&BOUNDS_NANOS.map(seconds));
            counts.values().append_slice(&latency.buckets.map(signed));
        }
        bounds.append(matches!(row.value, Value::Histogram(_)));
        counts.append(matches!(row.value, Value::Histogram(_)));
    }
    let sums: Float64Array = rows
        .iter()
        .map(|row| match row.value {
            Value::Sum(sum) => Some(sum as f64),
            Value::Histogram(_) => None,
        })
        .collect();
    let totals: Int64Array = rows.iter().map(|row| histogram(row).map(|latency| signed(latency.count))).collect();
    let seconds: Float64Array =
        rows.iter().map(|row| histogram(row).map(|latency| seconds(latency.sum_nanos))).collect();
    [
        ("value", Arc::new(sums)),
        ("count", Arc::new(totals)),
        ("sum", Arc::new(seconds)),
        ("bounds", Arc::new(bounds.finish())),
        ("bucket_counts", Arc::new(counts.finish())),
    ]
}
