//! Reports over events, put together from a middle that is kept and edges that are read each time.

use super::super::{Report, Sources, answer};
use super::*;
use crate::ask::local::Counting;
use crate::cache::Cache;

/// The window ends now, five minutes after noon.
const OPEN: &str = "from=1763726100&to=1763726700";
const NOW: i64 = NOON + 300 * NANOS_PER_SECOND;

fn sources(engine: &std::sync::Arc<Counting>) -> Sources {
    Sources { ask: std::sync::Arc::clone(engine) as _, cache: Cache::default() }
}

async fn rows(sources: &Sources, report: Report, query: &str) -> (Vec<Value>, Value) {
    use http_body_util::BodyExt as _;
    let response = answer(sources, report, query, NOW).await.unwrap_or_else(|_| panic!("{report}"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    (body["rows"].as_array().unwrap().clone(), body["hint"].take())
}

fn logs() -> (Table, Vec<arrow::array::RecordBatch>) {
    let transitions = [(-290, "a"), (-100, "b"), (100, "c"), (290, "d")]
        .map(|(after, to)| transition("n1", "us-east", after, "closed", to));
    // The middle has the greater height, and the newest counts all the same.
    let heads =
        [head("n1", "us-east", -200, 105, 0), head("n1", "us-east", 295, 101, -1), head("n2", "eu-west", 0, 98, -2)];
    batch(Table::Logs, &[&transitions[..], &heads[..]].concat())
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_read_the_closed_middle_of_events_once_and_get_what_one_alone_gets() {
    let engine = Counting::new(vec![logs()]).await;
    for report in [Report::Circuits, Report::Blocks] {
        let sources = sources(&engine);
        let answers = futures::future::join_all((0..100).map(|_| rows(&sources, report, OPEN))).await;
        let asked = engine.take_asked();
        let to = NOW.to_string();
        let (edges, middles): (Vec<_>, Vec<_>) = asked.iter().partition(|sql| sql.contains(&to));
        assert_eq!((edges.len(), middles.len()), (100, 1), "{report}");
        let expected = match report {
            Report::Circuits => vec![json!("d"), json!("c"), json!("b"), json!("a")],
            _ => vec![json!(101), json!(98)],
        };
        let column = if report == Report::Circuits { "to" } else { "height" };
        for (rows, hint) in answers {
            let found: Vec<Value> = rows.iter().map(|row| row[column].clone()).collect();
            assert_eq!((&found, hint), (&expected, Value::Null), "{report}");
        }
    }
}

#[tokio::test]
async fn the_newest_of_all_parts_are_shown_and_the_rest_is_told_of() {
    let engine = Counting::new(vec![logs()]).await;
    for (limit, newest) in [(1, &["d"][..]), (3, &["d", "c", "b"]), (4, &["d", "c", "b", "a"])] {
        let (rows, hint) = rows(&sources(&engine), Report::Circuits, &format!("{OPEN}&limit={limit}")).await;
        let found: Vec<&str> = rows.iter().map(|row| row["to"].as_str().unwrap()).collect();
        assert_eq!((found.as_slice(), hint.is_string()), (newest, limit < 4), "{hint}");
    }
}
