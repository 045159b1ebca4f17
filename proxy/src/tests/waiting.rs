//! What happens after minutes and hours, over real sockets: the clock jumps while nothing is under way. A clock that is paused
//! for the whole of a test was rejected here, since it runs on by itself whenever the runtime waits for a socket.

use std::sync::Arc;
use std::time::Duration;

use lariat_schema::{attributes as key, events};
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::behaviour::Fault;
use lariat_tools::provider::script::{Reply, Script};
use lariat_tools::provider::{Provider, ProviderSettings};

use super::fixture::{Fleet, call, eventually, fleet, fleet_of, post, provider};
use super::reloading::{reloading, write};
use super::upstreams::{channel, connected};
use super::websocket::{Client, subscribe};

const PATH: &str = "/ws/rpc/ethereum";

/// Lets that much time pass at once.
async fn jump(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

async fn jump_s(seconds: u64) {
    jump(Duration::from_secs(seconds)).await;
}

/// Who answered a call.
async fn provider_of_next_call(fleet: &Fleet) -> String {
    let before = fleet.inbox.decisions().len();
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    assert!(got.json()["result"].is_string(), "{}", got.text());
    let decision = || fleet.inbox.decisions().into_iter().nth(before);
    eventually("the decision", decision).await.1[key::PROVIDER_ID].clone()
}

#[tokio::test]
async fn a_client_that_does_nothing_for_two_hours_is_left_and_one_that_does_something_is_not() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), PATH).await;
    for _ in 0..4 {
        jump_s(2 * 3_600 - 60).await;
        assert_eq!(client.ask(call("eth_chainId")).await["result"], "0x1");
    }
    jump_s(2 * 3_600 + 60).await;
    assert_eq!(client.closed().await, Some((1_000, "idle".to_owned())));
}

#[tokio::test]
async fn a_client_that_answers_no_pings_is_left_after_two_of_them_and_one_that_does_stays() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    // It answers pings only while it reads.
    let mut silent = Client::connect(fleet.proxy.address(), PATH).await;
    let mut lively = Client::connect(fleet.proxy.address(), PATH).await;
    let mut pings = 0;
    while fleet.figure("lariat_ws_ended_silent_total").await == 0 {
        assert!(pings < 5, "two pings and their answers take less than three minutes");
        // To the ping, and to when its answer is due.
        for seconds in [25, 6] {
            jump_s(seconds).await;
            assert_eq!(lively.ask(call("eth_chainId")).await["result"], "0x1");
        }
        pings += 1;
    }
    assert!(pings >= 2, "one missed ping is none");
    // It is told why, unless its late answer to a ping meets a connection that is gone already.
    if let Some(told) = silent.closed().await {
        assert_eq!(told, (1_002, "no answer to pings".to_owned()));
    }
    assert_eq!(lively.ask(call("eth_chainId")).await["result"], "0x1");
    assert_eq!(fleet.figure("lariat_ws_connections").await, 1);
}

#[tokio::test]
async fn a_stream_outlives_its_last_client_by_a_minute() {
    let chain = Arc::new(Chain::manual(ChainSettings::default()));
    let provider = Provider::start(ProviderSettings::new("a", chain)).await.unwrap();
    let (http, ws) = (provider.http_url(), provider.ws_url());
    // The only subscription at the provider is the stream's, and no head is due meanwhile.
    let profile = format!(
        "chains:\n  ethereum:\n    chain_id: 1\n    websocket: {{ subscribe_new_heads: false, new_heads_timeout_ms: 120000 }}\n    providers: [ {{ id: p0, subscribe_new_heads: true, url: '{http}', ws_url: '{ws}' }} ]\n"
    );
    let fleet = fleet_of(vec![provider], &profile).await;
    let address = fleet.proxy.address();
    let mut client = Client::connect(address, PATH).await;
    subscribe(&mut client, r#"["newPendingTransactions"]"#).await;
    drop(client);
    while fleet.figure("lariat_subscriptions").await > 0 {}
    jump_s(50).await;
    let mut another = Client::connect(address, PATH).await;
    subscribe(&mut another, r#"["newPendingTransactions"]"#).await;
    let joined = eventually("two decisions", || {
        let all = fleet.inbox.decisions();
        let of =
            all.into_iter().filter(|(_, of)| of[key::RPC_METHOD] == "eth_subscribe" && of[key::RESULT] == "success");
        of.map(|(_, of)| of[key::ANSWERED_BY].clone()).nth(1)
    })
    .await;
    assert_eq!(joined, "coalesced", "the stream was still there");
    drop(another);
    while fleet.figure("lariat_subscriptions").await > 0 {}
    jump_s(59).await;
    assert_eq!(fleet.figure("lariat_subscription_streams").await, 1);
    jump_s(2).await;
    eventually("the end of it", || (fleet.providers[0].received_of("eth_unsubscribe") > 0).then_some(())).await;
    assert_eq!(fleet.figure("lariat_subscription_streams").await, 0);
}

#[tokio::test]
async fn an_open_circuit_is_tried_after_its_recovery_time_and_not_before() {
    let resets = [Reply::Fault(Fault::Reset), Reply::Fault(Fault::Reset), Reply::Fault(Fault::Reset), Reply::Simulated];
    let failing = provider("a", |it| it.scripted(Script::new().on("eth_gasPrice", resets))).await;
    let fleet = fleet(vec![failing, provider("b", |it| it).await]).await;
    // A probe that succeeds between the calls would make them count anew.
    for id in ["p0", "p1"] {
        channel(&fleet, id, "http", |it| it["health"]["probes"].as_u64() >= Some(1)).await;
    }
    for _ in 0..3 {
        assert_eq!(provider_of_next_call(&fleet).await, "p1");
    }
    channel(&fleet, "p0", "http", |it| it["circuit_state"] == "open").await;
    jump_s(58).await;
    assert_eq!(provider_of_next_call(&fleet).await, "p1");
    channel(&fleet, "p0", "http", |it| it["circuit_state"] == "open").await;
    // Up to a twentieth is added, so that many nodes do not come at once.
    jump_s(6).await;
    channel(&fleet, "p0", "http", |it| it["circuit_state"] != "open").await;
    while fleet.inbox.events(events::CIRCUIT_TRANSITION).iter().all(|it| it[key::CIRCUIT_TO] != "closed") {
        provider_of_next_call(&fleet).await;
    }
    assert_eq!(provider_of_next_call(&fleet).await, "p0");
    let told: Vec<_> =
        fleet.inbox.events(events::CIRCUIT_TRANSITION).iter().map(|it| it[key::CIRCUIT_TO].clone()).collect();
    assert_eq!(told, ["open", "half_open", "closed"]);
}

#[tokio::test]
async fn a_rate_limit_without_a_time_is_remembered_for_half_a_minute() {
    let limited = Script::new().on("eth_gasPrice", [Reply::http(429, ""), Reply::Simulated]);
    let fleet = fleet(vec![provider("a", |it| it.scripted(limited)).await, provider("b", |it| it).await]).await;
    assert_eq!(provider_of_next_call(&fleet).await, "p1");
    channel(&fleet, "p0", "http", |it| it["limited_for_ms"].as_u64() > Some(20_000)).await;
    jump_s(20).await;
    assert_eq!(provider_of_next_call(&fleet).await, "p1");
    jump_s(11).await;
    assert_eq!(provider_of_next_call(&fleet).await, "p0");
}

#[tokio::test]
async fn a_provider_is_probed_at_its_interval() {
    let provider = provider("a", |it| it).await;
    let url = provider.http_url();
    let profile = format!(
        "chains:\n  ethereum:\n    chain_id: 1\n    monitoring: {{ probe_interval_ms: 60000 }}\n    providers: [ {{ id: p0, url: '{url}' }} ]\n"
    );
    let fleet = fleet_of(vec![provider], &profile).await;
    let probes = || fleet.providers[0].received_of("eth_blockNumber");
    for round in 1..=3 {
        eventually("a probe", || (probes() == round).then_some(())).await;
        channel(&fleet, "p0", "http", |it| it["health"]["probes"] == round).await;
        jump_s(50).await;
        channel(&fleet, "p0", "http", |it| it["connected"] != "asked once more, which takes a turn").await;
        assert_eq!(probes(), round, "not before its time");
        jump_s(11).await;
    }
}

#[tokio::test]
async fn a_socket_that_is_lost_again_and_again_is_connected_to_after_growing_waits() {
    let lone = provider("a", |it| it).await;
    let ws = lone.ws_url();
    let profile = format!("chains:\n  ethereum:\n    chain_id: 1\n    providers: [ {{ id: p0, ws_url: '{ws}' }} ]\n");
    let fleet = fleet_of(vec![lone], &profile).await;
    connected(&fleet, "p0").await;
    let provider = &fleet.providers[0];
    // It held for long, so that the first reconnection comes at once; refused, the next one is five seconds away.
    jump_s(10).await;
    provider.go_down();
    channel(&fleet, "p0", "ws", |it| it["connected"] == false).await;
    let refused = provider.stats().refused;
    eventually("the first reconnection", || (provider.stats().refused > refused).then_some(())).await;
    provider.come_up();
    jump_s(7).await;
    connected(&fleet, "p0").await;
}

#[tokio::test]
async fn wrong_profiles_are_read_again_after_half_a_minute_though_their_files_look_the_same() {
    let all = [provider("a", |it| it).await];
    let site = reloading(&super::fixture::profile(&all)).await;
    write(site.dir.path(), "chains: {}\nspeed: 1\n");
    let failed = |text: &str| {
        let line =
            text.lines().find(|line| line.starts_with("lariat_config_reloads_total{outcome=\"failed\"}")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(site.reload().await.0, http::StatusCode::UNPROCESSABLE_ENTITY);
    for _ in 0..4 {
        jump_s(5).await;
        assert_eq!(failed(&site.metrics().await), 1);
    }
    jump_s(15).await;
    // What is looked at every two seconds is looked at in real time.
    while failed(&site.metrics().await) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
