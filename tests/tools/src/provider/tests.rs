//! A provider over real sockets.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

use super::behaviour::{Behaviour, FaultRate};
use super::script::Reply;
use super::*;
use crate::chain::ChainSettings;
use lariat_schema::vocabulary::Transport;

fn chain() -> Arc<Chain> {
    Arc::new(Chain::manual(ChainSettings { start_height: 100, ..ChainSettings::default() }))
}

/// Posts bytes over a connection of its own and returns everything that comes back until its end.
async fn post(provider: &ProviderHandle, body: &str) -> (String, io::Result<usize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(provider.address()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: p\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes)).await.unwrap();
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

async fn call(provider: &ProviderHandle, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string();
    let (reply, _) = post(provider, &body).await;
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn block_number(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_blockNumber","params":[]}}"#)
}

#[tokio::test]
async fn blocks_advance_and_are_the_same_over_http_and_websocket() {
    let chain = chain();
    let provider = Provider::start(ProviderSettings::new("p", Arc::clone(&chain))).await.unwrap();
    assert_eq!(call(&provider, "eth_blockNumber", json!([])).await["result"], "0x64");
    let (mut socket, _) = tokio_tungstenite::connect_async(provider.ws_url()).await.unwrap();
    socket
        .send(Frame::text(r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}"#))
        .await
        .unwrap();
    let subscribed: Value = serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
    chain.advance(2);
    for number in ["0x65", "0x66"] {
        let head: Value = serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
        assert_eq!(head["params"]["subscription"], subscribed["result"]);
        let block = call(&provider, "eth_getBlockByNumber", json!([number, false])).await;
        assert_eq!(head["params"]["result"]["hash"], block["result"]["hash"]);
        assert_eq!(head["params"]["result"]["number"], number);
    }
    socket.send(Frame::text(block_number("\"x\""))).await.unwrap();
    let reply = socket.next().await.unwrap().unwrap();
    assert_eq!(reply.to_text().unwrap(), r#"{"jsonrpc":"2.0","id":"x","result":"0x66"}"#);
}

#[tokio::test]
async fn a_lagging_provider_is_behind_its_chain() {
    let behaviour = Behaviour { lag_blocks: 3, ..Behaviour::default() };
    let provider = Provider::start(ProviderSettings::new("p", chain()).behaving(behaviour)).await.unwrap();
    assert_eq!(call(&provider, "eth_blockNumber", json!([])).await["result"], "0x61");
    assert_eq!(call(&provider, "eth_getBlockByNumber", json!(["0x64", false])).await["result"], Value::Null);
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_each_of_its_calls_is_counted() {
    let provider = Provider::start(ProviderSettings::new("p", chain())).await.unwrap();
    let (reply, _) =
        post(&provider, &format!("[{},{},{}]", block_number("1"), block_number("null"), block_number("\"b\""))).await;
    assert!(
        reply.ends_with(r#"[{"jsonrpc":"2.0","id":1,"result":"0x64"},{"jsonrpc":"2.0","id":"b","result":"0x64"}]"#),
        "{reply}"
    );
    assert_eq!(provider.received_of("eth_blockNumber"), 3);
    assert_eq!(provider.stats().messages, 1);
    assert_eq!(provider.received()[0].transport, Transport::Http);
}

#[tokio::test]
async fn a_script_gives_exact_bytes_in_sequence_and_leaves_the_rest_to_the_chain() {
    let script = Script::new().on(
        "eth_call",
        [
            Reply::http(503, "busy"),
            Reply::error(-32000, "later").after(Duration::from_millis(5)),
            Reply::result("\"0x2a\" "),
        ],
    );
    let provider = Provider::start(ProviderSettings::new("p", chain()).scripted(script)).await.unwrap();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[]}"#;
    let (first, _) = post(&provider, body).await;
    assert!(first.starts_with("HTTP/1.1 503") && first.ends_with("busy"), "{first}");
    let (second, _) = post(&provider, body).await;
    assert!(second.ends_with(r#""error":{"code":-32000,"message":"later"}}"#), "{second}");
    let (third, _) = post(&provider, body).await;
    assert!(third.ends_with(r#"{"jsonrpc":"2.0","id":1,"result":"0x2a" }"#), "{third}");
    assert_eq!(call(&provider, "eth_chainId", json!([])).await["result"], "0x1");
}

#[tokio::test]
async fn each_fault_looks_on_the_wire_like_what_it_is_called() {
    let provider = Provider::start(ProviderSettings::new("p", chain())).await.unwrap();
    let expected = [
        (Fault::ServerError, "HTTP/1.1 500", "internal server error"),
        (Fault::TooManyRequests, "HTTP/1.1 429", "retry-after: 1"),
        (Fault::RpcLimitExceeded, "HTTP/1.1 200", "-32005"),
        (Fault::RpcServerError, "HTTP/1.1 200", "-32000"),
        (Fault::RpcInternalError, "HTTP/1.1 200", "-32603"),
        (Fault::Revert, "HTTP/1.1 200", r#""code":3"#),
        (Fault::MethodNotFound, "HTTP/1.1 200", "-32601"),
        (Fault::Garbage, "HTTP/1.1 200", "<html>"),
        (Fault::WrongId, "HTTP/1.1 200", r#""id":987654321"#),
        (Fault::Truncated, "HTTP/1.1 200", r#"{"jsonrpc""#),
    ];
    for (fault, status, text) in expected {
        provider.set_behaviour(Behaviour::always(fault));
        let (reply, _) = post(&provider, &block_number("1")).await;
        assert!(reply.starts_with(status) && reply.contains(text), "{fault:?}: {reply}");
        assert_eq!(provider.received().last().unwrap().fault, Some(fault));
    }
    provider.set_behaviour(Behaviour::always(Fault::Reset));
    let (_, end) = post(&provider, &block_number("1")).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    provider.set_behaviour(Behaviour {
        faults: vec![FaultRate { fault: Fault::Huge, probability: 1.0 }],
        ..Behaviour::default()
    });
    let (reply, _) = post(&provider, &block_number("1")).await;
    assert!(reply.len() > 12 * 1024 * 1024);
}

#[tokio::test]
async fn over_websocket_a_reset_ends_the_socket_and_a_server_error_is_a_reply() {
    let provider = Provider::start(ProviderSettings::new("p", chain())).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::connect_async(provider.ws_url()).await.unwrap();
    provider.set_behaviour(Behaviour::always(Fault::RpcInternalError));
    socket.send(Frame::text(block_number("1"))).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().to_text().unwrap().contains("-32603"));
    provider.set_behaviour(Behaviour::always(Fault::Reset));
    socket.send(Frame::text(block_number("2"))).await.unwrap();
    assert!(!matches!(socket.next().await, Some(Ok(_))));
}

#[tokio::test]
async fn an_ended_subscription_sends_nothing_more() {
    let chain = chain();
    let provider = Provider::start(ProviderSettings::new("p", Arc::clone(&chain))).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::connect_async(provider.ws_url()).await.unwrap();
    let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["logs",{"address":"0xaa"}]}"#;
    socket.send(Frame::text(subscribe)).await.unwrap();
    let subscribed: Value = serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
    chain.advance(1);
    let log: Value = serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(log["params"]["result"]["address"], "0xaa");
    let name = &subscribed["result"];
    let end = format!(r#"{{"jsonrpc":"2.0","id":2,"method":"eth_unsubscribe","params":[{name}]}}"#);
    socket.send(Frame::text(end)).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().to_text().unwrap().contains(r#""result":true"#));
    chain.advance(1);
    socket.send(Frame::text(block_number("3"))).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().to_text().unwrap().contains(r#""id":3"#));
}

#[tokio::test]
async fn a_truncated_reply_ends_before_the_length_it_promised() {
    let provider = Provider::start(ProviderSettings::new("p", chain()).behaving(Behaviour::always(Fault::Truncated)))
        .await
        .unwrap();
    let (reply, _) = post(&provider, &block_number("1")).await;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let promised = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert!(body.len() < promised.parse::<usize>().unwrap(), "{reply}");
}

#[tokio::test]
async fn going_down_cuts_what_is_connected_and_coming_up_serves_again() {
    let provider = Provider::start(ProviderSettings::new("p", chain())).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::connect_async(provider.ws_url()).await.unwrap();
    provider.go_down();
    assert!(!matches!(socket.next().await, Some(Ok(_))));
    assert!(tokio_tungstenite::connect_async(provider.ws_url()).await.is_err());
    provider.come_up();
    assert_eq!(call(&provider, "eth_blockNumber", json!([])).await["result"], "0x64");
}

#[tokio::test]
async fn two_providers_with_one_seed_tell_one_story() {
    let behaviour = Behaviour {
        faults: vec![FaultRate { fault: Fault::RpcServerError, probability: 0.5 }],
        ..Behaviour::default()
    };
    let mut stories = Vec::new();
    for _ in 0..2 {
        let provider = Provider::start(ProviderSettings::new("p", chain()).behaving(behaviour.clone())).await.unwrap();
        for _ in 0..20 {
            call(&provider, "eth_blockNumber", json!([])).await;
        }
        stories.push(provider.received().iter().map(|received| received.fault).collect::<Vec<_>>());
    }
    assert_eq!(stories[0], stories[1]);
    assert!(stories[0].contains(&None) && stories[0].contains(&Some(Fault::RpcServerError)));
}

#[tokio::test]
async fn a_shut_down_provider_frees_its_port_even_while_a_call_hangs() {
    let provider =
        Provider::start(ProviderSettings::new("p", chain()).behaving(Behaviour::always(Fault::Hang))).await.unwrap();
    let address = provider.address();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"POST / HTTP/1.1\r\nhost: p\r\ncontent-length: 2\r\n\r\n{}")
        .await
        .unwrap();
    provider.shutdown().await;
    assert!(TcpListener::bind(address).await.is_ok());
}
