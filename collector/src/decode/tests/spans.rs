//! Spans, decisions and attempts.

use super::*;

const TRACE: &str = "0192f0c48a5b7c3d9e1f0123456789ab";
const SPAN: &str = "00f067aa0ba902b7";

fn texts(values: &[&str]) -> Value {
    json!({"arrayValue": {"values": values.iter().map(|value| json!({"stringValue": value})).collect::<Vec<_>>()}})
}

fn doubles(values: &[f64]) -> Value {
    json!({"arrayValue": {"values": values.iter().map(|value| json!({"doubleValue": value})).collect::<Vec<_>>()}})
}

fn server_span(attributes: Value, events: Value) -> Value {
    json!({"traceId": TRACE, "spanId": SPAN, "name": "eth_call", "kind": 2, "startTimeUnixNano": AT,
           "endTimeUnixNano": "1760000000000500001", "attributes": attributes, "events": events})
}

fn request(spans: &[Value]) -> Value {
    json!({"resourceSpans": [{"resource": node(), "scopeSpans": [{
        "scope": {"name": "lariat", "version": "1.2.3", "attributes": [text("tier", "a")]}, "spans": spans}]}]})
}

fn one(span: Value) -> Value {
    let decoding = both(Signal::Traces, true, &request(&[span]));
    assert_eq!(decoding.decoded.rejected, 0, "{:?}", decoding.decoded.reason);
    rows(&decoding.decoded).remove(0)
}

#[test]
fn an_attribute_with_a_column_fills_it_and_the_others_stay_in_the_map() {
    let row = one(server_span(
        json!([
            text("lariat.request_id", "0192f0c4-8a5b-7c3d-9e1f-0123456789ab"),
            int("lariat.batch_index", 2),
            int("lariat.decision_seq", 7),
            text("lariat.profile", "public"),
            text("rpc.method", "eth_call"),
            int("lariat.chain_id", 1),
            int("lariat.billable_units", 3),
            text("zebra", "last"),
            json!({"key": "list", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "a\"b"}]}}}),
            json!({"key": "map", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"boolValue": true}}]}}}),
            json!({"key": "bytes", "value": {"bytesValue": "AQI="}}),
            json!({"key": "nothing", "value": {}}),
            json!({"key": "flag", "value": {"boolValue": false}}),
            json!({"key": "half", "value": {"doubleValue": 0.5}}),
        ]),
        json!([]),
    ));
    assert_eq!(row["request_id"], TRACE);
    assert_eq!((&row["batch_index"], &row["decision_seq"], &row["chain_id"]), (&json!(2), &json!(7), &json!(1)));
    assert_eq!((&row["profile"], &row["method"]), (&json!("public"), &json!("eth_call")));
    assert_eq!(row["billable_units"], 3.0);
    assert_eq!(
        (&row["span_kind"], &row["status"], &row["keep_reason"]),
        (&json!("server"), &json!("unset"), &json!("undecided"))
    );
    assert_eq!((&row["duration_ns"], &row["adjusted_count"]), (&json!(500_000), &json!(1.0)));
    let map = row["attributes"].as_object().unwrap();
    let expected = json!({"bytes": "AQI=", "flag": "false", "half": "0.5", "list": "[1,\"a\\\"b\"]", "map": "{\"k\":true}",
                          "nothing": null, "zebra": "last"});
    assert_eq!(map.keys().collect::<Vec<_>>(), expected.as_object().unwrap().keys().collect::<Vec<_>>());
    assert_eq!(row["attributes"], expected);
    assert_eq!((&row["eligible"], &row["events"], &row["links"]), (&Value::Null, &Value::Null, &Value::Null));
}

#[test]
fn the_sender_has_columns_and_the_rest_of_it_stays_in_its_map() {
    let row = one(server_span(json!([]), json!([])));
    assert_eq!((&row["service_name"], &row["node_id"]), (&json!("lariat-proxy"), &json!("lariat@10.0.0.1")));
    assert_eq!((&row["region"], &row["boot_id"]), (&json!("us-east"), &json!("0192f0c4-8a5b-7c3d-9e1f-0123456789ab")));
    assert_eq!((&row["scope_name"], &row["scope_version"]), (&json!("lariat"), &json!("1.2.3")));
    assert_eq!(row["resource_attributes"], json!({"otel.scope.tier": "a", "service.version": "1.2.3"}));
}

#[test]
fn a_value_of_the_wrong_type_stays_in_the_map_and_its_column_stays_empty() {
    let row = one(server_span(
        json!([text("lariat.attempts", "three"), int("lariat.batch_size", i64::MAX), text("lariat.request_id", "?")]),
        json!([]),
    ));
    assert_eq!((&row["attempts"], &row["batch_size"], &row["request_id"]), (&Value::Null, &Value::Null, &Value::Null));
    let expected =
        json!({"lariat.attempts": "three", "lariat.batch_size": i64::MAX.to_string(), "lariat.request_id": "?"});
    assert_eq!(row["attributes"], expected);
}

fn decision(selection: i64, scores: &[f64]) -> Value {
    json!({"name": "lariat.decision", "timeUnixNano": AT, "attributes": [
        int("lariat.selection", selection),
        {"key": "lariat.eligible.channels", "value": texts(&["alpha:http", "beta:eu:ws"])},
        {"key": "lariat.eligible.scores", "value": doubles(scores)},
        {"key": "lariat.eligible.probabilities", "value": doubles(&[0.75, 0.25])},
        {"key": "lariat.excluded.channels", "value": texts(&["gamma:http"])},
        {"key": "lariat.excluded.reasons", "value": texts(&["circuit_open"])},
        {"key": "lariat.fail_open", "value": {"boolValue": selection == 2}},
        int("lariat.snapshot", 40 + selection),
    ]})
}

#[test]
fn a_decision_event_becomes_candidates_and_is_no_event_any_more() {
    let other = json!({"name": "note", "timeUnixNano": AT, "attributes": [text("b", "2"), text("a", "1")]});
    let row = one(server_span(json!([]), json!([decision(1, &[1.0, 2.0]), other, decision(2, &[])])));
    let eligible = row["eligible"].as_array().unwrap();
    assert_eq!(eligible.len(), 4);
    assert_eq!(
        eligible[1],
        json!({"selection": 1, "rank": 2, "provider_id": "beta:eu", "transport": "ws", "score": 2.0, "probability": 0.25, "inputs": null})
    );
    assert_eq!(
        (&eligible[2]["selection"], &eligible[2]["rank"], &eligible[2]["score"]),
        (&json!(2), &json!(1), &Value::Null)
    );
    assert_eq!(
        row["excluded"][0],
        json!({"selection": 1, "provider_id": "gamma", "transport": "http", "reason": "circuit_open"})
    );
    assert_eq!(row["fail_open"], true);
    assert_eq!(row["events"].as_array().unwrap().len(), 1);
    assert_eq!(row["events"][0]["attributes"], json!({"a": "1", "b": "2"}));
    assert_eq!(row["attributes"], json!({"lariat.snapshot": "41", "lariat.snapshot.2": "42"}));
}

#[test]
fn a_decision_whose_arrays_do_not_match_stays_an_event_and_is_counted() {
    let decoding = both(Signal::Traces, true, &request(&[server_span(json!([]), json!([decision(1, &[1.0])]))]));
    assert_eq!((decoding.malformed_selections, decoding.decoded.rejected), (1, 0));
    assert!(decoding.decoded.reason.as_ref().unwrap().contains("unequal"));
    let row = rows(&decoding.decoded).remove(0);
    assert_eq!((&row["eligible"], &row["fail_open"]), (&Value::Null, &Value::Null));
    assert_eq!(row["events"][0]["name"], "lariat.decision");
    assert_eq!(row["events"][0]["attributes"]["lariat.eligible.scores"], "[1.0]");
}

#[test]
fn an_untrusted_sender_cannot_say_whose_call_it_was_nor_how_many_it_stands_for() {
    let claims = json!([
        text("lariat.account_id", "acme"),
        text("lariat.profile", "premium"),
        int("lariat.decision_seq", 9),
        text("lariat.chain", "ethereum")
    ]);
    let mut span = server_span(claims, json!([]));
    span["traceState"] = json!("vendor=1,ot=th:8");
    let untrusted = both(Signal::Traces, false, &request(&[span.clone()]));
    assert!(!untrusted.decoded.trusted);
    let row = rows(&untrusted.decoded).remove(0);
    assert_eq!((&row["account_id"], &row["profile"], &row["decision_seq"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&row["chain"], &row["trace_state"]), (&json!("ethereum"), &json!("vendor=1")));
    assert_eq!(
        row["attributes"],
        json!({"lariat.account_id": "acme", "lariat.decision_seq": "9", "lariat.profile": "premium", "otel.trace_state": "vendor=1,ot=th:8"})
    );
    let row = one(span);
    assert_eq!((&row["account_id"], &row["trace_state"]), (&json!("acme"), &json!("vendor=1,ot=th:8")));
}

#[test]
fn each_bad_span_is_rejected_with_its_reason_and_the_good_one_stays() {
    let good = server_span(json!([]), json!([]));
    for (member, value, reason) in [
        ("traceId", json!(""), "trace id is missing or zero"),
        ("traceId", json!("00000000000000000000000000000000"), "trace id is missing or zero"),
        ("traceId", json!("abcd"), "trace id has 2 bytes instead of 16"),
        ("spanId", json!("0000000000000000"), "span id is missing or zero"),
        ("spanId", json!("00"), "span id has 1 bytes instead of 8"),
        ("parentSpanId", json!("01"), "parent span id has 1 bytes instead of 8"),
        ("startTimeUnixNano", json!("0"), "start_time_unix_nano is missing"),
        ("startTimeUnixNano", json!("9300000000000000000"), "later than the year 2262"),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        let decoding = both(Signal::Traces, true, &request(&[bad, good.clone()]));
        assert_eq!((decoding.decoded.rejected, decoding.decoded.batch.num_rows()), (1, 1), "{reason}");
        assert!(decoding.decoded.reason.as_ref().unwrap().contains(reason), "{:?}", decoding.decoded.reason);
    }
}

#[test]
fn a_span_that_ends_before_it_starts_is_kept_with_duration_zero() {
    let mut span = server_span(json!([]), json!([]));
    span["endTimeUnixNano"] = json!("1");
    assert_eq!(one(span)["duration_ns"], 0);
}

#[test]
fn links_are_kept_and_one_that_points_nowhere_is_counted() {
    let mut span = server_span(json!([]), json!([]));
    span["links"] = json!([{"traceId": TRACE, "spanId": SPAN, "traceState": "a=1", "attributes": [text("k", "v")]},
                           {"traceId": "", "spanId": ""}]);
    let row = one(span);
    let expected = json!([{"trace_id": TRACE, "span_id": SPAN, "trace_state": "a=1", "attributes": {"k": "v"}}]);
    assert_eq!(row["links"], expected);
    assert_eq!(row["attributes"], json!({"otel.invalid_links_count": "1"}));
}

#[test]
fn the_key_is_the_trace_and_span_and_the_content_tells_a_conflict() {
    let first = server_span(json!([]), json!([]));
    let mut changed = first.clone();
    changed["name"] = json!("other");
    let decoded = both(Signal::Traces, true, &request(&[first.clone(), changed, first])).decoded;
    assert_eq!((decoded.keys[0], decoded.keys[0]), (decoded.keys[1], decoded.keys[2]));
    assert_ne!(decoded.contents[0], decoded.contents[1]);
    assert_eq!(decoded.contents[0], decoded.contents[2]);
}

#[test]
fn a_small_body_that_stands_for_too_many_bytes_is_rejected_in_part() {
    let spans = vec![server_span(json!([]), json!([])); 100];
    let mut request = request(&spans);
    let attributes = request["resourceSpans"][0]["resource"]["attributes"].as_array_mut().unwrap();
    attributes.push(text("huge", &"x".repeat(1 << 20)));
    let decoded = both(Signal::Traces, true, &request).decoded;
    assert_eq!(decoded.batch.num_rows(), 31);
    assert_eq!(decoded.rejected, 69);
    assert!(decoded.reason.unwrap().contains("send fewer records at once"));
}
