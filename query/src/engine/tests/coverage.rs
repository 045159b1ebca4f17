//! Coverage in SQL and beside it, and what travels between nodes and query service.

use arrow::datatypes::UInt64Type;
use lariat_schema::ids::BootId;
use lariat_schema::node_api::{Boot, Heard};
use lariat_schema::time_range::{NANOS_PER_SECOND, slice_start};

use super::*;
use crate::coverage::rfc3339;
use crate::topology::now_unix_nanos;

/// A boot of a collector alone, heard of from its start until `to`.
fn boot(number: u8, from: i64, to: i64) -> Boot {
    Boot {
        boot_id: BootId::from_bytes([number; 16]),
        started_unix_nanos: from,
        known_from_unix_nanos: from,
        statuses: vec![Heard { from_unix_nanos: from, to_unix_nanos: to, missing_before: 0 }],
        heartbeats: Vec::new(),
        proxy_farewell_unix_nanos: None,
        farewell_unix_nanos: None,
    }
}

fn numbers(answer: &Answer) -> Vec<u64> {
    answer.batches[0].columns().iter().map(|column| column.as_primitive::<UInt64Type>().value(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_over_time_tells_when_a_node_was_down_and_what_is_not_known() {
    let fleet = Fleet::start(1).await;
    let from = slice_start(now_unix_nanos()) - 600 * NANOS_PER_SECOND;
    let at = |seconds: i64| from + seconds * NANOS_PER_SECOND;
    // It died after 300 s, came back after 400 s and lives.
    fleet.set_boots(0, vec![boot(1, at(0), at(300)), boot(2, at(400), at(620))]);
    let query = fleet.query().await;
    let call = format!("coverage('{}', '{}', '1m')", rfc3339(at(0)), rfc3339(at(540)));
    let sums = "SELECT sum(expected), sum(covered), sum(unknown), sum(down), sum(late) + sum(lost) + sum(unreachable)";
    let answer = ask(&query, &format!("{sums} FROM {call}")).await;
    assert_eq!(numbers(&answer), [54, 44, 2, 8, 0]);
    // The answer's own coverage is of the time that it is about.
    assert!((answer.coverage.ratio - 44.0 / 54.0).abs() < 1e-9, "{:?}", answer.coverage);
    let whys: Vec<_> = answer.coverage.nodes[0].missing.iter().map(|missing| missing.why.as_str()).collect();
    assert_eq!(whys, ["unknown", "down"]);
    let answer = ask(&query, &format!("SELECT down FROM {call} WHERE down > 0 ORDER BY time")).await;
    let down: Vec<u64> = answer
        .batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<UInt64Type>().values().to_vec())
        .collect();
    assert_eq!(down, [4, 4]);
    // Rows of the same time have the same coverage.
    let sql =
        format!("SELECT count(*) FROM spans WHERE time >= '{}' AND time < '{}'", rfc3339(at(0)), rfc3339(at(540)));
    assert_eq!(ask(&query, &sql).await.coverage.nodes[0].missing.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coverage_of_an_answer_can_be_asked_for_afterwards_and_nonsense_is_refused() {
    let mut fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    // Who was never met has no name yet.
    assert_eq!(ask(&query, "SELECT count(*) FROM spans").await.coverage.answered, 2);
    let killed = fleet.kill(1);
    let first = ask(&query, "SELECT count(*) FROM spans").await.coverage;
    let sql = format!("SELECT node_id, why, error FROM coverage_of('{}') WHERE NOT answered", first.query_id);
    let answer = ask(&query, &sql).await;
    let told = |column: usize| answer.batches[0].column(column).as_string::<i32>().value(0).to_owned();
    assert_eq!((told(0), told(1)), (killed, "unreachable".to_owned()));
    for wrong in [
        "SELECT * FROM coverage_of('nobody')",
        "SELECT * FROM coverage('-1h', 'now')",
        "SELECT * FROM coverage('now', '-1h', '1m')",
        "SELECT * FROM coverage('-1h', 'now', 'soon')",
        "SELECT * FROM coverage('-1h', 'now', '1m', 'nodes')",
        "SELECT * FROM coverage('1970-01-01', 'now', '10s')",
    ] {
        let refused = query.engine().ask(Question::new(wrong)).await;
        assert!(matches!(refused, Err(AskError::BadQuestion { .. })), "{wrong}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_over_a_million_rows_receives_its_groups_and_not_the_rows() {
    let fleet = Fleet::start_with(2, 10_000, 49).await;
    let query = fleet.query().await;
    let question = |sql: &str| Question { deadline: Some(Duration::from_secs(120)), ..Question::new(sql) };
    let sql = "SELECT chain, count(*) AS n, sum(duration_ns) FROM spans GROUP BY chain";
    let answer = query.engine().ask(question(sql)).await.unwrap();
    let n: i64 =
        answer.batches.iter().flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec()).sum();
    assert_eq!((n, answer.stats.rows), (1_000_000, 3));
    // Three groups from two partitions of two nodes, in buffers of Arrow's least size.
    assert!(answer.stats.bytes_received < 64 * 1024, "{:?}", answer.stats);
    let top = query.engine().ask(question("SELECT time FROM spans ORDER BY time DESC LIMIT 5")).await.unwrap();
    assert_eq!(top.stats.rows, 5);
    assert!(top.stats.bytes_received < 64 * 1024, "{:?}", top.stats);
    // All columns of five rows from each of two nodes: their message counts once, not once for each of its columns.
    let wide = query.engine().ask(question("SELECT * FROM spans ORDER BY time DESC LIMIT 5")).await.unwrap();
    assert_eq!(wide.stats.rows, 5);
    assert!(wide.stats.bytes_received < 256 * 1024, "{:?}", wide.stats);
}
