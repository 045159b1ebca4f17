//! The demo's client: distinct calls at a steady rate, spread over the nodes and their strategies. It is open-loop: a
//! slow answer does not slow the calls that follow, since a client that waits hides the trouble that it should show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::RwLock;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::calls::Mix;
use crate::chain::Chain;
use crate::fleet::CHAIN_NAME;

/// Requests under way at once; those beyond it are not sent, and counted.
const IN_FLIGHT_MAX: usize = 512;
/// A request is given up after this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest reply that is read.
const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Share of requests that are batches.
const BATCH_SHARE: f64 = 0.06;
/// Longest batch.
const BATCH_MAX: u64 = 5;
/// Codes that are the call's own fault.
const APPLICATION_ERRORS: [i64; 3] = [3, -32601, -32602];

/// What traffic to make.
#[derive(Debug, Clone)]
pub struct TrafficSettings {
    /// Base URLs of the proxies, as `http://127.0.0.1:4000`.
    pub targets: Vec<String>,
    /// Calls per second, all targets together; each item of a batch is a call.
    pub calls_per_second: f64,
    /// What the calls are drawn from.
    pub seed: u64,
    /// The methods.
    pub mix: Mix,
    /// The chain whose blocks and transactions the calls ask for, where it is known.
    pub chain: Option<Arc<Chain>>,
}

impl TrafficSettings {
    /// Realistic traffic to these proxies.
    #[must_use]
    pub fn new(targets: Vec<String>, calls_per_second: f64) -> Self {
        Self { targets, calls_per_second, seed: 1, mix: Mix::realistic(), chain: None }
    }
}

/// What became of the calls so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCounts {
    /// Calls sent.
    pub sent: u64,
    /// Calls answered with a result.
    pub ok: u64,
    /// Calls that failed by their own fault: reverts, bad parameters, unknown methods.
    pub application_errors: u64,
    /// Calls that failed otherwise.
    pub errors: u64,
    /// Calls not sent, since too many were under way or no target was known.
    pub not_sent: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    ok: AtomicU64,
    application_errors: AtomicU64,
    errors: AtomicU64,
    not_sent: AtomicU64,
}

/// The targets as of now: read for each request, replaced when a node goes or comes.
type Targets = RwLock<Arc<Vec<String>>>;

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Running traffic. Dropping it ends it.
#[derive(Debug)]
pub struct TrafficHandle {
    counters: Arc<Counters>,
    targets: Arc<Targets>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// Starts traffic.
#[must_use]
pub fn start(settings: TrafficSettings) -> TrafficHandle {
    let counters = Arc::new(Counters::default());
    let targets = Arc::new(RwLock::new(Arc::new(settings.targets.clone())));
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let sender = Sender {
        settings,
        counters: Arc::clone(&counters),
        targets: Arc::clone(&targets),
        tasks: tasks.clone(),
        client: Client::builder(TokioExecutor::new()).build_http(),
    };
    let token = stop.clone();
    tasks.spawn(async move { sender.run(token).await });
    TrafficHandle { counters, targets, tasks, _guard: stop.clone().drop_guard(), stop }
}

impl TrafficHandle {
    /// What became of the calls so far.
    #[must_use]
    pub fn counts(&self) -> TrafficCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrafficCounts {
            sent: load(&self.counters.sent),
            ok: load(&self.counters.ok),
            application_errors: load(&self.counters.application_errors),
            errors: load(&self.counters.errors),
            not_sent: load(&self.counters.not_sent),
        }
    }

    /// Sends to these proxies from now on.
    pub fn set_targets(&self, targets: Vec<String>) {
        *self.targets.write() = Arc::new(targets);
    }

    /// Sends nothing more, waits at most `grace` for the answers under way, and returns the counts.
    pub async fn stop(self, grace: Duration) -> TrafficCounts {
        self.stop.cancel();
        self.tasks.close();
        // Answers that come later than that are counted as neither.
        let _ = tokio::time::timeout(grace, self.tasks.wait()).await;
        self.counts()
    }
}

struct Sender {
    settings: TrafficSettings,
    counters: Arc<Counters>,
    targets: Arc<Targets>,
    tasks: TaskTracker,
    client: HttpClient,
}

impl Sender {
    async fn run(self, stop: CancellationToken) {
        if self.settings.calls_per_second <= 0.0 {
            return;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let rate = self.settings.calls_per_second;
        let started = Instant::now();
        let mut calls = 0;
        loop {
            let due = started + Duration::from_secs_f64(f64::from(u32::try_from(calls).unwrap_or(u32::MAX)) / rate);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
            }
            let size = if rng.random_bool(BATCH_SHARE) { rng.random_range(2..=BATCH_MAX) } else { 1 };
            let body = self.body(calls, size);
            calls += size;
            let targets = Arc::clone(&self.targets.read());
            let permit = Arc::clone(&permits).try_acquire_owned().ok();
            let (Some(permit), false) = (permit, targets.is_empty()) else {
                self.counters.not_sent.fetch_add(size, Ordering::Relaxed);
                continue;
            };
            let target = &targets[rng.random_range(0..targets.len())];
            let url = format!("{}{}", target.trim_end_matches('/'), path(&mut rng));
            self.counters.sent.fetch_add(size, Ordering::Relaxed);
            let (client, counters) = (self.client.clone(), Arc::clone(&self.counters));
            self.tasks.spawn(async move {
                let reply = tokio::time::timeout(REQUEST_TIMEOUT, post(&client, &url, body)).await;
                counters.add(size, reply.ok().flatten().as_deref());
                drop(permit);
            });
        }
    }

    fn body(&self, first: u64, size: u64) -> String {
        let chain = self.settings.chain.as_deref();
        let call = |n| self.settings.mix.call(self.settings.seed, n, chain);
        if size == 1 {
            return call(first);
        }
        let calls: Vec<String> = (first..first + size).map(call).collect();
        format!("[{}]", calls.join(","))
    }
}

/// A path of the proxy, of one strategy or the default.
fn path(rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..100) {
        0..40 => format!("/rpc/{CHAIN_NAME}"),
        40..70 => format!("/rpc/fastest/{CHAIN_NAME}"),
        70..82 => format!("/rpc/latency-weighted/{CHAIN_NAME}"),
        82..92 => format!("/rpc/load-balanced/{CHAIN_NAME}"),
        _ => format!("/rpc/{CHAIN_NAME}?strategy=priority"),
    }
}

/// The body of a reply with status 200.
async fn post(client: &HttpClient, url: &str, body: String) -> Option<Bytes> {
    let request = http::Request::post(url).header(http::header::CONTENT_TYPE, "application/json");
    let request = request.body(Full::new(Bytes::from(body))).ok()?;
    let response = client.request(request).await.ok()?;
    if response.status() != http::StatusCode::OK {
        return None;
    }
    Some(Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await.ok()?.to_bytes())
}

#[derive(Deserialize)]
struct ReplyError {
    code: i64,
}

#[derive(Deserialize)]
struct Reply {
    error: Option<ReplyError>,
}

impl Counters {
    fn add(&self, size: u64, body: Option<&[u8]>) {
        let replies: Option<Vec<Reply>> = body.and_then(|body| {
            if body.starts_with(b"[") {
                serde_json::from_slice(body).ok()
            } else {
                serde_json::from_slice(body).ok().map(|reply| vec![reply])
            }
        });
        let replies = replies.unwrap_or_default();
        for reply in &replies {
            let counter = match &reply.error {
                None => &self.ok,
                Some(error) if APPLICATION_ERRORS.contains(&error.code) => &self.application_errors,
                Some(_) => &self.errors,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let answered = u64::try_from(replies.len()).unwrap_or(u64::MAX);
        self.errors.fetch_add(size.saturating_sub(answered), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainSettings;
    use crate::provider::behaviour::{Behaviour, Fault};
    use crate::provider::{Provider, ProviderSettings};

    async fn until(mut done: impl FnMut() -> bool) {
        for _ in 0..3_000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the condition did not come true within 30 s");
    }

    #[tokio::test]
    async fn traffic_sends_calls_and_counts_how_each_ended() {
        let chain = Arc::new(Chain::new(ChainSettings::default()));
        let provider = Provider::start(ProviderSettings::new("t", Arc::clone(&chain))).await.unwrap();
        let settings = TrafficSettings { chain: Some(chain), ..TrafficSettings::new(vec![provider.http_url()], 400.0) };
        let traffic = start(settings);
        until(|| traffic.counts().sent >= 200).await;
        let counts = traffic.stop(Duration::from_secs(10)).await;
        assert_eq!(counts.sent, counts.ok + counts.application_errors + counts.errors);
        assert_eq!(counts.sent, provider.stats().calls);
        assert!(counts.application_errors > 0 && counts.errors == 0, "{counts:?}");
    }

    #[tokio::test]
    async fn a_target_that_never_answers_does_not_slow_the_calls_that_follow() {
        let chain = Arc::new(Chain::new(ChainSettings::default()));
        let settings = ProviderSettings::new("t", chain).behaving(Behaviour::always(Fault::Hang));
        let provider = Provider::start(settings).await.unwrap();
        let traffic = start(TrafficSettings::new(vec![provider.http_url()], 200.0));
        until(|| provider.stats().calls >= 100).await;
        assert_eq!(traffic.counts().ok, 0);
    }
}
