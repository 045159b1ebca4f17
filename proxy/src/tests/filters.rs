//! Filters: two providers that give out the same ids, and clients who do not notice.

use super::fixture::{Fleet, eventually, fleet, post, provider};
use lariat_schema::attributes as key;
use lariat_tools::provider::script::{Reply, Script};

/// A provider whose filters all have the same id and whose changes tell whose they are.
fn script(name: &str) -> Script {
    Script::new()
        .on("eth_newBlockFilter", [Reply::result("\"0x1\"")])
        .on("eth_getFilterChanges", [Reply::result(format!("[\"{name}\"]"))])
        .on("eth_getFilterLogs", [Reply::error(-32000, "filter not found")])
        .on("eth_uninstallFilter", [Reply::result("true")])
}

async fn two() -> Fleet {
    let a = provider("a", |it| it.scripted(script("a"))).await;
    let b = provider("b", |it| it.scripted(script("b"))).await;
    fleet(vec![a, b]).await
}

async fn ask(fleet: &Fleet, path: &str, method: &str, params: &str) -> serde_json::Value {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    post(fleet.proxy.address(), path, body).await.json()
}

async fn make(fleet: &Fleet, path: &str) -> String {
    ask(fleet, path, "eth_newBlockFilter", "[]").await["result"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_filter_is_polled_where_it_was_made_whatever_the_strategy_prefers() {
    let fleet = two().await;
    let (on_a, on_b) = (make(&fleet, "/rpc/ethereum").await, make(&fleet, "/rpc/ethereum?exclude=p0").await);
    assert!(on_a.len() == 34 && on_a != on_b, "{on_a} {on_b}");
    for (id, expected) in [(&on_b, "b"), (&on_a, "a"), (&on_b, "b")] {
        let changes = ask(&fleet, "/rpc/fastest/ethereum", "eth_getFilterChanges", &format!("[\"{id}\"]")).await;
        assert_eq!(changes["result"], serde_json::json!([expected]));
    }
    let received = fleet.providers[1].received();
    let polled = received.iter().find(|it| it.method == "eth_getFilterChanges").unwrap();
    let sent: serde_json::Value = serde_json::from_slice(&polled.body).unwrap();
    assert_eq!(sent["params"], serde_json::json!(["0x1"]), "the provider's own id");
    let decisions = eventually("the decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 5)).await;
    assert!(decisions.iter().all(|(_, of)| of[key::ATTEMPTS] == "1"));
    assert_eq!(decisions[2].1[key::PROVIDER_ID], "p1");
}

#[tokio::test]
async fn an_unknown_or_removed_filter_is_not_found_and_asked_of_nobody() {
    let fleet = two().await;
    let not_found = serde_json::json!({ "code": -32000, "message": "filter not found" });
    for params in ["[\"0x1\"]", "[]", "[1]", "[\"0x00000000000000000000000000000001\"]"] {
        assert_eq!(ask(&fleet, "/rpc/ethereum", "eth_getFilterChanges", params).await["error"], not_found, "{params}");
    }
    assert_eq!(fleet.providers[0].received_of("eth_getFilterChanges"), 0);
    let id = format!("[\"{}\"]", make(&fleet, "/rpc/ethereum").await);
    assert_eq!(ask(&fleet, "/rpc/ethereum", "eth_uninstallFilter", &id).await["result"], true);
    assert_eq!(ask(&fleet, "/rpc/ethereum", "eth_getFilterChanges", &id).await["error"], not_found);
    assert_eq!(fleet.figure("lariat_filters").await, 0);
}

#[tokio::test]
async fn a_poll_is_never_sent_to_another_provider_and_what_its_provider_forgot_is_forgotten() {
    let fleet = two().await;
    let id = format!("[\"{}\"]", make(&fleet, "/rpc/ethereum").await);
    assert_eq!(ask(&fleet, "/rpc/ethereum", "eth_getFilterLogs", &id).await["error"]["code"], -32000);
    assert_eq!(fleet.figure("lariat_filters").await, 0);
    let id = format!("[\"{}\"]", make(&fleet, "/rpc/ethereum").await);
    fleet.providers[0].go_down();
    assert_eq!(ask(&fleet, "/rpc/ethereum", "eth_getFilterChanges", &id).await["error"]["code"], -32000);
    assert_eq!(fleet.providers[1].received_of("eth_getFilterChanges"), 0);
    fleet.providers[0].come_up();
    assert_eq!(ask(&fleet, "/rpc/ethereum", "eth_getFilterChanges", &id).await["result"], serde_json::json!(["a"]));
}
