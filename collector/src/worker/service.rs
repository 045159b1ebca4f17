//! The worker's routes on the node API's port: pin, release, and the worker protocol of `datafusion-distributed`, all
//! behind the cluster's token. The protocol executes what it is sent and knows no token of its own, so the check stands
//! in front of every route and not in some of the handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json};
use datafusion::common::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_distributed::{Worker, WorkerQueryContext};
use lariat_schema::node_api::NodeIdentity;
use object_store::ObjectStore;
use serde_json::json;

use super::allow::only_known_operators;
use super::codec::StoreScanCodec;
use super::pins::PinBook;
use super::read::BUCKET_URL;
use super::sessions::LeafSessions;
use super::threads::Threads;
use super::wire::{PIN_PATH, PinRequest, RELEASE_PATH, ReleaseRequest};
use crate::store::ReadStore;

/// Threads that execute queries on a node: one per partition of a leaf.
const WORKER_THREADS: usize = super::scan::PARTITIONS;

/// Memory of all queries of a node together, in bytes, apart from the collector's own budget. Partial aggregates and
/// top-k of a leaf stay far below it; what does not fit is refused, and never written to the disk that telemetry needs.
const WORKER_MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// Footers of Parquet files that are kept, in bytes: those of some hundred files. Reading them again would be most of what a
/// question for one decision costs.
const FOOTERS_BYTES: usize = 32 * 1024 * 1024;

/// How often pins are looked through for overdue ones.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The system gave no threads.
    #[error("cannot start the query threads")]
    Threads(#[from] std::io::Error),
    /// The execution environment could not be made.
    #[error("cannot set up query execution")]
    Runtime(#[from] DataFusionError),
}

/// The routes of the node's side of queries, to be merged into the node API, and the book of its pins. The threads behind
/// them end with the last copy of the router.
///
/// # Errors
/// When the worker's threads or memory pool cannot be made.
pub fn routes(
    store: Arc<dyn ReadStore>,
    identity: NodeIdentity,
    has_proxy: bool,
    token: Option<Arc<str>>,
) -> Result<(Router, Arc<PinBook>), WorkerError> {
    let threads = Arc::new(Threads::start("lariat-worker", WORKER_THREADS)?);
    let bucket = store.bucket();
    let book = Arc::new(PinBook::new(store, identity, has_proxy));
    let runtime = limited(WORKER_MEMORY_BYTES)?;
    register_bucket(&runtime, bucket)?;
    let codec = StoreScanCodec::for_node(Arc::clone(&book));
    let sessions = LeafSessions::new(Arc::clone(&runtime));
    let worker = Worker::from_session_builder(move |context: WorkerQueryContext| {
        std::future::ready(sessions.open(context, codec.clone(), only_known_operators))
    })
    .with_runtime_env(runtime)
    .with_version(env!("CARGO_PKG_VERSION"));

    let weak = Arc::downgrade(&book);
    threads.handle().spawn(async move {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        loop {
            ticks.tick().await;
            match weak.upgrade() {
                Some(book) => book.end_overdue(),
                None => return,
            }
        }
    });

    let grpc = tonic::service::Routes::new(worker.into_worker_server()).into_axum_router();
    let json =
        Router::new().route(PIN_PATH, post(pin)).route(RELEASE_PATH, post(release)).layer(Extension(Arc::clone(&book)));
    let routes = grpc
        .reset_fallback()
        .layer(middleware::from_fn_with_state(threads, on_threads))
        .merge(json)
        .route_layer(middleware::from_fn_with_state(token, with_token));
    Ok((routes, book))
}

/// Lets files be read that are only in a bucket.
///
/// # Errors
/// None that could come from outside.
pub fn register_bucket(runtime: &RuntimeEnv, bucket: Option<Arc<dyn ObjectStore>>) -> Result<(), DataFusionError> {
    if let Some(bucket) = bucket {
        runtime.register_object_store(ObjectStoreUrl::parse(BUCKET_URL)?.as_ref(), bucket);
    }
    Ok(())
}

/// Where plans execute: in so much memory and without a disk.
fn limited(bytes: usize) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    RuntimeEnvBuilder::new()
        .with_memory_limit(bytes, 1.0)
        .with_metadata_cache_limit(FOOTERS_BYTES)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
}

/// Runs a request of the worker protocol, and with it everything that it spawns, on the worker's own threads.
pub async fn on_threads(State(threads): State<Arc<Threads>>, request: Request, next: Next) -> Response {
    match threads.handle().spawn(next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Lets only bearers of the cluster's token pass, where there is one.
pub async fn with_token(State(token): State<Option<Arc<str>>>, request: Request, next: Next) -> Response {
    if token.is_none_or(|token| bears(request.headers(), &token)) {
        return next.run(request).await;
    }
    let body = json!({"error": {"code": "unauthorized", "message": "the cluster's token is missing or wrong"}});
    let mut response = (StatusCode::UNAUTHORIZED, Json(body)).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// Whether a request bears the token; compared in a time that does not depend on where the texts differ.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let Some(found) = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
    else {
        return false;
    };
    let differing = found.iter().zip(token.as_bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
    found.len() == token.len() && differing == 0
}

async fn pin(Extension(book): Extension<Arc<PinBook>>, Json(request): Json<PinRequest>) -> Response {
    match tokio::task::spawn_blocking(move || book.pin(&request)).await {
        Ok(Ok(reply)) => Json(reply).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Ok(Err(refused)) => {
            let body = json!({"error": {"code": "overloaded", "message": refused.to_string()}});
            (StatusCode::TOO_MANY_REQUESTS, Json(body)).into_response()
        }
    }
}

async fn release(Extension(book): Extension<Arc<PinBook>>, Json(request): Json<ReleaseRequest>) -> Response {
    Json(book.release(request.query_id).unwrap_or_default()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use datafusion::prelude::{SessionConfig, SessionContext};
    use http_body_util::BodyExt;
    use hyper_util::service::TowerToHyperService;
    use serde_json::json;

    use super::*;
    use crate::fixtures::{Place, decision, kept, spans};
    use crate::ingest::Ingest as _;

    #[tokio::test]
    async fn a_greedy_query_is_refused_by_its_pool_and_receiving_goes_on() {
        let place = Place::new();
        let spine = place.open();
        let context = SessionContext::new_with_config_rt(SessionConfig::new(), limited(1 << 20).unwrap());
        let greedy = context
            .sql("SELECT v, count(*) FROM (SELECT md5(CAST(value AS text)) AS v FROM generate_series(1, 200000)) GROUP BY v")
            .await
            .unwrap();
        let query = tokio::spawn(greedy.collect());
        for trace in 1..=50 {
            spine.ingest(spans(&[decision(trace, json!({}))])).await.unwrap();
        }
        let error = query.await.unwrap().unwrap_err();
        assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
        assert_eq!(kept(&*spine.core).len(), 50);
    }

    #[tokio::test]
    async fn what_the_worker_is_asked_for_runs_on_threads_of_its_own() {
        let name = || async { std::thread::current().name().unwrap_or_default().to_owned() };
        let threads = Arc::new(Threads::start("lariat-worker", 1).unwrap());
        let router = Router::new().route("/", get(name)).layer(middleware::from_fn_with_state(threads, on_threads));
        let service = TowerToHyperService::new(router);
        let answer = hyper::service::Service::call(&service, Request::new(Body::empty())).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "lariat-worker");
    }
}
