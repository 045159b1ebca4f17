//! Sends encoded OTLP requests to the node's collector. A request is encoded once and resent as the same bytes until it
//! is taken, since the collector knows a retry by its bytes. What may wait is bounded in bytes; beyond that the recorder
//! leaves decisions in their own bounded queue. A refusal that no retry can cure ends the request and is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::Message;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Counters;

/// Bytes that may wait for the collector: some 30,000 decisions.
const MAX_PENDING_BYTES: usize = 32 * 1024 * 1024;
/// Requests under way at once.
const EXPORTS_IN_FLIGHT: usize = 4;
/// Bound on one request.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest pause before a resend, unless the collector says otherwise.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How the record leaves this process.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExporterConfig {
    /// URL of the collector's OTLP over gRPC.
    pub endpoint: String,
    /// How long a span may wait for others, in milliseconds.
    pub span_delay_ms: u64,
    /// Decisions that may wait for the recorder.
    pub queue: usize,
    /// Spans per request.
    pub batch: usize,
    /// Time between two exports of metrics, in milliseconds.
    pub metric_interval_ms: u64,
    /// Time between two heartbeats, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Sent as bearer token.
    pub token: Option<String>,
}

impl Default for ExporterConfig {
    fn default() -> Self {
        Self {
            endpoint: "http://127.0.0.1:4317".to_owned(),
            span_delay_ms: 200,
            queue: 65_536,
            batch: 4_096,
            metric_interval_ms: 5_000,
            heartbeat_interval_ms: 5_000,
            token: None,
        }
    }
}

impl std::fmt::Debug for ExporterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExporterConfig")
            .field("endpoint", &self.endpoint)
            .field("queue", &self.queue)
            .field("batch", &self.batch)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}

/// The three services of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        })
    }
}

/// One encoded request.
#[derive(Clone)]
pub(super) struct Parcel {
    pub(super) signal: Signal,
    pub(super) bytes: Bytes,
    /// Decisions inside, to be counted as lost if it cannot be delivered.
    pub(super) decisions: u64,
}

/// The sending side, cheap to clone.
#[derive(Clone)]
pub(super) struct Exporter {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    runtime: Handle,
    slots: Arc<Semaphore>,
    pending: Arc<AtomicUsize>,
    counters: Arc<Counters>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Exporter {
    /// Connects lazily: a collector that is not there yet is no error.
    pub(super) fn new(
        config: &ExporterConfig,
        runtime: Handle,
        counters: Arc<Counters>,
        stop: CancellationToken,
    ) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(config.endpoint.clone()).map_err(|error| error.to_string())?;
        // The connection's own tasks run where it is made.
        let inside = runtime.enter();
        let channel =
            endpoint.connect_timeout(Duration::from_secs(2)).timeout(EXPORT_TIMEOUT).tcp_nodelay(true).connect_lazy();
        drop(inside);
        let token = match &config.token {
            Some(token) => {
                Some(format!("Bearer {token}").parse().map_err(|_| "the token is no valid header".to_owned())?)
            }
            None => None,
        };
        let slots = Arc::new(Semaphore::new(EXPORTS_IN_FLIGHT));
        Ok(Self { channel, token, runtime, slots, pending: Arc::default(), counters, tasks: TaskTracker::new(), stop })
    }

    /// True while more may wait.
    pub(super) fn has_room(&self) -> bool {
        self.pending.load(Ordering::Relaxed) < MAX_PENDING_BYTES
    }

    /// Sends in the background, until taken, refused for good, or stopped.
    pub(super) fn send(&self, parcel: Parcel) {
        let this = self.clone();
        self.pending.fetch_add(parcel.bytes.len(), Ordering::Relaxed);
        let size = parcel.bytes.len();
        self.tasks.spawn_on(
            async move {
                let sent = this.stop.clone().run_until_cancelled_owned(this.deliver(&parcel)).await;
                if sent != Some(true) {
                    this.counters.lost.fetch_add(parcel.decisions, Ordering::Relaxed);
                }
                this.pending.fetch_sub(size, Ordering::Relaxed);
            },
            &self.runtime.clone(),
        );
    }

    /// Waits until nothing is pending.
    pub(super) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// True if the collector took it.
    pub(super) async fn deliver(&self, parcel: &Parcel) -> bool {
        let Ok(_slot) = self.slots.acquire().await else { return false };
        let mut pause = FIRST_PAUSE;
        loop {
            let status = match self.attempt(parcel).await {
                Ok(()) => return true,
                Err(status) => status,
            };
            let wait = match retry_info(status.details()) {
                Some(wait) => wait.min(LONGEST_PAUSE),
                None if is_retryable(status.code()) => pause,
                None => {
                    tracing::warn!(signal = ?parcel.signal, code = ?status.code(), message = status.message(), "the collector refuses an export for good");
                    return false;
                }
            };
            tracing::debug!(signal = ?parcel.signal, code = ?status.code(), message = status.message(), "export failed, resending");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self, parcel: &Parcel) -> Result<(), Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = tonic::Request::new(parcel.bytes.clone());
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        let response = client.unary(request, parcel.signal.path(), EncodedCodec).await?.into_inner();
        if let Some(partial) = response.partial.filter(|partial| partial.rejected > 0) {
            tracing::warn!(signal = ?parcel.signal, rejected = partial.rejected, message = partial.message, "the collector rejected records");
        }
        Ok(())
    }
}

/// Also those that OTLP calls retryable only with a `RetryInfo`, save what is plainly our own fault.
const fn is_retryable(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::OutOfRange
            | Code::DataLoss
            | Code::Unknown
    )
}

/// Requests that are encoded already.
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = ExportResponse;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = ExportResponse;
    type Error = Status;
    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<ExportResponse>, Status> {
        let response = ExportResponse::decode(src.copy_to_bytes(src.remaining()));
        response.map(Some).map_err(|error| Status::unknown(error.to_string()))
    }
}

/// What the three services' responses have in common.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    message: String,
}

/// `google.rpc.Status`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcDetail>,
}

#[derive(Clone, PartialEq, Message)]
struct RpcDetail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<RetryDelay>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryDelay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The pause that the collector asks for, if it does.
fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*detail.value).ok()?.delay?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?))
}
