//! Three nodes in one process, each with its own store, real sockets between them and the query service.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use lariat_schema::coverage::Coverage;
use lariat_schema::tables::Table;

use super::*;
use crate::ask::local::LocalEngine;
use crate::server::{self, Query};
use fleet::{Fleet, spans};

mod bucket;
mod coverage;
pub(crate) mod fleet;
mod formats;
mod generated;
mod limits;
mod merging;
mod sessions;
pub(crate) mod streaming;

const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];

fn text(batches: &[RecordBatch]) -> String {
    pretty_format_batches(batches).unwrap().to_string()
}

fn count(answer: &Answer) -> i64 {
    answer.batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>()).sum()
}

async fn ask(query: &Query, sql: &str) -> Answer {
    query.engine().ask(Question::new(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_over_three_nodes_is_the_union_with_complete_coverage() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let answer = ask(&query, "SELECT count(*) AS n FROM spans").await;
    assert_eq!(count(&answer), 300);
    assert!(answer.coverage.complete, "{:?}", answer.coverage);
    assert_eq!((answer.coverage.expected, answer.coverage.answered), (3, 3));
    assert!(answer.stats.files_scanned >= 3, "{:?}", answer.stats);
    for region in REGIONS {
        assert!(answer.coverage.nodes.iter().any(|node| node.region == region && node.rows == 100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn longer_cells_are_rollups_under_another_name_and_nodes_are_told_so() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let window = "time >= '2025-11-21' AND time < '2025-11-22'";
    for (name, leaf) in [
        ("rollups", "table=rollups, projection"),
        ("rollups_5m", "table=rollups, cells=5m, projection"),
        ("rollups_1h", "table=rollups, cells=1h, projection"),
    ] {
        let sql = format!("SELECT sum(calls) AS n FROM {name} WHERE family = 'ops' AND {window}");
        let plan = text(&ask(&query, &format!("EXPLAIN {sql}")).await.batches);
        assert!(plan.contains(leaf), "{plan}");
        let coverage = ask(&query, &sql).await.coverage;
        assert_eq!(coverage.window.from.as_deref(), Some("2025-11-21T00:00:00.000000000Z"), "{name}");
    }
    let both = "SELECT (SELECT sum(calls) FROM rollups_1h) AS long, (SELECT sum(calls) FROM rollups) AS short";
    assert_eq!(ask(&query, both).await.coverage.answered, 2);
    let error = query.engine().ask(Question::new("SELECT * FROM rollups_2h")).await.unwrap_err();
    let AskError::BadQuestion { hint, .. } = &error else { panic!("{error}") };
    assert!(hint.as_deref().is_some_and(|hint| hint.contains("rollups_")), "{hint:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_query_equals_a_single_process_over_the_same_rows() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let single = Fleet::start(1).await;
    let single_query = single.query().await;
    for (query, nodes) in [(&query, 3), (&single_query, 1)] {
        let rows = (0..nodes).map(|node| spans(node, 100)).collect();
        let oracle = LocalEngine::new(vec![(Table::Spans, rows)]).await.unwrap();
        for sql in [
            "SELECT chain, count(*) n, sum(duration_ns) s, avg(duration_ns) a FROM spans GROUP BY chain ORDER BY chain",
            "SELECT time, region, duration_ns FROM spans ORDER BY duration_ns DESC, time, region LIMIT 7",
            "SELECT count(DISTINCT method) FROM routing_decisions WHERE duration_ns > 20000",
            "SELECT region, max(time) FROM spans WHERE chain = 'ethereum' GROUP BY region HAVING count(*) > 1 ORDER BY 1",
            "SELECT a.region, count(*) FROM spans a JOIN spans b ON a.trace_id = b.trace_id GROUP BY 1 ORDER BY 1",
            "SELECT count(*) FROM (SELECT region FROM spans UNION ALL VALUES ('x'), ('y'))",
            "SELECT count(*) FROM spans WHERE duration_ns > (SELECT avg(duration_ns) FROM spans)",
            "WITH r AS (SELECT chain, row_number() OVER (PARTITION BY chain ORDER BY time, region) n FROM spans) \
             SELECT chain, max(n) FROM r GROUP BY chain ORDER BY chain",
            "SELECT method FROM spans WHERE region NOT IN (SELECT region FROM spans WHERE region <> 'us-east') \
             GROUP BY method ORDER BY method",
            "SELECT count(*) FROM candidates",
            "SELECT profile, approx_distinct(trace_id) > 0 FROM spans GROUP BY profile",
            "SELECT 1 AS one",
        ] {
            let wanted = oracle.ask(Question::new(sql)).await.unwrap();
            let found = ask(query, sql).await;
            assert_eq!(text(&found.batches), text(&wanted.batches), "{nodes} nodes: {sql}");
            assert_eq!(found.coverage.answered, nodes, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_each_store_and_the_partial_aggregate_below_the_boundary() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let answer = ask(&query, "EXPLAIN SELECT chain, count(*) FROM spans WHERE duration_ns > 5 GROUP BY chain").await;
    let plan = answer.batches[0].column(1).as_string::<i32>().value(0).to_owned();
    for store in fleet.stores() {
        assert!(plan.contains(&format!("store={store}")), "{plan}");
    }
    let stage = plan.find("Stage 1 ──").unwrap();
    assert!(plan[stage..].contains("mode=Partial"), "{plan}");
    assert!(plan[..stage].contains("mode=FinalPartitioned"), "{plan}");
    assert!(plan.contains("filters=[duration_ns@"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_costs_no_time_and_is_named_with_its_region() {
    let mut fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    assert_eq!(count(&ask(&query, "SELECT count(*) FROM spans").await), 300);
    let killed = fleet.kill(1);
    let since = Instant::now();
    let answer = ask(&query, "SELECT count(*) FROM spans").await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(count(&answer), 200);
    assert!(!answer.coverage.complete);
    assert_eq!((answer.coverage.expected, answer.coverage.answered), (3, 2));
    let missing = answer.coverage.nodes.iter().find(|node| !node.answered).unwrap();
    assert_eq!((missing.node_id.as_str(), missing.region.as_str()), (killed.as_str(), "eu-west"));
    assert!(missing.error.is_some() && !missing.missing.is_empty(), "{missing:?}");
    let refused = query.engine().ask(Question { min_coverage: Some(0.9), ..Question::new("SELECT 1") }).await;
    assert!(matches!(refused, Err(AskError::NotCovered { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_connections_and_never_answers_does_not_hold_the_answer_up() {
    let mut fleet = Fleet::start(2).await;
    let hung = fleet.add_hung().await;
    let query = fleet.query().await;
    let since = Instant::now();
    let question = Question { deadline: Some(Duration::from_secs(8)), ..Question::new("SELECT count(*) FROM spans") };
    let answer = query.engine().ask(question).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(8));
    assert_eq!(count(&answer), 200);
    assert_eq!((answer.coverage.expected, answer.coverage.answered), (3, 2));
    assert!(answer.coverage.nodes.iter().any(|node| node.node_id == hung && !node.answered));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_after_it_has_pinned_is_left_out_before_the_deadline() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    assert_eq!(ask(&query, "SELECT 1").await.coverage.answered, 3);
    fleet.stall(0);
    let since = Instant::now();
    let question = Question { deadline: Some(Duration::from_secs(6)), ..Question::new("SELECT count(*) FROM spans") };
    let answer = query.engine().ask(question).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    assert_eq!((count(&answer), answer.coverage.answered), (200, 2));
    let hung = answer.coverage.nodes.iter().find(|node| !node.answered).unwrap();
    assert_eq!((hung.region.as_str(), hung.error.as_deref()), ("us-east", Some("it did not answer in time")));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_compared_as_hexadecimal_or_uuid_and_other_texts_are_refused() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    for (condition, rows) in [
        ("trace_id = '00000000000000000000000000000005'", 1),
        ("'00000000-0000-0000-0000-0000000003e8' = request_id", 1),
        ("trace_id IN ('00000000000000000000000000000005', '000000000000000000000000000003E8')", 2),
        ("trace_id NOT IN ('00000000000000000000000000000005')", 299),
        ("span_id < '0000000000000003'", 3),
    ] {
        let answer = ask(&query, &format!("SELECT count(*) FROM spans WHERE {condition}")).await;
        assert_eq!(count(&answer), rows, "{condition}");
    }
    let wrong = query.engine().ask(Question::new("SELECT count(*) FROM spans WHERE trace_id = 'abc'")).await;
    assert!(matches!(&wrong, Err(AskError::BadQuestion { message, .. }) if message.contains("no id")), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_corrupt_file_is_left_out_and_says_why() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    fleet.corrupt(2);
    let answer = ask(&query, "SELECT count(*) FROM spans WHERE duration_ns >= 0").await;
    assert_eq!(count(&answer), 200);
    let broken = answer.coverage.nodes.iter().find(|node| !node.answered).unwrap();
    assert_eq!(broken.region, "ap-south");
    assert!(broken.error.as_deref().unwrap().contains("could not be read"), "{broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_division_by_zero_on_the_nodes_is_the_questions_fault_and_no_node_is_left_out() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let wrong =
        query.engine().ask(Question::new("SELECT sum(duration_ns / (duration_ns - duration_ns)) FROM spans")).await;
    assert!(matches!(wrong, Err(AskError::BadQuestion { .. })), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_reading_is_possible_and_a_misspelt_name_gets_the_nearest_one() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    for sql in [
        "DROP TABLE spans",
        "CREATE TABLE x AS SELECT 1",
        "COPY spans TO '/tmp/x.parquet'",
        "SET datafusion.execution.batch_size = 1",
        "INSERT INTO spans SELECT * FROM spans",
        "SELECT 1; SELECT 2",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT * FROM '/etc/passwd'",
        "SELEC 1",
        "",
    ] {
        let refused = query.engine().ask(Question::new(sql)).await;
        assert!(matches!(refused, Err(AskError::BadQuestion { .. })), "{sql}: {refused:?}");
    }
    for (sql, near) in [("SELECT duration FROM spans", "duration_ns"), ("SELECT * FROM spams", "spans")] {
        let Err(AskError::BadQuestion { hint, .. }) = query.engine().ask(Question::new(sql)).await else {
            panic!("{sql}")
        };
        assert!(hint.as_deref().unwrap_or_default().contains(near), "{sql}: {hint:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nodes_the_answer_is_empty_and_incomplete() {
    let query = server::start(fleet::settings(Vec::new(), None, None)).await.unwrap();
    let answer = ask(&query, "SELECT count(*) FROM spans").await;
    assert_eq!(count(&answer), 0);
    assert!(!answer.coverage.complete);
    assert_eq!((answer.coverage.expected, answer.coverage.answered), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_query_service_still_expects_the_node_that_died_before_it_started() {
    let mut fleet = Fleet::start(2).await;
    let dir = tempfile::tempdir().unwrap();
    let first = fleet.query_in(dir.path()).await;
    assert_eq!(ask(&first, "SELECT 1").await.coverage.answered, 2);
    first.shutdown(Duration::from_secs(1)).await;
    let killed = fleet.kill(0);
    let second = fleet.query_in(dir.path()).await;
    let coverage = ask(&second, "SELECT count(*) FROM spans").await.coverage;
    assert_eq!((coverage.expected, coverage.answered), (2, 1), "{coverage:?}");
    assert!(coverage.nodes.iter().any(|node| node.node_id == killed && node.region == "us-east" && !node.answered));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_comes_from_the_condition_on_time() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let sql = "SELECT count(*) FROM spans WHERE time >= '2026-01-01T00:00:00Z' AND time < '2026-01-01T01:00:00Z'";
    let window = ask(&query, sql).await.coverage.window;
    assert_eq!(window.from.as_deref(), Some("2026-01-01T00:00:00.000000000Z"));
    assert_eq!(window.to.as_deref(), Some("2026-01-01T01:00:00.000000000Z"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_token_is_refused() {
    let fleet = Fleet::start(1).await;
    let query = server::start(fleet::settings(fleet.addresses(), Some("wrong"), None)).await.unwrap();
    let answer = ask(&query, "SELECT count(*) FROM spans").await;
    assert_eq!((count(&answer), answer.coverage.answered), (0, 0));
    assert!(answer.coverage.nodes[0].error.as_deref().unwrap().contains("401"), "{:?}", answer.coverage.nodes);
}
