//! Reads a JSON request and gives its records to the same sinks as protobuf.
//!
//! The request messages are declared here again, with every field optional: OTLP's JSON may leave out an empty list,
//! which the generated types refuse. Where the direct reading fails, the body is read once more without members that are
//! `null`, which protobuf's JSON takes for absent, and without members of values that OTLP does not know yet, which it
//! ignores: the generated types refuse both. Senders that write neither, which is nearly all, never pay for it.

use lariat_schema::vocabulary::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Sink;
use super::logs::Logs;
use super::metrics::Metrics;
use super::spans::Spans;
use doubles::Doubles;

mod doubles;

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
    let request = read_metrics(body)?;
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

/// The same request as protobuf; the same bytes for the same body.
pub(crate) fn protobuf_of(signal: Signal, body: &[u8]) -> Result<Vec<u8>, String> {
    Ok(match signal {
        Signal::Traces => {
            let TracesRequest { resource_spans } = read(body)?;
            ExportTraceServiceRequest { resource_spans }.encode_to_vec()
        }
        Signal::Metrics => {
            let MetricsRequest { resource_metrics } = read_metrics(body)?;
            ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
        }
        Signal::Logs => {
            let LogsRequest { resource_logs } = read(body)?;
            ExportLogsServiceRequest { resource_logs }.encode_to_vec()
        }
    })
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
    whole(body).or_else(|error| {
        let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return Err(error.to_string()) };
        if !remove_unread(&mut value, false) {
            return Err(error.to_string());
        }
        T::deserialize(Doubles::of(value)).map_err(|_| error.to_string())
    })
}

/// The members of a metric of which one holds its points.
const DATA: [&str; 5] = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];

/// The same of a request of metrics, whose generated type takes data that it cannot read for none, so that nobody would
/// hear of the points: it is read the slower way, and refused if that helps nothing.
fn read_metrics(body: &[u8]) -> Result<MetricsRequest, String> {
    let request: MetricsRequest = read(body)?;
    if metrics_of(&request).all(|metric| metric.data.is_some()) {
        return Ok(request);
    }
    let mut value: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    remove_unread(&mut value, false);
    let request = MetricsRequest::deserialize(Doubles::of(&value)).map_err(|error| error.to_string())?;
    let below = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let written = below(&value, "resourceMetrics")
        .iter()
        .flat_map(|resource| below(resource, "scopeMetrics"))
        .flat_map(|scope| below(&scope, "metrics"))
        .collect::<Vec<_>>();
    let unread = |(metric, written): &(&Metric, &Value)| {
        metric.data.is_none() && DATA.iter().any(|member| written.get(member).is_some())
    };
    let unread = metrics_of(&request).zip(&written).find(unread).map(|(metric, _)| metric.name.clone());
    match unread {
        Some(name) => Err(format!("the data of the metric {name:?} cannot be read")),
        None => Ok(request),
    }
}

fn metrics_of(request: &MetricsRequest) -> impl Iterator<Item = &Metric> {
    request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics)
}

fn whole<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let value = T::deserialize(Doubles::of(&mut parser))?;
    parser.end()?;
    Ok(value)
}

/// The members of an `AnyValue`.
const ANY_VALUE: [&str; 7] =
    ["stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue"];

/// Removes every member that is null, and from what is an `AnyValue` those that are unknown; tells whether there was
/// one. Depth is bounded by the parser.
fn remove_unread(value: &mut Value, is_any_value: bool) -> bool {
    match value {
        Value::Object(members) => {
            let before = members.len();
            members.retain(|name, member| !member.is_null() && (!is_any_value || ANY_VALUE.contains(&name.as_str())));
            let removed = members.len() < before;
            members.iter_mut().fold(removed, |found, (name, member)| {
                let of_list = match member {
                    Value::Object(list) if name == "arrayValue" => remove_of_list(list),
                    _ => false,
                };
                let is_any_value = matches!(name.as_str(), "value" | "body");
                remove_unread(member, is_any_value) | of_list | found
            })
        }
        Value::Array(items) => items.iter_mut().fold(false, |found, item| remove_unread(item, false) | found),
        _ => false,
    }
}

/// The same of the values of an `ArrayValue`.
fn remove_of_list(list: &mut Map<String, Value>) -> bool {
    match list.get_mut("values") {
        Some(Value::Array(items)) => items.iter_mut().fold(false, |found, item| remove_unread(item, true) | found),
        _ => false,
    }
}
