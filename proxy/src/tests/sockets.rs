//! Calls of clients over WebSockets.

use std::time::Duration;

use http::{Request, StatusCode};
use lariat_schema::attributes as key;
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use lariat_tools::provider::script::{Reply, Script};

use super::fixture::{call, eventually, fleet, post, provider, request};
use super::websocket::Client;

const DRAIN: Duration = Duration::from_secs(10);

fn numbered(id: usize, method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[]}}"#)
}

#[tokio::test]
async fn every_shape_of_path_is_a_route_and_each_frame_a_decision_of_its_own() {
    let fleet = fleet(vec![provider("a", |it| it).await, provider("b", |it| it).await]).await;
    let address = fleet.proxy.address();
    for path in [
        "/ws/rpc/ethereum",
        "/ws/rpc/1",
        "/ws/rpc/fastest/ethereum",
        "/ws/rpc/provider/p0/ethereum",
        "/ws/rpc/ethereum/p0",
        "/ws/rpc/profile/public/ethereum",
        "/ws/rpc/profile/public/fastest/ethereum?strategy=priority",
        "/rpc/ethereum",
    ] {
        let mut client = Client::connect(address, path).await;
        assert_eq!(client.ask(numbered(7, "eth_gasPrice")).await["id"], 7, "{path}");
    }
    let pinned = [("x-lariat-provider", "p1")];
    let mut client = Client::connect_with(address, "/ws/rpc/ethereum", &pinned).await.map_err(|it| it.0).unwrap();
    for _ in 0..2 {
        client.send_binary(call("eth_gasPrice").into_bytes()).await;
        assert!(client.json().await["result"].is_string());
    }
    assert_eq!(fleet.providers[1].received_of("eth_gasPrice"), 2);
    let decisions = eventually("ten decisions", || Some(fleet.inbox.decisions()).filter(|it| it.len() == 10)).await;
    assert!(decisions.iter().all(|(_, it)| it[key::CLIENT_TRANSPORT] == "ws" && it[key::TRANSPORT] == "http"));
    let mut ids: Vec<&str> = decisions.iter().map(|(_, it)| it[key::REQUEST_ID].as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 10);
}

#[tokio::test]
async fn a_route_that_is_not_there_is_refused_before_the_upgrade() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let address = fleet.proxy.address();
    for (path, status, code) in [
        ("/ws/rpc/nowhere", 400, "-32602"),
        ("/ws/rpc/profile/none/ethereum", 404, "-32000"),
        ("/ws/rpc/ethereum/nobody", 400, "-32602"),
        ("/ws/rpc/ethereum?strategy=luck", 400, "-32602"),
        ("/ws/rpc/a/b/c/d", 404, "unknown path"),
    ] {
        let Err((got, body)) = Client::connect_with(address, path, &[]).await else { panic!("{path} was accepted") };
        assert!(got == status && body.contains(code), "{path}: {got} {body}");
    }
    let plain = request(address, Request::get("/"), "/ws/rpc/ethereum", "").await;
    assert_eq!((plain.status, plain.headers["upgrade"].to_str().unwrap()), (StatusCode::UPGRADE_REQUIRED, "websocket"));
    let old = Request::get("/").header("upgrade", "websocket").header("connection", "upgrade");
    let old = request(address, old.header("sec-websocket-version", "8"), "/ws/rpc/ethereum", "").await;
    assert_eq!(
        (old.status, old.headers["sec-websocket-version"].to_str().unwrap()),
        (StatusCode::UPGRADE_REQUIRED, "13")
    );
}

#[tokio::test]
async fn frames_are_answered_as_they_complete_and_the_calls_of_a_batch_in_their_order() {
    let slow = || Reply::result("1").after(Duration::from_millis(300));
    let script = Script::new().on("eth_call", [slow()]).on("eth_gasPrice", [Reply::result("2")]);
    let fleet = fleet(vec![provider("a", |it| it.scripted(script)).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    client.send(numbered(1, "eth_call")).await;
    client.send(numbered(2, "eth_gasPrice")).await;
    assert_eq!((client.json().await["id"].as_u64(), client.json().await["id"].as_u64()), (Some(2), Some(1)));

    let notification = r#"{"jsonrpc":"2.0","method":"eth_gasPrice"}"#;
    let batch = [&numbered(3, "eth_call"), notification, r#"{"id":4}"#, &numbered(5, "eth_gasPrice")].join(",");
    let replies = client.ask(format!("[{batch}]")).await;
    let replies: Vec<_> =
        replies.as_array().unwrap().iter().map(|it| (it["id"].as_u64(), it["error"]["code"].as_i64())).collect();
    assert_eq!(replies, [(Some(3), None), (Some(4), Some(-32600)), (Some(5), None)]);

    client.send(notification).await;
    client.send(format!("[{notification}]")).await;
    for (frame, code) in [("{", -32700), ("[]", -32600), ("1", -32600)] {
        assert_eq!(client.ask(frame).await["error"]["code"], code, "{frame}; notifications get no reply");
    }
    let many = format!("[{}]", vec![call("eth_call"); 51].join(","));
    assert_eq!(client.ask(many).await["error"]["code"], -32600);
}

#[tokio::test]
async fn calls_beyond_the_bound_of_a_connection_are_refused_and_recorded_and_the_others_go_on() {
    let script = Script::new().on("eth_getProof", [Reply::Fault(Fault::Hang)]);
    let fleet = fleet(vec![provider("a", |it| it.scripted(script)).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    for id in 0..32 {
        client.send(numbered(id, "eth_getProof")).await;
    }
    let refused = client.ask(numbered(32, "eth_gasPrice")).await;
    assert_eq!((refused["id"].as_u64(), refused["error"]["code"].as_i64()), (Some(32), Some(-32008)));
    let batch = client.ask(format!("[{},{}]", numbered(33, "eth_gasPrice"), numbered(34, "eth_gasPrice"))).await;
    assert_eq!((batch[1]["id"].as_u64(), batch[1]["error"]["code"].as_i64()), (Some(34), Some(-32008)));
    let other = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_chainId")).await;
    assert_eq!(other.json()["result"], "0x1", "the bound is the connection's own");
    let (_, of) = eventually("the refusal's decision", || {
        fleet.inbox.decisions().into_iter().find(|(_, it)| it[key::RPC_METHOD] == "eth_gasPrice")
    })
    .await;
    assert_eq!((of[key::ANSWERED_BY].as_str(), of[key::ERROR_CATEGORY].as_str()), ("none", "local_capacity"));
    drop(client);
    let abandoned = || fleet.inbox.decisions().iter().filter(|(_, it)| it[key::RPC_METHOD] == "eth_getProof").count();
    eventually("a record of every abandoned call", || (abandoned() == 32).then_some(())).await;
    let metrics = request(fleet.proxy.address(), Request::get("/"), "/metrics", "").await;
    assert!(metrics.text().contains("\nlariat_ws_frames_refused_total 2\n"), "{}", metrics.text());
    assert!(metrics.text().contains("\nlariat_ws_connections 0\n"), "{}", metrics.text());
}

#[tokio::test]
async fn metadata_follow_the_reply_where_the_call_or_the_connection_asks_for_them() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let address = fleet.proxy.address();
    let mut client = Client::connect(address, "/ws/rpc/ethereum").await;
    let asking = r#"{"jsonrpc":"2.0","id":"x","method":"eth_gasPrice","lariat_meta":"notify"}"#;
    let reply = client.ask(asking).await;
    assert!(reply["result"].is_string() && reply.get("lariat_meta").is_none(), "{reply}");
    let meta = client.json().await;
    assert_eq!((meta["method"].as_str(), meta["params"]["id"].as_str()), (Some("lariat_meta"), Some("x")));
    assert_eq!(meta["params"]["selected_provider"]["id"], "p0");
    assert!(client.ask(call("eth_gasPrice")).await["result"].is_string(), "only where it was asked for");

    let mut client = Client::connect(address, "/ws/rpc/ethereum?include_meta=headers").await;
    assert!(client.ask(call("eth_gasPrice")).await["result"].is_string());
    assert_eq!(client.json().await["params"]["strategy"], "priority");

    let mut client = Client::connect(address, "/ws/rpc/ethereum?include_meta=body").await;
    assert_eq!(client.ask(call("eth_gasPrice")).await["lariat_meta"]["selected_provider"]["id"], "p0");
}

#[tokio::test]
async fn a_clean_end_finishes_calls_and_closes_with_1001_and_a_kill_just_ends() {
    let script = || Script::new().on("eth_call", [Reply::result("1").after(Duration::from_millis(300))]);
    let clean = fleet(vec![provider("a", |it| it.scripted(script())).await]).await;
    let mut client = Client::connect(clean.proxy.address(), "/ws/rpc/ethereum").await;
    client.send(numbered(1, "eth_call")).await;
    eventually("the call at the provider", || (clean.providers[0].received_of("eth_call") == 1).then_some(())).await;
    let ending = tokio::spawn(clean.proxy.shutdown(DRAIN));
    assert_eq!(client.json().await["result"], 1);
    assert_eq!(client.closed().await.map(|(code, _)| code), Some(1001));
    assert!(ending.await.unwrap());

    let killed = fleet(vec![provider("a", |it| it.scripted(script())).await]).await;
    let mut client = Client::connect(killed.proxy.address(), "/ws/rpc/ethereum").await;
    client.send(numbered(1, "eth_call")).await;
    eventually("the call at the provider", || (killed.providers[0].received_of("eth_call") == 1).then_some(())).await;
    killed.proxy.kill();
    assert_eq!(client.closed().await, None);
}

#[tokio::test]
async fn a_frame_beyond_the_bound_ends_its_connection_with_1009() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    client.send(format!("\"{}\"", "x".repeat(9 * 1024 * 1024))).await;
    assert_eq!(client.closed().await.map(|(code, _)| code), Some(1009));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_own_calls_and_loses_none() {
    const CALLS: usize = 200;
    let big = format!("\"{}\"", "y".repeat(1024 * 1024));
    let script = Script::new().on("eth_call", [Reply::result(big)]);
    let fleet = fleet(vec![provider("a", |it| it.scripted(script)).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    let mut sent = 0;
    let received = || usize::try_from(fleet.providers[0].received_of("eth_call")).unwrap();
    // Never more than 32 are under way, so that none is refused.
    while sent < CALLS {
        let before = received();
        let more = (CALLS - sent).min(8);
        for id in sent..sent + more {
            client.send(numbered(id, "eth_call")).await;
        }
        sent += more;
        let waited = tokio::time::timeout(
            Duration::from_secs(2),
            eventually("calls at the provider", || (received() >= before + more).then_some(())),
        );
        if waited.await.is_err() {
            break;
        }
    }
    assert!(received() < CALLS, "its calls were read though nobody reads the replies");
    assert!(received() <= 8 + 32 + 64, "{} replies of 1 MiB are held somewhere", received());
    let mut ids: Vec<u64> = Vec::new();
    for _ in 0..sent {
        ids.push(client.json().await["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..sent as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_provider_that_fails_is_replaced_for_a_socket_as_for_a_post() {
    let broken = provider("a", |it| it.behaving(Behaviour::always(Fault::Reset))).await;
    let fleet = fleet(vec![broken, provider("b", |it| it).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    assert!(client.ask(call("eth_gasPrice")).await["result"].is_string());
    assert_eq!(fleet.providers[1].received_of("eth_gasPrice"), 1);
}
