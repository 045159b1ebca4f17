//! OTLP's JSON as the specification allows it to be written.

use serde_json::{Value, json};

use super::over_http::send;
use super::*;

const JSON: &str = "content-type: application/json\r\n";

async fn accepted(path: &str, body: &Value) -> Arc<Collecting> {
    let (receiver, ingest) = running(None).await;
    let answer = send(&receiver, "POST", path, JSON, body.to_string().as_bytes()).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!((answer.status, text.as_str()), (200, "{}"), "{body}");
    ingest
}

fn traces(span: Value) -> Value {
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
}

fn span_with(more: Value) -> Value {
    let mut span = json!({"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174", "name": "x",
        "kind": 2, "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000"});
    if let (Some(span), Value::Object(more)) = (span.as_object_mut(), more) {
        span.extend(more);
    }
    span
}

#[tokio::test]
async fn ids_are_hexadecimal_in_any_case_and_64_bit_integers_are_texts_or_numbers() {
    let as_texts = accepted("/v1/traces", &traces(span_with(json!({})))).await;
    let as_numbers = span_with(json!({"traceId": "5b8efff798038103d269b633813fc60c",
        "startTimeUnixNano": 1_544_712_660_000_000_000_u64, "endTimeUnixNano": 1_544_712_661_000_000_000_u64}));
    let as_numbers = accepted("/v1/traces", &traces(as_numbers)).await;
    {
        let (texts, numbers) = (as_texts.requests.lock(), as_numbers.requests.lock());
        assert_eq!(texts[0].keys, numbers[0].keys);
        assert_eq!(texts[0].contents, numbers[0].contents);
    }
    let points = |point: Value| {
        json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m",
            "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point]}}]}]}]})
    };
    for value in [json!("7"), json!(7)] {
        let ingest = accepted("/v1/metrics", &points(json!({"asInt": value, "timeUnixNano": "5"}))).await;
        let seen = ingest.requests.lock();
        assert!((crate::columns::doubles(&seen[0].batch, "value").value(0) - 7.0).abs() < 1e-12);
    }
}

#[tokio::test]
async fn unknown_members_are_ignored_wherever_they_stand() {
    let span = span_with(json!({
        "newField": {"a": [1, {"b": null}]}, "trace_id": "snake case is unknown too",
        "attributes": [
            {"key": "known", "value": {"stringValue": "x", "newHint": 7}, "newKind": 1},
            {"key": "list", "value": {"arrayValue": {"values": [{"intValue": "1", "unit": "s"}], "total": 1}}},
            {"key": "future", "value": {"decimalValue": "1.5"}}],
        "status": {"code": 2, "newDetail": true}}));
    let body = json!({"resourceSpans": [{"resource": {"entityRefs": [], "unknown": 1}, "unknown": {}, "scopeSpans": [
        {"scope": {"unknown": 1}, "spans": [span], "unknown": []}]}], "unknown": "x"});
    let ingest = accepted("/v1/traces", &body).await;
    let seen = ingest.requests.lock();
    assert_eq!(crate::columns::texts(&seen[0].batch, "status").value(0), "error");
    let written = crate::fixtures::as_json(&seen[0].batch);
    assert_eq!(written[0]["attributes"]["known"], "x", "{written:?}");
    assert_eq!(written[0]["attributes"]["list"], "[1]", "{written:?}");
}

#[tokio::test]
async fn a_request_without_records_is_acknowledged_in_every_encoding() {
    for path in ["/v1/traces", "/v1/metrics", "/v1/logs"] {
        accepted(path, &json!({})).await;
        let (receiver, _) = running(None).await;
        let answer = send(&receiver, "POST", path, "content-type: application/x-protobuf\r\n", b"").await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    let (receiver, ingest) = running(None).await;
    client(&receiver).await.export(request(Vec::new())).await.unwrap();
    assert_eq!(ingest.requests.lock().len(), 0, "there is nothing to keep of it");
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (receiver, ingest) = running(None).await;
    let mut stream = tokio::net::TcpStream::connect(receiver.http_address()).await.unwrap();
    for nth in 0..20 {
        let body = request(vec![super::span(nth, "x")]).encode_to_vec();
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nhost: c\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).await.unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(ingest.rows(), 20);
}
