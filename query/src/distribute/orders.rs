//! Orders above unnested lists, kept whole. The engine drops what is ordered by after a key that determines it, and believes
//! that the key of a group still determines all columns when the group's lists have become many rows, so that
//! `ORDER BY key, element` came sorted by the key alone. Above such lists the rule is left out: at worst a column too many
//! is compared.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule};

/// The rule that drops what is ordered by.
const DROPS: &str = "eliminate_duplicated_expr";

/// The engine's rules, with that one bounded.
pub(super) fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let bounded = |rule: Arc<dyn OptimizerRule + Send + Sync>| -> Arc<dyn OptimizerRule + Send + Sync> {
        if rule.name() == DROPS { Arc::new(WholeOrders(rule)) } else { rule }
    };
    Optimizer::new().rules.into_iter().map(bounded).collect()
}

#[derive(Debug)]
struct WholeOrders(Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for WholeOrders {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if let LogicalPlan::Sort(sort) = &plan
            && sort.input.exists(|node| Ok(matches!(node, LogicalPlan::Unnest(_))))?
        {
            return Ok(Transformed::no(plan));
        }
        self.0.rewrite(plan, config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_is_bounded_is_among_the_engines() {
        assert_eq!(Optimizer::new().rules.iter().filter(|rule| rule.name() == DROPS).count(), 1);
        assert_eq!(rules().len(), Optimizer::new().rules.len());
    }
}
