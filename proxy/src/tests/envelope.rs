//! The bounds of a call, over real sockets: time, dispatches, and who is not asked.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::fixture::{call, collector, eventually, exporter, fleet, post, provider, proxy_of, request};
use http::Request;
use lariat_schema::attributes as key;
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_client_shortens_the_time_of_a_call_and_cannot_lengthen_it() {
    let fleet = fleet(vec![provider("a", |it| it.behaving(Behaviour::always(Fault::Hang))).await]).await;
    for (timeout_ms, at_least, at_most) in [("150", 150, 900), ("60000", 950, 5_000)] {
        let started = Instant::now();
        let request_ = Request::post("/").header("x-lariat-timeout-ms", timeout_ms);
        let got = request(fleet.proxy.address(), request_, "/rpc/ethereum", call("net_version")).await;
        assert_eq!(got.json()["error"]["code"], -32000);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(at_least) && took < Duration::from_millis(at_most), "{took:?}");
    }
    let (_, of) = eventually("the decision", || fleet.inbox.decisions().pop()).await;
    assert_eq!((of[key::ERROR_CATEGORY].as_str(), of[key::RESULT].as_str()), ("timeout", "error"));
}

#[tokio::test]
async fn an_excluded_provider_is_not_asked_and_the_record_says_by_whom() {
    let fleet = fleet(vec![provider("a", |it| it).await, provider("b", |it| it).await]).await;
    assert!(
        post(fleet.proxy.address(), "/rpc/ethereum?exclude=p0", call("eth_gasPrice")).await.json()["result"]
            .is_string()
    );
    assert_eq!(fleet.providers[0].received_of("eth_gasPrice"), 0);
    let (span, _) = eventually("the decision", || fleet.inbox.decisions().pop()).await;
    let selection = super::fixture::attributes(&span.events[0].attributes);
    assert_eq!(selection[key::EXCLUDED_REASONS], "excluded_by_client");
    let got = post(fleet.proxy.address(), "/rpc/ethereum?exclude=p0,p1", call("eth_gasPrice")).await;
    assert_eq!(got.json()["error"]["code"], -32000);
}

#[tokio::test]
async fn three_dispatches_are_made_at_most_and_none_twice_to_one_channel() {
    let mut providers = Vec::new();
    for n in 0..5 {
        providers.push(provider(&format!("p{n}"), |it| it.behaving(Behaviour::always(Fault::RpcInternalError))).await);
    }
    let fleet = fleet(providers).await;
    post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    let received: Vec<u64> = fleet.providers.iter().map(|it| it.received_of("eth_gasPrice")).collect();
    assert_eq!(received, [1, 1, 1, 0, 0]);
}

#[tokio::test]
async fn an_attempt_that_reached_nobody_is_no_dispatch() {
    let mut text = "default_strategy: priority\nchains:\n  ethereum:\n    chain_id: 1\n    providers:\n".to_owned();
    let mut closed_ports = Vec::new();
    for n in 1..=4 {
        // Bound and never listening: it refuses, and nobody else can get the port meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let closed = socket.local_addr().unwrap();
        closed_ports.push(socket);
        writeln!(text, "      - {{ id: closed{n}, priority: {n}, url: 'http://{closed}' }}").unwrap();
    }
    let good = provider("good", |it| it).await;
    writeln!(text, "      - {{ id: good, priority: 9, url: '{}' }}", good.http_url()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exporter = exporter(listener.local_addr().unwrap());
    let inbox = collector(listener).await;
    let proxy = proxy_of(&text, exporter).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x02"]}"#;
    assert!(post(proxy.address(), "/rpc/ethereum", body).await.json()["result"].is_string());
    assert_eq!(good.received_of("eth_sendRawTransaction"), 1, "even a transaction, since nobody else had it");
    let (_, of) = eventually("the decision", || inbox.decisions().pop()).await;
    assert_eq!((of[key::ATTEMPTS].as_str(), of[key::PROVIDER_ID].as_str()), ("5", "good"));
}
