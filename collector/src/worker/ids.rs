//! The request ids that a leaf's filter allows, so that files without one of them are not even opened. Only what can be
//! read off a conjunction of comparisons with constants counts; whatever else the filter says may only make the answer
//! smaller.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, Literal};
use datafusion::physical_expr::split_conjunction;
use lariat_schema::ids::RequestId;

use super::scan::Rows;
use crate::store::SealedFile;

const REQUEST_ID: &str = "request_id";

/// The request ids that rows of a leaf may have.
#[derive(Debug)]
pub(crate) enum WantedIds {
    /// Any, or none.
    Any,
    /// One of these.
    OneOf(Vec<RequestId>),
}

impl WantedIds {
    /// What these rows may have; of several conditions the first says enough.
    pub(crate) fn of(rows: &Rows) -> Self {
        let mut conditions = rows.filter.iter().flat_map(split_conjunction);
        conditions.find_map(|condition| equal(condition).or_else(|| listed(condition))).map_or(Self::Any, Self::OneOf)
    }

    /// False if the manifest's word on a file leaves no such row.
    pub(crate) fn may_be_in(&self, file: &SealedFile) -> bool {
        match (self, file.request_ids) {
            (Self::OneOf(wanted), Some(has)) => wanted.iter().any(|id| has.may_have(*id)),
            _ => true,
        }
    }
}

/// `request_id = constant`, whichever way round it is written.
fn equal(condition: &Arc<dyn PhysicalExpr>) -> Option<Vec<RequestId>> {
    let binary = condition.downcast_ref::<BinaryExpr>().filter(|binary| *binary.op() == Operator::Eq)?;
    let (left, right) = (binary.left(), binary.right());
    let id = if is_request_id(left) { constant(right) } else { constant(left).filter(|_| is_request_id(right)) };
    id.map(|id| vec![id])
}

/// `request_id IN (constants)`.
fn listed(condition: &Arc<dyn PhysicalExpr>) -> Option<Vec<RequestId>> {
    let list = condition.downcast_ref::<InListExpr>().filter(|list| !list.negated() && is_request_id(list.expr()))?;
    list.list().iter().map(constant).collect()
}

fn is_request_id(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Column>().is_some_and(|column| column.name() == REQUEST_ID)
}

fn constant(expr: &Arc<dyn PhysicalExpr>) -> Option<RequestId> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::FixedSizeBinary(_, Some(bytes)) => bytes.as_slice().try_into().ok().map(RequestId::from_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::prelude::SessionContext;
    use lariat_schema::tables::Table;
    use lariat_schema::time_range::TimeRange;

    use super::*;
    use crate::store::RequestIds;

    fn id(number: u8) -> RequestId {
        RequestId::from_bytes([number; 16])
    }

    fn literal(id: RequestId) -> Expr {
        lit(ScalarValue::FixedSizeBinary(16, Some(id.as_bytes().to_vec())))
    }

    fn rows(filter: Expr) -> Rows {
        let schema = Table::Spans.schema();
        let frame = schema.as_ref().clone().try_into().unwrap();
        let filter = SessionContext::new().create_physical_expr(filter, &frame).unwrap();
        Rows { table: Table::Spans, cells: None, projection: vec![0], filter: Some(filter), limit: None }
    }

    fn file(request_ids: Option<RequestIds>) -> SealedFile {
        SealedFile {
            path: "f".into(),
            bytes: 1,
            rows: 1,
            times: TimeRange::new(0, 10),
            only_in_bucket: false,
            weights: None,
            request_ids,
        }
    }

    #[test]
    fn a_file_is_left_out_where_its_ids_leave_no_row_and_never_else() {
        let with = |least, greatest| file(Some(RequestIds::default().and(id(least)).and(id(greatest))));
        let is = col(REQUEST_ID).eq(literal(id(5)));
        let listed = col(REQUEST_ID).in_list((1..6).map(|number| literal(id(number))).collect(), false);
        for (filter, file, read) in [
            (is.clone(), with(1, 9), true),
            (is.clone(), with(5, 5), true),
            (is.clone(), with(6, 9), false),
            (literal(id(5)).eq(col(REQUEST_ID)), with(1, 4), false),
            (is.clone(), file(Some(RequestIds::None)), false),
            (is.clone(), file(None), true),
            (listed.clone(), with(5, 9), true),
            (listed.clone(), with(6, 9), false),
            (is.clone().or(col("batch_index").gt(lit(3_i32))), with(6, 9), true),
            (col("batch_index").gt(lit(3_i32)).and(is.clone()), with(6, 9), false),
            (col(REQUEST_ID).not_eq(literal(id(5))), with(6, 9), true),
            (Expr::Not(Box::new(is.clone())), with(6, 9), true),
            (col("trace_id").eq(literal(id(5))), with(6, 9), true),
            (col(REQUEST_ID).is_null(), file(Some(RequestIds::None)), true),
        ] {
            assert_eq!(WantedIds::of(&rows(filter.clone())).may_be_in(&file), read, "{filter}: {file:?}");
        }
    }
}
