//! The catalog: what clients ask in order to know what they can ask.
//!
//! It is answered by an engine without nodes over tables that are made from the relations, not by matching whole
//! questions: clients differ in what they join and where they filter, and a table answers all of them. What those tables
//! cannot answer is rewritten first ([`rewrite`]). The engine of the fleet is not touched: a question that can read
//! `pg_class` cannot read `spans`, and the other way round.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::TableReference;
use datafusion::datasource::ViewTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement as Parsed};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as Sql;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::failure::Problem;
use super::session::Session;
use crate::ask::{Ask, Outline, Parameter};
use crate::engine::{bind, is_shallow};
use crate::ports::relations::{CATALOG, Relations};

mod base;
mod functions;
mod rewrite;
mod tables;

/// The schema that names without one are looked for in.
pub(super) const PG_CATALOG: &str = "pg_catalog";
/// Memory of all questions about the catalog together.
const MEMORY_BYTES: usize = 64 * 1024 * 1024;
/// Questions about the catalog at a time: they run where connections are served, and must leave room there.
const MAX_AT_A_TIME: usize = 4;
/// Longest time of one; the tables have some hundred rows.
const DEADLINE: Duration = Duration::from_secs(5);
/// Operators and their like in a question: clients' own have some hundred.
const MAX_LINKS: usize = 300;
/// Most rows of an answer.
const MAX_ROWS: usize = 100_000;

/// The catalog of a query service.
pub(crate) struct Catalog {
    relations: Relations,
    runtime: OnceLock<Arc<RuntimeEnv>>,
    turns: Semaphore,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { relations: Relations::default(), runtime: OnceLock::new(), turns: Semaphore::new(MAX_AT_A_TIME) }
    }
}

/// Whether a question reads nothing but the catalog.
pub(crate) fn answers(sql: &str) -> bool {
    let Some(parsed) = parsed(sql) else { return false };
    let Ok((relations, _)) = resolve_table_references(&parsed, true) else { return false };
    relations.iter().all(|relation| {
        let of_postgres = matches!(relation.schema(), Some(PG_CATALOG | tables::INFORMATION_SCHEMA));
        of_postgres || tables::find(relation.schema(), relation.table()).is_some()
    })
}

/// The one query in a text, rewritten.
fn parsed(sql: &str) -> Option<Parsed> {
    // What is too deep for the threads that serve connections is the engine's to judge.
    is_shallow(sql, MAX_LINKS).ok()?;
    let mut statements = DFParser::parse_sql_with_dialect(sql, &PostgreSqlDialect {}).ok()?;
    let mut parsed = statements.pop_front().filter(|_| statements.is_empty())?;
    match &mut parsed {
        Parsed::Statement(inner) if matches!(inner.as_ref(), Sql::Query(_)) => rewrite::rewrite(inner),
        _ => return None,
    }
    Some(parsed)
}

impl Catalog {
    /// The rows of an answer.
    pub(crate) async fn answer(
        &self,
        ask: &dyn Ask,
        session: &Session,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<(SchemaRef, Vec<RecordBatch>), Problem> {
        let _turn = self.turns.acquire().await.map_err(|_| Problem::new("57P01", "the service is stopping", None))?;
        let answering = async {
            match self.planned(ask, session, sql, parameters).await? {
                Planned::Empty(schema) => Ok((schema, Vec::new())),
                Planned::Frame(frame, _) => collect(frame).await,
            }
        };
        let late = || Problem::new("57014", format!("no answer about the catalog within {DEADLINE:?}"), None);
        tokio::time::timeout(DEADLINE, answering).await.unwrap_or_else(|_| Err(late()))
    }

    /// The columns of an answer.
    pub(crate) async fn outline(
        &self,
        ask: &dyn Ask,
        session: &Session,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Outline, Problem> {
        match self.planned(ask, session, sql, parameters).await? {
            Planned::Empty(schema) => Ok(Outline { schema, parameters: Vec::new() }),
            Planned::Frame(frame, unbound) => {
                let of_names = frame.logical_plan().get_parameter_types().map_err(problem)?;
                let of = |number| of_names.get(&format!("${number}")).cloned().flatten();
                let schema = Arc::new(frame.schema().as_arrow().clone());
                Ok(Outline { schema, parameters: (1..=unbound).map(of).collect() })
            }
        }
    }

    async fn planned(
        &self,
        ask: &dyn Ask,
        session: &Session,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Planned, Problem> {
        let mut parsed = parsed(sql).ok_or_else(|| Problem::new("42601", "this is no question", None))?;
        let unbound = match &mut parsed {
            Parsed::Statement(inner) => bind(inner, parameters)?,
            _ => 0,
        };
        let empty = match &parsed {
            Parsed::Statement(inner) => rewrite::empty_columns(inner),
            _ => None,
        };
        let planned = self.plan(ask, session, parsed).await;
        match (planned, empty) {
            (Ok(frame), _) => Ok(Planned::Frame(Box::new(frame), unbound)),
            // What cannot be planned and reads a table that is always empty has no rows either way.
            (Err(_), Some(columns)) => {
                let fields = columns.iter().map(|name| Field::new(name, DataType::Utf8, true));
                Ok(Planned::Empty(Arc::new(Schema::new(fields.collect::<Vec<_>>()))))
            }
            (Err(problem), None) => Err(problem),
        }
    }

    async fn plan(&self, ask: &dyn Ask, session: &Session, parsed: Parsed) -> Result<DataFrame, Problem> {
        let relations = self.relations.all(ask).await?;
        let context = self.context().map_err(problem)?;
        base::register(&context, &relations, session).map_err(problem)?;
        functions::register(&context, &relations, session);
        let (wanted, _) = resolve_table_references(&parsed, true).map_err(problem)?;
        for relation in wanted {
            let Some((schema, name, sql)) = tables::find(relation.schema(), relation.table()) else { continue };
            let plan = plan_text(&context, &sql).await.map_err(problem)?;
            let view = Arc::new(ViewTable::new(plan, None));
            context.register_table(TableReference::partial(schema, name), view).map_err(problem)?;
        }
        let plan = context.state().statement_to_plan(parsed).await.map_err(problem)?;
        let only_reading = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        only_reading.verify_plan(&plan).map_err(problem)?;
        context.execute_logical_plan(plan).await.map_err(problem)
    }

    /// A context for one question.
    fn context(&self) -> Result<SessionContext, DataFusionError> {
        let runtime = match self.runtime.get() {
            Some(runtime) => Arc::clone(runtime),
            None => {
                let made = RuntimeEnvBuilder::new().with_memory_limit(MEMORY_BYTES, 1.0).build_arc()?;
                Arc::clone(self.runtime.get_or_init(|| made))
            }
        };
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(false)
            .with_default_catalog_and_schema(CATALOG, PG_CATALOG);
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_table_functions(std::collections::HashMap::new())
            .build();
        let context = SessionContext::new_with_state(state);
        if let Some(catalog) = context.catalog(CATALOG) {
            for schema in [base::BASE, tables::INFORMATION_SCHEMA] {
                catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()))?;
            }
        }
        Ok(context)
    }
}

enum Planned {
    Frame(Box<DataFrame>, usize),
    Empty(SchemaRef),
}

async fn plan_text(context: &SessionContext, sql: &str) -> Result<LogicalPlan, DataFusionError> {
    let state = context.state();
    let statement = state.sql_to_statement(sql, &datafusion::config::Dialect::Generic)?;
    state.statement_to_plan(statement).await
}

async fn collect(frame: Box<DataFrame>) -> Result<(SchemaRef, Vec<RecordBatch>), Problem> {
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let mut stream = frame.execute_stream().await.map_err(problem)?;
    let (mut batches, mut rows) = (Vec::new(), 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(problem)?;
        rows += batch.num_rows();
        if rows > MAX_ROWS {
            let hint = "add a LIMIT";
            return Err(Problem::new("54000", format!("the answer exceeds {MAX_ROWS} rows"), Some(hint)));
        }
        batches.push(batch);
    }
    Ok((schema, batches))
}

/// The engine's error about the catalog, as a client sees it.
fn problem(error: DataFusionError) -> Problem {
    let message = error.strip_backtrace().lines().next().unwrap_or_default().to_owned();
    Problem::from(crate::ask::AskError::BadQuestion { message, hint: None })
}
