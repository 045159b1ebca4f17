//! A provider that says exact bytes on the wire, HTTP and all: for what no well-behaved server can be made to send, such as
//! a length that lies, a head without end, or the second reply to one request. One method gets these bytes; every other
//! call is answered properly, so that probes find a healthy provider.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Largest request that is read.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One thing that happens on the connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// These bytes are written; `{id}` in them becomes the call's id, `{length}` the length of what follows the head.
    Write(Bytes),
    /// These bytes are written so many times.
    Repeat(Bytes, usize),
    /// These bytes are written one at a time, with a pause after each.
    Drip(Bytes, Duration),
    /// Nothing for a while.
    Pause(Duration),
    /// Nothing any more; the connection stays open.
    Hang,
    /// The connection is reset.
    Reset,
    /// The connection is closed.
    Close,
}

impl Step {
    /// Writes this text.
    #[must_use]
    pub fn write(text: impl Into<Bytes>) -> Self {
        Self::Write(text.into())
    }
}

/// A whole reply of HTTP/1.1, whose length is right.
#[must_use]
pub fn response(status: &str, headers: &str, body: &str) -> Step {
    Step::Write(format!("HTTP/1.1 {status}\r\n{headers}content-length: {{length}}\r\n\r\n{body}").into())
}

/// A running provider. Dropping it ends it.
#[derive(Debug)]
pub struct RawProvider {
    address: SocketAddr,
    played: Arc<AtomicU64>,
    _stop: DropGuard,
}

struct Story {
    method: String,
    steps: Vec<Step>,
    played: Arc<AtomicU64>,
}

impl RawProvider {
    /// Listens on a free port of loopback, and answers calls of `method` with these steps.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(method: &str, steps: Vec<Step>) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let played = Arc::new(AtomicU64::new(0));
        let story = Arc::new(Story { method: method.to_owned(), steps, played: played.clone() });
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let (story, stopped) = (Arc::clone(&story), stopped.clone());
                tokio::spawn(async move { stopped.run_until_cancelled(serve(stream, &story)).await });
            }
        });
        Ok(Self { address, played, _stop: stop.drop_guard() })
    }

    /// Its URL for JSON-RPC over HTTP.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many calls got the steps.
    #[must_use]
    pub fn played(&self) -> u64 {
        self.played.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, story: &Story) {
    // Where the option fails the connection still works.
    let _ = stream.set_nodelay(true);
    let mut read = Vec::new();
    while let Some(body) = request(&mut stream, &mut read).await {
        let call: Value = serde_json::from_slice(&body).unwrap_or_default();
        let id = call["id"].to_string();
        let steps = if call["method"] == story.method.as_str() {
            story.played.fetch_add(1, Ordering::Relaxed);
            story.steps.clone()
        } else {
            vec![response("200 OK", "", r#"{"jsonrpc":"2.0","id":{id},"result":"0x1"}"#)]
        };
        for step in steps {
            match play(&mut stream, step, &id).await {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) | Err(_) => return,
            }
        }
    }
}

/// The body of the next request; none at the end of the connection.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(head) = read.windows(4).position(|part| part == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let end = head + 4 + length.unwrap_or(0_usize);
            if read.len() >= end {
                let body = read[head + 4..end].to_vec();
                read.drain(..end);
                return Some(body);
            }
        }
        if read.len() > REQUEST_BYTES_MAX || stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

async fn play(stream: &mut TcpStream, step: Step, id: &str) -> io::Result<ControlFlow<()>> {
    match step {
        Step::Write(bytes) => stream.write_all(&filled(&bytes, id)).await?,
        Step::Repeat(bytes, times) => {
            for _ in 0..times {
                stream.write_all(&bytes).await?;
            }
        }
        Step::Drip(bytes, every) => {
            for byte in filled(&bytes, id) {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(every).await;
            }
        }
        Step::Pause(wait) => tokio::time::sleep(wait).await,
        // Until the provider is ended.
        Step::Hang => std::future::pending().await,
        Step::Reset => {
            stream.set_zero_linger()?;
            return Ok(ControlFlow::Break(()));
        }
        Step::Close => return Ok(ControlFlow::Break(())),
    }
    Ok(ControlFlow::Continue(()))
}

/// The bytes with the call's id, and the length of the body where it is asked for.
fn filled(bytes: &[u8], id: &str) -> Vec<u8> {
    // Latin-1 keeps bytes that are no text.
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let text = text.replace("{id}", id);
    let length = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.chars().count());
    let text = text.replace("{length}", &length.to_string());
    text.chars().filter_map(|letter| u8::try_from(u32::from(letter)).ok()).collect()
}
