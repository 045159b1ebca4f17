//! Streams whose provider or chain a reload takes away.

use std::sync::Arc;

use http::StatusCode;
use lariat_schema::{attributes as key, events};
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::{Provider, ProviderHandle, ProviderSettings};

use super::fixture::{call, eventually};
use super::reloading::{Reloading, reloading, write};
use super::subscribing::expect_blocks;
use super::websocket::{Client, subscribe};

const START: u64 = 1_000;

/// Providers of one chain, each in its own priority, under that name of the chain.
fn profile(chain: &str, providers: &[(usize, &ProviderHandle)]) -> String {
    let lines: Vec<_> = providers
        .iter()
        .map(|(i, it)| {
            let (http, ws) = (it.http_url(), it.ws_url());
            format!("      - {{ id: p{i}, priority: {}, url: '{http}', ws_url: '{ws}' }}\n", i + 1)
        })
        .collect();
    format!(
        "default_strategy: priority\nchains:\n  {chain}:\n    chain_id: 1\n    monitoring: {{ probe_interval_ms: 1000 }}\n    providers:\n{}",
        lines.concat()
    )
}

async fn world() -> (Arc<Chain>, [ProviderHandle; 2]) {
    let chain = Arc::new(Chain::manual(ChainSettings { start_height: START, ..ChainSettings::default() }));
    let start = |name: &'static str| Provider::start(ProviderSettings::new(name, chain.clone()));
    let providers = [start("a").await.unwrap(), start("b").await.unwrap()];
    (chain, providers)
}

/// Waits until so many sockets of the profile `public` are connected.
async fn connected(site: &Reloading, wanted: usize) {
    for _ in 0..3_000 {
        let state = site.state().await;
        let sockets = state["channels"].as_array().unwrap().iter().filter(|it| it["transport"] == "ws");
        if sockets.filter(|it| it["connected"] == true && it["profile"] == "public").count() == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{}", site.state().await);
}

#[tokio::test]
async fn a_stream_leaves_a_provider_that_its_profile_has_no_more_and_ends_with_its_chain() {
    let (chain, [a, b]) = world().await;
    let site = reloading(&profile("ethereum", &[(0, &a), (1, &b)])).await;
    // Another profile keeps the first provider's socket up, so that its feed does not end by itself.
    std::fs::write(site.dir.path().join("other.yml"), profile("ethereum", &[(0, &a)])).unwrap();
    assert_eq!(site.reload().await.0, StatusCode::OK);
    connected(&site, 2).await;
    let mut client = Client::connect(site.proxy.address(), "/ws/rpc/ethereum").await;
    let name = subscribe(&mut client, r#"["newHeads"]"#).await;
    let mut told = Vec::new();
    chain.advance(2);
    expect_blocks(&mut client, &name, START + 1, 2, &mut told).await;

    write(site.dir.path(), &profile("ethereum", &[(1, &b)]));
    let (_, changes) = site.reload().await;
    assert_eq!(changes["removed"], serde_json::json!(["public/ethereum/p0"]));
    chain.advance(3);
    expect_blocks(&mut client, &name, START + 3, 3, &mut told).await;
    let moved = eventually("the move", || site.inbox.events(events::SUBSCRIPTION_FAILOVER).pop()).await;
    assert_eq!((moved[key::SUBSCRIPTION_FROM].as_str(), moved[key::PROVIDER_ID].as_str()), ("p0", "p1"));

    // A reload that leaves its provider where it is, though at another place, leaves the stream alone.
    write(site.dir.path(), &profile("ethereum", &[(0, &a), (1, &b)]));
    assert_eq!(site.reload().await.0, StatusCode::OK);
    chain.advance(1);
    expect_blocks(&mut client, &name, START + 6, 1, &mut told).await;
    assert_eq!(site.inbox.events(events::SUBSCRIPTION_FAILOVER).len(), 1);

    write(site.dir.path(), &profile("mainnet", &[(0, &a), (1, &b)]));
    assert_eq!(site.reload().await.0, StatusCode::OK);
    let ended = loop {
        let frame = client.json().await;
        if frame["params"]["state"] == "ended" {
            break frame;
        }
    };
    assert_eq!((&ended["method"], &ended["params"]["subscription"]), (&"lariat_subscription".into(), &name.into()));
    assert_eq!(ended["params"]["reason"], "the chain is not served any more");
    let refused = client.ask(call("eth_gasPrice")).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    assert!(site.metrics().await.contains("lariat_subscription_streams 0\n"));
}

#[tokio::test]
async fn a_stream_of_a_pinned_provider_ends_where_the_profile_has_it_no_more() {
    let (_chain, [a, b]) = world().await;
    let site = reloading(&profile("ethereum", &[(0, &a), (1, &b)])).await;
    connected(&site, 2).await;
    let mut client = Client::connect(site.proxy.address(), "/ws/rpc/ethereum/p0").await;
    subscribe(&mut client, r#"["newHeads"]"#).await;
    write(site.dir.path(), &profile("ethereum", &[(1, &b)]));
    assert_eq!(site.reload().await.0, StatusCode::OK);
    let ended = client.json().await;
    assert_eq!(ended["params"]["state"], "ended", "{ended}");
    assert_eq!(ended["params"]["reason"], "the provider is not served any more");
}
