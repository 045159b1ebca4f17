//! What a node is willing to execute: reading its own store, and the operators that make less of the rows before they
//! travel. A plan is data from outside, even behind the cluster's token: one that writes, or that opens files by name,
//! is refused whole before any of it runs. Operators are told by their type, since a name is only what they call
//! themselves; and the query service asks the same function what it may send.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion_distributed::{WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse};

use super::scan::StoreScan;

/// True for an operator above a leaf that a node executes: one that looks at one partition at a time, so that it means
/// the same on each node's partitions as on all of them together.
#[must_use]
pub fn runs_on_nodes(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return *aggregate.mode() == AggregateMode::Partial;
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return sort.preserve_partitioning();
    }
    plan.is::<FilterExec>() || plan.is::<ProjectionExec>() || plan.is::<LocalLimitExec>() || plan.is::<UnnestExec>()
}

/// Refuses a stage with any other operator.
pub(crate) fn only_known_operators(event: WorkerPlanRewriteEvent<'_>) -> Result<WorkerPlanRewriteEventResponse> {
    check(&event.plan)?;
    Ok(WorkerPlanRewriteEventResponse::new(event.plan))
}

fn check(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    plan.apply(|node| {
        if node.is::<StoreScan>() || runs_on_nodes(node) {
            return Ok(TreeNodeRecursion::Continue);
        }
        internal_err!("a node does not execute {}", node.name())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::limit::LocalLimitExec;

    use super::*;

    #[test]
    fn a_stage_with_a_foreign_operator_anywhere_is_refused_whole() {
        let leaf: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let limited: Arc<dyn ExecutionPlan> = Arc::new(LocalLimitExec::new(Arc::clone(&leaf), 1));
        assert!(check(&limited).unwrap_err().to_string().contains("EmptyExec"));
        let coalesced: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(limited));
        assert!(check(&coalesced).is_err());
    }
}
