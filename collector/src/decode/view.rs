//! A record as it lies in the bytes of its request: numbers, and slices that are borrowed. Nothing is copied, and the
//! room for a record's parts is used again for the next one.
//!
//! Both encodings end here, protobuf by [`super::scan`] and JSON by way of its objects, so that a row can only be made
//! in one way.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Object;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::Value as Json;

use super::scan;
use super::seen::Seen;

/// A value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// None, or of a kind that has no text.
    Absent,
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    Nested(Nested<'a>),
}

/// An array or a map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Nested<'a> {
    /// The bytes of an `ArrayValue`, scanned.
    Array(&'a [u8]),
    /// The bytes of a `KeyValueList`, scanned.
    Map(&'a [u8]),
    /// Either, from JSON.
    Object(&'a Object),
}

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Attribute<'a> {
    pub(super) key: &'a str,
    pub(super) value: Value<'a>,
    /// The same for keys that are the same; 0 of a key that has none.
    pub(super) number: u16,
}

impl<'a> Attribute<'a> {
    pub(super) fn new(key: &'a str, value: Value<'a>) -> Self {
        Self { key, value, number: 0 }
    }

    pub(super) fn of(pair: &'a KeyValue) -> Self {
        Self::new(&pair.key, Value::of(pair.value.as_ref()))
    }
}

impl<'a> Value<'a> {
    pub(super) fn of(value: Option<&'a AnyValue>) -> Self {
        match value.and_then(|any| any.value.as_ref()) {
            None | Some(Object::StringValueStrindex(_)) => Self::Absent,
            Some(Object::StringValue(text)) => Self::Text(text),
            Some(Object::BoolValue(flag)) => Self::Bool(*flag),
            Some(Object::IntValue(number)) => Self::Int(*number),
            Some(Object::DoubleValue(number)) => Self::Double(*number),
            Some(Object::BytesValue(bytes)) => Self::Bytes(bytes),
            Some(nested @ (Object::ArrayValue(_) | Object::KvlistValue(_))) => Self::Nested(Nested::Object(nested)),
        }
    }

    /// The value as text; none for an absent one. What is no text is written as JSON, bytes as base64, as
    /// OpenTelemetry's mapping to other formats has them.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        Some(match self {
            Self::Absent => return None,
            Self::Text(text) => Cow::Borrowed(text),
            Self::Bool(true) => Cow::Borrowed("true"),
            Self::Bool(false) => Cow::Borrowed("false"),
            Self::Int(number) => Cow::Owned(number.to_string()),
            Self::Double(number) => Cow::Owned(double(number)),
            Self::Bytes(bytes) => Cow::Owned(BASE64.encode(bytes)),
            Self::Nested(nested) => Cow::Owned(nested.json().to_string()),
        })
    }

    /// Writes the same behind `out`; nothing for an absent one.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Absent => {}
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Int(number) => digits(number, out),
            other => out.extend_from_slice(other.text().unwrap_or_default().as_bytes()),
        }
    }

    pub(super) fn as_text(self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// A number; some senders write whole ones without a point.
    #[allow(clippy::cast_precision_loss, reason = "a float of a count is exact up to 2^53")]
    pub(super) fn as_double(self) -> Option<f64> {
        match self {
            Self::Double(number) => Some(number),
            Self::Int(number) => Some(number as f64),
            _ => None,
        }
    }

    /// Calls `on` with each element of an array until it returns `None`; `None` also if it is no array.
    pub(super) fn elements(self, mut on: impl FnMut(Value<'a>) -> Option<()>) -> Option<()> {
        match self {
            Self::Nested(Nested::Array(bytes)) => scan::elements(bytes, on),
            Self::Nested(Nested::Object(Object::ArrayValue(array))) => {
                array.values.iter().try_for_each(|value| on(Value::of(Some(value))))
            }
            _ => None,
        }
    }
}

impl Nested<'_> {
    /// Scanned bytes are a message; depth is bounded by the decoders: 16 levels scanned, 100 of protobuf, 128 of JSON.
    fn json(self) -> Json {
        match self {
            Self::Array(bytes) => {
                ArrayValue::decode(bytes).map_or(Json::Null, |array| json(&Object::ArrayValue(array)))
            }
            Self::Map(bytes) => KeyValueList::decode(bytes).map_or(Json::Null, |list| json(&Object::KvlistValue(list))),
            Self::Object(object) => json(object),
        }
    }
}

/// Writes a number behind `out`. Formatting it by the standard library takes several times as long, for a text of a few bytes.
fn digits(number: i64, out: &mut Vec<u8>) {
    /// As many bytes as the longest number takes.
    const LONGEST: usize = 20;
    let mut text = [0; LONGEST];
    let (mut at, mut rest) = (LONGEST, number.unsigned_abs());
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&text[at..]);
}

/// The number in JSON; `NaN`, `Infinity` and `-Infinity`, which JSON lacks, by the names that protobuf's JSON has.
fn double(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else {
        Json::from(number).to_string()
    }
}

fn json(value: &Object) -> Json {
    let any = |value: Option<&AnyValue>| value.and_then(|any| any.value.as_ref()).map_or(Json::Null, json);
    match value {
        Object::StringValue(text) => Json::from(text.as_str()),
        Object::BoolValue(flag) => Json::from(*flag),
        Object::IntValue(number) => Json::from(*number),
        Object::DoubleValue(number) if number.is_finite() => Json::from(*number),
        Object::DoubleValue(number) => Json::from(double(*number)),
        Object::BytesValue(bytes) => Json::from(BASE64.encode(bytes)),
        Object::ArrayValue(array) => array.values.iter().map(|value| any(Some(value))).collect(),
        Object::KvlistValue(list) => {
            Json::Object(list.values.iter().map(|pair| (pair.key.clone(), any(pair.value.as_ref()))).collect())
        }
        Object::StringValueStrindex(_) => Json::Null,
    }
}

/// A span.
#[derive(Debug, Default)]
pub(super) struct SpanView<'a> {
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    pub(super) parent_span_id: &'a [u8],
    pub(super) trace_state: &'a str,
    pub(super) name: &'a str,
    pub(super) kind: i32,
    pub(super) start_time_unix_nano: u64,
    pub(super) end_time_unix_nano: u64,
    pub(super) flags: u32,
    pub(super) status_code: i32,
    pub(super) status_message: &'a str,
    pub(super) dropped_attributes_count: u32,
    pub(super) dropped_events_count: u32,
    pub(super) dropped_links_count: u32,
    pub(super) attributes: Vec<Attribute<'a>>,
    pub(super) events: Vec<EventView<'a>>,
    pub(super) links: Vec<LinkView<'a>>,
    /// Attributes of events and links.
    pub(super) inner: Vec<Attribute<'a>>,
    /// What the spans before had.
    pub(super) seen: Seen<'a>,
    pub(super) seen_of_events: Seen<'a>,
    pub(super) last_name: &'a str,
}

/// A log record.
#[derive(Debug)]
pub(super) struct LogView<'a> {
    pub(super) time_unix_nano: u64,
    pub(super) observed_time_unix_nano: u64,
    pub(super) severity_number: i32,
    pub(super) severity_text: &'a str,
    pub(super) event_name: &'a str,
    pub(super) body: Value<'a>,
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    pub(super) dropped_attributes_count: u32,
    pub(super) attributes: Vec<Attribute<'a>>,
    /// What the records before had.
    pub(super) seen: Seen<'a>,
}

impl Default for LogView<'_> {
    fn default() -> Self {
        Self {
            time_unix_nano: 0,
            observed_time_unix_nano: 0,
            severity_number: 0,
            severity_text: "",
            event_name: "",
            body: Value::Absent,
            trace_id: &[],
            span_id: &[],
            dropped_attributes_count: 0,
            attributes: Vec::new(),
            seen: Seen::default(),
        }
    }
}

impl<'a> LogView<'a> {
    /// The same, empty, with the room that its attributes took.
    pub(super) fn cleared(self) -> Self {
        let Self { mut attributes, seen, .. } = self;
        attributes.clear();
        Self { attributes, seen, ..Self::default() }
    }

    /// Of an object.
    pub(super) fn of(log: &'a LogRecord) -> Self {
        Self {
            time_unix_nano: log.time_unix_nano,
            observed_time_unix_nano: log.observed_time_unix_nano,
            severity_number: log.severity_number,
            severity_text: &log.severity_text,
            event_name: &log.event_name,
            body: Value::of(log.body.as_ref()),
            trace_id: &log.trace_id,
            span_id: &log.span_id,
            dropped_attributes_count: log.dropped_attributes_count,
            attributes: log.attributes.iter().map(Attribute::of).collect(),
            seen: Seen::default(),
        }
    }
}

/// An event of a span.
#[derive(Debug, Clone, Default)]
pub(super) struct EventView<'a> {
    pub(super) time_unix_nano: u64,
    pub(super) name: &'a str,
    pub(super) dropped_attributes_count: u32,
    /// Its attributes among [`SpanView::inner`].
    pub(super) attributes: Range<usize>,
}

/// A link of a span.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkView<'a> {
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    pub(super) trace_state: &'a str,
    pub(super) dropped_attributes_count: u32,
    /// Its attributes among [`SpanView::inner`].
    pub(super) attributes: Range<usize>,
}

impl<'a> SpanView<'a> {
    /// Empties it and keeps the room that its parts took, and what is known of the spans before.
    pub(super) fn clear(&mut self) {
        let Self { attributes, events, links, inner, .. } = self;
        attributes.clear();
        events.clear();
        links.clear();
        inner.clear();
        self.trace_id = &[];
        self.span_id = &[];
        self.parent_span_id = &[];
        (self.trace_state, self.name, self.status_message) = ("", "", "");
        (self.kind, self.status_code, self.flags) = (0, 0, 0);
        (self.start_time_unix_nano, self.end_time_unix_nano) = (0, 0);
        (self.dropped_attributes_count, self.dropped_events_count, self.dropped_links_count) = (0, 0, 0);
    }

    /// Of an object.
    pub(super) fn of(span: &'a Span) -> Self {
        let mut view = Self {
            trace_id: &span.trace_id,
            span_id: &span.span_id,
            parent_span_id: &span.parent_span_id,
            trace_state: &span.trace_state,
            name: &span.name,
            kind: span.kind,
            start_time_unix_nano: span.start_time_unix_nano,
            end_time_unix_nano: span.end_time_unix_nano,
            flags: span.flags,
            status_code: span.status.as_ref().map_or(0, |status| status.code),
            status_message: span.status.as_ref().map_or("", |status| &status.message),
            dropped_attributes_count: span.dropped_attributes_count,
            dropped_events_count: span.dropped_events_count,
            dropped_links_count: span.dropped_links_count,
            attributes: span.attributes.iter().map(Attribute::of).collect(),
            ..Self::default()
        };
        for event in &span.events {
            let attributes = view.push_inner(&event.attributes);
            view.events.push(EventView {
                time_unix_nano: event.time_unix_nano,
                name: &event.name,
                dropped_attributes_count: event.dropped_attributes_count,
                attributes,
            });
        }
        for link in &span.links {
            let attributes = view.push_inner(&link.attributes);
            view.links.push(LinkView {
                trace_id: &link.trace_id,
                span_id: &link.span_id,
                trace_state: &link.trace_state,
                dropped_attributes_count: link.dropped_attributes_count,
                attributes,
            });
        }
        view
    }

    fn push_inner(&mut self, attributes: &'a [KeyValue]) -> Range<usize> {
        let start = self.inner.len();
        self.inner.extend(attributes.iter().map(Attribute::of));
        start..self.inner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_does() {
        for number in [0, 7, -7, 10, 200, -8443, 1_234_567_890_123, i64::MAX, i64::MIN, i64::MIN + 1] {
            let mut out = b"=".to_vec();
            Value::Int(number).write(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("={number}"));
        }
    }
}
