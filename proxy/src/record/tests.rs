//! Decisions through their encoding and back: what was recorded is enough to decide again.

use lariat_schema::attributes as key;
use lariat_schema::vocabulary::{ExclusionReason, Strategy};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::decide::fleets::{Fleet, METHOD, fleets, strategies};
use crate::decide::{Tried, decide};
use crate::strategies::replay;

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
        seq: 1,
        span_id: span_id(),
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

/// The SERVER span as the collector would read it.
fn sent(record: &DecisionRecord) -> Span {
    let mut spans = Vec::new();
    spans::of_decision(record, &DigestKey::new(None), &mut spans);
    Span::decode(&*spans[0].encode_to_vec()).unwrap()
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

fn seed(event: &span::Event) -> u64 {
    let found = event.attributes.iter().find(|attribute| attribute.key == key::SEED).unwrap();
    match found.value.clone().and_then(|any| any.value) {
        Some(Value::StringValue(text)) => u64::from_str_radix(&text, 16).unwrap(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn replaying_what_was_sent_gives_each_selection_of_the_decision_again(
        fleet in fleets(1..15, 0.001..10_000.0), strategy in strategies(), first_seed: u64, second_seed: u64,
    ) {
        let ask = fleet.ask(strategy);
        let first = decide(&ask, &fleet.snapshot, &[], first_seed);
        let tried: Vec<Tried> = first
            .eligible
            .first()
            .map(|chosen| Tried { channel: chosen.channel, reason: ExclusionReason::Tried })
            .into_iter()
            .collect();
        let second = decide(&ask, &fleet.snapshot, &tried, second_seed);
        let decided = [first.clone(), second.clone()];
        let span = sent(&record(&fleet, strategy, decided.to_vec()));
        prop_assert_eq!(span.events.len(), 2);
        for (event, decision) in span.events.iter().zip(&decided) {
            let names: Vec<String> = decision.eligible.iter().map(|candidate| candidate.name.to_string()).collect();
            let recorded = texts(event, key::ELIGIBLE_CHANNELS);
            prop_assert_eq!(&recorded, &names);
            let mut ranked: Vec<_> = recorded.into_iter().zip(texts(event, key::ELIGIBLE_INPUTS)).collect();
            prop_assert_eq!(replay(strategy, seed(event), &ranked), Some(names.clone()));
            ranked.reverse();
            prop_assert_eq!(replay(strategy, seed(event), &ranked), Some(names), "whatever the order of the record");
        }
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
