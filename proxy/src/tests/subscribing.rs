//! Subscriptions of clients, with providers that fail in the middle.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use lariat_schema::{attributes as key, events};
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::{Provider, ProviderHandle, ProviderSettings};
use serde_json::{Value, json};

use super::fixture::{Fleet, call, eventually, fleet_of, post};
use super::upstreams::connected;
use super::websocket::{Client, subscribe};

const START: u64 = 1_000;
const HEADS: &str = r#"["newHeads"]"#;
const PATH: &str = "/ws/rpc/ethereum";

/// Providers of one chain that grows by hand, connected over both transports.
async fn world(count: usize, websocket: &str) -> (Arc<Chain>, Fleet) {
    let settings = ChainSettings { start_height: START, ..ChainSettings::default() };
    let chain = Arc::new(Chain::manual(settings));
    let mut providers = Vec::new();
    let mut profile = format!(
        "default_strategy: priority\nchains:\n  ethereum:\n    chain_id: 1\n    monitoring: {{ probe_interval_ms: 1000 }}\n    websocket: {{ {websocket} }}\n    providers:\n"
    );
    for i in 0..count {
        let provider = Provider::start(ProviderSettings::new(format!("p{i}"), chain.clone())).await.unwrap();
        let (http, ws) = (provider.http_url(), provider.ws_url());
        writeln!(profile, "      - {{ id: p{i}, priority: {}, url: '{http}', ws_url: '{ws}' }}", i + 1).unwrap();
        providers.push(provider);
    }
    let fleet = fleet_of(providers, &profile).await;
    // The first choice is the first provider only once it can be chosen.
    for i in 0..count {
        connected(&fleet, &format!("p{i}")).await;
    }
    (chain, fleet)
}

/// The next event of a subscription; what the proxy tells beside it goes to `told`.
async fn event(client: &mut Client, name: &str, told: &mut Vec<String>) -> Value {
    loop {
        let frame = client.json().await;
        assert_eq!(frame["params"]["subscription"], name, "{frame}");
        match frame["method"].as_str().unwrap() {
            "eth_subscription" => return frame["params"]["result"].clone(),
            _ => told.push(frame["params"]["state"].as_str().unwrap().to_owned()),
        }
    }
}

fn number(of: &Value) -> u64 {
    let text = of.get("number").or_else(|| of.get("blockNumber")).unwrap().as_str().unwrap();
    u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap()
}

/// Reads that many events, which must be of the blocks that follow.
pub(super) async fn expect_blocks(client: &mut Client, name: &str, from: u64, count: u64, told: &mut Vec<String>) {
    for expected in from..from + count {
        let event = event(client, name, told).await;
        assert_eq!(number(&event), expected, "{event}");
    }
}

/// Subscriptions of that kind that a provider received.
fn subscribed(provider: &ProviderHandle, kind: &str) -> usize {
    let received = provider.received();
    let of = |body: &[u8]| serde_json::from_slice::<Value>(body).is_ok_and(|body| body["params"][0] == kind);
    received.iter().filter(|it| it.method == "eth_subscribe" && of(&it.body)).count()
}

#[tokio::test]
async fn every_head_comes_exactly_once_though_its_providers_fail_in_turn() {
    let (chain, fleet) = world(2, "").await;
    let mut client = Client::connect(fleet.proxy.address(), PATH).await;
    let name = subscribe(&mut client, HEADS).await;
    let (mut next, mut told) = (START + 1, Vec::new());
    for round in 0..4 {
        chain.advance(3);
        expect_blocks(&mut client, &name, next, 3, &mut told).await;
        next += 3;
        let (failing, other) = (&fleet.providers[round % 2], &fleet.providers[(round + 1) % 2]);
        other.come_up();
        failing.go_down();
        // The chain grows while nobody tells of it.
        chain.advance(5);
        expect_blocks(&mut client, &name, next, 5, &mut told).await;
        next += 5;
    }
    let decisions = fleet.inbox.decisions();
    let subscribes: Vec<_> = decisions.iter().filter(|(_, it)| it[key::RPC_METHOD] == "eth_subscribe").collect();
    let of = |it: &super::fixture::Attributes| {
        [key::ORIGIN, key::ANSWERED_BY, key::TRANSPORT, key::CLIENT_TRANSPORT].map(|key| it[key].clone())
    };
    let first = subscribes.iter().find(|(_, it)| it[key::RESULT] == "success").unwrap();
    assert_eq!(of(&first.1), ["client", "provider", "ws", "ws"]);
    assert_eq!((first.1[key::PROVIDER_ID].as_str(), first.1[key::ATTEMPTS].as_str()), ("p0", "1"));
    let event = eventually("a failover", || fleet.inbox.events(events::SUBSCRIPTION_FAILOVER).into_iter().next()).await;
    assert_eq!((event[key::SUBSCRIPTION_FROM].as_str(), event[key::PROVIDER_ID].as_str()), ("p0", "p1"));
    assert_eq!(event[key::SUBSCRIPTION_KIND], "new_heads");
    eventually("the proxy's own decisions", || {
        let all = fleet.inbox.decisions();
        let own = |method: &str| all.iter().any(|(_, it)| it[key::RPC_METHOD] == method && it[key::ORIGIN] == "system");
        (own("eth_subscribe") && own("eth_getBlockByNumber") && own("eth_blockNumber")).then_some(())
    })
    .await;
    assert!(fleet.figure("lariat_subscription_failovers_total").await >= 4);
}

#[tokio::test]
async fn all_who_only_listen_to_the_heads_of_a_provider_share_one_subscription_to_them() {
    let (chain, fleet) = world(1, "").await;
    let provider = &fleet.providers[0];
    eventually("the probes' own", || (subscribed(provider, "newHeads") == 1).then_some(())).await;
    let mut client = Client::connect(fleet.proxy.address(), PATH).await;
    let name = subscribe(&mut client, r#"["logs",{}]"#).await;
    subscribe(&mut client, r#"["newPendingTransactions"]"#).await;
    assert_eq!((subscribed(provider, "logs"), subscribed(provider, "newPendingTransactions")), (1, 1));
    assert_eq!(subscribed(provider, "newHeads"), 1);
    chain.advance(1);
    let event = loop {
        let frame = client.json().await;
        if frame["params"]["subscription"] == name.as_str() && frame["method"] == "eth_subscription" {
            break frame;
        }
    };
    assert_eq!(number(&event["params"]["result"]), START + 1);
}

#[tokio::test]
async fn clients_who_mean_the_same_share_one_subscription_at_the_provider() {
    let (chain, fleet) = world(1, "").await;
    let address = fleet.proxy.address();
    let same = [
        r#"["logs",{"address":"0x00000000000000000000000000000000000000AA"}]"#,
        r#"["logs",{"address":["0x00000000000000000000000000000000000000aa"],"fromBlock":"latest"}]"#,
        r#"["logs",{"topics":[],"address":"0x00000000000000000000000000000000000000aa"}]"#,
    ];
    let mut clients = Vec::new();
    for params in same {
        let mut client = Client::connect(address, PATH).await;
        let name = subscribe(&mut client, params).await;
        clients.push((client, name));
    }
    chain.advance(2);
    for (client, name) in &mut clients {
        expect_blocks(client, name, START + 1, 2, &mut Vec::new()).await;
    }
    assert_eq!(subscribed(&fleet.providers[0], "logs"), 1);
    assert_eq!((fleet.figure("lariat_subscriptions").await, fleet.figure("lariat_subscription_streams").await), (3, 1));
    let (mut client, name) = clients.pop().unwrap();
    let unsubscribe = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_unsubscribe", "params": [name]}).to_string();
    assert_eq!(client.ask(unsubscribe.clone()).await["result"], true);
    assert_eq!(client.ask(unsubscribe).await["result"], false, "it is no longer there");
    chain.advance(1);
    let (first, name) = &mut clients[0];
    expect_blocks(first, name, START + 3, 1, &mut Vec::new()).await;
    assert!(client.ask(call("eth_gasPrice")).await["result"].is_string(), "who has left gets no more events");
    drop(clients);
    for _ in 0..3_000 {
        if fleet.figure("lariat_subscriptions").await == 0 {
            break;
        }
    }
    assert_eq!(fleet.figure("lariat_subscriptions").await, 0, "subscriptions end with their connection");
    let answered = |by: &str| {
        let all = fleet.inbox.decisions();
        let of = |it: &super::fixture::Attributes| it[key::ANSWERED_BY] == by && it[key::RESULT] == "success";
        all.iter().filter(|(_, it)| of(it)).map(|(_, it)| it[key::RPC_METHOD].clone()).collect::<Vec<_>>()
    };
    eventually("the decisions", || (answered("local").len() == 2).then_some(())).await;
    assert_eq!(answered("coalesced"), ["eth_subscribe", "eth_subscribe"]);
    assert_eq!(answered("local"), ["eth_unsubscribe", "eth_unsubscribe"]);
}

#[tokio::test]
async fn every_log_comes_exactly_once_though_its_provider_fails() {
    let (chain, fleet) = world(3, "").await;
    let mut client = Client::connect(fleet.proxy.address(), PATH).await;
    let name = subscribe(&mut client, r#"["logs",{}]"#).await;
    let (mut next, mut told) = (START + 1, Vec::new());
    for failing in 0..2 {
        chain.advance(3);
        expect_blocks(&mut client, &name, next, 3, &mut told).await;
        fleet.providers[failing].go_down();
        chain.advance(4);
        expect_blocks(&mut client, &name, next + 3, 4, &mut told).await;
        next += 7;
    }
    chain.advance(2);
    expect_blocks(&mut client, &name, next, 2, &mut told).await;
    assert_eq!(subscribed(&fleet.providers[2], "logs"), 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_events_is_told_so_and_holds_up_nobody() {
    const CHUNK: u64 = 100;
    let (chain, fleet) = world(1, "").await;
    let address = fleet.proxy.address();
    let mut slow = Client::connect_narrow(address, PATH).await;
    subscribe(&mut slow, HEADS).await;
    let mut fast = Client::connect(address, PATH).await;
    let name = subscribe(&mut fast, HEADS).await;
    let (mut next, mut told) = (START + 1, Vec::new());
    while fleet.figure("lariat_ws_ended_slow_total").await == 0 {
        assert!(next < START + 20_000, "the slow client is served for ever");
        chain.advance(CHUNK);
        expect_blocks(&mut fast, &name, next, CHUNK, &mut told).await;
        next += CHUNK;
    }
    let (code, reason) = slow.closed().await.unwrap();
    assert_eq!((code, reason.as_str()), (1008, "too slow: 1024 events waited to be read"));
    chain.advance(1);
    expect_blocks(&mut fast, &name, next, 1, &mut told).await;
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_refused_with_its_reason() {
    let (_, fleet) = world(1, "").await;
    let address = fleet.proxy.address();
    let mut client = Client::connect(address, PATH).await;
    let ask =
        |method: &str, params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    for params in [r#"["syncing"]"#, "[]", r#"["logs",{"address":"0x1"}]"#] {
        assert_eq!(client.ask(ask("eth_subscribe", params)).await["error"]["code"], -32602, "{params}");
    }
    assert_eq!(client.ask(ask("eth_unsubscribe", "[]")).await["error"]["code"], -32602);
    assert_eq!(post(address, "/rpc/ethereum", ask("eth_subscribe", HEADS)).await.json()["error"]["code"], -32601);
    let mut names = vec![subscribe(&mut client, HEADS).await];
    for _ in 1..128 {
        names.push(subscribe(&mut client, HEADS).await);
    }
    assert_eq!(client.ask(ask("eth_subscribe", HEADS)).await["error"]["code"], -32008);
    assert_eq!(client.ask(ask("eth_unsubscribe", &format!("[\"{}\"]", names[0]))).await["result"], true);
    assert!(client.ask(ask("eth_subscribe", HEADS)).await["result"].is_string(), "its place is free again");

    let (_, without) = world(1, "subscribe_new_heads: false").await;
    let mut client = Client::connect(without.proxy.address(), PATH).await;
    for _ in 0..1_000 {
        assert_eq!(client.ask(ask("eth_subscribe", HEADS)).await["error"]["code"], -32000);
        let decisions = without.inbox.decisions();
        let selections = decisions.iter().flat_map(|(span, _)| &span.events);
        let mut reasons =
            selections.map(|it| super::fixture::attributes(&it.attributes)[key::EXCLUDED_REASONS].clone());
        // Until the socket stands, that is the reason.
        if reasons.next_back().is_some_and(|reasons| reasons == "transport no_new_heads") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never excluded as no_new_heads");
}

#[tokio::test]
async fn a_pinned_stream_stays_with_its_provider_and_goes_on_where_it_was() {
    let (chain, fleet) = world(2, "").await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum/p1").await;
    let name = subscribe(&mut client, r#"["logs",{}]"#).await;
    let mut told = Vec::new();
    chain.advance(2);
    expect_blocks(&mut client, &name, START + 1, 2, &mut told).await;
    fleet.providers[1].go_down();
    chain.advance(2);
    eventually("the first failed try", || fleet.inbox.events(events::SUBSCRIPTION_FAILED).into_iter().next()).await;
    fleet.providers[1].come_up();
    expect_blocks(&mut client, &name, START + 3, 2, &mut told).await;
    chain.advance(1);
    expect_blocks(&mut client, &name, START + 5, 1, &mut told).await;
    assert_eq!(subscribed(&fleet.providers[0], "logs"), 0);
    assert_eq!(told.first().map(String::as_str), Some("degraded"), "{told:?}");
}

#[tokio::test]
async fn a_gap_that_is_too_wide_ends_the_subscription_with_a_word() {
    let (chain, fleet) = world(1, "failover: { max_backfill_blocks: 3 }").await;
    let mut client = Client::connect(fleet.proxy.address(), PATH).await;
    let name = subscribe(&mut client, HEADS).await;
    chain.advance(1);
    expect_blocks(&mut client, &name, START + 1, 1, &mut Vec::new()).await;
    fleet.providers[0].go_down();
    chain.advance(10);
    eventually("the provider's loss", || fleet.inbox.events(events::SUBSCRIPTION_FAILED).into_iter().next()).await;
    fleet.providers[0].come_up();
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "ended") {
        let frame = client.json().await;
        assert_eq!(
            (frame["method"].as_str(), &frame["params"]["subscription"]),
            (Some("lariat_subscription"), &json!(name))
        );
        states.push(frame["params"]["state"].as_str().unwrap().to_owned());
    }
    assert_eq!(fleet.figure("lariat_subscriptions_lost_total").await, 1);
    let again = subscribe(&mut client, HEADS).await;
    chain.advance(1);
    expect_blocks(&mut client, &again, START + 12, 1, &mut Vec::new()).await;
}

#[tokio::test]
async fn pending_transactions_come_from_one_provider_and_a_batch_may_subscribe() {
    let (_, fleet) = world(1, "").await;
    let mut client = Client::connect(fleet.proxy.address(), PATH).await;
    subscribe(&mut client, HEADS).await;
    let one = r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newPendingTransactions"]}"#;
    let replies = client.ask(format!("[{one},{}]", call("eth_gasPrice"))).await;
    let name = replies[0]["result"].as_str().unwrap().to_owned();
    let event = event(&mut client, &name, &mut Vec::new()).await;
    assert!(event.is_string(), "{event}");
}
