//! Puts the stages of a collector together, and takes them apart in the order that loses nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lariat_schema::node_api::NodeIdentity;
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
use crate::node_api::{Figures, NodeApi, Server};
use crate::receive::{self, Beside, Receiver};
use crate::store::core::{Core, system_clock};
use crate::store::upload::keep_uploading;
use crate::store::{BucketError, ReadStore};
use crate::worker::{self, WorkerError};

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
    uploads: Uploads,
}

/// What brings files into the bucket. Dropped, it ends.
struct Uploads(CancellationToken);

impl Uploads {
    fn start(core: &Arc<Core>) -> Self {
        let stop = CancellationToken::new();
        if let Some(bucket) = &core.settings.bucket {
            tokio::spawn(keep_uploading(Arc::clone(core), Arc::new(bucket.clone()), stop.clone()));
        }
        Self(stop)
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.0.cancel();
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
        Ok((node_api, receiver)) => {
            let uploads = Uploads::start(&spine.core);
            Ok(Collector { spine, forward, receiver, node_api, uploads })
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
) -> Result<(Server, Receiver), StartError> {
    let store = Arc::clone(&spine.core) as Arc<dyn ReadStore>;
    let queries = worker::routes(store, spine.core.identity.clone(), has_proxy, token.clone())?;
    let beside = Beside { token, counters: Arc::default(), forwarder: forward.map(Forward::forwarder) };
    let figures = Figures {
        core: Arc::clone(&spine.core),
        received: Arc::clone(&beside.counters),
        forwarded: forward.map(Forward::counters),
    };
    let api = NodeApi::new(figures, has_proxy, beside.token.clone()).await.with_routes(queries);
    let node_api = api.listen(config.node_api).await?;
    let ingest = Arc::clone(spine) as Arc<dyn Ingest>;
    match receive::start_beside(config.receive(mapping), ingest, beside).await {
        Ok(receiver) => Ok((node_api, receiver)),
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

    /// Stops receiving, commits what was taken in, seals what is hot and sends on what waits for that, and ends; what does
    /// not fit into `deadline` stays in the log and in the queue.
    pub async fn shutdown(self, deadline: Duration) {
        let Self { spine, forward, receiver, node_api, uploads } = self;
        drop(uploads);
        let ends = tokio::time::Instant::now() + deadline;
        // Half of the time at most: what was acknowledged must still reach the disk in order.
        if !receiver.shutdown(deadline / 2).await {
            tracing::warn!("senders were cut off with requests under way: they will send them again");
        }
        let closing = tokio::task::spawn_blocking(move || spine.close());
        let sending_on = async {
            if let Some(forward) = forward {
                forward.shutdown(left(ends)).await;
            }
        };
        match tokio::join!(tokio::time::timeout_at(ends, closing), sending_on).0 {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!(%error, "cannot seal at the end: the rows stay in the log"),
            Ok(Err(error)) => tracing::error!(%error, "the store did not close"),
            Err(_) => tracing::warn!("the store was still sealing at the deadline: the rest stays in the log"),
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

fn left(ends: tokio::time::Instant) -> Duration {
    ends.saturating_duration_since(tokio::time::Instant::now())
}

#[cfg(test)]
mod tests;
