//! Answers of any size: what they cost the service, what a slow client, one that leaves and one that changes its mind do to
//! the nodes, and what is told when a node dies in the middle.

use super::*;
use crate::engine::tests::streaming::{ROWS_PER_NODE, large_fleet, stalled, until_done};
use crate::ports::tests::FEW;

const WIDE: &str = "SELECT time, name FROM spans";

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_pass_with_a_few_batches_in_memory() {
    let numbers = Numbers::up_to(1_000_000);
    let (listener, shared) = port(&numbers).await;
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let serving = crate::postgres::serve(listener, shared, stop.clone());
    let mut client = Client::connect_to(&address).await;
    for request in [
        framed(b'Q', &text("SELECT n FROM spans")),
        extended("SELECT n FROM spans", &[], true),
        framed(b'Q', &text("COPY spans TO STDOUT")),
    ] {
        client.send(&request).await;
        let counts = client.count().await;
        let rows = counts.get(&'D').or(counts.get(&'d'));
        assert_eq!((rows, counts.get(&'C')), (Some(&1_000_000), Some(&1)), "{counts:?}");
    }
    assert!((1..=FEW).contains(&numbers.most()), "{} batches at a time", numbers.most());
    drop(client);
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_passes_that_would_be_too_large_to_be_held() {
    let fleet = large_fleet().await;
    let query = fleet.query_with(|config| config.max_rows = 1_000).await;
    let mut client = Client::connect(&query).await;
    client.send(&framed(b'Q', &text(WIDE))).await;
    let counts = client.count().await;
    let rows = usize::try_from(ROWS_PER_NODE * 2).unwrap();
    assert_eq!((counts.get(&'D'), counts.get(&'N')), (Some(&rows), None), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_stalls_the_nodes_and_one_that_leaves_ends_its_query() {
    let fleet = large_fleet().await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    client.send(&framed(b'Q', &text(WIDE))).await;
    client.until(b'D').await;
    let read = stalled(&fleet).await;
    assert!(read < ROWS_PER_NODE * 2 * 8 / 10, "{read} rows were read for a client that reads none");
    drop(client);
    until_done(&fleet).await;
    until_counted(&query, "questions_total{protocol=\"postgres\",end=\"cancelled\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_cancelled_in_its_middle_and_the_connection_goes_on() {
    let fleet = large_fleet().await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    client.send(&framed(b'Q', &text(WIDE))).await;
    client.until(b'D').await;
    stalled(&fleet).await;
    TcpStream::connect(address(&query)).await.unwrap().write_all(&cancel(&client.key)).await.unwrap();
    until_done(&fleet).await;
    let rest = client.until(b'Z').await;
    assert_eq!(error(&rest).unwrap()[&'C'], "57014");
    assert!((rest.len() as u64) < ROWS_PER_NODE * 2, "all rows came all the same");
    assert_eq!(client.rows("SHOW lariat.deadline").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_in_the_middle_is_told_before_the_end_or_ends_the_answer() {
    for (setting, end) in [("0", 'C'), ("0.99", 'E')] {
        let mut fleet = large_fleet().await;
        let query = fleet.query().await;
        let mut client = Client::connect(&query).await;
        client.rows(&format!("SET lariat.min_coverage = {setting}")).await;
        client.send(&framed(b'Q', &text(WIDE))).await;
        client.until(b'D').await;
        stalled(&fleet).await;
        fleet.kill(1);
        let rest = client.until(b'Z').await;
        let of = |kind: char| rest.iter().filter(|message| char::from(message.0) == kind).count();
        assert!(of('D') as u64 >= ROWS_PER_NODE - 1 && (of('D') as u64) < ROWS_PER_NODE * 2);
        assert_eq!((of('C'), of('E')), (usize::from(end == 'C'), usize::from(end == 'E')));
        match end {
            'C' => assert!(notices(&rest).iter().any(|notice| notice.contains("1 of 2 nodes answered"))),
            _ => assert_eq!(error(&rest).unwrap()[&'C'], crate::postgres::failure::NOT_COVERED),
        }
    }
}
