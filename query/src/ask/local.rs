//! An engine in one process over rows in memory: what the APIs are tested against, and the oracle of the distributed
//! engine's tests.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use lariat_collector::worker::{estimates, exclusions, sketches};
use lariat_schema::cells::CellWidth;
use lariat_schema::coverage::{Coverage, Sampling, Window};
use lariat_schema::tables::Table;
use parking_lot::Mutex;

use crate::scan::weights::EstimateWeights;

use super::{Answer, Ask, AskError, Question, Stats};

/// All tables in memory, with the views over them.
pub(crate) struct LocalEngine {
    context: SessionContext,
}

impl LocalEngine {
    /// An engine over these rows; tables not named are empty.
    pub(crate) async fn new(rows: Vec<(Table, Vec<RecordBatch>)>) -> Result<Self, DataFusionError> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        estimates::register(&mut *context.state_ref().write())?;
        sketches::register(&mut *context.state_ref().write())?;
        exclusions::register(&mut *context.state_ref().write())?;
        context.add_analyzer_rule(Arc::new(EstimateWeights));
        for table in Table::ALL {
            let batches = rows.iter().filter(|(of, _)| of == table).flat_map(|(_, batches)| batches.clone()).collect();
            let provider = Arc::new(MemTable::try_new(table.schema(), vec![batches])?);
            // Longer cells are another form of the same rows.
            for width in CellWidth::ALL.iter().filter(|_| *table == Table::Rollups) {
                context.register_table(width.relation(), Arc::clone(&provider) as _)?;
            }
            context.register_table(table.as_str(), provider)?;
        }
        for view in lariat_schema::views::ALL {
            context.sql(&format!("CREATE VIEW {} AS {}", view.name, view.sql)).await?;
        }
        Ok(Self { context })
    }
}

#[async_trait]
impl Ask for LocalEngine {
    async fn ask(&self, question: Question) -> Result<Answer, AskError> {
        let bad = |error: DataFusionError| AskError::BadQuestion { message: error.to_string(), hint: None };
        let frame = self.context.sql(&question.sql).await.map_err(bad)?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.map_err(bad)?;
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let coverage = Coverage {
            complete: true,
            ratio: 1.0,
            expected: 1,
            connected: 1,
            responding: 1,
            answered: 1,
            window: Window { from: None, to: None, open_from: None },
            query_id: "local".to_owned(),
            regions: Vec::new(),
            nodes: Vec::new(),
        };
        let stats = Stats { rows, ..Stats::default() };
        Ok(Answer { schema, batches, coverage, sampling: Sampling::default(), stats, hint: None, stores: Vec::new() })
    }
}

/// The same engine, with a list of what it was asked.
pub(crate) struct Counting {
    engine: LocalEngine,
    asked: Mutex<Vec<String>>,
}

impl Counting {
    pub(crate) async fn new(rows: Vec<(Table, Vec<RecordBatch>)>) -> Arc<Self> {
        Arc::new(Self { engine: LocalEngine::new(rows).await.unwrap(), asked: Mutex::default() })
    }

    /// What it was asked since the last time.
    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }
}

#[async_trait]
impl Ask for Counting {
    async fn ask(&self, question: Question) -> Result<Answer, AskError> {
        self.asked.lock().push(question.sql.clone());
        self.engine.ask(question).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_view_of_the_schema_can_be_planned_and_read() {
        let engine = LocalEngine::new(Vec::new()).await.unwrap();
        for view in lariat_schema::views::ALL {
            engine.ask(Question::new(format!("SELECT * FROM {}", view.name))).await.unwrap();
        }
    }
}
