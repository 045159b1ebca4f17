//! A simulated Ethereum provider over HTTP and WebSocket, in clear or over TLS, on one port. The demo, the tests and the benchmarks use this
//! one: a second, simpler provider for tests was rejected, since what the tests prove would not hold in the demo.
//!
//! What a call gets is decided by [`behaviour::Behaviour`] (simulated, seeded) or by [`script::Script`] (exact bytes);
//! [`ProviderHandle::received`] tells what came in. It never talks to any network beyond its own listener.

mod answers;
pub mod behaviour;
mod connection;
pub mod frames;
pub mod raw;
mod received;
mod respond;
pub mod script;
mod secure;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::chain::Chain;
use answers::View;
pub use answers::{REVERTING_SELECTOR, RpcError};
use behaviour::{Behaviour, Fault, Moment};
use received::Account;
pub use received::{BODIES_KEPT, ProviderStats, Received};
use script::Script;
pub use secure::Tls;

/// What a provider is made of.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// Its name, which `web3_clientVersion` tells.
    pub name: String,
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The chain that it serves, shared with other providers.
    pub chain: Arc<Chain>,
    /// What its latencies and faults are drawn from.
    pub seed: u64,
    /// How it behaves at first.
    pub behaviour: Behaviour,
    /// Exact replies that come before its behaviour.
    pub script: Option<Script>,
    /// Its certificate, where it speaks TLS.
    pub tls: Option<Tls>,
}

impl ProviderSettings {
    /// A provider of `chain` on a free port of loopback, that answers at once and without fault.
    #[must_use]
    pub fn new(name: impl Into<String>, chain: Arc<Chain>) -> Self {
        Self {
            name: name.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            chain,
            seed: 1,
            behaviour: Behaviour::default(),
            script: None,
            tls: None,
        }
    }

    /// With this behaviour.
    #[must_use]
    pub fn behaving(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    /// Over TLS, HTTP/2 or HTTP/1.1 as the client prefers.
    #[must_use]
    pub fn over(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// With these exact replies.
    #[must_use]
    pub fn scripted(mut self, script: Script) -> Self {
        self.script = Some(script);
        self
    }
}

/// A provider that could not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; choose another port, or 0 for a free one")]
pub struct StartError {
    /// Where it should have listened.
    pub address: SocketAddr,
    /// Why it could not.
    #[source]
    pub source: io::Error,
}

/// Calls in the current second.
#[derive(Debug, Default)]
struct Window {
    second: u64,
    calls: u32,
}

/// What all connections of a provider share.
#[derive(Debug)]
pub(crate) struct State {
    name: String,
    chain: Arc<Chain>,
    seed: u64,
    started: Instant,
    behaviour: RwLock<Behaviour>,
    script: Option<Mutex<Script>>,
    tls: Option<Tls>,
    down: watch::Sender<bool>,
    ordinal: AtomicU64,
    window: Mutex<Window>,
    account: Mutex<Account>,
    /// The newest block that a subscriber was told of.
    announced: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl State {
    fn since_start_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Height as this provider sees it.
    fn height(&self) -> u64 {
        self.chain.height().saturating_sub(self.behaviour.read().lag_blocks)
    }

    /// Whether connections are refused: taken down by hand, or by an outage that resets.
    fn is_unreachable(&self) -> bool {
        *self.down.borrow()
            || self.behaviour.read().outage.is_some_and(|o| o.fault == Fault::Reset && o.is_down(self.since_start_ms()))
    }

    /// Returns once the provider is taken down by hand.
    async fn taken_down(&self) {
        // The sender lives in this very state, so that the wait cannot end by its being dropped.
        let _ = self.down.subscribe().wait_for(|down| *down).await;
    }

    fn next_moment(&self) -> Moment {
        let since_start_ms = self.since_start_ms();
        let mut window = self.window.lock();
        if window.second != since_start_ms / 1_000 {
            *window = Window { second: since_start_ms / 1_000, calls: 0 };
        }
        window.calls = window.calls.saturating_add(1);
        Moment {
            ordinal: self.ordinal.fetch_add(1, Ordering::Relaxed),
            since_start_ms,
            calls_this_second: window.calls,
        }
    }

    fn answer(&self, method: &str, params: &Value) -> Result<Value, RpcError> {
        let (state_depth_blocks, max_block_range) = {
            let behaviour = self.behaviour.read();
            (behaviour.state_depth_blocks, behaviour.max_block_range)
        };
        let view =
            View { chain: &self.chain, client: &self.name, height: self.height(), state_depth_blocks, max_block_range };
        view.answer(method, params)
    }

    fn stats(&self) -> ProviderStats {
        self.account.lock().stats.clone()
    }
}

/// A provider of simulated answers.
#[derive(Debug)]
pub struct Provider;

impl Provider {
    /// Listens and serves until the handle is shut down or dropped.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(settings: ProviderSettings) -> Result<ProviderHandle, StartError> {
        let bind_error = |source| StartError { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let (down, _) = watch::channel(false);
        let stop = CancellationToken::new();
        let state = Arc::new(State {
            name: settings.name,
            chain: settings.chain,
            seed: settings.seed,
            started: Instant::now(),
            behaviour: RwLock::new(settings.behaviour),
            script: settings.script.map(Mutex::new),
            tls: settings.tls,
            down,
            ordinal: AtomicU64::new(0),
            window: Mutex::default(),
            account: Mutex::default(),
            announced: AtomicU64::new(0),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        state.tasks.spawn(serve::accept(Arc::clone(&state), listener));
        Ok(ProviderHandle { address, state, _stop: stop.drop_guard() })
    }
}

/// A running provider. Dropping it ends it.
#[derive(Debug)]
pub struct ProviderHandle {
    address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

impl ProviderHandle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL for JSON-RPC over HTTP.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http{}://{}", self.tls_letter(), self.address)
    }

    /// Its URL for JSON-RPC over WebSocket.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws{}://{}", self.tls_letter(), self.address)
    }

    fn tls_letter(&self) -> &'static str {
        if self.state.tls.is_some() { "s" } else { "" }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Height as this provider sees it.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.state.height()
    }

    /// The newest block that it told any subscriber of; 0 where it told of none. What it tells next comes after that.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.state.announced.load(Ordering::Acquire)
    }

    /// What it counted since its start.
    #[must_use]
    pub fn stats(&self) -> ProviderStats {
        self.state.stats()
    }

    /// The newest calls, at most [`BODIES_KEPT`], oldest first.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.state.account.lock().kept.iter().cloned().collect()
    }

    /// How many calls of `method` came in.
    #[must_use]
    pub fn received_of(&self, method: &str) -> u64 {
        self.state.account.lock().stats.by_method.get(method).copied().unwrap_or(0)
    }

    /// Headers of the newest HTTP requests that named a trace, at most [`BODIES_KEPT`], oldest first.
    #[must_use]
    pub fn traced(&self) -> Vec<http::HeaderMap> {
        self.state.account.lock().traced.iter().cloned().collect()
    }

    /// How it behaves now.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        self.state.behaviour.read().clone()
    }

    /// Behaves like this from the next call on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.state.behaviour.write() = behaviour;
    }

    /// Resets every connection and refuses new ones until [`ProviderHandle::come_up`].
    pub fn go_down(&self) {
        self.state.down.send_replace(true);
    }

    /// Accepts connections again.
    pub fn come_up(&self) {
        self.state.down.send_replace(false);
    }

    /// Ends it and waits until its port is free and its connections are closed.
    pub async fn shutdown(self) {
        self.state.stop.cancel();
        self.state.tasks.close();
        self.state.tasks.wait().await;
    }
}
