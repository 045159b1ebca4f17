//! One connection while it stands. Its reader and its writer run beside each other, so that a provider that does not read
//! cannot keep us from hearing it; whichever ends first ends the connection. A reply goes to whoever waits for its id, a
//! notification to its feed. What belongs to nobody costs its own size, is counted, and ends the connection where
//! nothing else comes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::Out;
use super::feed::Readers;
use super::link::{Link, Lost, Waiter};
use crate::jsonrpc::Reply;

/// Time in which a frame must leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Subscriptions on one connection.
const MAX_FEEDS: usize = 1_024;
/// Frames in a row that belong to nobody: a provider that sends more of them serves no one.
const MAX_STRANGE: u32 = 64;
/// Notifications in a row of subscriptions that were given back: some are always on their way.
const MAX_STRAY: u32 = 4_096;
/// Names of subscriptions that were given back, kept to know their last notifications.
const MAX_ENDED: usize = 64;
/// Subscriptions that the reader wants to give back and the writer has not yet.
const GIVEN_BACK: usize = 64;

/// How a connection ended.
pub(super) enum Ended {
    Lost(Lost),
    /// No handle is left.
    Unwanted,
}

/// Carries one connection until it ends; a ping that is not answered within `ping_every` ends it.
pub(super) async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    stream: WebSocketStream<S>,
    link: &Link,
    outbox: &mut mpsc::Receiver<Out>,
    connection: u64,
    ping_every: Duration,
) -> Ended {
    let (sink, source) = stream.split();
    let (give_back, given_back) = mpsc::channel(GIVEN_BACK);
    let unanswered = AtomicBool::new(false);
    let reader = Reader {
        link,
        connection,
        feeds: HashMap::new(),
        ended: VecDeque::new(),
        strange: 0,
        stray: 0,
        give_back,
        unanswered: &unanswered,
    };
    let writer = Writer { link, connection, ping_every, unanswered: &unanswered };
    tokio::select! {
        lost = reader.run(source) => Ended::Lost(lost),
        ended = writer.run(sink, outbox, given_back) => ended,
    }
}

struct Writer<'l> {
    link: &'l Link,
    connection: u64,
    ping_every: Duration,
    /// Set by the writer with each ping, cleared by the reader with each pong.
    unanswered: &'l AtomicBool,
}

impl Writer<'_> {
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut sink: SplitSink<WebSocketStream<S>, Message>,
        outbox: &mut mpsc::Receiver<Out>,
        mut given_back: mpsc::Receiver<String>,
    ) -> Ended {
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + self.ping_every, self.ping_every);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                biased;
                _ = pings.tick() => {
                    if self.unanswered.swap(true, Ordering::Relaxed) {
                        return Ended::Lost(Lost::Silent);
                    }
                    Some(Message::Ping(Bytes::new()))
                }
                Some(subscription) = given_back.recv() => Some(self.unsubscribe(&subscription)),
                out = outbox.recv() => match out {
                    Some(Out::Call { id, frame }) => self.call(id, frame),
                    Some(Out::Unsubscribe { connection, subscription }) => {
                        (connection == self.connection).then(|| self.unsubscribe(&subscription))
                    }
                    None => return Ended::Unwanted,
                },
            };
            let Some(message) = message else { continue };
            match tokio::time::timeout(WRITE_TIMEOUT, sink.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ended::Lost(Lost::Broken),
            }
        }
    }

    fn call(&self, id: u64, frame: Bytes) -> Option<Message> {
        // Calls were read as JSON, which is UTF-8, so that none is lost here.
        let text = Utf8Bytes::try_from(frame).ok()?;
        self.link.begin_write(id).then_some(Message::Text(text))
    }

    fn unsubscribe(&self, subscription: &str) -> Message {
        let call = serde_json::json!({
            "jsonrpc": "2.0", "id": self.link.own_id(), "method": "eth_unsubscribe", "params": [subscription],
        });
        Message::text(call.to_string())
    }
}

struct Reader<'l> {
    link: &'l Link,
    connection: u64,
    feeds: HashMap<String, Arc<Readers>>,
    ended: VecDeque<String>,
    strange: u32,
    stray: u32,
    give_back: mpsc::Sender<String>,
    unanswered: &'l AtomicBool,
}

/// Who gets a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    /// Somebody who does not wait for it any more.
    Late,
    Nobodys,
}

/// A frame, read as far as to know whose it is.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Notification<'a> {
    subscription: String,
    #[serde(borrow)]
    result: &'a RawValue,
}

impl Reader<'_> {
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, mut source: SplitStream<WebSocketStream<S>>) -> Lost {
        loop {
            let body = match source.next().await {
                Some(Ok(Message::Text(text))) => Bytes::from(text),
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Pong(_))) => {
                    self.unanswered.store(false, Ordering::Relaxed);
                    continue;
                }
                Some(Ok(Message::Ping(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed)) | None => return Lost::Closed,
                Some(Err(tungstenite::Error::Capacity(_))) => return Lost::TooLarge,
                Some(Err(tungstenite::Error::Io(_))) => return Lost::Broken,
                Some(Err(tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                ))) => return Lost::Broken,
                Some(Err(_)) => return Lost::Garbage,
            };
            if let Err(lost) = self.take(&body) {
                return lost;
            }
        }
    }

    fn take(&mut self, body: &Bytes) -> Result<(), Lost> {
        let frame: Frame<'_> = serde_json::from_slice(body).map_err(|_| Lost::Garbage)?;
        let whose = if frame.method.is_some_and(|method| method.get() == "\"eth_subscription\"") {
            self.notify(body, frame.params)
        } else {
            self.reply(body, frame.id)
        };
        match whose {
            Whose::Ours => (self.strange, self.stray) = (0, 0),
            Whose::Late => self.stray += 1,
            Whose::Nobodys => self.strange += 1,
        }
        if whose != Whose::Ours {
            self.link.counts.strange.fetch_add(1, Ordering::Relaxed);
        }
        if self.strange < MAX_STRANGE && self.stray < MAX_STRAY { Ok(()) } else { Err(Lost::Garbage) }
    }

    /// Hands a reply to whoever waits for it.
    fn reply(&mut self, body: &Bytes, id: Option<&RawValue>) -> Whose {
        let (id, waiter) = match id.map(RawValue::get) {
            // A provider that could not read a call answers under no id: it can only mean the one that it has.
            None => (None, self.link.take_only()),
            Some(text) => {
                let id = text.parse::<u64>().ok();
                (id, id.and_then(|id| self.link.take(id)))
            }
        };
        match waiter {
            Some(Waiter::Call(to)) => {
                // Whoever gave up in this very moment needs no reply.
                let _gone = to.send(Ok(body.clone())).is_err();
                Whose::Ours
            }
            Some(Waiter::Subscription { reply, inlet }) => {
                let subscription = id.and_then(|id| subscription(body, id)).filter(|_| self.has_room());
                let answer = match &subscription {
                    Some(name) => {
                        let readers = Arc::new(Readers::of(inlet));
                        let told = (self.connection, name.clone(), Arc::downgrade(&readers));
                        self.feeds.insert(name.clone(), readers);
                        Ok(told)
                    }
                    None => Err(body.clone()),
                };
                if reply.send(Ok(answer)).is_err()
                    && let Some(name) = subscription
                {
                    self.end(name);
                }
                Whose::Ours
            }
            None if id.is_some_and(|id| self.link.was_asked(id)) => Whose::Late,
            None => Whose::Nobodys,
        }
    }

    fn has_room(&mut self) -> bool {
        if self.feeds.len() >= MAX_FEEDS {
            self.feeds.retain(|_, readers| !readers.ends());
        }
        self.feeds.len() < MAX_FEEDS
    }

    /// Hands an event to its feed.
    fn notify(&mut self, body: &Bytes, params: Option<&RawValue>) -> Whose {
        let Some(event) = params.and_then(|params| serde_json::from_str::<Notification<'_>>(params.get()).ok()) else {
            return Whose::Nobodys;
        };
        let Some(readers) = self.feeds.get(&event.subscription) else {
            if !self.ended.contains(&event.subscription) {
                // Its reply came after whoever asked for it had given up.
                self.end(event.subscription);
            }
            return Whose::Late;
        };
        let overflowed = readers.put(&body.slice_ref(event.result.get().as_bytes()));
        self.link.counts.overflowed.fetch_add(overflowed, Ordering::Relaxed);
        if readers.ends() {
            self.end(event.subscription);
        }
        Whose::Ours
    }

    /// Ends a feed and gives its subscription back.
    fn end(&mut self, subscription: String) {
        if let Some(readers) = self.feeds.remove(&subscription) {
            readers.end();
        }
        // Where there is no room, the next notification of it tries again.
        if self.give_back.try_send(subscription.clone()).is_ok() {
            self.ended.push_back(subscription);
            if self.ended.len() > MAX_ENDED {
                self.ended.pop_front();
            }
        }
    }
}

/// The name of a subscription in the reply to that id.
fn subscription(body: &Bytes, id: u64) -> Option<String> {
    serde_json::from_slice(&Reply::read(body, id)?.result?).ok()
}
