//! A request encoded once, and the places in it that differ from request to request: ids, times, request ids and
//! sequence numbers are patched into a copy. Encoding each request anew was rejected, since the generator would then
//! need more processor than what it loads. The places are found by markers in the encoded bytes; a number is patched
//! as a varint of five bytes, which every protobuf reader takes.

use clap::ValueEnum;
use prost::Message;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SpanSettings;
use super::ids::{request_id, span_id, trace_id};
use super::spans;

/// First four bytes of each kind of marker, followed by its index.
const TRACE_TAG: [u8; 4] = *b"LtR\x01";
const SPAN_TAG: [u8; 4] = *b"LsP\x02";
const START_TAG: [u8; 4] = *b"LsT\x03";
const END_TAG: [u8; 4] = *b"LeN\x04";
const REQUEST_TAG: [u8; 4] = *b"LrQ\x05";
/// A number whose varint takes exactly five bytes, below every index added to it.
const SEQUENCE_BASE: u64 = 1 << 34;
/// Bytes of a patched varint.
const SEQUENCE_BYTES: usize = 5;
/// Tag of `int_value` in OTLP's `AnyValue`, which precedes it.
const INT_VALUE_TAG: u8 = 0x18;

/// What the spans are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Spans of a web service, one trace each.
    Plain,
    /// Lariat's decisions: a SERVER span with its event and a CLIENT span per attempt.
    Decisions,
}

/// A place that is patched, with the number of the unit or span that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Trace(u32),
    Span(u32),
    Start(u32),
    End(u32),
    RequestId(u32),
    Sequence(u32),
}

impl Marker {
    /// The marker as an id.
    pub(super) fn bytes(self) -> Vec<u8> {
        let (tag, index, length) = match self {
            Self::Trace(i) => (TRACE_TAG, i, 16),
            Self::Span(i) => (SPAN_TAG, i, 8),
            Self::Start(i) => (START_TAG, i, 8),
            Self::End(i) => (END_TAG, i, 8),
            Self::RequestId(i) | Self::Sequence(i) => (REQUEST_TAG, i, 8),
        };
        let mut bytes = tag.to_vec();
        bytes.extend(index.to_be_bytes());
        bytes.resize(length, 0);
        bytes
    }

    /// The marker as a time.
    pub(super) fn fixed64(self) -> u64 {
        u64::from_le_bytes(self.bytes()[..8].try_into().unwrap_or_default())
    }

    /// The marker as a text as long as a hyphenated UUID.
    pub(super) fn text(self) -> String {
        format!("{:~<36}", format!("~{}", hex::encode(self.bytes())))
    }

    /// The marker as a number.
    pub(super) fn int(self) -> i64 {
        let index = if let Self::Sequence(i) = self { i } else { 0 };
        i64::try_from(SEQUENCE_BASE + u64::from(index)).unwrap_or(i64::MAX)
    }
}

/// When and as what a request is stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// What the ids are made of.
    pub seed: u64,
    /// Number of the request.
    pub request: u64,
    /// When its last span ended, Unix nanoseconds.
    pub now_unix_nanos: u64,
}

/// An encoded request with its places.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    places: Vec<(usize, Marker)>,
    spans: u32,
    units: u32,
}

impl Template {
    /// A request of at least `spans` spans.
    #[must_use]
    pub fn new(settings: &SpanSettings, spans: u32, boot_id: Uuid) -> Self {
        let request = spans::request(settings, spans.max(1), &boot_id.to_string());
        let list = request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans);
        let (mut spans, mut units) = (0, 0);
        for span in list {
            spans += 1;
            units += u32::from(span.parent_span_id.is_empty());
        }
        let bytes = request.encode_to_vec();
        let places = places(&bytes);
        Self { bytes, places, spans, units }
    }

    /// Spans in a request.
    #[must_use]
    pub fn spans(&self) -> u32 {
        self.spans
    }

    /// Decision units in a request: traces.
    #[must_use]
    pub fn units(&self) -> u32 {
        self.units
    }

    /// Bytes of a request before compression.
    #[must_use]
    pub fn bytes_per_request(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of one request: unlike those of any other number, the same for the same stamp.
    #[must_use]
    pub fn stamp(&self, stamp: Stamp) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (at, marker) in &self.places {
            let place = &mut bytes[*at..];
            match *marker {
                Marker::Trace(unit) => place[..16].copy_from_slice(&trace_id(stamp.seed, stamp.request, unit)),
                Marker::Span(span) => place[..8].copy_from_slice(&span_id(stamp.seed, stamp.request, span)),
                Marker::Start(span) => {
                    place[..8].copy_from_slice(&(stamp.end_of(span) - duration_ns(stamp, span)).to_le_bytes());
                }
                Marker::End(span) => place[..8].copy_from_slice(&stamp.end_of(span).to_le_bytes()),
                Marker::RequestId(unit) => {
                    let trace_id = trace_id(stamp.seed, stamp.request, unit);
                    let id = Uuid::from_bytes(request_id(trace_id, stamp.now_unix_nanos));
                    id.hyphenated().encode_lower(&mut place[..36]);
                }
                Marker::Sequence(unit) => {
                    let sequence = stamp.request * u64::from(self.units) + u64::from(unit) + 1;
                    place[..SEQUENCE_BYTES].copy_from_slice(&padded_varint(sequence));
                }
            }
        }
        bytes
    }
}

impl Stamp {
    fn end_of(self, span: u32) -> u64 {
        self.now_unix_nanos.saturating_sub(u64::from(span) * 1_000).max(1 << 40)
    }
}

/// Between one and about fifty milliseconds, by the span's own id.
fn duration_ns(stamp: Stamp, span: u32) -> u64 {
    let id = span_id(stamp.seed, stamp.request, span);
    1_000_000 + (u64::from(id[0]) * u64::from(id[1])) * 750
}

/// A varint padded to its full place: five groups of seven bits, of which only the last ends the number.
fn padded_varint(value: u64) -> [u8; SEQUENCE_BYTES] {
    let mut bytes = [0x80; SEQUENCE_BYTES];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte |= u8::try_from((value >> (7 * i)) & 0x7f).unwrap_or(0);
    }
    bytes[SEQUENCE_BYTES - 1] &= 0x7f;
    bytes
}

/// Finds every marker.
fn places(bytes: &[u8]) -> Vec<(usize, Marker)> {
    let request_tag = hex::encode(REQUEST_TAG);
    let mut places = Vec::new();
    for at in 0..bytes.len() {
        let rest = &bytes[at..];
        let index = |from: usize| rest.get(from..from + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let found = match rest.get(..4) {
            Some(tag) if tag == TRACE_TAG => index(4).map(Marker::Trace),
            Some(tag) if tag == SPAN_TAG => index(4).map(Marker::Span),
            Some(tag) if tag == START_TAG => index(4).map(Marker::Start),
            Some(tag) if tag == END_TAG => index(4).map(Marker::End),
            Some([b'~', ..]) if rest[1..].starts_with(request_tag.as_bytes()) => {
                let digits = rest.get(9..17).and_then(|digits| std::str::from_utf8(digits).ok());
                digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(Marker::RequestId)
            }
            _ => None,
        };
        if let Some(marker) = found {
            places.push((at, marker));
        } else if rest[0] == INT_VALUE_TAG
            && let Some(unit) = sequence_at(&rest[1..])
        {
            places.push((at + 1, Marker::Sequence(unit)));
        }
    }
    places
}

fn sequence_at(bytes: &[u8]) -> Option<u32> {
    let (last, first) = bytes.get(..SEQUENCE_BYTES)?.split_last()?;
    if last & 0x80 != 0 || first.iter().any(|byte| byte & 0x80 == 0) {
        return None;
    }
    let low = first.iter().rev().fold(u64::from(*last), |value, byte| (value << 7) | u64::from(byte & 0x7f));
    u32::try_from(low.checked_sub(SEQUENCE_BASE)?).ok().filter(|index| *index < u32::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lariat_schema::attributes as a;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use std::collections::HashSet;

    const STAMP: Stamp = Stamp { seed: 9, request: 0, now_unix_nanos: 1_790_000_000_000_000_000 };

    fn template(content: Content, spans: u32) -> Template {
        Template::new(&SpanSettings { content, ..SpanSettings::default() }, spans, Uuid::nil())
    }

    fn spans_of(bytes: &[u8]) -> Vec<Span> {
        let request = ExportTraceServiceRequest::decode(bytes).unwrap();
        request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans).collect()
    }

    fn attribute(span: &Span, key: &str) -> Option<Value> {
        span.attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value
    }

    #[test]
    fn plain_spans_are_of_the_size_that_the_figures_speak_of_and_unique() {
        let template = template(Content::Plain, 100);
        let per_span = template.bytes_per_request() / 100;
        assert!((280..330).contains(&per_span), "{per_span} bytes per span");
        let mut ids = HashSet::new();
        for request in 0..20 {
            for span in spans_of(&template.stamp(Stamp { request, ..STAMP })) {
                assert!(ids.insert((span.trace_id, span.span_id)));
                assert_eq!(span.attributes.len(), 8);
                assert!(span.start_time_unix_nano < span.end_time_unix_nano);
                assert!(span.end_time_unix_nano.abs_diff(STAMP.now_unix_nanos) < 1_000_000_000);
            }
        }
        assert_eq!(ids.len(), 2_000);
    }

    #[test]
    fn decisions_have_whole_sequences_and_attempts_under_their_decision() {
        let template = template(Content::Decisions, 200);
        let mut sequences = Vec::new();
        for request in 0..3 {
            let spans = spans_of(&template.stamp(Stamp { request, ..STAMP }));
            assert_eq!(spans.len(), template.spans() as usize);
            let (roots, attempts): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|s| s.parent_span_id.is_empty());
            assert_eq!(roots.len(), template.units() as usize);
            for root in &roots {
                let Some(Value::IntValue(sequence)) = attribute(root, a::DECISION_SEQ) else { panic!("no sequence") };
                sequences.push(sequence);
                let trace_id = root.trace_id.as_slice().try_into().unwrap();
                let id = Uuid::from_bytes(request_id(trace_id, STAMP.now_unix_nanos));
                assert_eq!(attribute(root, a::REQUEST_ID), Some(Value::StringValue(id.to_string())));
                let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
                let at_ms = seconds * 1_000 + u64::from(nanos) / 1_000_000;
                assert_eq!((id.get_version_num(), at_ms), (7, STAMP.now_unix_nanos / 1_000_000));
                assert_eq!(root.events[0].name, lariat_schema::events::DECISION);
                assert_eq!(root.events[0].time_unix_nano, root.start_time_unix_nano);
            }
            for attempt in attempts {
                let root = roots.iter().find(|root| root.span_id == attempt.parent_span_id).unwrap();
                assert_eq!(root.trace_id, attempt.trace_id);
                assert_eq!(attribute(root, a::REQUEST_ID), attribute(attempt, a::REQUEST_ID));
            }
        }
        assert_eq!(sequences, (1..=i64::from(template.units()) * 3).collect::<Vec<_>>());
    }

    #[test]
    fn the_same_stamp_makes_the_same_bytes() {
        let template = template(Content::Decisions, 50);
        assert_eq!(template.stamp(STAMP), template.stamp(STAMP));
    }
}
