//! Load of OTLP spans: unique ids, a steady rate that does not wait for slow answers, bounded requests under way,
//! retries of the very same bytes, and a ledger of what was acknowledged. Neither an SDK (a tenth of the rate that is
//! needed) nor a general HTTP load generator (one identical body for ever) can do that.

pub mod ids;
pub mod ledger;
mod spans;
pub mod template;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::histogram::{Histogram, Quantiles};
use crate::link::{BadUrl, Link, Target};
use crate::pace::{Pace, Ticket};
use ledger::{Ledger, LedgerError, LedgerLine};
use template::{Content, Stamp, Template};
pub use wire::Protocol;
use wire::{Verdict, Wire};

/// First wait before a retry; it doubles up to the greatest.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Greatest wait before a retry: short enough to find a restarted collector soon.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Greatest wait that a receiver can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// What is in the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanSettings {
    /// What the spans are.
    pub content: Content,
    /// `service.instance.id` of the resource: who seems to send them.
    pub node_id: String,
    /// `cloud.region` of the resource.
    pub region: String,
    /// What the ids are made of; two runs into one collector need two seeds.
    pub seed: u64,
}

impl Default for SpanSettings {
    /// Plain spans.
    fn default() -> Self {
        Self { content: Content::Plain, node_id: "load@127.0.0.1".to_owned(), region: "local".to_owned(), seed: 1 }
    }
}

/// What load to make.
#[derive(Clone)]
pub struct LoadOtlpSettings {
    /// The receiver, as `http://127.0.0.1:4317`; the path may be left out.
    pub url: String,
    /// How requests travel.
    pub protocol: Protocol,
    /// Whether they are compressed.
    pub gzip: bool,
    /// What is in them.
    pub spans: SpanSettings,
    /// Spans per request; decisions may make it a few more.
    pub spans_per_request: u32,
    /// Spans per second. None: as fast as `in_flight` allows.
    pub spans_per_second: Option<f64>,
    /// How long requests become due.
    pub duration: Duration,
    /// Ends the load after that many requests.
    pub requests_max: Option<u64>,
    /// Requests under way at once, each on a connection of its own.
    pub in_flight: usize,
    /// A try is given up after this long.
    pub timeout: Duration,
    /// A request is given up after this long, retries included.
    pub give_up: Duration,
    /// Where acknowledged requests are written down.
    pub ledger: Option<PathBuf>,
    /// Bearer token.
    pub token: Option<String>,
}

impl std::fmt::Debug for LoadOtlpSettings {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadOtlpSettings").field("url", &self.url).field("spans", &self.spans).finish_non_exhaustive()
    }
}

impl LoadOtlpSettings {
    /// Plain spans over uncompressed gRPC, 100 to a request, for ten seconds.
    #[must_use]
    pub fn new(url: impl Into<String>, spans_per_second: f64) -> Self {
        Self {
            url: url.into(),
            protocol: Protocol::Grpc,
            gzip: false,
            spans: SpanSettings::default(),
            spans_per_request: 100,
            spans_per_second: Some(spans_per_second),
            duration: Duration::from_secs(10),
            requests_max: None,
            in_flight: 64,
            timeout: Duration::from_secs(10),
            give_up: Duration::from_secs(60),
            ledger: None,
            token: None,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadOtlpReport {
    /// Requests made.
    pub requests: u64,
    /// Requests acknowledged.
    pub acknowledged: u64,
    /// Requests refused for good.
    pub refused: u64,
    /// Requests given up while they could still have been retried: nobody knows whether they were taken.
    pub given_up: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Tries that the receiver put off and said until when.
    #[serde(default)]
    pub put_off: u64,
    /// Tries that it put off without saying so.
    #[serde(default)]
    pub put_off_untimed: u64,
    /// Tries without any answer.
    #[serde(default)]
    pub unanswered: u64,
    /// Spans in acknowledged requests.
    pub spans_acknowledged: u64,
    /// How many of them the receiver said it rejected.
    pub spans_rejected: u64,
    /// Traces in acknowledged requests.
    pub units_acknowledged: u64,
    /// Bytes of one request before compression.
    pub bytes_per_request: u64,
    /// Bytes of bodies as they travelled, retries included.
    pub bytes_sent: u64,
    /// From the start to the last answer, seconds.
    pub elapsed_s: f64,
    /// Acknowledged spans per second.
    pub spans_per_second: f64,
    /// From when a request was due to its acknowledgement.
    pub latency: Quantiles,
    /// The first reason for which a request was refused.
    pub first_refusal: Option<String>,
}

/// Why no load was made, or its ledger is not whole.
#[derive(Debug, thiserror::Error)]
pub enum LoadOtlpError {
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Makes the load and returns when the last request has ended.
///
/// # Errors
/// When the URL cannot be used or the ledger cannot be written.
pub async fn run(settings: LoadOtlpSettings) -> Result<LoadOtlpReport, LoadOtlpError> {
    let target = Target::parse(&settings.url)?;
    let ledger = settings.ledger.as_deref().map(Ledger::create).transpose()?;
    let template = Arc::new(Template::new(&settings.spans, settings.spans_per_request, Uuid::new_v4()));
    let wire = Wire { protocol: settings.protocol, gzip: settings.gzip, target, token: settings.token.clone() };
    let requests_per_second = settings.spans_per_second.map(|rate| rate / f64::from(template.spans()));
    let pace = Arc::new(Pace::new(requests_per_second, settings.duration, settings.requests_max));
    let settings = Arc::new(settings);
    // A load that is dropped half-way ends its workers with it.
    let mut workers = JoinSet::new();
    for _ in 0..settings.in_flight.max(1) {
        let worker = Worker {
            settings: Arc::clone(&settings),
            template: Arc::clone(&template),
            wire: wire.clone(),
            pace: Arc::clone(&pace),
            ledger: ledger.as_ref().map(Ledger::lines),
        };
        workers.spawn(worker.run());
    }
    let mut total = Tally::default();
    while let Some(worker) = workers.join_next().await {
        // A worker ends only by returning: it does not panic and is not aborted.
        if let Ok(tally) = worker {
            total.add(tally);
        }
    }
    let elapsed_s = pace.started().elapsed().as_secs_f64();
    if let Some(ledger) = ledger {
        ledger.finish()?;
    }
    let mut report = total.report;
    report.units_acknowledged = report.acknowledged * u64::from(template.units());
    report.bytes_per_request = u64::try_from(template.bytes_per_request()).unwrap_or(u64::MAX);
    report.elapsed_s = elapsed_s;
    report.spans_per_second = report.spans_acknowledged as f64 / elapsed_s.max(1e-9);
    report.latency = total.latency.quantiles();
    Ok(report)
}

#[derive(Debug, Default)]
struct Tally {
    report: LoadOtlpReport,
    latency: Histogram,
}

struct Worker {
    settings: Arc<LoadOtlpSettings>,
    template: Arc<Template>,
    wire: Wire,
    pace: Arc<Pace>,
    ledger: Option<SyncSender<LedgerLine>>,
}

impl Worker {
    async fn run(self) -> Tally {
        let mut tally = Tally::default();
        let mut link = Link::new(self.wire.target.authority.clone(), self.wire.protocol.version());
        while let Some(ticket) = self.pace.take() {
            let begun = self.pace.wait(ticket).await;
            self.deliver(&mut link, &mut tally, ticket, begun.from).await;
        }
        tally
    }

    /// Sends one request until it is acknowledged, refused or given up.
    async fn deliver(&self, link: &mut Link, tally: &mut Tally, ticket: Ticket, from: Instant) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_unix_nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let stamp = Stamp { seed: self.settings.spans.seed, request: ticket.number, now_unix_nanos };
        let body = self.wire.pack(&self.template.stamp(stamp));
        let report = &mut tally.report;
        report.requests += 1;
        let give_up_at = Instant::now() + self.settings.give_up;
        let mut backoff = BACKOFF_FIRST;
        loop {
            report.bytes_sent += u64::try_from(body.len()).unwrap_or(u64::MAX);
            let verdict = match self.wire.request(body.clone()) {
                Ok(request) => self.wire.verdict(link.send(request, self.settings.timeout).await),
                Err(error) => Verdict::Refused { why: error.to_string() },
            };
            let wait = match verdict {
                Verdict::Acknowledged { rejected } => {
                    tally.latency.record(from.elapsed());
                    report.acknowledged += 1;
                    report.spans_acknowledged += u64::from(self.template.spans());
                    report.spans_rejected += u64::from(rejected);
                    self.write_down(ticket.number, rejected);
                    return;
                }
                Verdict::Refused { why } => {
                    report.refused += 1;
                    report.first_refusal.get_or_insert(why);
                    return;
                }
                Verdict::Retry { after: Some(after) } => {
                    report.put_off += 1;
                    after.min(RETRY_AFTER_MAX)
                }
                Verdict::Retry { after: None } => {
                    report.put_off_untimed += 1;
                    backoff
                }
                Verdict::Unanswered => {
                    report.unanswered += 1;
                    backoff
                }
            };
            if Instant::now() + wait >= give_up_at {
                report.given_up += 1;
                return;
            }
            report.retries += 1;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            tokio::time::sleep(wait).await;
        }
    }

    fn write_down(&self, request: u64, rejected: u32) {
        if let Some(ledger) = &self.ledger {
            let first_trace_id = ids::trace_id(self.settings.spans.seed, request, 0);
            let line = LedgerLine { request, first_trace_id, spans: self.template.spans(), rejected };
            // A writer that has ended tells why when the ledger is finished.
            let _ = ledger.send(line);
        }
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        let (total, more) = (&mut self.report, other.report);
        total.requests += more.requests;
        total.acknowledged += more.acknowledged;
        total.refused += more.refused;
        total.given_up += more.given_up;
        total.retries += more.retries;
        total.put_off += more.put_off;
        total.put_off_untimed += more.put_off_untimed;
        total.unanswered += more.unanswered;
        total.spans_acknowledged += more.spans_acknowledged;
        total.spans_rejected += more.spans_rejected;
        total.bytes_sent += more.bytes_sent;
        total.first_refusal = total.first_refusal.take().or(more.first_refusal);
    }
}
