//! What clients do that they should not: each costs a bounded time and a bounded memory, ends in a class of its own, and
//! leaves the node as it was for everybody else. The client is a bare socket, since no HTTP library behaves this badly.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lariat_schema::attributes as key;
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use lariat_tools::provider::script::{Reply, Script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::fixture::{Fleet, call, eventually, fleet, fleet_within, post, provider, request};
use crate::admit::{Bounds, Patience};

/// Bounds of clients who are not waited for.
fn impatient() -> Bounds {
    let wait = Duration::from_millis(300);
    Bounds { patience: Patience { head: wait, body: wait, stall: wait }, ..Bounds::new(64) }
}

async fn connect(fleet: &Fleet) -> TcpStream {
    TcpStream::connect(fleet.proxy.address()).await.unwrap()
}

/// Everything that the server sends until the end of the connection, clean or not.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    // A reset after the reply is what an unread body gets.
    let _end = read.expect("the connection ends");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends bytes over a connection of its own.
async fn send(fleet: &Fleet, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(fleet).await;
    // The server may answer and hang up before it was sent everything.
    let _sent = stream.write_all(bytes.as_ref()).await;
    rest(&mut stream).await
}

fn head(headers: &str, length: usize) -> String {
    format!("POST /rpc/ethereum HTTP/1.1\r\nhost: p\r\n{headers}content-length: {length}\r\n\r\n")
}

fn closing(body: &str) -> String {
    format!("{}{body}", head("connection: close\r\n", body.len()))
}

/// The proxy's own figure of that name.
async fn figure(address: SocketAddr, name: &str) -> u64 {
    let got = request(address, http::Request::get("/"), "/metrics", "").await;
    let line = got.text().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {}", got.text()))
}

/// The node answers others as if nothing had been, and holds nothing.
async fn all_is_well(fleet: &Fleet) {
    let address = fleet.proxy.address();
    assert!(post(address, "/rpc/ethereum", call("eth_gasPrice")).await.json()["result"].is_string());
    let deadline = Instant::now() + Duration::from_secs(20);
    while figure(address, "lariat_reply_bytes_held ").await > 0 || figure(address, "lariat_calls_in_flight ").await > 0
    {
        assert!(Instant::now() < deadline, "something is still held");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_head_without_end_or_with_too_many_headers_is_431_and_counted() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(100 * 1024));
    let endless = "POST /rpc/ethereum HTTP/1.1\r\nx: ".to_owned() + &"y".repeat(1024 * 1024);
    for (at, bytes) in [head(&many, 0), head(&large, 0), endless].into_iter().enumerate() {
        let reply = send(&fleet, bytes).await;
        assert!(reply.starts_with("HTTP/1.1 431"), "{at}: {reply}");
    }
    assert_eq!(figure(fleet.proxy.address(), "lariat_requests_refused_total ").await, 3);
    let path = format!("POST /rpc/{} HTTP/1.1\r\nhost: p\r\n\r\n", "x".repeat(60_000));
    assert!(
        send(&fleet, closing("").replace("POST /rpc/ethereum HTTP/1.1\r\nhost: p\r\n\r\n", &path))
            .await
            .contains("-32")
    );
    all_is_well(&fleet).await;
}

#[tokio::test]
async fn bytes_that_are_no_http_are_refused() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello tls, hello hello"[..],
        b"hello\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let reply = send(&fleet, bytes).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    }
    let chunked = "POST /rpc/ethereum HTTP/1.1\r\nhost: p\r\ntransfer-encoding: chunked\r\n\r\n";
    for lie in ["zz\r\n{}\r\n0\r\n\r\n", "-1\r\n", "ffffffffffffffffff\r\n"] {
        let reply = send(&fleet, format!("{chunked}{lie}")).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{lie}: {reply}");
    }
    let both = format!("{}transfer-encoding: chunked\r\n\r\n0\r\n\r\n", head("", 5).trim_end_matches("\r\n"));
    assert!(
        !send(&fleet, both + "GET /health HTTP/1.1\r\n\r\n").await.contains("200 OK\r\n"),
        "no request is smuggled"
    );
    all_is_well(&fleet).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_or_says_it_too_slowly_is_not_waited_for() {
    let fleet = fleet_within(vec![provider("a", |it| it).await], impatient()).await;
    let body = call("eth_gasPrice");
    for (what, bytes, status) in [
        ("nothing", String::new(), None),
        ("the beginning of HTTP/2", "PRI * HT".to_owned(), None),
        ("half a head", "POST /rpc/ethereum HTTP/1.1\r\nhost: p\r\n".to_owned(), None),
        ("half a body", head("", body.len()) + &body[..10], Some("HTTP/1.1 408")),
        (
            "a body with no end",
            head("", 0).replace("content-length: 0", "transfer-encoding: chunked") + "5\r\n[1,2,\r\n",
            Some("HTTP/1.1 408"),
        ),
    ] {
        let began = Instant::now();
        let reply = send(&fleet, bytes).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        assert_eq!(reply.get(..12), status, "{what}: {reply}");
    }
    all_is_well(&fleet).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_whether_it_says_so_or_not() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    assert!(send(&fleet, head("", 9 * 1024 * 1024)).await.starts_with("HTTP/1.1 413"));
    let mut stream = connect(&fleet).await;
    let chunked = head("", 0).replace("content-length: 0", "transfer-encoding: chunked");
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("100000\r\n{}\r\n", "[".repeat(0x0010_0000));
    for _ in 0..9 {
        // It hangs up somewhere behind the limit.
        let _sent = stream.write_all(chunk.as_bytes()).await;
    }
    let reply = rest(&mut stream).await;
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 413"), "{reply}");
    assert_eq!(figure(fleet.proxy.address(), "lariat_requests_refused_total ").await, 2);
    all_is_well(&fleet).await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_reply_is_let_go_and_its_reply_with_it() {
    let huge = provider("a", |it| it.scripted(Script::new().on("eth_call", [Reply::Fault(Fault::Huge)]))).await;
    let fleet = fleet_within(vec![huge], impatient()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(fleet.proxy.address()).await.unwrap();
    stream.write_all(closing(&call("eth_call")).as_bytes()).await.unwrap();
    let address = fleet.proxy.address();
    let deadline = Instant::now() + Duration::from_secs(20);
    while figure(address, "lariat_reply_bytes_held ").await == 0 {
        assert!(Instant::now() < deadline, "the reply is charged while the client does not take it");
        tokio::task::yield_now().await;
    }
    all_is_well(&fleet).await;
    let taken = rest(&mut stream).await;
    assert!(taken.starts_with("HTTP/1.1 200") && taken.len() < 12 * 1024 * 1024, "{}", taken.len());
}

#[tokio::test]
async fn replies_in_flight_have_a_bound_and_what_finds_no_room_is_a_local_refusal() {
    let huge =
        || async { provider("a", |it| it.scripted(Script::new().on("eth_call", [Reply::Fault(Fault::Huge)]))).await };
    let bounds = Bounds { reply_bytes: 1024 * 1024, ..Bounds::new(64) };
    let fleet = fleet_within(vec![huge().await, huge().await], bounds).await;
    let got = post(fleet.proxy.address(), "/rpc/ethereum", call("eth_call")).await;
    assert_eq!(got.json()["error"]["code"], -32000, "{}", got.text());
    assert_eq!(fleet.providers[1].received_of("eth_call"), 0, "another provider's reply would be as large");
    let (decision, of) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
    assert_eq!((of[key::RESULT].as_str(), of[key::ERROR_CATEGORY].as_str()), ("error", "local_capacity"));
    let (_, attempt) = fleet.inbox.attempts_of(&decision).pop().unwrap();
    assert_eq!(
        (attempt[key::OUTCOME].as_str(), attempt[key::ERROR_CATEGORY].as_str()),
        ("cancelled", "local_capacity")
    );
    assert_eq!(figure(fleet.proxy.address(), "lariat_replies_refused_total ").await, 1);
    all_is_well(&fleet).await;
}

#[tokio::test]
async fn a_client_that_leaves_or_half_closes_while_its_call_is_under_way_is_recorded_as_gone() {
    for half in [false, true] {
        let hanging = provider("a", |it| it.scripted(Script::new().on("eth_call", [Reply::Fault(Fault::Hang)]))).await;
        let fleet = fleet(vec![hanging]).await;
        let mut stream = connect(&fleet).await;
        stream.write_all(closing(&call("eth_call")).as_bytes()).await.unwrap();
        eventually("the call at the provider", || (fleet.providers[0].received_of("eth_call") > 0).then_some(())).await;
        if half {
            stream.shutdown().await.unwrap();
            assert_eq!(rest(&mut stream).await, "");
        }
        drop(stream);
        let (decision, of) = eventually("a decision", || fleet.inbox.decisions().pop()).await;
        assert_eq!((of[key::ANSWERED_BY].as_str(), of[key::ERROR_CATEGORY].as_str()), ("none", "client_error"));
        let attempts = eventually("its attempt", || fleet.inbox.attempts_of(&decision).pop()).await;
        assert_eq!(attempts.1[key::OUTCOME], "cancelled");
        all_is_well(&fleet).await;
    }
}

#[tokio::test]
async fn pipelined_requests_and_those_of_http_1_0_are_answered_in_order() {
    let slow = Behaviour::with_latency_ms(10.0, 20.0);
    let fleet = fleet(vec![provider("a", |it| it.behaving(slow)).await]).await;
    let ids = 0..10;
    let one = |id: usize| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_gasPrice"}}"#);
    let bytes: String =
        ids.clone().map(|id| head("", one(id).len()) + &one(id)).collect::<String>() + &closing(&one(10));
    let replies = send(&fleet, bytes).await;
    let found: Vec<usize> = replies
        .match_indices("\"id\":")
        .map(|(at, _)| replies[at + 5..].split(',').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(found, (0..=10).collect::<Vec<_>>());
    let old = format!("POST /rpc/ethereum HTTP/1.0\r\ncontent-length: {}\r\n\r\n{}", one(1).len(), one(1));
    let reply = send(&fleet, old).await;
    assert!(reply.starts_with("HTTP/1.0 200") && reply.contains("\"id\":1"), "{reply}");
    all_is_well(&fleet).await;
}

#[tokio::test]
async fn an_upgrade_to_nonsense_is_refused() {
    let fleet = fleet(vec![provider("a", |it| it).await]).await;
    for headers in
        ["connection: upgrade\r\nupgrade: carrier-pigeon\r\n", "connection: upgrade, close\r\nupgrade: h2c\r\n"]
    {
        let bytes = format!("GET /ws/rpc/ethereum HTTP/1.1\r\nhost: p\r\n{headers}\r\n");
        let mut stream = connect(&fleet).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert!(
            first.starts_with(b"HTTP/1.1 4") || first.starts_with(b"HTTP/1.1 501"),
            "{}",
            String::from_utf8_lossy(&first)
        );
    }
    all_is_well(&fleet).await;
}
