//! Two attempts at once: who wins, who is cancelled, and what the record says of both. The first provider is made to
//! have answered fast often enough for its quantile to be known, and then behaves as each test wants.

use std::time::{Duration, Instant};

use super::fixture::{Attributes, Fleet, Got, call, eventually, fleet_with, post, provider};
use lariat_schema::{attributes as key, metrics};
use lariat_tools::provider::behaviour::{Behaviour, Fault, FaultRate};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
use opentelemetry_proto::tonic::trace::v1::Span;

const SETTINGS: &str = "hedging: { quantile: 0.5, budget: 1.0 }\n";
const METHOD: &str = "eth_gasPrice";
/// More than it takes to learn a quantile.
const FAST_CALLS: usize = 30;
/// Far above the quantile that was learned, far below the method's time.
const SLOW_MS: f64 = 400.0;

fn slow() -> Behaviour {
    Behaviour::with_latency_ms(SLOW_MS, SLOW_MS)
}

fn slow_failure() -> Behaviour {
    Behaviour { faults: vec![FaultRate { fault: Fault::ServerError, probability: 1.0 }], ..slow() }
}

/// A fleet whose first provider's quantile is known, and the number of calls that it took.
async fn learned(settings: &str, providers: usize) -> (Fleet, usize) {
    let mut handles = Vec::new();
    for n in 0..providers {
        handles.push(provider(&format!("p{n}"), |it| it).await);
    }
    let fleet = fleet_with(settings, handles).await;
    for _ in 0..FAST_CALLS {
        ask(&fleet).await;
    }
    // Each further call changes what is known, so that a snapshot of the first ones must follow.
    let (before, mut calls) = (fleet.figure("lariat_snapshot_number").await, FAST_CALLS);
    let deadline = Instant::now() + Duration::from_secs(30);
    while fleet.figure("lariat_snapshot_number").await == before {
        assert!(Instant::now() < deadline, "no snapshot within 30 s");
        ask(&fleet).await;
        calls += 1;
    }
    (fleet, calls)
}

async fn ask(fleet: &Fleet) -> Got {
    post(fleet.proxy.address(), "/rpc/ethereum", call(METHOD)).await
}

/// The decision after so many others, with its attempts as `kind provider outcome`.
async fn told(fleet: &Fleet, after: usize) -> (Span, Attributes, Vec<String>) {
    let (span, of) = eventually("the hedged decision", || fleet.inbox.decisions().into_iter().nth(after)).await;
    let attempts = fleet.attempts(&span);
    let told = attempts.iter().map(|of| format!("{} {} {}", of[key::KIND], of[key::PROVIDER_ID], of[key::OUTCOME]));
    let told = told.collect();
    for of in attempts.iter().filter(|of| of[key::OUTCOME] == "cancelled") {
        assert_eq!(of[key::CENSORED], "true");
    }
    let parts = [key::SELECTION_NS, key::PROVIDER_NS, key::OVERHEAD_NS];
    let parts: u64 = parts.iter().map(|key| of[*key].parse::<u64>().unwrap()).sum();
    assert_eq!(parts, span.end_time_unix_nano - span.start_time_unix_nano, "overlapping attempts are counted once");
    (span, of, told)
}

/// Waits until that outcome is counted; a call that taught the quantile may have been hedged too.
async fn counted(fleet: &Fleet, outcome: &str) {
    eventually("the counter", || {
        let requests = fleet.inbox.metrics.lock();
        let resources = requests.iter().flat_map(|it| &it.resource_metrics);
        let mut all = resources.flat_map(|it| &it.scope_metrics).flat_map(|it| &it.metrics);
        let Some(Data::Sum(sum)) = &all.rfind(|it| it.name == metrics::HEDGES)?.data else { return None };
        let point = sum
            .data_points
            .iter()
            .find(|point| super::fixture::attributes(&point.attributes)[key::OUTCOME] == outcome)?;
        matches!(point.value, Some(Value::AsInt(1..))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_hedge_that_answers_first_is_returned_and_the_slow_attempt_cancelled() {
    let (fleet, before) = learned(SETTINGS, 2).await;
    fleet.providers[0].set_behaviour(Behaviour::always(Fault::Hang));
    assert!(ask(&fleet).await.json()["result"].is_string());
    let (_, of, told) = told(&fleet, before).await;
    assert_eq!(told, ["primary p0 cancelled", "hedge p1 success"]);
    assert_eq!((of[key::PROVIDER_ID].as_str(), of[key::RESULT].as_str()), ("p1", "success"));
    assert_eq!((of[key::ATTEMPTS].as_str(), of[key::FAILOVERS].as_str()), ("2", "0"), "a hedge is no failover");
    counted(&fleet, "won").await;
}

#[tokio::test]
async fn a_slow_first_attempt_that_still_answers_first_is_returned_and_the_hedge_cancelled() {
    let (fleet, before) = learned(SETTINGS, 2).await;
    fleet.providers[0].set_behaviour(slow());
    fleet.providers[1].set_behaviour(Behaviour::always(Fault::Hang));
    assert!(ask(&fleet).await.json()["result"].is_string());
    let (_, of, told) = told(&fleet, before).await;
    assert_eq!(told, ["primary p0 success", "hedge p1 cancelled"]);
    assert_eq!(of[key::PROVIDER_ID], "p0");
    counted(&fleet, "lost").await;
}

#[tokio::test]
async fn a_failed_hedge_leaves_the_first_attempt_its_time() {
    let (fleet, before) = learned(SETTINGS, 2).await;
    fleet.providers[0].set_behaviour(slow());
    fleet.providers[1].set_behaviour(Behaviour::always(Fault::ServerError));
    assert!(ask(&fleet).await.json()["result"].is_string());
    assert_eq!(told(&fleet, before).await.2, ["primary p0 success", "hedge p1 service_failure"]);
    counted(&fleet, "failed").await;
}

#[tokio::test]
async fn a_failed_first_attempt_waits_for_its_hedge() {
    let (fleet, before) = learned(SETTINGS, 2).await;
    fleet.providers[0].set_behaviour(slow_failure());
    fleet.providers[1].set_behaviour(Behaviour::with_latency_ms(2.0 * SLOW_MS, 2.0 * SLOW_MS));
    assert!(ask(&fleet).await.json()["result"].is_string());
    assert_eq!(told(&fleet, before).await.2, ["primary p0 service_failure", "hedge p1 success"]);
    counted(&fleet, "won").await;
}

#[tokio::test]
async fn after_both_failed_a_third_provider_is_asked_and_no_fourth() {
    let (fleet, before) = learned(SETTINGS, 4).await;
    fleet.providers[0].set_behaviour(slow_failure());
    fleet.providers[1].set_behaviour(Behaviour::always(Fault::ServerError));
    fleet.providers[2].set_behaviour(Behaviour::always(Fault::RpcInternalError));
    assert_eq!(ask(&fleet).await.json()["error"]["code"], -32603, "the last provider's error, unchanged");
    let (_, of, told) = told(&fleet, before).await;
    assert_eq!(told, ["primary p0 service_failure", "hedge p1 service_failure", "failover p2 service_failure"]);
    assert_eq!((of[key::FAILOVERS].as_str(), of[key::RESULT].as_str()), ("1", "error"));
    assert_eq!(fleet.providers[3].received_of(METHOD), 0);
}

#[tokio::test]
async fn no_hedge_is_sent_once_the_budget_is_spent() {
    let (fleet, before) = learned("hedging: { quantile: 0.5, budget: 0.001 }\n", 2).await;
    fleet.providers[0].set_behaviour(slow());
    assert!(ask(&fleet).await.json()["result"].is_string());
    assert_eq!(told(&fleet, before).await.2, ["primary p0 success"]);
    assert_eq!(fleet.providers[1].received_of(METHOD), 0);
    counted(&fleet, "over_budget").await;
}

#[tokio::test]
async fn no_hedge_is_sent_where_nothing_is_known_of_the_channel_or_hedging_is_off() {
    for settings in [SETTINGS, ""] {
        let providers = vec![provider("a", |it| it.behaving(slow())).await, provider("b", |it| it).await];
        let fleet = fleet_with(settings, providers).await;
        assert!(ask(&fleet).await.json()["result"].is_string());
        assert_eq!(told(&fleet, 0).await.2, ["primary p0 success"]);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_both_attempts_and_leaves_one_record() {
    let (fleet, before) = learned(SETTINGS, 2).await;
    for provider in &fleet.providers {
        provider.set_behaviour(Behaviour::always(Fault::Hang));
    }
    let hedges = fleet.providers[1].received_of(METHOD);
    let pending = tokio::spawn(post(fleet.proxy.address(), "/rpc/ethereum", call(METHOD)));
    eventually("the hedge at its provider", || (fleet.providers[1].received_of(METHOD) > hedges).then_some(())).await;
    pending.abort();
    let (_, of, told) = told(&fleet, before).await;
    assert_eq!(told, ["primary p0 cancelled", "hedge p1 cancelled"]);
    assert_eq!(of[key::ANSWERED_BY], "none");
    assert_eq!(fleet.inbox.decisions().len(), before + 1);
}
