//! The mappings that are shipped, held against spans as those proxies send them.

use lariat_schema::vocabulary::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value as Json, json};

use super::super::{Encoding, Form, decode_mapped};
use super::*;

const ERPC: &str = include_str!("../../../../deploy/mappings/erpc.yaml");
const ENVOY: &str = include_str!("../../../../deploy/mappings/envoy.yaml");

/// The rows of these spans under a mapping, which must be the same in both encodings.
fn mapped(mapping: &str, scope: &str, spans: &Json) -> Vec<Json> {
    let mapping = Mapping::parse(mapping).unwrap();
    let request = json!({"resourceSpans": [{"resource": {"attributes": [
        {"key": "service.name", "value": {"stringValue": "edge"}}]},
        "scopeSpans": [{"scope": {"name": scope}, "spans": spans}]}]});
    let text = request.to_string();
    let protobuf = serde_json::from_str::<ExportTraceServiceRequest>(&text).unwrap().encode_to_vec();
    let read = |body: &[u8], encoding| {
        let form = Form { signal: Signal::Traces, encoding, trusted: true };
        decode_mapped(body, form, 9, Some(&mapping), None).unwrap().decoded
    };
    let decoded = read(&protobuf, Encoding::Protobuf);
    assert_eq!(decoded.batch, read(text.as_bytes(), Encoding::Json).batch);
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(Vec::new());
    writer.write(&decoded.batch).unwrap();
    writer.finish().unwrap();
    serde_json::from_slice(&writer.into_inner()).unwrap()
}

const TRACE: &str = "0192f0c48a5b7c3d9e1f0123456789ab";

fn span(name: &str, kind: i32, status: i32, attributes: &[(&str, Json)]) -> Json {
    let attributes: Vec<Json> = attributes.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    json!({"traceId": TRACE, "spanId": "0000000000000001", "name": name, "kind": kind, "status": {"code": status},
        "startTimeUnixNano": "1760000000000000000", "endTimeUnixNano": "1760000000005000000", "attributes": attributes})
}

fn text(value: &str) -> Json {
    json!({"stringValue": value})
}

#[test]
fn a_request_through_erpc_is_a_decision_and_its_call_of_an_upstream_an_attempt() {
    let request = span(
        "Request.Handle",
        1,
        1,
        &[
            ("request.method", text("eth_call")),
            ("network.id", text("evm:42161")),
            ("upstream.id", text("drpc-arbitrum")),
            ("cache.hit", json!({"boolValue": false})),
            ("execution.attempts", json!({"intValue": "2"})),
        ],
    );
    let call = span(
        "HttpJsonRpcClient.sendSingleRequest",
        3,
        2,
        &[
            ("request.method", text("eth_call")),
            ("network.id", text("evm:42161")),
            ("upstream.id", text("drpc-arbitrum")),
            ("peer.service", text("arb.example")),
        ],
    );
    let other = span("Network.Forward", 1, 1, &[("network.id", text("evm:42161"))]);
    let rows = mapped(ERPC, "erpc", &json!([request, call, other]));
    let decision = &rows[0];
    assert_eq!((&decision["span_kind"], &decision["request_id"]), (&json!("server"), &json!(TRACE)));
    assert_eq!((&decision["method"], &decision["chain"]), (&json!("eth_call"), &json!("evm:42161")));
    assert_eq!((&decision["chain_id"], &decision["attempts"]), (&json!(42161), &json!(2)));
    assert_eq!((&decision["provider_id"], &decision["result"]), (&json!("drpc-arbitrum"), &json!("success")));
    assert_eq!((&decision["cache"], &decision["answered_by"]), (&json!("miss"), &json!("provider")));
    assert_eq!(decision["attributes"]["request.method"], "eth_call", "what was sent stays");
    let attempt = &rows[1];
    assert_eq!((&attempt["span_kind"], &attempt["request_id"]), (&json!("client"), &json!(TRACE)));
    assert_eq!((&attempt["ordinal"], &attempt["outcome"]), (&json!(1), &json!("service_failure")));
    assert_eq!(attempt["server_address"], "arb.example");
    assert_eq!((&rows[2]["span_kind"], &rows[2]["request_id"]), (&json!("internal"), &Json::Null));
}

#[test]
fn a_request_through_envoy_is_a_decision_with_numbers_read_from_its_texts() {
    let tags = |status: &str, flags: &str| {
        span(
            "ingress",
            2,
            0,
            &[
                ("component", text("proxy")),
                ("upstream_cluster.name", text("ethereum-alpha")),
                ("http.status_code", text(status)),
                ("request_size", text("120")),
                ("response_size", text("4096")),
                ("response_flags", text(flags)),
            ],
        )
    };
    let rows = mapped(ENVOY, "envoy", &json!([tags("200", "-"), tags("0", "DC")]));
    let decision = &rows[0];
    assert_eq!((&decision["span_kind"], &decision["request_id"]), (&json!("server"), &json!(TRACE)));
    assert_eq!((&decision["provider_id"], &decision["result"]), (&json!("ethereum-alpha"), &json!("success")));
    assert_eq!((&decision["bytes_in"], &decision["bytes_out"]), (&json!(120), &json!(4096)));
    assert_eq!(rows[1]["result"], "error");
}

#[test]
fn a_span_of_ours_and_one_that_no_rule_names_are_left_alone() {
    let ours = span(
        "Request.Handle",
        1,
        1,
        &[("request.method", text("eth_call")), ("lariat.request_id", text("0192f0c4-8a5b-7c3d-9e1f-0123456789ac"))],
    );
    let rows = mapped(ERPC, "erpc", &json!([ours]));
    assert_eq!((&rows[0]["span_kind"], &rows[0]["method"]), (&json!("internal"), &Json::Null));
}

#[test]
fn every_fault_of_a_file_is_told_at_once_each_with_its_line() {
    let text = "rulez: 3
rules:
  - name: a
    when: { scope: x, colour: red, equals: { port: 80 } }
    as: hop
    set:
      lariat.nothing: x
      rpc.method: { attribut: y }
      lariat.chain: 7
  - when: all
    as: attempt
    sat: {}
";
    let faults = Mapping::parse(text).unwrap_err();
    let found: Vec<_> = faults.iter().map(|fault| (fault.line, fault.reason.as_str())).collect();
    for (line, part) in [
        (1, "rulez"),
        (4, "colour"),
        (5, "hop"),
        (7, "lariat.nothing"),
        (8, "a map with `attribute`"),
        (10, "missing field `name`"),
        (10, "missing field `set`"),
        (10, "`when` is a map"),
        (12, "sat"),
    ] {
        assert!(
            found.iter().any(|(at, told)| *at == line && told.contains(part)),
            "{line}: {part} is not in {found:#?}"
        );
    }
    assert_eq!(found.len(), 9, "{found:#?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let told = Mapping::read(file.path()).unwrap_err().told_apart();
    let named = |text: &String| text.starts_with(&format!("{}:", file.path().display()));
    assert!(told.len() == 9 && told.iter().all(named), "{told:?}");
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_line() {
    for (text, line, reason) in [
        (
            "rules:\n  - name: a\n    when: {}\n    as: decision\n    set:\n      lariat.nothing: x\n",
            6,
            "lariat.nothing",
        ),
        ("rules:\n  - name: a\n    when: {}\n    as: hop\n    set: {}\n", 4, "hop"),
        ("rules:\n  - name: a\n    when: { scopes: x }\n    as: attempt\n    set: {}\n", 3, "scopes"),
        ("rule: []\n", 1, "rule"),
    ] {
        let faults = Mapping::parse(text).unwrap_err();
        assert_eq!((faults.len(), faults[0].line), (1, line), "{faults:?}");
        assert!(faults[0].reason.contains(reason), "{faults:?}");
    }
    let broken = Mapping::parse("rules: [\n").unwrap_err();
    assert_eq!(broken.len(), 1, "{broken:?}");
    let missing = Mapping::read(Path::new("/nowhere/map.yaml")).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/map.yaml"), "{missing}");
}
