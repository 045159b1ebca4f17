//! A provider over HTTP/2 that says exact frames: for what no well-behaved server can be made to send at a chosen moment,
//! such as a GOAWAY in the middle of calls that leaves one of them out. Each method can have its steps; every other call
//! is answered properly, so that probes find a healthy provider. Only as much of HTTP/2 is read as a client's calls need.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::Connection;
use super::secure::Tls;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest frame: the bound that holds until a peer allows more, which this one does not.
const FRAME_BYTES_MAX: usize = 16_384;
/// Connections in a row; more than any test opens.
const CONNECTIONS_MAX: u32 = 1_024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, as HPACK's static table has it.
const STATUS_200: u8 = 0x88;
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;

/// One thing that happens on the connection when a call has come whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A GOAWAY whose last stream is this call's: it is processed, and no later one is.
    GoAwayAfter,
    /// A GOAWAY whose last stream is the one before this call's: this one is not processed.
    GoAwayBefore,
    /// The call is answered.
    Answer,
    /// The call waits for [`Step::AnswerHeld`].
    Hold,
    /// Every call that waits is answered.
    AnswerHeld,
    /// Its stream is reset as refused.
    Refuse,
    /// Its stream is reset for an internal error.
    Fail,
    /// The connection is closed.
    Close,
}

/// A running provider. Dropping it ends it.
#[derive(Debug)]
pub struct FrameProvider {
    address: SocketAddr,
    story: Arc<Story>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Story {
    steps: BTreeMap<&'static str, Vec<Step>>,
    calls: Mutex<BTreeMap<String, u64>>,
}

impl FrameProvider {
    /// Listens on a free port of loopback, and answers calls of these methods with their steps.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(tls: Tls, steps: impl IntoIterator<Item = (&'static str, Vec<Step>)>) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let story = Arc::new(Story { steps: steps.into_iter().collect(), calls: Mutex::default() });
        let stop = CancellationToken::new();
        let (stopped, told) = (stop.clone(), Arc::clone(&story));
        tokio::spawn(async move {
            for _ in 0..CONNECTIONS_MAX {
                let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await else { return };
                let (tls, story, stopped) = (tls.clone(), Arc::clone(&told), stopped.clone());
                tokio::spawn(async move {
                    // An error ends the connection, which is what the client is to bear.
                    let _ended = stopped.run_until_cancelled(serve(tls, Connection::new(stream).0, &story)).await;
                });
            }
        });
        Ok(Self { address, story, _stop: stop.drop_guard() })
    }

    /// Its URL for JSON-RPC over HTTP/2.
    #[must_use]
    pub fn https_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// How many calls of `method` came in.
    #[must_use]
    pub fn received_of(&self, method: &str) -> u64 {
        self.story.calls.lock().get(method).copied().unwrap_or(0)
    }
}

struct Client<'s> {
    stream: TlsStream<Connection>,
    story: &'s Story,
    /// What has come of each call so far.
    bodies: BTreeMap<u32, Vec<u8>>,
    /// Calls that wait, with their ids.
    held: Vec<(u32, Value)>,
}

async fn serve(tls: Tls, connection: Connection, story: &Story) -> io::Result<()> {
    let mut stream = tls.accept(connection).await?;
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    if preface != PREFACE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut client = Client { stream, story, bodies: BTreeMap::new(), held: Vec::new() };
    client.write(SETTINGS, 0, 0, &[]).await?;
    loop {
        let (kind, flags, id, payload) = client.read().await?;
        match kind {
            SETTINGS if flags & ACK == 0 => client.write(SETTINGS, ACK, 0, &[]).await?,
            PING if flags & ACK == 0 => client.write(PING, ACK, 0, &payload).await?,
            DATA => {
                client.bodies.entry(id).or_default().extend_from_slice(&payload);
                if flags & END_STREAM != 0 && client.called(id).await?.is_break() {
                    client.stream.shutdown().await?;
                    // A socket that is closed with unread bytes is reset, which would take back what was written.
                    return tokio::io::copy(&mut client.stream, &mut tokio::io::sink()).await.map(|_| ());
                }
            }
            _ => {}
        }
    }
}

impl Client<'_> {
    async fn read(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok((kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload))
    }

    async fn write(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await?;
        self.stream.flush().await
    }

    async fn called(&mut self, id: u32) -> io::Result<ControlFlow<()>> {
        let body = self.bodies.remove(&id).unwrap_or_default();
        let call: Value = serde_json::from_slice(&body).unwrap_or_default();
        let method = call["method"].as_str().unwrap_or_default();
        *self.story.calls.lock().entry(method.to_owned()).or_default() += 1;
        let steps = self.story.steps.get(method).cloned().unwrap_or_else(|| vec![Step::Answer]);
        for step in steps {
            match step {
                Step::GoAwayAfter => self.go_away(id).await?,
                Step::GoAwayBefore => self.go_away(id.saturating_sub(2)).await?,
                Step::Answer => self.answer(id, &call["id"]).await?,
                Step::Hold => self.held.push((id, call["id"].clone())),
                Step::AnswerHeld => {
                    for (id, call) in std::mem::take(&mut self.held) {
                        self.answer(id, &call).await?;
                    }
                }
                Step::Refuse => self.write(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes()).await?,
                Step::Fail => self.write(RST_STREAM, 0, id, &INTERNAL_ERROR.to_be_bytes()).await?,
                Step::Close => return Ok(ControlFlow::Break(())),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn go_away(&mut self, last: u32) -> io::Result<()> {
        let payload = [last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
        self.write(GOAWAY, 0, 0, &payload).await
    }

    async fn answer(&mut self, stream: u32, id: &Value) -> io::Result<()> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"0x1"}}"#);
        self.write(HEADERS, END_HEADERS, stream, &[STATUS_200]).await?;
        self.write(DATA, END_STREAM, stream, body.as_bytes()).await
    }
}
