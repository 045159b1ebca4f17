//! The bounds of a question and of a caller, over HTTP.

use axum::body::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::*;

async fn get(query: &Query, path_and_query: &str) -> (StatusCode, HeaderMap, Bytes) {
    let uri = format!("http://{}/api/v1/{path_and_query}", query.http_address());
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let (parts, body) = client.get(uri.parse().unwrap()).await.unwrap().into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

async fn sql(query: &Query, sql: &str) -> (StatusCode, Value) {
    let encoded: String = url::form_urlencoded::byte_serialize(sql.as_bytes()).collect();
    let (status, _, body) = get(query, &format!("sql?q={encoded}")).await;
    (status, serde_json::from_slice(&body).unwrap())
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body["error"][name].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_too_many_questions_is_told_when_to_come_back() {
    let fleet = streaming::large_fleet().await;
    let query = fleet.query_with(|config| config.max_questions_per_caller = 1).await;
    // A reader who does not read keeps his place.
    let uri = format!("http://{}/api/v1/sql?format=ndjson&q=SELECT%20time,name%20FROM%20spans", query.http_address());
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let reading = client.get(uri.parse().unwrap()).await.unwrap();
    for path in ["sql?q=SELECT%201", "traffic"] {
        let (status, headers, body) = get(&query, path).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (status, text(&body, "code")),
            (StatusCode::TOO_MANY_REQUESTS, "too_many_questions"),
            "{path}: {body}"
        );
        assert_eq!(headers["retry-after"], "1");
        assert!(!text(&body, "message").is_empty() && !text(&body, "hint").is_empty());
    }
    drop(reading);
    let until = Instant::now() + Duration::from_secs(20);
    while sql(&query, "SELECT 1").await.0 != StatusCode::OK {
        assert!(Instant::now() < until, "the place never became free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_question_may_read_hold_and_return_is_bounded_and_the_refusal_says_what_to_do() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query_with(|config| (config.max_rows, config.max_scan_bytes) = (150, 1_000)).await;
    let (status, body) = sql(&query, "SELECT count(*) FROM spans").await;
    assert_eq!((status, text(&body, "code")), (StatusCode::UNPROCESSABLE_ENTITY, "too_large"), "{body}");
    assert!(text(&body, "message").contains("KiB") && text(&body, "hint").contains("narrow it by time"), "{body}");
    let (status, body) = sql(&query, "SELECT count(*) FROM spans WHERE time < '2001-01-01'").await;
    assert_eq!(status, StatusCode::OK, "{body}");

    let query = fleet.query_with(|config| config.max_rows = 150).await;
    let (status, body) = sql(&query, "SELECT time FROM spans").await;
    assert_eq!((status, text(&body, "code")), (StatusCode::UNPROCESSABLE_ENTITY, "too_large"), "{body}");
    let (status, _, body) = get(&query, "sql?format=ndjson&q=SELECT%20time%20FROM%20spans").await;
    assert_eq!((status, body.iter().filter(|byte| **byte == b'\n').count()), (StatusCode::OK, 201));

    let query = fleet.query_with(|config| config.max_query_bytes = 2 << 20).await;
    let greedy = "SELECT md5(CAST(value AS VARCHAR)) v, count(*) FROM generate_series(1, 200000) GROUP BY 1 ORDER BY 1";
    let (status, body) = sql(&query, greedy).await;
    assert_eq!((status, text(&body, "code")), (StatusCode::UNPROCESSABLE_ENTITY, "too_large"), "{body}");
    assert!(!text(&body, "hint").is_empty());
    assert_eq!(sql(&query, "SELECT count(*) FROM spans").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_time_and_ids_rule_out_is_not_read_and_the_figures_say_so() {
    let fleet = Fleet::start_with(2, 1_000, 0).await;
    let query = fleet.query().await;
    let (_, body) = sql(&query, "SELECT count(*) AS n FROM spans WHERE time < '2001-01-01'").await;
    assert_eq!((&body["stats"]["pruned"]["files"], &body["stats"]["files_scanned"]), (&2.into(), &0.into()), "{body}");
    let (_, body) = sql(&query, "SELECT count(*) AS n FROM spans WHERE time >= '2001-01-01' AND chain = 'none'").await;
    let stats = &body["stats"];
    assert_eq!((&stats["pruned"]["files"], &stats["files_scanned"]), (&0.into(), &2.into()), "{body}");
    assert_eq!((&stats["pruned"]["row_groups"], &body["rows"][0]["n"]), (&2.into(), &0.into()), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reaches_files_addresses_or_settings() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    for statement in [
        "SET datafusion.execution.target_partitions = 1",
        "SHOW ALL",
        "SHOW datafusion.execution.batch_size",
        "SHOW FUNCTIONS",
        "RESET ALL",
        "SELECT * FROM information_schema.df_settings",
        "SELECT * FROM \"information_schema\".\"df_settings\"",
        "WITH s AS (SELECT * FROM information_schema.df_settings) SELECT * FROM s",
        "SELECT (SELECT max(value) FROM information_schema.df_settings)",
        "COPY (SELECT 1) TO 'x.csv'",
        "COPY spans FROM 'x.csv'",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'file:///etc/'",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'http://127.0.0.1/'",
        "CREATE VIEW v AS SELECT 1",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "CREATE SCHEMA s",
        "CREATE DATABASE d",
        "DROP VIEW routing_decisions",
        "INSERT INTO spans SELECT * FROM spans",
        "UPDATE spans SET chain = 'x'",
        "DELETE FROM spans",
        "TRUNCATE TABLE spans",
        "ALTER TABLE spans ADD COLUMN x INT",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "BEGIN",
        "COMMIT",
        "KILL 1",
        "USE other",
        "LOAD DATA INPATH 'x' INTO TABLE spans",
        "EXPLAIN COPY spans TO 'x.csv'",
        "EXPLAIN ANALYZE DELETE FROM spans",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'https://example.com/x.parquet'",
        "SELECT * FROM \"s3://bucket/x.parquet\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('/etc/x.parquet')",
        "SELECT * FROM parquet_metadata('/etc/x.parquet')",
        "SELECT * FROM glob('/*')",
        "SELECT @@version",
        "SELECT 1 INTO OUTFILE 'x'",
        "SELECT * INTO t FROM spans",
        "ATTACH DATABASE 'x' AS y",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "CALL f()",
    ] {
        let (status, body) = sql(&query, statement).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{statement}: {body}");
        assert!(!text(&body, "code").is_empty() && !text(&body, "message").is_empty(), "{statement}: {body}");
    }
    for statement in
        ["SHOW TABLES", "SHOW COLUMNS FROM spans", "DESCRIBE spans", "SELECT count(*) FROM information_schema.columns"]
    {
        let (status, body) = sql(&query, statement).await;
        assert_eq!(status, StatusCode::OK, "{statement}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_types_and_ranges_are_the_callers_fault_and_have_a_hint() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    for (statement, hint) in [
        ("SELECT metod FROM spans", "method"),
        ("SELECT s.duration FROM spans s", "duration_ns"),
        ("SELECT * FROM routing_decision", "routing_decisions"),
        ("DESCRIBE routing_decision", "routing_decisions"),
        ("DESCRIBE \"spams\"", "spans"),
        ("SELECT estimate_count() FROM spans", "estimated_count"),
        ("SELECT coun(*) FROM spans", "count"),
        ("SELECT chain + 1 FROM spans", ""),
        ("SELECT chain FROM spans WHERE chain > 5 AND duration_ns = 'x'", ""),
        ("SELECT CAST('x' AS BIGINT)", ""),
        ("SELECT count(*) FROM spans GROUP BY nothing", ""),
        ("SELECT chain, count(*) FROM spans", ""),
        ("SELECT * FROM spans WHERE time > '2026-13-77'", ""),
        ("SELECT * FROM spans WHERE time >= 'yesterday'", ""),
        ("SELECT * FROM coverage('now', '-1h', '1m')", ""),
        ("SELECT * FROM coverage('1970-01-01', 'now', '1s')", ""),
        ("SELECT duration_ns FROM spans LIMIT -1", ""),
        ("SELECT 1 FROM spans ORDER BY 7", ""),
        ("SELECT time FROM spans a, spans b", ""),
        ("SELECT $1", ""),
        ("SELECT repeat(chain, 2000000000) FROM spans", ""),
        ("SELECT count(*) FROM spans WHERE range(0, duration_ns * 1000000000) IS NOT NULL", ""),
    ] {
        let (status, body) = sql(&query, statement).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{statement}: {body}");
        assert!(!text(&body, "message").is_empty(), "{statement}: {body}");
        assert!(text(&body, "hint").contains(hint) && !text(&body, "hint").is_empty(), "{statement}: {body}");
    }
    // Nothing is in a range that ends before it begins; the answer says what was asked.
    let (status, body) =
        sql(&query, "SELECT count(*) AS n FROM spans WHERE time >= '2026-02-01' AND time < '2026-01-01'").await;
    assert_eq!((status, &body["rows"][0]["n"]), (StatusCode::OK, &0.into()), "{body}");
    for path in ["traffic?from=now&to=-1h", "traffic?from=-99999999d", "traffic?step=-1s", "coverage?from=0&step=1s"] {
        let (status, _, body) = get(&query, path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body:?}");
    }
}
