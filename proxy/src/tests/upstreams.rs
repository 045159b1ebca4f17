//! What the proxy keeps of its providers: sockets for calls, health, heights, limits.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use lariat_schema::{attributes as key, events};
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::behaviour::Fault;
use lariat_tools::provider::script::{Reply, Script};
use lariat_tools::provider::{Provider, ProviderHandle, ProviderSettings};

use super::fixture::{Fleet, attributes, call, eventually, fleet_of, post, provider, request};

/// How a provider is reached.
#[derive(Clone, Copy)]
enum Over {
    Http,
    Ws,
    Both,
}

/// Providers `p0`, `p1`… with ascending priority and a short probe interval.
fn profile(providers: &[(&ProviderHandle, Over)], chain: &str) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "default_strategy: priority\nchains:\n  ethereum:\n    chain_id: 1\n    monitoring: {{ probe_interval_ms: 200 }}\n{chain}    providers:\n"
    );
    for (i, (provider, over)) in providers.iter().enumerate() {
        let (http, ws) = (provider.http_url(), provider.ws_url());
        let urls = match over {
            Over::Http => format!("url: '{http}'"),
            Over::Ws => format!("ws_url: '{ws}'"),
            Over::Both => format!("url: '{http}', ws_url: '{ws}'"),
        };
        writeln!(text, "      - {{ id: p{i}, priority: {}, {urls} }}", i + 1).unwrap();
    }
    text
}

async fn fleet(providers: Vec<(ProviderHandle, Over)>, chain: &str) -> Fleet {
    let named: Vec<_> = providers.iter().map(|(provider, over)| (provider, *over)).collect();
    let profile = profile(&named, chain);
    fleet_of(providers.into_iter().map(|(provider, _)| provider).collect(), &profile).await
}

/// Waits until the channel of `/v1/providers` is as wanted.
pub(super) async fn channel(fleet: &Fleet, id: &str, transport: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
    for _ in 0..3_000 {
        let all = request(fleet.proxy.address(), Request::get("/"), "/v1/providers", "").await.json();
        let found = all["channels"]
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["provider_id"] == id && it["transport"] == transport);
        if wanted(found.unwrap()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{id}:{transport} did not come to be as wanted");
}

pub(super) async fn connected(fleet: &Fleet, id: &str) {
    channel(fleet, id, "ws", |it| it["connected"] == true).await;
}

#[tokio::test]
async fn a_call_goes_over_the_socket_where_it_is_asked_to_and_is_recorded_so() {
    let fleet = fleet(vec![(provider("a", |it| it).await, Over::Both)], "").await;
    connected(&fleet, "p0").await;
    for path in ["/rpc/ethereum?transport=ws", "/rpc/ethereum"] {
        let got = post(fleet.proxy.address(), path, call("eth_gasPrice")).await;
        assert!(got.json()["result"].is_string(), "{}", got.text());
    }
    let decisions = eventually("two decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 2)).await;
    let told: Vec<_> = decisions.iter().map(|(_, of)| of[key::TRANSPORT].as_str()).collect();
    assert_eq!(told, ["ws", "http"], "of one provider's channels HTTP comes first");
    let (_, attempt) = fleet.inbox.attempts_of(&decisions[0].0).pop().unwrap();
    assert_eq!((attempt[key::TRANSPORT].as_str(), attempt[key::OUTCOME].as_str()), ("ws", "success"));
    let selection = attributes(&decisions[0].0.events[0].attributes);
    assert_eq!(
        (selection[key::ELIGIBLE_CHANNELS].as_str(), selection[key::EXCLUDED_REASONS].as_str()),
        ("p0:ws", "transport")
    );
    let asked = fleet.providers[0].received();
    let transports: Vec<_> =
        asked.iter().filter(|it| it.method == "eth_gasPrice").map(|it| it.transport.as_str()).collect();
    assert_eq!(transports, ["ws", "http"]);
}

#[tokio::test]
async fn a_socket_that_is_lost_is_not_a_candidate_and_the_call_goes_elsewhere() {
    let lone = provider("a", |it| it).await;
    let fleet = fleet(vec![(lone, Over::Ws), (provider("b", |it| it).await, Over::Http)], "").await;
    connected(&fleet, "p0").await;
    post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    fleet.providers[0].go_down();
    channel(&fleet, "p0", "ws", |it| it["connected"] == false).await;
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    assert!(got.json()["result"].is_string());
    let decisions = eventually("two decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 2)).await;
    let told: Vec<_> = decisions.iter().map(|(_, of)| of[key::PROVIDER_ID].as_str()).collect();
    assert_eq!(told, ["p0", "p1"]);
    let selection = attributes(&decisions[1].0.events[0].attributes);
    assert_eq!(selection[key::EXCLUDED_REASONS], "not_connected");
    channel(&fleet, "p0", "ws", |it| it["health"]["status"] == "unhealthy" || it["health"]["status"] == "degraded")
        .await;
}

#[tokio::test]
async fn a_drop_in_the_middle_of_a_call_over_the_socket_fails_over() {
    let slow = provider("a", |it| it.scripted(Script::new().on("eth_gasPrice", [Reply::Fault(Fault::Reset)]))).await;
    let fleet = fleet(vec![(slow, Over::Ws), (provider("b", |it| it).await, Over::Http)], "").await;
    connected(&fleet, "p0").await;
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    assert!(got.json()["result"].is_string(), "{}", got.text());
    let (span, of) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
    assert_eq!((of[key::FAILOVERS].as_str(), of[key::PROVIDER_ID].as_str()), ("1", "p1"));
    let attempts = fleet.inbox.attempts_of(&span);
    assert!(attempts.iter().any(|(_, it)| it[key::TRANSPORT] == "ws" && it[key::DISPATCHED] == "indeterminate"));
}

#[tokio::test]
async fn a_lost_socket_is_one_failure_of_its_channel_however_many_calls_waited_on_it() {
    let busy = provider("a", |it| it.scripted(Script::new().on("eth_call", [Reply::Fault(Fault::Hang)]))).await;
    let fleet = fleet(vec![(busy, Over::Ws), (provider("b", |it| it).await, Over::Http)], "").await;
    connected(&fleet, "p0").await;
    let address = fleet.proxy.address();
    let ask = |i: u32| {
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":{i},"method":"eth_call","params":[{{"gas":"{i:#x}"}},"latest"]}}"#);
        tokio::spawn(post(address, "/rpc/ethereum", text))
    };
    let pending: Vec<_> = (1..=20).map(ask).collect();
    eventually("all calls", || (fleet.providers[0].received_of("eth_call") == 20).then_some(())).await;
    fleet.providers[0].go_down();
    for call in pending {
        let got = call.await.unwrap();
        assert!(got.json()["result"].is_string(), "{}", got.text());
    }
    let decisions = eventually("the decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 20)).await;
    for (span, of) in decisions {
        assert_eq!((of[key::PROVIDER_ID].as_str(), of[key::FAILOVERS].as_str()), ("p1", "1"));
        let (_, first) = fleet.inbox.attempts_of(&span).swap_remove(0);
        let told = [key::OUTCOME, key::ERROR_CATEGORY, key::DISPATCHED].map(|key| first[key].clone());
        assert_eq!(told, ["service_failure", "network_error", "indeterminate"]);
    }
    channel(&fleet, "p0", "ws", |it| it["connected"] == false).await;
    channel(&fleet, "p0", "ws", |it| it["circuit_state"] == "closed" && it["circuit_epoch"] == 1).await;
}

#[tokio::test]
async fn a_provider_with_only_a_socket_is_probed_over_it() {
    let fleet = fleet(vec![(provider("a", |it| it).await, Over::Ws)], "").await;
    let height = fleet.providers[0].height();
    channel(&fleet, "p0", "ws", |it| it["health"]["status"] == "healthy" && it["block_height"] == height).await;
    assert!(fleet.providers[0].received().iter().all(|it| it.transport.as_str() == "ws"));
}

#[tokio::test]
async fn new_heads_are_known_at_once_and_heights_are_asked_for_less_often() {
    let chain = Arc::new(Chain::manual(ChainSettings::default()));
    let announcing = Provider::start(ProviderSettings::new("a", chain.clone())).await.unwrap();
    let fleet = fleet(vec![(announcing, Over::Both)], "").await;
    let provider = &fleet.providers[0];
    eventually("the subscription", || (provider.received_of("eth_subscribe") == 1).then_some(())).await;
    eventually("a height", || fleet.inbox.events(events::BLOCK_HEAD).pop()).await;
    chain.advance(1);
    let head = eventually("a head over the socket", || {
        fleet.inbox.events(events::BLOCK_HEAD).into_iter().find(|it| it[key::TRANSPORT] == "ws")
    })
    .await;
    assert_eq!(head[key::BLOCK_HEIGHT], (ChainSettings::default().start_height + 1).to_string());
    let (ids, heights) = (provider.received_of("eth_chainId"), provider.received_of("eth_blockNumber"));
    eventually("nine rounds", || (provider.received_of("eth_chainId") >= ids + 9).then_some(())).await;
    let asked = provider.received_of("eth_blockNumber") - heights;
    assert!((2..=5).contains(&asked), "{asked} heights in nine rounds");
}

#[tokio::test]
async fn heads_are_not_subscribed_to_where_the_profile_does_not_want_them() {
    let quiet = provider("a", |it| it).await;
    let fleet = fleet(vec![(quiet, Over::Both)], "    websocket: { subscribe_new_heads: false }\n").await;
    connected(&fleet, "p0").await;
    eventually("some rounds", || (fleet.providers[0].received_of("eth_chainId") > 5).then_some(())).await;
    assert_eq!(fleet.providers[0].received_of("eth_subscribe"), 0);
}

#[tokio::test]
async fn a_provider_that_lies_about_its_height_excludes_nobody_and_is_told_of() {
    // One lies from the start, the other only after it was believed: who is right of two from the start is not known.
    let truth = format!("\"{:#x}\"", ChainSettings::default().start_height);
    for (first, lie) in [("\"0xffffffffff\"", "\"0xffffffffff\""), (&*truth, "\"0x1\"")] {
        let script = Script::new().on("eth_blockNumber", [Reply::result(first.to_owned()), Reply::result(lie)]);
        let liar = provider("a", |it| it.scripted(script)).await;
        let providers = vec![(liar, Over::Http), (provider("b", |it| it).await, Over::Http)];
        let fleet = fleet(providers, "    selection: { max_lag_blocks: 1 }\n").await;
        let height = fleet.providers[1].height();
        channel(&fleet, "p1", "http", |it| it["block_height"] == height && it["health"]["probes"].as_u64() > Some(3))
            .await;
        channel(&fleet, "p1", "http", |it| it["block_lag"] == 0).await;
        let got = post(fleet.proxy.address(), "/rpc/ethereum/p1", call("eth_gasPrice")).await;
        assert!(got.json()["result"].is_string(), "{}", got.text());
        let (span, _) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
        assert!(!attributes(&span.events[0].attributes)[key::EXCLUDED_REASONS].contains("lagging"));
        if lie != "\"0x1\"" {
            let told = eventually("the doubt", || {
                fleet.inbox.events(events::PROVIDER_HEALTH).into_iter().find(|it| it[key::HEALTH_TO] == "degraded")
            })
            .await;
            assert_eq!(told[key::PROVIDER_ID], "p0");
            channel(&fleet, "p0", "http", |it| it["block_height_doubted"] == true).await;
        }
    }
}

#[tokio::test]
async fn each_kind_of_trouble_is_a_status_and_a_limit_that_probes_meet_is_remembered() {
    let troubles = [
        (Reply::http(429, ""), "rate_limited", true),
        (Reply::http(403, ""), "rate_limited", true),
        (Reply::http(401, ""), "misconfigured", false),
        (Reply::result("\"0x5\""), "misconfigured", false),
        (Reply::http(500, ""), "degraded", false),
    ];
    let mut providers = Vec::new();
    for (reply, ..) in &troubles {
        let script = Script::new().on("eth_chainId", [reply.clone()]);
        providers.push((provider("a", |it| it.scripted(script)).await, Over::Http));
    }
    let fleet = fleet(providers, "").await;
    for (at, (_, status, limited)) in troubles.iter().enumerate() {
        let id = format!("p{at}");
        channel(&fleet, &id, "http", |it| it["health"]["status"] == *status).await;
        channel(&fleet, &id, "http", |it| (it["limited_for_ms"].as_u64() > Some(50_000)) == *limited).await;
        let told = eventually("the change of health", || {
            fleet.inbox.events(events::PROVIDER_HEALTH).into_iter().find(|it| it[key::PROVIDER_ID] == id.as_str())
        })
        .await;
        assert_eq!((told[key::HEALTH_FROM].as_str(), told[key::HEALTH_TO].as_str()), ("connecting", *status));
    }
}
