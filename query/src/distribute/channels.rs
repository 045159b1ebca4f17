//! Connections to workers, and what each of them did in one query.
//!
//! The engine's own resolver has no token, no timeouts and keeps no account; and it reports a failed stage as one
//! error, without the node. Here every call goes through a channel that knows its store, so that an answer can name who
//! failed or never finished.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    SetPlanRequest, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceBuilder;
use url::Url;

use crate::bucket::worker::BucketWorker;

/// How long a connection may take to come about: nodes are near or not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an open connection is asked for a sign of life while a query waits on it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the sign may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections kept open, far above any fleet's size: beyond it all are closed and made anew.
const MAX_CHANNELS: usize = 4_096;

/// The connections of a query service, one per address.
#[derive(Clone)]
pub(crate) struct Channels {
    open: Arc<Mutex<HashMap<Url, Channel>>>,
    authorization: Option<HeaderValue>,
}

impl Channels {
    /// No connections yet. The token goes with every call; one that cannot stand in a header is left out, and the
    /// nodes then refuse.
    pub(crate) fn new(token: Option<&str>) -> Self {
        let authorization = token.and_then(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self { open: Arc::default(), authorization }
    }

    fn channel(&self, url: &Url) -> Result<Channel> {
        let mut open = self.open.lock();
        if let Some(channel) = open.get(url) {
            return Ok(channel.clone());
        }
        let endpoint =
            Endpoint::from_shared(url.to_string()).map_err(|error| DataFusionError::External(error.into()))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect_lazy();
        if open.len() >= MAX_CHANNELS {
            open.clear();
        }
        open.insert(url.clone(), channel.clone());
        Ok(channel)
    }

    fn client(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        let authorization = self.authorization.clone();
        let service = ServiceBuilder::new()
            .map_request(move |mut request: http::Request<tonic::body::Body>| {
                if let Some(value) = &authorization {
                    request.headers_mut().insert(header::AUTHORIZATION, value.clone());
                }
                request
            })
            .service(self.channel(url)?);
        Ok(create_worker_client(BoxCloneSyncChannel::new(service)))
    }
}

/// What one address did in one query.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    called: AtomicBool,
    accepted: AtomicBool,
    started: AtomicUsize,
    finished: AtomicUsize,
    received_bytes: AtomicU64,
    received_rows: AtomicU64,
    failure: Mutex<Option<Arc<DataFusionError>>>,
    given_up: CancellationToken,
}

impl Conduct {
    /// The first error that came from it.
    pub(crate) fn failure(&self) -> Option<Arc<DataFusionError>> {
        self.failure.lock().clone()
    }

    /// True once it was sent a plan.
    pub(crate) fn called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }

    /// True once it has taken a plan: it is alive.
    pub(crate) fn accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire)
    }

    /// True once every stream that was asked for has come to its end.
    pub(crate) fn finished(&self) -> bool {
        let started = self.started.load(Ordering::Acquire);
        started > 0 && self.finished.load(Ordering::Acquire) >= started
    }

    /// Bytes of the rows that came from it, as they lie in memory.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Rows that came from it.
    pub(crate) fn received_rows(&self) -> u64 {
        self.received_rows.load(Ordering::Relaxed)
    }

    /// Ends its rows: the answer goes on with those that have come.
    pub(crate) fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Whether its rows were ended before their end.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.is_cancelled()
    }

    fn failed(&self, error: DataFusionError) -> DataFusionError {
        let error = Arc::new(error);
        self.failure.lock().get_or_insert_with(|| Arc::clone(&error));
        DataFusionError::Shared(error)
    }
}

/// Tells errors that are one node's from those that concern the whole question.
type IsOfNode = fn(&DataFusionError) -> bool;

/// The connections as one query uses them.
#[derive(Clone)]
pub(crate) struct QueryChannels {
    channels: Channels,
    conduct: Arc<HashMap<Url, Arc<Conduct>>>,
    tolerated: Arc<OnceLock<IsOfNode>>,
    /// The worker of this process, and what it is called.
    own: Option<(Url, BucketWorker)>,
}

impl QueryChannels {
    /// For a query over these addresses.
    pub(crate) fn new(
        channels: Channels,
        urls: impl IntoIterator<Item = Url>,
        own: Option<(Url, BucketWorker)>,
    ) -> Self {
        let conduct = urls.into_iter().map(|url| (url, Arc::default())).collect();
        Self { channels, conduct: Arc::new(conduct), tolerated: Arc::default(), own }
    }

    /// From now on a node that fails is at its end, and the answer goes on without what it has not sent. Only for plans in which
    /// no row depends on another: a sum over half of a node's rows would be a wrong sum.
    pub(crate) fn tolerate(&self, is_of_node: IsOfNode) {
        self.tolerated.get_or_init(|| is_of_node);
    }

    /// Whether nodes may fail.
    pub(crate) fn is_tolerant(&self) -> bool {
        self.tolerated.get().is_some()
    }

    /// What an address did so far.
    pub(crate) fn conduct(&self, url: &Url) -> Option<&Arc<Conduct>> {
        self.conduct.get(url)
    }
}

#[async_trait]
impl ChannelResolver for QueryChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        let conduct = self.conduct.get(url).cloned().unwrap_or_default();
        let inner = match &self.own {
            Some((own, worker)) if own == url => worker.channel(),
            _ => self.channels.client(url)?,
        };
        Ok(Box::new(Watched { inner, conduct, tolerated: Arc::clone(&self.tolerated) }))
    }
}

/// A worker's channel under observation.
struct Watched {
    inner: Box<dyn WorkerChannel>,
    conduct: Arc<Conduct>,
    tolerated: Arc<OnceLock<IsOfNode>>,
}

#[async_trait]
impl WorkerChannel for Watched {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        set_plan_request: SetPlanRequest,
        c2w_stream: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        self.conduct.called.store(true, Ordering::Release);
        let opened = self.inner.coordinator_channel(headers, set_plan_request, c2w_stream, metrics, task_ctx).await;
        let stream = match opened.map_err(|error| self.conduct.failed(error)) {
            Ok(stream) => stream,
            Err(_) if self.is_over() => return Ok(futures::stream::empty().boxed()),
            Err(error) => return Err(error),
        };
        self.conduct.accepted.store(true, Ordering::Release);
        let conduct = Arc::clone(&self.conduct);
        let over = self.over();
        let stream = stream.map_err(move |error| conduct.failed(error));
        Ok(stream.take_while(move |told| futures::future::ready(told.is_ok() || !over())).boxed())
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let partitions = request.target_partition_start..request.target_partition_end;
        let opened = self.inner.execute_task(headers, request, metrics, task_ctx).await;
        let streams = match opened.map_err(|error| self.conduct.failed(error)) {
            Ok(streams) => streams,
            Err(_) if self.is_over() => return Ok(partitions.map(|_| futures::stream::empty().boxed()).collect()),
            Err(error) => return Err(error),
        };
        self.conduct.started.fetch_add(streams.len(), Ordering::AcqRel);
        Ok(streams.into_iter().map(|stream| self.watch(stream)).collect())
    }

    async fn get_worker_info(&mut self, request: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        self.inner.get_worker_info(request).await
    }
}

impl Watched {
    /// Whether the node's failure only ends its own rows.
    fn is_over(&self) -> bool {
        self.over()()
    }

    fn over(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (conduct, tolerated) = (Arc::clone(&self.conduct), Arc::clone(&self.tolerated));
        move || match (tolerated.get(), conduct.failure()) {
            (Some(is_of_node), Some(failure)) => is_of_node(&failure),
            _ => false,
        }
    }

    fn watch(&self, stream: BoxStream<'static, Result<RecordBatch>>) -> BoxStream<'static, Result<RecordBatch>> {
        let (conduct, at_end) = (Arc::clone(&self.conduct), Arc::clone(&self.conduct));
        let counting = Arc::clone(&self.conduct);
        let end = futures::stream::once(async move {
            at_end.finished.fetch_add(1, Ordering::AcqRel);
            None
        });
        let over = self.over();
        stream
            .take_until(self.conduct.given_up.clone().cancelled_owned())
            .map_err(move |error| conduct.failed(error))
            .take_while(move |batch| futures::future::ready(batch.is_ok() || !over()))
            .inspect_ok(move |batch| {
                counting.received_bytes.fetch_add(get_record_batch_memory_size(batch) as u64, Ordering::Relaxed);
                counting.received_rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            })
            .map(Some)
            .chain(end)
            .filter_map(futures::future::ready)
            .boxed()
    }
}
