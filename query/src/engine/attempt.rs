//! One try at an answer over the nodes that are pinned: plan, execute, collect, and say who failed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::DFParser;
use datafusion_distributed::display_plan_ascii;
use futures::StreamExt;
use lariat_collector::worker::estimates::Estimate;
use lariat_schema::ids::StoreId;
use lariat_schema::tables::Table;

use super::faults::{self, Fault};
use super::functions::Functions;
use super::round::{Pinned, Round};
use super::statement::Parsed;
use super::system_tables;
use crate::ask::AskError;
use crate::coverage::recent::Recent;
use crate::distribute::channels::{Channels, Conduct, QueryChannels};
use crate::distribute::{Routes, session};
use crate::scan::weights::unweighted;
use crate::scan::window::{Asked, asked};
use crate::scan::{FleetTable, PinnedStore};
use crate::topology::{Topology, now_unix_nanos};

/// Most rows of an answer that is complete before its first byte.
const MAX_ANSWER_ROWS: usize = 1_000_000;
/// Most bytes of such an answer in memory.
pub(crate) const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Rows, and what is told beside them.
pub(crate) struct Outcome {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
    /// The tables that the plan reads, and the time that it asks about.
    pub(crate) asked: Vec<(Table, Asked)>,
    /// Bytes of rows that came from nodes.
    pub(crate) bytes_received: u64,
    /// A plain aggregate over rows that may stand for several, and what estimates it.
    pub(crate) unweighted: Option<(String, Estimate)>,
}

/// Why a try gave no rows.
pub(crate) enum Failed {
    /// These nodes failed or hold the answer up: try again without them.
    Nodes(Vec<(StoreId, String)>),
    /// Trying again would fail again.
    Question(AskError),
}

impl From<DataFusionError> for Failed {
    fn from(error: DataFusionError) -> Self {
        Self::Question(faults::ask_error(error))
    }
}

/// A plan, and what is known of it before it runs.
struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    /// The tables that it reads and the time that it asks about.
    asked: Vec<(Table, Asked)>,
    unweighted: Option<(String, Estimate)>,
}

/// One try.
pub(crate) struct Attempt<'a> {
    runtime: &'a Arc<RuntimeEnv>,
    topology: &'a Topology,
    parsed: &'a Parsed,
    round: &'a Round,
    recent: &'a Arc<Recent>,
    channels: QueryChannels,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(
        runtime: &'a Arc<RuntimeEnv>,
        channels: &Channels,
        topology: &'a Topology,
        parsed: &'a Parsed,
        round: &'a Round,
        recent: &'a Arc<Recent>,
    ) -> Self {
        let urls = round.pinned().iter().map(|pinned| pinned.base.clone());
        Self { runtime, topology, parsed, round, recent, channels: QueryChannels::new(channels.clone(), urls) }
    }

    /// Runs; after `patience`, unless that is over, nodes that hold the answer up are given up. The caller ends
    /// the whole at the deadline.
    pub(crate) async fn run(self, patience: Duration) -> Result<Outcome, Failed> {
        let context = SessionContext::new_with_state(self.session()?);
        let Planned { plan, asked, unweighted } = self.plan(&context).await?;
        let schema = plan.schema();
        if self.parsed.explain {
            let batches = vec![explained(plan.as_ref())?];
            return Ok(Outcome { schema: batches[0].schema(), batches, asked, bytes_received: 0, unweighted });
        }
        let stream = execute_stream(plan, context.task_ctx())?;
        let collecting = collect(stream);
        tokio::pin!(collecting);
        let collected = if patience.is_zero() {
            (&mut collecting).await
        } else {
            match tokio::time::timeout(patience, &mut collecting).await {
                Ok(collected) => collected,
                Err(_) => match self.laggards() {
                    laggards if laggards.is_empty() => (&mut collecting).await,
                    laggards => return Err(Failed::Nodes(laggards)),
                },
            }
        };
        match collected {
            Ok(batches) => {
                let bytes_received = self.conducts().map(|(_, conduct)| conduct.received_bytes()).sum();
                Ok(Outcome { schema, batches, asked, bytes_received, unweighted })
            }
            Err(Collecting::TooLarge(error)) => Err(Failed::Question(error)),
            Err(Collecting::Failed(error)) => Err(self.failed(error)),
        }
    }

    fn session(&self) -> Result<SessionState> {
        let routes: Routes =
            self.round.pinned().iter().map(|pinned| (pinned.reply.store_id, pinned.base.clone())).collect();
        session(Arc::clone(self.runtime), Arc::new(routes), self.channels.clone())
    }

    async fn plan(&self, context: &SessionContext) -> Result<Planned, Failed> {
        let functions = self.register(context).await?;
        let state = context.state();
        let plan = state.statement_to_plan(self.parsed.statement.clone()).await;
        let plan = plan.map_err(|error| Failed::Question(faults::with_names(error, self.parsed)))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)?;
        let unweighted = unweighted(&plan);
        let plan = state.optimize(&plan)?;
        let mut asked = asked(&plan);
        asked.extend(functions.take_asked());
        let plan = state.query_planner().create_physical_plan(&plan, &state).await?;
        Ok(Planned { plan, asked, unweighted })
    }

    async fn register(&self, context: &SessionContext) -> Result<Functions> {
        let stores: Arc<[PinnedStore]> = self.round.pinned().iter().map(store).collect();
        for table in &self.parsed.tables {
            let provider = FleetTable { table: *table, query_id: self.round.query_id, stores: Arc::clone(&stores) };
            context.register_table(table.as_str(), Arc::new(provider))?;
        }
        for view in &self.parsed.views {
            let Some(statement) = DFParser::parse_sql(view.sql)?.pop_front() else { continue };
            let plan = context.state().statement_to_plan(statement).await?;
            context.register_table(view.name, Arc::new(ViewTable::new(plan, Some(view.sql.to_owned()))))?;
        }
        let known = self.topology.view();
        for (name, batch) in [
            (system_tables::NODES, system_tables::nodes(&known)?),
            (system_tables::MEMBERSHIP, system_tables::membership(&known)?),
        ] {
            context.register_table(name, Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))?;
        }
        let nodes = self.round.facts(&known, &HashMap::new());
        let functions = Functions::new(nodes, known.expected_nodes, now_unix_nanos(), Arc::clone(self.recent));
        functions.register(context);
        Ok(functions)
    }

    fn conducts(&self) -> impl Iterator<Item = (StoreId, &Arc<Conduct>)> {
        let of = |pinned: &Pinned| Some((pinned.reply.store_id, self.channels.conduct(&pinned.base)?));
        self.round.pinned().iter().filter_map(of)
    }

    /// Nodes that hold the answer up: those that never took their plan, and those still at it when others are done.
    /// Where all have taken their plans and none is done, the question is heavy and nobody hangs.
    fn laggards(&self) -> Vec<(StoreId, String)> {
        let someone_finished = self.conducts().any(|(_, conduct)| conduct.finished());
        self.conducts()
            .filter(|(_, conduct)| !conduct.finished() && (!conduct.accepted() || someone_finished))
            .map(|(store, _)| (store, "it did not answer in time".to_owned()))
            .collect()
    }

    /// Whose fault an error is: the nodes' that reported it, or the question's.
    fn failed(&self, error: DataFusionError) -> Failed {
        let nodes: Vec<_> = self
            .conducts()
            .filter_map(|(store, conduct)| {
                let error = conduct.failure()?;
                (faults::fault(&error) == Fault::Node).then(|| (store, faults::brief(&error)))
            })
            .collect();
        if nodes.is_empty() { Failed::Question(faults::ask_error(error)) } else { Failed::Nodes(nodes) }
    }
}

fn store(pinned: &Pinned) -> PinnedStore {
    PinnedStore { store_id: pinned.reply.store_id, node_id: pinned.reply.identity.node_id.clone() }
}

enum Collecting {
    TooLarge(AskError),
    Failed(DataFusionError),
}

async fn collect(mut stream: SendableRecordBatchStream) -> Result<Vec<RecordBatch>, Collecting> {
    let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(Collecting::Failed)?;
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
        if rows > MAX_ANSWER_ROWS || bytes > MAX_ANSWER_BYTES {
            return Err(Collecting::TooLarge(AskError::TooLarge {
                message: format!("the answer exceeds {MAX_ANSWER_ROWS} rows or {} MiB", MAX_ANSWER_BYTES >> 20),
                hint: Some("narrow it by time, aggregate it, or add a LIMIT".to_owned()),
            }));
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// A plan as rows, with its stages and the store of each leaf.
fn explained(plan: &dyn ExecutionPlan) -> Result<RecordBatch> {
    let text = display_plan_ascii(plan, false);
    let schema =
        Schema::new(vec![Field::new("plan_type", DataType::Utf8, false), Field::new("plan", DataType::Utf8, false)]);
    let columns =
        vec![Arc::new(StringArray::from(vec!["distributed_plan"])) as _, Arc::new(StringArray::from(vec![text])) as _];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}
