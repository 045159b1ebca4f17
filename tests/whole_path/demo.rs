//! The demo as a newcomer meets it: it says where it is, shows figures, ends when told to, and remembers.

use super::harness::{Lariat, PATIENCE, call, eventually, rows, run};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_prints_its_addresses_three_commands_and_figures_and_ends_at_ctrl_c_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "40"]).await;
    eventually("a line of figures with calls in it", async || {
        let text = demo.text();
        (text.contains("\"calls\":") && !text.contains("\"calls\":0,\"calls_per_second\":0.0}")).then_some(())
    })
    .await;
    let text = demo.text();
    for part in ["listening query ", "Dashboard: ", "curl -d ", " sql ", "/kill"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let (status, text) = demo.interrupt().await;
    assert_eq!(status.code(), Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_answers_for_the_first_ones_calls() {
    let dir = tempfile::tempdir().unwrap();
    let first = Lariat::demo(dir.path(), &["--rps", "0"]).await;
    let proxy = first.nth_url("proxy", 2).await;
    let (_, id) = call(&format!("{proxy}/rpc/ethereum"), r#"{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice"}"#).await;
    let (status, text) = first.interrupt().await;
    assert!(status.success(), "{text}");

    let second = Lariat::demo(dir.path(), &["--rps", "0"]).await;
    let answer = second.sql(&format!("SELECT region FROM routing_decisions WHERE request_id = '{id}'")).await;
    assert_eq!(rows(&answer).len(), 1, "{answer}");
    assert_eq!(rows(&answer)[0]["region"], "ap-south");
    assert_eq!(
        answer["coverage"]["expected"], 3,
        "a node that changed its port is still one node: {}",
        answer["coverage"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_duration_it_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let run = tokio::task::spawn_blocking(move || {
        run(&["demo", "--port-base", "0", "--duration", "2s", "--data-dir", &path], &[])
    });
    let (code, _, errors) = tokio::time::timeout(PATIENCE, run).await.expect("it ends").unwrap();
    assert_eq!(code, 0, "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_makes_a_story_with_failovers_exclusions_and_errors() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "120"]).await;
    eventually("failovers and exclusions", async || {
        let answer = demo
            .sql(
                "SELECT CAST(sum(CASE WHEN failovers > 0 THEN 1 ELSE 0 END) AS BIGINT) AS failovers, count(DISTINCT provider_id) AS providers, \
                 count(DISTINCT region) AS regions FROM routing_decisions",
            )
            .await;
        let row = &rows(&answer)[0];
        let at_least = |name: &str, least: i64| row[name].as_i64().is_some_and(|n| n >= least);
        (at_least("failovers", 1) && at_least("providers", 4) && at_least("regions", 3)).then_some(())
    })
    .await;
}
