//! Weight and sampling unit of estimates: `estimated_count()` means `estimated_count(adjusted_count, trace_id)` of the rows that it
//! stands over. Rows know what they stand for, so nobody who asks should have to; but a guess would be worse than an error, so
//! where the rows have no such column, or a join has two, the question must name them.
//!
//! The plain aggregates stay what they are in every database, sums over the rows that there are: [`unweighted`] names them, so
//! that the answer can say what they did.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, plan_datafusion_err, plan_err};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use lariat_collector::worker::estimates::{Estimate, share_of};

/// The column of weights.
pub(crate) const WEIGHT: &str = "adjusted_count";
/// Columns that tell what was sampled together, the best first: all records of a trace share its random bits, and calls of
/// one request share its trace.
const UNITS: [&str; 2] = ["trace_id", "request_id"];

/// Completes the arguments of estimates, before types are coerced.
#[derive(Debug)]
pub(crate) struct EstimateWeights;

impl AnalyzerRule for EstimateWeights {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(of_node)?.data)
    }

    fn name(&self) -> &'static str {
        "estimate_weights"
    }
}

fn of_node(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let aggregate = match &node {
        LogicalPlan::Aggregate(aggregate) => aggregate,
        LogicalPlan::Window(window) => {
            if let Some(estimate) = window.window_expr.iter().find_map(over_a_window) {
                return plan_err!("{} stands in SELECT or HAVING, not over a window", estimate.name());
            }
            return Ok(Transformed::no(node));
        }
        _ => return Ok(Transformed::no(node)),
    };
    let schema = std::sync::Arc::clone(aggregate.input.schema());
    let names = NamePreserver::new(&node);
    let rewritten = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let completed = expr.transform_up(|expr| match expr {
            Expr::AggregateFunction(function) => match Estimate::of_name(function.func.name()) {
                Some(estimate) => completed(function, estimate, &schema),
                None => Ok(Transformed::no(Expr::AggregateFunction(function))),
            },
            other => Ok(Transformed::no(other)),
        })?;
        Ok(completed.update_data(|expr| name.restore(expr)))
    })?;
    if !rewritten.transformed {
        return Ok(rewritten);
    }
    rewritten.map_data(LogicalPlan::recompute_schema)
}

fn over_a_window(expr: &Expr) -> Option<Estimate> {
    let mut found = None;
    let walked = expr.apply(|expr| {
        if let Expr::WindowFunction(function) = expr {
            found = found.or(Estimate::of_name(function.fun.name()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.ok().and(found)
}

fn completed(mut function: AggregateFunction, estimate: Estimate, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let arguments = &mut function.params.args;
    if function.params.distinct {
        return plan_err!("{} estimates rows, and DISTINCT ones cannot be estimated", estimate.name());
    }
    if estimate == Estimate::Percentile {
        share_of(arguments.get(1).and_then(Expr::as_literal))?;
    }
    if arguments.len() != estimate.own_arguments() {
        return Ok(Transformed::no(Expr::AggregateFunction(function)));
    }
    let weight = column(schema, WEIGHT, estimate)?.ok_or_else(|| {
        plan_datafusion_err!(
            "{}: these rows have no `{WEIGHT}`; select it below, or use count and sum where rows are never sampled",
            estimate.name()
        )
    })?;
    let mut unit = None;
    for name in UNITS {
        unit = match unit {
            Some(found) => Some(found),
            None => column(schema, name, estimate)?,
        };
    }
    let unit = unit.ok_or_else(|| {
        plan_datafusion_err!("{}: these rows have neither {}; select one below", estimate.name(), UNITS.join(" nor "))
    })?;
    arguments.extend([weight, unit]);
    Ok(Transformed::yes(Expr::AggregateFunction(function)))
}

/// Plain aggregates, and the estimate that takes their place.
const PLAIN: [(&str, Estimate); 8] = [
    ("count", Estimate::Count),
    ("sum", Estimate::Sum),
    ("avg", Estimate::Avg),
    ("median", Estimate::Percentile),
    ("approx_median", Estimate::Percentile),
    ("percentile_cont", Estimate::Percentile),
    ("approx_percentile_cont", Estimate::Percentile),
    ("approx_percentile_cont_with_weight", Estimate::Percentile),
];

/// The first plain aggregate of a plan over rows that may stand for several, none of whose arguments is their weight.
pub(crate) fn unweighted(plan: &LogicalPlan) -> Option<(String, Estimate)> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node
            && reads_weighted_rows(&aggregate.input)
        {
            found = aggregate.aggr_expr.iter().find_map(plain);
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.ok().and(found)
}

fn plain(expr: &Expr) -> Option<(String, Estimate)> {
    let mut found = None;
    let walked = expr.apply(|expr| {
        if let Expr::AggregateFunction(function) = expr
            && let Some((name, estimate)) = PLAIN.iter().find(|(name, _)| *name == function.func.name())
            && !function.params.args.iter().any(|argument| argument.column_refs().iter().any(|of| of.name == WEIGHT))
        {
            found = Some(((*name).to_owned(), *estimate));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.ok().and(found)
}

fn reads_weighted_rows(plan: &LogicalPlan) -> bool {
    plan.exists(|node| {
        let LogicalPlan::TableScan(scan) = node else { return Ok(false) };
        Ok(scan.source.schema().field_with_name(WEIGHT).is_ok())
    })
    .unwrap_or(true)
}

/// The one column of this name.
fn column(schema: &DFSchema, name: &str, estimate: Estimate) -> Result<Option<Expr>> {
    match schema.columns_with_unqualified_name(name).as_slice() {
        [] => Ok(None),
        [column] => Ok(Some(Expr::Column(column.clone()))),
        _ => plan_err!("{}: `{name}` is ambiguous here; write {}", estimate.name(), estimate.usage()),
    }
}
