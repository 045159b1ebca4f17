//! What a node is willing to execute: reading its own store, and the operators that make less of the rows before they
//! travel. A plan is data from outside, even behind the cluster's token: one that writes, or that opens files by name,
//! is refused whole before any of it runs.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, exec_err};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::{WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse};

/// Names of the operators that a stage may consist of.
pub(crate) const OPERATORS: &[&str] =
    &["StoreScan", "FilterExec", "ProjectionExec", "AggregateExec", "SortExec",
    "SortExec(TopK)", "LocalLimitExec", "UnnestExec"];

/// Refuses a stage with any other operator.
pub(crate) fn only_known_operators(event: WorkerPlanRewriteEvent<'_>) -> Result<WorkerPlanRewriteEventResponse> {
    check(&event.plan)?;
    Ok(WorkerPlanRewriteEventResponse::new(event.plan))
}

fn check(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    plan.apply(|node| {
        if !OPERATORS.contains(&node.name()) {
            return exec_err!("a node does not execute {}", node.name());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}
