//! Puts the stages of a collector together, and takes them apart in the order that loses nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lariat_schema::node_api::NodeIdentity;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod config;

pub use config::Config;

use crate::decode::{BadMapping, Mapping};
use crate::dedup::Window;
use crate::forward::{Forward, ForwardError};
use crate::ingest::spine::{Spine, SpineSettings};
use crate::ingest::{Ingest, OpenError};
use crate::keep::Policies;
use crate::log::segment::create_on_disk;
pub use crate::node_api::NodeApiError;
use crate::node_api::{Figures, NodeApi, Readiness, Server};
use crate::receive::{self, Beside, Receiver};
use crate::store::core::{Core, system_clock};
use crate::store::upload::keep_uploading;
use crate::store::write::SealError;
use crate::store::{BucketError, ReadStore};
#[cfg(feature = "worker")]
use crate::worker::{self, WorkerError};

/// Part of a clean end that is kept for telling those who listen.
const FAREWELL: Duration = Duration::from_secs(1);

/// Everything that a collector is started with.
pub struct Settings {
    /// Section `collector`.
    pub config: Config,
    /// The store's directory.
    pub data_dir: PathBuf,
    /// Who this process is.
    pub identity: NodeIdentity,
    /// The cluster token; never printed.
    pub token: Option<Arc<str>>,
    /// What is kept of each profile.
    pub policies: Policies,
    /// Whether a proxy runs beside it, whose heartbeats are then expected.
    pub has_proxy: bool,
}

/// Why a collector did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its node API cannot listen.
    #[error(transparent)]
    NodeApi(#[from] NodeApiError),
    /// Its mapping file is wrong.
    #[error(transparent)]
    Mapping(#[from] BadMapping),
    /// What is received cannot be sent on.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The receivers cannot listen.
    #[error(transparent)]
    Receive(#[from] receive::StartError),
    /// Its bucket cannot be used as configured.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The worker that queries read through cannot be made.
    #[cfg(feature = "worker")]
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The process is ending.
    #[error("the start was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// Where a collector listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// OTLP over gRPC.
    pub otlp_grpc: SocketAddr,
    /// OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// The node API.
    pub node_api: SocketAddr,
}

/// A collector at work.
pub struct Collector {
    spine: Arc<Spine>,
    forward: Option<Forward>,
    receiver: Receiver,
    node_api: Server,
    readiness: Readiness,
    uploads: Option<Uploads>,
    mapping: Option<PathBuf>,
}

/// What brings files into the bucket. Dropped, it ends at once.
struct Uploads {
    core: Arc<Core>,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Uploads {
    fn start(core: &Arc<Core>) -> Option<Self> {
        let bucket = Arc::new(core.settings.bucket.clone()?);
        let ending = CancellationToken::new();
        let task = tokio::spawn(keep_uploading(Arc::clone(core), bucket, ending.clone()));
        Some(Self { core: Arc::clone(core), ending, task })
    }

    /// Brings what is sealed into the bucket, merged as far as there is time; what is left waits for the next start.
    async fn finish(mut self, ends: Instant) {
        if left(ends).is_zero() {
            return;
        }
        let core = Arc::clone(&self.core);
        core.closing.store(false, Ordering::Release);
        let mut merging = tokio::task::spawn_blocking(move || core.finish_files());
        // Half of the time: a file that is not merged is not uploaded, and a merged one neither if no time is left.
        let merged = match tokio::time::timeout(left(ends) / 2, &mut merging).await {
            Ok(merged) => merged,
            Err(_) => {
                self.core.closing.store(true, Ordering::Release);
                merging.await
            }
        };
        self.core.closing.store(true, Ordering::Release);
        match merged {
            Ok(Ok(()) | Err(SealError::Closing)) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot merge the last files for the bucket"),
            Err(error) => tracing::error!(%error, "merging the last files for the bucket ended early"),
        }
        self.ending.cancel();
        if tokio::time::timeout_at(ends, &mut self.task).await.is_err() {
            tracing::warn!(
                "the last files were still on their way to the bucket at the deadline: the next start goes on"
            );
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens the store, replays its log, then listens.
///
/// # Errors
/// When the directory or an address cannot be used; the text says which and what to do.
pub fn start(settings: Settings) -> Starting {
    Box::pin(open_and_listen(settings))
}

/// A collector that is being started. The box keeps what receives in this crate: the body of an `async fn` is compiled by
/// whoever awaits it, and the crate of the command line, which does, is not optimised.
pub type Starting = Pin<Box<dyn Future<Output = Result<Collector, StartError>> + Send>>;

/// The reading of a mapping file; false if there is none.
pub type ReloadingMapping = Pin<Box<dyn Future<Output = Result<bool, BadMapping>> + Send>>;

async fn open_and_listen(settings: Settings) -> Result<Collector, StartError> {
    let Settings { config, data_dir, identity, token, policies, has_proxy } = settings;
    let mapping = config.mapping.as_deref().map(Mapping::read).transpose()?.map(Arc::new);
    let window = Window {
        age_nanos: i64::try_from(config.dedup_window.as_nanos()).unwrap_or(i64::MAX),
        decisions: config.dedup_decisions,
    };
    let spine_settings = SpineSettings {
        data_dir,
        identity,
        window,
        flush_age: config.flush_age,
        policies,
        clock: system_clock(),
        create_segment: Box::new(create_on_disk),
        store: config.store()?,
    };
    let spine = Arc::new(tokio::task::spawn_blocking(move || Spine::open(spine_settings)).await??);
    let forward = match config.forward.clone() {
        Some(settings) => Some(Forward::start(settings, &spine.core.directory.root).await?),
        None => None,
    };
    match listen(&config, mapping, &spine, forward.as_ref(), has_proxy, token).await {
        Ok((node_api, readiness, receiver)) => {
            let uploads = Uploads::start(&spine.core);
            Ok(Collector { spine, forward, receiver, node_api, readiness, uploads, mapping: config.mapping })
        }
        Err(error) => {
            if let Some(forward) = forward {
                forward.kill();
            }
            Err(error)
        }
    }
}

async fn listen(
    config: &Config,
    mapping: Option<Arc<Mapping>>,
    spine: &Arc<Spine>,
    forward: Option<&Forward>,
    has_proxy: bool,
    token: Option<Arc<str>>,
) -> Result<(Server, Readiness, Receiver), StartError> {
    let counters = Arc::clone(&spine.core.counters.received);
    let beside = Beside { token, counters, forwarder: forward.map(Forward::forwarder) };
    #[cfg(feature = "worker")]
    let (queries, pins) = {
        let store = Arc::clone(&spine.core) as Arc<dyn ReadStore>;
        worker::routes(store, spine.core.identity.clone(), has_proxy, beside.token.clone())?
    };
    let figures = Figures {
        core: Arc::clone(&spine.core),
        forwarded: forward.map(Forward::counters),
        #[cfg(feature = "worker")]
        pins,
    };
    let api = NodeApi::new(figures, has_proxy, beside.token.clone()).await;
    #[cfg(feature = "worker")]
    let api = api.with_routes(queries);
    let readiness = api.readiness();
    let node_api = api.listen(config.node_api).await?;
    let ingest = Arc::clone(spine) as Arc<dyn Ingest>;
    match receive::start_beside(config.receive(mapping), ingest, beside).await {
        Ok(receiver) => Ok((node_api, readiness, receiver)),
        Err(error) => {
            node_api.kill();
            Err(error.into())
        }
    }
}

impl Collector {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses {
            otlp_grpc: self.receiver.grpc_address(),
            otlp_http: self.receiver.http_address(),
            node_api: self.node_api.address,
        }
    }

    /// The reader's side of its store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn ReadStore> {
        Arc::clone(&self.spine.core) as Arc<dyn ReadStore>
    }

    /// The writer's side, as the receivers use it.
    #[must_use]
    pub fn ingest(&self) -> Arc<dyn Ingest> {
        Arc::clone(&self.spine) as Arc<dyn Ingest>
    }

    /// Sets what is kept of each profile from now on.
    pub fn set_policies(&self, policies: Policies) {
        self.spine.set_policies(policies);
    }

    /// The same as [`Self::set_policies`], for who outlives a borrow; it does nothing once the collector has ended.
    pub fn policy_setter(&self) -> impl Fn(Policies) + Send + Sync + use<> {
        let spine = Arc::downgrade(&self.spine);
        move |policies| {
            if let Some(spine) = spine.upgrade() {
                spine.set_policies(policies);
            }
        }
    }

    /// What the receivers count.
    #[must_use]
    pub fn received(&self) -> Arc<receive::Counters> {
        self.receiver.counters()
    }

    /// Reads the mapping file again and puts it in force from the next request on; false if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no mapping: the old one stays in force.
    pub async fn reload_mapping(&self) -> Result<bool, BadMapping> {
        self.mapping_reloader()().await
    }

    /// The same as [`Self::reload_mapping`], for who outlives a borrow; it puts nothing in force once the collector has ended.
    pub fn mapping_reloader(&self) -> impl Fn() -> ReloadingMapping + Send + Sync + use<> {
        let (path, set) = (self.mapping.clone(), Arc::new(self.receiver.mapping_setter()));
        move || {
            let (path, set) = (path.clone(), Arc::clone(&set));
            Box::pin(async move {
                let Some(path) = path else { return Ok(false) };
                let source = path.clone();
                let read = tokio::task::spawn_blocking(move || Mapping::read(&path)).await;
                let mapping = read.unwrap_or_else(|error| {
                    Err(BadMapping::Read { path: source, source: std::io::Error::other(error) })
                })?;
                set(Arc::new(mapping));
                Ok(true)
            })
        }
    }

    /// Says that it is ending, stops receiving, commits what was taken in, seals what is hot, brings that into the bucket and
    /// sends on what waits for that, and ends; what does not fit into `deadline` stays in the log, on the disk and in the
    /// queue.
    pub async fn shutdown(self, deadline: Duration) {
        let Self { spine, forward, receiver, node_api, readiness, uploads, .. } = self;
        let ends = Instant::now() + deadline;
        readiness.drain().await;
        // Half of the time at most: what was acknowledged must still reach the disk in order.
        if !receiver.shutdown(deadline / 2).await {
            tracing::warn!("senders were cut off with requests under way: they will send them again");
        }
        let store = Arc::clone(&spine);
        let mut sealing = tokio::task::spawn_blocking(move || store.seal_and_stop());
        let sending_on = async {
            if let Some(forward) = forward {
                forward.shutdown(left(ends)).await;
            }
        };
        let stored = async {
            match tokio::time::timeout_at(ends, &mut sealing).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::error!(%error, "cannot seal at the end: the rows stay in the log"),
                Ok(Err(error)) => tracing::error!(%error, "the store did not close"),
                Err(_) => {
                    tracing::warn!("the store was still sealing at the deadline: the rest stays in the log");
                    return false;
                }
            }
            if let Some(uploads) = uploads {
                // Whoever queries the node must still hear its farewell.
                uploads.finish(ends - (deadline / 10).min(FAREWELL)).await;
            }
            true
        };
        let (stored, ()) = tokio::join!(stored, sending_on);
        // The directory is ours as long as something is written there.
        let release = async move {
            if !stored {
                let _ = sealing.await;
            }
            tokio::task::spawn_blocking(move || spine.release()).await
        };
        if stored {
            if let Err(error) = release.await {
                tracing::error!(%error, "the data directory was not released");
            }
        } else {
            tokio::spawn(release);
        }
        node_api.shutdown(left(ends)).await;
    }

    /// Ends at once, as a crash would: no seal, no farewell. Everything acknowledged is in the log.
    pub fn kill(self) {
        self.receiver.kill();
        self.node_api.kill();
        // While the directory is still ours.
        if let Some(forward) = self.forward {
            forward.kill();
        }
        self.spine.kill();
    }
}

fn left(ends: Instant) -> Duration {
    ends.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests;
