//! Providers that speak TLS: HTTP/2 and what it ends early, certificates that must not be believed, sockets.

use std::sync::Arc;

use http::{Request, StatusCode};
use lariat_schema::attributes as key;
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::frames::{FrameProvider, Step};
use lariat_tools::provider::{Provider, ProviderHandle, ProviderSettings, Tls};
use tokio::net::TcpListener;

use super::certificates::{Authority, LOOPBACK};
use super::fixture::{Fleet, call, collector, eventually, exporter, post, provider, request, start_trusting};
use super::upstreams::{channel, connected};
use super::websocket::{Client, subscribe};
use crate::profiles;
use crate::reload::Source;

const TRANSACTION: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x02f8"]}"#;

/// A proxy that reads its profile and its authorities from files.
struct Site {
    fleet: Fleet,
    dir: tempfile::TempDir,
}

/// Providers `p0`, `p1`… in their priority, each with its addresses.
async fn site(authority: &Authority, addresses: &[String], providers: Vec<ProviderHandle>) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("authorities.pem");
    authority.write(&ca_file);
    let lines: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(i, urls)| format!("      - {{ id: p{i}, priority: {}, {urls} }}\n", i + 1))
        .collect();
    let text = format!(
        "default_strategy: priority\nchains:\n  ethereum:\n    chain_id: 1\n    monitoring: {{ probe_interval_ms: 300 }}\n    providers:\n{}",
        lines.concat()
    );
    std::fs::write(dir.path().join("public.yml"), text).unwrap();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let to = exporter(listener.local_addr().unwrap());
    let inbox = collector(listener).await;
    let catalog = profiles::load(dir.path(), &|_| None).unwrap();
    let source = Source { dir: dir.path().to_owned(), env: |_| None };
    let proxy = start_trusting(catalog, Some(source), to, ca_file).await;
    Site { fleet: Fleet { proxy, providers, inbox }, dir }
}

impl Site {
    async fn reload(&self) -> (StatusCode, serde_json::Value) {
        let with_token = Request::post("/").header("authorization", "Bearer t0ken");
        let got = request(self.fleet.proxy.address(), with_token, "/admin/reload", "").await;
        (got.status, got.json())
    }

    async fn call(&self, path: &str, body: impl Into<String>) -> serde_json::Value {
        post(self.fleet.proxy.address(), path, body.into()).await.json()
    }
}

async fn secure(tls: Tls) -> ProviderHandle {
    provider("a", |it| it.over(tls)).await
}

fn http_of(provider: &ProviderHandle) -> String {
    format!("url: '{}'", provider.http_url())
}

#[tokio::test]
async fn calls_over_tls_use_http_2_with_a_certificate_of_an_authority_of_the_operator() {
    let authority = Authority::new("ours");
    let provider = secure(authority.certify(LOOPBACK)).await;
    let site = site(&authority, &[http_of(&provider)], vec![provider]).await;
    for _ in 0..20 {
        let got = site.call("/rpc/ethereum", call("eth_gasPrice")).await;
        assert!(got["result"].is_string(), "{got}");
    }
    let stats = site.fleet.providers[0].stats();
    assert!(stats.over_http2 >= 20 && stats.untrusted == 0, "{stats:?}");
    let (span, of) = eventually("a decision", || site.fleet.inbox.decisions().pop()).await;
    assert_eq!((of[key::RESULT].as_str(), of[key::ATTEMPTS].as_str()), ("success", "1"));
    let (_, attempt) = site.fleet.inbox.attempts_of(&span).pop().unwrap();
    assert_eq!((attempt[key::DISPATCHED].as_str(), attempt[key::HTTP_STATUS].as_str()), ("dispatched", "200"));
    assert!(!attempt.contains_key(key::TRANSPORT_FAILURE));
}

#[tokio::test]
async fn a_provider_that_goes_away_answers_what_it_began_and_the_rest_is_sent_elsewhere() {
    let authority = Authority::new("ours");
    let steps = [("eth_call", vec![Step::Hold]), ("eth_gasPrice", vec![Step::GoAwayBefore, Step::AnswerHeld])];
    let leaving = FrameProvider::start(authority.certify(LOOPBACK), steps).await.unwrap();
    let other = secure(authority.certify(LOOPBACK)).await;
    let urls = [format!("url: '{}'", leaving.https_url()), http_of(&other)];
    let site = site(&authority, &urls, vec![other]).await;
    let begun = async {
        let got = site.call("/rpc/ethereum", call("eth_call")).await;
        assert_eq!(got["result"], "0x1", "{got}");
    };
    let cut_off = async {
        eventually("the call before it", || (leaving.received_of("eth_call") == 1).then_some(())).await;
        let got = site.call("/rpc/ethereum", call("eth_gasPrice")).await;
        assert!(got["result"].is_string(), "{got}");
    };
    tokio::join!(begun, cut_off);
    assert_eq!(leaving.received_of("eth_gasPrice"), 1);
    assert_eq!(site.fleet.providers[0].received_of("eth_gasPrice"), 1);
    let decisions =
        eventually("two decisions", || Some(site.fleet.inbox.decisions()).filter(|all| all.len() == 2)).await;
    for (span, of) in decisions {
        let attempts = site.fleet.inbox.attempts_of(&span);
        if of[key::RPC_METHOD] == "eth_call" {
            assert_eq!((of[key::PROVIDER_ID].as_str(), attempts.len()), ("p0", 1));
            continue;
        }
        assert_eq!((of[key::PROVIDER_ID].as_str(), of[key::FAILOVERS].as_str()), ("p1", "1"));
        let first = &attempts[0].1;
        assert_eq!(first[key::TRANSPORT_FAILURE], "unprocessed");
        assert_eq!(
            (first[key::DISPATCHED].as_str(), first[key::OUTCOME].as_str()),
            ("not_dispatched", "service_failure")
        );
    }
}

#[tokio::test]
async fn a_transaction_is_sent_elsewhere_only_if_the_provider_said_that_it_did_not_begin_with_it() {
    let cases = [
        (vec![Step::GoAwayBefore, Step::Close], "unprocessed", true),
        (vec![Step::Refuse], "unprocessed", true),
        (vec![Step::GoAwayAfter, Step::Close], "closed", false),
        (vec![Step::Fail], "protocol", false),
        (vec![Step::Close], "closed", false),
    ];
    for (steps, failure, elsewhere) in cases {
        let authority = Authority::new("ours");
        let breaking = FrameProvider::start(authority.certify(LOOPBACK), [("eth_sendRawTransaction", steps.clone())]);
        let (breaking, other) = (breaking.await.unwrap(), secure(authority.certify(LOOPBACK)).await);
        let urls = [format!("url: '{}'", breaking.https_url()), http_of(&other)];
        let site = site(&authority, &urls, vec![other]).await;
        let got = site.call("/rpc/ethereum", TRANSACTION).await;
        assert_eq!(breaking.received_of("eth_sendRawTransaction"), 1, "{steps:?}");
        let received = site.fleet.providers[0].received_of("eth_sendRawTransaction");
        let (span, _) = eventually("a decision", || site.fleet.inbox.decisions().pop()).await;
        let (_, first) = site.fleet.inbox.attempts_of(&span).swap_remove(0);
        let certainty = if elsewhere { "not_dispatched" } else { "indeterminate" };
        assert_eq!((&*first[key::TRANSPORT_FAILURE], &*first[key::DISPATCHED]), (failure, certainty), "{steps:?}");
        assert_eq!((received, got["result"].is_string()), (u64::from(elsewhere), elsewhere), "{steps:?}: {got}");
    }
}

#[tokio::test]
async fn a_certificate_that_must_not_be_believed_is_a_failure_with_its_reason_and_no_secret_is_told() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let cases = [
        (theirs.certify(LOOPBACK), "tls_authority"),
        (ours.certify("elsewhere.example"), "tls_name"),
        (ours.certify_until_2020(LOOPBACK), "tls_expired"),
    ];
    let (mut urls, mut providers) = (Vec::new(), Vec::new());
    for (tls, _) in &cases {
        let provider = secure(tls.clone()).await;
        urls.push(format!("url: '{}/k3y', ws_url: '{}/k3y'", provider.http_url(), provider.ws_url()));
        providers.push(provider);
    }
    let site = site(&ours, &urls, providers).await;
    let address = site.fleet.proxy.address();
    for (at, (_, failure)) in cases.iter().enumerate() {
        let id = format!("p{at}");
        let got = post(address, &format!("/rpc/ethereum/{id}"), call("eth_gasPrice")).await;
        assert_eq!(got.json()["error"]["code"], -32000, "{}", got.text());
        assert!(!got.text().contains("k3y"), "{}", got.text());
        let decisions =
            eventually("its decision", || Some(site.fleet.inbox.decisions()).filter(|all| all.len() == at + 1)).await;
        let (_, attempt) = site.fleet.inbox.attempts_of(&decisions[at].0).pop().unwrap();
        let told = [key::OUTCOME, key::ERROR_CATEGORY, key::TRANSPORT_FAILURE, key::DISPATCHED];
        assert_eq!(
            told.map(|key| attempt[key].as_str()),
            ["service_failure", "network_error", failure, "not_dispatched"]
        );
        channel(&site.fleet, &id, "http", |it| it["health"]["reason"] == format!("network_error: {failure}")).await;
        channel(&site.fleet, &id, "ws", |it| it["connected"] == false).await;
        assert_eq!(site.fleet.providers[at].received_of("eth_gasPrice"), 0);
    }
    let state = request(address, Request::get("/"), "/v1/providers", "").await;
    assert!(!state.text().contains("k3y"));
    let recorded = format!("{:?}{:?}", site.fleet.inbox.traces.lock(), site.fleet.inbox.logs.lock());
    assert!(!recorded.contains("k3y"));
}

#[tokio::test]
async fn calls_and_subscriptions_go_over_a_socket_with_tls() {
    let authority = Authority::new("ours");
    let chain = Arc::new(Chain::manual(ChainSettings::default()));
    let settings = ProviderSettings::new("a", chain.clone()).over(authority.certify(LOOPBACK));
    let provider = Provider::start(settings).await.unwrap();
    let site = site(&authority, &[format!("ws_url: '{}'", provider.ws_url())], vec![provider]).await;
    connected(&site.fleet, "p0").await;
    let got = site.call("/rpc/ethereum", call("eth_gasPrice")).await;
    assert!(got["result"].is_string(), "{got}");
    let mut client = Client::connect(site.fleet.proxy.address(), "/ws/rpc/ethereum").await;
    let name = subscribe(&mut client, r#"["newHeads"]"#).await;
    chain.advance(1);
    let event = client.json().await;
    assert_eq!(event["params"]["subscription"], name);
    assert_eq!(event["params"]["result"]["number"], format!("{:#x}", chain.height()));
}

#[tokio::test]
async fn other_authorities_are_trusted_after_a_reload_and_a_wrong_file_changes_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let provider = secure(theirs.certify(LOOPBACK)).await;
    let url = format!("{}, ws_url: '{}'", http_of(&provider), provider.ws_url());
    let site = site(&ours, &[url], vec![provider]).await;
    let path = "/rpc/ethereum/p0";
    assert_eq!(site.call(path, call("eth_gasPrice")).await["error"]["code"], -32000);
    let ca_file = site.dir.path().join("authorities.pem");
    theirs.write(&ca_file);
    let (status, changes) = site.reload().await;
    assert_eq!((status, &changes["authorities"]), (StatusCode::OK, &true.into()), "{changes}");
    connected(&site.fleet, "p0").await;
    channel(&site.fleet, "p0", "http", |it| it["health"]["status"] == "healthy").await;
    let (_, unchanged) = site.reload().await;
    assert_eq!((&unchanged["authorities"], &unchanged["applied"]), (&false.into(), &false.into()));
    std::fs::write(&ca_file, "nonsense").unwrap();
    let (status, wrong) = site.reload().await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong["errors"][0]["file"].as_str().unwrap().ends_with("authorities.pem"), "{wrong}");
    let with_token = Request::post("/").header("authorization", "Bearer t0ken");
    let closed = "/admin/circuits/public/ethereum/p0/http/close";
    request(site.fleet.proxy.address(), with_token, closed, "").await;
    let got = site.call(path, call("eth_gasPrice")).await;
    assert!(got["result"].is_string(), "{got}");
}
