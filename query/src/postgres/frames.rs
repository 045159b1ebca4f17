//! The byte stream of a connection, read message by message: only whole messages of the right form are handed on, and
//! none that is longer than a question can be.
//!
//! The decoder behind it believes the lengths that stand inside a message, and would wait for a gigabyte if told so.
//! Here everything that a client may send is walked through before; what it may not send (copied data, function calls) is
//! refused as what it is, a violation of the protocol. Writing has a limit of time, so that a client that has stopped
//! reading does not keep an answer in memory for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// Longest message: a question and its values.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Longest message before a session has begun, as in Postgres.
const MAX_STARTUP_BYTES: usize = 10_000;
/// How long a client may take nothing.
const STALL: Duration = Duration::from_secs(30);
/// How often a client that has sent its next message ahead is looked at.
const AHEAD_INTERVAL: Duration = Duration::from_millis(200);

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// What the next message can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Messages without a type.
    Starting,
    /// Messages with one.
    Running,
}

/// The stream of one connection.
#[derive(Debug)]
pub(crate) struct Frames {
    stream: Arc<TcpStream>,
    incoming: BytesMut,
    /// Bytes at the front of `incoming` that are checked.
    checked: usize,
    phase: Phase,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Frames {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self::with_stall(stream, STALL)
    }

    fn with_stall(stream: TcpStream, stall: Duration) -> Self {
        // Small answers must not wait for a full packet; without it they are slower, and right all the same.
        stream.set_nodelay(true).ok();
        let stream = Arc::new(stream);
        Self { stream, incoming: BytesMut::new(), checked: 0, phase: Phase::Starting, stall, stalled: None }
    }

    /// The socket, to see whether the client is still there.
    pub(crate) fn socket(&self) -> Arc<TcpStream> {
        Arc::clone(&self.stream)
    }
}

/// Resolves when the client has closed its side.
pub(crate) async fn gone(stream: &TcpStream) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => sleep(AHEAD_INTERVAL).await,
            Ok(_) | Err(_) => return,
        }
    }
}

impl AsyncRead for Frames {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.checked > 0 {
                let length = this.checked.min(buffer.remaining());
                buffer.put_slice(&this.incoming[..length]);
                this.incoming.advance(length);
                this.checked -= length;
                return Poll::Ready(Ok(()));
            }
            if let Some((length, phase)) = next(&this.incoming, this.phase)? {
                (this.checked, this.phase) = (length, phase);
                continue;
            }
            ready!(this.stream.poll_read_ready(cx))?;
            match this.stream.try_read_buf(&mut this.incoming) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Frames {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            if this.stream.poll_write_ready(cx)?.is_pending() {
                let stall = this.stall;
                let stalled = this.stalled.get_or_insert_with(|| Box::pin(sleep(stall)));
                ready!(stalled.as_mut().poll(cx));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client has stopped reading")));
            }
            match this.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    this.stalled = None;
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The socket is closed when the connection is dropped, which follows.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The length of the first message, if it is whole, and what can come after it.
fn next(bytes: &[u8], phase: Phase) -> io::Result<Option<(usize, Phase)>> {
    let (of_type, limit) = match phase {
        Phase::Starting => (0, MAX_STARTUP_BYTES),
        Phase::Running => (1, MAX_MESSAGE_BYTES),
    };
    let Some(length) = bytes.get(of_type..of_type + 4) else { return Ok(None) };
    let length = usize::try_from(u32_of(length)).unwrap_or(usize::MAX);
    if !(4..=limit).contains(&length) {
        return Err(wrong("a message has a length that none has"));
    }
    let Some(body) = bytes.get(of_type + 4..of_type + length) else { return Ok(None) };
    let phase = match phase {
        Phase::Starting => starting(body)?,
        Phase::Running => {
            well_formed(bytes[0], body).ok_or_else(|| wrong("a message has not the form of its type"))?;
            Phase::Running
        }
    };
    Ok(Some((of_type + length, phase)))
}

fn wrong(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn starting(body: &[u8]) -> io::Result<Phase> {
    let code = body.get(..4).map(u32_of).ok_or_else(|| wrong("a first message is too short"))?;
    let rest = &body[4..];
    match code {
        SSL_REQUEST | GSS_REQUEST if rest.is_empty() => Ok(Phase::Starting),
        CANCEL_REQUEST if (8..=260).contains(&rest.len()) => Ok(Phase::Running),
        SSL_REQUEST | GSS_REQUEST | CANCEL_REQUEST => Err(wrong("a first message has not the form of its type")),
        // Names and values, each ended by a zero, and a zero at the end.
        _ if rest.last() == Some(&0) => Ok(Phase::Running),
        _ => Err(wrong("a first message does not end")),
    }
}

/// Whether the body of a message is what its type says.
fn well_formed(kind: u8, body: &[u8]) -> Option<()> {
    let mut body = Body(body);
    match kind {
        b'Q' | b'p' => body.text()?,
        b'P' => {
            body.text()?;
            body.text()?;
            let types = body.count()?;
            body.skip(types * 4)?;
        }
        b'B' => bind(&mut body)?,
        b'C' | b'D' => {
            body.skip(1)?;
            body.text()?;
        }
        b'E' => {
            body.text()?;
            body.skip(4)?;
        }
        b'H' | b'S' | b'X' => {}
        _ => return None,
    }
    body.0.is_empty().then_some(())
}

/// Two names, formats of the values, the values, formats of the columns.
fn bind(body: &mut Body<'_>) -> Option<()> {
    body.text()?;
    body.text()?;
    let formats = body.count()?;
    body.skip(formats * 2)?;
    let values = body.count()?;
    for _ in 0..values {
        match u32_of(body.take(4)?) {
            u32::MAX => {}
            length => body.skip(usize::try_from(length).ok()?)?,
        }
    }
    let columns = body.count()?;
    body.skip(columns * 2)?;
    (formats <= 1 || formats == values).then_some(())
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(|_| ())
    }

    /// A text that ends with a zero.
    fn text(&mut self) -> Option<()> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        self.skip(end + 1)
    }

    fn count(&mut self) -> Option<usize> {
        let bytes: [u8; 2] = self.take(2)?.try_into().ok()?;
        Some(usize::from(u16::from_be_bytes(bytes)))
    }
}

/// Four bytes as a number; zero of fewer.
fn u32_of(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_message_is_handed_on_when_it_is_whole() {
        let query = message(b'Q', b"SELECT 1\0");
        for length in 0..query.len() {
            assert_eq!(next(&query[..length], Phase::Running).unwrap(), None, "{length}");
        }
        assert_eq!(next(&query, Phase::Running).unwrap(), Some((query.len(), Phase::Running)));
    }

    #[test]
    fn well_formed_messages_pass_and_lying_ones_do_not() {
        let bind = [&b"p\0s\0"[..], &[0, 1, 0, 1], &[0, 2, 0, 0, 0, 1, 7, 255, 255, 255, 255], &[0, 1, 0, 1]].concat();
        for (kind, body) in [
            (b'P', &b"s\0SELECT $1\0\0\x01\0\0\0\x17"[..]),
            (b'B', &bind),
            (b'D', b"Ss\0"),
            (b'E', b"p\0\0\0\0\0"),
            (b'S', b""),
        ] {
            assert!(next(&message(kind, body), Phase::Running).unwrap().is_some(), "{}", char::from(kind));
        }
        for (kind, body) in [
            (b'P', &b"s\0SELECT $1\0\0\x02\0\0\0\x17"[..]),
            (b'B', &bind[..bind.len() - 1]),
            (b'B', b"\0\0\0\x02\0\0\0\0\0\x01\xff\xff\xff\xff\0\0"),
            (b'Q', b"SELECT 1"),
            (b'Q', b"SELECT 1\0more"),
            (b'S', b"x"),
            (b'F', b""),
            (b'd', b"x"),
        ] {
            assert!(next(&message(kind, body), Phase::Running).is_err(), "{}", char::from(kind));
        }
        assert!(next(&[b'Q', 0x7f, 0xff, 0xff, 0xff], Phase::Running).is_err());
        assert!(next(&[0, 0, 0, 3], Phase::Starting).is_err());
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_given_up_and_one_that_left_is_noticed() {
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut frames = Frames::with_stall(listener.accept().await.unwrap().0, Duration::from_millis(50));
        let socket = frames.socket();
        let failed = loop {
            if let Err(error) = frames.write_all(&[0; 65_536]).await {
                break error;
            }
        };
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        drop(client);
        tokio::time::timeout(Duration::from_secs(5), gone(&socket)).await.unwrap();
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_claim_more_than_is_there(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for phase in [Phase::Starting, Phase::Running] {
                if let Ok(Some((length, _))) = next(&bytes, phase) {
                    prop_assert!(length <= bytes.len());
                }
            }
        }
    }
}
