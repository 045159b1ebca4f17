//! The examples of section 7 of the JSON-RPC 2.0 specification, and what they leave out. The methods of the examples are
//! scripted at the provider; what the specification's server answers is compared as JSON, since the order of members is
//! free, and ids and numbers as bytes, since theirs is not.

use http::StatusCode;
use lariat_tools::provider::script::{Reply, Script};
use serde_json::Value;

use super::fixture::{Fleet, fleet, post, provider};
use super::websocket::Client;

/// A request of the specification, and the reply; none where nothing is to be returned.
const EXAMPLES: &[(&str, Option<&str>)] = &[
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
        Some(r#"{"jsonrpc": "2.0", "result": 19, "id": 1}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
        Some(r#"{"jsonrpc": "2.0", "result": -19, "id": 2}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
        Some(r#"{"jsonrpc": "2.0", "result": 19, "id": 3}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
        Some(r#"{"jsonrpc": "2.0", "result": 19, "id": 4}"#),
    ),
    (r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, None),
    (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, None),
    (
        r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}"#),
    ),
    (
        r#"[
  {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
  {"jsonrpc": "2.0", "method"
]"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#),
    ),
    ("[]", Some(r#"{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}"#)),
    ("[1]", Some(r#"[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]"#)),
    (
        "[1,2,3]",
        Some(
            r#"[
  {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
  {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
  {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}
]"#,
        ),
    ),
    (
        r#"[
  {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
  {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
  {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
  {"foo": "boo"},
  {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
  {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
]"#,
        Some(
            r#"[
  {"jsonrpc": "2.0", "result": 7, "id": "1"},
  {"jsonrpc": "2.0", "result": 19, "id": "2"},
  {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
  {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},
  {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}
]"#,
        ),
    ),
    (
        r#"[
  {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
  {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
]"#,
        None,
    ),
];

/// The specification's server: each example once, in their order.
fn server() -> Script {
    let result = |text: &'static str| Reply::result(text);
    let unknown = || Reply::error(-32601, "Method not found");
    Script::new()
        .on("subtract", [result("19"), result("-19"), result("19"), result("19"), result("19")])
        .on("sum", [result("7")])
        .on("get_data", [result(r#"["hello", 5]"#)])
        .on("foobar", [unknown()])
        .on("foo.get", [unknown()])
}

/// Ids and codes; the text of an error of ours is ours.
fn essence(reply: &Value) -> Value {
    match reply {
        Value::Array(list) => list.iter().map(essence).collect(),
        Value::Object(members) => {
            let mut members = members.clone();
            if let Some(error) = members.get_mut("error") {
                assert!(error["message"].is_string(), "{error}");
                *error = error["code"].clone();
            }
            Value::Object(members)
        }
        other => other.clone(),
    }
}

async fn specified() -> Fleet {
    fleet(vec![provider("a", |it| it.scripted(server())).await]).await
}

#[tokio::test]
async fn the_examples_of_the_specification_get_its_answers_over_http() {
    let fleet = specified().await;
    for (request, reply) in EXAMPLES {
        let got = post(fleet.proxy.address(), "/rpc/ethereum", *request).await;
        match reply {
            Some(reply) => {
                assert_eq!(got.status, StatusCode::OK, "{request}");
                let expected: Value = serde_json::from_str(reply).unwrap();
                assert_eq!(essence(&got.json()), essence(&expected), "{request}");
            }
            None => assert_eq!((got.status, got.body.len()), (StatusCode::NO_CONTENT, 0), "{request}"),
        }
    }
    for (method, sent) in [("subtract", 5), ("update", 1), ("foobar", 2), ("notify_hello", 2), ("notify_sum", 1)] {
        assert_eq!(fleet.providers[0].received_of(method), sent, "a notification is sent on too: {method}");
    }
}

#[tokio::test]
async fn the_examples_of_the_specification_get_its_answers_over_a_websocket() {
    let fleet = specified().await;
    let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
    for (request, reply) in EXAMPLES {
        client.send(*request).await;
        if let Some(reply) = reply {
            let expected: Value = serde_json::from_str(reply).unwrap();
            assert_eq!(essence(&client.json().await), essence(&expected), "{request}");
        }
        // Where nothing is to be returned, the next reply is the next call's.
        let next = client.ask(r#"{"jsonrpc":"2.0","id":"next","method":"eth_chainId"}"#).await;
        assert_eq!(next["id"], "next", "{request}: {next}");
    }
}

#[tokio::test]
async fn ids_of_every_type_come_back_as_they_were_written_alone_and_in_batches() {
    let fleet = fleet(vec![provider("a", |it| it.scripted(Script::new().on("m", [Reply::result("1")]))).await]).await;
    let ids = [
        "0",
        "-0",
        "9007199254740993",
        "123456789012345678901234567890123456789012345678901234567890",
        "1.0",
        "-1.50E+2",
        "1e400",
        "null",
        "\"\"",
        "\"a\\u0000\\\"\\/\\ud83d\\ude00\"",
        "\"\\ud800\"",
        "\"é😀\"",
    ];
    let call = |id: &str| format!(r#"{{"jsonrpc":"2.0","id": {id} ,"method":"m"}}"#);
    let reply = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":1}}"#);
    for id in ids {
        assert_eq!(post(fleet.proxy.address(), "/rpc/ethereum", call(id)).await.text(), reply(id));
    }
    let long = format!("\"{}\"", "x".repeat(100_000));
    assert_eq!(post(fleet.proxy.address(), "/rpc/ethereum", call(&long)).await.text(), reply(&long));
    let batch = format!("[{}]", ids.map(call).join(" ,\n"));
    let replies = format!("[{}]", ids.map(reply).join(","));
    assert_eq!(post(fleet.proxy.address(), "/rpc/ethereum", batch).await.text(), replies);
    for id in ["true", "[1]", "{}"] {
        let got = post(fleet.proxy.address(), "/rpc/ethereum", call(id)).await.json();
        assert_eq!((&got["error"]["code"], &got["id"]), (&Value::from(-32600), &Value::Null), "{id}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_call_get_an_error_under_a_null_id_and_never_reach_a_provider() {
    let fleet = specified().await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"sum"}"#;
    let deep = "[".repeat(1_000_000);
    let bodies: [(Vec<u8>, i64); 12] = [
        (Vec::new(), -32700),
        (b"\0".to_vec(), -32700),
        (format!("{call}\0").into(), -32700),
        (format!("{call} {call}").into(), -32700),
        (format!("\u{feff}{call}").into(), -32700),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"sum\xff\"}".to_vec(), -32700),
        (deep.clone().into(), -32700),
        (format!("{deep}{}", "]".repeat(1_000_000)).into(), -32600),
        (br#"{"jsonrpc":"2.0","id":1,"id":1,"method":"sum"}"#.to_vec(), -32600),
        (br#"{"jsonrpc":2.0,"id":true,"method":"sum"}"#.to_vec(), -32600),
        (format!("[{}]", vec![call; 51].join(",")).into(), -32600),
        (b"\"sum\"".to_vec(), -32600),
    ];
    for (body, code) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let got = post(fleet.proxy.address(), "/rpc/ethereum", body).await;
        let json = got.json();
        let json = if json.is_array() { &json[0] } else { &json };
        assert_eq!(
            (got.status, json["error"]["code"].as_i64(), &json["id"]),
            (StatusCode::OK, Some(code), &Value::Null),
            "{shown}"
        );
    }
    assert_eq!(fleet.providers[0].received_of("sum"), 0);
}

#[tokio::test]
async fn unknown_members_and_odd_numbers_of_a_reply_pass_byte_for_byte() {
    let odd =
        r#"{"n":-0,"f":1.0,"e":1E+400,"big":123456789012345678901234567890,"s":"\u00e9\/","dup":1,"dup":2, "x" : [ ]}"#;
    let before = format!(r#" {{ "first":{odd},"id" : "#);
    let after = format!(r#" ,"error":{{"code": -32000 ,"message":"\u0041","data":{odd},"more":1.10}} }}"#);
    let script =
        Script::new().on("a", [Reply::result(odd)]).on("b", [Reply::around(before.clone(), format!("{after}\r\n"))]);
    let fleet = fleet(vec![provider("a", |it| it.scripted(script)).await]).await;
    let call = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{odd},"unknown":1}}"#);
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("a")).await;
    assert_eq!(got.text(), format!(r#"{{"jsonrpc":"2.0","id":1,"result":{odd}}}"#));
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("b")).await;
    assert_eq!(got.text(), format!("{}1{after}", before.trim_start()));
    let sent = fleet.providers[0].received().into_iter().find(|received| received.method == "a").unwrap();
    let sent = std::str::from_utf8(&sent.body).unwrap().to_owned();
    assert!(sent.ends_with(&format!(r#","method":"a","params":{odd}}}"#)), "{sent}");
}
