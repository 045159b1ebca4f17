//! Groups of elements of groups' lists, refused. The engine believes that a group's key determines all columns still when
//! the group's lists have been unnested to many rows, and drops from a further `GROUP BY` or `DISTINCT` what the key
//! determines: three groups where there are twelve. Which columns were asked for cannot be told from the plan, since it
//! adds such columns to a `GROUP BY` as well; and no count is better than a wrong one.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;

use crate::ask::AskError;

/// Refuses a plan in which such rows are grouped once more.
pub(crate) fn refuse(plan: &LogicalPlan) -> Result<(), AskError> {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        found |= grouped(node).is_some_and(has_unnested_groups);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    if walked.is_ok() && !found {
        return Ok(());
    }
    Err(AskError::BadQuestion {
        message: "what was unnested from grouped rows cannot be grouped again".to_owned(),
        hint: Some("unnest rows that are not grouped, or ask for the unnested rows and group what comes".to_owned()),
    })
}

/// What a node makes groups of.
fn grouped(node: &LogicalPlan) -> Option<&LogicalPlan> {
    match node {
        LogicalPlan::Aggregate(aggregate) if !aggregate.group_expr.is_empty() => Some(&aggregate.input),
        LogicalPlan::Distinct(distinct) => Some(distinct.input()),
        _ => None,
    }
}

/// Whether a key of groups is believed to determine what lies above their lists.
fn has_unnested_groups(input: &LogicalPlan) -> bool {
    let is_keyed = |plan: &LogicalPlan| !plan.schema().functional_dependencies().is_empty();
    let unnests = |node: &LogicalPlan| match node {
        LogicalPlan::Unnest(unnest) => Ok(!unnest.list_type_columns.is_empty() && is_keyed(&unnest.input)),
        _ => Ok(false),
    };
    is_keyed(input) && input.exists(unnests).unwrap_or(true)
}
