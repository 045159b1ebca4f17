//! What is refused, lost or never said: it shows in the sequence, in heartbeats, in counters.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lariat_schema::{attributes as key, events, metrics};
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use lariat_tools::provider::script::{Reply, Script};
use tokio::net::TcpListener;

use super::fixture::{Inbox, call, collector, eventually, exporter, fleet, post, provider, proxy};
use crate::record::ExporterConfig;

/// Numbers of the decisions that arrived.
fn arrived(inbox: &Inbox) -> BTreeSet<u64> {
    inbox.decisions().iter().map(|(_, of)| of[key::DECISION_SEQ].parse().unwrap()).collect()
}

/// The highest number and the drops of the newest heartbeat, and whether it is a farewell.
fn last_heartbeat(inbox: &Inbox) -> Option<(u64, u64, bool)> {
    let of = inbox.events(events::HEARTBEAT).pop()?;
    let number = |key: &str| of[key].parse().unwrap();
    Some((number(key::HEARTBEAT_SEQ), number(key::HEARTBEAT_DROPPED), of.contains_key(key::HEARTBEAT_FAREWELL)))
}

#[tokio::test]
async fn what_was_refused_is_missing_from_the_sequence_and_nothing_else_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let inbox = collector(listener).await;
    let providers = vec![provider("a", |it| it).await];
    let proxy = proxy(&providers, ExporterConfig { queue: 1, ..exporter(address) }).await;
    let batch = format!("[{}]", vec![call("eth_chainId"); 50].join(","));
    for _ in 0..4 {
        post(proxy.address(), "/rpc/ethereum", batch.clone()).await;
    }
    assert!(proxy.shutdown(Duration::from_secs(10)).await);
    let (highest, dropped, farewell) = last_heartbeat(&inbox).unwrap();
    assert!(farewell && highest == 200 && dropped > 0);
    let missing = (1..=highest).filter(|seq| !arrived(&inbox).contains(seq)).count();
    assert_eq!(u64::try_from(missing).unwrap(), dropped);
    let told = inbox.counter(metrics::RECORDER_DROPPED);
    let refused = told.iter().find(|(of, _)| of["reason"] == "queue_full").unwrap();
    assert_eq!(u64::try_from(refused.1).unwrap(), dropped);
}

#[tokio::test]
async fn a_tail_that_never_arrived_shows_in_a_heartbeat_that_no_farewell_follows() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    eventually("a decision", || fleet.inbox.decisions().pop()).await;
    fleet.inbox.refuse.store(usize::MAX, Ordering::SeqCst);
    for _ in 0..3 {
        post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    }
    eventually("a heartbeat", || last_heartbeat(&fleet.inbox).filter(|(highest, _, _)| *highest == 4)).await;
    fleet.proxy.kill();
    let (highest, dropped, farewell) = last_heartbeat(&fleet.inbox).unwrap();
    assert_eq!((highest, dropped, farewell), (4, 0, false), "nothing was counted as dropped");
    assert_eq!(arrived(&fleet.inbox), BTreeSet::from([1]), "and yet three are missing");
}

#[tokio::test]
async fn exclusions_and_retries_are_counted_by_channel_and_reason() {
    let broken = provider("a", |it| it.behaving(Behaviour::always(Fault::ServerError))).await;
    let fleet = fleet(vec![broken, provider("b", |it| it).await]).await;
    for _ in 0..2 {
        post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    }
    let count = |name: &str, provider: &str, reason: Option<&str>| {
        let found = fleet
            .inbox
            .counter(name)
            .into_iter()
            .find(|(of, _)| of[key::PROVIDER_ID] == provider && of.get("reason").map(String::as_str) == reason);
        found.map(|(_, n)| n)
    };
    let tried = || count(metrics::CANDIDATES_EXCLUDED, "p0", Some("tried"));
    eventually("two exclusions", || tried().filter(|n| *n == 2)).await;
    assert_eq!(count(metrics::RETRIES, "p1", None), Some(2));
    assert_eq!(count(metrics::RETRIES, "p0", None), None);
}

#[tokio::test]
async fn a_provider_that_limits_us_is_told_once_and_stands_in_the_next_snapshot() {
    let refusal = || Reply::http(429, "slow down");
    let limiting = provider("a", |it| it.scripted(Script::new().on("eth_gasPrice", (0..10).map(|_| refusal())))).await;
    let fleet = fleet(vec![limiting, provider("b", |it| it).await]).await;
    for _ in 0..3 {
        post(fleet.proxy.address(), "/rpc/ethereum", call("eth_gasPrice")).await;
    }
    let told = eventually("a limit", || fleet.inbox.events(events::PROVIDER_RATE_LIMIT).pop()).await;
    assert_eq!((told[key::PROVIDER_ID].as_str(), told[key::TRANSPORT].as_str()), ("p0", "http"));
    assert!(told[key::RATE_LIMIT_MS].parse::<u64>().unwrap() > 0);
    let body = |name: &str| fleet.inbox.bodies(name).pop();
    let facts = eventually("facts", || body(events::HEALTH_SNAPSHOT).filter(|body| body.contains("limited_ms"))).await;
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    let limited = facts["channels"].as_object().unwrap();
    assert!(limited.values().all(|it| it["circuit"] == "closed" && it["limited_ms"].as_u64() > Some(0)), "{facts}");
    assert_eq!(fleet.inbox.events(events::PROVIDER_RATE_LIMIT).len(), 1);
    // The decisions that followed name a snapshot that is not older than the facts that were told before them.
    let numbers: Vec<u64> =
        fleet.inbox.events(events::HEALTH_SNAPSHOT).iter().map(|of| of[key::SNAPSHOT].parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
}

#[tokio::test]
async fn equal_parameters_have_equal_digests_and_the_text_is_nowhere_in_the_record() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let asked = |address: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["{address}","latest"]}}"#)
    };
    let (one, two) = (format!("0x{}", "ab".repeat(20)), format!("0x{}", "cd".repeat(20)));
    for address in [&one, &one, &two] {
        post(fleet.proxy.address(), "/rpc/ethereum", asked(address)).await;
    }
    let decisions = eventually("three decisions", || Some(fleet.inbox.decisions()).filter(|all| all.len() == 3)).await;
    let digests: Vec<_> = decisions.iter().map(|(_, of)| of[key::PARAMS_DIGEST].clone()).collect();
    assert!(digests[0] == digests[1] && digests[0] != digests[2] && digests[0].len() == 16, "{digests:?}");
    assert!(decisions.iter().all(|(_, of)| of[key::RESPONSE_DIGEST].len() == 16));
    assert!(!format!("{:?}", fleet.inbox.traces.lock()).contains(&one));
}
