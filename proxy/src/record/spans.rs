//! Decisions and attempts as spans. Each attribute is named by its constant in the schema, and one that has no value is
//! left out: an empty text would count as a value in every query. What a span says is told once, to a [`Sink`]; that
//! is the wire, and in the tests the generated types.

use std::fmt;

use lariat_schema::attributes as key;
use lariat_schema::vocabulary::{AttemptKind, ErrorCategory, Outcome, Strategy};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};

use super::wire::Wire;
use super::{Attempt, Chosen, DecisionRecord, DigestKey, Scope, Selection, units};
use crate::trace_context::{Trace, TraceContext};

/// Bits of a span's or link's flags above those of the trace: it is known whether the context is remote, and it is.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;
/// Longest text of a client that is repeated.
const MAX_CLIENT_TEXT: usize = 128;

/// Attributes under construction.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    pub(super) fn push(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..Default::default()
        });
    }
    pub(super) fn text(&mut self, key: &str, value: impl Into<String>) {
        self.push(key, Value::StringValue(value.into()));
    }
    pub(super) fn int(&mut self, key: &str, value: impl TryInto<i64>) {
        self.push(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }
    pub(super) fn bool(&mut self, key: &str, value: bool) {
        self.push(key, Value::BoolValue(value));
    }
}

/// Where the attributes of a span or of its event go.
pub(super) trait Sink {
    fn text(&mut self, key: &str, value: &str);
    fn int(&mut self, key: &str, value: i64);
    fn double(&mut self, key: &str, value: f64);
    fn bool(&mut self, key: &str, value: bool);
    fn texts<T: fmt::Display>(&mut self, key: &str, values: impl Iterator<Item = T>);
    fn doubles(&mut self, key: &str, values: impl Iterator<Item = f64>);
}

/// A number of the record as OTLP has them.
fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// The beginning of a client's text, cut at a character's boundary.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_CLIENT_TEXT)]
}

fn of_scope(scope: &Scope, out: &mut impl Sink) {
    out.text(key::RPC_SYSTEM_NAME, "jsonrpc");
    out.text(key::RPC_METHOD, scope.method);
    if let Some(original) = &scope.method_original {
        out.text(key::RPC_METHOD_ORIGINAL, cut(original));
    }
    out.text(key::JSONRPC_PROTOCOL_VERSION, "2.0");
    out.text(key::REQUEST_ID, scope.request_id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
    out.int(key::BATCH_INDEX, scope.batch_index.into());
    out.text(key::PROFILE, scope.profile.as_str());
    out.text(key::CHAIN, scope.chain.as_str());
    out.int(key::CHAIN_ID, signed(scope.chain_id));
    out.text(key::ORIGIN, scope.origin.as_str());
}

/// Code and category of an error.
fn of_failure(code: Option<i64>, category: Option<ErrorCategory>, out: &mut impl Sink) {
    let code = code.map(|code| code.to_string());
    if let Some(code) = &code {
        out.text(key::RPC_STATUS_CODE, code);
    }
    if let Some(category) = category {
        out.text(key::ERROR_TYPE, code.as_deref().unwrap_or(category.as_str()));
        out.text(key::ERROR_CATEGORY, category.as_str());
    }
}

fn of_chosen(chosen: &Chosen, out: &mut impl Sink) {
    out.text(key::PROVIDER_ID, chosen.provider_id.as_str());
    out.text(key::INSTANCE_ID, chosen.instance_id.as_str());
    out.text(key::TRANSPORT, chosen.transport.as_str());
}

/// What the SERVER span of a decision says.
pub(super) fn of_decision(record: &DecisionRecord, digests: &DigestKey, out: &mut impl Sink) {
    let (timing, ending) = (&record.timing, &record.ending);
    of_scope(&record.scope, out);
    if let Some(id) = record.jsonrpc_id.as_deref().filter(|id| *id != "null") {
        out.text(key::JSONRPC_REQUEST_ID, cut(id.trim_matches('"')));
    }
    out.int(key::BATCH_SIZE, record.scope.batch_size.into());
    out.int(key::DECISION_SEQ, signed(record.seq));
    out.text(key::STRATEGY, record.strategy.as_str());
    out.text(key::CLIENT_TRANSPORT, record.client_transport.as_str());
    out.text(key::ANSWERED_BY, ending.answered_by.as_str());
    out.text(key::RESULT, ending.result.as_str());
    of_failure(ending.code, ending.category, out);
    if let Some(provider) = &ending.provider {
        of_chosen(provider, out);
        if let Some(lag) = provider.head_lag_blocks {
            out.int(key::HEAD_LAG_BLOCKS, lag);
        }
    }
    out.int(key::ATTEMPTS, signed(record.attempts.len()));
    let failovers = record.attempts.iter().filter(|attempt| attempt.kind == AttemptKind::Failover).count();
    out.int(key::FAILOVERS, signed(failovers));
    if let Some(cache) = ending.cache {
        out.text(key::CACHE, cache.as_str());
    }
    if let Some(request_id) = ending.coalesced_with {
        out.text(key::COALESCED_WITH, request_id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
    }
    out.int(key::SELECTION_NS, signed(timing.selection_ns));
    out.int(key::PROVIDER_NS, signed(timing.provider_ns));
    out.int(key::OVERHEAD_NS, signed(timing.duration_ns.saturating_sub(timing.selection_ns + timing.provider_ns)));
    out.int(key::BYTES_IN, signed(record.bytes_in));
    out.int(key::BYTES_OUT, signed(ending.bytes_out));
    #[allow(clippy::cast_precision_loss, reason = "units stay far below 2^53")]
    out.double(key::BILLABLE_UNITS, units::billable(record.scope.method, record.bytes_in, ending.bytes_out) as f64);
    let made = [(key::PARAMS_DIGEST, &record.params_digest), (key::RESPONSE_DIGEST, &ending.response_digest)];
    for (key, digest) in made {
        if let Some(digest) = digest {
            out.text(key, digests.write(digest).as_str());
        }
    }
    out.text(key::POLICY_HASH, &record.policy_hash);
}

/// What the event of a decision's selection says.
pub(super) fn of_selection(ordinal: usize, selection: &Selection, out: &mut impl Sink) {
    let decision = &selection.decision;
    out.int(key::SELECTION, signed(ordinal));
    out.texts(key::ELIGIBLE_CHANNELS, decision.eligible.iter().map(|it| &it.name));
    out.doubles(key::ELIGIBLE_SCORES, decision.eligible.iter().map(|it| it.score));
    out.texts(key::ELIGIBLE_INPUTS, decision.eligible.iter().map(|it| &it.inputs));
    out.doubles(key::ELIGIBLE_PROBABILITIES, decision.eligible.iter().map(|it| it.probability));
    out.texts(key::EXCLUDED_CHANNELS, decision.excluded.iter().map(|it| &it.name));
    out.texts(key::EXCLUDED_REASONS, decision.excluded.iter().map(|it| it.reason.as_str()));
    if decision.fail_open {
        out.bool(key::FAIL_OPEN, true);
    }
    out.int(key::SNAPSHOT, signed(decision.snapshot));
}

/// What the CLIENT span of an attempt says; `strategy` is that of its decision.
pub(super) fn of_attempt(scope: &Scope, attempt: &Attempt, strategy: Option<Strategy>, out: &mut impl Sink) {
    of_scope(scope, out);
    if let Some(strategy) = strategy {
        out.text(key::STRATEGY, strategy.as_str());
    }
    of_chosen(&attempt.chosen, out);
    out.int(key::ORDINAL, attempt.ordinal.into());
    out.text(key::KIND, attempt.kind.as_str());
    out.text(key::OUTCOME, attempt.end.outcome.as_str());
    if matches!(attempt.end.outcome, Outcome::Timeout | Outcome::Cancelled) {
        out.bool(key::CENSORED, true);
    }
    out.text(key::CIRCUIT_STATE, attempt.circuit.0.as_str());
    out.int(key::CIRCUIT_EPOCH, signed(attempt.circuit.1));
    out.text(key::DISPATCHED, attempt.end.dispatched.as_str());
    if let Some(failure) = attempt.end.failure {
        out.text(key::TRANSPORT_FAILURE, failure.as_str());
    }
    if let Some(status) = attempt.end.http_status {
        out.int(key::HTTP_STATUS, status.into());
    }
    if attempt.ordinal > 1 {
        out.int(key::HTTP_RESEND_COUNT, (attempt.ordinal - 1).into());
    }
    out.text(key::SERVER_ADDRESS, &attempt.server.0);
    out.int(key::SERVER_PORT, attempt.server.1.into());
    of_failure(attempt.end.code, attempt.end.category, out);
}

/// What a span has besides its attributes and events.
#[derive(Debug)]
pub(super) struct Frame<'r> {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) parent: Option<[u8; 8]>,
    pub(super) state: String,
    pub(super) flags: u32,
    pub(super) name: &'r str,
    pub(super) kind: SpanKind,
    pub(super) start_unix_nanos: u64,
    pub(super) end_unix_nanos: u64,
    /// The client's context, where it is not the parent.
    pub(super) link: Option<&'r TraceContext>,
    pub(super) failed: bool,
}

fn name(scope: &Scope) -> &str {
    if scope.method_original.is_some() { "jsonrpc" } else { scope.method }
}

fn state(trace: &Trace) -> String {
    match trace {
        Trace::Continued(context) => context.recorded_state(),
        Trace::Begun { .. } => String::new(),
    }
}

impl<'r> Frame<'r> {
    /// Of the SERVER span of a decision.
    pub(super) fn of_decision(record: &'r DecisionRecord) -> Self {
        let (scope, timing) = (&record.scope, &record.timing);
        let (parent, link) = match &scope.trace {
            Trace::Continued(context) => (Some(context.span_id), None),
            Trace::Begun { link } => (None, link.as_deref()),
        };
        let remote = if parent.is_some() { REMOTE_KNOWN | REMOTE } else { REMOTE_KNOWN };
        Self {
            trace_id: scope.trace_id(),
            span_id: record.span_id,
            parent,
            state: state(&scope.trace),
            flags: u32::from(scope.trace.flags()) | remote,
            name: name(scope),
            kind: SpanKind::Server,
            start_unix_nanos: timing.start_unix_nanos,
            end_unix_nanos: timing.start_unix_nanos + timing.duration_ns,
            link,
            failed: record.ending.category.is_some(),
        }
    }

    /// Of the CLIENT span of an attempt; a probe's has no parent.
    pub(super) fn of_attempt(scope: &'r Scope, attempt: &Attempt, parent: Option<[u8; 8]>) -> Self {
        Self {
            trace_id: scope.trace_id(),
            span_id: attempt.span_id,
            parent,
            state: state(&scope.trace),
            flags: u32::from(scope.trace.flags()) | REMOTE_KNOWN,
            name: name(scope),
            kind: SpanKind::Client,
            start_unix_nanos: attempt.start_unix_nanos,
            end_unix_nanos: attempt.start_unix_nanos + attempt.duration_ns,
            link: None,
            failed: attempt.end.category.is_some(),
        }
    }

    /// Writes what stands before the attributes, and what stands after the events.
    fn write(&self, wire: &mut Wire, inside: impl FnOnce(&mut Wire)) {
        wire.bytes(1, &self.trace_id);
        wire.bytes(2, &self.span_id);
        wire.bytes(3, self.state.as_bytes());
        wire.bytes(4, self.parent.as_ref().map_or(&[], |id| &id[..]));
        wire.bytes(5, self.name.as_bytes());
        wire.varint(6, self.kind as u64);
        wire.fixed64(7, self.start_unix_nanos);
        wire.fixed64(8, self.end_unix_nanos);
        inside(wire);
        if let Some(context) = self.link {
            wire.message(13, |wire| {
                wire.bytes(1, &context.trace_id);
                wire.bytes(2, &context.span_id);
                wire.bytes(3, context.recorded_state().as_bytes());
                wire.fixed32(6, link_flags(context));
            });
        }
        if self.failed {
            wire.message(15, |wire| wire.varint(3, StatusCode::Error as u64));
        }
        wire.fixed32(16, self.flags);
    }
}

/// Flags of a link to a client's context.
pub(super) fn link_flags(context: &TraceContext) -> u32 {
    u32::from(context.flags) | REMOTE_KNOWN | REMOTE
}

/// Field numbers of `ScopeSpans`, `Span` and `Span.Event`.
const SPANS: u32 = 2;
const ATTRIBUTES: u32 = 9;
const EVENTS: u32 = 11;
const EVENT_TIME: u32 = 1;
const EVENT_NAME: u32 = 2;
const EVENT_ATTRIBUTES: u32 = 3;

/// Spans that wait for others, as the field of the message that they will be sent in.
#[derive(Debug, Default)]
pub(super) struct Spans {
    wire: Wire,
    count: usize,
}

impl Spans {
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.wire.as_bytes()
    }

    /// Begins anew, in the same memory.
    pub(super) fn clear(&mut self) {
        self.wire.clear();
        self.count = 0;
    }

    /// Adds the SERVER span of a decision, followed by the CLIENT spans of its attempts.
    pub(super) fn add_decision(&mut self, record: &DecisionRecord, digests: &DigestKey) {
        self.add(&Frame::of_decision(record), |wire| {
            of_decision(record, digests, &mut wire.attributes(ATTRIBUTES));
            for (at, selection) in record.selections.iter().enumerate() {
                wire.message(EVENTS, |wire| {
                    wire.fixed64(EVENT_TIME, selection.at_unix_nanos);
                    wire.bytes(EVENT_NAME, lariat_schema::events::DECISION.as_bytes());
                    of_selection(at + 1, selection, &mut wire.attributes(EVENT_ATTRIBUTES));
                });
            }
        });
        for attempt in &record.attempts {
            self.add(&Frame::of_attempt(&record.scope, attempt, Some(record.span_id)), |wire| {
                of_attempt(&record.scope, attempt, Some(record.strategy), &mut wire.attributes(ATTRIBUTES));
            });
        }
    }

    /// Adds the CLIENT span of a probe.
    pub(super) fn add_probe(&mut self, scope: &Scope, attempt: &Attempt) {
        self.add(&Frame::of_attempt(scope, attempt, None), |wire| {
            of_attempt(scope, attempt, None, &mut wire.attributes(ATTRIBUTES));
        });
    }

    fn add(&mut self, frame: &Frame<'_>, inside: impl FnOnce(&mut Wire)) {
        self.wire.message(SPANS, |wire| frame.write(wire, inside));
        self.count += 1;
    }
}

/// Bytes as `N` hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    /// `N` is twice the number of bytes; of others nothing is written.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut digits = [b'0'; N];
        // Fails only where the lengths do not belong together.
        let _written = hex::encode_to_slice(bytes, &mut digits);
        Self(digits)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}
