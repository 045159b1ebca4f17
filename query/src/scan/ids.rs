//! Ids as people write them: hexadecimal or UUID text compared with an id column becomes bytes before planning, so that
//! statistics and bloom filters still work. Casting the column to text instead would read every row of every file.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator, binary_expr};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Rewrites comparisons while they are planned, before their types are checked.
#[derive(Debug)]
pub(crate) struct IdComparisons;

impl ExprPlanner for IdComparisons {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let Some(op) = comparison(&expr.op) else { return Ok(PlannerResult::Original(expr)) };
        if let (Some(length), Some(text)) = (id_length(&expr.left, schema), text(&expr.right)) {
            return Ok(PlannerResult::Planned(binary_expr(expr.left, op, id_literal(&text, length)?)));
        }
        if let (Some(text), Some(length)) = (text(&expr.left), id_length(&expr.right, schema)) {
            return Ok(PlannerResult::Planned(binary_expr(id_literal(&text, length)?, op, expr.right)));
        }
        Ok(PlannerResult::Original(expr))
    }
}

/// Rewrites lists, which the planner hands to nobody, before types are coerced.
#[derive(Debug)]
pub(crate) struct IdLists;

impl AnalyzerRule for IdLists {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_down_with_subqueries(|node| {
            let mut schema = DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            node.map_expressions(|expr| {
                expr.transform_up(|expr| match expr {
                    Expr::InList(list) => in_list(list, &schema),
                    other => Ok(Transformed::no(other)),
                })
            })
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "id_lists"
    }
}

fn in_list(list: InList, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Some(length) = id_length(&list.expr, schema) else { return Ok(Transformed::no(Expr::InList(list))) };
    let items: Result<Vec<_>> = list
        .list
        .into_iter()
        .map(|item| match text(&item) {
            Some(text) => id_literal(&text, length),
            None => Ok(item),
        })
        .collect();
    Ok(Transformed::yes(Expr::InList(InList { expr: list.expr, list: items?, negated: list.negated })))
}

fn comparison(op: &BinaryOperator) -> Option<Operator> {
    Some(match op {
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        _ => return None,
    })
}

/// The length in bytes, if the expression is an id.
fn id_length(expr: &Expr, schema: &DFSchema) -> Option<i32> {
    if !matches!(expr, Expr::Column(_) | Expr::Alias(_)) {
        return None;
    }
    match expr.get_type(schema) {
        Ok(DataType::FixedSizeBinary(length)) => Some(length),
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _)
        | Expr::Literal(ScalarValue::Utf8View(Some(text)), _)
        | Expr::Literal(ScalarValue::LargeUtf8(Some(text)), _) => Some(text.clone()),
        _ => None,
    }
}

fn id_literal(text: &str, length: i32) -> Result<Expr> {
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    match hex::decode(&digits) {
        Ok(bytes) if usize::try_from(length) == Ok(bytes.len()) => {
            Ok(Expr::Literal(ScalarValue::FixedSizeBinary(length, Some(bytes)), None))
        }
        _ => plan_err!("`{text}` is no id: expected {} hexadecimal digits, with or without hyphens", length * 2),
    }
}
