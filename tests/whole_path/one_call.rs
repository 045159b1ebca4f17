//! One call, seen everywhere: in SQL, in an explanation, in PromQL, on the live feed, and in a file that DuckDB reads.

use serde_json::Value;

use super::harness::{Lariat, call, eventually, get_json, on_path, root, rows, run, tool};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn one_call_is_seen_in_sql_in_its_explanation_in_promql_and_by_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0"]).await;
    let (proxy, query) = (demo.url("proxy").await, demo.url("query").await);
    let (reply, id) = call(&format!("{proxy}/rpc/ethereum"), CALL).await;
    assert!(reply["result"].as_str().is_some_and(|height| height.starts_with("0x")), "{reply}");

    let decision = eventually("the decision in SQL", async || {
        let answer = demo.sql(&format!("SELECT * FROM routing_decisions WHERE request_id = '{id}'")).await;
        rows(&answer).first().cloned()
    })
    .await;
    assert_eq!(decision["method"], "eth_blockNumber");
    assert_eq!(decision["result"], "success");
    assert_eq!(decision["region"], "us-east");
    assert_eq!(decision["request_id"], id.as_str());
    assert!(
        decision["provider_id"].is_string() && decision["duration_ns"].as_i64().is_some_and(|ns| ns > 0),
        "{decision}"
    );
    let attempts = demo.sql(&format!("SELECT * FROM attempts WHERE request_id = '{id}' ORDER BY ordinal")).await;
    assert_eq!(rows(&attempts).len() as i64, decision["attempts"].as_i64().unwrap());
    assert_eq!(rows(&attempts).last().unwrap()["outcome"], "success");
    let candidates = demo.sql(&format!("SELECT * FROM candidates WHERE request_id = '{id}'")).await;
    assert!(rows(&candidates).len() >= 4, "each of four providers is a candidate: {candidates}");

    let (status, explained) = get_json(&format!("{query}/api/v1/decisions/{id}")).await;
    assert_eq!(status, 200, "{explained}");
    assert!(explained["decisions"][0]["selections"][0]["chosen"].is_string(), "{explained}");
    let (code, text, errors) = run(&["explain", &id, "--url", &query], &[]);
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains("eth_blockNumber") && text.contains("chose ") && text.contains("coverage: 3 of 3"), "{text}");
    let (code, recorded, errors) = run(&["explain", &id, "--json", "--url", &query], &[]);
    assert_eq!(code, 0, "{errors}");
    let query_text = format!("select * from routing_decisions where request_id = '{id}'");
    let (_, selected, _) = run(&["sql", &query_text, "--format", "json", "--url", &query], &[]);
    for text in [recorded, selected] {
        let file = dir.path().join("recorded.json");
        std::fs::write(&file, &text).unwrap();
        let (code, told, errors) = run(&["replay", &file.display().to_string()], &[]);
        assert_eq!(code, 0, "{text}\n{errors}");
        assert!(told.contains("selection 1: equal") && told.contains("0 differ"), "{told}");
    }
    let (code, text, errors) =
        run(&["sql", "select * from routing_decisions order by time desc limit 1", "--url", &query], &[]);
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains("eth_blockNumber") && text.contains("coverage: 3 of 3 nodes"), "{text}");

    eventually("the call in PromQL", async || {
        let expression = "sum(rpc_server_call_duration_seconds_count{method=\"eth_blockNumber\"})";
        let url = format!(
            "{query}/prometheus/api/v1/query?query={}",
            expression.replace('"', "%22").replace('{', "%7B").replace('}', "%7D")
        );
        let (status, answer) = get_json(&url).await;
        assert_eq!(status, 200, "{answer}");
        let value: f64 = answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()?;
        assert!(answer["data"]["stats"]["coverage"]["expected"] == 3, "{answer}");
        (value >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_as_many_decisions_as_calls_in_order_under_one_request_id() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0", "--nodes", "1"]).await;
    let proxy = demo.url("proxy").await;
    let batch = r#"[{"jsonrpc":"2.0","id":"a","method":"eth_chainId"},{"jsonrpc":"2.0","id":9007199254740993,"method":"eth_blockNumber","params":[]},{"jsonrpc":"2.0","id":"c","method":"eth_accounts"}]"#;
    let (reply, id) = call(&format!("{proxy}/rpc/ethereum"), batch).await;
    assert_eq!(reply[0]["id"], "a");
    assert_eq!(reply[1]["id"], 9_007_199_254_740_993_u64);
    assert_eq!(reply[2]["error"]["code"], -32601);
    let answer = eventually("three decisions", async || {
        let answer = demo
            .sql(&format!("SELECT batch_index, batch_size, method, answered_by FROM routing_decisions WHERE request_id = '{id}' ORDER BY 1"))
            .await;
        (rows(&answer).len() == 3).then_some(answer)
    })
    .await;
    let answered: Vec<&Value> = rows(&answer).iter().map(|row| &row["answered_by"]).collect();
    assert_eq!(answered, ["local", "provider", "none"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_feed_begins_with_a_snapshot_and_brings_a_new_call() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0"]).await;
    let (proxy, query) = (demo.nth_url("proxy", 1).await, demo.url("query").await);
    let mut stream =
        super::harness::client().get(format!("{query}/api/v1/stream?profile=public")).send().await.unwrap();
    let mut text = String::new();
    let mut id = None;
    let seen = async {
        while let Some(chunk) = stream.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
            if id.is_none() && text.contains("event: snapshot") {
                assert!(!text.contains("event: batch"), "the snapshot comes first: {text}");
                id = Some(call(&format!("{proxy}/rpc/ethereum"), CALL).await.1);
            }
            if id.as_ref().is_some_and(|id| text.contains(id.as_str())) {
                return;
            }
        }
    };
    tokio::time::timeout(super::harness::PATIENCE, seen).await.expect("the call comes over the feed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decisions_of_a_sealed_file_are_decided_again_as_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0", "--nodes", "1"]).await;
    let proxy = demo.url("proxy").await;
    let mut id = String::new();
    for strategy in ["load-balanced", "latency-weighted", "fastest", "priority"] {
        id = call(&format!("{proxy}/rpc/{strategy}/ethereum"), CALL).await.1;
    }
    eventually("the last decision", async || {
        let answer = demo.sql(&format!("SELECT 1 FROM routing_decisions WHERE request_id = '{id}'")).await;
        rows(&answer).first().cloned()
    })
    .await;
    let (status, text) = demo.interrupt().await;
    assert!(status.success(), "{text}");
    let mut folders = vec![dir.path().join("node-0/parquet/spans")];
    let mut replayed = 0;
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                let (code, told, errors) = run(&["replay", &path.display().to_string()], &[]);
                // A file of probes alone is none of decisions.
                assert!(code == 0 || errors.contains("holds no decision"), "{told}{errors}");
                replayed += told.matches(": equal").count();
            }
        }
    }
    assert!(replayed >= 4, "{replayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_file_opens_in_duckdb_with_the_call_in_it() {
    let python = std::env::var_os("LARIAT_PYTHON").map(Into::into).or_else(|| on_path("python3"));
    let python = python.filter(|python: &std::path::PathBuf| {
        std::process::Command::new(python)
            .args(["-c", "import duckdb"])
            .output()
            .is_ok_and(|output| output.status.success())
    });
    let Some(python) = tool("duckdb", python) else { return };
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0", "--nodes", "1"]).await;
    let proxy = demo.url("proxy").await;
    let (_, id) = call(&format!("{proxy}/rpc/ethereum"), CALL).await;
    eventually("the decision", async || {
        let answer = demo.sql(&format!("SELECT 1 FROM routing_decisions WHERE request_id = '{id}'")).await;
        rows(&answer).first().cloned()
    })
    .await;
    let (status, text) = demo.interrupt().await;
    assert!(status.success(), "a clean stop seals what is hot\n{text}");
    let pattern = dir.path().join("node-0/parquet/spans/**/*.parquet").display().to_string();
    let query = format!(
        "SELECT method, provider_id, len(eligible) AS eligible, date IS NOT NULL AS dated FROM files \
         WHERE span_kind = 'server' AND lower(hex(request_id)) = '{}'",
        id.replace('-', "")
    );
    let output = std::process::Command::new(python)
        .arg(root().join("tests/clients/read_parquet.py"))
        .args([&pattern, &query])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found[0]["method"], "eth_blockNumber", "{found}");
    assert_eq!(found[0]["dated"], true, "{found}");
}
