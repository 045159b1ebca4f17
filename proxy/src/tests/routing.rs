//! What clients get.

use std::time::Duration;

use super::fixture::{call, fleet, post, provider, request};
use http::{Request, StatusCode};
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use lariat_tools::provider::script::{Reply, Script};
use proptest::prelude::*;

const ODD_RESULT: &str = r#"{"big":123456789012345678901234567890,"f":1.0,"e":1E400,"s":"\u00e9", "n":null}"#;

#[tokio::test]
async fn a_result_passes_through_byte_for_byte_with_the_clients_id() {
    let script = Script::new().on("eth_call", [Reply::result(ODD_RESULT)]);
    let fleet = fleet(vec![provider("a", |it| it.scripted(script)).await]).await;
    for id in ["7", "\"x\"", "null", "99999999999999999999999999"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_call","params":[]}}"#);
        let got = post(fleet.proxy.address(), "/rpc/ethereum", body).await;
        assert_eq!(got.status, StatusCode::OK);
        assert!(got.text().contains(ODD_RESULT), "{}", got.text());
        assert!(got.text().contains(&format!("\"id\":{id}")), "{}", got.text());
        assert_eq!(got.headers["x-lariat-request-id"].len(), 36);
    }
}

#[tokio::test]
async fn a_failing_provider_is_replaced_by_the_next() {
    for fault in
        [Fault::ServerError, Fault::Garbage, Fault::WrongId, Fault::Reset, Fault::TooManyRequests, Fault::Truncated]
    {
        let broken = provider("a", |it| it.behaving(Behaviour::always(fault))).await;
        let fleet = fleet(vec![broken, provider("b", |it| it).await]).await;
        let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
        assert!(got.json()["result"].is_string(), "{fault:?}: {}", got.text());
        assert_eq!(fleet.providers[1].received_of("eth_gasPrice"), 1);
    }
}

#[tokio::test]
async fn a_raw_transaction_is_not_sent_again_unless_it_surely_was_refused() {
    for (fault, forwarded) in [(Fault::Reset, 0), (Fault::ServerError, 0), (Fault::TooManyRequests, 1)] {
        let broken = provider("a", |it| it.behaving(Behaviour::always(fault))).await;
        let fleet = fleet(vec![broken, provider("b", |it| it).await]).await;
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x02"]}"#;
        let _whatever_it_is = post(fleet.proxy.address(), "/rpc/ethereum", body).await;
        assert_eq!(fleet.providers[0].received_of("eth_sendRawTransaction"), 1, "{fault:?}");
        assert_eq!(fleet.providers[1].received_of("eth_sendRawTransaction"), forwarded, "{fault:?}");
    }
}

#[tokio::test]
async fn the_calls_own_error_is_returned_at_once_and_the_last_providers_error_unchanged() {
    let script = || {
        Script::new()
            .on("eth_call", [Reply::error(3, "execution reverted")])
            .on("eth_gasPrice", [Reply::error(-32603, "it broke")])
    };
    let fleet =
        fleet(vec![provider("a", |it| it.scripted(script())).await, provider("b", |it| it.scripted(script())).await])
            .await;
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_call")).await;
    assert_eq!(got.json()["error"]["code"], 3);
    assert_eq!(fleet.providers[1].received_of("eth_call"), 0);
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    assert_eq!(got.json()["error"], serde_json::json!({ "code": -32603, "message": "it broke" }));
    assert_eq!(fleet.providers[1].received_of("eth_gasPrice"), 1);
}

#[tokio::test]
async fn where_nobody_answers_the_client_is_told_when_to_try_again() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    fleet.providers[0].go_down();
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    assert_eq!((got.status, got.json()["error"]["code"].as_i64()), (StatusCode::OK, Some(-32000)));
    assert!(got.json()["error"]["data"]["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn what_is_refused_has_its_code_and_its_status() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let many = format!("[{}]", vec![call("eth_call"); 51].join(","));
    let huge = "x".repeat(9 * 1024 * 1024);
    for (path, body, status, code) in [
        ("/rpc/ethereum", "{".to_owned(), 200, -32700),
        ("/rpc/ethereum", "[]".to_owned(), 200, -32600),
        ("/rpc/ethereum", "1".to_owned(), 200, -32600),
        ("/rpc/ethereum", many, 200, -32600),
        ("/rpc/ethereum", huge, 413, -32000),
        ("/rpc/nowhere", call("eth_call"), 400, -32602),
        ("/rpc/profile/none/ethereum", call("eth_call"), 404, -32000),
        ("/rpc/ethereum/nobody", call("eth_call"), 200, -32602),
        ("/rpc/ethereum?strategy=luck", call("eth_call"), 400, -32602),
        ("/rpc/ethereum", call("eth_subscribe"), 200, -32601),
        ("/rpc/ethereum", call("eth_accounts"), 200, -32601),
    ] {
        let got = post(fleet.proxy.address(), path, body).await;
        assert_eq!(
            (got.status.as_u16(), got.json()["error"]["code"].as_i64()),
            (status, Some(code)),
            "{path} {}",
            got.text()
        );
        assert!(got.headers.contains_key("x-lariat-request-id"));
    }
    assert_eq!(post(fleet.proxy.address(), "/rpc/1", call("eth_chainId")).await.json()["result"], "0x1");
    let notification = r#"[{"jsonrpc":"2.0","method":"eth_gasPrice"}]"#;
    let got = post(fleet.proxy.address(), "/rpc/ethereum", notification).await;
    assert_eq!((got.status, got.body.len()), (StatusCode::NO_CONTENT, 0));
}

#[tokio::test]
async fn a_pin_and_the_metadata_are_honoured() {
    let fleet = fleet(vec![provider("a", |it| it).await, provider("b", |it| it).await]).await;
    let pinned = Request::post("/").header("x-lariat-provider", "p1").header("x-lariat-include-meta", "body");
    let got = request(fleet.proxy.address(), pinned, "/rpc/ethereum", call("eth_gasPrice")).await.json();
    assert_eq!(got["lariat_meta"]["selected_provider"]["id"], "p1");
    assert_eq!(got["lariat_meta"]["candidate_providers"], serde_json::json!(["p1:http"]));
    let got = post(fleet.proxy.address(), "/rpc/ethereum?include_meta=headers", call("eth_gasPrice")).await;
    assert!(got.headers.contains_key("x-lariat-meta"));
}

#[tokio::test]
async fn operators_open_circuits_and_drain_providers_with_the_token_only() {
    let fleet = fleet(vec![provider("a", |it| it).await, provider("b", |it| it).await]).await;
    let address = fleet.proxy.address();
    let open = "/admin/circuits/public/ethereum/p0/http/open";
    assert_eq!(request(address, Request::post("/"), open, "").await.status, StatusCode::UNAUTHORIZED);
    let with_token = || Request::post("/").header("authorization", "Bearer t0ken");
    assert_eq!(request(address, with_token(), open, "").await.status, StatusCode::OK);
    post(address, "/rpc/ethereum", call("eth_gasPrice")).await;
    assert_eq!(
        (fleet.providers[0].received_of("eth_gasPrice"), fleet.providers[1].received_of("eth_gasPrice")),
        (0, 1)
    );
    let drain = "/admin/providers/public/ethereum/p1/drain";
    assert_eq!(request(address, with_token(), drain, "").await.status, StatusCode::OK);
    assert_eq!(post(address, "/rpc/ethereum", call("eth_gasPrice")).await.json()["error"]["code"], -32000);
    let state = request(address, Request::get("/"), "/v1/providers", "").await.json();
    assert_eq!(state["channels"][0]["circuit_state"], "open");
    assert_eq!(state["channels"][1]["draining"], true);
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Call,
    Notification,
    Invalid,
    Failing,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_batch_is_answered_in_order_with_every_id_and_nothing_for_notifications(
        parts in proptest::collection::vec(
            prop_oneof![Just(Part::Call), Just(Part::Notification), Just(Part::Invalid), Just(Part::Failing)], 1..20)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let script = Script::new()
                .on("eth_call", [Reply::error(3, "execution reverted").after(Duration::from_millis(5))])
                .on("eth_gasPrice", [Reply::result("\"0x1\"")]);
            let fleet = fleet(vec![provider("a", |it| it.scripted(script)).await]).await;
            let items: Vec<String> = parts.iter().enumerate().map(|(id, part)| match part {
                Part::Call => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_gasPrice"}}"#),
                Part::Notification => r#"{"jsonrpc":"2.0","method":"eth_gasPrice"}"#.to_owned(),
                Part::Invalid => format!(r#"{{"id":{id}}}"#),
                Part::Failing => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_call"}}"#),
            }).collect();
            let got = post(fleet.proxy.address(), "/rpc/ethereum", format!("[{}]", items.join(","))).await;
            let expected: Vec<(u64, Part)> =
                (0u64..).zip(parts).filter(|(_, part)| !matches!(part, Part::Notification)).collect();
            if expected.is_empty() {
                assert_eq!(got.status, StatusCode::NO_CONTENT);
                return;
            }
            let replies = got.json();
            assert_eq!(replies.as_array().unwrap().len(), expected.len());
            for (reply, (id, part)) in replies.as_array().unwrap().iter().zip(expected) {
                assert_eq!(reply["id"].as_u64(), Some(id));
                match part {
                    Part::Call => assert_eq!(reply["result"], "0x1"),
                    Part::Invalid => assert_eq!(reply["error"]["code"], -32600),
                    Part::Failing => assert_eq!(reply["error"]["code"], 3),
                    Part::Notification => unreachable!(),
                }
            }
        });
    }
}
