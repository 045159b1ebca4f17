//! NDJSON of large answers over real sockets: what a slow reader, one who leaves, and a node that dies do to it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use axum::body::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::*;

/// Long rows that no compression makes short.
const WIDE: &str = "SELECT%20time,name%20FROM%20spans";
/// Rows of a node, as the fleet below has them: 30 MB of [`WIDE`], several times what sockets and connections hold.
pub(crate) const ROWS_PER_NODE: u64 = 50_000;

pub(crate) async fn large_fleet() -> Fleet {
    let mut rng = StdRng::seed_from_u64(1);
    let rows = (0..2).map(|node| {
        let names =
            (0..100).map(|_| Some((0..10).map(|_| format!("{:060x}", rng.random::<u128>())).collect::<String>()));
        let names: ArrayRef = Arc::new(names.collect::<StringArray>());
        (merging::with(node, HashMap::from([("name", names)])), 499)
    });
    Fleet::start_over(rows.collect()).await
}

async fn open(query: &Query, sql: &str) -> Response<Incoming> {
    let uri = format!("http://{}/api/v1/sql?format=ndjson&q={sql}", query.http_address());
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    client.get(uri.parse().unwrap()).await.unwrap()
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn rows_read(fleet: &Fleet) -> u64 {
    fleet.figures().iter().map(|figures| figures.rows).sum()
}

/// Waits until the nodes have read as much as the reader lets them, and returns how much that is.
pub(crate) async fn stalled(fleet: &Fleet) -> u64 {
    let (mut rows, mut since) = (0, Instant::now());
    until("the nodes stand still", || {
        let now = rows_read(fleet);
        if now != rows {
            (rows, since) = (now, Instant::now());
        }
        rows > 0 && since.elapsed() > Duration::from_millis(700)
    })
    .await;
    rows
}

/// Waits until no node does anything for a query.
pub(crate) async fn until_done(fleet: &Fleet) {
    until("the nodes are done", || fleet.figures().iter().all(|figures| (figures.pins, figures.leaves) == (0, 0)))
        .await;
}

fn lines(body: &[u8]) -> (usize, Value) {
    let lines: Vec<&str> = std::str::from_utf8(body).unwrap().lines().collect();
    (lines.len() - 1, serde_json::from_str(lines[lines.len() - 1]).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rows_come_before_the_rest_is_read_and_a_slow_reader_stalls_the_nodes() {
    let fleet = large_fleet().await;
    let query = fleet.query().await;
    let mut response = open(&query, WIDE).await;
    assert_eq!(response.status(), StatusCode::OK);
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let read = stalled(&fleet).await;
    assert!(read < ROWS_PER_NODE * 2 * 8 / 10, "{read} rows were read for a reader of {} bytes", first.len());
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    let (rows, last) = lines(&[first, rest].concat());
    assert_eq!(rows as u64, ROWS_PER_NODE * 2);
    assert_eq!(
        (&last["coverage"]["complete"], &last["stats"]["rows"]),
        (&true.into(), &(ROWS_PER_NODE * 2).into()),
        "{last}"
    );
    assert!(last["sampling"]["min_probability"].is_number());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_who_leaves_ends_the_query_on_the_nodes() {
    let fleet = large_fleet().await;
    let query = fleet.query().await;
    let mut response = open(&query, WIDE).await;
    response.body_mut().frame().await.unwrap().unwrap();
    stalled(&fleet).await;
    assert!(fleet.figures().iter().all(|figures| figures.pins == 1 && figures.leaves > 0), "{:?}", fleet.figures());
    drop(response);
    until_done(&fleet).await;
    assert!(rows_read(&fleet) < ROWS_PER_NODE * 2, "all rows were read for nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_had_sent_before_it_died_is_counted_and_the_node_is_named() {
    let mut fleet = large_fleet().await;
    let query = fleet.query().await;
    let mut response = open(&query, WIDE).await;
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    stalled(&fleet).await;
    let killed = fleet.kill(1);
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    let (rows, last) = lines(&[first, rest].concat());
    let node = last["coverage"]["nodes"].as_array().unwrap().iter().find(|node| node["node_id"] == killed.as_str());
    let node = node.unwrap_or_else(|| panic!("{last}"));
    assert_eq!((&node["answered"], &last["coverage"]["complete"]), (&false.into(), &false.into()), "{last}");
    assert!(node["error"].is_string() && !node["missing"].as_array().unwrap().is_empty(), "{node}");
    let sent = node["rows"].as_u64().unwrap();
    assert!(sent < ROWS_PER_NODE, "{node}");
    assert_eq!((rows as u64, &last["stats"]["rows"]), (ROWS_PER_NODE + sent, &(rows as u64).into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_before_the_first_row_has_a_status_of_its_own() {
    let mut fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    assert_eq!(open(&query, "SELECT%20nothing%20FROM%20spans").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(open(&query, "SELECT%201%20AS%20a,2%20AS%20a").await.status(), StatusCode::BAD_REQUEST);
    let empty = open(&query, "SELECT%20time%20FROM%20spans%20WHERE%20false").await.into_body().collect().await.unwrap();
    assert_eq!(lines(&empty.to_bytes()).0, 0);
    let plan = open(&query, "EXPLAIN%20SELECT%20time%20FROM%20spans").await.into_body().collect().await.unwrap();
    assert_eq!(lines(&plan.to_bytes()).0, 1);
    fleet.kill(1);
    let sum = open(&query, "SELECT%20count(*)%20AS%20n%20FROM%20spans").await.into_body().collect().await.unwrap();
    let sum = sum.to_bytes();
    assert!(sum.starts_with(b"{\"n\":100}\n"), "{sum:?}");
    assert_eq!(open(&query, "SELECT%201&min_coverage=0.9").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_answer_is_made_again_without_a_node_that_breaks_off() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    fleet.corrupt(1);
    let answer = open(&query, "SELECT%20time%20FROM%20spans").await.into_body().collect().await.unwrap().to_bytes();
    let (rows, last) = lines(&answer);
    let answered: Vec<_> = last["coverage"]["nodes"].as_array().unwrap().iter().map(|node| &node["answered"]).collect();
    assert_eq!((rows, &last["stats"]["rows"]), (100, &100.into()), "{last}");
    assert!(answered.contains(&&false.into()) && answered.contains(&&true.into()), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_do_not_read_small_answers_keep_nobody_from_asking() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query_with(|config| config.max_questions_per_caller = 100).await;
    let mut unread = Vec::new();
    for _ in 0..40 {
        unread.push(open(&query, "SELECT%20time%20FROM%20spans").await);
    }
    assert!(unread.iter().all(|response| response.status() == StatusCode::OK));
}
