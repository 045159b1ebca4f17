//! Log records and events.

use super::*;

fn request(records: &[Value]) -> Value {
    json!({"resourceLogs": [{"resource": node(), "scopeLogs": [{"scope": {"name": "s"}, "logRecords": records}]}]})
}

fn one(record: Value) -> Value {
    let decoded = both(Signal::Logs, true, &request(&[record])).decoded;
    assert_eq!(decoded.rejected, 0, "{:?}", decoded.reason);
    rows(&decoded).remove(0)
}

#[test]
fn an_event_has_its_name_and_routing_columns() {
    let row = one(
        json!({"timeUnixNano": AT, "eventName": "lariat.circuit.transition", "severityNumber": 9, "severityText": "INFO",
        "body": {"kvlistValue": {"values": [{"key": "a", "value": {"intValue": "1"}}]}},
        "traceId": "0192f0c48a5b7c3d9e1f0123456789ab", "spanId": "00f067aa0ba902b7", "attributes": [
            text("lariat.profile", "public"), text("lariat.chain", "ethereum"), text("lariat.provider_id", "alpha"),
            text("lariat.transport", "http"), text("lariat.circuit.from", "closed"), text("rpc.method", "eth_call")]}),
    );
    assert_eq!(
        (&row["event_name"], &row["severity_number"], &row["severity_text"]),
        (&json!("lariat.circuit.transition"), &json!(9), &json!("INFO"))
    );
    assert_eq!(
        (&row["profile"], &row["chain"], &row["provider_id"], &row["transport"]),
        (&json!("public"), &json!("ethereum"), &json!("alpha"), &json!("http"))
    );
    assert_eq!(
        (&row["body"], &row["keep_reason"], &row["span_id"]),
        (&json!("{\"a\":1}"), &json!("always"), &json!("00f067aa0ba902b7"))
    );
    assert_eq!(row["attributes"], json!({"lariat.circuit.from": "closed", "rpc.method": "eth_call"}));
}

#[test]
fn a_record_without_a_time_has_that_of_its_observation_or_of_its_arrival() {
    let observed = one(json!({"observedTimeUnixNano": AT, "body": {"stringValue": "x"}}));
    assert_eq!(observed["time"], "2025-10-09T08:53:20.000000001Z");
    let arrived = one(json!({"body": {"stringValue": "x"}}));
    assert_eq!(arrived["time"], arrived["observed_time"]);
    assert_eq!(
        (&arrived["trace_id"], &arrived["severity_number"], &arrived["body"]),
        (&Value::Null, &Value::Null, &json!("x"))
    );
    let both_times = one(json!({"timeUnixNano": AT, "observedTimeUnixNano": "1760000000000000002"}));
    assert_eq!(both_times["attributes"], json!({"otel.observed_time_unix_nano": "1760000000000000002"}));
}

#[test]
fn a_record_with_a_broken_trace_id_is_rejected() {
    let decoded = both(Signal::Logs, true, &request(&[json!({"timeUnixNano": AT, "traceId": "ab"})])).decoded;
    assert_eq!((decoded.rejected, decoded.batch.num_rows()), (1, 0));
    assert!(decoded.reason.unwrap().contains("trace id has 1 bytes"));
}

#[test]
fn two_records_of_one_content_share_a_key_and_those_of_two_senders_do_not() {
    let record = json!({"timeUnixNano": AT, "body": {"stringValue": "x"}});
    let mut request = request(&[record.clone(), record.clone()]);
    let elsewhere =
        json!({"resource": {"attributes": [text("service.name", "other")]}, "scopeLogs": [{"logRecords": [record]}]});
    request["resourceLogs"].as_array_mut().unwrap().push(elsewhere);
    let decoded = both(Signal::Logs, true, &request).decoded;
    assert_eq!(decoded.keys[0], decoded.keys[1]);
    assert_ne!(decoded.keys[0], decoded.keys[2]);
}

#[test]
fn a_key_that_stands_twice_counts_once_with_its_last_value() {
    let row = one(json!({"timeUnixNano": AT, "attributes": [text("k", "1"), text("k", "2"), text("a", "3")]}));
    assert_eq!(row["attributes"], json!({"a": "3", "k": "2"}));
}
