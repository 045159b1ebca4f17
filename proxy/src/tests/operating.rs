//! What operators read and do.

use super::fixture::{Fleet, call, collector, eventually, exporter, fleet, post, provider, proxy_of, request};
use crate::reload::{Beside, Source};
use crate::{Config, Settings, StartError, profiles};
use http::{Request, StatusCode};
use lariat_schema::ids::BootId;
use lariat_schema::node_api::NodeIdentity;
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

async fn get(address: SocketAddr, path: &str) -> (StatusCode, Value) {
    let got = request(address, Request::get("/"), path, "").await;
    (got.status, got.json())
}

async fn admin(address: SocketAddr, path: &str) -> (StatusCode, Value) {
    let got = request(address, Request::post("/").header("authorization", "Bearer t0ken"), path, "").await;
    (got.status, got.json())
}

/// Waits until the proxy says what is wanted of its readiness.
async fn until_ready(fleet: &Fleet, wanted: StatusCode) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let (status, answer) = get(fleet.proxy.address(), "/ready").await;
        if status == wanted {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status} {answer}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_proxy_is_ready_when_its_providers_were_probed_and_one_of_them_can_be_called() {
    let slow = provider("a", |it| it.behaving(Behaviour::always(Fault::Hang))).await;
    let fleet = fleet(vec![slow, provider("b", |it| it).await]).await;
    let address = fleet.proxy.address();
    let (status, answer) = get(address, "/ready").await;
    assert_eq!((status, &answer["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &false.into()));
    assert!(answer["reason"].as_str().unwrap().contains("probes"), "{answer}");
    assert_eq!(until_ready(&fleet, StatusCode::OK).await, json!({ "ready": true }));
    for path in ["/admin/circuits/public/ethereum/p0/http/open", "/admin/providers/public/ethereum/p1/drain"] {
        assert_eq!(admin(address, path).await.0, StatusCode::OK);
    }
    let (status, answer) = get(address, "/ready").await;
    assert_eq!((status, &answer["chains"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(["public/ethereum"])));
    assert_eq!(get(address, "/api/health").await.1["status"], "degraded");
    assert_eq!(request(address, Request::get("/"), "/health", "").await.status, StatusCode::OK);
    admin(address, "/admin/providers/public/ethereum/p1/undrain").await;
    until_ready(&fleet, StatusCode::OK).await;
}

#[tokio::test]
async fn the_state_of_every_channel_is_complete() {
    let slow = provider("a", |it| it.behaving(Behaviour::always(Fault::Hang))).await;
    let fleet = fleet(vec![provider("b", |it| it).await, slow]).await;
    let address = fleet.proxy.address();
    until_ready(&fleet, StatusCode::OK).await;
    for _ in 0..3 {
        post(address, "/rpc/ethereum", call("eth_gasPrice")).await;
    }
    let pending = tokio::spawn(post(address, "/rpc/ethereum/p1", call("eth_getProof")));
    eventually("the call at the provider", || (fleet.providers[1].received_of("eth_getProof") == 1).then_some(()))
        .await;
    admin(address, "/admin/circuits/public/ethereum/p1/http/open").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let channels = loop {
        let channels = get(address, "/v1/providers").await.1["channels"].take();
        if channels[0]["evidence"]["eth_gasPrice"]["qualified"] == true {
            break channels;
        }
        assert!(tokio::time::Instant::now() < deadline, "{channels}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let (good, bad) = (&channels[0], &channels[1]);
    assert_eq!(
        (&good["provider_id"], &good["transport"], &good["circuit_state"], &good["open_for_ms"]),
        (&"p0".into(), &"http".into(), &"closed".into(), &Value::Null)
    );
    assert_eq!(good["health"]["status"], "healthy");
    assert!(good["health"]["consecutive_successes"].as_u64() >= Some(1), "{good}");
    assert!(good["evidence"]["eth_gasPrice"]["latency_ms"].as_f64() > Some(0.0), "{good}");
    assert!(good["probe_latency_ms"].is_number() && good["block_height"].is_number(), "{good}");
    assert_eq!((&good["block_lag"], &good["in_flight"]), (&0.into(), &0.into()));
    assert_eq!((&bad["circuit_state"], &bad["in_flight"]), (&"open".into(), &1.into()));
    assert!(bad["open_for_ms"].as_u64() > Some(0), "{bad}");
    assert_eq!((&bad["health"]["status"], &bad["health"]["consecutive_failures"]), (&"degraded".into(), &1.into()));
    assert_eq!(good["connected"], Value::Null);
    pending.abort();
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_answered_with_those_that_do() {
    let fleet = fleet(vec![provider("a", |it| it).await, provider("b", |it| it).await]).await;
    let address = fleet.proxy.address();
    for (path, message, known) in [
        ("/admin/circuits/none/ethereum/p0/http/open", "profile `none`", json!(["public"])),
        ("/admin/circuits/public/none/p0/http/close", "chain `none`", json!(["ethereum"])),
        ("/admin/circuits/public/1/none/http/open", "provider `none`", json!(["p0", "p1"])),
        ("/admin/circuits/public/1/p0/ws/open", "transport of this provider `ws`", json!(["http"])),
        ("/admin/providers/public/ethereum/none/drain", "provider `none`", json!(["p0", "p1"])),
    ] {
        let (status, answer) = admin(address, path).await;
        assert_eq!((status, &answer["known"]), (StatusCode::NOT_FOUND, &known), "{path}");
        assert!(answer["message"].as_str().unwrap().contains(message), "{path}: {answer}");
    }
    for path in ["/admin/nonsense", "/admin/circuits/public/ethereum/p0/http/halve", "/admin/"] {
        let (status, answer) = admin(address, path).await;
        assert_eq!((status, answer["known"].as_array().unwrap().len()), (StatusCode::NOT_FOUND, 5), "{path}");
    }
    let (status, answer) = admin(address, "/admin/circuits/public/ethereum/p0/http/open").await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "circuit_state": "open", "changed": true })));
    let (_, answer) = admin(address, "/admin/circuits/public/ethereum/p0/http/open").await;
    assert_eq!(answer["changed"], false);
    let (_, answer) = admin(address, "/admin/circuits/public/ethereum/p0/http/close").await;
    assert_eq!(answer, json!({ "circuit_state": "closed", "changed": true }));
    let get = Request::get("/").header("authorization", "Bearer t0ken");
    assert_eq!(request(address, get, "/admin/reload", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

const PUBLIC: &str =
    "chains: { ethereum: { chain_id: 1, name: Ethereum, providers: [ { id: a, url: 'http://127.0.0.1:9' } ] } }";

fn settings(listen: &str, allow_open_access: bool) -> Settings {
    let identity =
        NodeIdentity { node_id: "n".into(), region: "us-east".into(), boot_id: BootId(uuid::Uuid::new_v4()) };
    Settings {
        config: Config { listen: listen.parse().unwrap(), allow_open_access, ..Config::default() },
        profiles: Arc::new(profiles::parse("public", PUBLIC, &|_| None).unwrap()),
        source: None,
        beside: None,
        identity,
        exporter: exporter(SocketAddr::from(([127, 0, 0, 1], 9))),
        admin_token: None,
    }
}

#[tokio::test]
async fn without_a_configured_token_admin_calls_say_that_they_are_off_and_chains_and_health_are_for_all() {
    let proxy = crate::start(settings("127.0.0.1:0", false)).await.unwrap();
    let (status, answer) = admin(proxy.address(), "/admin/reload").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(answer["message"].as_str().unwrap().contains("CLUSTER_TOKEN"), "{answer}");
    assert_eq!(
        get(proxy.address(), "/api/chains").await.1,
        json!({ "chains": [ { "chain_id": 1, "name": "ethereum", "chain_name": "Ethereum", "supported": true } ] })
    );
    let health = get(proxy.address(), "/api/health").await.1;
    assert!(health["uptime_seconds"].is_u64() && health["timestamp"].as_str().unwrap().ends_with('Z'), "{health}");
    assert_eq!((&health["node_id"], &health["cluster"]["regions"]), (&"n".into(), &json!(["us-east"])));
}

#[tokio::test]
async fn a_reload_reads_what_is_beside_the_profiles_too_and_says_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("public.yml"), PUBLIC).unwrap();
    let outcomes = Mutex::new(vec![Ok(false), Err("rule 3 names no span".to_owned()), Ok(true)]);
    let beside = Beside(Arc::new(move || {
        let next = outcomes.lock().pop().unwrap();
        Box::pin(async move { next })
    }));
    let source = Some(Source { dir: dir.path().to_owned(), env: |_| None });
    let admin_token = Some("t0ken".to_owned());
    let settings = Settings { source, beside: Some(beside), admin_token, ..settings("127.0.0.1:0", false) };
    let proxy = crate::start(settings).await.unwrap();
    let (status, answer) = admin(proxy.address(), "/admin/reload").await;
    assert_eq!((status, &answer["mapping"]), (StatusCode::OK, &true.into()), "{answer}");
    assert!(answer["policy_hash"].is_string(), "{answer}");
    let (status, answer) = admin(proxy.address(), "/admin/reload").await;
    let error = &answer["errors"][0];
    assert_eq!((status, &error["path"]), (StatusCode::UNPROCESSABLE_ENTITY, &"collector.mapping".into()), "{answer}");
    assert_eq!(error["problem"], "rule 3 names no span");
    let (status, answer) = admin(proxy.address(), "/admin/reload").await;
    assert_eq!((status, &answer["mapping"]), (StatusCode::OK, &false.into()), "{answer}");
}

#[tokio::test]
async fn an_address_beyond_loopback_is_bound_only_where_the_configuration_says_so_in_plain_words() {
    let Err(error) = crate::start(settings("0.0.0.0:0", false)).await else { panic!("it was bound") };
    assert!(matches!(error, StartError::Open { .. }));
    assert!(error.to_string().contains("proxy.allow_open_access"), "{error}");
    assert!(crate::start(settings("0.0.0.0:0", true)).await.is_ok());
}

#[tokio::test]
async fn counters_are_prometheus_text_whatever_a_profile_is_called() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = exporter(listener.local_addr().unwrap());
    let _inbox = collector(listener).await;
    let proxy = proxy_of(&super::fixture::profile(&[provider("a", |it| it).await]), to).await;
    let got = request(proxy.address(), Request::get("/"), "/metrics", "").await;
    assert!(got.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let mut kinds = std::collections::HashMap::new();
    for line in got.text().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", "HELP", name, ..] => assert!(name.starts_with("lariat_"), "{line}"),
            ["#", "TYPE", name, kind] => assert!(kinds.insert(name, kind).is_none(), "{name} twice"),
            [series, value] => {
                let name = series.split('{').next().unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let counter = kinds[name] == "counter";
                assert_eq!(counter, name.ends_with("_total"), "{line}");
            }
            _ => panic!("{line}"),
        }
    }
    assert!(kinds.len() >= 10);
}
