//! What holds for any bytes: no panic, every record accounted for, damage noticed or harmless.

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::logs::Logs;
use super::super::spans::Spans;
use super::super::{Sink, wire};
use super::*;

fn any_value() -> impl Strategy<Value = Option<AnyValue>> {
    let leaf = prop_oneof![
        Just(None),
        ".{0,8}".prop_map(|text| Some(any_value::Value::StringValue(text))),
        any::<i64>().prop_map(|number| Some(any_value::Value::IntValue(number))),
        proptest::num::f64::ANY
            .prop_filter("JSON has no other", |number| number.is_finite())
            .prop_map(|number| Some(any_value::Value::DoubleValue(number))),
        any::<bool>().prop_map(|flag| Some(any_value::Value::BoolValue(flag))),
        vec(any::<u8>(), 0..8).prop_map(|bytes| Some(any_value::Value::BytesValue(bytes))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| any_value::Value::ArrayValue(ArrayValue { values })),
            vec(("[a-c.]{0,3}", inner), 0..4).prop_map(|pairs| {
                let values = pairs.into_iter().map(|(key, value)| pair(key, Some(value))).collect();
                any_value::Value::KvlistValue(KeyValueList { values })
            }),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
    .prop_map(Some)
}

fn pair(key: String, value: Option<AnyValue>) -> KeyValue {
    KeyValue { key, value, ..KeyValue::default() }
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let keys = lariat_schema::attributes::ALL.iter().map(|attribute| attribute.key.to_owned()).collect::<Vec<_>>();
    let key = prop_oneof![proptest::sample::select(keys), "[a-z.]{0,6}"];
    vec((key, any_value()).prop_map(|(key, value)| pair(key, value)), 0..6)
}

fn span() -> impl Strategy<Value = Span> {
    let id =
        |length| prop_oneof![4 => vec(any::<u8>(), length), 1 => vec(Just(0), length), 1 => vec(any::<u8>(), 0..20)];
    let name = prop_oneof![Just("lariat.decision".to_owned()), "[a-z]{0,4}"];
    let event = (any::<u64>(), name, attributes()).prop_map(|(time_unix_nano, name, attributes)| Event {
        time_unix_nano,
        name,
        attributes,
        ..Event::default()
    });
    let time = prop_oneof![4 => 1..2_000_000_000_000_000_000_u64, 1 => any::<u64>()];
    let link = (id(16), id(8), "[a-z=]{0,4}", attributes(), 0..3_u32).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            ..Link::default()
        },
    );
    let status = (0..4_i32, "[a-z]{0,3}").prop_map(|(code, message)| Status { message, code });
    let rest = (vec(link, 0..3), proptest::option::of(status), any::<u32>());
    (id(16), id(8), "[ -~]{0,12}", -1..9_i32, time.clone(), time, attributes(), vec(event, 0..3), rest).prop_map(
        |(trace_id, span_id, name, kind, start_time_unix_nano, end_time_unix_nano, attributes, events, rest)| Span {
            links: rest.0,
            status: rest.1,
            flags: rest.2,
            trace_id,
            span_id,
            trace_state: name.clone(),
            name,
            kind,
            start_time_unix_nano,
            end_time_unix_nano,
            attributes,
            events,
            ..Span::default()
        },
    )
}

pub(super) fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let scope = vec(span(), 0..4).prop_map(|spans| ScopeSpans { spans, ..ScopeSpans::default() });
    let resource = (attributes(), vec(scope, 0..3)).prop_map(|(attributes, scope_spans)| ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans,
        ..ResourceSpans::default()
    });
    vec(resource, 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

/// Spans as they were read if each became an object first.
struct ByObjects<'a>(Spans<'a>);

impl<'a> Sink<'a> for ByObjects<'a> {
    type Record = Span;

    fn resource(&mut self, resource: &Resource) {
        self.0.resource(resource);
    }

    fn scope(&mut self, scope: &InstrumentationScope) {
        self.0.scope(scope);
    }

    fn record(&mut self, span: &Span, encoded: &[u8]) {
        self.0.record(span, encoded);
    }

    fn refuse_outsized(&mut self) {
        self.0.refuse_outsized();
    }
}

/// Reads the body where it lies and by way of objects, which must come to the same.
fn in_both_ways(body: &[u8], trusted: bool) -> Result<(), TestCaseError> {
    let (mut direct, mut objects) = (Spans::new(trusted, NOW), ByObjects(Spans::new(trusted, NOW)));
    let read = (wire::walk(body, &mut direct), wire::walk(body, &mut objects));
    prop_assert_eq!(&read.0, &read.1);
    if read.0.is_ok() {
        let (direct, objects) = (direct.finish(None), objects.0.finish(None));
        // As text: a NaN is not equal to itself.
        prop_assert_eq!(format!("{:?}", direct.batch), format!("{:?}", objects.batch));
        prop_assert_eq!(direct.keys, objects.keys);
        prop_assert_eq!(direct.contents, objects.contents);
        prop_assert_eq!((direct.rejected, direct.reason), (objects.rejected, objects.reason));
        prop_assert_eq!(direct.malformed_selections, objects.malformed_selections);
    }
    Ok(())
}

/// Log records as they were read if each became an object first.
struct LogsByObjects<'a>(Logs<'a>);

impl<'a> Sink<'a> for LogsByObjects<'a> {
    type Record = LogRecord;

    fn resource(&mut self, resource: &Resource) {
        self.0.resource(resource);
    }

    fn scope(&mut self, scope: &InstrumentationScope) {
        self.0.scope(scope);
    }

    fn record(&mut self, log: &LogRecord, encoded: &[u8]) {
        self.0.record(log, encoded);
    }

    fn refuse_outsized(&mut self) {
        self.0.refuse_outsized();
    }
}

/// The same as [`in_both_ways`] for log records.
fn logs_in_both_ways(body: &[u8]) -> Result<(), TestCaseError> {
    let (mut direct, mut objects) = (Logs::new(true, NOW), LogsByObjects(Logs::new(true, NOW)));
    let read = (wire::walk(body, &mut direct), wire::walk(body, &mut objects));
    prop_assert_eq!(&read.0, &read.1);
    if read.0.is_ok() {
        let (direct, objects) = (direct.finish(None), objects.0.finish(None));
        prop_assert_eq!(format!("{:?}", direct.batch), format!("{:?}", objects.batch));
        prop_assert_eq!((direct.keys, direct.contents), (objects.keys, objects.contents));
        prop_assert_eq!((direct.rejected, direct.reason), (objects.rejected, objects.reason));
    }
    Ok(())
}

fn log() -> impl Strategy<Value = LogRecord> {
    let id = |length| prop_oneof![2 => vec(any::<u8>(), length), 1 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..20)];
    let time = || prop_oneof![4 => 1..2_000_000_000_000_000_000_u64, 1 => any::<u64>(), 1 => Just(0)];
    let texts = ("[a-z]{0,4}", "[a-z.]{0,6}");
    (time(), time(), any::<i32>(), texts, any_value(), attributes(), id(16), id(8), 0..3_u32).prop_map(
        |(
            time_unix_nano,
            observed_time_unix_nano,
            severity_number,
            texts,
            body,
            attributes,
            trace_id,
            span_id,
            dropped,
        )| {
            LogRecord {
                time_unix_nano,
                observed_time_unix_nano,
                severity_number,
                severity_text: texts.0,
                event_name: texts.1,
                body,
                attributes,
                trace_id,
                span_id,
                dropped_attributes_count: dropped,
                ..LogRecord::default()
            }
        },
    )
}

/// A request with one record: these bytes.
fn around(record: &[u8]) -> Vec<u8> {
    let wrap = |tag: u8, bytes: &[u8]| {
        let mut message = vec![tag << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut message);
        message.extend_from_slice(bytes);
        message
    };
    wrap(1, &wrap(2, &wrap(2, record)))
}

fn records(request: &ExportTraceServiceRequest) -> u64 {
    request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len() as u64).sum()
}

const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];
const ENCODINGS: [Encoding; 2] = [Encoding::Protobuf, Encoding::Json];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_record_of_a_request_is_a_row_or_rejected_in_both_encodings(request in request()) {
        let protobuf = request.encode_to_vec();
        let json = serde_json::to_vec(&request).unwrap();
        let from_protobuf = decode(&protobuf, form(Signal::Traces, Encoding::Protobuf), NOW).unwrap().decoded;
        let from_json = decode(&json, form(Signal::Traces, Encoding::Json), NOW).unwrap().decoded;
        prop_assert_eq!(from_protobuf.batch.num_rows() as u64 + from_protobuf.rejected, records(&request));
        prop_assert_eq!(from_protobuf.keys.len(), from_protobuf.batch.num_rows());
        prop_assert_eq!(from_protobuf.contents.len(), from_protobuf.batch.num_rows());
        prop_assert_eq!(&from_protobuf.batch, &from_json.batch);
        prop_assert_eq!(&from_protobuf.contents, &from_json.contents);
    }

    #[test]
    fn a_span_is_read_where_it_lies_as_it_is_read_as_an_object(
        request in request(), at in any::<proptest::sample::Index>(), byte in any::<u8>(), trusted in any::<bool>()
    ) {
        let mut body = request.encode_to_vec();
        in_both_ways(&body, trusted)?;
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = byte;
            in_both_ways(&body, trusted)?;
        }
    }

    #[test]
    fn a_span_whose_fields_stand_twice_or_are_unknown_is_read_as_an_object_is(
        first in span(), second in span(), unknown in vec(any::<u8>(), 0..12)
    ) {
        // Protobuf merges what stands twice: the later number counts, and messages are joined.
        let mut record = first.encode_to_vec();
        record.extend_from_slice(&second.encode_to_vec());
        in_both_ways(&around(&record), true)?;
        record.extend_from_slice(&unknown);
        in_both_ways(&around(&record), true)?;
        // The same with a value of an attribute.
        if let (Some(first), Some(second)) = (first.attributes.first(), second.attributes.first()) {
            let mut pair = first.encode_to_vec();
            pair.extend_from_slice(&second.encode_to_vec());
            let mut record = good().encode_to_vec();
            record.push(9 << 3 | 2);
            prost::encoding::encode_varint(pair.len() as u64, &mut record);
            record.extend_from_slice(&pair);
            in_both_ways(&around(&record), true)?;
        }
    }

    #[test]
    fn a_log_record_is_read_where_it_lies_as_it_is_read_as_an_object(
        first in log(), second in log(), at in any::<proptest::sample::Index>(), byte in any::<u8>()
    ) {
        let mut record = first.encode_to_vec();
        logs_in_both_ways(&around(&record))?;
        record.extend_from_slice(&second.encode_to_vec());
        logs_in_both_ways(&around(&record))?;
        let mut body = around(&first.encode_to_vec());
        let at = at.index(body.len());
        body[at] = byte;
        logs_in_both_ways(&body)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        for signal in SIGNALS {
            for encoding in ENCODINGS {
                if let Ok(decoding) = decode(&bytes, form(signal, encoding), NOW) {
                    prop_assert_eq!(decoding.decoded.keys.len(), decoding.decoded.batch.num_rows());
                }
            }
        }
    }

    #[test]
    fn a_cut_or_flipped_body_is_refused_or_still_accounts_for_all_it_holds(
        request in request(), cut in any::<proptest::sample::Index>(), bit in 0..8_u8, flip in any::<bool>()
    ) {
        for (encoding, mut body) in
            [(Encoding::Protobuf, request.encode_to_vec()), (Encoding::Json, serde_json::to_vec(&request).unwrap())]
        {
            if body.is_empty() {
                continue;
            }
            let at = cut.index(body.len());
            if flip { body[at] ^= 1 << bit } else { body.truncate(at) }
            match decode(&body, form(Signal::Traces, encoding), NOW) {
                Err(malformed) => prop_assert!(!malformed.to_string().is_empty()),
                Ok(decoding) if encoding == Encoding::Protobuf => {
                    let read = ExportTraceServiceRequest::decode(&body[..]);
                    prop_assert!(read.is_ok(), "accepted what prost refuses: {:?}", read);
                    let decoded = decoding.decoded;
                    prop_assert_eq!(decoded.batch.num_rows() as u64 + decoded.rejected, records(&read.unwrap()));
                }
                Ok(_) => prop_assert!(flip, "JSON that was cut was accepted"),
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed_to_the_end_of_the_stack() {
    let deep = format!("{}1{}", r#"{"arrayValue":{"values":["#.repeat(50_000), "]}}".repeat(50_000));
    let json =
        format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"timeUnixNano":"1","body":{deep}}}]}}]}}]}}"#);
    assert!(decode(json.as_bytes(), form(Signal::Logs, Encoding::Json), NOW).is_err());
    let mut value = AnyValue { value: None };
    for _ in 0..200 {
        value = AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values: vec![value] })) };
    }
    let spans = vec![Span { attributes: vec![pair("deep".to_owned(), Some(value))], ..Span::default() }];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
    assert!(decode(&request.encode_to_vec(), form(Signal::Traces, Encoding::Protobuf), NOW).is_err());
}

/// A span that is accepted.
fn good() -> Span {
    Span { trace_id: vec![1; 16], span_id: vec![1; 8], start_time_unix_nano: 1, ..Span::default() }
}

#[test]
fn values_that_are_nested_deeper_than_is_scanned_are_read_as_objects_are() {
    for depth in [1, 14, 15, 16, 17, 18, 40] {
        let mut value = AnyValue { value: Some(any_value::Value::IntValue(7)) };
        for _ in 0..depth {
            value = AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values: vec![value] })) };
        }
        let span = Span { attributes: vec![pair("deep".to_owned(), Some(value))], ..good() };
        let body = around(&span.encode_to_vec());
        in_both_ways(&body, true).unwrap();
        let decoded = decode(&body, form(Signal::Traces, Encoding::Protobuf), NOW).unwrap().decoded;
        let text = rows(&decoded)[0]["attributes"]["deep"].to_string();
        assert_eq!(text.matches('[').count(), depth, "{text}");
    }
}

#[test]
fn null_stands_for_absent_and_an_empty_object_for_an_empty_request() {
    for signal in SIGNALS {
        let decoded = decode(b"{}", form(signal, Encoding::Json), NOW).unwrap().decoded;
        assert_eq!((decoded.batch.num_rows(), decoded.rejected), (0, 0));
    }
    let request = json!({"resourceLogs": [{"resource": null, "scopeLogs": [{"logRecords": [
        {"timeUnixNano": AT, "attributes": null, "body": {"stringValue": "x"}}]}]}]});
    let decoded = decode(request.to_string().as_bytes(), form(Signal::Logs, Encoding::Json), NOW).unwrap().decoded;
    assert_eq!(decoded.batch.num_rows(), 1);
    assert!(decode(b"[]", form(Signal::Logs, Encoding::Json), NOW).is_err());
    assert!(decode(b"null", form(Signal::Logs, Encoding::Json), NOW).is_err());
}

#[test]
fn a_record_of_two_million_empty_parts_is_rejected_and_its_neighbour_stays() {
    let good = Span {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        start_time_unix_nano: 1,
        events: vec![Event::default(); 40_000],
        ..Span::default()
    };
    let bomb = Span { events: vec![Event::default(); 2_000_000], ..good.clone() };
    let scope_spans = vec![ScopeSpans { spans: vec![bomb, good], ..ScopeSpans::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
    let decoded = decode(&request.encode_to_vec(), form(Signal::Traces, Encoding::Protobuf), NOW).unwrap().decoded;
    assert_eq!((decoded.batch.num_rows(), decoded.rejected), (1, 1));
    assert!(decoded.reason.unwrap().contains("parts"));
}

/// A request with a metric of each kind, to be damaged.
fn metrics() -> ExportMetricsServiceRequest {
    let number = json!({"dataPoints": [{"timeUnixNano": AT, "asDouble": 1.0, "attributes": [text("k", "v")]}], "aggregationTemporality": 2});
    let histogram =
        json!({"dataPoints": [{"timeUnixNano": AT, "count": "1", "sum": 1.0}], "aggregationTemporality": 1});
    let gauge = json!({"dataPoints": [{"timeUnixNano": AT, "asInt": "1"}, {"timeUnixNano": AT, "asInt": "2"}]});
    let summary = json!({"dataPoints": [{"timeUnixNano": AT, "count": "1", "sum": 1.0}]});
    let request = json!({"resourceMetrics": [{"resource": node(), "scopeMetrics": [{"metrics": [
        {"name": "a", "gauge": gauge}, {"name": "b", "sum": number}, {"name": "c", "histogram": histogram},
        {"name": "d", "exponentialHistogram": histogram}, {"name": "e", "summary": summary}]}]}]});
    serde_json::from_value(request).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_metrics_are_read_as_protobuf_reads_them(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut body = metrics().encode_to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let walked = decode(&body, form(Signal::Metrics, Encoding::Protobuf), NOW);
        let whole = ExportMetricsServiceRequest::decode(&body[..]);
        prop_assert_eq!(walked.is_ok(), whole.is_ok(), "{:?}", walked.err());
        if let (Ok(walked), Ok(whole)) = (walked, whole)
            && let Ok(json) = serde_json::to_vec(&whole)
            // JSON has no NaN and no infinity: what it cannot carry cannot be compared.
            && serde_json::from_slice::<ExportMetricsServiceRequest>(&json).is_ok_and(|carried| carried == whole)
            && let Ok(from_json) = decode(&json, form(Signal::Metrics, Encoding::Json), NOW)
        {
            let (walked, read) = (walked.decoded, from_json.decoded);
            prop_assert_eq!(walked.rejected, read.rejected);
            prop_assert_eq!(walked.keys, read.keys);
        }
    }
}
