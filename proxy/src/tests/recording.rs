//! What the collector gets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::{attributes, call, collector, eventually, exporter, fleet, post, provider, proxy};
use crate::strategies::replay;
use lariat_schema::seeds::selection_seed;
use lariat_schema::{attributes as key, events, metrics};
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use tokio::net::TcpListener;

const DRAIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_decision_arrives_whole_and_can_be_replayed() {
    let fleet = fleet(vec![provider("a", |it| it).await, provider("b", |it| it).await]).await;
    let got = post(fleet.proxy.address(), "/rpc/latency-weighted/ethereum", call("eth_gasPrice")).await;
    let request_id = got.headers["x-lariat-request-id"].to_str().unwrap();
    let (span, of) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
    assert_eq!(of[key::REQUEST_ID], request_id);
    assert_eq!(hex::encode(&span.trace_id), request_id.replace('-', ""));
    for (key, value) in [
        (key::RPC_METHOD, "eth_gasPrice"),
        (key::JSONRPC_REQUEST_ID, "1"),
        (key::DECISION_SEQ, "1"),
        (key::PROFILE, "public"),
        (key::CHAIN, "ethereum"),
        (key::STRATEGY, "latency_weighted"),
        (key::ANSWERED_BY, "provider"),
        (key::RESULT, "success"),
        (key::ATTEMPTS, "1"),
        (key::FAILOVERS, "0"),
        (key::ORIGIN, "client"),
    ] {
        assert_eq!(of.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(of[key::BYTES_OUT], got.body.len().to_string());
    let parts: u64 = [key::SELECTION_NS, key::PROVIDER_NS, key::OVERHEAD_NS]
        .iter()
        .map(|key| of[*key].parse::<u64>().unwrap())
        .sum();
    assert_eq!(parts, span.end_time_unix_nano - span.start_time_unix_nano);

    let selection = attributes(&span.events[0].attributes);
    let list = |key: &str| selection[key].split(' ').map(str::to_owned).collect::<Vec<_>>();
    let channels = list(key::ELIGIBLE_CHANNELS);
    assert_eq!(channels.len(), 2);
    assert_eq!(channels[0], format!("{}:http", of[key::PROVIDER_ID]));
    let record: Vec<_> = channels.iter().cloned().zip(list(key::ELIGIBLE_INPUTS)).collect();
    let seed = selection_seed(fleet.inbox.boot_id(), 1, 1);
    assert_eq!(replay(of[key::STRATEGY].parse().unwrap(), seed, &record), Some(channels));

    let spans = fleet.inbox.spans();
    let attempt = spans.iter().find(|it| it.parent_span_id == span.span_id).unwrap();
    let attempt = attributes(&attempt.attributes);
    assert_eq!((attempt[key::OUTCOME].as_str(), attempt[key::KIND].as_str()), ("success", "primary"));
    assert_eq!((attempt[key::DISPATCHED].as_str(), attempt[key::HTTP_STATUS].as_str()), ("dispatched", "200"));
}

#[tokio::test]
async fn a_failover_is_two_selections_and_two_attempts_and_an_opened_circuit_an_event() {
    let broken = provider("a", |it| it.behaving(Behaviour::always(Fault::ServerError))).await;
    let fleet = fleet(vec![broken, provider("b", |it| it).await]).await;
    for _ in 0..8 {
        post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    }
    let decisions = eventually("eight decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 8)).await;
    let (first, of) = &decisions[0];
    assert_eq!(
        (of[key::ATTEMPTS].as_str(), of[key::FAILOVERS].as_str(), of[key::PROVIDER_ID].as_str()),
        ("2", "1", "p1")
    );
    let second = attributes(&first.events[1].attributes);
    assert_eq!((second[key::EXCLUDED_CHANNELS].as_str(), second[key::EXCLUDED_REASONS].as_str()), ("p0:http", "tried"));
    let last = attributes(&decisions[7].0.events[0].attributes);
    assert_eq!(last[key::EXCLUDED_REASONS], "circuit_open");
    let opened = eventually("a transition", || fleet.inbox.events(events::CIRCUIT_TRANSITION).pop()).await;
    assert_eq!((opened[key::CIRCUIT_TO].as_str(), opened[key::PROVIDER_ID].as_str()), ("open", "p0"));
}

#[tokio::test]
async fn local_and_refused_calls_are_decisions_without_attempts() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    for method in ["eth_chainId", "eth_subscribe"] {
        post(fleet.proxy.address(), "/rpc/ethereum", call(method)).await;
    }
    let decisions = eventually("two decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 2)).await;
    let told: Vec<_> =
        decisions.iter().map(|(_, of)| (of[key::ANSWERED_BY].as_str(), of[key::RESULT].as_str())).collect();
    assert_eq!(told, [("local", "success"), ("none", "application_error")]);
    assert!(decisions.iter().all(|(span, of)| span.events.is_empty() && of[key::ATTEMPTS] == "0"));
}

#[tokio::test]
async fn probes_heads_policy_and_metrics_arrive_without_a_single_call() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let head = eventually("a head", || fleet.inbox.events(events::BLOCK_HEAD).pop()).await;
    assert_eq!(head[key::BLOCK_HEIGHT], fleet.providers[0].height().to_string());
    let probe = eventually("a probe", || fleet.inbox.spans().pop()).await;
    assert_eq!(attributes(&probe.attributes)[key::ORIGIN], "system");
    eventually("the policy", || fleet.inbox.events(events::CONFIG_RELOAD).pop()).await;
    post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    let point = eventually("a histogram", || {
        let metrics = fleet.inbox.metrics.lock();
        let all = metrics
            .iter()
            .flat_map(|it| &it.resource_metrics)
            .flat_map(|it| &it.scope_metrics)
            .flat_map(|it| &it.metrics);
        all.filter(|metric| metric.name == metrics::SERVER_CALL_DURATION).find_map(|metric| match &metric.data {
            Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.first().cloned(),
            _ => None,
        })
    })
    .await;
    assert_eq!((point.count, point.exemplars.len()), (1, 1));
    assert_eq!(attributes(&point.attributes)[key::RESULT], "success");
}

#[tokio::test]
async fn a_clean_end_says_farewell_with_the_highest_number_and_a_kill_does_not() {
    let clean = fleet(vec![provider("a", |it| it).await]).await;
    for _ in 0..3 {
        post(clean.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    }
    assert!(clean.proxy.shutdown(DRAIN).await);
    assert_eq!(clean.inbox.decisions().len(), 3);
    let farewells = |inbox: &super::fixture::Inbox| {
        let mut all = inbox.events(events::HEARTBEAT);
        all.retain(|it| it.get(key::HEARTBEAT_FAREWELL).is_some());
        all
    };
    let said = farewells(&clean.inbox);
    assert_eq!(
        (said.len(), said[0][key::HEARTBEAT_SEQ].as_str(), said[0][key::HEARTBEAT_DROPPED].as_str()),
        (1, "3", "0")
    );

    let killed = fleet(vec![provider("a", |it| it).await]).await;
    let address = killed.proxy.address();
    eventually("a heartbeat", || killed.inbox.events(events::HEARTBEAT).pop()).await;
    killed.proxy.kill();
    for _ in 0..3_000 {
        if tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(farewells(&killed.inbox).is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still listening after a kill");
}

#[tokio::test]
async fn a_collector_that_comes_late_or_refuses_gets_everything_once_as_the_same_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let providers = vec![provider("a", |it| it).await];
    let proxy = proxy(&providers, exporter(address)).await;
    for _ in 0..5 {
        let got = post(proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
        assert!(got.json()["result"].is_string());
    }
    let inbox = collector(TcpListener::bind(address).await.unwrap()).await;
    inbox.refuse.store(1, Ordering::SeqCst);
    eventually("five decisions", || (inbox.decisions().len() == 5).then_some(())).await;
    let refused = inbox.refused.lock().pop().unwrap();
    eventually("the refused request again", || inbox.traces.lock().contains(&refused).then_some(())).await;
    let beat = eventually("a heartbeat", || inbox.events(events::HEARTBEAT).pop()).await;
    assert_eq!(beat[key::HEARTBEAT_DROPPED], "0");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_cancelled_attempt() {
    let slow = provider("a", |it| it.behaving(Behaviour::always(Fault::Hang))).await;
    let fleet = fleet(vec![slow]).await;
    let pending = tokio::spawn(post(fleet.proxy.address(), "/rpc/ethereum", call("eth_getProof")));
    eventually("the call at the provider", || (fleet.providers[0].received_of("eth_getProof") == 1).then_some(()))
        .await;
    pending.abort();
    let (span, of) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
    assert_eq!((of[key::ANSWERED_BY].as_str(), of[key::ERROR_CATEGORY].as_str()), ("none", "client_error"));
    let attempt = fleet.inbox.spans().into_iter().find(|it| it.parent_span_id == span.span_id).unwrap();
    let attempt = attributes(&attempt.attributes);
    assert_eq!((attempt[key::OUTCOME].as_str(), attempt[key::CENSORED].as_str()), ("cancelled", "true"));
}
