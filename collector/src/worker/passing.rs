//! The rows of a leaf that its filter lets pass, exactly. The engine's own filter does the same and first derives what the
//! condition says of every column's statistics and order, for an optimizer that does not see a leaf's inside; with a hundred
//! columns that took longer than to read a file in which no row passes.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{BatchCoalescer, filter_record_batch};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::scan::properties;

/// The operator.
#[derive(Debug)]
pub(crate) struct Passing {
    input: Arc<dyn ExecutionPlan>,
    /// A condition over the input.
    filter: Arc<dyn PhysicalExpr>,
    /// Columns of the input that are handed on.
    output: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl Passing {
    /// Hands on these columns of the rows of `input` that fulfil the condition.
    pub(crate) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        filter: Arc<dyn PhysicalExpr>,
        output: Vec<usize>,
    ) -> Result<Self> {
        let schema = Arc::new(input.schema().project(&output)?);
        let properties = properties(schema, input.output_partitioning().partition_count());
        Ok(Self { input, filter, output, properties })
    }
}

impl DisplayAs for Passing {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passing: {}", self.filter)
    }
}

impl ExecutionPlan for Passing {
    fn name(&self) -> &'static str {
        "Passing"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        visit(&self.filter)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.pop()) {
            (Some(input), None) => Ok(Arc::new(Self::try_new(input, Arc::clone(&self.filter), self.output.clone())?)),
            _ => internal_err!("Passing has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batch_size = context.session_config().batch_size();
        let passing = Rows {
            input: self.input.execute(partition, context)?.fuse(),
            filter: Arc::clone(&self.filter),
            output: self.output.clone(),
            // Few rows of many batches are one batch; a batch that is large as it is is not copied.
            coalescer: BatchCoalescer::new(self.schema(), batch_size)
                .with_biggest_coalesce_batch_size(Some(batch_size / 2)),
        };
        let rows = futures::stream::try_unfold(passing, |mut passing| async move {
            Ok(passing.next().await?.map(|batch| (batch, passing)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

struct Rows {
    input: futures::stream::Fuse<SendableRecordBatchStream>,
    filter: Arc<dyn PhysicalExpr>,
    output: Vec<usize>,
    coalescer: BatchCoalescer,
}

impl Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.coalescer.next_completed_batch() {
                return Ok(Some(batch));
            }
            let Some(batch) = self.input.try_next().await? else {
                self.coalescer.finish_buffered_batch()?;
                return Ok(self.coalescer.next_completed_batch());
            };
            let passes = self.filter.evaluate(&batch)?.into_array(batch.num_rows())?;
            let batch = filter_record_batch(&batch.project(&self.output)?, as_boolean_array(&passes)?)?;
            self.coalescer.push_batch(batch)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, StringArray};
    use arrow::compute::concat_batches;
    use datafusion::common::DFSchema;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    fn batches(rows: i32, of: i32) -> Vec<RecordBatch> {
        let numbers: Vec<Option<i32>> = (0..rows).map(|row| (row % 7 != 0).then_some(row)).collect();
        let batch = |numbers: &[Option<i32>]| {
            let texts: StringArray = numbers.iter().map(|number| number.map(|number| format!("t{number}"))).collect();
            let columns: [(&str, Arc<dyn arrow::array::Array>); 2] =
                [("number", Arc::new(Int32Array::from(numbers.to_vec()))), ("text", Arc::new(texts))];
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
        };
        numbers.chunks(usize::try_from(of).unwrap()).map(batch).collect()
    }

    /// What passes, and what the engine says of the same question.
    async fn both(condition: &str, output: &[usize], batch_size: usize) -> (Vec<RecordBatch>, Vec<RecordBatch>) {
        let context =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1).with_batch_size(batch_size));
        let rows = batches(1_000, 30);
        let schema = rows[0].schema();
        let filter = context.parse_sql_expr(condition, &DFSchema::try_from(Arc::clone(&schema)).unwrap()).unwrap();
        let filter = context.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(&schema)).unwrap()).unwrap();
        let input = MemorySourceConfig::try_new_exec(std::slice::from_ref(&rows), Arc::clone(&schema), None).unwrap();
        let passing = Passing::try_new(input, filter, output.to_vec()).unwrap();
        let found = datafusion::physical_plan::common::collect(passing.execute(0, context.task_ctx()).unwrap());
        let table = datafusion::datasource::MemTable::try_new(Arc::clone(&schema), vec![rows]).unwrap();
        context.register_table("t", Arc::new(table)).unwrap();
        let names: Vec<_> = output.iter().map(|column| schema.field(*column).name().as_str()).collect();
        let names = if names.is_empty() { "number".to_owned() } else { names.join(", ") };
        let wanted = context.sql(&format!("SELECT {names} FROM t WHERE {condition}")).await.unwrap().collect().await;
        (found.await.unwrap(), wanted.unwrap())
    }

    fn count(batches: &[RecordBatch]) -> usize {
        batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[tokio::test]
    async fn what_passes_is_what_the_engines_own_filter_lets_pass() {
        for (condition, output) in [
            ("number > 500", vec![0, 1]),
            ("number % 2 = 0", vec![1, 0]),
            ("number IS NULL OR text = 't8'", vec![1]),
            ("number < 0", vec![0]),
            ("true", vec![0, 1]),
        ] {
            let (found, wanted) = both(condition, &output, 64).await;
            assert_eq!(count(&found), count(&wanted), "{condition}");
            if let Some(first) = found.first() {
                let all = concat_batches(&first.schema(), &found).unwrap();
                assert_eq!(all, concat_batches(&first.schema(), &wanted).unwrap(), "{condition}");
            }
        }
    }

    #[tokio::test]
    async fn rows_without_columns_are_counted_and_few_rows_of_many_batches_come_together() {
        let (found, wanted) = both("number > 500", &[], 64).await;
        assert_eq!((count(&found), found[0].num_columns()), (count(&wanted), 0));
        let (found, wanted) = both("number % 100 = 1", &[0], 64).await;
        assert_eq!((found.len(), count(&found)), (1, count(&wanted)));
    }
}
