//! JSON beside protobuf: the same rows whatever the order, the size or the digits, and no body that becomes much more
//! than itself.

use proptest::collection::vec;
use proptest::prelude::*;

use super::properties::request;
use super::*;
use crate::decode::protobuf_of_json;

fn from_json(signal: Signal, body: &str) -> Decoded {
    decode(body.as_bytes(), form(signal, Encoding::Json), NOW).unwrap().decoded
}

fn gauge(points: &[Value]) -> Value {
    json!({"resourceMetrics": [{"resource": node(), "scopeMetrics": [{"scope": {"name": "s"}, "metrics": [
        {"name": "load", "unit": "1", "gauge": {"dataPoints": points}}]}]}]})
}

#[test]
fn what_describes_may_stand_after_what_it_describes() {
    let span =
        json!({"traceId": "0192f0c48a5b7c3d9e1f0123456789ab", "spanId": "0000000000000001", "startTimeUnixNano": AT});
    let (resource, scope, spans) = (node(), json!({"name": "s"}), json!([span]));
    let first = format!(
        r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"scope":{scope},"spans":{spans}}}]}}]}}"#
    );
    let last = format!(
        r#"{{"x":[],"resourceSpans":[{{"schemaUrl":"u","scopeSpans":[{{"spans":{spans},"y":{{}},"scope":{scope}}}],"resource":{resource}}}]}}"#
    );
    let (first, last) = (from_json(Signal::Traces, &first), from_json(Signal::Traces, &last));
    assert_eq!(first.batch.num_rows(), 1);
    assert_eq!(first.batch, last.batch);
    for wrong in [
        r#"{"resourceSpans":[{"scopeSpans":[],"scopeSpans":[]}]}"#,
        r#"{"resourceSpans":[{"resource":{},"resource":{}}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[[]]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[null]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":{}}]}"#,
        r#"{"resourceSpans":[{"schemaUrl":7}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"scope":7}]}]}"#,
        r#"{"resourceSpans":[]}}"#,
    ] {
        assert!(decode(wrong.as_bytes(), form(Signal::Traces, Encoding::Json), NOW).is_err(), "{wrong}");
    }
    let empty =
        r#"{"resourceSpans":[{"resource":null,"scopeSpans":null,"schemaUrl":null},{"scopeSpans":[{"spans":null}]}]}"#;
    assert_eq!(from_json(Signal::Traces, empty).batch.num_rows(), 0);
}

#[test]
fn a_body_of_many_empty_records_is_rejected_one_by_one() {
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}{{}}]}}]}}]}}"#, "{},".repeat(199_999));
    let decoded = from_json(Signal::Traces, &body);
    assert_eq!((decoded.batch.num_rows(), decoded.rejected), (0, 200_000));
}

#[test]
fn a_record_of_json_with_a_million_empty_parts_is_rejected_and_its_neighbour_stays() {
    let record = |links: usize| {
        let links = vec!["{}"; links].join(",");
        format!(
            r#"{{"traceId":"0192f0c48a5b7c3d9e1f0123456789ab","spanId":"0000000000000001","startTimeUnixNano":"{AT}","links":[{links}]}}"#
        )
    };
    let body =
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{},{}]}}]}}]}}"#, record(1_000_000), record(40_000));
    let decoded = from_json(Signal::Traces, &body);
    assert_eq!((decoded.batch.num_rows(), decoded.rejected), (1, 1));
    assert!(decoded.reason.unwrap().contains("parts"));
}

#[test]
fn a_resource_of_a_million_empty_parts_is_refused_in_both_encodings() {
    let json = format!(r#"{{"resourceLogs":[{{"resource":{{"attributes":[{}{{}}]}}}}]}}"#, "{},".repeat(999_999));
    // A resource of so many attributes of no byte.
    let mut resource = Vec::new();
    prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut resource);
    prost::encoding::encode_varint(2_000_000, &mut resource);
    resource.extend_from_slice(&[0x0a, 0].repeat(1_000_000));
    let mut protobuf = Vec::new();
    prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut protobuf);
    prost::encoding::encode_varint(resource.len() as u64, &mut protobuf);
    protobuf.extend_from_slice(&resource);
    for (encoding, body) in [(Encoding::Json, json.as_bytes()), (Encoding::Protobuf, &protobuf[..])] {
        let error = decode(body, form(Signal::Logs, encoding), NOW).unwrap_err().to_string();
        assert!(error.contains("parts"), "{error}");
    }
}

#[test]
fn a_metric_of_many_points_is_the_same_as_one_by_one_and_in_protobuf() {
    let point = |at: usize| {
        json!({"timeUnixNano": (1_760_000_000_000_000_000_u64 + at as u64).to_string(), "asDouble": 0.1 * at as f64,
        "attributes": [text("k", &format!("{at}")), {"key": "d", "value": {"doubleValue": 1.0 / (at + 1) as f64}}]})
    };
    let points: Vec<Value> = (0..3_000).map(point).collect();
    assert!(gauge(&points).to_string().len() > 4 << 16);
    let large = from_json(Signal::Metrics, &gauge(&points).to_string());
    assert_eq!((large.batch.num_rows(), large.rejected), (3_000, 0));
    let protobuf = protobuf_of_json(Signal::Metrics, gauge(&points).to_string().as_bytes()).unwrap();
    let from_protobuf = decode(&protobuf, form(Signal::Metrics, Encoding::Protobuf), NOW).unwrap().decoded;
    assert_eq!(large.batch, from_protobuf.batch);
    assert_eq!((&large.keys, &large.contents), (&from_protobuf.keys, &from_protobuf.contents));
    let one = from_json(Signal::Metrics, &gauge(&points[7..8]).to_string());
    assert_eq!(one.keys[0], large.keys[7]);
    let text = gauge(&points).to_string();
    // What cannot be read is told with the metric's name, and null is absent.
    let bad = text.replacen("\"asDouble\":0.0", "\"flags\":\"x\",\"asDouble\":0.0", 1);
    let error = decode(bad.as_bytes(), form(Signal::Metrics, Encoding::Json), NOW).unwrap_err().to_string();
    assert!(error.contains("\"load\""), "{error}");
    let odd = text.replacen("\"gauge\":", "\"sum\":null,\"gauge\":", 1);
    assert_eq!(from_json(Signal::Metrics, &odd).batch, large.batch);
}

#[test]
fn every_kind_of_large_metric_keeps_what_stands_beside_its_points() {
    let many = |point: Value| vec![point; 2_000];
    let number = json!({"timeUnixNano": AT, "asDouble": 1.0, "attributes": [text("k", "v")]});
    let histogram =
        json!({"timeUnixNano": AT, "count": "1", "sum": 0.1, "bucketCounts": ["1", "0"], "explicitBounds": [0.1]});
    let exponential = json!({"timeUnixNano": AT, "count": "1", "sum": 0.1, "scale": 3, "positive": {"offset": 1, "bucketCounts": ["1"]}});
    let summary =
        json!({"timeUnixNano": AT, "count": "1", "sum": 0.1, "quantileValues": [{"quantile": 0.5, "value": 0.1}]});
    let request = json!({"resourceMetrics": [{"resource": node(), "scopeMetrics": [{"metrics": [
        {"name": "a", "sum": {"aggregationTemporality": 2, "dataPoints": many(number), "isMonotonic": true}},
        {"name": "b", "histogram": {"dataPoints": many(histogram), "aggregationTemporality": 1}},
        {"name": "c", "exponentialHistogram": {"dataPoints": many(exponential), "aggregationTemporality": 2}},
        {"name": "d", "summary": {"dataPoints": many(summary)}}]}]}]});
    both(Signal::Metrics, true, &request);
    let whole: ExportMetricsServiceRequest = serde_json::from_value(request.clone()).unwrap();
    assert_eq!(protobuf_of_json(Signal::Metrics, request.to_string().as_bytes()).unwrap(), whole.encode_to_vec());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_double_of_json_is_the_double_of_protobuf_to_the_last_bit(
        values in vec(proptest::num::f64::ANY.prop_filter("JSON has no other", |value| value.is_finite()), 1..40)
    ) {
        let points: Vec<Value> = values.iter().map(|value| json!({"timeUnixNano": AT, "asDouble": value})).collect();
        let decoded = from_json(Signal::Metrics, &gauge(&points).to_string());
        let found: Vec<u64> = crate::columns::doubles(&decoded.batch, "value").values().iter().map(|it| it.to_bits()).collect();
        let expected: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_json_request_as_protobuf_is_what_the_whole_message_would_be(request in request()) {
        let json = serde_json::to_vec(&request).unwrap();
        prop_assert_eq!(protobuf_of_json(Signal::Traces, &json).unwrap(), request.encode_to_vec());
    }
}
