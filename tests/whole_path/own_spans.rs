//! The services' own spans, read back from where they record everything else.

use super::harness::{Lariat, eventually, rows};
use super::real_node::PROFILE_WITHOUT_PROVIDERS_CALLED;

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_of_a_query_service_are_spans_in_the_tables_that_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let node = Lariat::node(dir.path(), PROFILE_WITHOUT_PROVIDERS_CALLED);
    let otlp = node.url("otlp_grpc").await;
    let query = Lariat::query_over(dir.path(), &node, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &otlp)]).await;
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
