//! Sends what was received on to another OTLP endpoint, where the section `collector.forward` names one.
//!
//! What is sent on is each accepted request as its sender wrote it, repetitions included: before dedup, before sampling,
//! and before anything of ours is read out of it, so that the other side gets what it would have got without us. Sending on rows was
//! rejected, since a request cannot be made of them again, and its repetition would be unknown to the other side's dedup.
//!
//! A request is on the disk here before its own sender hears that it was accepted, and after it is in the log: killed at
//! any instant, nothing acknowledged is missing at the other side, and some of it comes twice. Receiving waits for this
//! disk and never for the other side: a queue that is full drops its oldest requests and counts them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use lariat_schema::vocabulary::Signal;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod config;
mod counters;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod outcome;
mod queue;
mod segment;
mod sender;
mod target;
mod transcode;
mod trust;

#[cfg(test)]
mod tests;

pub use config::{Compression, Config, Endpoint, Headers, Protocol};
pub(crate) use counters::Counters;
pub(crate) use segment::{Coding, Request};
pub use trust::CaFileError;

use crate::columns::count;
use queue::Queue;
use sender::Sending;
use target::{Target, TargetError};

/// Folder of the queue in a data directory.
const FOLDER: &str = "forward";
/// Requests that wait to be written: as many as the receivers have in progress.
const WRITE_QUEUE: usize = 1_024;
/// How often a request is sent on at most: collectors that send to each other, or to themselves, stop there.
const MAX_HOPS: u8 = 4;
/// Says how often a request was sent on.
const HOPS: HeaderName = HeaderName::from_static("x-lariat-hops");

/// How often a request was sent on before it came here.
pub(crate) fn hops(headers: &HeaderMap) -> u8 {
    headers.get(HOPS).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Requests that share one sync.
const GROUP_REQUESTS: usize = 256;

/// Why nothing can be sent on: the configuration's fault, or the disk's.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The queue cannot be used.
    #[error("cannot use the queue of `collector.forward` in {path}: {source}; make it writable, or remove the section")]
    Queue {
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The other side can never be reached as configured.
    #[error("`collector.forward.endpoint`: {0}")]
    Target(String),
    /// The authorities of the other side cannot be read.
    #[error("`collector.forward.ca_file` {0}")]
    CaFile(#[from] CaFileError),
}

struct Waiting {
    request: Request,
    written: oneshot::Sender<()>,
}

enum Message {
    Write(Waiting),
    Stop,
}

/// The way in, for the receivers.
#[derive(Clone)]
pub(crate) struct Forwarder {
    sender: SyncSender<Message>,
    signals: Arc<BTreeSet<Signal>>,
    counters: Arc<Counters>,
}

impl Forwarder {
    /// Whether requests of a signal are sent on.
    pub(crate) fn wants(&self, signal: Signal) -> bool {
        self.signals.contains(&signal)
    }

    /// Queues a request. Returns once it is durable there, or known to be dropped, which is counted.
    pub(crate) async fn queue(&self, request: Request) {
        if request.hops >= MAX_HOPS {
            if self.counters.looped.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::error!(
                    hops = request.hops,
                    "a request went round: `collector.forward.endpoint` leads back here"
                );
            }
            return;
        }
        let (written, answer) = oneshot::channel();
        match self.sender.try_send(Message::Write(Waiting { request, written })) {
            // Without an answer the thread is gone: this process is being killed.
            Ok(()) => drop(answer.await),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.unqueued.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Sending on, at work.
pub(crate) struct Forward {
    forwarder: Forwarder,
    queue: Arc<Mutex<Queue>>,
    writer: std::thread::JoinHandle<()>,
    sending: JoinHandle<()>,
    closing: CancellationToken,
}

impl Forward {
    /// Opens the queue and begins to send what waits there.
    pub(crate) async fn start(config: Config, data_dir: &Path) -> Result<Self, ForwardError> {
        let path = data_dir.join(FOLDER);
        let (folder, limit_bytes) = (path.clone(), config.queue_bytes);
        let opened = tokio::task::spawn_blocking(move || Queue::open(&folder, limit_bytes)).await;
        let failed = |source| ForwardError::Queue { path: path.clone(), source };
        let queue = opened.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)?;
        let signals = Arc::new(config.signals.clone());
        let target = Target::new(config).map_err(|error| match error {
            TargetError::CaFile(error) => ForwardError::CaFile(error),
            error => ForwardError::Target(error.to_string()),
        })?;
        let counters = Arc::new(Counters::default());
        sender::publish(&queue, &counters);
        let queue = Arc::new(Mutex::new(queue));
        let (queued, closing) = (Arc::new(Notify::new()), CancellationToken::new());
        let (sender, receiver) = sync_channel(WRITE_QUEUE);
        let writing =
            Writing { queue: Arc::clone(&queue), counters: Arc::clone(&counters), queued: Arc::clone(&queued) };
        let writer = std::thread::Builder::new()
            .name("lariat-forward".to_owned())
            .spawn(move || writing.run(&receiver))
            .map_err(failed)?;
        let sending = Sending {
            queue: Arc::clone(&queue),
            target,
            counters: Arc::clone(&counters),
            queued,
            closing: closing.clone(),
        };
        let sending = tokio::spawn(Arc::new(sending).run());
        Ok(Self { forwarder: Forwarder { sender, signals, counters }, queue, writer, sending, closing })
    }

    /// The way in.
    pub(crate) fn forwarder(&self) -> Forwarder {
        self.forwarder.clone()
    }

    /// Its figures.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.forwarder.counters)
    }

    /// Sends what waits until `deadline`, after the last request was received. What the other side does not take now
    /// stays on the disk for the next start.
    pub(crate) async fn shutdown(self, deadline: Duration) {
        let Self { forwarder, queue, writer, mut sending, closing } = self;
        // Everything was answered, so the thread has nothing left to write.
        stop(&forwarder, writer).await;
        closing.cancel();
        if tokio::time::timeout(deadline, &mut sending).await.is_err() {
            sending.abort();
        }
        let mut queue = queue.lock();
        let info = forwarder.counters.info(0);
        if info.waiting_requests > 0 {
            tracing::warn!(
                requests = info.waiting_requests,
                "what could not be sent on stays on the disk for the next start"
            );
        }
        queue.release();
    }

    /// Ends at once, as a crash would.
    pub(crate) fn kill(self) {
        self.sending.abort();
        self.queue.lock().release();
        // Full or gone: the thread ends with the last way in.
        let _ = self.forwarder.sender.try_send(Message::Stop);
    }
}

async fn stop(forwarder: &Forwarder, writer: std::thread::JoinHandle<()>) {
    let sender = forwarder.sender.clone();
    let joined = tokio::task::spawn_blocking(move || {
        // Fails only if the thread is gone already.
        let _ = sender.send(Message::Stop);
        writer.join()
    });
    if !matches!(joined.await, Ok(Ok(()))) {
        tracing::error!("the thread that queues what is sent on had ended by a panic");
    }
}

/// The thread that writes: many requests share one sync.
struct Writing {
    queue: Arc<Mutex<Queue>>,
    counters: Arc<Counters>,
    queued: Arc<Notify>,
}

impl Writing {
    fn run(&self, receiver: &Receiver<Message>) {
        while let Ok(Message::Write(first)) = receiver.recv() {
            let mut group = vec![first];
            let mut stop = false;
            while group.len() < GROUP_REQUESTS {
                match receiver.try_recv() {
                    Ok(Message::Write(waiting)) => group.push(waiting),
                    Ok(Message::Stop) => stop = true,
                    Err(_) => break,
                }
            }
            self.write(group);
            if stop {
                return;
            }
        }
    }

    fn write(&self, group: Vec<Waiting>) {
        let (requests, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|Waiting { request, written }| (request, written)).unzip();
        let files = {
            let mut queue = self.queue.lock();
            let files = queue.append(&requests);
            sender::publish(&queue, &self.counters);
            files
        };
        // Outside the lock: sending goes on meanwhile.
        for file in files {
            if let Err(error) = file.sync_data() {
                tracing::error!(%error, "what is to be sent on may not survive a power cut");
            }
        }
        self.counters.queued.fetch_add(count(requests.len()), Ordering::Relaxed);
        self.queued.notify_one();
        for answer in answers {
            // Whoever waited may have gone.
            let _ = answer.send(());
        }
    }
}
