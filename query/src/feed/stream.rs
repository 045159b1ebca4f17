//! One subscriber's stream of server-sent events: a snapshot, then batches every 500 ms or at 100 events of a topic, and
//! what else there is to tell. It is pulled by the client's connection: a client that does not read stops the pulling, its
//! buffer at the hub fills up, and the refusals are told as a gap when it reads again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures::Stream;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use super::NodeDirectory;
use super::batch::Pending;
use super::cursor::Cursor;
use super::hub::{Delivery, Joined, Membership, Missed};
use crate::reports::now_unix_nanos;
use crate::reports::parameters::rfc3339;

/// Longest time that an event waits for others of its batch.
pub(super) const BATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Time between heartbeats, below the idle limits of proxies between us and the browser.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// One message of the stream before it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) event: &'static str,
    pub(super) id: Option<String>,
    pub(super) data: String,
}

impl Message {
    fn new(event: &'static str, data: &impl Serialize) -> Self {
        // Texts, numbers and JSON made before: serialising them cannot fail, and an empty object is still a message.
        Self { event, id: None, data: serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned()) }
    }
}

impl From<Message> for Event {
    fn from(message: Message) -> Self {
        let event = Self::default().event(message.event).data(message.data);
        match message.id {
            Some(id) => event.id(id),
            None => event,
        }
    }
}

#[derive(Serialize)]
struct BatchData<'a> {
    topic: &'a str,
    events: Vec<&'a RawValue>,
}

struct Session {
    _membership: Membership,
    receiver: mpsc::Receiver<Delivery>,
    missed: Arc<Missed>,
    pending: Pending,
    out: VecDeque<Message>,
    epoch: u64,
    /// Decisions of the snapshot, which may have been recorded before they were heard of live.
    shown: HashSet<(String, i32)>,
    flush: Interval,
    heartbeat: Interval,
}

/// The messages of a subscriber that has joined; ends when its sender is gone.
pub(super) fn messages(directory: &dyn NodeDirectory, joined: Joined) -> impl Stream<Item = Message> + use<> {
    let mut session = Session {
        _membership: joined.membership,
        receiver: joined.receiver,
        missed: joined.missed,
        pending: Pending::default(),
        out: VecDeque::new(),
        epoch: joined.cursor.epoch,
        shown: joined.decisions.iter().map(|of| (of.request_id.clone(), of.batch_index)).collect(),
        flush: every(BATCH_INTERVAL),
        heartbeat: every(HEARTBEAT_INTERVAL),
    };
    let mut snapshot = Message::new(
        "snapshot",
        &json!({
            "decisions": joined.decisions,
            "circuits": joined.circuits,
            "coverage": directory.coverage(),
            "resumed": joined.resumed,
        }),
    );
    snapshot.id = Some(joined.cursor.seal());
    session.out.push_back(snapshot);
    if let Some(gap) = &joined.gap {
        session.out.push_back(Message::new("gap", gap));
    }
    for (topics, event) in joined.replay {
        if session.pending.push(topics, event) {
            session.flush();
        }
    }
    session.flush();
    futures::stream::unfold(session, |mut session| async move {
        let message = session.next().await?;
        Some((message, session))
    })
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Session {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.out.pop_front() {
                return Some(message);
            }
            tokio::select! {
                delivery = self.receiver.recv() => self.take(delivery?),
                _ = self.flush.tick() => self.flush(),
                _ = self.heartbeat.tick() => {
                    self.out.push_back(Message::new("heartbeat", &json!({ "time": rfc3339(now_unix_nanos()) })));
                }
            }
        }
    }

    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Event { topics, event } => {
                let name = event.decision_name().map(|(request_id, index)| (request_id.to_owned(), index));
                if name.is_some_and(|name| self.shown.remove(&name)) {
                    return;
                }
                if self.pending.push(topics, event) {
                    self.flush();
                    self.flush.reset();
                }
            }
            Delivery::Topology(change) => {
                self.flush();
                self.out.push_back(Message::new("topology", &*change));
            }
            Delivery::Gap(gap) => {
                self.flush();
                self.out.push_back(Message::new("gap", &gap));
            }
        }
    }

    /// Lets everything pending leave, with the cursor on the last of it, then tells what was left out.
    fn flush(&mut self) {
        let (batches, highest_seq) = self.pending.take();
        for batch in &batches {
            let events = batch.events.iter().map(|event| &*event.json).collect();
            self.out.push_back(Message::new("batch", &BatchData { topic: &batch.topic, events }));
        }
        if let (Some(last), Some(seq)) = (self.out.back_mut(), highest_seq) {
            last.id = Some(Cursor { epoch: self.epoch, seq }.seal());
        }
        self.out.extend(self.missed.take().iter().map(|gap| Message::new("gap", gap)));
    }
}
