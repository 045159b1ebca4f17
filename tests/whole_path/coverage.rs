//! The same question to three nodes is their union, with its coverage; without one of them the answer still comes, and
//! says so (I-5).

use serde_json::Value;

use super::harness::{Lariat, call, eventually, rows, run};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice","params":[]}"#;
const BY_REGION: &str =
    "SELECT region, count(*) AS n FROM routing_decisions WHERE method = 'eth_gasPrice' GROUP BY region ORDER BY region";

async fn one_call_per_node(demo: &Lariat) -> Value {
    for node in 0..3 {
        let proxy = demo.nth_url("proxy", node).await;
        call(&format!("{proxy}/rpc/ethereum"), CALL).await;
    }
    eventually("one call from each node", async || {
        let answer = demo.sql(BY_REGION).await;
        (rows(&answer).len() == 3).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_merged_and_a_killed_one_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0"]).await;
    let query = demo.url("query").await;
    let whole = one_call_per_node(&demo).await;
    let counts: Vec<(&str, i64)> =
        rows(&whole).iter().map(|row| (row["region"].as_str().unwrap(), row["n"].as_i64().unwrap())).collect();
    assert_eq!(counts, [("ap-south", 1), ("eu-west", 1), ("us-east", 1)]);
    let coverage = &whole["coverage"];
    assert_eq!((coverage["expected"].as_u64(), coverage["answered"].as_u64()), (Some(3), Some(3)), "{coverage}");
    for key in ["complete", "ratio", "connected", "responding", "window", "query_id", "regions", "nodes"] {
        assert!(!coverage[key].is_null(), "{key} is missing in {coverage}");
    }

    let response = super::harness::client().post(format!("{query}/api/v1/demo/nodes/1/kill")).send().await.unwrap();
    assert!(response.status().is_success());
    // The first question after the death must not wait for a health check to notice it.
    let partial = demo.sql(BY_REGION).await;
    let regions: Vec<&str> = rows(&partial).iter().map(|row| row["region"].as_str().unwrap()).collect();
    assert_eq!(regions, ["ap-south", "us-east"]);
    let coverage = &partial["coverage"];
    assert_eq!(coverage["complete"], false, "{coverage}");
    assert_eq!((coverage["expected"].as_u64(), coverage["answered"].as_u64()), (Some(3), Some(2)), "{coverage}");
    let missing = coverage["nodes"].as_array().unwrap().iter().find(|node| node["answered"] == false).unwrap();
    assert_eq!(missing["region"], "eu-west", "{missing}");
    assert!(missing["node_id"].as_str().unwrap().starts_with("lariat@127.0.0.1:"), "{missing}");
    // Slices younger than 15 s are neither expected nor missing: the node's lost time shows once they are closed.
    eventually("the node's missing time", async || {
        let answer = demo.sql(BY_REGION).await;
        let nodes = answer["coverage"]["nodes"].as_array().unwrap().clone();
        let missing = nodes.iter().find(|node| node["answered"] == false)?;
        (missing["missing"][0]["why"] == "unreachable").then_some(())
    })
    .await;

    let (code, text, _) = run(&["sql", BY_REGION, "--url", &query], &[]);
    assert_eq!(code, 0);
    assert!(text.contains("coverage: 2 of 3 nodes") && text.contains("eu-west"), "{text}");
    let (code, _, errors) = run(&["sql", BY_REGION, "--url", &query, "--min-coverage", "0.9"], &[]);
    assert_eq!(code, 1);
    assert!(errors.contains("coverage"), "{errors}");

    super::harness::client().post(format!("{query}/api/v1/demo/nodes/1/start")).send().await.unwrap();
    eventually("the node is back with its past", async || {
        let answer = demo.sql(BY_REGION).await;
        (rows(&answer).len() == 3 && answer["coverage"]["answered"] == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_each_nodes_stage_with_its_store_and_a_partial_aggregate() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0"]).await;
    one_call_per_node(&demo).await;
    let plan = demo.sql(&format!("EXPLAIN {BY_REGION}")).await.to_string();
    let mut stores: Vec<&str> = plan.split("store=").skip(1).filter_map(|rest| rest.get(..36)).collect();
    stores.sort_unstable();
    stores.dedup();
    assert_eq!(stores.len(), 3, "{plan}");
    assert!(plan.contains("Partial"), "{plan}");
}
