//! JSON-RPC in → decision → attempts → reply, and the record of it.
//!
//! The modules stand in the order in which a call meets them. Deciding is pure (`decide`, `strategies`, `classify`,
//! `circuit`, `policy`); acting is in `server`, `call`, `upstream` and `probe`; telling is in `record`, which no call
//! ever waits for. A proxy needs no other node, and nothing of it is global to the process.

pub mod profiles;

mod admit;
mod gather;
mod reply_budget;
mod server;

mod jsonrpc;
mod refusal;
mod trace_context;

mod call;
mod core;
mod filters;
mod policy;
pub mod reload;
mod saving;

mod circuit;
mod health;

mod decide;
pub mod strategies;

mod classify;
mod probe;
mod upstream;

mod subscribe;

pub mod record;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lariat_schema::node_api::NodeIdentity;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admit::rate::Limits;
use crate::admit::{Bounds, Gate};
use crate::core::Core;
use crate::filters::Filters;
use crate::health::Book;
use crate::record::{DigestKey, Sources, SpanIds};
use crate::reload::{Changes, ReloadError, Reloader};
use crate::saving::Saving;
use crate::server::Site;
use crate::server::ws::Life;
pub use crate::upstream::CaFileError;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000);
/// Requests at once; each may be a batch.
const DEFAULT_MAX_IN_FLIGHT: usize = 4_096;
const DEFAULT_CIRCUIT_RECOVERY_MS: u64 = 30_000;
/// Part of a clean end that calls under way may take; the rest is for their record.
const CALLS_SHARE: f64 = 0.7;

/// Section `proxy` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where calls are accepted; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Requests served at once; further ones get a 503.
    pub max_in_flight: usize,
    /// How long a circuit stays open the first time, in milliseconds.
    pub circuit_recovery_ms: u64,
    /// Authorities that providers' certificates may come from besides the public ones: a file of certificates in PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether an address beyond loopback may be bound although nobody is asked for a key.
    pub allow_open_access: bool,
}

impl Config {
    /// True where the configuration would open the proxy to everybody without saying so.
    #[must_use]
    pub fn is_open_unsaid(&self) -> bool {
        !self.listen.ip().is_loopback() && !self.allow_open_access
    }

    /// Reads what the configuration names.
    ///
    /// # Errors
    /// The file of authorities holds none.
    pub fn check_files(&self) -> Result<(), CaFileError> {
        upstream::Trust::read(self.ca_file.as_deref()).map(|_| ())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            circuit_recovery_ms: DEFAULT_CIRCUIT_RECOVERY_MS,
            ca_file: None,
            allow_open_access: false,
        }
    }
}

/// Everything that a proxy is started with.
pub struct Settings {
    /// Its section of the configuration.
    pub config: Config,
    /// What it routes at first.
    pub profiles: Arc<profiles::Catalog>,
    /// Where the profiles are read again from; without it there are no reloads.
    pub source: Option<reload::Source>,
    /// What else `POST /admin/reload` reads again.
    pub beside: Option<reload::Beside>,
    /// Who it is.
    pub identity: NodeIdentity,
    /// Where its record goes.
    pub exporter: record::ExporterConfig,
    /// Token of admin calls; without one there are none.
    pub admin_token: Option<String>,
}

/// Why a proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Binding beyond loopback would open the providers, and what they cost, to everybody.
    #[error(
        "proxy.listen {address} is not loopback, and nobody would be asked for a key: set proxy.allow_open_access to bind it"
    )]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// The operator's: the address cannot be bound.
    #[error("cannot listen on {address}: {source}; stop what uses it, or set proxy.listen to another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The operator's: the exporter's settings make no sense.
    #[error("cannot record to `{endpoint}`: {problem}")]
    Exporter {
        /// The configured endpoint.
        endpoint: String,
        /// What is wrong.
        problem: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The operator's: the authorities of providers' certificates cannot be read.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    site: Arc<Site>,
    recording: record::Running,
    tasks: TaskTracker,
    draining: CancellationToken,
    background: CancellationToken,
    kill: CancellationToken,
}

/// Starts a proxy on the current runtime; it serves when this returns.
///
/// # Errors
/// See [`StartError`].
pub fn start(settings: Settings) -> Starting {
    let bounds = Bounds::new(settings.config.max_in_flight);
    Box::pin(start_within(settings, bounds))
}

/// A proxy that is being started. The box keeps what serves calls in this crate: the body of an `async fn` is compiled
/// by whoever awaits it, and the crate of the command line, which does, is not optimised.
pub type Starting = Pin<Box<dyn Future<Output = Result<Proxy, StartError>> + Send>>;

async fn start_within(settings: Settings, bounds: Bounds) -> Result<Proxy, StartError> {
    let Settings { config, profiles: catalog, source, beside, identity, exporter, admin_token } = settings;
    if config.is_open_unsaid() {
        return Err(StartError::Open { address: config.listen });
    }
    let bind = |source| StartError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let kill = CancellationToken::new();
    let gate = Gate::new(bounds);
    let trust = upstream::Trust::read(config.ca_file.as_deref())?;
    let upstreams = Arc::new(upstream::Upstreams::new(&catalog, trust, gate.replies.clone(), kill.clone())?);
    let book = Book::new(catalog.shared_instances(), config.circuit_recovery_ms);
    let book = Arc::new(book.attending(&catalog, &upstreams));
    let digests = DigestKey::new(admin_token.as_deref());
    let sources = Sources::new(identity.clone(), catalog.clone(), book.clone(), digests.clone());
    let recording = record::start(&exporter, sources)
        .map_err(|problem| StartError::Exporter { endpoint: exporter.endpoint.clone(), problem })?;
    let (boot_id, hash_seed, span_ids) = (identity.boot_id, rand::random(), SpanIds::random());
    let recorder = recording.recorder.clone();
    let saving = Saving::new(&catalog);
    let filters = Arc::new(Filters::default());
    let (tasks, draining, background) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let files = reload::Files { source, ca_file: config.ca_file.clone(), beside };
    let reloader = Reloader::new(files, catalog.clone(), tasks.clone(), background.clone());
    let limits = Limits::new(&catalog);
    let life = Life { tasks: tasks.clone(), draining: draining.clone(), kill: kill.clone() };
    let core =
        Core { catalog, book, limits, upstreams, saving, filters, recorder, boot_id, hash_seed, span_ids, digests };
    let site = Arc::new(Site::new(core, gate, admin_token, identity, reloader, life));
    tasks.spawn(probe::keep_book(site.clone(), background.clone()));
    reload::keep_instances(&site);
    tasks.spawn(reload::watch_files(site.clone(), background.clone()));
    tasks.spawn(server::accept(listener, site.clone()));
    Ok(Proxy { address, site, recording, tasks, draining, background, kill })
}

impl Proxy {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads the profiles again and puts them in force; calls under way finish under the old ones.
    ///
    /// # Errors
    /// Then the old ones stay.
    pub async fn reload(&self) -> Result<Changes, ReloadError> {
        reload::reload(&self.site).await
    }

    /// The profiles in force, and each time others are put in force, those.
    #[must_use]
    pub fn catalogs(&self) -> watch::Receiver<Arc<profiles::Catalog>> {
        self.site.reloader.catalogs()
    }

    /// Stops accepting, lets calls finish, sends what is recorded and says farewell; what is not done at the deadline is
    /// dropped. Says whether everything was done.
    pub async fn shutdown(self, deadline: Duration) -> bool {
        let now = tokio::time::Instant::now();
        let (calls_until, deadline) = (now + deadline.mul_f64(CALLS_SHARE), now + deadline);
        self.draining.cancel();
        self.background.cancel();
        self.tasks.close();
        let finished = tokio::time::timeout_at(calls_until, self.tasks.wait()).await.is_ok();
        if !finished {
            tracing::warn!(connections = self.tasks.len(), "calls were still under way at the deadline");
        }
        self.kill.cancel();
        let recorded = self.recording.finish(deadline).await;
        if !recorded {
            tracing::warn!("the record was not delivered in full before the deadline");
        }
        finished && recorded
    }

    /// Ends at once, as if the process were gone: no farewell, nothing flushed, sockets closed.
    pub fn kill(self) {
        self.recording.kill();
        self.background.cancel();
        self.kill.cancel();
    }
}
