//! Log records and events as rows.
//!
//! A record is its own key: two with the same content in two requests are one record sent twice.

use arrow::datatypes::Int32Type;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::KeepReason;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::Sink;
use super::arrays::{Ids, Numbers, Texts};
use super::attributes::Entries;
use super::columns::TypedColumns;
use super::lists::Maps;
use super::rows::{Columns, Finished, Rows, dropped, times};
use super::scan;
use super::senders::Senders;
use super::spans::{moment, optional_id};
use super::view::{LogView, Value};
use super::wire::is_outsized;

/// Rows of `logs` while they grow.
#[derive(Debug)]
pub(super) struct Logs<'a> {
    rows: Rows,
    time: Vec<i64>,
    event_name: Texts,
    severity_number: Numbers<Int32Type>,
    severity_text: Texts,
    body: Texts,
    trace_id: Ids<16>,
    span_id: Ids<8>,
    typed: TypedColumns,
    attributes: Maps,
    /// Room for the record that is read.
    view: LogView<'a>,
    /// Room for its attributes without a column.
    rest: Entries<'a>,
}

/// What of a record must be right for it to be accepted.
struct Valid {
    time: i64,
    trace_id: Option<[u8; 16]>,
    span_id: Option<[u8; 8]>,
}

impl<'a> Logs<'a> {
    pub(super) fn new(trusted: bool, now_unix_nanos: i64) -> Self {
        Self {
            rows: Rows::new(Table::Logs, trusted, now_unix_nanos),
            time: Vec::new(),
            event_name: Texts::new(),
            severity_number: Numbers::new(),
            severity_text: Texts::new(),
            body: Texts::new(),
            trace_id: Ids::new(),
            span_id: Ids::new(),
            typed: TypedColumns::new(Table::Logs, trusted),
            attributes: Maps::new(),
            view: LogView::default(),
            rest: Entries::default(),
        }
    }

    pub(super) fn finish(self, senders: Option<&Senders>) -> Finished {
        let rows = self.rows.len();
        let mut columns: Columns = self.typed.finish(rows).collect();
        columns.insert("time", times(self.time));
        columns.insert("event_name", self.event_name.finish(rows));
        columns.insert("severity_number", self.severity_number.finish(rows));
        columns.insert("severity_text", self.severity_text.finish(rows));
        columns.insert("body", self.body.finish(rows));
        columns.insert("trace_id", self.trace_id.finish(rows));
        columns.insert("span_id", self.span_id.finish(rows));
        columns.insert("attributes", self.attributes.finish());
        self.rows.finish(columns, KeepReason::Always, 0, senders)
    }

    /// Appends a record, whatever it was read from; `encoded` is what its content is told by.
    fn append<'v>(&mut self, log: &LogView<'v>, encoded: &[u8], rest: &mut Entries<'v>)
    where
        'a: 'v,
    {
        let valid = match validate(log, self.rows.now_unix_nanos) {
            Ok(valid) => valid,
            Err(reason) => return self.rows.reject(|| reason),
        };
        if !self.rows.admit(encoded.len()) {
            return;
        }
        let row = self.rows.len();
        self.time.push(valid.time);
        if let Some(id) = valid.trace_id {
            self.trace_id.set(row, id);
        }
        if let Some(id) = valid.span_id {
            self.span_id.set(row, id);
        }
        if log.severity_number != 0 {
            self.severity_number.set(row, log.severity_number);
        }
        for (column, text) in [(&mut self.event_name, log.event_name), (&mut self.severity_text, log.severity_text)] {
            if !text.is_empty() {
                column.set(row, text);
            }
        }
        if log.body != Value::Absent {
            self.body.set_with(row, |bytes| log.body.write(bytes));
        }
        rest.clear();
        self.typed.append(row, &log.attributes, rest);
        if log.observed_time_unix_nano != 0 && log.observed_time_unix_nano != log.time_unix_nano {
            rest.put("otel.observed_time_unix_nano", log.observed_time_unix_nano.to_string());
        }
        dropped(rest, "otel.dropped_attributes_count", log.dropped_attributes_count);
        self.attributes.append_unsorted(rest);
        self.rows.append(self.rows.content_key(encoded), self.rows.content(encoded));
    }
}

impl<'a> Sink<'a> for Logs<'a> {
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
        self.append(&LogView::of(log), encoded, &mut Entries::default());
    }

    /// Reads the bytes where they lie; only what is unusual becomes an object.
    fn encoded(&mut self, encoded: &'a [u8]) -> Result<(), String> {
        if is_outsized(encoded) {
            self.refuse_outsized();
            return Ok(());
        }
        let mut view = std::mem::take(&mut self.view).cleared();
        if scan::log(encoded, &mut view).is_ok() {
            let mut rest = std::mem::take(&mut self.rest);
            self.append(&view, encoded, &mut rest);
            self.rest = rest;
        } else {
            self.record(&LogRecord::decode(encoded).map_err(|error| error.to_string())?, encoded);
        }
        self.view = view;
        Ok(())
    }
}

/// A record's time is when it happened, else when its sender saw it, else now.
fn validate(log: &LogView<'_>, now_unix_nanos: i64) -> Result<Valid, String> {
    let time = match (log.time_unix_nano, log.observed_time_unix_nano) {
        (0, 0) => now_unix_nanos,
        (0, observed) => moment(observed, "observed_time_unix_nano")?,
        (time, _) => moment(time, "time_unix_nano")?,
    };
    Ok(Valid { time, trace_id: optional_id(log.trace_id, "trace id")?, span_id: optional_id(log.span_id, "span id")? })
}
