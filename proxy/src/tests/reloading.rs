//! Other profiles while the proxy runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::fixture::{Inbox, call, collector, eventually, exporter, post, profile, provider, request, start};
use crate::reload::Source;
use crate::{Proxy, profiles};
use http::{Request, StatusCode};
use lariat_schema::{attributes as key, events, metrics};
use lariat_tools::provider::ProviderHandle;
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use tokio::net::TcpListener;

pub(super) struct Reloading {
    pub(super) proxy: Proxy,
    pub(super) inbox: Arc<Inbox>,
    pub(super) dir: tempfile::TempDir,
}

pub(super) fn write(dir: &Path, text: &str) {
    std::fs::write(dir.join("public.yml"), text).unwrap();
}

pub(super) async fn reloading(text: &str) -> Reloading {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), text);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = exporter(listener.local_addr().unwrap());
    let inbox = collector(listener).await;
    let catalog = profiles::load(dir.path(), &|_| None).unwrap();
    let source = Source { dir: dir.path().to_owned(), env: |_| None };
    let proxy = start(catalog, Some(source), to).await;
    Reloading { proxy, inbox, dir }
}

impl Reloading {
    pub(super) async fn reload(&self) -> (StatusCode, serde_json::Value) {
        let with_token = Request::post("/").header("authorization", "Bearer t0ken");
        let got = request(self.proxy.address(), with_token, "/admin/reload", "").await;
        (got.status, got.json())
    }

    async fn call(&self) -> super::fixture::Got {
        post(self.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await
    }

    pub(super) async fn state(&self) -> serde_json::Value {
        request(self.proxy.address(), Request::get("/"), "/v1/providers", "").await.json()
    }

    pub(super) async fn metrics(&self) -> String {
        request(self.proxy.address(), Request::get("/"), "/metrics", "").await.text().to_owned()
    }
}

#[tokio::test]
async fn other_profiles_are_in_force_at_once_and_what_is_known_of_kept_providers_stays() {
    let (a, b) = (provider("a", |it| it).await, provider("b", |it| it).await);
    let all = [a, b];
    let site = reloading(&profile(&all)).await;
    let address = site.proxy.address();
    let with_token = || Request::post("/").header("authorization", "Bearer t0ken");
    for path in ["/admin/circuits/public/ethereum/p0/http/open", "/admin/providers/public/ethereum/p1/drain"] {
        assert_eq!(request(address, with_token(), path, "").await.status, StatusCode::OK);
    }
    let before = site.state().await;
    let mut catalogs = site.proxy.catalogs();
    // A new provider in front: the others change their places.
    let c = provider("c", |it| it).await;
    let more = profile(&all).replace(
        "    providers:\n",
        &format!("    providers:\n      - {{ id: new, priority: 9, url: '{}' }}\n", c.http_url()),
    );
    write(site.dir.path(), &more);
    let (status, changes) = site.reload().await;
    assert_eq!((status, &changes["applied"]), (StatusCode::OK, &true.into()));
    assert_eq!(changes["added"], serde_json::json!(["public/ethereum/new"]));
    let after = site.state().await;
    assert!(after["snapshot"].as_u64() > before["snapshot"].as_u64());
    assert_eq!(after["policy_hash"], changes["policy_hash"]);
    assert_ne!(after["policy_hash"], before["policy_hash"]);
    let channels = &after["channels"];
    assert_eq!((&channels[0]["provider_id"], &channels[0]["circuit_state"]), (&"new".into(), &"closed".into()));
    assert_eq!((&channels[1]["provider_id"], &channels[1]["circuit_state"]), (&"p0".into(), &"open".into()));
    assert_eq!(channels[1]["circuit_epoch"], before["channels"][0]["circuit_epoch"]);
    assert_eq!((&channels[2]["draining"], &channels[1]["draining"]), (&true.into(), &false.into()));
    assert!(site.call().await.json()["result"].is_string());
    assert_eq!(c.received_of("eth_gasPrice"), 1);
    assert_eq!(catalogs.borrow_and_update().policy_hash.as_ref(), changes["policy_hash"].as_str().unwrap());

    let told = eventually("the new policy in the record", || {
        let all = site.inbox.events(events::CONFIG_RELOAD);
        all.iter().any(|it| it[key::POLICY_HASH] == changes["policy_hash"]).then_some(all.len())
    })
    .await;
    assert_eq!(told, 2, "one of the start, one of the reload");
    eventually("gauges of the new provider", || {
        let requests = site.inbox.metrics.lock();
        let text = format!("{:?}", requests.last()?);
        (text.contains(metrics::CIRCUIT_STATE) && text.contains("\"new\"")).then_some(())
    })
    .await;
    let (status, changes) = site.reload().await;
    assert_eq!((status, &changes["applied"]), (StatusCode::OK, &false.into()));
    let text = site.metrics().await;
    assert!(text.contains("lariat_config_reloads_total{outcome=\"applied\"} 1\n"), "{text}");
}

#[tokio::test]
async fn profiles_with_errors_change_nothing_and_every_error_is_told_with_its_file_path_and_line() {
    let a = provider("a", |it| it).await;
    let all = [a];
    let site = reloading(&profile(&all)).await;
    write(site.dir.path(), "speed: 3\nchains:\n  ethereum:\n    providers: []\n");
    std::fs::write(site.dir.path().join("half.yml"), "chains:\n  ether: [").unwrap();
    let (status, answer) = site.reload().await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let errors = answer["errors"].as_array().unwrap();
    for (file, path, line) in
        [("half.yml", "", None), ("public.yml", "speed", Some(1)), ("public.yml", "chains.ethereum.providers", Some(4))]
    {
        let found = errors.iter().find(|it| it["file"].as_str().unwrap().ends_with(file) && it["path"] == path);
        let found = found.unwrap_or_else(|| panic!("{file} {path} not in {answer}"));
        assert!(line.is_none() || found["line"].as_u64() == line, "{found}");
    }
    assert!(site.call().await.json()["result"].is_string(), "the last good profiles are in force");
    let text = site.metrics().await;
    assert!(text.contains("lariat_config_reloads_total{outcome=\"failed\"} 1\n"), "{text}");
    assert!(text.contains("lariat_config_last_reload_successful 0\n"), "{text}");
    std::fs::remove_file(site.dir.path().join("half.yml")).unwrap();
    write(site.dir.path(), &profile(&all));
    assert_eq!(site.reload().await.0, StatusCode::OK);
    assert!(site.metrics().await.contains("lariat_config_last_reload_successful 1\n"));
}

#[tokio::test]
async fn a_call_under_way_finishes_under_the_old_profiles_and_probes_follow_the_new_ones() {
    let slow = provider("a", |it| it.behaving(Behaviour::always(Fault::Hang))).await;
    let (gone, kept) = (provider("b", |it| it).await, provider("c", |it| it).await);
    let often = |providers: &[ProviderHandle]| {
        profile(providers).replace("    providers:\n", "    monitoring: { probe_interval_ms: 100 }\n    providers:\n")
    };
    let all = [slow, gone, kept];
    let site = reloading(&often(&all)).await;
    let pending = tokio::spawn(post(site.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")));
    eventually("the call at the provider", || (all[0].received_of("eth_gasPrice") == 1).then_some(())).await;
    eventually("probes of all", || all[1..].iter().all(|it| it.received_of("eth_blockNumber") > 0).then_some(())).await;
    let [_, _, kept] = &all;
    let only = often(std::slice::from_ref(kept));
    write(site.dir.path(), &only);
    let (_, changes) = site.reload().await;
    assert_eq!(changes["removed"], serde_json::json!(["public/ethereum/p1", "public/ethereum/p2"]), "{changes}");
    // The call was made when there were three: it goes on to the second after the first did not answer.
    let got = pending.await.unwrap();
    assert!(got.json()["result"].is_string(), "{}", got.text());
    assert_eq!(all[1].received_of("eth_gasPrice"), 1);
    let mut probes = kept.received_of("eth_blockNumber");
    let (mut of_gone, mut rounds) = (all[1].received_of("eth_blockNumber"), 0);
    eventually("ten more probes of the kept provider and none of the other", || {
        let now = kept.received_of("eth_blockNumber");
        if now > std::mem::replace(&mut probes, now) {
            rounds += 1;
            // One may have been under way at the reload.
            let gone_now = all[1].received_of("eth_blockNumber");
            if rounds <= 1 {
                of_gone = gone_now;
            }
            assert_eq!(gone_now, of_gone);
        }
        (rounds >= 10).then_some(())
    })
    .await;
    let (ids, heights) = (kept.received_of("eth_chainId"), kept.received_of("eth_blockNumber"));
    assert!(ids.abs_diff(heights) <= 1, "one task goes on asking for both: {ids} and {heights}");
}

#[tokio::test]
async fn files_that_change_are_read_without_being_asked_and_a_half_written_one_is_not_fatal() {
    let a = provider("a", |it| it).await;
    let all = [a];
    let site = reloading(&profile(&all)).await;
    let mut catalogs = site.proxy.catalogs();
    write(site.dir.path(), "chains:\n  ether: [");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !site.metrics().await.contains("lariat_config_reloads_total{outcome=\"failed\"} 1\n") {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(site.call().await.json()["result"].is_string());
    write(site.dir.path(), &profile(&all).replace("default_strategy: priority", "default_strategy: fastest"));
    tokio::time::timeout(Duration::from_secs(30), catalogs.changed()).await.unwrap().unwrap();
    let strategy = catalogs.borrow_and_update().profiles[0].default_strategy;
    assert_eq!(strategy, lariat_schema::vocabulary::Strategy::Fastest);
}

#[tokio::test]
async fn where_profiles_come_from_no_files_a_reload_says_so_and_without_a_token_nothing_is_done() {
    let fleet = super::fixture::fleet(vec![provider("a", |it| it).await]).await;
    let address = fleet.proxy.address();
    let with_token = Request::post("/").header("authorization", "Bearer t0ken");
    let got = request(address, with_token, "/admin/reload", "").await;
    assert_eq!(got.status, StatusCode::CONFLICT);
    assert!(got.text().contains("do not come from files"), "{}", got.text());
    assert_eq!(request(address, Request::post("/"), "/admin/reload", "").await.status, StatusCode::UNAUTHORIZED);
}
