//! The time that a leaf's filter allows, so that files of other times are not even opened, and so that longer cells are
//! read where they say the same. For files, only what can be read off a conjunction of comparisons with constants counts;
//! whatever else the filter says may only make the answer smaller. Cells are added up over time, so that there all that
//! the filter says of it must be understood, and nothing it says may depend on what was added up.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::utils::collect_columns;
use lariat_schema::cells::{CANDIDATE_COLUMNS, KEY_COLUMNS};
use lariat_schema::time_range::TimeRange;

use super::scan::Rows;
use super::times::Times;

/// The column that files are kept by.
pub(super) const TIME: &str = "time";
/// The column of calls in a cell.
const CALLS: &str = "calls";

/// The time that rows of a leaf may have.
pub(crate) fn of(rows: &Rows) -> TimeRange {
    let (mut from, mut to) = (i64::MIN, i64::MAX);
    for condition in rows.filter.iter().flat_map(split_conjunction) {
        let Some(allowed) = comparison(condition) else { continue };
        (from, to) = (from.max(allowed.from_unix_nanos), to.min(allowed.to_unix_nanos));
    }
    TimeRange::new(from, to)
}

/// The exact time that the filter of a leaf of cells allows, if longer cells inside that time pass it exactly where all that
/// they were added up of does.
pub(crate) fn of_cells(rows: &Rows) -> Option<Times> {
    let schema = rows.table.schema();
    let counts_candidates =
        rows.projection.iter().any(|at| CANDIDATE_COLUMNS.contains(&schema.field(*at).name().as_str()));
    let mut times = Times::all();
    for condition in rows.filter.iter().flat_map(split_conjunction) {
        if speaks_of_keys(condition) || (is_called(condition) && !counts_candidates) {
            continue;
        }
        times = times.and(&allowed(condition)?);
    }
    Some(times)
}

/// Whether all cells that are added up are alike in what the condition is about.
fn speaks_of_keys(condition: &Arc<dyn PhysicalExpr>) -> bool {
    collect_columns(condition).iter().all(|column| KEY_COLUMNS.contains(&column.name()))
}

/// `calls > 0`: rows of no calls add nothing to anything but the counts of candidates.
fn is_called(condition: &Arc<dyn PhysicalExpr>) -> bool {
    condition.downcast_ref::<BinaryExpr>().is_some_and(|binary| {
        let is_calls = binary.left().downcast_ref::<Column>().is_some_and(|column| column.name() == CALLS);
        let zero = binary.right().downcast_ref::<Literal>().map(Literal::value);
        *binary.op() == Operator::Gt && is_calls && zero == Some(&ScalarValue::Int64(Some(0)))
    })
}

/// The moments that a condition on nothing but the time allows.
fn allowed(condition: &Arc<dyn PhysicalExpr>) -> Option<Times> {
    if let Some(range) = comparison(condition) {
        return Some(Times::of([range]));
    }
    let binary = condition.downcast_ref::<BinaryExpr>()?;
    match binary.op() {
        Operator::And => Some(allowed(binary.left())?.and(&allowed(binary.right())?)),
        Operator::Or => Some(allowed(binary.left())?.or(&allowed(binary.right())?)),
        _ => None,
    }
}

/// What `time <op> constant` allows, whichever way round it is written.
fn comparison(condition: &Arc<dyn PhysicalExpr>) -> Option<TimeRange> {
    let binary = condition.downcast_ref::<BinaryExpr>()?;
    let (op, at) = if is_time(binary.left()) {
        (*binary.op(), moment(binary.right())?)
    } else if is_time(binary.right()) {
        (binary.op().swap()?, moment(binary.left())?)
    } else {
        return None;
    };
    let (least, after) = (i64::MIN, at.saturating_add(1));
    match op {
        Operator::GtEq => Some(TimeRange::new(at, i64::MAX)),
        Operator::Gt => Some(TimeRange::new(after, i64::MAX)),
        Operator::Lt => Some(TimeRange::new(least, at)),
        Operator::LtEq => Some(TimeRange::new(least, after)),
        Operator::Eq => Some(TimeRange::new(at, after)),
        _ => None,
    }
}

fn is_time(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Column>().is_some_and(|column| column.name() == TIME)
}

fn moment(expr: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::TimestampNanosecond(at, _) => *at,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::SchemaRef;
    use datafusion::catalog::{Session, TableProvider};
    use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
    use datafusion::common::{DFSchema, Result};
    use datafusion::logical_expr::expr_rewriter::unnormalize_col;
    use datafusion::logical_expr::utils::conjunction;
    use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
    use datafusion::physical_plan::ExecutionPlan;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::prelude::SessionContext;
    use lariat_schema::cells::CellWidth;
    use lariat_schema::tables::Table;

    use super::*;

    const NOON: i64 = 1_763_726_400_000_000_000;
    const SECOND: i64 = 1_000_000_000;

    /// A table that judges every condition itself.
    #[derive(Debug)]
    struct Cells;

    #[async_trait::async_trait]
    impl TableProvider for Cells {
        fn schema(&self) -> SchemaRef {
            Table::Rollups.schema()
        }

        fn table_type(&self) -> TableType {
            TableType::Base
        }

        fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
            Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
        }

        async fn scan(
            &self,
            _: &dyn Session,
            _: Option<&Vec<usize>>,
            _: &[Expr],
            _: Option<usize>,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            Ok(Arc::new(EmptyExec::new(self.schema())))
        }
    }

    /// What a leaf is asked for with this condition, as the planner writes it.
    async fn rows(condition: &str, columns: &[&str]) -> Rows {
        let (context, schema) = (SessionContext::new(), Table::Rollups.schema());
        context.register_table("rollups", Arc::new(Cells)).unwrap();
        let plan = context.sql(&format!("SELECT * FROM rollups WHERE {condition}")).await.unwrap();
        let plan = plan.into_optimized_plan().unwrap();
        let mut filters = Vec::new();
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                filters.extend(scan.filters.iter().cloned().map(unnormalize_col));
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let of_table = DFSchema::try_from(Arc::clone(&schema)).unwrap();
        let filter = conjunction(filters).map(|filter| context.create_physical_expr(filter, &of_table).unwrap());
        assert!(filter.is_some(), "{condition} is not judged by the table");
        let projection = columns.iter().map(|name| schema.index_of(name).unwrap()).collect();
        Rows { table: Table::Rollups, cells: Some(CellWidth::Hour), projection, filter, limit: None }
    }

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange::new(NOON + from * SECOND, NOON + to * SECOND)
    }

    #[tokio::test]
    async fn the_time_of_cells_is_what_comparisons_and_their_combinations_say() {
        let (at, window) = (
            |seconds: i64| format!("arrow_cast({}, 'Timestamp(Nanosecond, Some(\"UTC\"))')", NOON + seconds * SECOND),
            "time >= '2025-11-21T12:00:00Z' AND time < '2025-11-21T12:15:00Z'",
        );
        let several = format!(
            "time >= {from} AND time < {to} AND ((time >= {from} AND time < {a}) OR (time >= {b} AND time < {to}))",
            from = at(0),
            a = at(10),
            b = at(600),
            to = at(900),
        );
        for (condition, ranges) in [
            (window.to_owned(), vec![range(0, 900)]),
            (
                format!(
                    "family = 'ops' AND chain IN ('a', 'b', 'c', 'd') AND sketch_scale = 6 AND calls > 0 AND {window}"
                ),
                vec![range(0, 900)],
            ),
            (
                format!("error_category IS NOT NULL AND (chain = 'a' OR method IS NULL) AND {window}"),
                vec![range(0, 900)],
            ),
            (several, vec![range(0, 10), range(600, 900)]),
            (format!("time BETWEEN {} AND {}", at(0), at(900)), vec![TimeRange::new(NOON, NOON + 900 * SECOND + 1)]),
            (format!("{} > time AND time > {}", at(900), at(0)), vec![TimeRange::new(NOON + 1, NOON + 900 * SECOND)]),
        ] {
            let found = of_cells(&rows(&condition, &["calls", "sketch_counts"]).await);
            assert_eq!(found, Some(Times::of(ranges)), "{condition}");
        }
        assert_eq!(of_cells(&rows("family = 'ops'", &["calls"]).await), Some(Times::all()));
    }

    #[tokio::test]
    async fn where_the_filter_says_more_of_time_or_of_what_is_added_up_there_are_no_long_cells() {
        for condition in [
            "date_trunc('day', time) = '2025-11-21'",
            "time >= '2025-11-21' AND extract(minute FROM time) = 7",
            "time <> '2025-11-21'",
            "time >= '2025-11-21' OR chain = 'a'",
            "observed_time >= '2025-11-21'",
            "calls > 1",
            "calls >= 1 OR family = 'usage'",
            "duration_sum_ns > 0",
            "cardinality(sketch_counts) > 3",
        ] {
            assert_eq!(of_cells(&rows(condition, &["calls"]).await), None, "{condition}");
        }
        // Candidates are counted where nothing is called, too.
        assert_eq!(of_cells(&rows("calls > 0", &["calls", "eligible_count"]).await), None);
    }
}
