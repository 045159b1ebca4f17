//! The port over real sockets, by Arrow's own client and by bytes that are of no client.

use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetTables, SqlInfo};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor, FlightInfo, Ticket,
};
use futures::TryStreamExt;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::engine::tests::fleet::{Fleet, settings};
use crate::postgres::metrics;
use crate::server::{self, Query};
use crate::topology::Secret;

mod streaming;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

type Client = FlightSqlServiceClient<Channel>;

fn address(query: &Query) -> String {
    let (_, url) = query.listeners().into_iter().find(|(name, _)| *name == "flight_sql").unwrap();
    url.trim_start_matches("grpc://").to_owned()
}

async fn channel(query: &Query) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", address(query))).unwrap();
    endpoint.connect().await.unwrap()
}

async fn client(query: &Query) -> Client {
    Client::new(channel(query).await)
}

fn ticket(info: &FlightInfo) -> Ticket {
    assert_eq!(info.endpoint.len(), 1, "old clients read only the first");
    info.endpoint[0].ticket.clone().unwrap()
}

async fn fetch(client: &mut Client, info: &FlightInfo) -> Vec<RecordBatch> {
    client.do_get(ticket(info)).await.unwrap().try_collect().await.unwrap()
}

fn only_number(batches: &[RecordBatch]) -> i64 {
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap();
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

/// The status under an error of the client, whatever is around it.
fn status<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Status> {
    let mut at: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        if let Some(status) = error.downcast_ref::<Status>() {
            return Some(status);
        }
        at = error.source();
    }
    None
}

async fn until_counted(query: &Query, line: &str) {
    let started = Instant::now();
    loop {
        let text = metrics(query).await;
        if text.contains(line) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{line} is not in\n{text}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_columns_that_were_told_and_its_coverage_in_the_last_message() {
    let mut fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let mut client = client(&query).await;
    for sql in [
        "SELECT count(*) AS n FROM spans",
        "SELECT * FROM spans ORDER BY time LIMIT 3",
        "SELECT chain, avg(duration_ns) AS mean FROM spans WHERE false GROUP BY chain",
        "EXPLAIN SELECT 1",
        "select 1",
        "SHOW TABLES",
    ] {
        let info = client.execute(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let told = info.clone().try_decode_schema().unwrap();
        let stream = client.do_get(ticket(&info)).await.unwrap();
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
        assert!(batches.iter().all(|batch| *batch.schema() == told), "{sql}: {told}");
    }
    fleet.kill(0);
    for sql in ["SELECT count(*) AS n FROM spans", "SELECT 1 FROM spans WHERE false"] {
        let info = client.execute(sql.to_owned(), None).await.unwrap();
        let mut raw = FlightServiceClient::new(channel(&query).await);
        let messages: Vec<_> = raw.do_get(ticket(&info)).await.unwrap().into_inner().try_collect().await.unwrap();
        let (last, before) = messages.split_last().unwrap();
        assert!(before.iter().all(|message| message.app_metadata.is_empty()), "{sql}");
        assert!(!last.data_header.is_empty(), "a message without a header is more than some clients bear");
        let beside: serde_json::Value = serde_json::from_slice(&last.app_metadata).unwrap();
        assert_eq!((&beside["coverage"]["expected"], &beside["coverage"]["answered"]), (&3.into(), &2.into()));
        assert!(beside["sampling"].is_object() && beside["stats"].is_object(), "{beside}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_tells_its_parameters_and_is_asked_with_values() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let mut client = client(&query).await;
    let sql = "SELECT count(*) AS n FROM spans WHERE duration_ns >= $1 AND trace_id <> $2";
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    assert_eq!(prepared.parameter_schema().unwrap().fields().len(), 2);
    assert_eq!(prepared.dataset_schema().unwrap().field(0).name(), "n");
    let values = |least: i64| {
        RecordBatch::try_from_iter([
            ("$1", std::sync::Arc::new(Int64Array::from(vec![least])) as _),
            ("$2", std::sync::Arc::new(StringArray::from(vec!["00000000000000000000000000000005"])) as _),
        ])
        .unwrap()
    };
    prepared.set_parameters(values(i64::MIN)).unwrap();
    let info = prepared.execute().await.unwrap();
    assert_eq!(only_number(&fetch(&mut client, &info).await), 199);
    prepared.set_parameters(values(i64::MAX)).unwrap();
    let info = prepared.execute().await.unwrap();
    assert_eq!(only_number(&fetch(&mut client, &info).await), 0);
    prepared.close().await.unwrap();
    let closed = client.do_get(ticket(&info)).await.map(|_| ()).unwrap_err();
    assert!(closed.to_string().contains("no such prepared statement"), "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_tells_what_it_is_and_what_there_is() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = client(&query).await;
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(fetch(&mut client, &info).await[0].column(0).as_string::<i32>().value(0), "lariat");
    let info = client.get_db_schemas(Default::default()).await.unwrap();
    assert_eq!(fetch(&mut client, &info).await[0].column(1).as_string::<i32>().value(0), "public");
    let info = client.get_table_types().await.unwrap();
    assert_eq!(fetch(&mut client, &info).await[0].num_rows(), 2);
    for (table_types, include_schema, expected) in
        [(vec!["BASE TABLE".to_owned()], false, "spans"), (Vec::new(), true, "routing_decisions")]
    {
        let wanted = CommandGetTables { table_types, include_schema, ..CommandGetTables::default() };
        let info = client.get_tables(wanted).await.unwrap();
        let batches = fetch(&mut client, &info).await;
        assert!(batches[0].column(2).as_string::<i32>().iter().flatten().any(|name| name == expected), "{batches:?}");
        assert_eq!(batches[0].num_columns(), if include_schema { 5 } else { 4 });
    }
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerReadOnly]).await.unwrap();
    assert_eq!(fetch(&mut client, &info).await[0].num_rows(), 2);
    let info = client.get_xdbc_type_info(Default::default()).await.unwrap();
    assert!(fetch(&mut client, &info).await[0].num_rows() >= 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_have_a_code_and_a_hint() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = client(&query).await;
    for (sql, hint) in [
        ("SELECT * FROM spams", "spans"),
        ("SELECT duration FROM spans", "duration_ns"),
        ("SELEC 1", "one SELECT"),
        ("DROP TABLE spans", "one SELECT"),
        ("SELECT * FROM '/etc/passwd'", ""),
    ] {
        let error = client.execute(sql.to_owned(), None).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(hint), "{sql}: {text}");
        if let Some(status) = status(&error) {
            assert_eq!(status.code(), Code::InvalidArgument, "{sql}: {status:?}");
        }
    }
    let refused = client.execute_update("INSERT INTO spans SELECT * FROM spans".to_owned(), None).await.unwrap_err();
    assert!(refused.to_string().contains("only reading"), "{refused}");
    client.set_header("x-lariat-min-coverage", "2");
    let refused = client.execute("SELECT 1".to_owned(), None).await.unwrap_err();
    assert!(refused.to_string().contains("from 0 to 1"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn poorer_coverage_than_wanted_is_an_error_of_either_call() {
    let mut fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    fleet.kill(0);
    let mut client = client(&query).await;
    let info = client.execute("SELECT count(*) FROM spans".to_owned(), None).await.unwrap();
    assert!(client.do_get(ticket(&info)).await.is_ok());
    client.set_header("x-lariat-min-coverage", "0.99");
    assert!(client.do_get(ticket(&info)).await.is_err());
    let wanted = client.execute("SELECT count(*) FROM spans".to_owned(), None).await.unwrap();
    let mut plain = self::client(&query).await;
    assert!(plain.do_get(ticket(&wanted)).await.is_err(), "the ticket remembers what was wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_cancelled_by_its_info_or_by_a_client_that_leaves() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let mut asking = client(&query).await;
    fleet.stall(0);
    let info = asking.execute("SELECT count(*) FROM spans".to_owned(), None).await.unwrap();
    let mut other = FlightServiceClient::new(channel(&query).await);
    let cancel = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let fetched = ticket(&info);
    let waiting = tokio::spawn(async move { asking.do_get(fetched).await.map(|_| ()) });
    let started = Instant::now();
    loop {
        let action = Action::new("CancelFlightInfo", cancel.clone());
        let mut replies = other.do_action(action).await.unwrap().into_inner();
        let reply = CancelFlightInfoResult::decode(replies.message().await.unwrap().unwrap().body).unwrap();
        if reply.status == CancelStatus::Cancelled as i32 {
            break;
        }
        assert!(started.elapsed() < PATIENCE);
    }
    assert!(waiting.await.unwrap().is_err());
    until_counted(&query, "questions_total{protocol=\"flight_sql\",end=\"cancelled\"} 1").await;

    let mut leaving = client(&query).await;
    let info = leaving.execute("SELECT count(*) FROM spans".to_owned(), None).await.unwrap();
    let asked = tokio::time::timeout(Duration::from_millis(500), leaving.do_get(ticket(&info))).await;
    assert!(asked.is_err(), "a node is stalled");
    drop(leaving);
    until_counted(&query, "questions_total{protocol=\"flight_sql\",end=\"cancelled\"} 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_who_gives_it_is_let_in() {
    let mut settings = settings(Vec::new(), None, None);
    settings.config.token = Some(Secret::new("sesame"));
    let query = server::start(settings).await.unwrap();
    let mut client = client(&query).await;
    let refused = client.execute("SELECT 1".to_owned(), None).await.unwrap_err();
    assert!(refused.to_string().contains("no token"), "{refused}");
    assert!(client.handshake("me", "guessed").await.is_err());
    client.handshake("me", "sesame").await.unwrap();
    assert!(client.execute("SELECT 1".to_owned(), None).await.is_ok(), "the token of the handshake is good");
    until_counted(&query, "turned_away_total{protocol=\"flight_sql\",reason=\"unauthenticated\"} 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_damaged_messages_leave_the_service_standing() {
    let query = server::start(settings(Vec::new(), None, None)).await.unwrap();
    let mut good = client(&query).await;
    let info = good.execute("SELECT 1".to_owned(), None).await.unwrap();
    let seeds = [
        ticket(&info).ticket.to_vec(),
        info.flight_descriptor.clone().unwrap().cmd.to_vec(),
        ticket(&good.get_catalogs().await.unwrap()).ticket.to_vec(),
        CancelFlightInfoRequest::new(info.clone()).encode_to_vec(),
    ];
    let mut random = StdRng::seed_from_u64(11);
    let mut raw = FlightServiceClient::new(channel(&query).await);
    for _ in 0..2_000 {
        let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
        for _ in 0..random.random_range(1..5) {
            if bytes.is_empty() {
                break;
            }
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] = random.random(),
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at + 1),
            }
        }
        let kinds = ["CancelFlightInfo", "CreatePreparedStatement", "ClosePreparedStatement", "nonsense"];
        match random.random_range(0..3) {
            0 => drop(raw.get_flight_info(FlightDescriptor::new_cmd(bytes)).await),
            1 => drop(raw.do_get(Ticket::new(bytes)).await),
            _ => drop(raw.do_action(Action::new(kinds[random.random_range(0..kinds.len())], bytes)).await),
        }
    }
    for _ in 0..500 {
        let mut bytes: Vec<u8> = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend((0..random.random_range(0..200)).map(|_| random.random::<u8>()));
        bytes.drain(..random.random_range(0..bytes.len().min(30)));
        let mut stream = TcpStream::connect(address(&query)).await.unwrap();
        // It may be closed while this is written; what comes back is not looked at.
        stream.write_all(&bytes).await.ok();
        stream.shutdown().await.ok();
        let mut reply = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("the end of the connection").ok();
    }
    assert_eq!(only_number(&fetch(&mut good, &info).await), 1);
}
