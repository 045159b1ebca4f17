//! Decisions through their encoding and back: what was recorded is enough to decide again.

use lariat_schema::attributes as key;
use lariat_schema::ids::BootId;
use lariat_schema::seeds::selection_seed;
use lariat_schema::vocabulary::{ExclusionReason, Strategy, TransportFailure};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span, Status, span, status::StatusCode};
use proptest::prelude::*;
use prost::Message;

use super::spans::Frame;
use super::*;
use crate::decide::fleets::{Fleet, METHOD, fleets, strategies};
use crate::decide::{Tried, decide};
use crate::strategies::replay;
use crate::trace_context::TraceContext;

/// The decision's number.
const SEQ: u64 = 7;

fn record(fleet: &Fleet, strategy: Strategy, decisions: Vec<Decision>) -> DecisionRecord {
    let chain = &fleet.catalog.profiles[0].chains[0];
    DecisionRecord {
        scope: Scope {
            request_id: Uuid::now_v7(),
            trace: Trace::default(),
            batch_index: 0,
            batch_size: 1,
            profile: fleet.catalog.profiles[0].slug.clone(),
            chain: chain.key.clone(),
            chain_id: chain.chain_id,
            method: METHOD,
            method_original: None,
            origin: Origin::Client,
        },
        seq: SEQ,
        span_id: SpanIds::random().of_decision(SEQ),
        jsonrpc_id: None,
        strategy,
        client_transport: Transport::Http,
        policy_hash: fleet.catalog.policy_hash.clone(),
        bytes_in: 1_000,
        params_digest: None,
        timing: Timing::default(),
        selections: decisions.into_iter().map(|decision| Selection { at_unix_nanos: 1, decision }).collect(),
        attempts: Vec::new(),
        ending: Ending {
            answered_by: AnsweredBy::Provider,
            cache: None,
            coalesced_with: None,
            result: CallResult::Success,
            category: None,
            code: None,
            provider: None,
            bytes_out: 1_048,
            response_digest: None,
        },
    }
}

/// The spans as the collector would read them.
fn read(spans: &spans::Spans) -> Vec<Span> {
    ScopeSpans::decode(spans.as_bytes()).unwrap().spans
}

/// The SERVER span as the collector would read it.
fn sent(record: &DecisionRecord) -> Span {
    let mut spans = spans::Spans::default();
    spans.add_decision(record, &DigestKey::new(None));
    read(&spans).remove(0)
}

/// A span as values of the generated types.
fn made(frame: &Frame<'_>, attributes: Attributes, events: Vec<span::Event>) -> Span {
    Span {
        trace_id: frame.trace_id.to_vec(),
        span_id: frame.span_id.to_vec(),
        parent_span_id: frame.parent.map(|id| id.to_vec()).unwrap_or_default(),
        trace_state: frame.state.clone(),
        flags: frame.flags,
        name: frame.name.to_owned(),
        kind: frame.kind.into(),
        start_time_unix_nano: frame.start_unix_nanos,
        end_time_unix_nano: frame.end_unix_nanos,
        attributes: attributes.0,
        events,
        links: frame.link.iter().map(|context| link(context)).collect(),
        status: frame.failed.then(|| Status { code: StatusCode::Error.into(), message: String::new() }),
        ..Default::default()
    }
}

fn link(context: &TraceContext) -> span::Link {
    span::Link {
        trace_id: context.trace_id.to_vec(),
        span_id: context.span_id.to_vec(),
        trace_state: context.recorded_state(),
        flags: spans::link_flags(context),
        ..Default::default()
    }
}

/// The spans of a decision as values of the generated types.
fn all_made(record: &DecisionRecord, digests: &DigestKey) -> Vec<Span> {
    let attributes = |write: &dyn Fn(&mut Attributes)| {
        let mut out = Attributes::default();
        write(&mut out);
        out
    };
    let event = |(at, selection): (usize, &Selection)| span::Event {
        time_unix_nano: selection.at_unix_nanos,
        name: lariat_schema::events::DECISION.to_owned(),
        attributes: attributes(&|out| spans::of_selection(at + 1, selection, out)).0,
        dropped_attributes_count: 0,
    };
    let server = attributes(&|out| spans::of_decision(record, digests, out));
    let events = record.selections.iter().enumerate().map(event).collect();
    let attempts = record.attempts.iter().map(|attempt| {
        let attributes = attributes(&|out| spans::of_attempt(&record.scope, attempt, Some(record.strategy), out));
        made(&Frame::of_attempt(&record.scope, attempt, Some(record.span_id)), attributes, Vec::new())
    });
    std::iter::once(made(&Frame::of_decision(record), server, events)).chain(attempts).collect()
}

fn any_value(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn array(values: impl Iterator<Item = Value>) -> Value {
    Value::ArrayValue(ArrayValue { values: values.map(any_value).collect() })
}

impl spans::Sink for Attributes {
    fn text(&mut self, key: &str, value: &str) {
        Self::text(self, key, value);
    }
    fn int(&mut self, key: &str, value: i64) {
        Self::int(self, key, value);
    }
    fn double(&mut self, key: &str, value: f64) {
        self.push(key, Value::DoubleValue(value));
    }
    fn bool(&mut self, key: &str, value: bool) {
        Self::bool(self, key, value);
    }
    fn texts<T: std::fmt::Display>(&mut self, key: &str, values: impl Iterator<Item = T>) {
        self.push(key, array(values.map(|value| Value::StringValue(value.to_string()))));
    }
    fn doubles(&mut self, key: &str, values: impl Iterator<Item = f64>) {
        self.push(key, array(values.map(Value::DoubleValue)));
    }
}

fn attempt(kind: AttemptKind, ordinal: u32, end: AttemptEnd, numbers: (u64, u64)) -> Attempt {
    Attempt {
        span_id: SpanIds::random().of_attempt(SEQ, ordinal),
        ordinal,
        kind,
        chosen: chosen(Some(-3)),
        circuit: (CircuitState::HalfOpen, numbers.0),
        server: ("provider.example".into(), 8545),
        start_unix_nanos: 1_700_000_000_000_000_000,
        duration_ns: numbers.1 >> 2,
        end,
    }
}

fn chosen(head_lag_blocks: Option<i64>) -> Chosen {
    let instance_id = "1:provider.example:0".into();
    Chosen { provider_id: "alpha".into(), instance_id, transport: Transport::Http, head_lag_blocks }
}

fn context(state: &str) -> Arc<TraceContext> {
    let mut headers = http::HeaderMap::new();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert(crate::trace_context::TRACEPARENT, parent.parse().unwrap());
    headers.insert(crate::trace_context::TRACESTATE, state.parse().unwrap());
    Arc::new(TraceContext::read(&headers).unwrap())
}

fn texts(event: &span::Event, wanted: &str) -> Vec<String> {
    let found = event.attributes.iter().find(|attribute| attribute.key == wanted).unwrap();
    let Some(Value::ArrayValue(list)) = found.value.clone().and_then(|any| any.value) else { panic!("{wanted}") };
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    list.values.into_iter().map(|any| text(any.value)).collect()
}

proptest! {
    #[test]
    fn replaying_what_was_sent_gives_each_selection_of_the_decision_again(
        fleet in fleets(1..15, 0.001..10_000.0), strategy in strategies(), boot: u128,
    ) {
        let ask = fleet.ask(strategy);
        let seed = |selection| selection_seed(BootId(Uuid::from_u128(boot)), SEQ, selection);
        let first = decide(&ask, &fleet.snapshot, &[], seed(1));
        let tried: Vec<Tried> = first
            .eligible
            .first()
            .map(|chosen| Tried { channel: chosen.channel, reason: ExclusionReason::Tried })
            .into_iter()
            .collect();
        let second = decide(&ask, &fleet.snapshot, &tried, seed(2));
        let decided = [first.clone(), second.clone()];
        let span = sent(&record(&fleet, strategy, decided.to_vec()));
        prop_assert_eq!(span.events.len(), 2);
        for (selection, (event, decision)) in (1..).zip(span.events.iter().zip(&decided)) {
            let names: Vec<String> = decision.eligible.iter().map(|candidate| candidate.name.to_string()).collect();
            let recorded = texts(event, key::ELIGIBLE_CHANNELS);
            prop_assert_eq!(&recorded, &names);
            let mut ranked: Vec<_> = recorded.into_iter().zip(texts(event, key::ELIGIBLE_INPUTS)).collect();
            prop_assert_eq!(replay(strategy, seed(selection), &ranked), Some(names.clone()));
            ranked.reverse();
            prop_assert_eq!(replay(strategy, seed(selection), &ranked), Some(names), "whatever the order of the record");
        }
    }
}

proptest! {
    #[test]
    fn the_spans_of_any_decision_are_read_as_what_the_generated_types_would_hold(
        fleet in fleets(1..15, 0.001..10_000.0),
        strategy in strategies(),
        seeds in proptest::collection::vec(any::<u64>(), 0..3),
        ends in proptest::collection::vec((0..Outcome::ALL.len(), any::<Option<i64>>(), 0..40usize, any::<Option<u16>>()), 0..4),
        (trace, id, original, text) in (0..3u8, any::<Option<String>>(), any::<Option<String>>(), any::<Vec<u8>>()),
        numbers: (u64, u64),
    ) {
        let ask = fleet.ask(strategy);
        let decided: Vec<Decision> = seeds.iter().map(|seed| decide(&ask, &fleet.snapshot, &[], *seed)).collect();
        let mut record = record(&fleet, strategy, decided);
        let digests = DigestKey::new(None);
        record.scope.trace = match trace {
            0 => Trace::default(),
            1 => Trace::of(Some(context("a=b,ot=th:8")), false),
            _ => Trace::of(Some(context("ot=rv:1")), true),
        };
        record.jsonrpc_id = id.map(Into::into);
        record.scope.method_original = original.map(Into::into);
        record.params_digest = Some(digests.of(&text));
        record.timing = Timing { start_unix_nanos: 1 << 60, duration_ns: numbers.1 >> 2, selection_ns: numbers.0 >> 2, provider_ns: 0 };
        (record.seq, record.bytes_in) = (numbers.0, numbers.1);
        for (ordinal, (outcome, code, category, http_status)) in (1u32..).zip(ends) {
            let end = AttemptEnd {
                outcome: Outcome::ALL[outcome],
                category: ErrorCategory::ALL.get(category).copied(),
                code,
                http_status,
                dispatched: Dispatched::Indeterminate,
                failure: TransportFailure::ALL.get(category).copied(),
            };
            let kind = if ordinal == 1 { AttemptKind::Primary } else { AttemptKind::Failover };
            record.attempts.push(attempt(kind, ordinal, end, numbers));
            record.ending = Ending {
                cache: Some(CacheOutcome::Coalesced),
                coalesced_with: Some(Uuid::now_v7()),
                category: end.category,
                code,
                provider: Some(chosen(code)),
                response_digest: Some(digests.of(&text)),
                ..record.ending
            };
        }
        let mut spans = spans::Spans::default();
        spans.add_decision(&record, &digests);
        let expected = all_made(&record, &digests);
        prop_assert_eq!(spans.count(), expected.len());
        prop_assert_eq!(read(&spans), expected);
    }
}

#[test]
fn the_units_of_a_call_stand_in_its_record() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let fleet = fleets(1..2, 1.0..2.0);
    let fleet = proptest::strategy::Strategy::new_tree(&fleet, &mut runner).unwrap();
    let fleet = proptest::strategy::ValueTree::current(&fleet);
    let span = sent(&record(&fleet, Strategy::Priority, Vec::new()));
    let units = span.attributes.iter().find(|attribute| attribute.key == key::BILLABLE_UNITS).unwrap();
    // 2,048 bytes of a read of state: two KiB, times one and a half.
    assert_eq!(units.value.clone().and_then(|any| any.value), Some(Value::DoubleValue(3.0)));
}
