//! The tables: their columns, types and sort order. The same schema holds in memory, in a file and in SQL.
//!
//! Texts are plain `Utf8` and not dictionaries: Parquet makes dictionaries of its own, and a dictionary in Arrow would
//! have to be the same on every node for their batches to merge without a copy. Ids are fixed-size binary; SQL shows
//! them as text. Nothing here is nullable by accident: a column is `NOT NULL` only if every source has it.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::closed_enum::closed_enum;

closed_enum! {
    /// A stored table.
    pub enum Table ("table") {
        /// A span a row.
        Spans = "spans",
        /// A point a row.
        Metrics = "metrics",
        /// A log record or event a row.
        Logs = "logs",
        /// A 10 s cell of a family a row.
        Rollups = "rollups",
        /// A node every 10 s a row.
        NodeStatus = "node_status",
    }
}

impl Table {
    /// Its columns.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<[SchemaRef; 5]> = LazyLock::new(|| {
            [spans(), metrics(), logs(), rollups(), node_status()].map(|fields| Arc::new(Schema::new(fields)))
        });
        Arc::clone(&SCHEMAS[self as usize])
    }

    /// The columns that its files are sorted by, ascending, nulls first.
    #[must_use]
    pub const fn sort_columns(self) -> &'static [&'static str] {
        match self {
            Self::Spans => &["profile", "chain", "service_name", "time"],
            Self::Metrics => &["name", "series_id", "time"],
            Self::Logs => &["event_name", "time"],
            Self::Rollups => &["family", "profile", "chain", "provider_id", "time"],
            Self::NodeStatus => &["time"],
        }
    }

    /// The id columns that its files have bloom filters on.
    #[must_use]
    pub const fn bloom_columns(self) -> &'static [&'static str] {
        match self {
            Self::Spans => &["trace_id", "request_id"],
            Self::Logs => &["trace_id"],
            Self::Metrics => &["series_id"],
            Self::Rollups | Self::NodeStatus => &[],
        }
    }
}

/// `Timestamp(ns, UTC)`, the type of every moment.
#[must_use]
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

/// `Map<Utf8, Utf8>`, the type of attributes without a column of their own. A value that is no text is written as
/// JSON. Keys are sorted.
#[must_use]
pub fn attribute_map() -> DataType {
    let entries =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

/// `List` of a struct with these fields, elements not null.
fn list_of(fields: Vec<Field>) -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(Fields::from(fields)), false)))
}

/// `List` of plain values, elements not null.
fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, false)))
}

/// Fields of an element of `spans.eligible`.
#[must_use]
pub fn eligible_fields() -> Vec<Field> {
    vec![
        required("selection", DataType::Int32),
        required("rank", DataType::Int32),
        required("provider_id", DataType::Utf8),
        required("transport", DataType::Utf8),
        optional("score", DataType::Float64),
        optional("probability", DataType::Float64),
        optional("inputs", DataType::Utf8),
    ]
}

/// Fields of an element of `spans.excluded`.
#[must_use]
pub fn excluded_fields() -> Vec<Field> {
    vec![
        required("selection", DataType::Int32),
        required("provider_id", DataType::Utf8),
        required("transport", DataType::Utf8),
        required("reason", DataType::Utf8),
    ]
}

/// Fields of an element of `spans.events`.
#[must_use]
pub fn span_event_fields() -> Vec<Field> {
    vec![required("time", timestamp()), required("name", DataType::Utf8), optional("attributes", attribute_map())]
}

/// Fields of an element of `spans.links`.
#[must_use]
pub fn span_link_fields() -> Vec<Field> {
    vec![
        required("trace_id", DataType::FixedSizeBinary(16)),
        required("span_id", DataType::FixedSizeBinary(8)),
        optional("trace_state", DataType::Utf8),
        optional("attributes", attribute_map()),
    ]
}

/// Fields of an element of `metrics.exemplars`.
#[must_use]
pub fn exemplar_fields() -> Vec<Field> {
    vec![
        required("time", timestamp()),
        required("value", DataType::Float64),
        optional("trace_id", DataType::FixedSizeBinary(16)),
        optional("span_id", DataType::FixedSizeBinary(8)),
        optional("attributes", attribute_map()),
    ]
}

/// Fields of an element of `metrics.quantiles`.
#[must_use]
pub fn quantile_fields() -> Vec<Field> {
    vec![required("quantile", DataType::Float64), required("value", DataType::Float64)]
}

/// Fields of an element of `rollups.excluded`.
#[must_use]
pub fn exclusion_count_fields() -> Vec<Field> {
    vec![required("reason", DataType::Utf8), required("count", DataType::Int64)]
}

/// Fields of an element of `node_status.ledger`, one per signal, profile and account.
#[must_use]
pub fn ledger_fields() -> Vec<Field> {
    let mut fields = vec![
        required("signal", DataType::Utf8),
        required("profile", DataType::Utf8),
        required("account_id", DataType::Utf8),
    ];
    for count in ["received", "stored", "sampled_out", "deduplicated", "rejected", "dropped", "in_flight"] {
        fields.push(required(count, DataType::Int64));
    }
    fields
}

/// Fields of an element of `node_status.ranges`: what a table holds.
#[must_use]
pub fn range_fields() -> Vec<Field> {
    vec![
        required("table", DataType::Utf8),
        optional("from", timestamp()),
        optional("to", timestamp()),
        required("rows", DataType::Int64),
    ]
}

/// Fields of an element of `node_status.gone`: rows that are gone, past their retention (`expired`) or before (`lost`).
#[must_use]
pub fn gone_fields() -> Vec<Field> {
    vec![
        required("table", DataType::Utf8),
        required("from", timestamp()),
        required("to", timestamp()),
        required("why", DataType::Utf8),
        required("rows", DataType::Int64),
    ]
}

/// Fields of an element of `node_status.sequences`: received stretches of `decision_seq`, both ends included.
#[must_use]
pub fn sequence_fields() -> Vec<Field> {
    vec![required("boot_id", DataType::Utf8), required("first", DataType::Int64), required("last", DataType::Int64)]
}

/// Fields of an element of `node_status.missing`: decisions that a boot numbered and that never came.
#[must_use]
pub fn missing_fields() -> Vec<Field> {
    vec![required("boot_id", DataType::Utf8), required("decisions", DataType::Int64)]
}

/// Fields of an element of `node_status.refusals`, one per reason.
#[must_use]
pub fn refusal_fields() -> Vec<Field> {
    vec![required("reason", DataType::Utf8), required("requests", DataType::Int64), required("bytes", DataType::Int64)]
}

fn required(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn optional_all(data_type: &DataType, names: &[&str]) -> Vec<Field> {
    names.iter().map(|name| optional(name, data_type.clone())).collect()
}

/// Who sent a record: the first columns of every telemetry table.
fn sender() -> Vec<Field> {
    optional_all(&DataType::Utf8, &["service_name", "node_id", "region", "boot_id"])
}

fn spans() -> Vec<Field> {
    let mut fields = vec![
        required("time", timestamp()),
        required("duration_ns", DataType::Int64),
        required("observed_time", timestamp()),
        required("trace_id", DataType::FixedSizeBinary(16)),
        required("span_id", DataType::FixedSizeBinary(8)),
        optional("parent_span_id", DataType::FixedSizeBinary(8)),
        optional("trace_state", DataType::Utf8),
        required("name", DataType::Utf8),
        required("span_kind", DataType::Utf8),
        required("status", DataType::Utf8),
        optional("status_message", DataType::Utf8),
    ];
    fields.extend(sender());
    fields.extend([optional("scope_name", DataType::Utf8), optional("scope_version", DataType::Utf8)]);
    fields.extend(routing_columns());
    fields.extend(attempt_columns());
    fields.extend([
        optional("eligible", list_of(eligible_fields())),
        optional("excluded", list_of(excluded_fields())),
        optional("fail_open", DataType::Boolean),
        optional("adjusted_count", DataType::Float64),
        required("keep_reason", DataType::Utf8),
        optional("attributes", attribute_map()),
        optional("resource_attributes", attribute_map()),
        optional("events", list_of(span_event_fields())),
        optional("links", list_of(span_link_fields())),
        // Null in files that are older than this column.
        optional("missing_attempts", DataType::Int32),
    ]);
    fields
}

/// The columns of a decision; a CLIENT span repeats those that name the call.
fn routing_columns() -> Vec<Field> {
    let mut fields = vec![optional("request_id", DataType::FixedSizeBinary(16))];
    fields.extend(optional_all(&DataType::Int32, &["batch_index", "batch_size"]));
    fields.extend(optional_all(&DataType::Int64, &["decision_seq", "chain_id"]));
    fields.extend(optional_all(
        &DataType::Utf8,
        &[
            "profile",
            "account_id",
            "chain",
            "method",
            "method_original",
            "jsonrpc_id",
            "strategy",
            "provider_id",
            "instance_id",
            "transport",
            "client_transport",
            "origin",
            "answered_by",
            "result",
            "error_category",
            "error_type",
            "status_code",
            "cache",
            "params_digest",
            "response_digest",
            "policy_hash",
        ],
    ));
    fields.extend(optional_all(&DataType::Int32, &["attempts", "failovers"]));
    fields.extend(optional_all(
        &DataType::Int64,
        &["selection_ns", "provider_ns", "overhead_ns", "bytes_in", "bytes_out", "head_lag_blocks"],
    ));
    fields.push(optional("billable_units", DataType::Float64));
    fields
}

/// The columns that only an attempt has.
fn attempt_columns() -> Vec<Field> {
    let mut fields = vec![optional("ordinal", DataType::Int32)];
    fields.extend(optional_all(&DataType::Utf8, &["kind", "outcome", "circuit_state", "dispatched", "server_address"]));
    fields.extend([
        optional("censored", DataType::Boolean),
        optional("circuit_epoch", DataType::Int64),
        optional("http_status", DataType::Int32),
    ]);
    fields
}

fn metrics() -> Vec<Field> {
    let mut fields = vec![
        required("time", timestamp()),
        optional("start_time", timestamp()),
        required("observed_time", timestamp()),
        required("series_id", DataType::FixedSizeBinary(16)),
        required("name", DataType::Utf8),
        optional("description", DataType::Utf8),
        optional("unit", DataType::Utf8),
        required("instrument", DataType::Utf8),
        optional("temporality", DataType::Utf8),
        optional("monotonic", DataType::Boolean),
    ];
    fields.extend(sender());
    fields.extend([
        optional("scope_name", DataType::Utf8),
        required("labels", attribute_map()),
        optional("resource_attributes", attribute_map()),
        optional("value", DataType::Float64),
        optional("count", DataType::Int64),
        optional("sum", DataType::Float64),
        optional("min", DataType::Float64),
        optional("max", DataType::Float64),
        optional("scale", DataType::Int32),
        optional("zero_count", DataType::Int64),
        optional("zero_threshold", DataType::Float64),
        optional("positive_offset", DataType::Int32),
        optional("positive_counts", list(DataType::Int64)),
        optional("negative_offset", DataType::Int32),
        optional("negative_counts", list(DataType::Int64)),
        optional("bounds", list(DataType::Float64)),
        optional("bucket_counts", list(DataType::Int64)),
        optional("quantiles", list_of(quantile_fields())),
        optional("exemplars", list_of(exemplar_fields())),
        required("no_recorded_value", DataType::Boolean),
    ]);
    fields
}

fn logs() -> Vec<Field> {
    let mut fields = vec![
        required("time", timestamp()),
        required("observed_time", timestamp()),
        optional("event_name", DataType::Utf8),
        optional("severity_number", DataType::Int32),
        optional("severity_text", DataType::Utf8),
        optional("body", DataType::Utf8),
        optional("trace_id", DataType::FixedSizeBinary(16)),
        optional("span_id", DataType::FixedSizeBinary(8)),
    ];
    fields.extend(sender());
    fields.push(optional("scope_name", DataType::Utf8));
    fields.extend(optional_all(
        &DataType::Utf8,
        &["profile", "account_id", "chain", "provider_id", "instance_id", "transport"],
    ));
    fields.extend([
        optional("attributes", attribute_map()),
        optional("resource_attributes", attribute_map()),
        optional("adjusted_count", DataType::Float64),
        required("keep_reason", DataType::Utf8),
    ]);
    fields
}

fn rollups() -> Vec<Field> {
    let mut fields =
        vec![required("time", timestamp()), required("observed_time", timestamp()), required("family", DataType::Utf8)];
    fields.extend(optional_all(
        &DataType::Utf8,
        &[
            "node_id",
            "region",
            "profile",
            "account_id",
            "chain",
            "method",
            "method_class",
            "provider_id",
            "transport",
            "strategy",
            "result",
            "error_category",
        ],
    ));
    for count in [
        "calls",
        "attempts",
        "failovers",
        "duration_sum_ns",
        "provider_sum_ns",
        "overhead_sum_ns",
        "bytes_in",
        "bytes_out",
        "eligible_count",
    ] {
        fields.push(required(count, DataType::Int64));
    }
    fields.extend([
        required("billable_units", DataType::Float64),
        required("probability_sum", DataType::Float64),
        optional("excluded", list_of(exclusion_count_fields())),
        required("sketch_scale", DataType::Int32),
        required("sketch_zero_count", DataType::Int64),
        required("sketch_offset", DataType::Int32),
        required("sketch_counts", list(DataType::Int64)),
        // Null in files that are older than these columns.
        optional("first_probability_sum", DataType::Float64),
        optional("first_attempts", DataType::Int64),
    ]);
    fields
}

fn node_status() -> Vec<Field> {
    vec![
        required("time", timestamp()),
        required("observed_time", timestamp()),
        required("node_id", DataType::Utf8),
        required("region", DataType::Utf8),
        required("boot_id", DataType::Utf8),
        required("store_id", DataType::Utf8),
        required("version", DataType::Utf8),
        required("watermark", timestamp()),
        required("refused_requests", DataType::Int64),
        required("refused_bytes", DataType::Int64),
        required("ledger", list_of(ledger_fields())),
        required("ranges", list_of(range_fields())),
        required("sequences", list_of(sequence_fields())),
        // Null in files that are older than these columns.
        optional("gone", list_of(gone_fields())),
        optional("quarantined", DataType::Int64),
        // Null in files that are older than this column.
        optional("farewell", DataType::Boolean),
        // The same of these.
        optional("missing", list_of(missing_fields())),
        optional("refusals", list_of(refusal_fields())),
        optional("receive_to_log_peak_bytes", DataType::Int64),
    ]
}

/// Scale of the sketches in `rollups`: an exponential histogram with base 2^(2^-6), relative error at most 0.55 %.
/// Source: OpenTelemetry data model, "ExponentialHistogram". Values are nanoseconds; bucket `offset + i` holds
/// `(base^(offset+i), base^(offset+i+1)]`.
pub const SKETCH_SCALE: i32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sort_and_bloom_column_stands_in_its_table() {
        for table in Table::ALL {
            let schema = table.schema();
            for column in table.sort_columns().iter().chain(table.bloom_columns()) {
                assert!(schema.field_with_name(column).is_ok(), "{table} has no column {column}");
            }
        }
    }

    #[test]
    fn no_table_has_two_columns_of_one_name() {
        for table in Table::ALL {
            let schema = table.schema();
            let mut names: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{table}");
        }
    }

    #[test]
    fn every_table_has_the_time_of_its_event_and_of_its_commit() {
        for table in Table::ALL {
            assert_eq!(table.schema().field_with_name("time").unwrap().data_type(), &timestamp());
            assert_eq!(table.schema().field_with_name("observed_time").unwrap().data_type(), &timestamp());
        }
    }
}
