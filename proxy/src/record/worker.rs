//! The recorder thread: takes values out of the queue, makes spans, points and log records of them, encodes and sends
//! them. A thread with a runtime of its own, so that neither encoding nor sending takes time of a thread that serves
//! calls. It wakes by itself every [`TICK`]; it leaves the queue alone while too much waits for the collector, and what
//! then finds the queue full is counted there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use lariat_schema::node_api::NodeIdentity;
use lariat_schema::{SEMCONV_SCHEMA_URL, attributes as key, metrics};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counts::Counts;
use super::export::{Exporter, ExporterConfig, Parcel, Signal};
use super::points::{Points, counter};
use super::snapshots::Watch;
use super::spans::{Attributes, Spans};
use super::wire::Wire;
use super::{Counters, DigestKey, Item, Recorder, Routed, events, gauges, now_unix_nanos};
use crate::health::Book;
use crate::profiles::Catalog;

/// How often the queue is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Events that wait for the collector at most; they come seldom.
const MAX_WAITING_EVENTS: usize = 8_192;
/// Field numbers of `ExportTraceServiceRequest` and `ResourceSpans`.
const RESOURCE_SPANS: u32 = 1;
const SCOPE_SPANS: u32 = 2;
const SERVICE_NAME: &str = "lariat-proxy";

/// What the recorder reads besides its queue.
pub(crate) struct Sources {
    identity: NodeIdentity,
    routed: Arc<ArcSwap<Routed>>,
    digests: DigestKey,
}

impl Sources {
    pub(crate) fn new(identity: NodeIdentity, catalog: Arc<Catalog>, book: Arc<Book>, digests: DigestKey) -> Self {
        Self { identity, routed: Arc::new(ArcSwap::from_pointee(Routed { catalog, book })), digests }
    }
}

/// A running recorder.
pub(crate) struct Running {
    pub(crate) recorder: Recorder,
    finish: Arc<AtomicBool>,
    finished: oneshot::Receiver<()>,
    wake: Arc<Notify>,
    exporter: Exporter,
    resource: Resource,
    stop: CancellationToken,
    /// The thread ends with this, also where nobody asked it to finish.
    _end: DropGuard,
}

/// Starts the thread.
///
/// # Errors
/// The endpoint is no URL, or the thread or its runtime cannot be started.
pub(crate) fn start(config: &ExporterConfig, sources: Sources) -> Result<Running, String> {
    let (queue, items) = mpsc::channel(config.queue.max(1));
    let counters = Arc::new(Counters::default());
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the recorder's runtime cannot be started: {error}"))?;
    let exporter = Exporter::new(config, runtime.handle().clone(), counters.clone(), stop.clone())?;
    let resource = resource(&sources.identity);
    let finish = Arc::new(AtomicBool::new(false));
    let (done, finished) = oneshot::channel();
    let start_unix_nanos = now_unix_nanos();
    let routed = sources.routed.clone();
    let mut worker = Worker {
        config: config.clone(),
        sources,
        items,
        counters: counters.clone(),
        exporter: exporter.clone(),
        resource: resource.clone(),
        points: Points::new(start_unix_nanos),
        counts: Counts::default(),
        watch: Watch::new(Instant::now()),
        start_unix_nanos,
        spans: Spans::default(),
        decisions: 0,
        logs: Vec::new(),
    };
    let (flag, token, wake) = (finish.clone(), stop.clone(), Arc::new(Notify::new()));
    let woken = wake.clone();
    std::thread::Builder::new()
        .name("lariat-recorder".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                worker.run(&flag, &token, &woken).await;
                // Nobody waits for it after a kill.
                let _nobody = done.send(());
                // What is under way is sent, and the farewell.
                token.cancelled().await;
            });
        })
        .map_err(|error| format!("the recorder thread cannot be started: {error}"))?;
    let recorder = Recorder { queue, routed, counters };
    let end = stop.clone().drop_guard();
    Ok(Running { recorder, finish, finished, wake, exporter, resource, stop, _end: end })
}

impl Running {
    /// Sends what was handed over, then the farewell; gives up at the deadline. True if all of it was taken.
    pub(crate) async fn finish(self, deadline: tokio::time::Instant) -> bool {
        self.finish.store(true, Ordering::Release);
        self.wake.notify_one();
        let farewell = async {
            // An error means that the thread ended before, which leaves nothing to wait for.
            let _ended = self.finished.await;
            self.exporter.drained().await;
            let log = events::heartbeat(&self.recorder.counters, true);
            self.exporter.deliver(&logs(&self.resource, vec![log])).await
        };
        let sent = tokio::time::timeout_at(deadline, farewell).await.unwrap_or(false);
        self.stop.cancel();
        sent
    }

    /// Ends at once: nothing more is sent.
    pub(crate) fn kill(&self) {
        self.stop.cancel();
        self.wake.notify_one();
    }
}

struct Worker {
    config: ExporterConfig,
    sources: Sources,
    items: mpsc::Receiver<Item>,
    counters: Arc<Counters>,
    exporter: Exporter,
    resource: Resource,
    points: Points,
    counts: Counts,
    watch: Watch,
    start_unix_nanos: u64,
    spans: Spans,
    decisions: u64,
    logs: Vec<LogRecord>,
}

/// Something that is due at intervals.
struct Due {
    every: Duration,
    next: Instant,
}

impl Due {
    fn new(every_ms: u64, first: Duration) -> Self {
        Self { every: Duration::from_millis(every_ms.max(1)), next: Instant::now() + first }
    }
    fn now(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }
}

impl Worker {
    async fn run(&mut self, finish: &AtomicBool, kill: &CancellationToken, wake: &Notify) {
        let delay = Duration::from_millis(self.config.span_delay_ms);
        let mut heartbeat = Due::new(self.config.heartbeat_interval_ms, Duration::ZERO);
        let mut flush = Due::new(self.config.span_delay_ms, delay);
        let mut measure =
            Due::new(self.config.metric_interval_ms, Duration::from_millis(self.config.metric_interval_ms));
        self.logs.push(events::reload(&self.sources.routed.load().catalog));
        loop {
            let last = finish.load(Ordering::Acquire);
            if kill.is_cancelled() {
                return;
            }
            if heartbeat.now() {
                self.note(events::heartbeat(&self.counters, false));
            }
            self.look();
            self.drain(last).await;
            if last || flush.now() {
                self.send_spans();
                self.send_logs();
            }
            if last || measure.now() {
                self.send_metrics();
            }
            if last {
                return;
            }
            // Elapsed or told to finish, either way it looks.
            let _either = tokio::time::timeout(TICK, wake.notified()).await;
        }
    }

    /// Notes what changed of what decisions can know.
    fn look(&mut self) {
        let routed = self.sources.routed.load_full();
        let (snapshot, now_ms) = (routed.book.snapshot(), routed.book.now_ms());
        for log in self.watch.look(&routed.catalog, &snapshot, now_ms, Instant::now()) {
            self.note(log);
        }
    }

    /// Empties the queue, unless too much waits already; at the end whatever waits.
    async fn drain(&mut self, last: bool) {
        while last || self.exporter.has_room() {
            let Ok(item) = self.items.try_recv() else { return };
            match item {
                Item::Decision(record) => {
                    self.spans.add_decision(&record, &self.sources.digests);
                    self.points.note_decision(&record);
                    self.counts.note(&record);
                    for attempt in &record.attempts {
                        self.points.note_attempt(&record.scope, attempt);
                    }
                    self.decisions += 1;
                }
                Item::Probe(probe) => {
                    let (scope, attempt) = *probe;
                    self.spans.add_probe(&scope, &attempt);
                }
                Item::Event(event) => self.note(events::of_channel(&event)),
                Item::Reload(catalog) => self.note(events::reload(&catalog)),
            }
            if self.spans.count() >= self.config.batch {
                self.send_spans();
                // Exports have their turn.
                tokio::task::yield_now().await;
            }
        }
    }

    fn note(&mut self, log: LogRecord) {
        if self.logs.len() < MAX_WAITING_EVENTS {
            self.logs.push(log);
        } else {
            self.counters.events_refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_spans(&mut self) {
        if self.spans.count() == 0 {
            return;
        }
        let bytes = Bytes::from(traces(&self.resource, &self.spans));
        self.spans.clear();
        self.exporter.send(Parcel { signal: Signal::Traces, bytes, decisions: std::mem::take(&mut self.decisions) });
    }

    fn send_logs(&mut self) {
        if !self.logs.is_empty() && self.exporter.has_room() {
            self.exporter.send(logs(&self.resource, std::mem::take(&mut self.logs)));
        }
    }

    fn send_metrics(&mut self) {
        // They are cumulative: what is skipped now is in the next ones.
        if !self.exporter.has_room() {
            return;
        }
        let now = now_unix_nanos();
        let mut metrics: Vec<Metric> = self.points.collect(now);
        metrics.extend(self.counts.collect(self.start_unix_nanos, now));
        let routed = self.sources.routed.load();
        metrics.extend(gauges::collect(&routed.catalog, &routed.book, &self.counters, now));
        let reasons = [
            ("queue_full", self.counters.refused.load(Ordering::Relaxed)),
            ("not_delivered", self.counters.lost.load(Ordering::Relaxed)),
        ];
        metrics.push(counter(metrics::RECORDER_DROPPED, "reason", &reasons, self.start_unix_nanos, now));
        let hedges: Vec<_> = self.counters.hedges().collect();
        metrics.push(counter(metrics::HEDGES, key::OUTCOME, &hedges, self.start_unix_nanos, now));
        let scope_metrics =
            vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: SEMCONV_SCHEMA_URL.to_owned() }];
        let resource = Some(self.resource.clone());
        let resource_metrics =
            vec![ResourceMetrics { resource, scope_metrics, schema_url: SEMCONV_SCHEMA_URL.to_owned() }];
        let bytes = Bytes::from(ExportMetricsServiceRequest { resource_metrics }.encode_to_vec());
        self.exporter.send(Parcel { signal: Signal::Metrics, bytes, decisions: 0 });
    }
}

/// An `ExportTraceServiceRequest` of these spans.
fn traces(resource: &Resource, spans: &Spans) -> Vec<u8> {
    let scope = ScopeSpans { scope: Some(scope()), schema_url: SEMCONV_SCHEMA_URL.to_owned(), ..Default::default() };
    let around = ResourceSpans {
        resource: Some(resource.clone()),
        schema_url: SEMCONV_SCHEMA_URL.to_owned(),
        ..Default::default()
    };
    let (scope, around) = (scope.encode_to_vec(), around.encode_to_vec());
    // Three heads of messages take at most ten bytes each.
    let mut wire = Wire::with_capacity(scope.len() + around.len() + spans.as_bytes().len() + 64);
    wire.message(RESOURCE_SPANS, |wire| {
        wire.append(&around);
        wire.message(SCOPE_SPANS, |wire| {
            wire.append(&scope);
            wire.append(spans.as_bytes());
        });
    });
    wire.into_bytes()
}

fn logs(resource: &Resource, log_records: Vec<LogRecord>) -> Parcel {
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, schema_url: SEMCONV_SCHEMA_URL.to_owned() }];
    let resource = Some(resource.clone());
    let resource_logs = vec![ResourceLogs { resource, scope_logs, schema_url: SEMCONV_SCHEMA_URL.to_owned() }];
    let bytes = Bytes::from(ExportLogsServiceRequest { resource_logs }.encode_to_vec());
    Parcel { signal: Signal::Logs, bytes, decisions: 0 }
}

fn scope() -> InstrumentationScope {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    InstrumentationScope { name: "lariat".to_owned(), version, ..Default::default() }
}

fn resource(identity: &NodeIdentity) -> Resource {
    let mut out = Attributes::default();
    out.text(key::SERVICE_NAME, SERVICE_NAME);
    out.text(key::SERVICE_VERSION, env!("CARGO_PKG_VERSION"));
    out.text(key::SERVICE_INSTANCE_ID, identity.node_id.as_str());
    out.text(key::CLOUD_REGION, identity.region.as_str());
    out.text(key::BOOT_ID, identity.boot_id.to_string());
    Resource { attributes: out.0, ..Default::default() }
}
