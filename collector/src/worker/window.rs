//! The time that a leaf's filter allows, so that files of other times are not even opened. Only what can be read off a
//! conjunction of comparisons with constants counts; whatever else the filter says may only make the answer smaller.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::split_conjunction;
use lariat_schema::time_range::TimeRange;

use super::scan::Rows;

/// The column that files are kept by.
const TIME: &str = "time";

/// The time that rows of a leaf may have.
pub(crate) fn of(rows: &Rows) -> TimeRange {
    let (mut from, mut to) = (i64::MIN, i64::MAX);
    for condition in rows.filter.iter().flat_map(split_conjunction) {
        let Some((op, at)) = comparison(condition) else { continue };
        match op {
            Operator::GtEq => from = from.max(at),
            Operator::Gt => from = from.max(at.saturating_add(1)),
            Operator::Lt => to = to.min(at),
            Operator::LtEq => to = to.min(at.saturating_add(1)),
            Operator::Eq => (from, to) = (from.max(at), to.min(at.saturating_add(1))),
            _ => {}
        }
    }
    TimeRange::new(from, to)
}

/// `time <op> constant`, whichever way round it is written.
fn comparison(condition: &Arc<dyn PhysicalExpr>) -> Option<(Operator, i64)> {
    let binary = condition.downcast_ref::<BinaryExpr>()?;
    if is_time(binary.left()) {
        return Some((*binary.op(), moment(binary.right())?));
    }
    if is_time(binary.right()) {
        return Some((binary.op().swap()?, moment(binary.left())?));
    }
    None
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
