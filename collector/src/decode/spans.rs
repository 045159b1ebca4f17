//! Spans as rows. A foreign span is as welcome as one of ours: its own attributes stay in the map.

use std::sync::Arc;

use arrow::array::{ArrayBuilder, ArrayRef, FixedSizeBinaryBuilder, Int64Array, StringBuilder};
use lariat_schema::events;
use lariat_schema::tables::{Table, span_event_fields, span_link_fields};
use lariat_schema::vocabulary::KeepReason;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags};
use xxhash_rust::xxh3::xxh3_128;

use super::Sink;
use super::attributes::Entries;
use super::columns::TypedColumns;
use super::lists::{Lists, Maps};
use super::rows::{Columns, Finished, Rows, dropped, times};
use super::selection::{Selection, Selections};

/// Rows of `spans` while they grow.
#[derive(Debug)]
pub(super) struct Spans {
    rows: Rows,
    head: Head,
    typed: TypedColumns,
    selections: Selections,
    attributes: Maps,
    events: Events,
    links: Links,
    malformed_selections: u64,
}

/// The columns that every span has.
#[derive(Debug)]
struct Head {
    time: Vec<i64>,
    duration_ns: Vec<i64>,
    trace_id: FixedSizeBinaryBuilder,
    span_id: FixedSizeBinaryBuilder,
    parent_span_id: FixedSizeBinaryBuilder,
    trace_state: StringBuilder,
    name: StringBuilder,
    span_kind: StringBuilder,
    status: StringBuilder,
    status_message: StringBuilder,
}

/// What of a span must be right for it to be accepted.
struct Valid {
    time: i64,
    duration_ns: i64,
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent_span_id: Option<[u8; 8]>,
}

impl Spans {
    pub(super) fn new(trusted: bool, now_unix_nanos: i64) -> Self {
        Self {
            rows: Rows::new(Table::Spans, trusted, now_unix_nanos),
            head: Head::new(),
            typed: TypedColumns::new(Table::Spans, trusted),
            selections: Selections::new(),
            attributes: Maps::new(),
            events: Events::new(),
            links: Links::new(),
            malformed_selections: 0,
        }
    }

    pub(super) fn finish(self) -> Finished {
        let mut columns: Columns = self.typed.finish().collect();
        self.head.finish(&mut columns);
        self.selections.finish(&mut columns);
        columns.insert("attributes", self.attributes.finish());
        columns.insert("events", self.events.finish());
        columns.insert("links", self.links.finish());
        self.rows.finish(columns, KeepReason::Undecided, self.malformed_selections)
    }
}

impl Sink for Spans {
    type Record = Span;

    fn resource(&mut self, resource: &Resource) {
        self.rows.resource(resource);
    }

    fn scope(&mut self, scope: &InstrumentationScope) {
        self.rows.scope(scope);
    }

    fn refuse_outsized(&mut self) {
        self.rows.reject_outsized();
    }

    fn record(&mut self, span: &Span, encoded: &[u8]) {
        let valid = match validate(span) {
            Ok(valid) => valid,
            Err(reason) => return self.rows.reject(|| reason),
        };
        if !self.rows.admit(encoded.len()) {
            return;
        }
        let mut rest = Entries::default();
        self.typed.append(&span.attributes, &mut rest);
        let mut selections = Vec::new();
        let mut nth = 0;
        for event in &span.events {
            if event.name == events::DECISION {
                nth += 1;
                if let Some(selection) = Selection::read(event, nth, &mut rest) {
                    selections.push(selection);
                    continue;
                }
                self.malformed_selections += 1;
            }
            self.events.push(event);
        }
        self.events.end_row();
        self.selections.append(&selections);
        self.links.append(span, &mut rest);
        self.head.append(span, &valid, self.rows.trusted, &mut rest);
        dropped(&mut rest, "otel.dropped_attributes_count", span.dropped_attributes_count);
        dropped(&mut rest, "otel.dropped_events_count", span.dropped_events_count);
        dropped(&mut rest, "otel.dropped_links_count", span.dropped_links_count);
        rest.sort();
        self.attributes.append(&rest);
        let mut key = [0; 24];
        key[..16].copy_from_slice(&valid.trace_id);
        key[16..].copy_from_slice(&valid.span_id);
        self.rows.append(xxh3_128(&key), self.rows.content(encoded));
    }
}

fn validate(span: &Span) -> Result<Valid, String> {
    let time = moment(span.start_time_unix_nano, "start_time_unix_nano")?;
    let end = if span.end_time_unix_nano == 0 { time } else { moment(span.end_time_unix_nano, "end_time_unix_nano")? };
    Ok(Valid {
        time,
        duration_ns: end.saturating_sub(time).max(0),
        trace_id: id(&span.trace_id, "trace id")?,
        span_id: id(&span.span_id, "span id")?,
        parent_span_id: optional_id(&span.parent_span_id, "parent span id")?,
    })
}

/// A moment that must be there.
pub(super) fn moment(unix_nanos: u64, what: &str) -> Result<i64, String> {
    match i64::try_from(unix_nanos) {
        Ok(0) => Err(format!("{what} is missing")),
        Ok(unix_nanos) => Ok(unix_nanos),
        Err(_) => Err(format!("{what} {unix_nanos} is later than the year 2262")),
    }
}

/// An id that must be there.
fn id<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], String> {
    optional_id(bytes, what)?.ok_or_else(|| format!("the {what} is missing or zero"))
}

/// An id that may be missing, which zeros mean too.
pub(super) fn optional_id<const N: usize>(bytes: &[u8], what: &str) -> Result<Option<[u8; N]>, String> {
    if bytes.iter().all(|byte| *byte == 0) && (bytes.is_empty() || bytes.len() == N) {
        return Ok(None);
    }
    bytes.try_into().map(Some).map_err(|_| format!("the {what} has {} bytes instead of {N}", bytes.len()))
}

/// Appends an id or its absence.
pub(super) fn append_id<const N: usize>(builder: &mut FixedSizeBinaryBuilder, id: Option<[u8; N]>) {
    match id {
        Some(id) => builder.append_value(id).expect("the id has the column's width"),
        None => builder.append_null(),
    }
}

impl Head {
    fn new() -> Self {
        Self {
            time: Vec::new(),
            duration_ns: Vec::new(),
            trace_id: FixedSizeBinaryBuilder::new(16),
            span_id: FixedSizeBinaryBuilder::new(8),
            parent_span_id: FixedSizeBinaryBuilder::new(8),
            trace_state: StringBuilder::new(),
            name: StringBuilder::new(),
            span_kind: StringBuilder::new(),
            status: StringBuilder::new(),
            status_message: StringBuilder::new(),
        }
    }

    fn append<'a>(&mut self, span: &'a Span, valid: &Valid, trusted: bool, rest: &mut Entries<'a>) {
        self.time.push(valid.time);
        self.duration_ns.push(valid.duration_ns);
        append_id(&mut self.trace_id, Some(valid.trace_id));
        append_id(&mut self.span_id, Some(valid.span_id));
        append_id(&mut self.parent_span_id, valid.parent_span_id);
        if trusted {
            self.trace_state.append_option((!span.trace_state.is_empty()).then_some(&span.trace_state));
        } else {
            let believed = without_threshold(&span.trace_state);
            if believed != span.trace_state {
                rest.put("otel.trace_state", span.trace_state.as_str());
            }
            self.trace_state.append_option((!believed.is_empty()).then_some(believed));
        }
        self.name.append_value(&span.name);
        self.span_kind.append_value(kind(span.kind));
        let status = span.status.as_ref();
        self.status.append_value(match status.map(|status| status.code()) {
            None | Some(StatusCode::Unset) => "unset",
            Some(StatusCode::Ok) => "ok",
            Some(StatusCode::Error) => "error",
        });
        self.status_message.append_option(status.map(|status| &status.message).filter(|text| !text.is_empty()));
        if span.flags & flag(SpanFlags::ContextIsRemoteMask) != 0 {
            rest.put("otel.span.parent.origin", "remote");
        }
    }

    fn finish(mut self, columns: &mut Columns) {
        columns.insert("time", times(self.time));
        columns.insert("duration_ns", Arc::new(Int64Array::from(self.duration_ns)));
        columns.insert("trace_id", Arc::new(self.trace_id.finish()));
        columns.insert("span_id", Arc::new(self.span_id.finish()));
        columns.insert("parent_span_id", Arc::new(self.parent_span_id.finish()));
        columns.insert("trace_state", Arc::new(self.trace_state.finish()));
        columns.insert("name", Arc::new(self.name.finish()));
        columns.insert("span_kind", Arc::new(self.span_kind.finish()));
        columns.insert("status", Arc::new(self.status.finish()));
        columns.insert("status_message", Arc::new(self.status_message.finish()));
    }
}

fn flag(flag: SpanFlags) -> u32 {
    u32::try_from(i32::from(flag)).unwrap_or_default()
}

/// The trace state without OpenTelemetry's member `ot`, which carries the sampling threshold.
fn without_threshold(trace_state: &str) -> String {
    let others: Vec<_> = trace_state.split(',').filter(|member| !member.trim_start().starts_with("ot=")).collect();
    others.join(",")
}

fn kind(kind: i32) -> &'static str {
    match SpanKind::try_from(kind).unwrap_or(SpanKind::Unspecified) {
        SpanKind::Unspecified => "unspecified",
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    }
}

/// The column `events`.
#[derive(Debug)]
struct Events {
    lists: Lists,
    time: Vec<i64>,
    name: StringBuilder,
    attributes: Maps,
    ended: usize,
}

impl Events {
    fn new() -> Self {
        Self { lists: Lists::new(), time: Vec::new(), name: StringBuilder::new(), attributes: Maps::new(), ended: 0 }
    }

    fn push(&mut self, event: &Event) {
        self.time.push(i64::try_from(event.time_unix_nano).unwrap_or(i64::MAX));
        self.name.append_value(&event.name);
        let mut entries = Entries::of(&event.attributes);
        if event.dropped_attributes_count > 0 {
            dropped(&mut entries, "otel.dropped_attributes_count", event.dropped_attributes_count);
            entries.sort();
        }
        self.attributes.append(&entries);
    }

    fn end_row(&mut self) {
        self.lists.end_row(self.time.len(), self.time.len() > self.ended);
        self.ended = self.time.len();
    }

    fn finish(mut self) -> ArrayRef {
        let children = vec![times(self.time), Arc::new(self.name.finish()), self.attributes.finish()];
        self.lists.finish(span_event_fields(), children)
    }
}

/// The column `links`.
#[derive(Debug)]
struct Links {
    lists: Lists,
    trace_id: FixedSizeBinaryBuilder,
    span_id: FixedSizeBinaryBuilder,
    trace_state: StringBuilder,
    attributes: Maps,
}

impl Links {
    fn new() -> Self {
        Self {
            lists: Lists::new(),
            trace_id: FixedSizeBinaryBuilder::new(16),
            span_id: FixedSizeBinaryBuilder::new(8),
            trace_state: StringBuilder::new(),
            attributes: Maps::new(),
        }
    }

    /// Appends a row. A link without a valid context points nowhere: such are only counted, in the span's attributes.
    fn append(&mut self, span: &Span, rest: &mut Entries<'_>) {
        let before = self.trace_id.len();
        let invalid: u32 = span.links.iter().map(|link| u32::from(!self.push(link))).sum();
        dropped(rest, "otel.invalid_links_count", invalid);
        self.lists.end_row(self.trace_id.len(), self.trace_id.len() > before);
    }

    fn push(&mut self, link: &Link) -> bool {
        let (Ok(trace_id), Ok(span_id)) = (id::<16>(&link.trace_id, "trace id"), id::<8>(&link.span_id, "span id"))
        else {
            return false;
        };
        append_id(&mut self.trace_id, Some(trace_id));
        append_id(&mut self.span_id, Some(span_id));
        self.trace_state.append_option((!link.trace_state.is_empty()).then_some(&link.trace_state));
        let mut entries = Entries::of(&link.attributes);
        if link.dropped_attributes_count > 0 {
            dropped(&mut entries, "otel.dropped_attributes_count", link.dropped_attributes_count);
            entries.sort();
        }
        self.attributes.append(&entries);
        true
    }

    fn finish(mut self) -> ArrayRef {
        let children: Vec<ArrayRef> = vec![
            Arc::new(self.trace_id.finish()),
            Arc::new(self.span_id.finish()),
            Arc::new(self.trace_state.finish()),
            self.attributes.finish(),
        ];
        self.lists.finish(span_link_fields(), children)
    }
}
