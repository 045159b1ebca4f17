//! Sampling rates that change while a node runs, from the profile's file to the rows that are stored.

use super::harness::{Lariat, call, client, eventually, rows};

const LOCAL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}"#;
const FAILING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice","params":[]}"#;
/// At a quarter, fewer than 20 or more than 90 of them are kept less than once in a million runs.
const CALLS: usize = 200;

fn profile(rate: f64) -> String {
    format!(
        "---\nname: Public\nslug: public\nsampling: {{ rate: {rate} }}\n---\nchains:\n  ethereum:\n    chain_id: 1\n    providers:\n      - {{ id: nobody, priority: 1, url: \"http://127.0.0.1:9\" }}\n"
    )
}

/// Calls that the proxy answers itself, then one that fails and is kept whole: once its row is there, the others are decided.
async fn calls(proxy: &str, query: &Lariat) {
    let url = format!("{proxy}/rpc/ethereum");
    for _ in 0..CALLS {
        assert_eq!(call(&url, LOCAL).await.0["result"], "0x1");
    }
    let (reply, marker) = call(&url, FAILING).await;
    assert!(reply["error"].is_object(), "{reply}");
    eventually("the failed call's row", async || {
        let answer = query.sql(&format!("SELECT 1 FROM routing_decisions WHERE request_id = '{marker}'")).await;
        (!rows(&answer).is_empty()).then_some(())
    })
    .await;
}

/// How many calls were kept with which weight.
async fn kept(query: &Lariat) -> Vec<(f64, u64)> {
    let answer = query
        .sql("SELECT adjusted_count AS weight, count(*) AS n FROM routing_decisions WHERE method = 'eth_chainId' GROUP BY 1 ORDER BY 1")
        .await;
    rows(&answer).iter().map(|row| (row["weight"].as_f64().unwrap(), row["n"].as_u64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reloaded_sampling_rate_shows_in_the_rows_and_weights_that_are_stored_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Lariat::node(dir.path(), &profile(1.0));
    let query = Lariat::query_over(dir.path(), &node, &[]).await;
    let proxy = node.url("proxy").await;
    let file = dir.path().join("profiles/public.yml");
    calls(&proxy, &query).await;
    assert_eq!(kept(&query).await, [(1.0, CALLS as u64)]);

    std::fs::write(&file, profile(0.25)).unwrap();
    node.signal("HUP");
    eventually("the reload", async || {
        let text = client().get(format!("{proxy}/metrics")).send().await.ok()?.text().await.ok()?;
        text.contains("lariat_config_reloads_total{outcome=\"applied\"} 1\n").then_some(())
    })
    .await;
    calls(&proxy, &query).await;
    let found = kept(&query).await;
    let [(1.0, before), (4.0, after)] = found[..] else { panic!("{found:?}") };
    assert_eq!(before, CALLS as u64);
    assert!((20..=90).contains(&after), "{after} of {CALLS} were kept at a quarter");
}
