//! Answers of any size: what they cost the service, what a slow client, one that leaves and one that changes its mind do to
//! the nodes, and what is told when a node dies in the middle.

use arrow_flight::FlightData;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::*;
use crate::engine::tests::streaming::{ROWS_PER_NODE, large_fleet, stalled, until_done};
use crate::ports::tests::{FEW, Numbers, port};

const WIDE: &str = "SELECT time, name FROM spans";

/// The messages of an answer, of which none is read yet.
async fn open(query: &Query, info: &FlightInfo) -> Streaming<FlightData> {
    let mut raw = FlightServiceClient::new(channel(query).await);
    raw.do_get(ticket(info)).await.unwrap().into_inner()
}

/// Reads to the end: how many rows came, what stood beside them, and how it ended.
async fn rest(messages: &mut Streaming<FlightData>) -> (u64, Option<serde_json::Value>, Option<Status>) {
    let (mut rows, mut beside) = (0, None);
    loop {
        match tokio::time::timeout(PATIENCE, messages.message()).await.expect("a message in time") {
            Ok(Some(message)) => {
                rows += rows_of(&message);
                if !message.app_metadata.is_empty() {
                    beside = Some(serde_json::from_slice(&message.app_metadata).unwrap());
                }
            }
            Ok(None) => return (rows, beside, None),
            Err(status) => return (rows, beside, Some(status)),
        }
    }
}

fn rows_of(message: &FlightData) -> u64 {
    let header = arrow::ipc::root_as_message(&message.data_header).unwrap();
    header.header_as_record_batch().map_or(0, |batch| u64::try_from(batch.length()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_pass_with_a_few_batches_in_memory() {
    let numbers = Numbers::up_to(1_000_000);
    let (listener, shared) = port(&numbers).await;
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let serving = crate::flight_sql::serve(listener, shared, stop.clone());
    let mut client = Client::new(Channel::from_shared(uri).unwrap().connect().await.unwrap());
    let info = client.execute("SELECT n FROM spans".to_owned(), None).await.unwrap();
    let mut batches = client.do_get(ticket(&info)).await.unwrap();
    let mut next = 0;
    while let Some(batch) = batches.try_next().await.unwrap() {
        let numbers = batch.column(0).as_primitive::<Int64Type>().values();
        assert!(numbers.iter().copied().eq(next..next + i64::try_from(numbers.len()).unwrap()), "from {next}");
        next += i64::try_from(numbers.len()).unwrap();
    }
    assert_eq!(next, 1_000_000);
    assert!((1..=FEW).contains(&numbers.most()), "{} batches at a time", numbers.most());
    drop((client, batches));
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_passes_that_would_be_too_large_to_be_held() {
    let fleet = large_fleet().await;
    let query = fleet.query_with(|config| config.max_rows = 1_000).await;
    let info = client(&query).await.execute(WIDE.to_owned(), None).await.unwrap();
    let (rows, beside, ended) = rest(&mut open(&query, &info).await).await;
    assert_eq!((rows, ended.is_none()), (ROWS_PER_NODE * 2, true), "{ended:?}");
    assert_eq!(beside.unwrap()["stats"]["rows"], ROWS_PER_NODE * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_stalls_the_nodes_and_one_that_leaves_ends_its_query() {
    let fleet = large_fleet().await;
    let query = fleet.query().await;
    let info = client(&query).await.execute(WIDE.to_owned(), None).await.unwrap();
    let mut messages = open(&query, &info).await;
    messages.message().await.unwrap().unwrap();
    let read = stalled(&fleet).await;
    assert!(read < ROWS_PER_NODE * 2 * 8 / 10, "{read} rows were read for a client that reads none");
    drop(messages);
    until_done(&fleet).await;
    until_counted(&query, "questions_total{protocol=\"flight_sql\",end=\"cancelled\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_cancelled_in_its_middle() {
    let fleet = large_fleet().await;
    let query = fleet.query().await;
    let info = client(&query).await.execute(WIDE.to_owned(), None).await.unwrap();
    let mut messages = open(&query, &info).await;
    messages.message().await.unwrap().unwrap();
    stalled(&fleet).await;
    let cancel = Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info).encode_to_vec());
    let mut other = FlightServiceClient::new(channel(&query).await);
    let reply = other.do_action(cancel).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(CancelFlightInfoResult::decode(reply.body).unwrap().status, CancelStatus::Cancelled as i32);
    until_done(&fleet).await;
    let (rows, beside, ended) = rest(&mut messages).await;
    assert!(rows < ROWS_PER_NODE * 2 && beside.is_none());
    assert_eq!(ended.unwrap().code(), Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_in_the_middle_is_told_in_the_last_message_or_ends_the_answer() {
    for (wanted, ends_well) in [("0", true), ("0.99", false)] {
        let mut fleet = large_fleet().await;
        let query = fleet.query().await;
        let mut client = client(&query).await;
        client.set_header("x-lariat-min-coverage", wanted);
        let info = client.execute(WIDE.to_owned(), None).await.unwrap();
        let mut messages = open(&query, &info).await;
        let first = rows_of(&messages.message().await.unwrap().unwrap());
        stalled(&fleet).await;
        fleet.kill(1);
        let (rows, beside, ended) = rest(&mut messages).await;
        let rows = first + rows;
        assert!((ROWS_PER_NODE..ROWS_PER_NODE * 2).contains(&rows), "{rows}: {ended:?}");
        match beside {
            Some(beside) if ends_well => {
                assert_eq!((&beside["coverage"]["answered"], &beside["stats"]["rows"]), (&1.into(), &rows.into()));
            }
            beside => assert_eq!((beside, ended.map(|status| status.code())), (None, Some(Code::Unavailable))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_was_made_by_hand_is_judged_like_any_question() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let statement_handle = serde_json::json!({
        "id": "00000000-0000-0000-0000-000000000001", "sql": "DROP TABLE spans", "min_coverage": null, "deadline_ms": null,
    });
    let forged = TicketStatementQuery { statement_handle: statement_handle.to_string().into_bytes().into() };
    let mut raw = FlightServiceClient::new(channel(&query).await);
    let refused = raw.do_get(Ticket::new(forged.as_any().encode_to_vec())).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}
