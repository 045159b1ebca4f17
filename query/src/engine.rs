//! Answers a question: parse → pin → plan → execute on the nodes → merge → coverage.
//!
//! Everything happens within one deadline. Nodes are pinned before the plan is made, so the plan holds only nodes that
//! are there; one that fails or hangs afterwards has its part discarded whole and the plan repeated without it, which
//! is right only because nothing has been sent to the client before the last row is in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use lariat_collector::worker::estimates::Estimate;
use lariat_collector::worker::threads::Threads;
use lariat_schema::coverage::Sampling;
use lariat_schema::ids::StoreId;
use tracing::Instrument as _;
use tracing::field::Empty;
use uuid::Uuid;

use crate::ask::{Answer, Ask, AskError, Question, Stats};
use crate::coverage::lowest;
use crate::coverage::recent::Recent;
use crate::distribute::channels::Channels;
use crate::topology::{Topology, now_unix_nanos};
use attempt::{Attempt, Outcome};
use round::{Pinned, Round};
use statement::Parsed;

mod attempt;
mod faults;
mod functions;
mod round;
mod statement;
mod system_tables;

/// Threads that plan, merge and aggregate on the query service.
const ENGINE_THREADS: usize = 4;

/// Memory for merging of all queries together, in bytes.
const ENGINE_MEMORY_BYTES: usize = 1024 * 1024 * 1024;

/// Shortest and longest deadline that a question may set.
const DEADLINES: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);

/// Part of the deadline after which a node that holds the answer up is left out.
const PATIENCE: f64 = 0.7;
/// Part of the deadline that a question may wait for its turn.
const QUEUE_SHARE: f64 = 0.25;

/// Questions answered at a time; each may hold an answer of up to [`attempt::MAX_ANSWER_BYTES`].
const MAX_QUESTIONS: usize = 32;

/// The distributed engine.
pub(crate) struct Engine {
    inner: Arc<Inner>,
    threads: Threads,
}

struct Inner {
    topology: Arc<Topology>,
    channels: Channels,
    runtime: Arc<RuntimeEnv>,
    default_deadline: Duration,
    running: tokio::sync::Semaphore,
    recent: Arc<Recent>,
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
}

impl Engine {
    pub(crate) fn start(
        topology: Arc<Topology>,
        token: Option<&str>,
        default_deadline: Duration,
    ) -> Result<Self, EngineError> {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(ENGINE_MEMORY_BYTES, 1.0).build_arc()?;
        let inner = Inner {
            topology,
            channels: Channels::new(token),
            runtime,
            default_deadline,
            running: tokio::sync::Semaphore::new(MAX_QUESTIONS),
            recent: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner), threads: Threads::start("lariat-engine", ENGINE_THREADS)? })
    }
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
        let span = tracing::info_span!("query", rows = Empty, coverage = Empty, otel.status_code = Empty);
        let answering = async move {
            let answered = inner.answer(question).await;
            tell(&answered);
            answered
        };
        let mut work = AbortOnDrop(self.threads.handle().spawn(answering.instrument(span)));
        (&mut work.0).await.unwrap_or_else(|error| Err(AskError::Internal { source: Box::new(error) }))
    }
}

/// Tells the span of a question what came of it; never what was asked, which may hold what is secret.
fn tell(answered: &Result<Answer, AskError>) {
    let span = tracing::Span::current();
    match answered {
        Ok(answer) => {
            span.record("rows", answer.stats.rows);
            span.record("coverage", answer.coverage.ratio);
        }
        Err(_) => {
            span.record("otel.status_code", "ERROR");
        }
    }
}

impl Inner {
    async fn answer(&self, question: Question) -> Result<Answer, AskError> {
        let started = Instant::now();
        let deadline = question.deadline.unwrap_or(self.default_deadline);
        let deadline = deadline.clamp(*DEADLINES.start(), *DEADLINES.end());
        let wait = tokio::time::timeout(deadline.mul_f64(QUEUE_SHARE), self.running.acquire()).await;
        let _permit = wait.ok().and_then(Result::ok).ok_or(AskError::Busy { limit: MAX_QUESTIONS })?;
        let parsed = statement::parse(&question.sql)?;
        let answer = self.within(question, parsed, started, deadline);
        tokio::time::timeout(deadline, answer).await.unwrap_or(Err(AskError::Deadline { deadline }))
    }

    async fn within(
        &self,
        question: Question,
        parsed: Parsed,
        started: Instant,
        deadline: Duration,
    ) -> Result<Answer, AskError> {
        let mut round = Round::pin(&self.topology, &parsed, deadline).await;
        let patience = started + deadline.mul_f64(PATIENCE);
        let outcome = loop {
            let attempt = Attempt::new(&self.runtime, &self.channels, &self.topology, &parsed, &round, &self.recent);
            let rest = patience.saturating_duration_since(Instant::now());
            match attempt.run(rest).await {
                Ok(outcome) => break outcome,
                Err(attempt::Failed::Nodes(errors)) => {
                    for (store, error) in errors {
                        tracing::warn!(%store, error, query = %round.query_id, "a node is left out of an answer");
                        round.leave_out(store, error);
                    }
                }
                Err(attempt::Failed::Question(error)) => {
                    round.abandon(&self.topology);
                    return Err(error);
                }
            }
        };
        let readings = round.release(&self.topology).await;
        self.finish(question, round, outcome, &readings, started)
    }

    fn finish(
        &self,
        question: Question,
        round: Round,
        outcome: Outcome,
        readings: &HashMap<StoreId, lariat_collector::worker::wire::ReleaseReply>,
        started: Instant,
    ) -> Result<Answer, AskError> {
        let now = now_unix_nanos();
        let inputs = round.inputs(question.window, &outcome.asked, now);
        let view = self.topology.view();
        let nodes = round.facts(&view, readings);
        let coverage = lowest(&round.query_id.to_string(), &inputs, now, &nodes, view.expected_nodes);
        self.recent.keep(&coverage);
        if let Some(wanted) = question.min_coverage
            && coverage.ratio < wanted
        {
            return Err(AskError::NotCovered { ratio: coverage.ratio, wanted, coverage: Box::new(coverage) });
        }
        let sampling = merged_sampling(round.pinned());
        let rows = outcome.batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let stats = Stats {
            elapsed_ms: started.elapsed().as_secs_f64() * 1e3,
            rows,
            bytes_scanned: readings.values().map(|reading| reading.bytes).sum(),
            files_scanned: readings.values().map(|reading| reading.files).sum(),
            bytes_received: outcome.bytes_received,
            cached: false,
            age_ms: 0,
        };
        let hint = outcome.unweighted.filter(|_| sampling.weighted).map(hint);
        Ok(Answer { schema: outcome.schema, batches: outcome.batches, coverage, sampling, stats, hint })
    }
}

/// What sampling did, over all stores: the worst of each.
fn merged_sampling(pinned: &[Pinned]) -> Sampling {
    pinned.iter().map(|node| &node.reply.sampling).fold(Sampling::default(), |merged, of| Sampling {
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
mod tests;
