//! A JSON request as protobuf, record by record: the same bytes for the same body, as a whole message would be encoded.

use lariat_schema::vocabulary::Signal;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::metric::metric;
use super::walk::{Level, Visit, walk};
use super::{LOGS, METRICS, TRACES, described, object};

/// Fields of a resource or scope: what describes it, what it contains, the URL of its schema.
const DESCRIPTION: u32 = 1;
const CONTENT: u32 = 2;
const SCHEMA_URL: u32 = 3;

/// The request as protobuf. A record that would take more memory than any honest one is left out, as its receipt said.
pub(crate) fn protobuf_of(signal: Signal, body: &[u8]) -> Result<Vec<u8>, String> {
    let (names, record): (_, Record) = match signal {
        Signal::Traces => (&TRACES, |text| Ok(object::<Span>(text)?.map(|span| span.encode_to_vec()))),
        Signal::Metrics => (&METRICS, |text| Ok(metric(text)?.map(|metric| metric.encoded))),
        Signal::Logs => (&LOGS, |text| Ok(object::<LogRecord>(text)?.map(|record| record.encode_to_vec()))),
    };
    let mut written = Written { record, request: Vec::new(), resource: Vec::new(), scope: Vec::new() };
    walk(body, names, &mut written)?;
    Ok(written.request)
}

/// Makes protobuf of a record's text.
type Record = fn(&str) -> Result<Option<Vec<u8>>, String>;

/// The request so far, and the resource and the scope that are open.
struct Written {
    record: Record,
    request: Vec<u8>,
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Written {
    fn at(&mut self, level: Level) -> &mut Vec<u8> {
        match level {
            Level::Request => &mut self.request,
            Level::Resource => &mut self.resource,
            Level::Scope => &mut self.scope,
        }
    }
}

impl Visit for Written {
    fn begin(&mut self, level: Level, description: Option<&str>) -> Result<(), String> {
        self.at(level).clear();
        if description.is_some() {
            let encoded = match level {
                Level::Resource => described::<Resource>(description)?.encode_to_vec(),
                Level::Request | Level::Scope => described::<InstrumentationScope>(description)?.encode_to_vec(),
            };
            put(DESCRIPTION, &encoded, self.at(level));
        }
        Ok(())
    }

    fn record(&mut self, text: &str) -> Result<(), String> {
        if let Some(encoded) = (self.record)(text)? {
            put(CONTENT, &encoded, &mut self.scope);
        }
        Ok(())
    }

    fn end(&mut self, level: Level, schema_url: Option<&str>) {
        if let Some(url) = schema_url.filter(|url| !url.is_empty()) {
            put(SCHEMA_URL, url.as_bytes(), self.at(level));
        }
        match level {
            Level::Scope => put(CONTENT, &self.scope, &mut self.resource),
            Level::Resource => put(DESCRIPTION, &self.resource, &mut self.request),
            Level::Request => {}
        }
    }
}

/// Appends a message or text as a field.
pub(super) fn put(field: u32, bytes: &[u8], to: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(crate::columns::count(bytes.len()), to);
    to.extend_from_slice(bytes);
}
