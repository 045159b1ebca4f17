//! Which columns a leaf hands on, and in which order. The logical plan gives a scan its columns in the order of the table and
//! puts a projection above it, which for a view is nearly always one that changes nothing but the order. Leaves can do that
//! themselves, and such a projection, with half a hundred columns, would be judged by every further rule, sent to every
//! node and built anew there.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use super::FleetScan;

/// Puts projections that only choose columns into the leaves below them.
#[derive(Debug)]
pub(crate) struct LeafColumns;

impl PhysicalOptimizerRule for LeafColumns {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let into_leaves = |node: Arc<dyn ExecutionPlan>| match chosen(&node) {
            Some((scan, columns)) => Ok(Transformed::yes(Arc::new(scan.choose(&columns)?) as _)),
            None => Ok(Transformed::no(node)),
        };
        Ok(plan.transform_up(into_leaves)?.data)
    }

    fn name(&self) -> &'static str {
        "leaf_columns"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The scan below a projection, and the places of the columns that are chosen of it under the names that they have.
fn chosen(node: &Arc<dyn ExecutionPlan>) -> Option<(&FleetScan, Vec<usize>)> {
    let projection = node.downcast_ref::<ProjectionExec>()?;
    let scan = projection.input().downcast_ref::<FleetScan>()?;
    let columns = projection.expr().iter().map(|chosen| {
        let column = chosen.expr.downcast_ref::<Column>()?;
        (column.name() == chosen.alias).then(|| column.index())
    });
    let columns = columns.collect::<Option<Vec<usize>>>()?;
    // What a projection says of a field beside its name and type is its own to keep.
    let schema = scan.schema().project(&columns).ok()?;
    (*projection.schema() == schema).then_some((scan, columns))
}
