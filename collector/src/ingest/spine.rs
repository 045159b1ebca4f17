//! Keeps a store going: opens it, then runs the thread that commits and the threads that seal and tend its files.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use lariat_schema::node_api::NodeIdentity;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::commit::{Committer, Job, Message, table_of};
use super::restore::restore;
use super::{Committed, Ingest, Refused};
use crate::columns::{bytes_of, has_schema_of};
use crate::decode::Decoded;
use crate::dedup::Window;
use crate::keep::Policies;
use crate::log::clock::CommitClock;
use crate::log::entry::Packer;
use crate::log::{CreateSegment, InForce};
use crate::span_metrics;
use crate::store::core::{Clock, Core};
use crate::store::directory::DirectoryError;
use crate::store::maintain::{StoreSettings, keep_maintaining};
use crate::store::manifest::ManifestError;
use crate::store::seal::HOT_BYTES_LIMIT;
use crate::store::write::SealError;

/// Requests that wait for a commit: some groups' worth.
const QUEUE: usize = 1_024;
/// Bytes of decoded rows between receiver and log: the design's bound for what is decoded in flight.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// When a client may come back after an overload.
const RETRY_OVERLOAD: Duration = Duration::from_secs(1);
/// How often the sealer looks whether something is due.
const SEAL_TICK: Duration = Duration::from_millis(250);
/// Pause after a failed seal.
const SEAL_RETRY: Duration = Duration::from_secs(5);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The log cannot be read.
    #[error("cannot read the log in {path}: {source}")]
    Log {
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Rows of it are only in a bucket that is not configured.
    #[error(
        "files of the store in {path} are only in its bucket: configure `collector.bucket` again, or move the data directory away to start anew"
    )]
    OnlyInBucket {
        /// The directory.
        path: PathBuf,
    },
    /// The folder of dedup keys cannot be made anew.
    #[error("cannot use {path} for dedup keys: {source}")]
    Dedup {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// How a store is opened.
pub(crate) struct SpineSettings {
    pub(crate) data_dir: PathBuf,
    pub(crate) identity: NodeIdentity,
    pub(crate) window: Window,
    pub(crate) flush_age: Duration,
    pub(crate) policies: Policies,
    pub(crate) clock: Clock,
    pub(crate) create_segment: CreateSegment,
    pub(crate) store: StoreSettings,
}

/// A store at work.
pub(crate) struct Spine {
    pub(crate) core: Arc<Core>,
    sender: SyncSender<Message>,
    in_flight_bytes: Arc<AtomicUsize>,
    policies: Arc<ArcSwap<Policies>>,
    killed: Arc<AtomicBool>,
    committer: Mutex<Option<JoinHandle<()>>>,
    workers: Mutex<Vec<(SyncSender<()>, JoinHandle<()>)>>,
}

impl Spine {
    /// Opens the store, replays its log and starts its threads. Reads the disk: not for async threads.
    pub(crate) fn open(settings: SpineSettings) -> Result<Self, OpenError> {
        let (core, log, dedup, policies) = restore(settings)?;
        let wanted_policies = Arc::new(ArcSwap::new(policies));
        let in_flight_bytes = Arc::new(AtomicUsize::new(0));
        let killed = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(QUEUE);
        let times = CommitClock::resume(core.state.lock().moment());
        let committer = Committer {
            core: Arc::clone(&core),
            log,
            packer: Packer::new().map_err(|error| OpenError::Thread(std::io::Error::other(error)))?,
            frames: Vec::new(),
            dedup,
            // Differs from what is wanted, so that the first commit puts the wanted ones in force.
            policies: Arc::new(Policies::default()),
            in_force: InForce::default(),
            wanted_policies: Arc::clone(&wanted_policies),
            in_flight_bytes: Arc::clone(&in_flight_bytes),
            killed: Arc::clone(&killed),
            times,
            next_status: i64::MIN,
            // The first points come an interval after the start, together.
            next_span_metrics: core.now().saturating_add(span_metrics::INTERVAL_NANOS),
        };
        let committer = std::thread::Builder::new()
            .name("lariat-commit".to_owned())
            .spawn(move || committer.run(&receiver))
            .map_err(OpenError::Thread)?;
        let mut workers = Vec::new();
        for (name, work) in [("lariat-seal", keep_sealing as Work), ("lariat-maintain", keep_maintaining as Work)] {
            let (stop, stopped) = sync_channel(1);
            let core = Arc::clone(&core);
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || work(&core, &stopped))
                .map_err(OpenError::Thread)?;
            workers.push((stop, thread));
        }
        Ok(Self {
            core,
            sender,
            in_flight_bytes,
            policies: wanted_policies,
            killed,
            committer: Mutex::new(Some(committer)),
            workers: Mutex::new(workers),
        })
    }

    /// Sets the policies for everything that is committed from now on.
    pub(crate) fn set_policies(&self, policies: Policies) {
        self.policies.store(Arc::new(policies));
    }

    /// Commits what waits and seals everything; nothing is written any more. Waits for the disk: not for async threads.
    pub(crate) fn seal_and_stop(&self) -> Result<(), SealError> {
        // Fails only if the thread is gone already.
        let _ = self.sender.send(Message::Stop);
        self.join();
        self.core.seal(true)
    }

    /// Gives the directory up. Waits for the disk as well.
    pub(crate) fn release(&self) {
        self.core.sweep();
        self.core.directory.release();
    }

    /// Ends cleanly.
    #[cfg(test)]
    pub(crate) fn close(&self) -> Result<(), SealError> {
        let sealed = self.seal_and_stop();
        self.release();
        sealed
    }

    /// Ends as a crash would: what is not in the log is lost, nothing is sealed.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        // Only wakes the thread; a full queue does it as well.
        let _ = self.sender.try_send(Message::Stop);
        self.join();
        self.assert_balanced();
        self.core.directory.release();
    }

    /// I-1 at every end: in a debug build it must hold, in a release it is a gauge of `/metrics`.
    fn assert_balanced(&self) {
        if cfg!(debug_assertions) && !std::thread::panicking() {
            let open: Vec<_> =
                self.core.state.lock().ledger().into_iter().filter(|line| !line.counts.closes()).collect();
            debug_assert!(open.is_empty(), "I-1 is broken: {open:?}");
        }
    }

    fn join(&self) {
        self.core.closing.store(true, Ordering::Release);
        let workers = std::mem::take(&mut *self.workers.lock());
        for (stop, _) in &workers {
            let _ = stop.try_send(());
        }
        for (_, worker) in workers {
            let name = worker.thread().name().unwrap_or_default().to_owned();
            if worker.join().is_err() {
                tracing::error!(thread = name, "a thread had ended by a panic");
            }
        }
        let committer = self.committer.lock().take();
        if committer.is_some_and(|committer| committer.join().is_err()) {
            tracing::error!("the committing thread had ended by a panic");
        }
    }

    /// Whether rows can be taken at all.
    fn is_open(&self) -> Result<(), Refused> {
        if self.core.state.lock().figures().hot_bytes > HOT_BYTES_LIMIT {
            return Err(Refused::Overloaded { retry_after: RETRY_OVERLOAD });
        }
        if self.core.over_budget.load(Ordering::Acquire) {
            self.core.counters.budget_refusals.fetch_add(1, Ordering::Relaxed);
            let reason = "the disk budget is used up".to_owned();
            return Err(Refused::NotDurable { reason, retry_after: super::commit::RETRY_DISK });
        }
        Ok(())
    }

    fn admit(&self, bytes: usize) -> Result<(), Refused> {
        self.is_open()?;
        let before = self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
        // A request larger than the whole bound is let in when it is alone.
        if before > 0 && before.saturating_add(bytes) > IN_FLIGHT_BYTES {
            self.in_flight_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(Refused::Overloaded { retry_after: RETRY_OVERLOAD });
        }
        Ok(())
    }
}

#[async_trait]
impl Ingest for Spine {
    fn has_room(&self, body_bytes: usize) -> Result<(), Refused> {
        self.is_open().inspect_err(|_| self.core.refused(body_bytes))
    }

    async fn ingest(&self, decoded: Decoded) -> Result<Committed, Refused> {
        let body_bytes = decoded.body_bytes;
        let refuse = |refused: Refused| {
            self.core.refused(body_bytes);
            refused
        };
        let rows = decoded.batch.num_rows();
        if !has_schema_of(&decoded.batch, table_of(decoded.signal))
            || decoded.keys.len() != rows
            || decoded.contents.len() != rows
        {
            let reason = format!("a decoded request has not the form of the table of {}", decoded.signal);
            tracing::error!(reason);
            return Err(refuse(Refused::NotDurable { reason, retry_after: super::commit::RETRY_DISK }));
        }
        if rows == 0 && decoded.rejected == 0 {
            return Ok(Committed::default());
        }
        let bytes = bytes_of(&decoded.batch);
        self.admit(bytes).map_err(refuse)?;
        let (reply, answer) = oneshot::channel();
        if let Err(error) = self.sender.try_send(Message::Commit(Box::new(Job { decoded, bytes, reply }))) {
            self.in_flight_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(refuse(match error {
                TrySendError::Full(_) => Refused::Overloaded { retry_after: RETRY_OVERLOAD },
                TrySendError::Disconnected(_) => Refused::ShuttingDown,
            }));
        }
        answer.await.unwrap_or_else(|_| Err(refuse(Refused::ShuttingDown)))
    }
}

impl Drop for Spine {
    /// Without [`Self::close`] an end is a crash.
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a thread in the background does until it is told to stop.
type Work = fn(&Core, &Receiver<()>);

fn keep_sealing(core: &Core, stop: &Receiver<()>) {
    let mut pause = SEAL_TICK;
    loop {
        match stop.recv_timeout(pause) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        pause = SEAL_TICK;
        if core.seal_is_due()
            && let Err(error) = core.seal(false)
        {
            tracing::error!(%error, "cannot seal: the rows stay in memory and in the log");
            pause = SEAL_RETRY;
        }
    }
}
