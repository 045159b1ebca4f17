//! Decisions and attempts as spans. Each attribute is named by its constant in the schema, and one that has no value is
//! left out: an empty text would count as a value in every query.

use lariat_schema::attributes as key;
use lariat_schema::vocabulary::{AttemptKind, Outcome, Strategy};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span, status::StatusCode};

use super::{Attempt, DecisionRecord, DigestKey, Scope, Selection, units};
use crate::trace_context::Trace;

/// Bits of a span's or link's flags above those of the trace: it is known whether the context is remote, and it is.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;
/// Longest text of a client that is repeated.
const MAX_CLIENT_TEXT: usize = 128;

/// Attributes under construction.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    fn push(&mut self, key: &str, value: Value) {
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
    #[allow(clippy::cast_precision_loss, reason = "units stay far below 2^53")]
    pub(super) fn double(&mut self, key: &str, value: u64) {
        self.push(key, Value::DoubleValue(value as f64));
    }
    pub(super) fn bool(&mut self, key: &str, value: bool) {
        self.push(key, Value::BoolValue(value));
    }
    fn list(&mut self, key: &str, values: impl Iterator<Item = Value>) {
        let values = values.map(|value| AnyValue { value: Some(value) }).collect();
        self.push(key, Value::ArrayValue(ArrayValue { values }));
    }
}

/// Cut at a character's boundary.
fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_CLIENT_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn scope_attributes(scope: &Scope) -> Attributes {
    let mut out = Attributes(Vec::with_capacity(40));
    out.text(key::RPC_SYSTEM_NAME, "jsonrpc");
    out.text(key::RPC_METHOD, scope.method);
    if let Some(original) = &scope.method_original {
        out.text(key::RPC_METHOD_ORIGINAL, cut(original));
    }
    out.text(key::JSONRPC_PROTOCOL_VERSION, "2.0");
    out.text(key::REQUEST_ID, scope.request_id.to_string());
    out.int(key::BATCH_INDEX, scope.batch_index);
    out.text(key::PROFILE, scope.profile.as_str());
    out.text(key::CHAIN, scope.chain.as_str());
    out.int(key::CHAIN_ID, scope.chain_id);
    out.text(key::ORIGIN, scope.origin.as_str());
    out
}

fn name(scope: &Scope) -> String {
    if scope.method_original.is_some() { "jsonrpc".to_owned() } else { scope.method.to_owned() }
}

/// Code and category of an error, and the status that follows.
fn failure(
    out: &mut Attributes,
    code: Option<i64>,
    category: Option<lariat_schema::vocabulary::ErrorCategory>,
) -> Option<Status> {
    if let Some(code) = code {
        out.text(key::RPC_STATUS_CODE, code.to_string());
    }
    let category = category?;
    out.text(key::ERROR_TYPE, code.map_or_else(|| category.as_str().to_owned(), |code| code.to_string()));
    out.text(key::ERROR_CATEGORY, category.as_str());
    Some(Status { code: StatusCode::Error.into(), message: String::new() })
}

fn chosen(out: &mut Attributes, chosen: &super::Chosen) {
    out.text(key::PROVIDER_ID, chosen.provider_id.as_str());
    out.text(key::INSTANCE_ID, chosen.instance_id.as_str());
    out.text(key::TRANSPORT, chosen.transport.as_str());
}

/// The SERVER span of a decision, followed by the CLIENT spans of its attempts.
pub(super) fn of_decision(record: &DecisionRecord, digests: &DigestKey, out: &mut Vec<Span>) {
    let (timing, ending) = (&record.timing, &record.ending);
    let mut attributes = scope_attributes(&record.scope);
    let a = &mut attributes;
    if let Some(id) = record.jsonrpc_id.as_deref().filter(|id| *id != "null") {
        a.text(key::JSONRPC_REQUEST_ID, cut(id.trim_matches('"')));
    }
    a.int(key::BATCH_SIZE, record.scope.batch_size);
    a.int(key::DECISION_SEQ, record.seq);
    a.text(key::STRATEGY, record.strategy.as_str());
    a.text(key::CLIENT_TRANSPORT, record.client_transport.as_str());
    a.text(key::ANSWERED_BY, ending.answered_by.as_str());
    a.text(key::RESULT, ending.result.as_str());
    let status = failure(a, ending.code, ending.category);
    if let Some(provider) = &ending.provider {
        chosen(a, provider);
        if let Some(lag) = provider.head_lag_blocks {
            a.int(key::HEAD_LAG_BLOCKS, lag);
        }
    }
    a.int(key::ATTEMPTS, i64::try_from(record.attempts.len()).unwrap_or(i64::MAX));
    let failovers = record.attempts.iter().filter(|attempt| attempt.kind == AttemptKind::Failover).count();
    a.int(key::FAILOVERS, i64::try_from(failovers).unwrap_or(i64::MAX));
    if let Some(cache) = ending.cache {
        a.text(key::CACHE, cache.as_str());
    }
    if let Some(request_id) = ending.coalesced_with {
        a.text(key::COALESCED_WITH, request_id.to_string());
    }
    a.int(key::SELECTION_NS, timing.selection_ns);
    a.int(key::PROVIDER_NS, timing.provider_ns);
    a.int(key::OVERHEAD_NS, timing.duration_ns.saturating_sub(timing.selection_ns + timing.provider_ns));
    a.int(key::BYTES_IN, record.bytes_in);
    a.int(key::BYTES_OUT, ending.bytes_out);
    a.double(key::BILLABLE_UNITS, units::billable(record.scope.method, record.bytes_in, ending.bytes_out));
    let made = [(key::PARAMS_DIGEST, &record.params_digest), (key::RESPONSE_DIGEST, &ending.response_digest)];
    for (key, digest) in made {
        if let Some(digest) = digest {
            a.text(key, digests.write(digest));
        }
    }
    a.text(key::POLICY_HASH, &*record.policy_hash);
    let events = record.selections.iter().enumerate().map(|(i, selection)| of_selection(i + 1, selection)).collect();
    let trace = &record.scope.trace;
    let parent = match trace {
        Trace::Continued(context) => Some(context.span_id.to_vec()),
        Trace::Begun { .. } => None,
    };
    let remote = if parent.is_some() { REMOTE_KNOWN | REMOTE } else { REMOTE_KNOWN };
    out.push(Span {
        trace_id: record.scope.trace_id().to_vec(),
        span_id: record.span_id.to_vec(),
        parent_span_id: parent.unwrap_or_default(),
        trace_state: state(trace),
        flags: u32::from(trace.flags()) | remote,
        name: name(&record.scope),
        kind: span::SpanKind::Server.into(),
        start_time_unix_nano: timing.start_unix_nanos,
        end_time_unix_nano: timing.start_unix_nanos + timing.duration_ns,
        attributes: attributes.0,
        events,
        links: link(trace).into_iter().collect(),
        status,
        ..Default::default()
    });
    for attempt in &record.attempts {
        out.push(of_attempt(&record.scope, attempt, Some((record.span_id, record.strategy))));
    }
}

fn state(trace: &Trace) -> String {
    match trace {
        Trace::Continued(context) => context.recorded_state(),
        Trace::Begun { .. } => String::new(),
    }
}

/// The client's context, where it is not the parent.
fn link(trace: &Trace) -> Option<span::Link> {
    let Trace::Begun { link: Some(context) } = trace else { return None };
    Some(span::Link {
        trace_id: context.trace_id.to_vec(),
        span_id: context.span_id.to_vec(),
        trace_state: context.recorded_state(),
        flags: u32::from(context.flags) | REMOTE_KNOWN | REMOTE,
        ..Default::default()
    })
}

fn of_selection(ordinal: usize, selection: &Selection) -> span::Event {
    let decision = &selection.decision;
    let mut out = Attributes::default();
    out.int(key::SELECTION, i64::try_from(ordinal).unwrap_or(i64::MAX));
    let text = |text: &str| Value::StringValue(text.to_owned());
    out.list(key::ELIGIBLE_CHANNELS, decision.eligible.iter().map(|it| text(&it.name)));
    out.list(key::ELIGIBLE_SCORES, decision.eligible.iter().map(|it| Value::DoubleValue(it.score)));
    out.list(key::ELIGIBLE_INPUTS, decision.eligible.iter().map(|it| Value::StringValue(it.inputs.to_string())));
    out.list(key::ELIGIBLE_PROBABILITIES, decision.eligible.iter().map(|it| Value::DoubleValue(it.probability)));
    out.list(key::EXCLUDED_CHANNELS, decision.excluded.iter().map(|it| text(&it.name)));
    out.list(key::EXCLUDED_REASONS, decision.excluded.iter().map(|it| text(it.reason.as_str())));
    if decision.fail_open {
        out.bool(key::FAIL_OPEN, true);
    }
    out.int(key::SNAPSHOT, decision.snapshot);
    out.text(key::SEED, format!("{:016x}", decision.seed));
    span::Event {
        time_unix_nano: selection.at_unix_nanos,
        name: lariat_schema::events::DECISION.to_owned(),
        attributes: out.0,
        dropped_attributes_count: 0,
    }
}

/// The CLIENT span of an attempt; a probe's has no parent.
///
/// `decision` is its span and strategy.
pub(super) fn of_attempt(scope: &Scope, attempt: &Attempt, decision: Option<([u8; 8], Strategy)>) -> Span {
    let mut out = scope_attributes(scope);
    if let Some((_, strategy)) = decision {
        out.text(key::STRATEGY, strategy.as_str());
    }
    chosen(&mut out, &attempt.chosen);
    out.int(key::ORDINAL, attempt.ordinal);
    out.text(key::KIND, attempt.kind.as_str());
    out.text(key::OUTCOME, attempt.end.outcome.as_str());
    if matches!(attempt.end.outcome, Outcome::Timeout | Outcome::Cancelled) {
        out.bool(key::CENSORED, true);
    }
    out.text(key::CIRCUIT_STATE, attempt.circuit.0.as_str());
    out.int(key::CIRCUIT_EPOCH, attempt.circuit.1);
    out.text(key::DISPATCHED, attempt.end.dispatched.as_str());
    if let Some(failure) = attempt.end.failure {
        out.text(key::TRANSPORT_FAILURE, failure.as_str());
    }
    if let Some(status) = attempt.end.http_status {
        out.int(key::HTTP_STATUS, status);
    }
    if attempt.ordinal > 1 {
        out.int(key::HTTP_RESEND_COUNT, attempt.ordinal - 1);
    }
    out.text(key::SERVER_ADDRESS, &*attempt.server.0);
    out.int(key::SERVER_PORT, attempt.server.1);
    let status = failure(&mut out, attempt.end.code, attempt.end.category);
    Span {
        trace_id: scope.trace_id().to_vec(),
        span_id: attempt.span_id.to_vec(),
        parent_span_id: decision.map(|(id, _)| id.to_vec()).unwrap_or_default(),
        trace_state: state(&scope.trace),
        flags: u32::from(scope.trace.flags()) | REMOTE_KNOWN,
        name: name(scope),
        kind: span::SpanKind::Client.into(),
        start_time_unix_nano: attempt.start_unix_nanos,
        end_time_unix_nano: attempt.start_unix_nanos + attempt.duration_ns,
        attributes: out.0,
        status,
        ..Default::default()
    }
}
