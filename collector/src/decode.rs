//! Decodes OTLP requests into Arrow: one request becomes one batch of its signal's table.
//!
//! A protobuf body is walked record by record. Spans and log records are read where they lie, as numbers and slices of
//! the body; of points one at a time exists as an object. Decoding the whole message first was rejected, since its
//! tree is several times the size of the body. JSON has no such walk: its tree is built, then given to the same sinks. Deciding what a record means happens here and is pure:
//! no clock is read, nothing is logged, nothing is counted outside the returned value.
//!
//! A bad record costs itself, never its neighbours. Bytes that are no OTLP cost the whole request.

pub use mapping::{BadMapping, Mapping, MappingFault};
pub use senders::Senders;

use arrow::array::RecordBatch;
use lariat_schema::vocabulary::Signal;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use xxhash_rust::xxh3::xxh3_128_with_seed;

mod wire;

mod json;

mod scan;

mod seen;

mod view;

mod mapping;

mod spans;

mod selection;

mod metrics;

mod logs;

mod attributes;

mod columns;

mod rows;

mod origin;

mod senders;

mod shapes;

mod lists;

mod arrays;

pub(crate) use json::protobuf_of as protobuf_of_json;

#[cfg(test)]
mod tests;

/// One OTLP request, decoded. The batch has the whole schema of its signal's table (`spans`, `metrics` or `logs`);
/// `observed_time` holds the time of decoding until the commit replaces it, `adjusted_count` is 1 and `keep_reason` is
/// `undecided` (spans) or `always` until the keeping stage decides.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Which signal, and so which table.
    pub signal: Signal,
    /// The accepted records, a row each.
    pub batch: RecordBatch,
    /// For each row the key that a duplicate shares: of a span its trace and span id, of a point its series and time,
    /// of a log record its content.
    pub keys: Vec<u128>,
    /// For each row a hash of its content: the same key with other content is a conflict, not a duplicate.
    pub contents: Vec<u64>,
    /// Hash of the request's uncompressed body: a retry resends the same bytes.
    pub fingerprint: u128,
    /// Length of the uncompressed body in bytes.
    pub body_bytes: usize,
    /// Records refused, to be reported as `partial_success`.
    pub rejected: u64,
    /// Why, for the first of them; with none refused, a warning.
    pub reason: Option<String>,
    /// Whether the sender may name `account_id`, `profile`, `decision_seq` and thresholds.
    pub trusted: bool,
}

/// The two encodings of an OTLP body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Protocol buffers.
    Protobuf,
    /// OTLP's JSON: ids in hexadecimal, 64-bit integers as text.
    Json,
}

/// What is known of a body before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Which request message it holds.
    pub signal: Signal,
    /// How it is encoded.
    pub encoding: Encoding,
    /// Whether the sender may name `account_id`, `profile`, `decision_seq` and thresholds.
    pub trusted: bool,
}

/// The outcome of decoding a body.
#[derive(Debug, Clone)]
pub struct Decoding {
    /// The request as rows.
    pub decoded: Decoded,
    /// Decision events whose parallel arrays do not match: kept in `events` as they came.
    pub malformed_selections: u64,
}

/// Bytes that are no OTLP request of the stated encoding: the sender's fault, the same bytes never succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body is no {signal} request in {encoding}: {reason}")]
pub struct Malformed {
    /// The request that was expected.
    pub signal: Signal,
    /// The encoding that was expected.
    pub encoding: &'static str,
    /// What is wrong, as the parser says it.
    pub reason: String,
}

/// Most bytes that the rows of one request may take. A resource is repeated in each of its rows, so that a small body
/// can stand for a huge batch: records beyond this are rejected, and the sender told to send less at once.
pub const MAX_DECODED_BYTES: usize = 32 << 20;

/// Takes the records of one request, in order, each after its resource and scope.
trait Sink<'a> {
    /// What a record is on the wire: a span, a metric (which holds points) or a log record.
    type Record: prost::Message + Default;
    /// The records from here on come from this resource.
    fn resource(&mut self, resource: &Resource);
    /// The records from here on come from this scope of the resource.
    fn scope(&mut self, scope: &InstrumentationScope);
    /// So many records of the scope come next.
    fn expect(&mut self, _records: usize) {}
    /// One record, and its bytes as protobuf.
    fn record(&mut self, record: &Self::Record, encoded: &[u8]);
    /// A record that is refused unseen, for the memory it would take.
    fn refuse_outsized(&mut self);
    /// One record as protobuf; the bytes may be none.
    fn encoded(&mut self, encoded: &'a [u8]) -> Result<(), String> {
        match wire::object::<Self::Record>(encoded)? {
            Some(record) => self.record(&record, encoded),
            None => self.refuse_outsized(),
        }
        Ok(())
    }
}

/// Decodes an uncompressed body. `now_unix_nanos` becomes `observed_time`, and the time of log records without any.
///
/// # Errors
/// The bytes are no such request.
pub fn decode(body: &[u8], form: Form, now_unix_nanos: i64) -> Result<Decoding, Malformed> {
    decode_mapped(body, form, now_unix_nanos, None, None)
}

/// The same, with spans of other proxies as routing decisions where the mapping says so, and the columns that the sender's
/// last request had too taken from there.
///
/// # Errors
/// The bytes are no such request.
pub fn decode_mapped(
    body: &[u8],
    form: Form,
    now_unix_nanos: i64,
    mapping: Option<&Mapping>,
    senders: Option<&Senders>,
) -> Result<Decoding, Malformed> {
    let finished = match form.signal {
        Signal::Traces => {
            let mut sink = spans::Spans::new(form.trusted, now_unix_nanos).with_mapping(mapping);
            match form.encoding {
                Encoding::Protobuf => wire::walk(body, &mut sink),
                Encoding::Json => json::spans(body, &mut sink),
            }
            .map(|()| sink.finish(senders))
        }
        Signal::Metrics => {
            let mut sink = metrics::Metrics::new(form.trusted, now_unix_nanos);
            match form.encoding {
                Encoding::Protobuf => wire::walk(body, &mut sink),
                Encoding::Json => json::metrics(body, &mut sink),
            }
            .map(|()| sink.finish(senders))
        }
        Signal::Logs => {
            let mut sink = logs::Logs::new(form.trusted, now_unix_nanos);
            match form.encoding {
                Encoding::Protobuf => wire::walk(body, &mut sink),
                Encoding::Json => json::logs(body, &mut sink),
            }
            .map(|()| sink.finish(senders))
        }
    };
    let finished = finished.map_err(|reason| Malformed {
        signal: form.signal,
        encoding: match form.encoding {
            Encoding::Protobuf => "protobuf",
            Encoding::Json => "JSON",
        },
        reason,
    })?;
    let decoded = Decoded {
        signal: form.signal,
        batch: finished.batch,
        keys: finished.keys,
        contents: finished.contents,
        fingerprint: fingerprint(form.signal, body),
        body_bytes: body.len(),
        rejected: finished.rejected,
        reason: finished.reason,
        trusted: form.trusted,
    };
    Ok(Decoding { decoded, malformed_selections: finished.malformed_selections })
}

/// The same bytes are another request for another signal, so the signal is the seed.
fn fingerprint(signal: Signal, body: &[u8]) -> u128 {
    xxh3_128_with_seed(
        body,
        match signal {
            Signal::Traces => 1,
            Signal::Metrics => 2,
            Signal::Logs => 3,
        },
    )
}
