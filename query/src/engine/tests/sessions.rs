//! What sessions have in common, and what they must not: they are copies of one.

use arrow::datatypes::DataType;
use futures::future::join_all;

use super::*;
use crate::ask::Scope;

#[tokio::test(flavor = "multi_thread")]
async fn every_question_begins_at_a_time_of_its_own() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut before = 0;
    for _ in 0..3 {
        let now = count(&ask(&query, "SELECT CAST(now() AS BIGINT) AS n").await);
        assert!(now > before, "{now} is not after {before}");
        before = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_at_once_are_each_answered_by_the_nodes_that_they_are_for() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    // Which store is whose is known of nodes that were met.
    assert_eq!(count(&ask(&query, "SELECT count(*) FROM spans").await), 300);
    let stores = fleet.stores();
    let asked = (0..9).map(|number| {
        let only = stores[number % 3];
        let scope = Scope { only: Some([only].into()), ..Scope::default() };
        let sql = "SELECT count(*), max(region) FROM routing_decisions WHERE duration_ns >= 0";
        let question = Question { scope, ..Question::new(sql) };
        let engine = query.engine();
        async move { (number % 3, engine.ask(question).await.unwrap()) }
    });
    for (node, answer) in join_all(asked).await {
        let region = answer.batches[0].column(1).as_string::<i32>().value(0);
        assert_eq!((count(&answer), region), (100, REGIONS[node]), "{:?}", answer.coverage);
        assert_eq!(answer.stores, [stores[node]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_in_sql_are_those_of_the_questions_own_time() {
    let mut fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let sql = "SELECT count(*) AS n FROM nodes WHERE error IS NULL";
    assert_eq!(count(&ask(&query, sql).await), 2);
    fleet.kill(0);
    assert_eq!(ask(&query, "SELECT 1").await.coverage.answered, 1);
    assert_eq!(count(&ask(&query, sql).await), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_only_chooses_columns_is_done_by_the_leaves() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let oracle = LocalEngine::new(vec![(Table::Spans, vec![spans(0, 100), spans(1, 100)])]).await.unwrap();
    for (sql, by_leaves) in [
        ("SELECT * FROM routing_decisions WHERE duration_ns > 20000 ORDER BY time, region", true),
        ("SELECT region, time, chain FROM spans WHERE method = 'eth_call' ORDER BY time, region LIMIT 9", true),
        ("SELECT region, duration_ns FROM (SELECT duration_ns, region, chain FROM spans) ORDER BY 2, 1", true),
        ("SELECT region AS r, time FROM spans ORDER BY time, r LIMIT 9", false),
        ("SELECT region, duration_ns + 1 AS n FROM spans ORDER BY n, region LIMIT 9", false),
    ] {
        let plan = text(&ask(&query, &format!("EXPLAIN {sql}")).await.batches);
        assert_eq!(!plan.contains("ProjectionExec"), by_leaves, "{sql}: {plan}");
        let (found, wanted) = (ask(&query, sql).await, oracle.ask(Question::new(sql)).await.unwrap());
        assert_eq!(text(&found.batches), text(&wanted.batches), "{sql}");
        let types = |answer: &Answer| -> Vec<(String, DataType)> {
            answer.schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        assert_eq!(types(&found), types(&wanted), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_above_unnested_lists_of_groups_is_kept_whole() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let unnested = "SELECT region, unnest(methods) AS method FROM \
                    (SELECT region, array_agg(method) AS methods FROM spans GROUP BY region) ORDER BY region, method DESC";
    let wanted = "SELECT region, method FROM spans ORDER BY region, method DESC";
    assert_eq!(text(&ask(&query, unnested).await.batches), text(&ask(&query, wanted).await.batches));
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_of_groups_are_not_grouped_again_and_those_of_rows_are() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let groups = "SELECT region, array_agg(method) AS methods FROM spans GROUP BY region";
    let elements = format!("SELECT region, unnest(methods) AS method FROM ({groups})");
    for sql in [
        format!("SELECT count(*) FROM (SELECT DISTINCT region, method FROM ({elements}))"),
        format!("SELECT count(*) FROM (SELECT region, method FROM ({elements}) GROUP BY region, method)"),
        format!("WITH e AS ({elements}) SELECT 1 WHERE 1 IN (SELECT count(*) FROM e GROUP BY region, method)"),
    ] {
        let refused = query.engine().ask(Question::new(&sql)).await;
        assert!(
            matches!(&refused, Err(AskError::BadQuestion { message, .. }) if message.contains("grouped again")),
            "{sql}: {refused:?}"
        );
    }
    for (sql, rows) in [
        (format!("SELECT count(*) FROM ({elements})"), 200),
        (
            "SELECT count(*) FROM (SELECT DISTINCT m FROM (SELECT unnest([method, chain]) AS m FROM spans))".to_owned(),
            7,
        ),
        (format!("SELECT count(*) FROM (SELECT DISTINCT region FROM ({groups}))"), 2),
    ] {
        assert_eq!(count(&ask(&query, &sql).await), rows, "{sql}");
    }
}
