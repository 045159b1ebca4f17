//! HTTP/2 by hand: a large export must not wait for a window that grows too late.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const MEBIBYTE: usize = 1 << 20;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn read(stream: &mut TcpStream) -> Frame {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    Frame { kind: head[3], flags: head[4], stream: u32::from_be_bytes(head[5..].try_into().unwrap()), payload }
}

/// Header fields, each spelled out.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What a client may send at the start, from the server's first frames: per stream, and on the connection.
async fn announced(stream: &mut TcpStream) -> (u32, u32) {
    let (mut of_stream, mut of_connection, mut seen) = (65_535, 65_535, (false, false));
    while seen != (true, true) {
        let frame = read(stream).await;
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            for entry in frame.payload.chunks(6) {
                if u16::from_be_bytes([entry[0], entry[1]]) == 4 {
                    of_stream = u32::from_be_bytes(entry[2..].try_into().unwrap());
                }
            }
            seen.0 = true;
        } else if frame.kind == WINDOW_UPDATE && frame.stream == 0 {
            of_connection += u32::from_be_bytes(frame.payload[..].try_into().unwrap());
            seen.1 = true;
        }
    }
    (of_stream, of_connection)
}

#[tokio::test]
async fn a_mebibyte_over_grpc_needs_no_window_but_those_announced_at_the_start() {
    let (receiver, ingest) = running(None).await;
    let mut stream = TcpStream::connect(receiver.grpc_address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let (of_stream, of_connection) = announced(&mut stream).await;
    assert!(
        of_stream as usize >= 2 * MEBIBYTE && of_connection as usize >= 2 * MEBIBYTE,
        "{of_stream} {of_connection}"
    );

    let message = request((0..2_000).map(|nth| span(nth, &"x".repeat(600))).collect()).encode_to_vec();
    assert!(message.len() > MEBIBYTE);
    let prefix = [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..]].concat();
    let body = [prefix, message].concat();
    let head = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        (":authority", "collector"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    let mut all = [frame(SETTINGS, ACK, 0, &[]), frame(HEADERS, END_HEADERS, 1, &head)].concat();
    let last = body.len().div_ceil(16_384) - 1;
    for (nth, chunk) in body.chunks(16_384).enumerate() {
        all.extend(frame(DATA, if nth == last { END_STREAM } else { 0 }, 1, chunk));
    }
    // Everything at once, with nothing read between.
    stream.write_all(&all).await.unwrap();
    loop {
        let frame = read(&mut stream).await;
        if frame.stream == 1 && frame.flags & END_STREAM != 0 && frame.kind <= HEADERS {
            break;
        }
    }
    assert_eq!(ingest.rows(), 2_000);
}
