//! Decoding as a whole. Requests are written in OTLP's JSON, decoded from it and again from protobuf, and the rows
//! are read back as JSON: what is compared is what a user of the tables sees.

use lariat_schema::vocabulary::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value, json};

use super::{Decoded, Decoding, Encoding, Form, decode};

mod json;
mod logs;
mod metrics;
mod properties;
mod spans;

/// The moment of decoding in these tests.
const NOW: i64 = 1_760_000_009_000_000_000;
/// When things happened in these tests.
const AT: &str = "1760000000000000001";

fn form(signal: Signal, encoding: Encoding) -> Form {
    Form { signal, encoding, trusted: true }
}

/// Decodes JSON and the same request in protobuf, which must be equal but for the bytes of the body.
fn both(signal: Signal, trusted: bool, request: &Value) -> Decoding {
    let text = request.to_string();
    let protobuf = match signal {
        Signal::Traces => serde_json::from_str::<ExportTraceServiceRequest>(&text).unwrap().encode_to_vec(),
        Signal::Metrics => serde_json::from_str::<ExportMetricsServiceRequest>(&text).unwrap().encode_to_vec(),
        Signal::Logs => serde_json::from_str::<ExportLogsServiceRequest>(&text).unwrap().encode_to_vec(),
    };
    let form = |encoding| Form { signal, encoding, trusted };
    let from_json = decode(text.as_bytes(), form(Encoding::Json), NOW).unwrap();
    let from_protobuf = decode(&protobuf, form(Encoding::Protobuf), NOW).unwrap();
    assert_eq!(from_json.decoded.batch, from_protobuf.decoded.batch);
    assert_eq!(from_json.decoded.keys, from_protobuf.decoded.keys);
    assert_eq!(from_json.decoded.contents, from_protobuf.decoded.contents);
    assert_eq!(from_json.decoded.rejected, from_protobuf.decoded.rejected);
    assert_eq!(from_protobuf.decoded.body_bytes, protobuf.len());
    from_json
}

/// The rows as JSON, absent values as null.
fn rows(decoded: &Decoded) -> Vec<Value> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(Vec::new());
    writer.write(&decoded.batch).unwrap();
    writer.finish().unwrap();
    serde_json::from_slice(&writer.into_inner()).unwrap()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn int(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

/// A node as it names itself.
fn node() -> Value {
    json!({"attributes": [
        text("service.name", "lariat-proxy"), text("service.instance.id", "lariat@10.0.0.1"),
        text("cloud.region", "us-east"), text("lariat.boot_id", "0192f0c4-8a5b-7c3d-9e1f-0123456789ab"),
        text("service.version", "1.2.3"),
    ]})
}
