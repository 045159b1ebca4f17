//! Reads a JSON request and gives its records to the same sinks as protobuf.
//!
//! The request messages are declared here again, with every field optional: OTLP's JSON may leave out an empty list,
//! which the generated types refuse. Where the direct reading fails, members that are `null` are removed and the body is read once
//! more, since protobuf's JSON takes null for absent and the generated types do not; senders that
//! write none, which is nearly all, never pay for it.

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Sink;
use super::logs::Logs;
use super::metrics::Metrics;
use super::spans::Spans;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct TracesRequest {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct MetricsRequest {
    resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct LogsRequest {
    resource_logs: Vec<ResourceLogs>,
}

/// Gives every span of the body to the sink.
pub(super) fn spans(body: &[u8], sink: &mut Spans<'_>) -> Result<(), String> {
    let request: TracesRequest = read(body)?;
    let mut encoded = Vec::new();
    for resource in &request.resource_spans {
        begin(sink, resource.resource.as_ref());
        for scope in &resource.scope_spans {
            records(sink, scope.scope.as_ref(), &scope.spans, &mut encoded);
        }
    }
    Ok(())
}

/// Gives every metric of the body to the sink.
pub(super) fn metrics(body: &[u8], sink: &mut Metrics) -> Result<(), String> {
    let request: MetricsRequest = read(body)?;
    let mut encoded = Vec::new();
    for resource in &request.resource_metrics {
        begin(sink, resource.resource.as_ref());
        for scope in &resource.scope_metrics {
            records(sink, scope.scope.as_ref(), &scope.metrics, &mut encoded);
        }
    }
    Ok(())
}

/// Gives every log record of the body to the sink.
pub(super) fn logs(body: &[u8], sink: &mut Logs) -> Result<(), String> {
    let request: LogsRequest = read(body)?;
    let mut encoded = Vec::new();
    for resource in &request.resource_logs {
        begin(sink, resource.resource.as_ref());
        for scope in &resource.scope_logs {
            records(sink, scope.scope.as_ref(), &scope.log_records, &mut encoded);
        }
    }
    Ok(())
}

fn begin<'a, S: Sink<'a>>(sink: &mut S, resource: Option<&Resource>) {
    match resource {
        Some(resource) => sink.resource(resource),
        None => sink.resource(&Resource::default()),
    }
}

fn records<'a, S: Sink<'a>>(
    sink: &mut S,
    scope: Option<&InstrumentationScope>,
    records: &[S::Record],
    encoded: &mut Vec<u8>,
) {
    match scope {
        Some(scope) => sink.scope(scope),
        None => sink.scope(&InstrumentationScope::default()),
    }
    for record in records {
        encoded.clear();
        record.encode(encoded).expect("a vector grows as needed");
        sink.record(record, encoded);
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    // The derived readers also take a list of members for an object.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is no JSON object".to_owned());
    }
    match serde_json::from_slice(body) {
        Ok(request) => Ok(request),
        Err(error) if error.is_data() => {
            let mut value: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            if !remove_nulls(&mut value) {
                return Err(error.to_string());
            }
            serde_json::from_value(value).map_err(|_| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Removes every member that is null, and tells whether there was one. Depth is bounded by the parser.
fn remove_nulls(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => {
            let before = members.len();
            members.retain(|_, member| !member.is_null());
            let removed = members.len() < before;
            members.values_mut().fold(removed, |found, member| remove_nulls(member) | found)
        }
        Value::Array(items) => items.iter_mut().fold(false, |found, item| remove_nulls(item) | found),
        _ => false,
    }
}
