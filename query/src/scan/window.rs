//! The time that a query asks about, table by table, read off the conditions on `time` that its plan has pushed to its
//! scans. A table without such a condition asks for everything that is retained.

use std::collections::BTreeMap;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use lariat_schema::cells::{CellWidth, relation};
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;

/// Bounds of the window as far as the question sets them; `None` is open. Half-open, Unix nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    pub(crate) from_unix_nanos: Option<i64>,
    pub(crate) to_unix_nanos: Option<i64>,
}

impl Asked {
    /// Whether some moment of a range may be asked about.
    pub(crate) fn touches(self, times: TimeRange) -> bool {
        self.from_unix_nanos.is_none_or(|from| from < times.to_unix_nanos)
            && self.to_unix_nanos.is_none_or(|to| times.from_unix_nanos < to)
    }
}

/// A table that is read, and the widest cells that may be read of it.
pub(crate) type Relation = (Table, Option<CellWidth>);

/// What an optimised plan reads: each relation of the fleet, with the hull of what its scans ask about.
pub(crate) fn scanned(plan: &LogicalPlan) -> Vec<(Relation, Asked)> {
    let mut relations: BTreeMap<Relation, Asked> = BTreeMap::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(relation) = relation(scan.table_name.table())
        {
            add(&mut relations, relation, bounds(&scan.filters));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if walked.is_err() {
        relations.values_mut().for_each(|asked| *asked = Asked::default());
    }
    relations.into_iter().collect()
}

/// The same by table, whatever it is read as.
pub(crate) fn asked(scanned: &[(Relation, Asked)]) -> Vec<(Table, Asked)> {
    let mut tables: BTreeMap<Table, Asked> = BTreeMap::new();
    for ((table, _), of_relation) in scanned {
        add(&mut tables, *table, *of_relation);
    }
    tables.into_iter().collect()
}

fn add<K: Ord>(sum: &mut BTreeMap<K, Asked>, key: K, more: Asked) {
    sum.entry(key).and_modify(|so_far| *so_far = both(*so_far, more)).or_insert(more);
}

fn both(a: Asked, b: Asked) -> Asked {
    Asked {
        from_unix_nanos: a.from_unix_nanos.zip(b.from_unix_nanos).map(|(a, b)| a.min(b)),
        to_unix_nanos: a.to_unix_nanos.zip(b.to_unix_nanos).map(|(a, b)| a.max(b)),
    }
}

/// The time that these conditions, all of which must hold, leave.
pub(crate) fn bounds(filters: &[Expr]) -> Asked {
    let mut asked = Asked::default();
    for condition in filters.iter().flat_map(split_conjunction) {
        match condition {
            Expr::BinaryExpr(binary) => {
                if let (true, Some(at)) = (is_time(&binary.left), moment(&binary.right)) {
                    narrow(&mut asked, binary.op, at);
                } else if let (Some(at), true, Some(op)) =
                    (moment(&binary.left), is_time(&binary.right), binary.op.swap())
                {
                    narrow(&mut asked, op, at);
                }
            }
            Expr::Between(between) if !between.negated && is_time(&between.expr) => {
                if let Some(low) = moment(&between.low) {
                    narrow(&mut asked, Operator::GtEq, low);
                }
                if let Some(high) = moment(&between.high) {
                    narrow(&mut asked, Operator::LtEq, high);
                }
            }
            _ => {}
        }
    }
    asked
}

fn narrow(asked: &mut Asked, op: Operator, at: i64) {
    let from = match op {
        Operator::GtEq | Operator::Eq => Some(at),
        Operator::Gt => Some(at.saturating_add(1)),
        _ => None,
    };
    let to = match op {
        Operator::Lt => Some(at),
        Operator::LtEq | Operator::Eq => Some(at.saturating_add(1)),
        _ => None,
    };
    if let Some(from) = from {
        asked.from_unix_nanos = Some(asked.from_unix_nanos.map_or(from, |so_far| so_far.max(from)));
    }
    if let Some(to) = to {
        asked.to_unix_nanos = Some(asked.to_unix_nanos.map_or(to, |so_far| so_far.min(to)));
    }
}

fn is_time(expr: &Expr) -> bool {
    match expr {
        Expr::Column(column) => column.name == "time",
        Expr::Cast(cast) => is_time(&cast.expr),
        _ => false,
    }
}

fn moment(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::TimestampNanosecond(at, _), _) => *at,
        Expr::Literal(ScalarValue::TimestampMicrosecond(Some(at), _), _) => at.checked_mul(1_000),
        Expr::Literal(ScalarValue::TimestampMillisecond(Some(at), _), _) => at.checked_mul(1_000_000),
        Expr::Literal(ScalarValue::TimestampSecond(Some(at), _), _) => at.checked_mul(1_000_000_000),
        _ => None,
    }
}
