//! Answers a question: parse → pin → plan → execute on the nodes → merge → coverage.
//!
//! Everything happens within one deadline. Nodes are pinned before the plan is made, so the plan holds only nodes that
//! are there; one that fails or hangs afterwards has its part discarded whole and the plan repeated without it, which
//! is right only as long as nothing has been sent to the client. Where rows have gone, the answer goes on without the rest
//! of the node's if no row depends on another, and says so; otherwise it breaks off with an error.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use axum::Router;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use lariat_collector::worker::estimates::Estimate;
use lariat_collector::worker::threads::Threads;
use lariat_collector::worker::wire::Pruned;
use lariat_collector::worker::{pins, register_bucket};
use lariat_schema::coverage::{Coverage, NodeState, Sampling};
use lariat_schema::ids::StoreId;
use lariat_schema::tables::Table;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;
use url::Url;
use uuid::Uuid;

use crate::ask::{Answer, Ask, AskError, Beside, Outline, Part, Question, Rows, Stats};
use crate::bucket::catalog;
use crate::bucket::part::BucketPart;
use crate::bucket::poll::Shelf;
use crate::bucket::services::Services;
use crate::bucket::worker::BucketWorker;
use crate::coverage::lowest;
use crate::coverage::recent::Recent;
use crate::distribute::channels::Channels;
use crate::distribute::sessions::Sessions;
use crate::limits::Limits;
use crate::scan::window::Asked;
use crate::topology::Topology;
use attempt::{Attempt, Clock, Failed, Outcome, Who};
use delivery::{Delivery, Piece, READ_AHEAD};
pub(crate) use faults::brief;
use places::Places;
use round::{Readings, Round};
use statement::Parsed;

mod attempt;
mod buckets;
mod burden;
mod delivery;
mod faults;
mod functions;
mod memory;
mod parameters;
mod places;
mod regrouped;
mod relations;
mod round;
mod statement;
mod system_tables;

pub(crate) use parameters::bind;
pub(crate) use statement::is_shallow;
pub(crate) use system_tables::{MEMBERSHIP, NODES};

/// Threads that plan, merge and aggregate on the query service.
const ENGINE_THREADS: usize = 4;

/// Memory for merging of all queries together, in bytes.
const ENGINE_MEMORY_BYTES: usize = 1024 * 1024 * 1024;

/// Shortest and longest deadline that a question may set.
const DEADLINES: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);

/// Part of the deadline after which a node that holds the answer up is left out.
const PATIENCE: f64 = 0.7;

/// The distributed engine.
pub(crate) struct Engine {
    inner: Arc<Inner>,
    threads: Arc<Threads>,
}

struct Inner {
    topology: Arc<Topology>,
    channels: Channels,
    runtime: Arc<RuntimeEnv>,
    sessions: Sessions,
    /// None where no bucket is configured.
    bucket: Option<BucketSide>,
    default_deadline: Duration,
    limits: Limits,
    places: Places,
    recent: Arc<Recent>,
}

/// The bucket and who reads it.
struct BucketSide {
    shelf: Arc<Shelf>,
    worker: BucketWorker,
    /// What the worker of this process is called.
    own: Url,
    services: Arc<Services>,
}

impl BucketSide {
    fn part(&self, only: Option<Arc<[StoreId]>>) -> BucketPart {
        let mut services = vec![self.own.clone()];
        services.extend(self.services.ready());
        BucketPart::new(self.shelf.catalog(), services, only)
    }
}

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The system gave no threads.
    #[error("cannot start the engine's threads")]
    Threads(#[from] std::io::Error),
    /// The execution environment could not be made.
    #[error("cannot set up query execution")]
    Runtime(#[from] datafusion::error::DataFusionError),
    /// This service's own address makes no URL.
    #[error("cannot name the service by its address")]
    Address(#[from] url::ParseError),
}

impl Engine {
    pub(crate) fn start(
        topology: Arc<Topology>,
        token: Option<&str>,
        (default_deadline, limits): (Duration, Limits),
        shared: Option<(Arc<Shelf>, Arc<Services>)>,
        address: SocketAddr,
    ) -> Result<Self, EngineError> {
        // What does not fit is refused: a question must not fill the disk that membership is written to.
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_limit(ENGINE_MEMORY_BYTES, 1.0)
            .with_disk_manager_builder(disk)
            .build_arc()?;
        let own = Url::parse(&format!("http://{address}"))?;
        register_bucket(&runtime, shared.as_ref().map(|(shelf, _)| Arc::clone(&shelf.objects)))?;
        let worker = BucketWorker::new(Arc::clone(&runtime))?;
        let sessions = Sessions::new(Arc::clone(&runtime), relations::register)?;
        let inner = Inner {
            topology,
            channels: Channels::new(token),
            runtime,
            sessions,
            bucket: shared.map(|(shelf, services)| BucketSide { shelf, worker, own, services }),
            default_deadline,
            limits,
            places: Places::default(),
            recent: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner), threads: Arc::new(Threads::start("lariat-engine", ENGINE_THREADS)?) })
    }

    /// True once a look into the bucket has ended, and where there is none.
    pub(crate) fn has_looked(&self) -> bool {
        self.inner.bucket.as_ref().is_none_or(|bucket| bucket.shelf.has_looked())
    }

    /// What is known of the bucket and was read of it, as Prometheus text.
    pub(crate) fn bucket_figures(&self) -> String {
        let Some(bucket) = &self.inner.bucket else { return String::new() };
        bucket.shelf.figures(bucket.worker.book.files_read(), bucket.services.ready().len() as u64)
    }

    /// What other query services ask this one for: its part of the bucket.
    pub(crate) fn bucket_routes(&self, token: &Arc<str>) -> Router {
        let Some(bucket) = &self.inner.bucket else { return Router::new() };
        bucket.worker.routes(bucket.services.own().clone(), Arc::clone(&self.threads), Arc::clone(token))
    }
}

/// What is told when the last row has been handed over.
struct Delivered {
    schema: SchemaRef,
    beside: Beside,
    /// Stores whose rows are in the answer.
    stores: Vec<StoreId>,
}

/// Ends the work with the wait for it: a client that has gone leaves no query behind.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[async_trait]
impl Ask for Engine {
    async fn ask(&self, question: Question) -> Result<Answer, AskError> {
        let inner = Arc::clone(&self.inner);
        let answering = async move {
            let answered = inner.answer(question).await;
            tell(answered.as_ref().map(|answer| (answer.stats.rows, answer.coverage.ratio)).ok());
            answered
        };
        let mut work = AbortOnDrop(self.threads.handle().spawn(answering.instrument(span())));
        (&mut work.0).await.unwrap_or_else(|error| Err(AskError::Internal { source: Box::new(error) }))
    }

    async fn outline(&self, question: Question) -> Result<Outline, AskError> {
        let inner = Arc::clone(&self.inner);
        let mut work = AbortOnDrop(self.threads.handle().spawn(async move { inner.outline(&question).await }));
        (&mut work.0).await.unwrap_or_else(|error| Err(AskError::Internal { source: Box::new(error) }))
    }

    fn present(&self) -> Vec<StoreId> {
        let known = self.inner.topology.view().known;
        let ready = known.iter().filter(|node| node.progress.state == NodeState::Ready);
        ready.filter_map(|node| node.info.as_ref().map(|info| info.store_id)).collect()
    }

    async fn stream(&self, question: Question) -> Result<Rows, AskError> {
        let (sender, mut pieces) = mpsc::channel(READ_AHEAD);
        let inner = Arc::clone(&self.inner);
        let answering = async move { inner.stream(question, sender).await };
        let work = AbortOnDrop(self.threads.handle().spawn(answering.instrument(span())));
        match pieces.recv().await {
            Some(Piece::Begin(schema)) => Ok(Rows { schema, parts: parts(pieces, work) }),
            Some(Piece::Failed(error)) => Err(error),
            Some(Piece::Rows(_) | Piece::End(_)) | None => Err(broken_off()),
        }
    }
}

/// The parts of an answer as they come; the question ends with the stream.
fn parts<T: Send + 'static>(
    pieces: mpsc::Receiver<Piece>,
    work: AbortOnDrop<T>,
) -> BoxStream<'static, Result<Part, AskError>> {
    futures::stream::unfold(Some((pieces, work)), |state| async move {
        let (mut pieces, work) = state?;
        match pieces.recv().await {
            Some(Piece::Rows(batch)) => Some((Ok(Part::Rows(batch)), Some((pieces, work)))),
            Some(Piece::End(beside)) => Some((Ok(Part::End(beside)), None)),
            Some(Piece::Failed(error)) => Some((Err(error), None)),
            Some(Piece::Begin(_)) | None => Some((Err(broken_off()), None)),
        }
    })
    .boxed()
}

/// The engine's own fault: an answer without an end.
fn broken_off() -> AskError {
    AskError::Internal { source: "the answer ended before its end".into() }
}

fn span() -> tracing::Span {
    tracing::info_span!("query", rows = Empty, coverage = Empty, otel.status_code = Empty)
}

/// Tells the span of a question what came of it: rows and coverage; never what was asked, which may hold what is secret.
fn tell(answered: Option<(u64, f64)>) {
    let span = tracing::Span::current();
    match answered {
        Some((rows, coverage)) => {
            span.record("rows", rows);
            span.record("coverage", coverage);
        }
        None => {
            span.record("otel.status_code", "ERROR");
        }
    }
}

impl Inner {
    /// An answer that is complete before its first row is handed on.
    async fn answer(&self, question: Question) -> Result<Answer, AskError> {
        let started = Instant::now();
        let deadline = self.deadline(&question);
        let _place = self.places.enter(deadline).await?;
        let mut delivery = Delivery::whole(&self.limits);
        let clock = Clock::new(started, deadline);
        let answer = self.deliver(&question, clock, started, &mut delivery);
        let answered = tokio::time::timeout(deadline, answer).await;
        let Delivered { schema, beside, stores } = answered.unwrap_or(Err(AskError::Deadline { deadline }))?;
        let Beside { coverage, sampling, stats, hint } = beside;
        Ok(Answer { schema, batches: delivery.into_batches(), coverage, sampling, stats, hint, stores })
    }

    /// An answer whose rows are handed on as they come. The deadline is of each wait for nodes, and not of the reader.
    async fn stream(&self, question: Question, reader: mpsc::Sender<Piece>) {
        let started = Instant::now();
        let deadline = self.deadline(&question);
        let place = match self.places.enter(deadline).await {
            Ok(place) => place,
            Err(busy) => {
                tell(None);
                // Nobody may be there to be told.
                return drop(reader.send(Piece::Failed(busy)).await);
            }
        };
        let mut delivery = Delivery::parts(reader, place);
        let ended = self.deliver(&question, Clock::new(started, deadline), started, &mut delivery).await;
        let ended = ended.map(|Delivered { schema, beside, .. }| (schema, beside));
        tell(ended.as_ref().map(|(_, beside)| (beside.stats.rows, beside.coverage.ratio)).ok());
        delivery.end(ended).await;
    }

    /// Plans over no node at all: the columns of every table are known without them.
    async fn outline(&self, question: &Question) -> Result<Outline, AskError> {
        let parsed = statement::parse(question)?;
        let round = Round::nobody(&self.topology);
        let runtime = memory::of_question(&self.runtime, self.limits.max_query_bytes);
        let runtime = runtime.map_err(|error| AskError::Internal { source: Box::new(error) })?;
        let attempt = Attempt::new(self, &runtime, &parsed, &round);
        let deadline = self.default_deadline;
        match tokio::time::timeout(deadline, attempt.outline()).await {
            Ok(Ok(outline)) => Ok(outline),
            Ok(Err(Failed::Question(error))) => Err(error),
            Ok(Err(Failed::Some { .. })) | Err(_) => Err(AskError::Deadline { deadline }),
        }
    }

    fn deadline(&self, question: &Question) -> Duration {
        question.deadline.unwrap_or(self.default_deadline).clamp(*DEADLINES.start(), *DEADLINES.end())
    }

    async fn deliver(
        &self,
        question: &Question,
        mut clock: Clock,
        started: Instant,
        delivery: &mut Delivery,
    ) -> Result<Delivered, AskError> {
        let parsed = statement::parse(question)?;
        if parsed.unbound > 0 {
            return Err(AskError::BadQuestion {
                message: format!("the question has {} parameters without a value", parsed.unbound),
                hint: Some("prepare it and execute it with values".to_owned()),
            });
        }
        let deadline = self.deadline(question);
        let keep = if delivery.streams() { pins::MAX_KEEP } else { deadline };
        let bucket = self.bucket.as_ref().map(|bucket| bucket.part(question.scope.only.clone()));
        let mut round = Round::pin(&self.topology, bucket, &parsed, &question.scope, (deadline, keep)).await;
        let outcome = loop {
            match self.attempt(question, &parsed, &round, delivery, &mut clock).await {
                Ok(outcome) => break outcome,
                Err(Failed::Some { who, read_id }) if !delivery.is_under_way() => {
                    for (who, error) in who {
                        tracing::warn!(%who, error, query = %round.query_id, "somebody is left out of an answer");
                        let stores = self.failed_in_bucket(&who, read_id);
                        round.leave_out(&who, error, stores);
                    }
                    delivery.discard();
                }
                Err(Failed::Some { who, .. }) => return Err(broke_off(&who)),
                Err(Failed::Question(error)) => return Err(error),
            }
        };
        for (store, error, rows) in &outcome.broken {
            tracing::warn!(%store, error, rows, query = %round.query_id, "a node broke off in the middle of an answer");
            round.broke_off(*store, error.clone(), *rows);
        }
        let readings = self.readings(&mut round, outcome.read_id).await;
        self.finish(question, &round, outcome, &readings, started, delivery.rows())
    }

    /// Ends the query everywhere; what was read where.
    async fn readings(&self, round: &mut Round, read_id: Uuid) -> Readings {
        let elsewhere = round.read_elsewhere(read_id).await;
        let mut bucket = self.bucket.as_ref().map(|bucket| bucket.worker.book.take(read_id)).unwrap_or_default();
        bucket.add(&elsewhere);
        Readings { nodes: round.release().await, bucket }
    }

    /// The stores of the bucket that this very process could not read.
    fn failed_in_bucket(&self, who: &Who, read_id: Uuid) -> Vec<(StoreId, String)> {
        match (&self.bucket, who) {
            (Some(bucket), Who::Service(url)) if *url == bucket.own => bucket.worker.book.take_failures(read_id),
            _ => Vec::new(),
        }
    }

    async fn attempt(
        &self,
        question: &Question,
        parsed: &Parsed,
        round: &Round,
        delivery: &mut Delivery,
        clock: &mut Clock,
    ) -> Result<Outcome, Failed> {
        let runtime = memory::of_question(&self.runtime, self.limits.max_query_bytes)?;
        let attempt = Attempt::new(self, &runtime, parsed, round);
        let planned = attempt.plan().await?;
        round.burden(&planned.scanned).within(self.limits.max_scan_bytes).map_err(Failed::Question)?;
        if delivery.streams() {
            // Once rows have gone it would be too late to say that they are too few.
            let coverage = self.coverage(question, round, &planned.asked, &Readings::default());
            is_enough(question, coverage).map_err(Failed::Question)?;
        }
        attempt.run(planned, delivery, clock).await
    }

    fn coverage(&self, question: &Question, round: &Round, asked: &[(Table, Asked)], readings: &Readings) -> Coverage {
        let now = round.pinned_unix_nanos;
        let inputs = round.inputs(question, asked, now);
        let view = self.topology.view();
        let nodes = round.facts(&view, readings);
        let mut coverage = lowest(&round.query_id.to_string(), &inputs, now, &nodes, view.expected_nodes);
        round.count_sent(&mut coverage);
        coverage
    }

    fn finish(
        &self,
        question: &Question,
        round: &Round,
        outcome: Outcome,
        readings: &Readings,
        started: Instant,
        rows: u64,
    ) -> Result<Delivered, AskError> {
        let coverage = self.coverage(question, round, &outcome.asked, readings);
        self.recent.keep(&coverage);
        let coverage = is_enough(question, coverage)?;
        let tables: Vec<Table> = outcome.asked.iter().map(|(table, _)| *table).collect();
        let sampling = merged_sampling(round, &tables);
        let stats = Stats {
            elapsed_ms: started.elapsed().as_secs_f64() * 1e3,
            rows,
            bytes_scanned: readings.sum(|reading| reading.bytes, |reading| reading.bytes),
            files_scanned: readings.sum(|reading| reading.files, |reading| reading.files),
            pruned: readings.nodes.values().map(|reading| reading.pruned).fold(Pruned::default(), Pruned::and),
            bytes_received: outcome.bytes_received,
            cached: false,
            age_ms: 0,
        };
        let hint = outcome.unweighted.filter(|_| sampling.weighted).map(hint);
        let live = round.pinned().iter().map(|pinned| pinned.reply.store_id);
        let stores = live.chain(round.held().map(|said| said.store_id)).collect();
        Ok(Delivered { schema: outcome.schema, beside: Beside { coverage, sampling, stats, hint }, stores })
    }
}

/// The coverage, if it is what the caller wants.
fn is_enough(question: &Question, coverage: Coverage) -> Result<Coverage, AskError> {
    match question.min_coverage {
        Some(wanted) if coverage.ratio < wanted => {
            Err(AskError::NotCovered { ratio: coverage.ratio, wanted, coverage: Box::new(coverage) })
        }
        _ => Ok(coverage),
    }
}

/// Somebody failed where rows had gone that depend on theirs.
fn broke_off(errors: &[(Who, String)]) -> AskError {
    let errors: Vec<_> = errors.iter().map(|(who, error)| format!("{who}: {error}")).collect();
    AskError::Internal { source: errors.join("; ").into() }
}

/// What sampling did, over all stores: the worst of each.
fn merged_sampling(round: &Round, tables: &[Table]) -> Sampling {
    let live = round.pinned().iter().map(|node| node.reply.sampling.clone());
    let held = round.held().map(|said| catalog::sampling(said, tables));
    live.chain(held).fold(Sampling::default(), |merged, of| Sampling {
        weighted: merged.weighted || of.weighted,
        min_probability: merged.min_probability.min(of.min_probability),
        unknown_weight_share: merged.unknown_weight_share.max(of.unknown_weight_share),
    })
}

/// What is said of a plain aggregate over sampled rows.
fn hint((plain, estimate): (String, Estimate)) -> String {
    format!(
        "`{plain}` is of the rows that were kept, and some of them stand for several calls: {} estimates all of them, \
         with bounds",
        estimate.name()
    )
}

/// A new query's name.
pub(crate) fn query_id() -> Uuid {
    Uuid::now_v7()
}

#[cfg(test)]
pub(crate) mod tests;
