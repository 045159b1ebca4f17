//! The spans of a load, as OTLP messages with markers where each request differs. Plain spans look like those of any
//! web service (8 attributes, about 305 bytes); decisions carry what Lariat's own proxy records, for the collector
//! does more with those.

use lariat_schema::attributes as a;
use lariat_schema::events;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span, status};

use super::SpanSettings;
use super::template::{Content, Marker};

/// W3C flags of a sampled trace.
const SAMPLED: u32 = 1;
/// One decision in so many failed over, and so has a third span.
const FAILOVER_EVERY: u32 = 16;
const PROVIDERS: [&str; 4] = ["northwind", "harbor", "basalt", "lumen"];
const METHODS: [&str; 6] = [
    "eth_call",
    "eth_blockNumber",
    "eth_getBlockByNumber",
    "eth_getBalance",
    "eth_getLogs",
    "eth_getTransactionReceipt",
];
const STRATEGIES: [&str; 4] = ["load_balanced", "fastest", "latency_weighted", "priority"];
const ROUTES: [&str; 4] = ["/api/v1/orders", "/api/v1/users/{id}", "/api/v1/carts", "/health"];

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn array(key: &str, values: impl IntoIterator<Item = Value>) -> KeyValue {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
    pair(key, Value::ArrayValue(ArrayValue { values }))
}

fn texts<'a>(key: &str, values: impl IntoIterator<Item = &'a str>) -> KeyValue {
    array(key, values.into_iter().map(|value| Value::StringValue(value.to_owned())))
}

fn doubles(key: &str, values: impl IntoIterator<Item = f64>) -> KeyValue {
    array(key, values.into_iter().map(Value::DoubleValue))
}

fn pick<'a>(from: &[&'a str], i: u32) -> &'a str {
    from[i as usize % from.len()]
}

/// One request of `spans` spans, or of as few more as it takes to end its last decision.
pub(super) fn request(settings: &SpanSettings, spans: u32, boot_id: &str) -> ExportTraceServiceRequest {
    let (service, list) = match settings.content {
        Content::Plain => ("checkout", (0..spans).map(plain).collect()),
        Content::Decisions => ("lariat-proxy", decisions(spans)),
    };
    let resource = Resource {
        attributes: vec![
            text(a::SERVICE_NAME, service),
            text(a::SERVICE_VERSION, "1.0.0"),
            text(a::SERVICE_INSTANCE_ID, settings.node_id.as_str()),
            text(a::CLOUD_REGION, settings.region.as_str()),
            text(a::BOOT_ID, boot_id),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "load".to_owned(), version: "1".to_owned(), ..Default::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: list, schema_url: String::new() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }],
    }
}

fn plain(i: u32) -> Span {
    Span {
        trace_id: Marker::Trace(i).bytes(),
        span_id: Marker::Span(i).bytes(),
        flags: SAMPLED,
        name: "GET".to_owned(),
        kind: span::SpanKind::Server as i32,
        start_time_unix_nano: Marker::Start(i).fixed64(),
        end_time_unix_nano: Marker::End(i).fixed64(),
        attributes: vec![
            text("http.request.method", "GET"),
            text("http.route", pick(&ROUTES, i)),
            int("http.response.status_code", 200),
            text("server.address", "checkout"),
            int("server.port", 8443),
            text("network.protocol.version", "1.1"),
            text("user_agent.original", "load/1.0"),
            text("client.address", format!("10.0.{}.{}", i / 250, i % 250)),
        ],
        ..Span::default()
    }
}

fn decisions(spans: u32) -> Vec<Span> {
    let mut list = Vec::new();
    let mut unit = 0;
    while (list.len() as u64) < u64::from(spans) {
        let attempts = if unit % FAILOVER_EVERY == FAILOVER_EVERY - 1 { 2 } else { 1 };
        let first = u32::try_from(list.len()).unwrap_or(u32::MAX);
        list.push(decision(unit, first, attempts));
        list.extend((1..=attempts).map(|ordinal| attempt(unit, first, ordinal, attempts)));
        unit += 1;
    }
    list
}

fn repeated(unit: u32, provider: &str) -> Vec<KeyValue> {
    vec![
        text(a::RPC_SYSTEM_NAME, "jsonrpc"),
        text(a::JSONRPC_PROTOCOL_VERSION, "2.0"),
        text(a::RPC_METHOD, pick(&METHODS, unit)),
        text(a::REQUEST_ID, Marker::RequestId(unit).text()),
        int(a::BATCH_INDEX, 0),
        text(a::PROFILE, "public"),
        text(a::CHAIN, "ethereum"),
        int(a::CHAIN_ID, 1),
        text(a::PROVIDER_ID, provider),
        text(a::INSTANCE_ID, format!("1:{provider}:0123456789ab")),
        text(a::TRANSPORT, "http"),
        text(a::ORIGIN, "client"),
    ]
}

fn decision(unit: u32, span: u32, attempts: u32) -> Span {
    let mut attributes = repeated(unit, pick(&PROVIDERS, unit + attempts - 1));
    attributes.extend([
        text(a::JSONRPC_REQUEST_ID, "1"),
        int(a::BATCH_SIZE, 1),
        int(a::DECISION_SEQ, Marker::Sequence(unit).int()),
        text(a::STRATEGY, pick(&STRATEGIES, unit)),
        text(a::CLIENT_TRANSPORT, "http"),
        text(a::ANSWERED_BY, "provider"),
        text(a::RESULT, "success"),
        int(a::ATTEMPTS, i64::from(attempts)),
        int(a::FAILOVERS, i64::from(attempts) - 1),
        int(a::SELECTION_NS, 11_000 + i64::from(unit) * 37),
        int(a::PROVIDER_NS, 900_000 + i64::from(unit) * 1_511),
        int(a::OVERHEAD_NS, 52_000 + i64::from(unit) * 91),
        int(a::BYTES_IN, 90 + i64::from(unit % 40)),
        int(a::BYTES_OUT, 110 + i64::from(unit % 900)),
        int(a::HEAD_LAG_BLOCKS, -i64::from(unit % 2)),
        text(a::PARAMS_DIGEST, format!("{:016x}", u64::from(unit).wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        text(a::POLICY_HASH, "5f0c1a77e2d94b36"),
    ]);
    Span {
        trace_id: Marker::Trace(unit).bytes(),
        span_id: Marker::Span(span).bytes(),
        flags: SAMPLED,
        name: pick(&METHODS, unit).to_owned(),
        kind: span::SpanKind::Server as i32,
        start_time_unix_nano: Marker::Start(span).fixed64(),
        end_time_unix_nano: Marker::End(span).fixed64(),
        attributes,
        events: vec![selection(unit, span)],
        ..Span::default()
    }
}

fn selection(unit: u32, span: u32) -> span::Event {
    let channel = |i: u32| format!("{}:http", pick(&PROVIDERS, unit + i));
    let eligible: Vec<String> = (0..3).map(channel).collect();
    span::Event {
        time_unix_nano: Marker::Start(span).fixed64(),
        name: events::DECISION.to_owned(),
        attributes: vec![
            int(a::SELECTION, 1),
            texts(a::ELIGIBLE_CHANNELS, eligible.iter().map(String::as_str)),
            doubles(a::ELIGIBLE_SCORES, [12.5, 38.25, 77.0]),
            texts(a::ELIGIBLE_INPUTS, ["latency_ms=12.5", "latency_ms=38.25", "latency_ms=77"]),
            doubles(a::ELIGIBLE_PROBABILITIES, [0.5, 0.3, 0.2]),
            texts(a::EXCLUDED_CHANNELS, [channel(3).as_str()]),
            texts(a::EXCLUDED_REASONS, ["lagging"]),
            int(a::SNAPSHOT, 42),
            text(a::SEED, "9e3779b97f4a7c15"),
        ],
        dropped_attributes_count: 0,
    }
}

fn attempt(unit: u32, parent: u32, ordinal: u32, attempts: u32) -> Span {
    let failed = ordinal < attempts;
    let provider = pick(&PROVIDERS, unit + ordinal - 1);
    let mut attributes = repeated(unit, provider);
    attributes.extend([
        int(a::ORDINAL, i64::from(ordinal)),
        text(a::KIND, if ordinal == 1 { "primary" } else { "failover" }),
        text(a::OUTCOME, if failed { "service_failure" } else { "success" }),
        text(a::CIRCUIT_STATE, "closed"),
        int(a::CIRCUIT_EPOCH, 1),
        text(a::DISPATCHED, "dispatched"),
        int(a::HTTP_STATUS, if failed { 500 } else { 200 }),
        text(a::SERVER_ADDRESS, format!("{provider}.example")),
        int(a::SERVER_PORT, 443),
    ]);
    if ordinal > 1 {
        attributes.push(int(a::HTTP_RESEND_COUNT, i64::from(ordinal) - 1));
    }
    if failed {
        attributes.extend([text(a::ERROR_CATEGORY, "server_error"), text(a::ERROR_TYPE, "500")]);
    }
    let span = parent + ordinal;
    Span {
        trace_id: Marker::Trace(unit).bytes(),
        span_id: Marker::Span(span).bytes(),
        parent_span_id: Marker::Span(parent).bytes(),
        flags: SAMPLED,
        name: pick(&METHODS, unit).to_owned(),
        kind: span::SpanKind::Client as i32,
        start_time_unix_nano: Marker::Start(span).fixed64(),
        end_time_unix_nano: Marker::End(span).fixed64(),
        attributes,
        status: failed.then(|| Status { message: String::new(), code: status::StatusCode::Error as i32 }),
        ..Span::default()
    }
}
