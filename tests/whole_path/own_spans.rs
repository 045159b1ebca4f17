//! The services' own spans, read back from where they record everything else.

use super::harness::{Lariat, eventually, rows};
use super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED;

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_of_a_query_service_are_spans_in_the_tables_that_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir_all(path("profiles")).unwrap();
    std::fs::write(dir.path().join("profiles/public.yml"), PROFILE_WITHOUT_PROVIDERS_CALLED).unwrap();
    let (data, profiles, query_data) = (path("data"), path("profiles"), path("query"));
    let node = Lariat::start_with(
        &["node", "--data-dir", &data, "--profiles", &profiles],
        &[
            ("LARIAT_PROXY__LISTEN", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_GRPC", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_HTTP", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__NODE_API", "127.0.0.1:0"),
        ],
    );
    let (node_api, otlp) = (node.url("node_api").await, node.url("otlp_grpc").await);
    let nodes = format!("[\"{}\"]", node_api.trim_start_matches("http://"));
    let query = Lariat::start_with(
        &["query", "--data-dir", &query_data],
        &[
            ("LARIAT_QUERY__HTTP", "127.0.0.1:0"),
            ("LARIAT_CLUSTER__NODES", &nodes),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &otlp),
        ],
    );
    query.ready("query").await;
    // Each look is a query, of which some are kept as of any trace without a profile.
    let found = eventually("a query's span", async || {
        let answer = query
            .sql("SELECT name, span_kind, attributes['rows'] AS n FROM spans WHERE service_name = 'lariat-query'")
            .await;
        (!rows(&answer).is_empty()).then_some(answer)
    })
    .await;
    assert!(rows(&found).iter().all(|row| row["name"] == "query" && row["span_kind"] == "internal"), "{found}");
    assert!(rows(&found).iter().all(|row| row["n"].is_string()), "{found}");
}
