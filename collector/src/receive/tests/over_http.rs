//! HTTP/1 by hand, so that what is tested is what stands on the wire.

use std::io::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// An answer, taken apart.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// Sends one request and reads the answer up to the end of the connection.
pub(super) async fn send(receiver: &Receiver, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(receiver.http_address()).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: collector\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A refusal may close the connection before the body is read.
    let _sent = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _closed = stream.read_to_end(&mut answer).await;
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8(answer[..split].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[split + 4..].to_vec() }
}

async fn post(receiver: &Receiver, headers: &str, body: &[u8]) -> Answer {
    send(receiver, "POST", "/v1/traces", headers, body).await
}

const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
const JSON: &str = "content-type: application/json; charset=utf-8\r\n";
const GZIP: &str = "content-encoding: gzip\r\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn both_encodings_arrive_in_every_compression() {
    let (receiver, ingest) = running(None).await;
    let request = request(vec![span(0, "x")]);
    let (protobuf, json) = (request.encode_to_vec(), serde_json::to_vec(&request).unwrap());
    for (encoding, body) in [(PROTOBUF, &protobuf), (JSON, &json)] {
        let zstd = zstd::encode_all(&body[..], 3).unwrap();
        for (compression, body) in [("", body.clone()), (GZIP, gzip(body)), ("content-encoding: zstd\r\n", zstd)] {
            let answer = post(&receiver, &format!("{encoding}{compression}"), &body).await;
            assert_eq!(answer.status, 200, "{encoding}{compression}");
            let whole: &[u8] = if encoding == JSON { b"{}" } else { b"" };
            assert_eq!(answer.body, whole);
        }
    }
    assert_eq!(ingest.rows(), 6);
    let seen = ingest.requests.lock();
    for decoded in seen.iter() {
        assert_eq!(decoded.keys, seen[0].keys);
        assert_eq!(decoded.contents, seen[0].contents);
    }
}

#[tokio::test]
async fn a_request_that_a_full_store_cannot_take_is_not_decoded_first() {
    let full = Some(Refused::Overloaded { retry_after: Duration::from_secs(1) });
    let ingest = Arc::new(Collecting { full, ..Collecting::default() });
    let receiver = start(config(), Arc::clone(&ingest) as Arc<dyn Ingest>, None).await.unwrap();
    let answer = post(&receiver, PROTOBUF, b"no protobuf at all").await;
    assert_eq!(answer.status, 429);
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    let counts = receiver.counters().counts();
    assert_eq!((counts.malformed, counts.refused_requests, counts.refused_bytes), (0, 1, 18));
}

#[tokio::test]
async fn bad_bytes_are_a_400_with_a_status_in_the_requests_encoding() {
    let (receiver, ingest) = running(None).await;
    let protobuf = request(vec![span(0, "x")]).encode_to_vec();
    let answer = post(&receiver, PROTOBUF, &protobuf[..protobuf.len() - 3]).await;
    assert_eq!(answer.status, 400);
    let status = RpcStatus::decode(&answer.body[..]).unwrap();
    assert_eq!(status.code, 3);
    assert!(!status.message.is_empty());
    let answer = post(&receiver, JSON, br#"{"resourceSpans": [{"#).await;
    assert_eq!(answer.status, 400);
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(status["code"], 3);
    let answer = post(&receiver, &format!("{PROTOBUF}{GZIP}"), b"not gzip at all").await;
    assert_eq!(answer.status, 400);
    assert_eq!(ingest.rows(), 0);
    let counts = receiver.counters().counts();
    assert_eq!((counts.malformed, counts.refused_requests), (3, 3));
    post(&receiver, "content-type: text/plain\r\n", b"x").await;
    post(&receiver, JSON, &vec![b' '; 17 << 20]).await;
    let refusals = receiver.counters().refusals();
    let reasons: Vec<_> = refusals.iter().map(|refused| (refused.reason.as_str(), refused.requests)).collect();
    assert_eq!(reasons, [("malformed", 3), ("too_large", 1), ("form", 1)]);
    let mut text = String::new();
    receiver.counters().expose(&mut text);
    assert!(text.contains("lariat_receive_refusals_total{reason=\"too_large\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_bomb_is_refused_after_the_limit_and_the_answer_says_which() {
    let (receiver, _) = running(None).await;
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    let answer = post(&receiver, &format!("{JSON}{GZIP}"), &bomb).await;
    assert_eq!(answer.status, 413);
    assert!(String::from_utf8_lossy(&answer.body).contains("after decompression"));
    let answer = post(&receiver, JSON, &vec![b' '; 17 << 20]).await;
    assert_eq!(answer.status, 413);
    assert!(String::from_utf8_lossy(&answer.body).contains("on the wire"));
    assert_eq!(receiver.in_flight_bytes(), 0);
}

#[tokio::test]
async fn wrong_types_methods_and_paths_have_their_own_status() {
    let (receiver, _) = running(None).await;
    assert_eq!(post(&receiver, "content-type: text/plain\r\n", b"x").await.status, 415);
    assert_eq!(post(&receiver, "", b"x").await.status, 415);
    assert_eq!(post(&receiver, &format!("{JSON}content-encoding: br\r\n"), b"x").await.status, 415);
    let answer = send(&receiver, "GET", "/v1/logs", "", b"").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
    for path in ["/", "/v1/profiles"] {
        let answer = send(&receiver, "GET", path, "", b"").await;
        assert_eq!(answer.status, 404);
        let hint = String::from_utf8(answer.body).unwrap();
        assert!(["/v1/traces", "/v1/metrics", "/v1/logs"].iter().all(|known| hint.contains(known)), "{hint}");
    }
}

#[tokio::test]
async fn overload_is_a_429_and_a_full_disk_a_503_each_with_retry_after() {
    let retry_after = Duration::from_millis(1_500);
    let overloaded = Refused::Overloaded { retry_after };
    let not_durable = Refused::NotDurable { reason: "/secret/path: disk full".to_owned(), retry_after };
    for (refusal, status, retry_after) in
        [(overloaded, 429, "2"), (not_durable, 503, "2"), (Refused::ShuttingDown, 503, "1")]
    {
        let (receiver, _) = running(Some(refusal)).await;
        let answer = post(&receiver, PROTOBUF, &request(vec![span(0, "x")]).encode_to_vec()).await;
        assert_eq!(answer.status, status);
        assert!(answer.head.contains(&format!("retry-after: {retry_after}\r")), "{}", answer.head);
        assert!(!String::from_utf8_lossy(&answer.body).contains("/secret"));
    }
}

#[tokio::test]
async fn beyond_the_budget_a_request_is_refused_before_it_is_read() {
    let ingest = Arc::new(Collecting::default());
    let small = Config { max_request_bytes: 4_096, in_flight_bytes: 8_192, ..config() };
    let receiver = start(small, Arc::clone(&ingest) as Arc<dyn Ingest>, None).await.unwrap();
    // Two senders announce as much as there is and send nothing.
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(receiver.http_address()).await.unwrap();
        let head =
            "POST /v1/traces HTTP/1.1\r\nhost: c\r\ncontent-type: application/json\r\ncontent-length: 4096\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    for _ in 0..300 {
        if receiver.in_flight_bytes() == 8_192 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(receiver.in_flight_bytes(), 8_192);
    let body = request(vec![span(0, "x")]).encode_to_vec();
    let answer = post(&receiver, PROTOBUF, &body).await;
    assert_eq!(answer.status, 429);
    drop(waiting);
    for _ in 0..300 {
        if post(&receiver, PROTOBUF, &body).await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ingest.rows(), 1);
    assert_eq!(receiver.in_flight_bytes(), 0);
}

#[tokio::test]
async fn limits_that_contradict_each_other_are_refused_at_the_start() {
    let contradictory = Config { max_request_bytes: 4_096, in_flight_bytes: 8_191, ..config() };
    let error = start(contradictory, Arc::new(Collecting::default()), None).await.unwrap_err().to_string();
    assert!(error.contains("collector.in_flight_bytes"), "{error}");
}

#[tokio::test]
async fn http_2_is_spoken_on_the_http_port_too() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (receiver, ingest) = running(None).await;
    let stream = TcpStream::connect(receiver.http_address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let serving = tokio::spawn(connection);
    let spans = (0..2_000).map(|nth| span(nth, &"x".repeat(600))).collect();
    let request = ::http::Request::post(format!("http://{}/v1/traces", receiver.http_address()))
        .header("content-type", "application/x-protobuf")
        .body(Full::new(Bytes::from(request(spans).encode_to_vec())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    assert_eq!(ingest.rows(), 2_000);
    serving.abort();
}
