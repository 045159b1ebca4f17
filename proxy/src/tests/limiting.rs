//! Clients that call more often than their profile allows.

use super::fixture::{call, collector, eventually, exporter, fleet_with, post, profile, provider, proxy_of};
use super::websocket::Client;
use http::StatusCode;
use lariat_schema::attributes as key;
use tokio::net::TcpListener;

/// More calls than pass before the first refusal, however slow this machine is.
const MANY: usize = 40;

#[tokio::test]
async fn what_is_above_the_rate_is_refused_with_the_time_to_wait_and_recorded_as_a_decision_without_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = exporter(listener.local_addr().unwrap());
    let inbox = collector(listener).await;
    let text = format!("rps_limit: 1\nburst_limit: 2\n{}", profile(&[provider("a", |it| it).await]));
    let proxy = proxy_of(&text, to).await;
    let mut passed = 0;
    let refused = loop {
        let got = post(proxy.address(), "/rpc/ethereum", call("eth_chainId")).await;
        if got.status == StatusCode::TOO_MANY_REQUESTS {
            break got;
        }
        assert_eq!(got.json()["result"], "0x1");
        passed += 1;
        assert!(passed < MANY);
    };
    assert!(passed >= 2, "the burst passes");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!((&refused.json()["error"]["code"], &refused.json()["id"]), (&(-32005).into(), &1.into()));
    let wait_ms = refused.json()["error"]["data"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&wait_ms), "{wait_ms}");
    let id = refused.headers["x-lariat-request-id"].to_str().unwrap().to_owned();
    let of = eventually("its decision", || {
        inbox.decisions().into_iter().map(|(_, of)| of).find(|of| of[key::REQUEST_ID] == id)
    })
    .await;
    assert_eq!(of[key::ANSWERED_BY], "none");
    assert_eq!(of[key::RESULT], "application_error");
    assert_eq!(of[key::ERROR_CATEGORY], "local_capacity");
    assert_eq!(of[key::RPC_STATUS_CODE], "-32005");
    assert_eq!(of[key::ATTEMPTS], "0");
}

#[tokio::test]
async fn calls_and_subscriptions_over_a_websocket_stand_under_the_same_limit() {
    let settings = "rps_limit: 1\nburst_limit: 2\n";
    let fleet = fleet_with(settings, vec![provider("a", |it| it).await]).await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["syncing"]}"#;
    for frame in [call("eth_chainId"), subscribe.to_owned()] {
        let mut asked = 0;
        loop {
            let reply = client.ask(frame.clone()).await;
            if reply["error"]["code"] == -32005 {
                assert!(reply["error"]["data"]["retry_after_ms"].as_u64() >= Some(1), "{reply}");
                break;
            }
            asked += 1;
            assert!(asked < MANY, "{reply}");
        }
    }
}

#[tokio::test]
async fn a_batch_counts_as_many_calls_as_it_holds_and_each_refused_item_has_its_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = exporter(listener.local_addr().unwrap());
    let text = format!("rps_limit: 1\nburst_limit: 2\n{}", profile(&[provider("a", |it| it).await]));
    let proxy = proxy_of(&text, to).await;
    let items: Vec<String> =
        (0..MANY).map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_chainId"}}"#)).collect();
    let got = post(proxy.address(), "/rpc/ethereum", format!("[{}]", items.join(","))).await;
    assert_eq!(got.status, StatusCode::OK);
    assert!(got.headers.contains_key("retry-after"));
    let replies = got.json();
    let replies = replies.as_array().unwrap();
    assert_eq!(replies.len(), MANY);
    let passed = replies.iter().filter(|reply| reply["result"] == "0x1").count();
    assert!((2..MANY / 2).contains(&passed), "{passed}");
    for (id, reply) in replies.iter().enumerate() {
        assert_eq!(reply["id"], id);
        assert!(reply["result"] == "0x1" || reply["error"]["code"] == -32005, "{reply}");
    }
    for reply in replies.iter().filter(|reply| reply["result"] != "0x1") {
        assert!(reply["error"]["data"]["retry_after_ms"].as_u64() >= Some(1), "{reply}");
    }
    // A batch of which nothing passed is refused as a whole, though each call still has its own error.
    let two = r#"[{"jsonrpc":"2.0","id":1,"method":"eth_chainId"},{"jsonrpc":"2.0","id":2,"method":"eth_chainId"}]"#;
    let mut also_refused = 0;
    let mut asked = 0;
    loop {
        let got = post(proxy.address(), "/rpc/ethereum", two).await;
        let replies = got.json();
        let refused = (0..2).filter(|at| replies[at]["error"]["code"] == -32005).count();
        also_refused += refused;
        if refused == 2 {
            assert_eq!(got.status, StatusCode::TOO_MANY_REQUESTS);
            assert!(got.headers.contains_key("retry-after"));
            break;
        }
        assert_eq!(got.status, StatusCode::OK, "{}", got.text());
        asked += 1;
        assert!(asked < MANY, "{}", got.text());
    }
    let text = super::fixture::request(proxy.address(), http::Request::get("/"), "/metrics", "").await;
    let refused = format!("lariat_calls_rate_limited_total{{profile=\"public\"}} {}\n", MANY - passed + also_refused);
    assert!(text.text().contains(&refused), "{}", text.text());
}
