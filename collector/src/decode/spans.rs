//! Spans as rows. A foreign span is as welcome as one of ours: its own attributes stay in the map.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, Int64Array};
use lariat_schema::tables::{Table, span_event_fields, span_link_fields};
use lariat_schema::vocabulary::KeepReason;
use lariat_schema::{attributes, events};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags};
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use super::Sink;
use super::arrays::{Ids, Texts};
use super::attributes::Entries;
use super::columns::TypedColumns;
use super::lists::{Lists, Maps};
use super::mapping::Mapping;
use super::rows::{Columns, Finished, Rows, dropped, times};
use super::scan;
use super::selection::{Selection, Selections};
use super::senders::Senders;
use super::view::{Attribute, EventView, LinkView, SpanView};
use super::wire::is_outsized;

/// Rows of `spans` while they grow.
#[derive(Debug)]
pub(super) struct Spans<'a> {
    rows: Rows,
    head: Head,
    typed: TypedColumns,
    selections: Selections,
    attributes: Maps,
    events: Events,
    links: Links,
    malformed_selections: u64,
    mapping: Option<&'a Mapping>,
    /// Room for the span that is read; in a box, since it is taken out for each.
    view: Option<Box<SpanView<'a>>>,
    /// Room for its attributes without a column.
    rest: Entries<'a>,
}

/// The columns that every span has.
#[derive(Debug)]
struct Head {
    time: Vec<i64>,
    duration_ns: Vec<i64>,
    trace_id: Ids<16>,
    span_id: Ids<8>,
    parent_span_id: Ids<8>,
    trace_state: Texts,
    name: Texts,
    span_kind: Texts,
    status: Texts,
    status_message: Texts,
}

/// What of a span must be right for it to be accepted.
struct Valid {
    time: i64,
    duration_ns: i64,
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent_span_id: Option<[u8; 8]>,
}

impl<'a> Spans<'a> {
    pub(super) fn new(trusted: bool, now_unix_nanos: i64) -> Self {
        Self {
            rows: Rows::new(Table::Spans, trusted, now_unix_nanos),
            head: Head::new(),
            typed: TypedColumns::new(Table::Spans, trusted),
            selections: Selections::default(),
            attributes: Maps::new(),
            events: Events::new(),
            links: Links::new(),
            malformed_selections: 0,
            mapping: None,
            view: None,
            rest: Entries::default(),
        }
    }

    /// The same, with the spans of other proxies as the mapping says.
    pub(super) fn with_mapping(mut self, mapping: Option<&'a Mapping>) -> Self {
        self.mapping = mapping;
        self
    }

    pub(super) fn finish(self, senders: Option<&Senders>) -> Finished {
        let rows = self.rows.len();
        // Columns without any value are left out; attempts are missing once the unit is decided.
        let mut columns: Columns = self.typed.finish(rows).collect();
        self.head.finish(rows, &mut columns);
        self.selections.finish(&mut columns);
        columns.insert("attributes", self.attributes.finish());
        columns.extend(self.events.finish().map(|events| ("events", events)));
        columns.extend(self.links.finish().map(|links| ("links", links)));
        self.rows.finish(columns, KeepReason::Undecided, self.malformed_selections, senders)
    }

    /// Appends a span, whatever it was read from; `encoded` is what its content is told by.
    fn append<'v>(&mut self, span: &SpanView<'v>, encoded: &[u8], rest: &mut Entries<'v>)
    where
        'a: 'v,
    {
        let valid = match validate(span) {
            Ok(valid) => valid,
            Err(reason) => return self.rows.reject(|| reason),
        };
        if !self.rows.admit(encoded.len()) {
            return;
        }
        let row = self.rows.len();
        rest.clear();
        self.typed.append(row, &span.attributes, rest);
        let kind = self.append_mapped(row, span, &valid).unwrap_or(span.kind);
        self.append_events(span, rest);
        self.links.append(span, rest);
        self.head.append(row, span, &valid, self.rows.trusted, rest);
        self.head.span_kind.set(row, kind_name(kind));
        dropped(rest, "otel.dropped_attributes_count", span.dropped_attributes_count);
        dropped(rest, "otel.dropped_events_count", span.dropped_events_count);
        dropped(rest, "otel.dropped_links_count", span.dropped_links_count);
        self.attributes.append_unsorted(rest);
        let mut key = [0; 24];
        key[..16].copy_from_slice(&valid.trace_id);
        key[16..].copy_from_slice(&valid.span_id);
        self.rows.append(xxh3_128(&key), self.rows.content(encoded));
    }

    /// What the mapping makes of a span that is none of ours, in the columns of the row, and its kind as such. Nothing
    /// is told by it whose call it was unless its sender may say so.
    fn append_mapped<'v>(&mut self, row: usize, span: &SpanView<'v>, valid: &Valid) -> Option<i32>
    where
        'a: 'v,
    {
        let mut derived = Vec::new();
        let (scope, service) = self.rows.origin();
        let r#as = self.mapping?.apply(scope, service, span, &mut derived)?;
        self.typed.append(row, &derived, &mut Entries::default());
        self.typed.set_id(row, attributes::REQUEST_ID, valid.trace_id);
        Some(r#as.kind())
    }

    /// Events, of which a decision becomes candidates.
    fn append_events<'v>(&mut self, span: &SpanView<'v>, rest: &mut Entries<'v>) {
        let mut selections = Vec::new();
        let mut nth = 0;
        for event in &span.events {
            let attributes = &span.inner[event.attributes.clone()];
            if event.name == events::DECISION {
                nth += 1;
                if let Some(selection) = Selection::read(attributes, nth, rest) {
                    selections.push(selection);
                    continue;
                }
                self.malformed_selections += 1;
            }
            self.events.push(event, attributes);
        }
        self.events.end_row();
        self.selections.append(&selections);
    }
}

impl<'a> Sink<'a> for Spans<'a> {
    type Record = Span;

    fn resource(&mut self, resource: &Resource) {
        self.rows.resource(resource);
    }

    fn scope(&mut self, scope: &InstrumentationScope) {
        self.rows.scope(scope);
    }

    fn expect(&mut self, records: usize) {
        let rows = self.rows.expected(records);
        self.head.reserve(rows);
        self.typed.reserve(rows);
        self.attributes.reserve(rows - self.rows.len());
    }

    fn refuse_outsized(&mut self) {
        self.rows.reject_outsized();
    }

    fn record(&mut self, span: &Span, encoded: &[u8]) {
        self.append(&SpanView::of(span), encoded, &mut Entries::default());
    }

    /// Reads the bytes where they lie; only what is unusual becomes an object.
    fn encoded(&mut self, encoded: &'a [u8]) -> Result<(), String> {
        if is_outsized(encoded) {
            self.refuse_outsized();
            return Ok(());
        }
        let mut view = self.view.take().unwrap_or_default();
        view.clear();
        let scanned = scan::span(encoded, &mut view);
        if scanned.is_ok() {
            let mut rest = std::mem::take(&mut self.rest);
            self.append(&view, encoded, &mut rest);
            self.rest = rest;
        } else {
            self.record(&Span::decode(encoded).map_err(|error| error.to_string())?, encoded);
        }
        self.view = Some(view);
        Ok(())
    }
}

fn validate(span: &SpanView<'_>) -> Result<Valid, String> {
    let time = moment(span.start_time_unix_nano, "start_time_unix_nano")?;
    let end = if span.end_time_unix_nano == 0 { time } else { moment(span.end_time_unix_nano, "end_time_unix_nano")? };
    Ok(Valid {
        time,
        duration_ns: end.saturating_sub(time).max(0),
        trace_id: id(span.trace_id, "trace id")?,
        span_id: id(span.span_id, "span id")?,
        parent_span_id: optional_id(span.parent_span_id, "parent span id")?,
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
            trace_id: Ids::new(),
            span_id: Ids::new(),
            parent_span_id: Ids::new(),
            trace_state: Texts::new(),
            name: Texts::new(),
            span_kind: Texts::new(),
            status: Texts::new(),
            status_message: Texts::new(),
        }
    }

    fn reserve(&mut self, rows: usize) {
        let more = rows.saturating_sub(self.time.len());
        self.time.reserve_exact(more);
        self.duration_ns.reserve_exact(more);
        self.trace_id.reserve(rows);
        self.span_id.reserve(rows);
        self.parent_span_id.reserve(rows);
        for texts in [&mut self.name, &mut self.span_kind, &mut self.status] {
            texts.reserve(rows);
        }
    }

    fn append<'a>(&mut self, row: usize, span: &SpanView<'a>, valid: &Valid, trusted: bool, rest: &mut Entries<'a>) {
        self.time.push(valid.time);
        self.duration_ns.push(valid.duration_ns);
        self.trace_id.set(row, valid.trace_id);
        self.span_id.set(row, valid.span_id);
        if let Some(parent) = valid.parent_span_id {
            self.parent_span_id.set(row, parent);
        }
        self.append_trace_state(row, span.trace_state, trusted, rest);
        self.name.set(row, span.name);
        self.status.set(
            row,
            match StatusCode::try_from(span.status_code) {
                Ok(StatusCode::Unset) | Err(_) => "unset",
                Ok(StatusCode::Ok) => "ok",
                Ok(StatusCode::Error) => "error",
            },
        );
        if !span.status_message.is_empty() {
            self.status_message.set(row, span.status_message);
        }
        if span.flags & flag(SpanFlags::ContextIsRemoteMask) != 0 {
            rest.put("otel.span.parent.origin", "remote");
        }
    }

    fn append_trace_state<'a>(&mut self, row: usize, state: &'a str, trusted: bool, rest: &mut Entries<'a>) {
        if state.is_empty() {
            return;
        }
        if trusted {
            return self.trace_state.set(row, state);
        }
        let believed = without_threshold(state);
        if believed != state {
            rest.put("otel.trace_state", state);
        }
        if !believed.is_empty() {
            self.trace_state.set(row, &believed);
        }
    }

    fn finish(self, rows: usize, columns: &mut Columns) {
        columns.insert("time", times(self.time));
        columns.insert("duration_ns", Arc::new(Int64Array::from(self.duration_ns)));
        columns.insert("trace_id", self.trace_id.finish(rows));
        columns.insert("span_id", self.span_id.finish(rows));
        if !self.parent_span_id.is_empty() {
            columns.insert("parent_span_id", self.parent_span_id.finish(rows));
        }
        for (name, texts) in [("trace_state", self.trace_state), ("status_message", self.status_message)] {
            if !texts.is_empty() {
                columns.insert(name, texts.finish(rows));
            }
        }
        columns.insert("name", self.name.finish(rows));
        columns.insert("span_kind", self.span_kind.finish(rows));
        columns.insert("status", self.status.finish(rows));
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

fn kind_name(kind: i32) -> &'static str {
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
    name: Texts,
    attributes: Maps,
    ended: usize,
}

/// The attributes of an event or link, with the count of those that were dropped.
fn inner<'a>(attributes: &[Attribute<'a>], dropped_attributes_count: u32) -> Entries<'a> {
    let mut entries = Entries::default();
    for attribute in attributes {
        entries.push(*attribute);
    }
    dropped(&mut entries, "otel.dropped_attributes_count", dropped_attributes_count);
    entries
}

impl Events {
    fn new() -> Self {
        Self { lists: Lists::new(), time: Vec::new(), name: Texts::new(), attributes: Maps::new(), ended: 0 }
    }

    fn push(&mut self, event: &EventView<'_>, attributes: &[Attribute<'_>]) {
        self.name.set(self.time.len(), event.name);
        self.time.push(i64::try_from(event.time_unix_nano).unwrap_or(i64::MAX));
        self.attributes.append_unsorted(&mut inner(attributes, event.dropped_attributes_count));
    }

    fn end_row(&mut self) {
        self.lists.end_row(self.time.len(), self.time.len() > self.ended);
        self.ended = self.time.len();
    }

    /// None if no row has any.
    fn finish(self) -> Option<ArrayRef> {
        if self.lists.is_absent() {
            return None;
        }
        let names = self.name.finish(self.time.len());
        let children = vec![times(self.time), names, self.attributes.finish()];
        Some(self.lists.finish(span_event_fields(), children))
    }
}

/// The column `links`.
#[derive(Debug)]
struct Links {
    lists: Lists,
    trace_id: Ids<16>,
    span_id: Ids<8>,
    trace_state: Texts,
    attributes: Maps,
    links: usize,
}

impl Links {
    fn new() -> Self {
        Self {
            lists: Lists::new(),
            trace_id: Ids::new(),
            span_id: Ids::new(),
            trace_state: Texts::new(),
            attributes: Maps::new(),
            links: 0,
        }
    }

    /// Appends a row. A link without a valid context points nowhere: such are only counted, in the span's attributes.
    fn append(&mut self, span: &SpanView<'_>, rest: &mut Entries<'_>) {
        let before = self.links;
        let push = |link: &LinkView<'_>| self.push(link, &span.inner[link.attributes.clone()]);
        let invalid: u32 = span.links.iter().map(push).map(|pushed| u32::from(!pushed)).sum();
        dropped(rest, "otel.invalid_links_count", invalid);
        self.lists.end_row(self.links, self.links > before);
    }

    fn push(&mut self, link: &LinkView<'_>, attributes: &[Attribute<'_>]) -> bool {
        let (Ok(trace_id), Ok(span_id)) = (id::<16>(link.trace_id, "trace id"), id::<8>(link.span_id, "span id"))
        else {
            return false;
        };
        self.trace_id.set(self.links, trace_id);
        self.span_id.set(self.links, span_id);
        if !link.trace_state.is_empty() {
            self.trace_state.set(self.links, link.trace_state);
        }
        self.attributes.append_unsorted(&mut inner(attributes, link.dropped_attributes_count));
        self.links += 1;
        true
    }

    /// None if no row has any.
    fn finish(self) -> Option<ArrayRef> {
        if self.lists.is_absent() {
            return None;
        }
        let children: Vec<ArrayRef> = vec![
            self.trace_id.finish(self.links),
            self.span_id.finish(self.links),
            self.trace_state.finish(self.links),
            self.attributes.finish(),
        ];
        Some(self.lists.finish(span_link_fields(), children))
    }
}
