//! Many clients at once, faulty providers behind: whatever goes wrong, a reply has the id of its call and, where it is a
//! result, the parameters of its call. Nothing that one client or provider does reaches another's reply, and no task of
//! the node panics, which would show as a call without a reply.

use std::net::SocketAddr;

use lariat_tools::provider::behaviour::{Behaviour, Fault, FaultRate};
use lariat_tools::provider::script::{Reply, Script};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::fixture::{fleet, post, provider};

/// Clients at once, and requests of each.
const CLIENTS: usize = 12;
const REQUESTS: usize = 10;

/// Faults of replies and of connections; the slow ones are elsewhere.
const FAULTS: &[Fault] = &[
    Fault::ServerError,
    Fault::TooManyRequests,
    Fault::RpcServerError,
    Fault::RpcInternalError,
    Fault::RpcLimitExceeded,
    Fault::Reset,
    Fault::Garbage,
    Fault::WrongId,
    Fault::Truncated,
];

/// Call number `n` of a client, unlike any other in id and parameters.
fn unique(client: usize, n: usize) -> Value {
    let id = if n.is_multiple_of(2) { json!(format!("{client}/{n}")) } else { json!(client * 1_000_000 + n) };
    json!({ "jsonrpc": "2.0", "id": id, "method": "eth_call", "params": [{ "data": format!("0x{client:04x}{n:04x}") }, "latest"] })
}

fn check(call: &Value, reply: &Value) {
    assert_eq!(reply["id"], call["id"], "{reply}");
    match reply.get("result") {
        Some(result) => assert_eq!(result, &call["params"], "another call's result"),
        None => assert!(reply["error"]["code"].is_i64(), "{reply}"),
    }
}

async fn client(address: SocketAddr, client: usize) -> usize {
    let mut answered = 0;
    for request in 0..REQUESTS {
        match (client + request) % 4 {
            // One that leaves before its reply.
            0 => {
                let call = unique(client, 500_000 + request).to_string();
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head = format!("POST /rpc/ethereum HTTP/1.1\r\nhost: p\r\ncontent-length: {}\r\n\r\n", call.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(call.as_bytes()).await.unwrap();
            }
            1 => {
                let calls: Vec<Value> = (0..8).map(|n| unique(client, 10_000 + request * 10 + n)).collect();
                let got =
                    post(address, "/rpc/load-balanced/ethereum", Value::from(calls.clone()).to_string()).await.json();
                let replies = got.as_array().expect("a batch is answered by a list");
                assert_eq!(replies.len(), calls.len());
                calls.iter().zip(replies).for_each(|(call, reply)| check(call, reply));
                answered += calls.len();
            }
            _ => {
                let call = unique(client, request);
                check(&call, &post(address, "/rpc/load-balanced/ethereum", call.to_string()).await.json());
                answered += 1;
            }
        }
    }
    answered
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn every_reply_is_the_one_to_its_call_whatever_providers_and_other_clients_do(
        rates in proptest::collection::vec(proptest::collection::vec(0.0..0.08_f64, FAULTS.len()), 3)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut providers = Vec::new();
            for (at, rates) in rates.iter().enumerate() {
                let faults = FAULTS.iter().zip(rates).map(|(fault, probability)| FaultRate { fault: *fault, probability: *probability });
                let behaviour = Behaviour { faults: faults.collect(), ..Behaviour::with_latency_ms(1.0, 8.0) };
                // The behaviour comes first; where it lets a call through, the call's parameters are its result.
                let script = Script::new().on("eth_call", [Reply::Echo]);
                providers.push(provider(&format!("p{at}"), |it| it.behaving(behaviour).scripted(script)).await);
            }
            let fleet = fleet(providers).await;
            let address = fleet.proxy.address();
            let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client(address, number))).collect();
            let mut answered = 0;
            for client in clients {
                answered += client.await.unwrap();
            }
            assert!(answered >= CLIENTS * REQUESTS / 2);
        });
    }
}
