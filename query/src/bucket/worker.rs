//! The query service's side of a query over the bucket: it executes leaves over files, and what makes less of their rows
//! directly above them, for itself without a network and for other query services behind the cluster's token.
//!
//! Like a node's worker it accepts a short list of operators and nothing else; unlike it, it pins nothing, since a file of
//! the bucket never changes. What a query read and which stores failed stands in a book until the query asks for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use axum::extract::State;
use axum::middleware;
use axum::routing::{get, post};
use axum::{Json, Router};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::{
    CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse, SetPlanRequest, Worker,
    WorkerChannel, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse, WorkerQueryContext, WorkerToCoordinatorMsg,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::HeaderMap;
use lariat_collector::worker::threads::Threads;
use lariat_collector::worker::{LeafSessions, on_threads, runs_on_nodes, with_token};
use lariat_schema::ids::StoreId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::scan::{BucketScan, LeafCodec};
use crate::engine::brief;

/// Path of the request for what a query read here.
pub(crate) const READ_PATH: &str = "/v1/bucket/read";
/// Path of the request for who a query service is.
pub(crate) const SERVICE_PATH: &str = "/v1/bucket/service";

/// Tries whose account is kept. Each ends by being asked for; one that nobody asks for is forgotten when it is the oldest
/// of so many, or after [`KEPT`].
const MAX_READS: usize = 1_024;
/// How long an account is kept, longer than any question may take.
const KEPT: Duration = Duration::from_secs(600);

/// What was read for one try at a query?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadRequest {
    /// The try.
    pub(crate) read_id: Uuid,
}

/// What a query read of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StoreReading {
    /// Rows that the leaves handed on, after their filters.
    pub(crate) rows: u64,
    /// Bytes read from files.
    pub(crate) bytes: u64,
    /// Files opened.
    pub(crate) files: u64,
    /// Milliseconds from the first leaf to the end of the last.
    pub(crate) elapsed_ms: u64,
}

/// What a query read at one query service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ReadReply {
    /// By store.
    pub(crate) stores: BTreeMap<StoreId, StoreReading>,
}

impl ReadReply {
    /// Adds what was read elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        for (store, reading) in &other.stores {
            let sum = self.stores.entry(*store).or_default();
            sum.rows += reading.rows;
            sum.bytes += reading.bytes;
            sum.files += reading.files;
            sum.elapsed_ms = sum.elapsed_ms.max(reading.elapsed_ms);
        }
    }
}

/// A query service as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceInfo {
    /// New at every start.
    pub(crate) instance_id: Uuid,
    /// Version of the program: plans are understood only by the same.
    pub(crate) version: String,
    /// The bucket that it reads.
    pub(crate) bucket: String,
}

#[derive(Debug, Default)]
struct Counted {
    rows: AtomicU64,
    bytes: AtomicU64,
    files: AtomicU64,
    elapsed_ms: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// The account of one store in one query.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    files_read: Arc<AtomicU64>,
    counted: Arc<Counted>,
    since: Instant,
}

impl Account {
    pub(crate) fn files(&self, files: usize) {
        self.counted.files.fetch_add(files as u64, Ordering::Relaxed);
        self.files_read.fetch_add(files as u64, Ordering::Relaxed);
    }

    pub(crate) fn rows(&self, rows: usize) {
        self.counted.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, bytes: u64) {
        self.counted.bytes.fetch_add(bytes, Ordering::Relaxed);
        let elapsed_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counted.elapsed_ms.fetch_max(elapsed_ms, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, error: &DataFusionError) {
        self.counted.failure.lock().get_or_insert_with(|| brief(error));
    }
}

#[derive(Debug)]
struct Read {
    since: Instant,
    stores: BTreeMap<StoreId, Arc<Counted>>,
}

/// What was read here, by try.
#[derive(Debug, Default)]
pub(crate) struct Book {
    files_read: Arc<AtomicU64>,
    reads: Mutex<HashMap<Uuid, Read>>,
}

impl Book {
    /// Opens or continues the account of a store in a query.
    pub(crate) fn account(&self, read_id: Uuid, store_id: StoreId) -> Account {
        let mut reads = self.reads.lock();
        if !reads.contains_key(&read_id) {
            reads.retain(|_, read| read.since.elapsed() < KEPT);
            if reads.len() >= MAX_READS
                && let Some(oldest) = reads.iter().min_by_key(|(_, read)| read.since).map(|(id, _)| *id)
            {
                reads.remove(&oldest);
            }
        }
        let read = reads.entry(read_id).or_insert_with(|| Read { since: Instant::now(), stores: BTreeMap::new() });
        let counted = Arc::clone(read.stores.entry(store_id).or_default());
        Account { files_read: Arc::clone(&self.files_read), counted, since: read.since }
    }

    /// Files opened since the start, for whomever.
    pub(crate) fn files_read(&self) -> u64 {
        self.files_read.load(Ordering::Relaxed)
    }

    /// The stores that failed in a query so far; they are not told again.
    pub(crate) fn take_failures(&self, read_id: Uuid) -> Vec<(StoreId, String)> {
        let reads = self.reads.lock();
        let Some(read) = reads.get(&read_id) else { return Vec::new() };
        let failed = read.stores.iter().filter_map(|(store, counted)| Some((*store, counted.failure.lock().take()?)));
        failed.collect()
    }

    /// Ends an account.
    pub(crate) fn take(&self, read_id: Uuid) -> ReadReply {
        let Some(read) = self.reads.lock().remove(&read_id) else { return ReadReply::default() };
        let reading = |counted: &Counted| StoreReading {
            rows: counted.rows.load(Ordering::Relaxed),
            bytes: counted.bytes.load(Ordering::Relaxed),
            files: counted.files.load(Ordering::Relaxed),
            elapsed_ms: counted.elapsed_ms.load(Ordering::Relaxed),
        };
        ReadReply { stores: read.stores.iter().map(|(store, counted)| (*store, reading(counted))).collect() }
    }
}

/// The worker of this query service.
#[derive(Clone)]
pub(crate) struct BucketWorker {
    worker: Worker,
    pub(crate) book: Arc<Book>,
}

impl BucketWorker {
    /// A worker over a runtime that knows the bucket.
    ///
    /// # Errors
    /// When a function cannot be registered.
    pub(crate) fn new(runtime: Arc<RuntimeEnv>) -> Result<Self> {
        let book = Arc::new(Book::default());
        let codec = LeafCodec::for_worker(Arc::clone(&book));
        let sessions = LeafSessions::new(Arc::clone(&runtime));
        let worker = Worker::from_session_builder(move |context: WorkerQueryContext| {
            std::future::ready(sessions.open(context, codec.clone(), only_the_bucket))
        });
        let worker = worker.with_runtime_env(runtime).with_version(env!("CARGO_PKG_VERSION"));
        Ok(Self { worker, book })
    }

    /// The way to it inside this process.
    pub(crate) fn channel(&self) -> Box<dyn WorkerChannel> {
        Box::new(Own(self.worker.clone()))
    }

    /// The way to it for other query services.
    pub(crate) fn routes(&self, info: ServiceInfo, threads: Arc<Threads>, token: Arc<str>) -> Router {
        let grpc = tonic::service::Routes::new(self.worker.clone().into_worker_server()).into_axum_router();
        let json = Router::new()
            .route(SERVICE_PATH, get(async || Json(info)))
            .route(READ_PATH, post(read).with_state(Arc::clone(&self.book)));
        grpc.reset_fallback()
            .layer(middleware::from_fn_with_state(threads, on_threads))
            .merge(json)
            .route_layer(middleware::from_fn_with_state(Some(token), with_token))
    }
}

async fn read(State(book): State<Arc<Book>>, Json(request): Json<ReadRequest>) -> Json<ReadReply> {
    Json(book.take(request.read_id))
}

/// Refuses a stage that does anything but read the bucket and make less of its rows.
fn only_the_bucket(event: WorkerPlanRewriteEvent<'_>) -> Result<WorkerPlanRewriteEventResponse> {
    event.plan.apply(|node: &Arc<dyn ExecutionPlan>| {
        if node.is::<BucketScan>() || runs_on_nodes(node) {
            return Ok(TreeNodeRecursion::Continue);
        }
        internal_err!("a query service does not execute {} for another", node.name())
    })?;
    Ok(WorkerPlanRewriteEventResponse::new(event.plan))
}

/// The worker of this process: nothing is written as bytes on the way.
struct Own(Worker);

#[async_trait]
impl WorkerChannel for Own {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        set_plan_request: SetPlanRequest,
        c2w_stream: BoxStream<'static, CoordinatorToWorkerMsg>,
        _: ExecutionPlanMetricsSet,
        _: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        self.0.coordinator_channel(headers, set_plan_request, c2w_stream.map(Ok).boxed()).await
    }

    async fn execute_task(
        &mut self,
        _: HeaderMap,
        request: ExecuteTaskRequest,
        _: ExecutionPlanMetricsSet,
        _: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let (streams, _) = self.0.execute_task(request).await?;
        Ok(streams.into_iter().map(futures::StreamExt::boxed).collect())
    }

    async fn get_worker_info(&mut self, _: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        Ok(GetWorkerInfoResponse { version: self.0.version().to_owned() })
    }
}
