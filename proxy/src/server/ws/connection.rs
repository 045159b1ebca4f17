//! One WebSocket connection: frames in, replies and events out, pings, limits, and how it ends. Everything of it runs in
//! one task: calls under way are polled beside the reader and the writer, so that dropping the task drops them too, and
//! each hands its record over as abandoned. A task per frame was rejected: it would have to be ended by hand.
//!
//! Nothing here waits for a slow client: what is not read waits in the outbox, and while that is full no frame is read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Frame};
use super::outbox::Outbox;
use super::{Guest, Way};
use crate::admit::MAX_BODY_BYTES;
use crate::jsonrpc::{self, Body};
use crate::refusal::Refusal;
use crate::server::Site;
use crate::subscribe::Client;

/// Calls of one connection at once; of a batch those count that run at once.
const MAX_ITEMS: usize = 32;
/// Bytes of the frames that they came in.
const MAX_BYTES: usize = 32 * 1024 * 1024;
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(5);
/// Pings in a row that may be missed.
const MAX_MISSES: u32 = 2;
/// A connection without a call or a subscription for this long is ended.
const IDLE_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// Time for what waits, the closing frame and its answer.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Buffer of either direction: most frames are smaller, and there are thousands of connections.
const BUFFER_BYTES: usize = 16 * 1024;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Why a connection is left.
enum Leave {
    /// There is nobody to talk to any more.
    Broken,
    /// The client closes it.
    ByClient,
    /// We close it, after what waits.
    With(CloseCode, String),
    /// We close it, since what comes cannot be read.
    Unreadable(CloseCode, String),
    /// We close it, and what waits is dropped.
    AtOnce(CloseCode, String),
}

/// Whether the client is still there. A sign of life is any frame, or, while none is read, that the client takes what
/// waits for it.
#[derive(Debug, Default)]
struct Pulse {
    alive: bool,
    misses: u32,
}

impl Pulse {
    const fn sign(&mut self) {
        self.alive = true;
    }

    const fn ping(&mut self) {
        self.alive = false;
    }

    /// Judges after a ping; true when too many were missed in a row.
    const fn is_lost(&mut self) -> bool {
        self.misses = if self.alive { 0 } else { self.misses + 1 };
        self.misses >= MAX_MISSES
    }
}

struct Connection<'a> {
    site: &'a Arc<Site>,
    way: &'a Way,
    client: &'a Client,
    under_way: FuturesUnordered<BoxFuture<'a, Frame>>,
    items: usize,
    bytes: usize,
    last_used: Instant,
}

/// Serves a connection until it ends.
pub(super) async fn serve(site: Arc<Site>, way: &Way, io: TokioIo<Upgraded>, guest: &Guest) {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(MAX_BODY_BYTES))
        .max_frame_size(Some(MAX_BODY_BYTES));
    let (sink, mut stream) = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split();
    let client = Client::default();
    let outbox = client.outbox.clone();
    let mut writing = std::pin::pin!(write(sink, &outbox));
    let leave = {
        let mut connection = Connection {
            site: &site,
            way,
            client: &client,
            under_way: FuturesUnordered::new(),
            items: 0,
            bytes: 0,
            last_used: Instant::now(),
        };
        tokio::select! {
            leave = connection.talk(&mut stream, &site.life.draining) => leave,
            _ = &mut writing => Leave::Broken,
        }
    };
    // Its subscriptions end here; what is left is to say goodbye.
    drop(client);
    let closing = async {
        match leave {
            Leave::Broken => {}
            // Reading on sends the answer to its closing frame.
            Leave::ByClient => read_on(&mut stream).await,
            Leave::With(code, reason) => {
                tracing::debug!(peer = %guest.peer, %code, reason, "closing a WebSocket");
                outbox.close(CloseFrame { code, reason: reason.into() });
                let _written = writing.await;
                read_on(&mut stream).await;
            }
            Leave::AtOnce(code, reason) => {
                tracing::debug!(peer = %guest.peer, %code, reason, "giving a WebSocket up");
                outbox.abort(CloseFrame { code, reason: reason.into() });
                let _written = writing.await;
                read_on(&mut stream).await;
            }
            Leave::Unreadable(code, reason) => {
                outbox.close(CloseFrame { code, reason: reason.into() });
                // What is still coming is read and dropped: a socket that is closed with unread bytes is reset, and the
                // client would not see why.
                if let Ok(sink) = writing.await
                    && let Ok(socket) = sink.reunite(stream)
                {
                    let _dropped = tokio::io::copy(&mut socket.into_inner(), &mut tokio::io::sink()).await;
                }
            }
        }
    };
    // A client that does not answer is left all the same.
    let _answered = timeout(CLOSE_WITHIN, closing).await;
}

async fn read_on(stream: &mut SplitStream<Socket>) {
    while let Some(Ok(_)) = stream.next().await {}
}

/// Writes what comes into the outbox, until its closing frame.
async fn write(mut sink: SplitSink<Socket, Message>, outbox: &Outbox) -> Result<SplitSink<Socket, Message>, Error> {
    loop {
        let mut next = Some(outbox.next().await);
        while let Some(message) = next {
            let last = message.is_close();
            sink.feed(message).await?;
            if last {
                sink.flush().await?;
                return Ok(sink);
            }
            next = outbox.take();
        }
        sink.flush().await?;
    }
}

impl Connection<'_> {
    async fn talk(&mut self, stream: &mut SplitStream<Socket>, draining: &CancellationToken) -> Leave {
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pong_due, mut pulse) = (None, Pulse::default());
        loop {
            if let Some(waiting) = self.client.outbox.overflow() {
                self.site.sockets.ended_slow.fetch_add(1, Ordering::Relaxed);
                return Leave::AtOnce(CloseCode::Policy, format!("too slow: {waiting} events waited to be read"));
            }
            let (room, is_draining) = (self.client.outbox.has_room(), draining.is_cancelled());
            if is_draining && self.under_way.is_empty() {
                return Leave::With(CloseCode::Away, "the node is shutting down".to_owned());
            }
            tokio::select! {
                // Polled even where there is no room: others may wait for the same answers. What is under way is bounded.
                Some(frame) = self.under_way.next() => self.deliver(frame),
                message = stream.next(), if room && !is_draining => {
                    pulse.sign();
                    match message {
                        Some(Ok(Message::Text(text))) => self.begin(text.into()),
                        Some(Ok(Message::Binary(bytes))) => self.begin(bytes),
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                        Some(Ok(Message::Close(_))) => return Leave::ByClient,
                        Some(Err(error)) => return self.unreadable(&error),
                        None => return Leave::Broken,
                    }
                }
                () = self.client.outbox.changed() => pulse.sign(),
                () = draining.cancelled(), if !is_draining => {}
                _ = pings.tick() => {
                    if self.is_idle() {
                        return Leave::With(CloseCode::Normal, "idle".to_owned());
                    }
                    self.client.outbox.ping();
                    pulse.ping();
                    pong_due = Some(Instant::now() + PONG_WITHIN);
                }
                () = at(pong_due) => {
                    pong_due = None;
                    if pulse.is_lost() {
                        self.site.sockets.ended_silent.fetch_add(1, Ordering::Relaxed);
                        return Leave::AtOnce(CloseCode::Protocol, "no answer to pings".to_owned());
                    }
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_empty() && !self.client.has_subscriptions() && self.last_used.elapsed() >= IDLE_LIMIT
    }

    fn unreadable(&self, error: &Error) -> Leave {
        let (code, reason) = match error {
            Error::Capacity(_) => (CloseCode::Size, format!("a frame is larger than {MAX_BODY_BYTES} bytes")),
            Error::Utf8(_) => (CloseCode::Invalid, "a text frame is not UTF-8".to_owned()),
            Error::Protocol(_) => (CloseCode::Protocol, "not the WebSocket protocol".to_owned()),
            _ => return Leave::Broken,
        };
        self.site.gate.count_refusal();
        Leave::Unreadable(code, reason)
    }

    /// Takes a frame: its calls are under way from here on, or it is refused.
    fn begin(&mut self, bytes: Bytes) {
        self.last_used = Instant::now();
        let Ok(body) = jsonrpc::read(&bytes) else {
            self.site.gate.count_refusal();
            return self.client.outbox.reply(Refusal::NotJson.reply(b"null").into());
        };
        let items = match &body {
            Body::Single(_) | Body::TooMany(_) => 1,
            Body::Batch(items) => items.len().clamp(1, frame::BATCH_AT_ONCE),
        };
        let fits = self.items + items <= MAX_ITEMS && self.bytes + bytes.len() <= MAX_BYTES;
        match self.site.gate.enter_frame(bytes.len()) {
            Ok(inside) if fits => {
                self.items += items;
                self.bytes += bytes.len();
                let frame = Frame::new(items, bytes.len());
                self.under_way.push(frame::answer(self.site, self.way, self.client, frame, body, inside).boxed());
            }
            _ => {
                self.site.sockets.overloads.fetch_add(1, Ordering::Relaxed);
                let frame = frame::refuse(self.site, self.way, body, &Refusal::TooManyUnderWay);
                frame.into_iter().for_each(|reply| self.client.outbox.reply(reply));
            }
        }
    }

    fn deliver(&mut self, frame: Frame) {
        self.items -= frame.items;
        self.bytes -= frame.bytes;
        self.last_used = Instant::now();
        frame.replies.into_iter().for_each(|reply| self.client.outbox.reply(reply));
        frame.opened.iter().for_each(|subscription| self.client.outbox.release(subscription));
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_missed_pings_in_a_row_end_a_connection_and_a_sign_of_life_between_them_does_not() {
        let mut pulse = Pulse::default();
        let mut judge = |answers: bool| {
            pulse.ping();
            if answers {
                pulse.sign();
            }
            pulse.is_lost()
        };
        assert!(![true, false, true, false].into_iter().any(&mut judge));
        assert!(judge(false));
    }
}
