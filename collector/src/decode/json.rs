//! Reads a JSON request and gives its records to the same sinks as protobuf.
//!
//! A request is walked record by record, and only one record at a time is an object. Where the direct reading fails, the
//! record is read once more without members that are `null`, which protobuf's JSON takes for absent, and without members
//! of values that OTLP does not know yet, which it ignores: the generated types refuse both. Senders that write neither,
//! which is nearly all, never pay for it.

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Sink;
use super::logs::Logs;
use super::metrics::Metrics;
use super::spans::Spans;
use super::wire::{MAX_PARTS, SMALL_BYTES};
use doubles::Doubles;
use survey::surveyed;
use walk::{Level, Names, Visit, walk};

mod walk;

mod survey;

mod doubles;

mod metric;

mod protobuf;

pub(crate) use protobuf::protobuf_of;

const TRACES: Names = Names { resources: "resourceSpans", scopes: "scopeSpans", records: "spans" };
const METRICS: Names = Names { resources: "resourceMetrics", scopes: "scopeMetrics", records: "metrics" };
const LOGS: Names = Names { resources: "resourceLogs", scopes: "scopeLogs", records: "logRecords" };

/// Gives every span of the body to the sink.
pub(super) fn spans<'a>(body: &[u8], sink: &mut Spans<'a>) -> Result<(), String> {
    walk(body, &TRACES, &mut Records { sink, encoded: Vec::new(), give: give::<Spans<'a>> })
}

/// Gives every metric of the body to the sink.
pub(super) fn metrics(body: &[u8], sink: &mut Metrics) -> Result<(), String> {
    walk(body, &METRICS, &mut Records { sink, encoded: Vec::new(), give: give_metric })
}

/// Gives every log record of the body to the sink.
pub(super) fn logs<'a>(body: &[u8], sink: &mut Logs<'a>) -> Result<(), String> {
    walk(body, &LOGS, &mut Records { sink, encoded: Vec::new(), give: give::<Logs<'a>> })
}

/// Hands what a walk finds to a sink.
struct Records<'s, S> {
    sink: &'s mut S,
    /// Room for a record as protobuf.
    encoded: Vec<u8>,
    give: fn(&mut S, &str, &mut Vec<u8>) -> Result<(), String>,
}

impl<'a, S: Sink<'a>> Visit for Records<'_, S> {
    fn begin(&mut self, level: Level, description: Option<&str>) -> Result<(), String> {
        match level {
            Level::Request => {}
            Level::Resource => self.sink.resource(&described::<Resource>(description)?),
            Level::Scope => self.sink.scope(&described::<InstrumentationScope>(description)?),
        }
        Ok(())
    }

    fn record(&mut self, text: &str) -> Result<(), String> {
        (self.give)(self.sink, text, &mut self.encoded)
    }
}

fn give<'a, S: Sink<'a, Record: DeserializeOwned>>(
    sink: &mut S,
    text: &str,
    encoded: &mut Vec<u8>,
) -> Result<(), String> {
    match object::<S::Record>(text)? {
        Some(record) => {
            encoded.clear();
            record.encode(encoded).map_err(|error| error.to_string())?;
            sink.record(&record, encoded);
        }
        None => sink.refuse_outsized(),
    }
    Ok(())
}

fn give_metric(sink: &mut Metrics, text: &str, _encoded: &mut Vec<u8>) -> Result<(), String> {
    if text.len() <= SMALL_BYTES {
        match metric::small(text)? {
            Some(metric) => sink.record(&metric, &[]),
            None => sink.refuse_outsized(),
        }
        return Ok(());
    }
    match metric::metric(text)? {
        Some(metric) => {
            sink.encoded(&metric.encoded)?;
            (0..metric.outsized).for_each(|_| sink.refuse_outsized());
        }
        None => sink.refuse_outsized(),
    }
    Ok(())
}

/// A resource or scope; one without a description is as an empty one.
fn described<T: DeserializeOwned + Default>(description: Option<&str>) -> Result<T, String> {
    let Some(text) = description else { return Ok(T::default()) };
    object(text)?.ok_or_else(|| format!("a resource or scope has more than {MAX_PARTS} parts"))
}

/// A part of a request as an object; none if that would take more memory than any honest one.
fn object<T: DeserializeOwned>(text: &str) -> Result<Option<T>, String> {
    // The derived readers also take a list of members for an object.
    if !text.starts_with('{') {
        return Err("a part of it is no JSON object".to_owned());
    }
    let Some(text) = surveyed(text) else { return Ok(None) };
    let read = direct(&text).or_else(|error| {
        let Ok(mut value) = serde_json::from_str::<Value>(&text) else { return Err(error.to_string()) };
        if !remove_unread(&mut value, false) {
            return Err(error.to_string());
        }
        T::deserialize(Doubles::of(value)).map_err(|_| error.to_string())
    });
    read.map(Some)
}

fn direct<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(text);
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
