//! The spans of a decision by one question, and told apart afterwards. What is a decision and what is an attempt, and with
//! which columns, is said by the views: the question is made of their definitions, so that neither is defined twice. Two
//! questions, one for each view, would plan, pin and read the same files twice, which is most of what a look-up costs.

use std::sync::LazyLock;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::error::ArrowError;
use lariat_schema::tables::Table;
use lariat_schema::views;

/// Most decisions of one answer: the largest batch, several times over.
const MAX_DECISIONS: usize = 1_000;
/// Most attempts of one answer.
const MAX_ATTEMPTS: usize = 10_000;

/// A view that only chooses among the columns and rows of `spans`.
struct Part {
    columns: Vec<&'static str>,
    condition: &'static str,
    /// What all its rows are.
    span_kind: &'static str,
    /// The order of its rows in an answer.
    order: [&'static str; 2],
    limit: usize,
}

static DECISIONS: LazyLock<Part> =
    LazyLock::new(|| Part::of("routing_decisions", "server", ["time", "batch_index"], MAX_DECISIONS));
static ATTEMPTS: LazyLock<Part> = LazyLock::new(|| Part::of("attempts", "client", ["ordinal", "time"], MAX_ATTEMPTS));

impl Part {
    fn of(view: &str, span_kind: &'static str, order: [&'static str; 2], limit: usize) -> Self {
        let sql = views::ALL.iter().find(|of| of.name == view).map_or("", |of| of.sql);
        let (columns, condition) = sql.split_once(" FROM spans WHERE ").unwrap_or_default();
        let columns = columns.strip_prefix("SELECT ").unwrap_or_default().split(", ").collect();
        Self { columns, condition, span_kind, order, limit }
    }

    /// The rows that belong to it, in their order.
    fn take(&self, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>, ArrowError> {
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        let all = concat_batches(&first.schema(), batches)?;
        let Some(kinds) = all.column_by_name(SPAN_KIND).and_then(|kinds| kinds.as_string_opt::<i32>()) else {
            return Err(ArrowError::SchemaError(format!("`{SPAN_KIND}` is missing")));
        };
        let own: BooleanArray = kinds.iter().map(|kind| Some(kind == Some(self.span_kind))).collect();
        let schema = all.schema();
        let columns: Result<Vec<usize>, _> = self.columns.iter().map(|name| schema.index_of(name)).collect();
        let own = filter_record_batch(&all.project(&columns?)?, &own)?;
        let order = self.order.iter().filter_map(|name| own.column_by_name(name));
        let order: Vec<_> = order.map(|values| SortColumn { values: values.clone(), options: None }).collect();
        let places = lexsort_to_indices(&order, Some(self.limit))?;
        Ok(vec![take_record_batch(&own, &places)?])
    }
}

const SPAN_KIND: &str = "span_kind";

/// The decisions and attempts of a request or a trace.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) decisions: Vec<RecordBatch>,
    pub(super) attempts: Vec<RecordBatch>,
}

impl Records {
    /// The question for all that fulfil a condition. Where there are too many, the oldest are taken: attempts are hardly
    /// younger than their decision.
    pub(super) fn question(condition: &str) -> String {
        let (decisions, attempts) = (&*DECISIONS, &*ATTEMPTS);
        let wanted =
            |name: &&str| *name == SPAN_KIND || [decisions, attempts].iter().any(|of| of.columns.contains(name));
        let schema = Table::Spans.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).filter(wanted).collect();
        format!(
            "SELECT {} FROM spans WHERE {condition} AND (({}) OR ({})) ORDER BY time LIMIT {}",
            columns.join(", "),
            decisions.condition,
            attempts.condition,
            MAX_DECISIONS + MAX_ATTEMPTS
        )
    }

    /// What the answer holds of both.
    ///
    /// # Errors
    /// When it is no answer to that question.
    pub(super) fn of(batches: &[RecordBatch]) -> Result<Self, ArrowError> {
        Ok(Self { decisions: DECISIONS.take(batches)?, attempts: ATTEMPTS.take(batches)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::local::LocalEngine;
    use crate::ask::{Ask as _, Question};

    #[tokio::test]
    async fn both_parts_have_the_columns_of_their_views() {
        let engine = LocalEngine::new(Vec::new()).await.unwrap();
        for (view, part) in [("routing_decisions", &DECISIONS), ("attempts", &ATTEMPTS)] {
            let answer = engine.ask(Question::new(format!("SELECT * FROM {view}"))).await.unwrap();
            let columns: Vec<_> = answer.schema.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(columns, part.columns, "{view}");
        }
        let both = engine.ask(Question::new(Records::question("true"))).await.unwrap();
        assert!(both.schema.index_of(SPAN_KIND).is_ok());
    }
}
