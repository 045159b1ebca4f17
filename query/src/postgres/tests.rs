//! The port over real sockets, spoken to in bytes: what drivers send, and what no driver sends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use pgwire::messages::startup::SecretKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::service::Service;
use crate::engine::tests::fleet::{Fleet, settings};
use crate::ports::tests::{Numbers, port};
use crate::server::{self, Query};
use crate::topology::Secret;

mod catalog;
mod cursors;
mod streaming;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A message from the service: its type and its body.
#[derive(Debug)]
struct Message(u8, Vec<u8>);

/// A client that knows nothing but messages.
struct Client {
    stream: TcpStream,
    key: Vec<u8>,
}

fn address(query: &Query) -> String {
    let (_, url) = query.listeners().into_iter().find(|(name, _)| *name == "postgres").unwrap();
    url.trim_start_matches("postgresql://").trim_end_matches("/lariat").to_owned()
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let mut bytes = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

fn text(sql: &str) -> Vec<u8> {
    [sql.as_bytes(), b"\0"].concat()
}

impl Client {
    async fn connect(query: &Query) -> Self {
        Self::connect_to(&address(query)).await
    }

    async fn connect_to(address: &str) -> Self {
        let mut client = Self { stream: TcpStream::connect(address).await.unwrap(), key: Vec::new() };
        client.send(&startup(&[("user", "me")])).await;
        let begun = client.until(b'Z').await;
        client.key = begun.into_iter().find(|message| message.0 == b'K').unwrap().1;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn next(&mut self) -> Option<Message> {
        let reading = async {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = usize::try_from(u32::from_be_bytes(head[1..].try_into().unwrap())).unwrap();
            let mut body = vec![0; length - 4];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Message(head[0], body))
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("a message in time")
    }

    async fn until(&mut self, kind: u8) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            let last = message.0 == kind;
            all.push(message);
            if last {
                return all;
            }
        }
        panic!("the connection ended before {}: {all:?}", char::from(kind));
    }

    /// Reads to the end of an answer of any length, and counts what comes of each type.
    async fn count(&mut self) -> HashMap<char, usize> {
        let (mut counts, mut bytes) = (HashMap::new(), Vec::new());
        loop {
            let mut rest = &bytes[..];
            while rest.len() >= 5 {
                let length = usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap() + 1;
                if rest.len() < length {
                    break;
                }
                *counts.entry(char::from(rest[0])).or_default() += 1;
                rest = &rest[length..];
            }
            let done = bytes.len() - rest.len();
            bytes.drain(..done);
            if counts.contains_key(&'Z') {
                return counts;
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut bytes)).await.expect("more in time");
            assert!(read.unwrap() > 0, "the connection ended after {counts:?}");
        }
    }

    async fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&framed(b'Q', &text(sql))).await;
        self.until(b'Z').await
    }

    /// The rows of a simple query, as texts.
    async fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.query(sql).await;
        if let Some(error) = error(&messages) {
            panic!("{sql}: {error:?}");
        }
        rows(&messages)
    }
}

fn rows(messages: &[Message]) -> Vec<Vec<Option<String>>> {
    let of = |Message(_, body): &Message| {
        let (mut row, mut rest) = (Vec::new(), &body[2..]);
        while !rest.is_empty() {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            match usize::try_from(length) {
                Ok(length) => {
                    row.push(Some(String::from_utf8_lossy(&rest[..length]).into_owned()));
                    rest = &rest[length..];
                }
                Err(_) => row.push(None),
            }
        }
        row
    };
    messages.iter().filter(|message| message.0 == b'D').map(of).collect()
}

/// The fields of an error or a notice.
fn fields(Message(_, body): &Message) -> HashMap<char, String> {
    let parts = body.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| (char::from(part[0]), String::from_utf8_lossy(&part[1..]).into_owned())).collect()
}

fn error(messages: &[Message]) -> Option<HashMap<char, String>> {
    messages.iter().find(|message| message.0 == b'E').map(fields)
}

fn notices(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.0 == b'N').map(|message| fields(message)[&'M'].clone()).collect()
}

/// Waits until the metrics of the service hold a line.
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

/// The exposition of the service, also of one that wants this token.
pub(crate) async fn metrics(query: &Query) -> String {
    let mut stream = TcpStream::connect(query.http_address()).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sesame\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_fleet_come_in_text_and_a_missing_node_is_told_before_the_end() {
    let mut fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    assert_eq!(client.rows("SELECT count(*) AS n FROM spans").await, [[Some("300".to_owned())]]);
    fleet.kill(1);
    let messages = client.query("SELECT count(*) FROM spans; SELECT 1").await;
    assert_eq!(rows(&messages)[0], [Some("200".to_owned())]);
    let told = notices(&messages);
    assert!(told.iter().any(|notice| notice.contains("2 of 3 nodes answered")), "{told:?}");
    assert!(client.rows("SET lariat.min_coverage = 0.99").await.is_empty());
    let refused = error(&client.query("SELECT count(*) FROM spans").await).unwrap();
    assert_eq!(refused[&'C'], super::failure::NOT_COVERED, "{refused:?}");
    assert!(refused.contains_key(&'H'), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_question_has_its_code_and_leaves_the_connection_as_it_was() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    for (sql, code, hint) in [
        ("SELEC 1", "42601", None),
        ("SELECT 'a", "42601", None),
        ("SELECT * FROM spams", "42P01", Some("spans")),
        ("SELECT duration FROM spans", "42703", Some("duration_ns")),
        ("DROP TABLE spans", "25006", None),
        ("INSERT INTO spans SELECT * FROM spans", "25006", None),
        ("COPY spans TO '/tmp/x'", "0A000", None),
        ("SET datafusion.execution.batch_size = 1", "42704", None),
        ("SELECT * FROM pg_class, spans", "42P01", None),
        ("SELECT * FROM '/etc/passwd'", "42P01", None),
        ("SELECT count(*) FROM spans WHERE trace_id = 'abc'", "42000", None),
        ("SELECT 1 / 0 FROM spans", "22012", None),
    ] {
        let found = error(&client.query(sql).await).unwrap_or_else(|| panic!("{sql} was answered"));
        assert_eq!(found[&'C'], code, "{sql}: {found:?}");
        if let Some(hint) = hint {
            assert!(found.get(&'H').is_some_and(|text| text.contains(hint)), "{sql}: {found:?}");
        }
        assert_eq!(client.rows("SELECT 1").await, [[Some("1".to_owned())]], "after {sql}");
    }
    assert!(client.query("-- ping").await.iter().any(|message| message.0 == b'I'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_is_left_by_rollback() {
    let query = server::start(settings(Vec::new(), None, None)).await.unwrap();
    let mut client = Client::connect(&query).await;
    client.rows("BEGIN").await;
    assert!(error(&client.query("SELECT nope").await).is_some());
    assert_eq!(error(&client.query("SELECT 1").await).unwrap()[&'C'], "25P02");
    client.rows("ROLLBACK").await;
    assert_eq!(client.rows("SELECT 1").await.len(), 1);
}

/// Parse, bind, describe, execute and sync in one write, as drivers do.
fn extended(sql: &str, values: &[&str], binary: bool) -> Vec<u8> {
    let mut bind = b"\0\0\0\0".to_vec();
    bind.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        bind.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        bind.extend(value.as_bytes());
    }
    bind.extend([0, 1, 0, u8::from(binary)]);
    let parse = [&b"\0"[..], &text(sql), &[0, 0]].concat();
    [framed(b'P', &parse), framed(b'B', &bind), framed(b'D', b"P\0"), framed(b'E', b"\0\0\0\0\0"), framed(b'S', b"")]
        .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_without_a_type_take_that_of_what_they_are_compared_with() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    for (sql, values, expected) in [
        (
            "SELECT count(*) FROM spans WHERE duration_ns >= $1",
            &["9"][..],
            client.rows("SELECT count(*) FROM spans WHERE duration_ns >= 9").await,
        ),
        (
            "SELECT count(*) FROM spans WHERE trace_id = $1",
            &["00000000000000000000000000000005"],
            vec![vec![Some("1".to_owned())]],
        ),
        ("SELECT count(*) FROM (SELECT 1 FROM spans LIMIT $1) AS few", &["7"], vec![vec![Some("7".to_owned())]]),
        ("SELECT $1 AS said", &["it's; DROP TABLE spans"], vec![vec![Some("it's; DROP TABLE spans".to_owned())]]),
    ] {
        client.send(&extended(sql, values, false)).await;
        let messages = client.until(b'Z').await;
        assert_eq!(error(&messages), None, "{sql}");
        assert_eq!(rows(&messages), expected, "{sql}");
    }
    client.send(&extended("SELECT count(*) FROM spans", &[], true)).await;
    let messages = client.until(b'Z').await;
    let row = messages.iter().find(|message| message.0 == b'D').unwrap();
    assert_eq!(row.1[6..], 200_i64.to_be_bytes());
    client.send(&extended("SELECT count(*) FROM spans WHERE duration_ns >= $1", &["soon"], false)).await;
    assert_eq!(error(&client.until(b'Z').await).unwrap()[&'C'], "22P02");
    client.send(&extended("SELECT $1 + $2", &["1"], false)).await;
    assert!(error(&client.until(b'Z').await).is_some());
    assert_eq!(client.rows("SELECT 1").await.len(), 1);
}

/// A word to end what the connection of a key does.
fn cancel(key: &[u8]) -> Vec<u8> {
    let body = [&80_877_102_u32.to_be_bytes()[..], key].concat();
    [u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec(), body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_cancels_the_question_of_its_connection_and_no_other() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    fleet.stall(0);
    client.send(&framed(b'Q', &text("SELECT count(*) FROM spans"))).await;
    let mut wrong = client.key.clone();
    wrong[7] ^= 1;
    TcpStream::connect(address(&query)).await.unwrap().write_all(&cancel(&wrong)).await.unwrap();
    let started = Instant::now();
    let ended = loop {
        // A word that comes before the question has begun is for nobody.
        TcpStream::connect(address(&query)).await.unwrap().write_all(&cancel(&client.key)).await.unwrap();
        match tokio::time::timeout(Duration::from_millis(200), client.stream.peek(&mut [0])).await {
            Ok(_) => break client.until(b'Z').await,
            Err(_) => assert!(started.elapsed() < PATIENCE),
        }
    };
    assert_eq!(error(&ended).unwrap()[&'C'], "57014");
    until_counted(&query, "questions_total{protocol=\"postgres\",end=\"cancelled\"} 1").await;
    assert_eq!(client.rows("SELECT 1").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_to_cancel_counts_although_its_connection_has_closed_behind_it() {
    let (listener, shared) = port(&Numbers::up_to(1)).await;
    let service = Arc::new(Service::new(shared));
    let (handle, _guard) = service.connections.register(7, SecretKey::I32(9));
    for _ in 0..20 {
        let cancelled = handle.start_query().await;
        let key = [7_i32.to_be_bytes(), 9_i32.to_be_bytes()].concat();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(&cancel(&key)).await.unwrap();
        drop(client);
        let (stream, peer) = listener.accept().await.unwrap();
        assert!(super::connection::serve(stream, peer, Arc::clone(&service), CancellationToken::new()).await.is_none());
        assert_eq!(cancelled.now_or_never(), Some(Ok(())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_question_with_it() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    fleet.stall(0);
    client.send(&framed(b'Q', &text("SELECT count(*) FROM spans"))).await;
    until_counted(&query, "lariat_query_connections{protocol=\"postgres\"} 1").await;
    drop(client);
    until_counted(&query, "questions_total{protocol=\"postgres\",end=\"cancelled\"} 1").await;
    until_counted(&query, "lariat_query_connections{protocol=\"postgres\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_who_gives_it_is_let_in() {
    let mut settings = settings(Vec::new(), None, None);
    settings.config.token = Some(Secret::new("sesame"));
    let query = server::start(settings).await.unwrap();
    for (password, expected) in [("sesame", b'R'), ("guessed", b'E'), ("", b'E')] {
        let mut client = Client { stream: TcpStream::connect(address(&query)).await.unwrap(), key: Vec::new() };
        client.send(&startup(&[("user", "me")])).await;
        let asked = client.next().await.unwrap();
        assert_eq!((asked.0, asked.1), (b'R', vec![0, 0, 0, 3]));
        client.send(&framed(b'p', &text(password))).await;
        let answered = client.next().await.unwrap();
        assert_eq!(answered.0, expected, "{password}");
        if expected == b'E' {
            assert_eq!(fields(&answered)[&'C'], "28P01");
        }
    }
    until_counted(&query, "turned_away_total{protocol=\"postgres\",reason=\"unauthenticated\"} 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_damaged_messages_leave_the_service_standing() {
    let query = server::start(settings(Vec::new(), None, None)).await.unwrap();
    let good = [
        startup(&[("user", "me"), ("options", "-c lariat.deadline=1s")]),
        framed(b'Q', &text("SELECT 1; SELECT relname FROM pg_class")),
        extended("SELECT $1", &["x"], true),
        framed(b'C', b"Ss\0"),
        framed(b'X', b""),
    ];
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..3_000 {
        let mut bytes = if round % 3 == 0 { Vec::new() } else { good[0].clone() };
        for _ in 0..random.random_range(1..4) {
            bytes.extend(&good[random.random_range(0..good.len())]);
        }
        for _ in 0..random.random_range(1..6) {
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
        let mut stream = TcpStream::connect(address(&query)).await.unwrap();
        // It may be closed while this is written; what comes back is not looked at.
        stream.write_all(&bytes).await.ok();
        stream.shutdown().await.ok();
        let mut reply = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await;
        assert!(read.is_ok(), "round {round} hangs: {bytes:?}");
    }
    let mut client = Client::connect(&query).await;
    assert_eq!(client.rows("SELECT 1").await, [[Some("1".to_owned())]]);
    until_counted(&query, "lariat_query_connections{protocol=\"postgres\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_told_when_the_service_stops() {
    let query = server::start(settings(Vec::new(), None, None)).await.unwrap();
    let mut client = Client::connect(&query).await;
    let stopping = tokio::spawn(query.shutdown(PATIENCE));
    let told = client.next().await.unwrap();
    assert_eq!((told.0, fields(&told)[&'C'].as_str()), (b'E', "57P01"));
    drop(client);
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
}
