//! Recorded exchanges with a real client, served by a scripted provider: whatever way a call takes through the proxy, the
//! reply is the recorded one, byte for byte. The recordings are not part of the project; where they are absent the test
//! says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lariat_tools::provider::script::{Reply, Script};
use serde_json::Value;
use serde_json::value::RawValue;

use super::fixture::{Fleet, fleet_of, post, profile, provider};
use super::websocket::Client;

/// Methods that are refused with −32601 instead of being sent on, and why.
const REFUSED_OVER_HTTP: &[(&str, &str)] = &[
    ("eth_accounts", "it needs keys"),
    ("eth_sendTransaction", "it needs keys"),
    ("eth_sign", "it needs keys"),
    ("eth_signTransaction", "it needs keys"),
    ("eth_subscribe", "it needs a WebSocket"),
    ("eth_unsubscribe", "it needs a WebSocket"),
    ("personal_sign", "it needs keys"),
];
/// Chain of the recordings: `eth_chainId` is answered from the profile, and so is compared too.
const CHAIN_ID: u64 = 0xc_72dd_9d5e_883e;
/// Calls of one batch, and of one over a WebSocket, where fewer may be under way.
const BATCH: usize = 50;
const BATCH_OF_FRAME: usize = 16;

struct Exchange {
    case: String,
    method: String,
    params: Value,
    request: String,
    reply: String,
}

fn directory() -> Option<PathBuf> {
    let given = std::env::var_os("LARIAT_CONFORMANCE").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    given.into_iter().chain([beside]).map(|directory| directory.join("jsonrpc")).find(|directory| directory.is_dir())
}

fn exchanges() -> Option<Vec<Exchange>> {
    let Some(directory) = directory() else {
        println!("not run: recorded JSON-RPC exchanges (set LARIAT_CONFORMANCE)");
        assert!(std::env::var_os("LARIAT_REQUIRE_ALL").is_none(), "the conformance files are required");
        return None;
    };
    let mut found = Vec::new();
    collect(&directory, &directory, &mut found);
    found.sort_by(|a, b| a.case.cmp(&b.case));
    assert!(!found.is_empty(), "no exchange in {}", directory.display());
    Some(found)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Exchange>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "io") {
            let case = path.strip_prefix(root).unwrap().display().to_string();
            found.extend(read(&case, &std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The exchanges of a file: `>>` is a request, `<<` its reply, everything else a remark.
fn read(case: &str, text: &str) -> Vec<Exchange> {
    let mut found = Vec::new();
    let mut request: Option<&str> = None;
    for line in text.lines() {
        if let Some(sent) = line.strip_prefix(">>") {
            request = Some(sent.trim());
        } else if let Some(reply) = line.strip_prefix("<<") {
            let request = request.take().expect("a reply follows a request");
            let parsed: Value = serde_json::from_str(request).unwrap();
            found.push(Exchange {
                case: format!("{case}#{}", found.len() + 1),
                method: parsed["method"].as_str().unwrap().to_owned(),
                params: parsed["params"].clone(),
                request: request.to_owned(),
                reply: reply.trim().to_owned(),
            });
        }
    }
    assert!(request.is_none(), "{case}: a request without a reply");
    found
}

/// A JSON-RPC text around its id.
fn around(text: &str) -> (&str, &str) {
    #[derive(serde::Deserialize)]
    struct Id<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let id = serde_json::from_str::<Id<'_>>(text).unwrap().id.get();
    let at = id.as_ptr().addr() - text.as_ptr().addr();
    (&text[..at], &text[at + id.len()..])
}

fn under(text: &str, id: usize) -> String {
    let (before, after) = around(text);
    format!("{before}{id}{after}")
}

/// Exchanges that one provider can play: no two of them are the same call.
fn rounds(exchanges: Vec<Exchange>) -> Vec<Vec<Exchange>> {
    let mut rounds: Vec<(BTreeSet<String>, Vec<Exchange>)> = Vec::new();
    for exchange in exchanges {
        let call = format!("{} {}", exchange.method, exchange.params);
        match rounds.iter_mut().find(|(calls, _)| !calls.contains(&call)) {
            Some((calls, round)) => {
                calls.insert(call);
                round.push(exchange);
            }
            None => rounds.push((BTreeSet::from([call]), vec![exchange])),
        }
    }
    rounds.into_iter().map(|(_, round)| round).collect()
}

/// A proxy before a provider that plays these exchanges.
async fn playing(exchanges: &[Exchange]) -> Fleet {
    let script = exchanges.iter().fold(Script::new(), |script, exchange| {
        let (before, after) = around(&exchange.reply);
        let reply = Reply::around(before.to_owned(), after.to_owned());
        script.on_call(&exchange.method, &exchange.params, [reply])
    });
    let provider = provider("recorded", |it| it.scripted(script)).await;
    let providers = vec![provider];
    let profile = profile(&providers).replace("chain_id: 1", &format!("chain_id: {CHAIN_ID}"));
    fleet_of(providers, &profile).await
}

/// What the client is to get.
fn expected(exchange: &Exchange, id: usize) -> Result<String, i64> {
    if REFUSED_OVER_HTTP.iter().any(|(method, _)| *method == exchange.method) {
        return Err(-32601);
    }
    Ok(under(&exchange.reply, id))
}

fn compare(exchange: &Exchange, id: usize, got: &str) {
    match expected(exchange, id) {
        Ok(reply) => assert_eq!(got, reply, "{}", exchange.case),
        Err(code) => {
            let got: Value = serde_json::from_str(got).unwrap();
            assert_eq!((&got["error"]["code"], &got["id"]), (&code.into(), &id.into()), "{}", exchange.case);
        }
    }
}

#[tokio::test]
async fn recorded_replies_come_back_identical_one_by_one() {
    let Some(exchanges) = exchanges() else { return };
    for round in rounds(exchanges) {
        let fleet = playing(&round).await;
        for (id, exchange) in round.iter().enumerate() {
            let got = post(fleet.proxy.address(), "/rpc/ethereum", under(&exchange.request, id)).await;
            compare(exchange, id, got.text());
        }
    }
}

#[tokio::test]
async fn recorded_replies_come_back_identical_in_batches() {
    let Some(exchanges) = exchanges() else { return };
    for round in rounds(exchanges) {
        let fleet = playing(&round).await;
        for (first, batch) in round.chunks(BATCH).enumerate().map(|(at, batch)| (at * BATCH, batch)) {
            let calls: Vec<String> = batch.iter().zip(first..).map(|(it, id)| under(&it.request, id)).collect();
            let got = post(fleet.proxy.address(), "/rpc/ethereum", format!("[{}]", calls.join(","))).await;
            let replies: Vec<&RawValue> = serde_json::from_slice(&got.body).unwrap();
            assert_eq!(replies.len(), batch.len());
            for ((exchange, id), reply) in batch.iter().zip(first..).zip(replies) {
                compare(exchange, id, reply.get());
            }
        }
    }
}

#[tokio::test]
async fn recorded_replies_come_back_identical_over_a_websocket() {
    let Some(exchanges) = exchanges() else { return };
    let of_sockets = |exchange: &Exchange| !exchange.method.ends_with("subscribe");
    for round in rounds(exchanges.into_iter().filter(of_sockets).collect()) {
        let fleet = playing(&round).await;
        let mut client = Client::connect(fleet.proxy.address(), "/ws/rpc/ethereum").await;
        for (id, exchange) in round.iter().enumerate() {
            client.send(under(&exchange.request, id)).await;
            compare(exchange, id, &client.text().await);
        }
        for batch in round.chunks(BATCH_OF_FRAME) {
            let calls: Vec<String> = batch.iter().enumerate().map(|(id, it)| under(&it.request, id)).collect();
            client.send(format!("[{}]", calls.join(","))).await;
            let text = client.text().await;
            let replies: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
            assert_eq!(replies.len(), batch.len());
            batch.iter().zip(&replies).enumerate().for_each(|(id, (it, reply))| compare(it, id, reply.get()));
        }
    }
}
