//! What providers do that they should not: each costs a bounded time and a bounded memory, is of a category of its own in the
//! record, and is answered by another provider where there is one. The provider is bytes on a wire, since no HTTP server
//! behaves this badly.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lariat_schema::attributes as key;
use lariat_tools::provider::behaviour::{Behaviour, Fault, Outage};
use lariat_tools::provider::raw::{RawProvider, Step, response};
use serde_json::Value;

use super::fixture::{Fleet, call, eventually, fleet, fleet_of, post, provider};

const GOOD: &str = r#"{"jsonrpc":"2.0","id":{id},"result":"0x7"}"#;

/// A fleet whose first provider says these bytes to `method`, and whose second one is well.
async fn before(method: &str, steps: Vec<Step>) -> (RawProvider, Fleet) {
    let raw = RawProvider::start(method, steps).await.unwrap();
    let good = vec![provider("good", |it| it).await];
    let text = super::fixture::profile(&good);
    let at = text.find("      - {").unwrap();
    let first = format!("      - {{ id: raw, priority: 1, url: '{}' }}\n", raw.http_url());
    let profile = text[..at].to_owned() + &first + &text[at..].replace("priority: 1", "priority: 2");
    let fleet = fleet_of(good, &profile).await;
    (raw, fleet)
}

/// Asks once; returns the answer and what the record says of the first attempt: its outcome and category.
async fn ask(fleet: &Fleet, method: &str) -> (Value, String, String) {
    let began = Instant::now();
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call(method)).await;
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    let id = got.headers["x-lariat-request-id"].to_str().unwrap().to_owned();
    let (decision, _) =
        eventually("the decision", || fleet.inbox.decisions().into_iter().find(|(_, of)| of[key::REQUEST_ID] == id))
            .await;
    let first = eventually("its attempts", || fleet.inbox.attempts_of(&decision).into_iter().next()).await.1;
    let category = first.get(key::ERROR_CATEGORY).cloned().unwrap_or_default();
    (got.json(), first[key::OUTCOME].clone(), category)
}

fn ok(body: &str) -> Step {
    response("200 OK", "", body)
}

type Case = (&'static str, Vec<Step>);

fn write(text: &str) -> Step {
    Step::write(text.to_owned())
}

fn megabytes(count: usize) -> Step {
    Step::Repeat(Bytes::from(vec![b'a'; 1024 * 1024]), count)
}

/// What is no whole reply of HTTP.
fn lost() -> Vec<Case> {
    let pause = || Step::Pause(Duration::from_millis(20));
    let many: String = (0..300).map(|n| format!("x-{n}: y\r\n")).collect();
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![
        ("a reset before the head", vec![Step::Reset]),
        ("an end before the head", vec![Step::Close]),
        ("a reset within the head", vec![write("HTTP/1.1 200 OK\r\ncont"), pause(), Step::Reset]),
        ("a reset after the head", vec![write("HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{"), pause(), Step::Reset]),
        (
            "an end before the promised length",
            vec![write("HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{"), pause(), Step::Close],
        ),
        ("an answer in TLS", vec![Step::Write(Bytes::from_static(b"\x15\x03\x01\x00\x02\x02\x46")), Step::Close]),
        ("a head of garbage", vec![write("what is this\r\n\r\n")]),
        ("too many headers", vec![response("200 OK", &many, GOOD)]),
        ("a head without end", vec![write("HTTP/1.1 200 OK\r\nx: "), megabytes(8)]),
        ("chunks of no length", vec![write(chunked), write("zz\r\n{}\r\n0\r\n\r\n")]),
        ("a chunk that is cut off", vec![write(chunked), write("ff\r\n{\r\n"), pause(), Step::Close]),
    ]
}

/// What is a reply of HTTP, but none to the call.
fn nonsense() -> Vec<Case> {
    vec![
        ("a page", vec![ok("<html>welcome</html>")]),
        ("nothing", vec![ok("")]),
        ("no content", vec![write("HTTP/1.1 204 No Content\r\n\r\n")]),
        ("a length that is too short", vec![write(&format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{GOOD}"))]),
        ("another id", vec![ok(r#"{"jsonrpc":"2.0","id":9{id},"result":1}"#)]),
        ("a null id", vec![ok(r#"{"jsonrpc":"2.0","id":null,"result":1}"#)]),
        ("the id as text", vec![ok(r#"{"jsonrpc":"2.0","id":"{id}","result":1}"#)]),
        ("the id twice", vec![ok(r#"{"jsonrpc":"2.0","id":{id},"id":{id},"result":1}"#)]),
        ("neither result nor error", vec![ok(r#"{"jsonrpc":"2.0","id":{id}}"#)]),
        ("a list", vec![ok(&format!("[{GOOD}]"))]),
        ("two replies in one", vec![ok(&format!("{GOOD}{GOOD}"))]),
        (
            "bytes that are no UTF-8",
            vec![Step::Write(Bytes::from_static(
                b"HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{\"id\":{id},\"result\":\"\xff\"}",
            ))],
        ),
        ("a list without end", vec![ok(&"[".repeat(1024 * 1024))]),
        ("compressed bytes", vec![response("200 OK", "content-encoding: gzip\r\n", "\u{1f}\u{8b}\u{8}aaaa")]),
        ("a redirect", vec![response("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", "")]),
        (
            "another protocol",
            vec![write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")],
        ),
        (
            "100 MB that are announced",
            vec![write("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n"), megabytes(100)],
        ),
        (
            "100 MB without an announcement",
            vec![write("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"), megabytes(100), Step::Close],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_is_none_is_told_apart_by_its_kind_and_another_provider_is_asked() {
    let with = |category, cases: Vec<Case>| cases.into_iter().map(move |(name, steps)| (name, steps, category));
    for (name, steps, category) in with("network_error", lost()).chain(with("invalid_response", nonsense())) {
        let (raw, fleet) = before("debug_traceCall", steps).await;
        let (reply, found, kind) = ask(&fleet, "debug_traceCall").await;
        assert_eq!((found.as_str(), kind.as_str()), ("service_failure", category), "{name}");
        // The simulated chain does not know the method, which shows that it was asked.
        assert_eq!(reply["error"]["code"], -32601, "{name}: {reply}");
        assert_eq!(raw.played(), 1, "{name}: it was asked once");
    }
}

#[tokio::test]
async fn a_provider_that_takes_for_ever_is_given_up_in_time_for_another() {
    let head = || Step::write("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n");
    let drip = || Step::Drip(Bytes::from(vec![b' '; 900]), Duration::from_millis(20));
    let informational = Step::Repeat(Bytes::from_static(b"HTTP/1.1 103 Early Hints\r\n\r\n"), 1_000_000);
    for (name, steps) in [
        ("it says nothing", vec![Step::Hang]),
        ("it stops after the head", vec![head(), Step::Hang]),
        ("it drips its head", vec![Step::Drip(Bytes::from(vec![b'H'; 900]), Duration::from_millis(20))]),
        ("it drips its body", vec![head(), drip()]),
        ("it goes on announcing", vec![informational, Step::Hang]),
    ] {
        let (_raw, fleet) = before("eth_gasPrice", steps).await;
        let began = Instant::now();
        let (reply, outcome, category) = ask(&fleet, "eth_gasPrice").await;
        // A head of garbage may be noticed at its first byte.
        let kinds = [("timeout", "timeout"), ("service_failure", "network_error")];
        assert!(kinds.contains(&(outcome.as_str(), category.as_str())), "{name}: {outcome} {category}");
        assert!(reply["result"].is_string(), "{name}: {reply}");
        assert!(began.elapsed() < Duration::from_secs(8), "{name}");
    }
}

#[tokio::test]
async fn what_comes_before_a_good_reply_or_after_it_does_no_harm() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let second = response("200 OK", "", r#"{"jsonrpc":"2.0","id":{id},"result":"0xbad"}"#);
    for (name, steps) in [
        ("informational heads", vec![Step::write(early), ok(GOOD)]),
        ("a second reply", vec![ok(GOOD), second.clone(), second]),
        ("garbage behind it", vec![ok(GOOD), Step::write("garbage\r\n\r\n")]),
    ] {
        let (raw, fleet) = before("eth_gasPrice", steps).await;
        for round in 1..=5 {
            let (reply, ..) = ask(&fleet, "eth_gasPrice").await;
            let result = reply["result"].as_str().unwrap_or_default();
            assert!(result != "0xbad" && !result.is_empty(), "{name}, round {round}: {reply}");
        }
        assert!(raw.played() >= 1, "{name}");
    }
}

#[tokio::test]
async fn a_plain_port_behind_a_tls_address_was_surely_not_sent_anything() {
    let plain = provider("plain", |it| it).await;
    let good = provider("good", |it| it).await;
    let providers = vec![plain, good];
    let profile = super::fixture::profile(&providers).replacen("http://", "https://", 1);
    let fleet = fleet_of(providers, &profile).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x02"]}"#;
    post(fleet.proxy.address(), "/rpc/ethereum", body).await;
    let (decision, _) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
    let first = eventually("attempts", || fleet.inbox.attempts_of(&decision).into_iter().next()).await.1;
    assert_eq!(
        (first[key::DISPATCHED].as_str(), first[key::ERROR_CATEGORY].as_str()),
        ("not_dispatched", "network_error")
    );
    assert_eq!(fleet.providers[1].received_of("eth_sendRawTransaction"), 1, "so even a transaction goes to another");
}

#[tokio::test]
async fn a_provider_that_lies_about_its_height_draws_no_traffic_from_four_honest_ones() {
    let honest = || async { provider("honest", |it| it).await };
    let liar = RawProvider::start("eth_blockNumber", vec![ok(r#"{"jsonrpc":"2.0","id":{id},"result":"0xffffffff"}"#)]);
    let liar = liar.await.unwrap();
    let providers = vec![honest().await, honest().await, honest().await, honest().await];
    let text = super::fixture::profile(&providers);
    let selection = "chain_id: 1\n    monitoring: { probe_interval_ms: 100 }\n    selection: { max_lag_blocks: 3 }";
    let last = format!("      - {{ id: liar, priority: 9, url: '{}' }}\n", liar.http_url());
    let fleet = fleet_of(providers, &(text.replace("chain_id: 1", selection) + &last)).await;
    // Whether the lie becomes a head is for the heights to say; here it is enough that it was told.
    eventually("every height", || {
        let state: Vec<_> = fleet.inbox.events(lariat_schema::events::BLOCK_HEAD);
        let mut seen: std::collections::BTreeSet<_> = state.iter().map(|of| of[key::PROVIDER_ID].clone()).collect();
        seen.remove("liar");
        (seen.len() == 4 && liar.played() > 1).then_some(())
    })
    .await;
    for _ in 0..5 {
        let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
        assert!(got.json()["result"].is_string(), "{}", got.text());
    }
    assert_eq!(fleet.providers[0].received_of("eth_gasPrice"), 5, "the honest first choice is not called lagging");
}

#[tokio::test]
async fn a_provider_that_flaps_costs_no_client_its_answer() {
    let outage = Outage { period_ms: 60, length_ms: 30, phase_ms: 0, fault: Fault::Reset };
    let flapping = Behaviour { outage: Some(outage), ..Behaviour::default() };
    let fleet = fleet(vec![provider("a", |it| it.behaving(flapping)).await, provider("b", |it| it).await]).await;
    for _ in 0..100 {
        let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
        assert!(got.json()["result"].is_string(), "{}", got.text());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let asked = fleet.providers[0].received_of("eth_gasPrice") + fleet.providers[1].received_of("eth_gasPrice");
    assert!((100..=200).contains(&asked), "each call costs two attempts at most: {asked}");
}
