//! Load of JSON-RPC calls: an open loop at a steady rate, or a closed loop for the greatest throughput. Every body is
//! distinct. Latency is measured as `pace` says, so that a server that stalls cannot hide it by slowing its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::calls::Mix;
use crate::histogram::{Histogram, Quantiles};
pub use crate::link::BadUrl;
use crate::link::{Link, LinkError, Target, Version};
use crate::pace::Pace;
use crate::provider::ProviderStats;

/// Time to read a provider's stats.
const STATS_TIMEOUT: Duration = Duration::from_secs(5);

/// What load to make.
#[derive(Debug, Clone)]
pub struct LoadRpcSettings {
    /// Where calls are posted, path included.
    pub url: String,
    /// Calls per second. None: a closed loop, as fast as the connections can.
    pub calls_per_second: Option<f64>,
    /// How long calls become due.
    pub duration: Duration,
    /// Connections, each with one call at a time.
    pub connections: usize,
    /// A call is given up after this long.
    pub timeout: Duration,
    /// The methods.
    pub mix: Mix,
    /// What the calls are drawn from.
    pub seed: u64,
    /// Providers behind the URL, to tell how many upstream calls one call became.
    pub stats_urls: Vec<String>,
}

impl LoadRpcSettings {
    /// A realistic mix to `url` at this rate, over 64 connections for ten seconds.
    #[must_use]
    pub fn new(url: impl Into<String>, calls_per_second: f64) -> Self {
        Self {
            url: url.into(),
            calls_per_second: Some(calls_per_second),
            duration: Duration::from_secs(10),
            connections: 64,
            timeout: Duration::from_secs(10),
            mix: Mix::realistic(),
            seed: 1,
            stats_urls: Vec::new(),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadRpcReport {
    /// Calls sent.
    pub sent: u64,
    /// Calls answered with a result.
    pub ok: u64,
    /// Calls answered with a JSON-RPC error.
    pub rpc_errors: u64,
    /// Replies with a status other than 200.
    pub http_errors: u64,
    /// Replies that are no JSON-RPC reply.
    pub invalid: u64,
    /// Calls given up.
    pub timeouts: u64,
    /// Calls whose connection could not be made or broke.
    pub broken: u64,
    /// From the first call's due time to the last reply, seconds.
    pub elapsed_s: f64,
    /// Answers per second.
    pub answers_per_second: f64,
    /// From when a call was due to its reply.
    pub latency: Quantiles,
    /// From when a call was sent to its reply.
    pub service: Quantiles,
    /// How late the client's own timer was.
    pub timer_late: Quantiles,
    /// Calls that the providers received meanwhile, where their stats were given.
    pub upstream_calls: Option<u64>,
    /// Upstream calls per call sent.
    pub amplification: Option<f64>,
}

#[derive(Debug, Default)]
struct Tally {
    report: LoadRpcReport,
    latency: Histogram,
    service: Histogram,
    timer_late: Histogram,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    error: Option<serde::de::IgnoredAny>,
}

/// Makes the load and returns when the last call has ended.
///
/// # Errors
/// When the URL is no plain `http://host:port/path`.
pub async fn run(settings: LoadRpcSettings) -> Result<LoadRpcReport, BadUrl> {
    let target = Target::parse(&settings.url)?;
    let before = upstream_calls(&settings.stats_urls).await;
    let pace = Arc::new(Pace::new(settings.calls_per_second, settings.duration, None));
    let settings = Arc::new(settings);
    let sent = Arc::new(AtomicU64::new(0));
    // A load that is dropped half-way ends its workers with it.
    let mut workers = JoinSet::new();
    for _ in 0..settings.connections.max(1) {
        let worker = Worker {
            settings: Arc::clone(&settings),
            target: target.clone(),
            pace: Arc::clone(&pace),
            sent: Arc::clone(&sent),
        };
        workers.spawn(worker.run());
    }
    let mut total = Tally::default();
    while let Some(worker) = workers.join_next().await {
        // A worker ends only by returning: it does not panic and is not aborted.
        if let Ok(tally) = worker {
            total.add(&tally);
        }
    }
    let mut report = total.report;
    report.sent = sent.load(Ordering::Relaxed);
    report.elapsed_s = pace.started().elapsed().as_secs_f64();
    report.answers_per_second = total.service.quantiles().count as f64 / report.elapsed_s.max(1e-9);
    report.latency = total.latency.quantiles();
    report.service = total.service.quantiles();
    report.timer_late = total.timer_late.quantiles();
    if let (Some(before), Some(after)) = (before, upstream_calls(&settings.stats_urls).await) {
        let calls = after.saturating_sub(before);
        report.upstream_calls = Some(calls);
        report.amplification = Some(calls as f64 / report.sent.max(1) as f64);
    }
    Ok(report)
}

struct Worker {
    settings: Arc<LoadRpcSettings>,
    target: Target,
    pace: Arc<Pace>,
    sent: Arc<AtomicU64>,
}

impl Worker {
    async fn run(self) -> Tally {
        let mut tally = Tally::default();
        let mut link = Link::new(self.target.authority.clone(), Version::Http1);
        while let Some(ticket) = self.pace.take() {
            let body = self.settings.mix.call(self.settings.seed, ticket.number, None);
            let request = Request::post(self.target.path.as_str())
                .header(header::HOST, self.target.authority.as_str())
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)));
            let begun = self.pace.wait(ticket).await;
            let Ok(request) = request else { continue };
            self.sent.fetch_add(1, Ordering::Relaxed);
            let sent_at = Instant::now();
            let answer = link.send(request, self.settings.timeout).await;
            let now = Instant::now();
            // A call without an answer counts too, with the time that was waited for it: leaving it out would
            // flatter a server that hangs.
            tally.latency.record(now.saturating_duration_since(begun.from));
            tally.timer_late.record(begun.timer_late);
            let counter = match answer {
                Ok(answer) => {
                    tally.service.record(now.saturating_duration_since(sent_at));
                    tally.counter_of(answer.status, &answer.body)
                }
                Err(LinkError::Timeout(_)) => &mut tally.report.timeouts,
                Err(LinkError::Connect { .. } | LinkError::Broken(_)) => &mut tally.report.broken,
            };
            *counter += 1;
        }
        tally
    }
}

impl Tally {
    fn counter_of(&mut self, status: StatusCode, body: &[u8]) -> &mut u64 {
        if status != StatusCode::OK {
            return &mut self.report.http_errors;
        }
        match serde_json::from_slice::<Reply>(body) {
            Ok(Reply { error: None }) => &mut self.report.ok,
            Ok(Reply { error: Some(_) }) => &mut self.report.rpc_errors,
            Err(_) => &mut self.report.invalid,
        }
    }

    fn add(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.timer_late.merge(&other.timer_late);
        let (total, more) = (&mut self.report, &other.report);
        total.ok += more.ok;
        total.rpc_errors += more.rpc_errors;
        total.http_errors += more.http_errors;
        total.invalid += more.invalid;
        total.timeouts += more.timeouts;
        total.broken += more.broken;
    }
}

/// Calls that these providers received so far; none where there are no providers or one does not tell.
async fn upstream_calls(stats_urls: &[String]) -> Option<u64> {
    let mut calls = 0;
    for url in stats_urls {
        let target = Target::parse(url).ok()?;
        let request = Request::get("/stats").header(header::HOST, target.authority.as_str());
        let request = request.body(Full::new(Bytes::new())).ok()?;
        let answer = Link::new(target.authority, Version::Http1).send(request, STATS_TIMEOUT).await.ok()?;
        calls += serde_json::from_slice::<ProviderStats>(&answer.body).ok()?.calls;
    }
    (!stats_urls.is_empty()).then_some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Chain, ChainSettings};
    use crate::provider::behaviour::{Behaviour, Fault};
    use crate::provider::{Provider, ProviderHandle, ProviderSettings};

    async fn provider(behaviour: Behaviour) -> ProviderHandle {
        let chain = Arc::new(Chain::new(ChainSettings::default()));
        Provider::start(ProviderSettings::new("t", chain).behaving(behaviour)).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_sent_is_what_the_provider_received_and_no_body_came_twice() {
        let provider = provider(Behaviour::default()).await;
        let mut settings = LoadRpcSettings::new(provider.http_url(), 500.0);
        settings.duration = Duration::from_millis(600);
        settings.stats_urls = vec![provider.http_url()];
        let report = run(settings).await.unwrap();
        assert_eq!((report.sent, report.upstream_calls), (300, Some(300)));
        assert_eq!(report.sent, report.ok + report.rpc_errors);
        assert_eq!(report.amplification, Some(1.0));
        let bodies: std::collections::HashSet<Bytes> = provider.received().into_iter().map(|call| call.body).collect();
        assert_eq!(bodies.len(), 300);
    }

    #[tokio::test]
    async fn a_server_that_hangs_shows_in_latency_and_not_only_in_a_count() {
        let provider = provider(Behaviour::always(Fault::Hang)).await;
        let mut settings = LoadRpcSettings::new(provider.http_url(), 100.0);
        settings.duration = Duration::from_millis(200);
        settings.timeout = Duration::from_millis(300);
        settings.connections = 2;
        let report = run(settings).await.unwrap();
        assert_eq!((report.sent, report.timeouts), (20, 20));
        assert!(report.latency.p50_us >= 300_000.0 && report.latency.max_us > 2_000_000.0, "{report:?}");
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let provider = provider(Behaviour::always(Fault::TooManyRequests)).await;
        let mut settings = LoadRpcSettings::new(provider.http_url(), 200.0);
        settings.duration = Duration::from_millis(100);
        let report = run(settings.clone()).await.unwrap();
        assert_eq!(report.http_errors, 20);
        provider.set_behaviour(Behaviour::always(Fault::Garbage));
        assert_eq!(run(settings.clone()).await.unwrap().invalid, 20);
        provider.set_behaviour(Behaviour::always(Fault::Reset));
        assert_eq!(run(settings).await.unwrap().broken, 20);
    }
}
