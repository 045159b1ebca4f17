//! Every report that has an endpoint answers over a real fleet, in SQL's shape, with its coverage.

use super::harness::{Lariat, eventually, get_json, rows};

/// Reports and a column that each has.
const REPORTS: &[(&str, &str)] = &[
    ("/api/v1/traffic", "calls"),
    ("/api/v1/latency", "p95_ms"),
    ("/api/v1/errors", "error_category"),
    ("/api/v1/routing", "intended_share"),
    ("/api/v1/providers", "success_rate"),
    ("/api/v1/circuits", "to"),
    ("/api/v1/blocks", "height"),
    ("/api/v1/usage", "method_class"),
    ("/api/v1/nodes", "state"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_report_answers_with_columns_rows_and_coverage() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "60"]).await;
    let query = demo.url("query").await;
    eventually("calls in the traffic report", async || {
        let (_, answer) = get_json(&format!("{query}/api/v1/traffic?from=-5m")).await;
        (!rows(&answer).is_empty()).then_some(())
    })
    .await;
    for (path, column) in REPORTS {
        let (status, answer) = get_json(&format!("{query}{path}?from=-5m")).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let columns = answer["columns"].as_array().unwrap_or_else(|| panic!("{path}: {answer}"));
        assert!(columns.iter().any(|found| found["name"] == *column), "{path} has no column {column}: {columns:?}");
        assert_eq!(answer["coverage"]["expected"], 3, "{path}");
    }
    let trace = demo.sql("SELECT trace_id FROM routing_decisions WHERE attempts > 0 ORDER BY time DESC LIMIT 1").await;
    let id = rows(&trace)[0]["trace_id"].as_str().unwrap().to_owned();
    let (status, answer) = get_json(&format!("{query}/api/v1/trace/{id}")).await;
    assert_eq!(status, 200, "{answer}");
    assert!(rows(&answer).len() >= 2, "a decision and its attempt: {answer}");
    let (status, answer) = get_json(&format!("{query}/api/v1/traffic?provider=x")).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"].to_string().contains("provider_id"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_traffic_report_counts_what_the_rows_count() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "0"]).await;
    let (proxy, query) = (demo.url("proxy").await, demo.url("query").await);
    for id in 0..25 {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_gasPrice"}}"#);
        super::harness::call(&format!("{proxy}/rpc/ethereum"), &body).await;
    }
    eventually("the report and the rows agree on 25 calls", async || {
        let (_, report) = get_json(&format!("{query}/api/v1/traffic?from=-10m&method=eth_gasPrice")).await;
        let calls: i64 =
            rows(&report).iter().filter(|row| row["region"].is_null()).filter_map(|row| row["calls"].as_i64()).sum();
        let counted = demo.sql("SELECT count(*) AS n FROM routing_decisions WHERE method = 'eth_gasPrice'").await;
        (calls == 25 && rows(&counted)[0]["n"] == 25).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prometheus_api_answers_grafanas_first_questions() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "60"]).await;
    let base = format!("{}/prometheus/api/v1", demo.url("query").await);
    let (_, health) = get_json(&format!("{base}/query?query=1%2B1&time=4")).await;
    assert_eq!(health["data"]["result"][1], "2", "{health}");
    eventually("the histogram's name", async || {
        let (_, names) = get_json(&format!("{base}/label/__name__/values")).await;
        names["data"].to_string().contains("rpc_server_call_duration_seconds").then_some(())
    })
    .await;
    for path in ["labels", "metadata", "status/buildinfo", "series?match[]=rpc_server_call_duration_seconds_count"] {
        let (status, answer) = get_json(&format!("{base}/{path}")).await;
        assert_eq!((status, &answer["status"]), (200, &serde_json::json!("success")), "{path}: {answer}");
    }
    eventually("a rate and a quantile over the fleet", async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let range = format!("start={}&end={now}&step=5", now - 60);
        let quantile =
            "histogram_quantile(0.95,sum%20by%20(le,region)(rate(rpc_server_call_duration_seconds_bucket%5B1m%5D)))";
        let (status, answer) = get_json(&format!("{base}/query_range?query={quantile}&{range}")).await;
        assert_eq!(status, 200, "{answer}");
        (answer["data"]["result"].as_array().is_some_and(|series| series.len() == 3)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_grafanas_service_graph_are_there_and_name_who_calls_whom() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Lariat::demo(dir.path(), &["--rps", "60"]).await;
    let base = format!("{}/prometheus/api/v1", demo.url("query").await);
    // As the plugin asks them, and the label that each series must have.
    for (query, label) in [
        (
            "sum by (client, server, connection_type) (rate(traces_service_graph_request_total{client=\"user\"}[1m]))",
            "server",
        ),
        ("group by (client, connection_type, server) (traces_service_graph_request_server_seconds_sum)", "client"),
        (
            "histogram_quantile(.9, sum(rate(traces_spanmetrics_latency_bucket{span_kind=\"SPAN_KIND_SERVER\"}[1m])) by (le, span_name))",
            "span_name",
        ),
        (
            "topk(5, sum(rate(traces_spanmetrics_calls_total{status_code!=\"STATUS_CODE_ERROR\"}[1m])) by (service))",
            "service",
        ),
        ("sum by (span_name) (rate(traces_spanmetrics_size_total[1m])) > 0", "span_name"),
    ] {
        let url = reqwest::Url::parse_with_params(&format!("{base}/query"), [("query", query)]).unwrap();
        eventually(query, async || {
            let (status, answer) = get_json(url.as_str()).await;
            assert_eq!(status, 200, "{answer}");
            let series = answer["data"]["result"].as_array()?;
            (!series.is_empty() && series.iter().all(|series| series["metric"][label].is_string())).then_some(())
        })
        .await;
    }
}
