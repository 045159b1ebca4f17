//! Sends what waits, a few requests at once, and notes in order what was delivered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use lariat_schema::vocabulary::Signal;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::outcome::{Backoff, Outcome, Refused};
use super::queue::{Position, Queue, Taken};
use super::target::Target;
use super::transcode;
use crate::columns::count;

/// Requests under way at once: the other side's answer takes a round trip and a sync of its disk.
const IN_FLIGHT: usize = 4;
/// Bytes of requests under way, as they were received; one request may be larger when it is alone. They are in memory,
/// each up to twice more while it is written anew.
const IN_FLIGHT_BYTES: usize = 8 << 20;

/// What sending needs.
pub(super) struct Sending {
    pub(super) queue: Arc<Mutex<Queue>>,
    pub(super) target: Target,
    pub(super) counters: Arc<Counters>,
    /// Something was queued.
    pub(super) queued: Arc<Notify>,
    /// Nothing more will be queued: what waits gets one more attempt.
    pub(super) closing: CancellationToken,
}

/// What became of a request that was under way.
struct Done {
    end: Position,
    bytes: usize,
    /// It stays in the queue, for the next start.
    kept: bool,
}

impl Sending {
    /// Sends until told to close and nothing waits, or the other side takes nothing.
    pub(super) async fn run(self: Arc<Self>) {
        let mut under_way = FuturesOrdered::new();
        let (mut bytes, mut ages) = (0, std::collections::VecDeque::new());
        loop {
            while under_way.len() < IN_FLIGHT && (bytes == 0 || bytes < IN_FLIGHT_BYTES) {
                let Some(taken) = self.take().await else { break };
                bytes += taken.request.body.len();
                ages.push_back(taken.request.received_unix_nanos);
                under_way.push_back(Arc::clone(&self).deliver(taken));
            }
            self.counters.put_oldest(ages.front().copied());
            self.counters.in_flight.store(count(under_way.len()), Ordering::Relaxed);
            if under_way.is_empty() {
                if self.closing.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.queued.notified() => {}
                    () = self.closing.cancelled() => {}
                }
                continue;
            }
            tokio::select! {
                done = under_way.next() => {
                    let Some(done) = done else { continue };
                    if done.kept {
                        return;
                    }
                    bytes -= done.bytes;
                    ages.pop_front();
                    self.finished(done.end).await;
                }
                () = self.queued.notified(), if under_way.len() < IN_FLIGHT => {}
            }
        }
    }

    async fn take(&self) -> Option<Taken> {
        let queue = Arc::clone(&self.queue);
        // Reads the disk.
        let taken = tokio::task::spawn_blocking(move || queue.lock().take()).await.ok()?;
        self.publish();
        taken
    }

    async fn finished(&self, end: Position) {
        let queue = Arc::clone(&self.queue);
        if tokio::task::spawn_blocking(move || queue.lock().delivered(end)).await.is_err() {
            tracing::error!("noting what was sent on failed");
        }
        self.publish();
    }

    /// Brings the figures of the queue up to date.
    pub(super) fn publish(&self) {
        publish(&self.queue.lock(), &self.counters);
    }

    async fn deliver(self: Arc<Self>, taken: Taken) -> Done {
        let Taken { request, end } = taken;
        let (signal, hops, bytes) = (request.signal, request.hops, request.body.len());
        let kept = |kept| Done { end, bytes, kept };
        let compression = self.target.config().compression;
        let written = tokio::task::spawn_blocking(move || transcode::body(&request, compression)).await;
        let body = match written.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(body) => body,
            Err(why) => {
                self.give_up(signal, Refused::Unwritable, &why);
                return kept(false);
            }
        };
        let mut backoff = Backoff::default();
        loop {
            let was_closing = self.closing.is_cancelled();
            match self.target.send(signal, hops, body.clone()).await {
                Outcome::Delivered { rejected, message } => {
                    self.delivered(signal, body.len(), rejected, &message);
                    return kept(false);
                }
                Outcome::Refused { code, why } => {
                    self.give_up(signal, code, &why);
                    return kept(false);
                }
                Outcome::Retry { after, why } => {
                    self.counters.retries.fetch_add(1, Ordering::Relaxed);
                    if !self.counters.failing.swap(true, Ordering::Relaxed) {
                        let endpoint = &self.target.config().endpoint;
                        tracing::warn!(%endpoint, %signal, why, "requests cannot be sent on: they wait on the disk");
                    }
                    if was_closing {
                        return kept(true);
                    }
                    let pause = backoff.next(after, rand::random());
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.closing.cancelled() => {}
                    }
                }
            }
        }
    }

    fn delivered(&self, signal: Signal, bytes: usize, rejected: u64, message: &str) {
        let counters = &self.counters;
        counters.delivered.fetch_add(1, Ordering::Relaxed);
        counters.delivered_bytes.fetch_add(count(bytes), Ordering::Relaxed);
        if counters.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(endpoint = %self.target.config().endpoint, "requests are sent on again");
        }
        if rejected > 0 && counters.rejected_records.fetch_add(rejected, Ordering::Relaxed) == 0 {
            tracing::warn!(%signal, rejected, message, "the other side rejected records that were sent on; later ones are counted");
        }
    }

    fn give_up(&self, signal: Signal, code: Refused, why: &str) {
        // Rarer and rarer: a wrong token refuses every request.
        if self.counters.refused(code).is_power_of_two() {
            let endpoint = &self.target.config().endpoint;
            tracing::error!(%endpoint, %signal, reason = %code, why, "a request was refused for good: it is not sent on");
        }
    }
}

/// Brings the figures of the queue up to date.
pub(super) fn publish(queue: &Queue, counters: &Counters) {
    counters.waiting.store(queue.unread(), Ordering::Relaxed);
    counters.queue_bytes.store(queue.bytes(), Ordering::Relaxed);
    counters.put_losses(queue.losses());
}
