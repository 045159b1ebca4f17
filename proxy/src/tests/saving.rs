//! Answers without an attempt: coalesced and cached ones, and that each call leaves one record all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fixture::{Attributes, Fleet, Got, eventually, fleet, fleet_of, fleet_with, post, provider, request};
use super::upstreams::channel;
use super::websocket::Client;
use http::Request;
use lariat_schema::{attributes as key, events};
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use lariat_tools::provider::script::{Reply, Script};
use lariat_tools::provider::{Provider, ProviderSettings};

const CACHED: &str = "cache: { enabled: true }\n";

fn call(id: u32, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

async fn ask(fleet: &Fleet, id: u32, method: &str, params: &str) -> Got {
    post(fleet.proxy.address(), "/rpc/ethereum", call(id, method, params)).await
}

/// The decisions, once there are so many.
async fn decisions(fleet: &Fleet, wanted: usize) -> Vec<Attributes> {
    let found = eventually("the decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() >= wanted)).await;
    assert_eq!(found.len(), wanted, "one record per call");
    found.into_iter().map(|(_, of)| of).collect()
}

fn counts(decisions: &[Attributes], name: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for of in decisions {
        *counts.entry(of.get(name).cloned().unwrap_or_default()).or_insert(0) += 1;
    }
    counts
}

/// A fleet of one provider that holds back its answers.
async fn slow(wait_ms: u64) -> Fleet {
    let script = Script::new()
        .on("eth_call", [Reply::result("\"0x2a\"").after(Duration::from_millis(wait_ms))])
        .on("eth_getCode", [Reply::error(3, "execution reverted").after(Duration::from_millis(wait_ms))]);
    fleet(vec![provider("a", |it| it.scripted(script)).await]).await
}

/// Sends calls, the first of which is at its provider before the others leave.
async fn together(fleet: &Fleet, method: &'static str, all: &[&'static str]) -> Vec<Got> {
    let address = fleet.proxy.address();
    let send = |id: usize, params: &'static str| {
        tokio::spawn(
            async move { post(address, "/rpc/ethereum", call(u32::try_from(id).unwrap(), method, params)).await },
        )
    };
    let mut pending = vec![send(0, all[0])];
    eventually("the first at its provider", || (fleet.providers[0].received_of(method) > 0).then_some(())).await;
    pending.extend(all.iter().enumerate().skip(1).map(|(id, params)| send(id, params)));
    let mut got = Vec::new();
    for call in pending {
        got.push(call.await.unwrap());
    }
    got
}

#[tokio::test]
async fn identical_calls_share_one_attempt_each_under_its_own_id_and_each_with_its_record() {
    let fleet = slow(600).await;
    let got = together(&fleet, "eth_call", &["[{},\"latest\"]"; 10]).await;
    for (id, got) in got.iter().enumerate() {
        assert_eq!(got.text(), format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"0x2a"}}"#));
    }
    assert_eq!(fleet.providers[0].received_of("eth_call"), 1);
    let decisions = decisions(&fleet, 10).await;
    let answered = counts(&decisions, key::ANSWERED_BY);
    assert_eq!((answered["provider"], answered["coalesced"]), (1, 9));
    let leader = decisions.iter().find(|of| of[key::ANSWERED_BY] == "provider").unwrap();
    for of in decisions.iter().filter(|of| of[key::ANSWERED_BY] == "coalesced") {
        assert_eq!((of[key::CACHE].as_str(), of[key::ATTEMPTS].as_str()), ("coalesced", "0"));
        assert_eq!((&of[key::COALESCED_WITH], of.get(key::PROVIDER_ID)), (&leader[key::REQUEST_ID], None));
        assert_eq!((of[key::RESULT].as_str(), &of[key::RESPONSE_DIGEST]), ("success", &leader[key::RESPONSE_DIGEST]));
    }
    assert_eq!(fleet.figure("lariat_coalesced_total{profile=\"public\"}").await, 9);
}

#[tokio::test]
async fn calls_that_differ_by_a_byte_share_nothing_and_errors_of_the_call_are_shared() {
    let fleet = slow(400).await;
    together(&fleet, "eth_call", &["[{},\"latest\"]", "[{}, \"latest\"]", "[{},\"pending\"]"]).await;
    assert_eq!(fleet.providers[0].received_of("eth_call"), 3);
    let got = together(&fleet, "eth_getCode", &["[\"0xaa\"]"; 3]).await;
    assert!(got.iter().all(|got| got.json()["error"]["code"] == 3));
    assert_eq!(fleet.providers[0].received_of("eth_getCode"), 1);
    let results = counts(&decisions(&fleet, 6).await, key::RESULT);
    assert_eq!((results["success"], results["application_error"]), (3, 3));
}

#[tokio::test]
async fn a_leader_whose_client_goes_away_loses_no_follower() {
    let fleet = slow(500).await;
    let address = fleet.proxy.address();
    let params = "[{},\"latest\"]";
    let leader = tokio::spawn(post(address, "/rpc/ethereum", call(0, "eth_call", params)));
    eventually("the leader at its provider", || (fleet.providers[0].received_of("eth_call") == 1).then_some(())).await;
    let followers: Vec<_> =
        (1..6).map(|id| tokio::spawn(post(address, "/rpc/ethereum", call(id, "eth_call", params)))).collect();
    eventually_in_flight(&fleet, 6).await;
    leader.abort();
    for follower in followers {
        assert_eq!(follower.await.unwrap().json()["result"], "0x2a");
    }
    assert_eq!(fleet.providers[0].received_of("eth_call"), 2, "one of those left behind leads the others");
    let answered = counts(&decisions(&fleet, 6).await, key::ANSWERED_BY);
    assert_eq!((answered["none"], answered["provider"], answered["coalesced"]), (1, 1, 4));
}

#[tokio::test]
async fn a_leader_in_a_hurry_leaves_its_followers_their_time_and_a_follower_keeps_its_own() {
    let fleet = slow(900).await;
    let address = fleet.proxy.address();
    let params = "[{},\"latest\"]";
    let hurried = |ms: &'static str, id: u32| {
        let with_time = Request::post("/").header("x-lariat-timeout-ms", ms);
        tokio::spawn(async move { request(address, with_time, "/rpc/ethereum", call(id, "eth_call", params)).await })
    };
    let leader = hurried("300", 0);
    eventually("the leader at its provider", || (fleet.providers[0].received_of("eth_call") == 1).then_some(())).await;
    let patient = tokio::spawn(post(address, "/rpc/ethereum", call(1, "eth_call", params)));
    let impatient = hurried("100", 2);
    assert_eq!(impatient.await.unwrap().json()["error"]["code"], -32000);
    assert_eq!(leader.await.unwrap().json()["error"]["code"], -32000);
    assert_eq!(patient.await.unwrap().json()["result"], "0x2a");
    let decisions = decisions(&fleet, 3).await;
    let results = counts(&decisions, key::RESULT);
    assert_eq!((results["success"], results["error"]), (1, 2));
    let late = decisions.iter().find(|of| of[key::ATTEMPTS] == "0").unwrap();
    assert_eq!(late[key::ERROR_CATEGORY], "timeout");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_who_waits_for_the_same_answer() {
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let script = Script::new()
        .on("eth_call", [Reply::result("\"0x2a\"").after(Duration::from_millis(700))])
        .on("eth_getCode", [Reply::result(large)]);
    let fleet = fleet(vec![provider("a", |it| it.scripted(script)).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    let params = "[{},\"latest\"]";
    client.send(call(0, "eth_call", params)).await;
    eventually("the leader at its provider", || (fleet.providers[0].received_of("eth_call") == 1).then_some(())).await;
    for id in 1..30 {
        client.send(call(id, "eth_getCode", &format!("[{id}]"))).await;
    }
    let started = Instant::now();
    assert_eq!(ask(&fleet, 1, "eth_call", params).await.json()["result"], "0x2a");
    assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
    assert_eq!(fleet.providers[0].received_of("eth_call"), 1);
}

async fn eventually_in_flight(fleet: &Fleet, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while fleet.figure("lariat_calls_in_flight").await < wanted {
        assert!(Instant::now() < deadline, "not within 30 s: {wanted} calls in flight");
    }
}

/// A fleet with a cache, once the height of its provider is known.
async fn cached() -> Fleet {
    let fleet = fleet_with(CACHED, vec![provider("a", |it| it).await]).await;
    eventually("a head", || fleet.inbox.events(lariat_schema::events::BLOCK_HEAD).pop()).await;
    // The head is told of when it is noted, and published a moment later.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let state = request(fleet.proxy.address(), Request::get("/"), "/v1/providers", "").await.json();
        if state["channels"][0]["block_height"].is_u64() {
            return fleet;
        }
        assert!(Instant::now() < deadline, "no height within 30 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_final_is_answered_from_the_cache_byte_for_byte_under_the_callers_id() {
    let fleet = cached().await;
    let params = "[\"0x10\",false]";
    let first = ask(&fleet, 7, "eth_getBlockByNumber", params).await;
    let second = ask(&fleet, 8, "eth_getBlockByNumber", params).await;
    assert_eq!(first.json()["result"]["number"], "0x10");
    assert_eq!(second.text(), first.text().replace("\"id\":7", "\"id\":8"));
    assert_eq!(fleet.providers[0].received_of("eth_getBlockByNumber"), 1);
    let decisions = decisions(&fleet, 2).await;
    assert_eq!((decisions[0][key::CACHE].as_str(), decisions[0][key::ANSWERED_BY].as_str()), ("miss", "provider"));
    assert_eq!((decisions[1][key::CACHE].as_str(), decisions[1][key::ANSWERED_BY].as_str()), ("hit", "cache"));
    assert_eq!((decisions[1][key::ATTEMPTS].as_str(), decisions[1].get(key::PROVIDER_ID)), ("0", None));
    assert_eq!(decisions[0][key::RESPONSE_DIGEST], decisions[1][key::RESPONSE_DIGEST]);
    for (name, value) in [("hits", 1), ("misses", 1), ("evictions", 0)] {
        assert_eq!(fleet.figure(&format!("lariat_cache_{name}_total{{profile=\"public\"}}")).await, value, "{name}");
    }
    assert!(fleet.figure("lariat_cache_bytes{profile=\"public\"}").await > 0);
}

#[tokio::test]
async fn a_reorganisation_of_final_blocks_that_lowers_no_height_for_long_empties_the_cache_and_is_told_once() {
    let chain = Arc::new(Chain::manual(ChainSettings { start_height: 1_000, ..ChainSettings::default() }));
    let provider = Provider::start(ProviderSettings::new("a", chain.clone())).await.unwrap();
    let (http, ws) = (provider.http_url(), provider.ws_url());
    let profile = format!(
        "{CACHED}chains:\n  ethereum:\n    chain_id: 1\n    providers: [ {{ id: p0, url: '{http}', ws_url: '{ws}' }} ]\n"
    );
    let fleet = fleet_of(vec![provider], &profile).await;
    let provider = &fleet.providers[0];
    eventually("the subscription", || (provider.received_of("eth_subscribe") == 1).then_some(())).await;
    for _ in 0..8 {
        // No more at once than blocks can have come.
        chain.advance(20);
        let height = chain.height();
        channel(&fleet, "p0", "http", |it| it["block_height"] == height).await;
    }
    let params = format!("[\"{:#x}\",false]", 1_040);
    let before = ask(&fleet, 1, "eth_getBlockByNumber", &params).await.json()["result"]["hash"].clone();
    assert_eq!(ask(&fleet, 2, "eth_getBlockByNumber", &params).await.json()["result"]["hash"], before);
    assert_eq!(provider.received_of("eth_getBlockByNumber"), 1, "it is final");
    // What was is announced before what is now: heights may have been asked for earlier than that.
    eventually("the old blocks", || (provider.announced() == chain.height()).then_some(())).await;
    // A fork of young blocks first, which changes nothing.
    chain.reorganise(1_100);
    chain.reorganise(1_030);
    let told = eventually("the reorganisation", || fleet.inbox.events(events::BLOCK_REORGANISED).pop()).await;
    let height: u64 = told[key::BLOCK_HEIGHT].parse().unwrap();
    assert!((1_029..=1_064).contains(&height), "{height}");
    let after = ask(&fleet, 3, "eth_getBlockByNumber", &params).await.json()["result"]["hash"].clone();
    assert_ne!(after, before);
    chain.advance(1);
    let height = chain.height();
    channel(&fleet, "p0", "http", |it| it["block_height"] == height).await;
    // Twice where a snapshot was made while the first heads of the fork came: that too is a chain that fell.
    let purges = fleet.figure("lariat_cache_purges_total{profile=\"public\"}").await;
    assert!((1..=2).contains(&purges), "{purges}");
    assert_eq!(fleet.inbox.events(events::BLOCK_REORGANISED).len(), 1);
    // The third call may have come while heights were low, when its block was final by none of them.
    assert_eq!(ask(&fleet, 4, "eth_getBlockByNumber", &params).await.json()["result"]["hash"], after);
    let asked = provider.received_of("eth_getBlockByNumber");
    assert_eq!(ask(&fleet, 5, "eth_getBlockByNumber", &params).await.json()["result"]["hash"], after);
    assert_eq!(provider.received_of("eth_getBlockByNumber"), asked, "it is kept again");
}

#[tokio::test]
async fn what_is_young_or_pinned_or_not_a_result_is_asked_for_each_time() {
    let fleet = cached().await;
    let young = format!("[\"0x{:x}\",false]", fleet.providers[0].height() - 10);
    for (method, params) in [
        ("eth_getBlockByNumber", young.as_str()),
        ("eth_getBlockByNumber", "[\"latest\",false]"),
        ("eth_getBalance", "[\"0x00000000000000000000000000000000000000aa\",\"latest\"]"),
        ("eth_getTransactionByHash", "[\"0xabababababababababababababababababababababababababababababababab\"]"),
    ] {
        let before = fleet.providers[0].received_of(method);
        for id in 0..2 {
            ask(&fleet, id, method, params).await;
        }
        assert_eq!(fleet.providers[0].received_of(method), before + 2, "{method} {params}");
    }
    let before = fleet.providers[0].received_of("eth_getBlockByNumber");
    for _ in 0..2 {
        post(fleet.proxy.address(), "/rpc/ethereum/p0", call(1, "eth_getBlockByNumber", "[\"0x10\",false]")).await;
    }
    assert_eq!(fleet.providers[0].received_of("eth_getBlockByNumber"), before + 2);
    let outcomes = counts(&decisions(&fleet, 10).await, key::CACHE);
    assert_eq!(outcomes.get("hit"), None);
    assert_eq!(outcomes["miss"], 2, "a transaction by its hash could have been known");
}

#[tokio::test]
async fn without_the_setting_nothing_is_cached_and_no_failure_ever_is() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    for id in 0..2 {
        ask(&fleet, id, "net_version", "[]").await;
    }
    assert_eq!(fleet.providers[0].received_of("net_version"), 2);
    let failing = provider("a", |it| it.behaving(Behaviour::always(Fault::RpcInternalError))).await;
    let fleet = fleet_with(CACHED, vec![failing]).await;
    ask(&fleet, 0, "net_version", "[]").await;
    fleet.providers[0].set_behaviour(Behaviour::default());
    assert_eq!(ask(&fleet, 1, "net_version", "[]").await.json()["result"], "1");
    fleet.providers[0].go_down();
    assert_eq!(ask(&fleet, 2, "net_version", "[]").await.json()["result"], "1");
    let outcomes = counts(&decisions(&fleet, 3).await, key::CACHE);
    assert_eq!((outcomes["miss"], outcomes["hit"]), (2, 1));
}
