//! One try at an answer over the nodes that are pinned and the bucket: plan, execute, collect, and say who failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion_distributed::display_plan_ascii;
use futures::StreamExt;
use lariat_collector::worker::estimates::Estimate;
use lariat_schema::ids::StoreId;
use lariat_schema::tables::Table;
use url::Url;
use uuid::Uuid;

use super::delivery::Delivery;
use super::faults::{self, Fault};
use super::functions::Functions;
use super::round::{Pinned, Readings, Round};
use super::statement::Parsed;
use super::{Inner, PATIENCE, regrouped};
use crate::ask::{AskError, Outline};
use crate::bucket::cut::Answering;
use crate::distribute::Routes;
use crate::distribute::channels::{Conduct, QueryChannels};
use crate::scan::weights::unweighted;
use crate::scan::window::{Asked, Relation, asked, scanned};
use crate::scan::{BucketReads, Participants, PinnedStore};
use crate::topology::now_unix_nanos;

/// What is told of a try beside its rows.
pub(crate) struct Outcome {
    pub(crate) schema: SchemaRef,
    /// The tables that the plan reads, and the time that it asks about.
    pub(crate) asked: Vec<(Table, Asked)>,
    /// Bytes of rows that came from nodes and query services.
    pub(crate) bytes_received: u64,
    /// A plain aggregate over rows that may stand for several, and what estimates it.
    pub(crate) unweighted: Option<(String, Estimate)>,
    /// Nodes that broke off, why, and how many of their rows are in the answer.
    pub(crate) broken: Vec<(StoreId, String, u64)>,
    /// Under which it is written down what was read from the bucket.
    pub(crate) read_id: Uuid,
}

/// Who takes part in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// The node of a store.
    Node(StoreId),
    /// A query service that reads the bucket.
    Service(Url),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(store) => write!(f, "store {store}"),
            Self::Service(url) => write!(f, "query service {url}"),
        }
    }
}

/// Why a try gave no rows.
pub(crate) enum Failed {
    /// These failed or hold the answer up: try again without them.
    Some { who: Vec<(Who, String)>, read_id: Uuid },
    /// Trying again would fail again.
    Question(AskError),
}

impl From<DataFusionError> for Failed {
    fn from(error: DataFusionError) -> Self {
        Self::Question(faults::ask_error(error))
    }
}

/// A plan, and what is known of it before it runs.
pub(crate) struct Planned {
    context: Arc<TaskContext>,
    plan: Arc<dyn ExecutionPlan>,
    /// The tables that it reads and the time that it asks about.
    pub(crate) asked: Vec<(Table, Asked)>,
    /// The same, told apart by the cells that it may read.
    pub(crate) scanned: Vec<(Relation, Asked)>,
    unweighted: Option<(String, Estimate)>,
    /// Whether no row of the answer depends on another.
    row_by_row: bool,
}

/// What is said of a node that holds an answer up.
const LATE: &str = "it did not answer in time";

/// Until when nodes are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    deadline: Duration,
    /// After this, nodes that hold the answer up are given up.
    patience: Instant,
    end: Instant,
}

impl Clock {
    pub(crate) fn new(started: Instant, deadline: Duration) -> Self {
        Self { deadline, patience: started + deadline.mul_f64(PATIENCE), end: started + deadline }
    }

    /// Whether nodes have been waited for longer than they may hold an answer up.
    fn is_late(&self) -> bool {
        Instant::now() >= self.patience
    }

    /// A reader has taken rows: the wait for the next begins.
    fn restart(&mut self) {
        *self = Self::new(Instant::now(), self.deadline);
    }
}

/// One try.
pub(crate) struct Attempt<'a> {
    engine: &'a Inner,
    runtime: &'a Arc<RuntimeEnv>,
    parsed: &'a Parsed,
    round: &'a Round,
    channels: QueryChannels,
    bucket: Option<Arc<BucketReads>>,
    read_id: Uuid,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(engine: &'a Inner, runtime: &'a Arc<RuntimeEnv>, parsed: &'a Parsed, round: &'a Round) -> Self {
        let urls = round.pinned().iter().map(|pinned| &pinned.base).chain(round.services()).cloned();
        let own = engine.bucket.as_ref().map(|bucket| (bucket.own.clone(), bucket.worker.clone()));
        let channels = QueryChannels::new(engine.channels.clone(), urls, own);
        let read_id = Uuid::new_v4();
        let bucket = engine.bucket.as_ref().zip(round.bucket.clone()).map(|(bucket, part)| {
            let book = Arc::clone(&bucket.worker.book);
            Arc::new(BucketReads { part, read_id, book, used: AtomicBool::new(false) })
        });
        Self { engine, runtime, parsed, round, channels, bucket, read_id }
    }

    /// Hands the plan's rows over as they come, and waits for nodes as long as the clock says.
    pub(crate) async fn run(
        &self,
        planned: Planned,
        delivery: &mut Delivery,
        clock: &mut Clock,
    ) -> Result<Outcome, Failed> {
        let Planned { context, plan, asked, unweighted, row_by_row, .. } = planned;
        let mut outcome = Outcome {
            schema: plan.schema(),
            asked,
            bytes_received: 0,
            unweighted,
            broken: Vec::new(),
            read_id: self.read_id,
        };
        if self.parsed.explain {
            let batch = explained(plan.as_ref())?;
            outcome.schema = batch.schema();
            delivery.take(batch, false).await.map_err(Failed::Question)?;
            return Ok(outcome);
        }
        // A query service reads files of many stores: half of its rows could be told of none.
        let reads_bucket = self.bucket.as_ref().is_some_and(|bucket| bucket.used.load(Ordering::Acquire));
        if row_by_row && delivery.streams() && !reads_bucket {
            self.channels.tolerate(|error| faults::fault(error) == Fault::Node);
        }
        let mut stream = execute_stream(plan, context)?;
        while let Some(batch) = self.next(&mut stream, clock).await? {
            delivery.take(batch, clock.is_late()).await.map_err(Failed::Question)?;
            if delivery.is_under_way() {
                clock.restart();
            }
        }
        outcome.bytes_received = self.conducts().map(|(_, conduct)| conduct.received_bytes()).sum();
        outcome.broken = self.broken();
        if !delivery.is_under_way() && outcome.broken.iter().any(|(_, _, rows)| *rows > 0) {
            // Nothing has gone, so half of a node need not be in the answer.
            let who = outcome.broken.into_iter().map(|(store, error, _)| (Who::Node(store), error)).collect();
            return Err(Failed::Some { who, read_id: self.read_id });
        }
        Ok(outcome)
    }

    /// The next rows. Nodes that hold them up beyond the clock's patience are given up.
    async fn next(&self, stream: &mut SendableRecordBatchStream, clock: &Clock) -> Result<Option<RecordBatch>, Failed> {
        let polled = |polled: Option<Result<RecordBatch>>| polled.transpose().map_err(|error| self.failed(error));
        if Instant::now() < clock.patience {
            match timeout_at(clock.patience, stream.next()).await {
                Ok(batch) => return polled(batch),
                Err(_) => self.give_up_laggards()?,
            }
        }
        match timeout_at(clock.end, stream.next()).await {
            Ok(batch) => polled(batch),
            Err(_) => Err(Failed::Question(AskError::Deadline { deadline: clock.deadline })),
        }
    }

    fn give_up_laggards(&self) -> Result<(), Failed> {
        let laggards = self.laggards();
        if laggards.is_empty() {
            return Ok(());
        }
        if !self.channels.is_tolerant() {
            return Err(Failed::Some { who: laggards, read_id: self.read_id });
        }
        for (_, conduct) in self.conducts().filter(|(who, _)| laggards.iter().any(|(late, _)| late == who)) {
            conduct.give_up();
        }
        Ok(())
    }

    /// Nodes whose rows ended before their end.
    fn broken(&self) -> Vec<(StoreId, String, u64)> {
        let of = |(who, conduct): (Who, &Arc<Conduct>)| {
            let Who::Node(store) = who else { return None };
            let error = match conduct.failure() {
                Some(failure) => faults::brief(&failure),
                None if conduct.is_given_up() => LATE.to_owned(),
                None => return None,
            };
            Some((store, error, conduct.received_rows()))
        };
        if self.channels.is_tolerant() { self.conducts().filter_map(of).collect() } else { Vec::new() }
    }

    /// What the answer would look like, as far as the plan tells.
    pub(crate) async fn outline(&self) -> Result<Outline, Failed> {
        if self.parsed.explain {
            return Ok(Outline { schema: Arc::new(explained_schema()), parameters: Vec::new() });
        }
        let (session, _) = self.session();
        let plan = session.optimize(&self.logical(&session).await?)?;
        let of_names = plan.get_parameter_types()?;
        let parameters =
            (1..=self.parsed.unbound).map(|number| of_names.get(&format!("${number}")).cloned().flatten()).collect();
        Ok(Outline { schema: Arc::new(plan.schema().as_arrow().clone()), parameters })
    }

    /// A session that knows who takes part, and what of it asks for coverage.
    fn session(&self) -> (SessionState, Functions) {
        let (engine, round) = (self.engine, self.round);
        let routes: Routes = round.pinned().iter().map(|pinned| (pinned.reply.store_id, pinned.base.clone())).collect();
        let mut session = engine.sessions.open(Arc::new(routes), round.services(), self.channels.clone());
        let known = engine.topology.view();
        let nodes = round.facts(&known, &Readings::default());
        let functions = Functions::new(nodes, known.expected_nodes, now_unix_nanos(), Arc::clone(&engine.recent));
        functions.register(&mut session);
        let stores = round.pinned().iter().map(store).collect();
        let participants = Participants { query_id: round.query_id, stores, bucket: self.bucket.clone() };
        session.config_mut().set_extension(Arc::new(participants));
        session.config_mut().set_extension(Arc::new(known));
        (session, functions)
    }

    /// Plans over the nodes that are pinned.
    pub(crate) async fn plan(&self) -> Result<Planned, Failed> {
        let (session, functions) = self.session();
        let plan = self.logical(&session).await?;
        let unweighted = unweighted(&plan);
        let plan = session.optimize(&plan)?;
        let row_by_row = row_by_row(&plan);
        let scanned = scanned(&plan);
        let mut asked = asked(&scanned);
        asked.extend(functions.take_asked());
        let plan = session.query_planner().create_physical_plan(&plan, &session).await?;
        // Functions, settings and who takes part are the session's; the memory is the question's.
        let context = TaskContext::from(&session).with_runtime(Arc::clone(self.runtime));
        Ok(Planned { context: Arc::new(context), plan, asked, scanned, unweighted, row_by_row })
    }

    /// The plan that says what is asked, and nothing that it may not.
    async fn logical(&self, session: &SessionState) -> Result<LogicalPlan, Failed> {
        let plan = session.statement_to_plan(self.parsed.statement.clone()).await;
        let plan = plan.map_err(|error| Failed::Question(faults::with_names(error, self.parsed)))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)?;
        regrouped::refuse(&plan).map_err(Failed::Question)?;
        Ok(plan)
    }

    fn conducts(&self) -> impl Iterator<Item = (Who, &Arc<Conduct>)> {
        let nodes = self.round.pinned().iter().map(|pinned| (Who::Node(pinned.reply.store_id), &pinned.base));
        let services = self.round.services().iter().map(|url| (Who::Service(url.clone()), url));
        nodes.chain(services).filter_map(|(who, url)| Some((who, self.channels.conduct(url)?)))
    }

    /// Who holds the answer up: those that never took their plan, and those still at it when others are done.
    /// Where all have taken their plans and none is done, the question is heavy and nobody hangs.
    fn laggards(&self) -> Vec<(Who, String)> {
        let someone_finished = self.conducts().any(|(_, conduct)| conduct.finished());
        self.conducts()
            .filter(|(_, conduct)| conduct.called() && !conduct.finished())
            .filter(|(_, conduct)| !conduct.accepted() || someone_finished)
            .map(|(who, _)| (who, LATE.to_owned()))
            .collect()
    }

    /// Whose fault an error is: theirs who reported it, or the question's.
    fn failed(&self, error: DataFusionError) -> Failed {
        let who: Vec<_> = self
            .conducts()
            .filter_map(|(who, conduct)| {
                let error = conduct.failure()?;
                (faults::fault(&error) == Fault::Node).then(|| (who, faults::brief(&error)))
            })
            .collect();
        if who.is_empty() {
            Failed::Question(faults::ask_error(error))
        } else {
            Failed::Some { who, read_id: self.read_id }
        }
    }
}

fn store(pinned: &Pinned) -> PinnedStore {
    let reply = &pinned.reply;
    let answering = Answering { store_id: reply.store_id, leaves_files_out: reply.leaves_files_out };
    PinnedStore { answering, node_id: reply.identity.node_id.clone() }
}

/// Whether each row of the answer comes from one row below, so that rows of a node that broke off are right by themselves.
fn row_by_row(plan: &LogicalPlan) -> bool {
    let depends = plan.exists(|node| {
        Ok(!matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::Sort(_)
                | LogicalPlan::Union(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Limit(_)
                | LogicalPlan::Unnest(_)
                | LogicalPlan::EmptyRelation(_)
                | LogicalPlan::Values(_)
        ))
    });
    depends.is_ok_and(|depends| !depends)
}

fn explained_schema() -> Schema {
    Schema::new(vec![Field::new("plan_type", DataType::Utf8, false), Field::new("plan", DataType::Utf8, false)])
}

/// A plan as rows, with its stages and the store of each leaf.
fn explained(plan: &dyn ExecutionPlan) -> Result<RecordBatch> {
    let text = display_plan_ascii(plan, false);
    let columns =
        vec![Arc::new(StringArray::from(vec!["distributed_plan"])) as _, Arc::new(StringArray::from(vec![text])) as _];
    Ok(RecordBatch::try_new(Arc::new(explained_schema()), columns)?)
}
