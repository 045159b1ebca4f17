//! Log records and events as rows.
//!
//! A record is its own key: two with the same content in two requests are one record sent twice.

use std::sync::Arc;

use arrow::array::{FixedSizeBinaryBuilder, Int32Builder, StringBuilder};
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::KeepReason;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::Sink;
use super::attributes::Entries;
use super::columns::TypedColumns;
use super::lists::Maps;
use super::rows::{Columns, Finished, Rows, dropped, times};
use super::spans::{append_id, moment, optional_id};
use super::view::{Attribute, Value};
use crate::columns::Nulls;

/// Rows of `logs` while they grow.
#[derive(Debug)]
pub(super) struct Logs {
    rows: Rows,
    time: Vec<i64>,
    event_name: StringBuilder,
    severity_number: Int32Builder,
    severity_text: StringBuilder,
    body: StringBuilder,
    trace_id: FixedSizeBinaryBuilder,
    span_id: FixedSizeBinaryBuilder,
    typed: TypedColumns,
    attributes: Maps,
}

/// What of a record must be right for it to be accepted.
struct Valid {
    time: i64,
    trace_id: Option<[u8; 16]>,
    span_id: Option<[u8; 8]>,
}

impl Logs {
    pub(super) fn new(trusted: bool, now_unix_nanos: i64) -> Self {
        Self {
            rows: Rows::new(Table::Logs, trusted, now_unix_nanos),
            time: Vec::new(),
            event_name: StringBuilder::new(),
            severity_number: Int32Builder::new(),
            severity_text: StringBuilder::new(),
            body: StringBuilder::new(),
            trace_id: FixedSizeBinaryBuilder::new(16),
            span_id: FixedSizeBinaryBuilder::new(8),
            typed: TypedColumns::new(Table::Logs, trusted),
            attributes: Maps::new(),
        }
    }

    pub(super) fn finish(mut self) -> Finished {
        let mut columns: Columns = self.typed.finish(self.rows.len(), &Nulls::default()).collect();
        columns.insert("time", times(self.time));
        columns.insert("event_name", Arc::new(self.event_name.finish()));
        columns.insert("severity_number", Arc::new(self.severity_number.finish()));
        columns.insert("severity_text", Arc::new(self.severity_text.finish()));
        columns.insert("body", Arc::new(self.body.finish()));
        columns.insert("trace_id", Arc::new(self.trace_id.finish()));
        columns.insert("span_id", Arc::new(self.span_id.finish()));
        columns.insert("attributes", self.attributes.finish());
        self.rows.finish(columns, KeepReason::Always, 0)
    }
}

impl Sink<'_> for Logs {
    type Record = LogRecord;

    fn resource(&mut self, resource: &Resource) {
        self.rows.resource(resource);
    }

    fn scope(&mut self, scope: &InstrumentationScope) {
        self.rows.scope(scope);
    }

    fn refuse_outsized(&mut self) {
        self.rows.reject_outsized();
    }

    fn record(&mut self, log: &LogRecord, encoded: &[u8]) {
        let valid = match validate(log, self.rows.now_unix_nanos) {
            Ok(valid) => valid,
            Err(reason) => return self.rows.reject(|| reason),
        };
        if !self.rows.admit(encoded.len()) {
            return;
        }
        self.time.push(valid.time);
        append_id(&mut self.trace_id, valid.trace_id);
        append_id(&mut self.span_id, valid.span_id);
        self.event_name.append_option((!log.event_name.is_empty()).then_some(&log.event_name));
        self.severity_number.append_option((log.severity_number != 0).then_some(log.severity_number));
        self.severity_text.append_option((!log.severity_text.is_empty()).then_some(&log.severity_text));
        self.body.append_option(Value::of(log.body.as_ref()).text());
        let mut rest = Entries::default();
        let attributes: Vec<Attribute<'_>> = log.attributes.iter().map(Attribute::of).collect();
        self.typed.append(self.rows.len(), &attributes, &mut rest);
        if log.observed_time_unix_nano != 0 && log.observed_time_unix_nano != log.time_unix_nano {
            rest.put("otel.observed_time_unix_nano", log.observed_time_unix_nano.to_string());
        }
        dropped(&mut rest, "otel.dropped_attributes_count", log.dropped_attributes_count);
        rest.sort();
        self.attributes.append(&rest);
        self.rows.append(self.rows.content_key(encoded), self.rows.content(encoded));
    }
}

/// A record's time is when it happened, else when its sender saw it, else now.
fn validate(log: &LogRecord, now_unix_nanos: i64) -> Result<Valid, String> {
    let time = match (log.time_unix_nano, log.observed_time_unix_nano) {
        (0, 0) => now_unix_nanos,
        (0, observed) => moment(observed, "observed_time_unix_nano")?,
        (time, _) => moment(time, "time_unix_nano")?,
    };
    Ok(Valid {
        time,
        trace_id: optional_id(&log.trace_id, "trace id")?,
        span_id: optional_id(&log.span_id, "span id")?,
    })
}
