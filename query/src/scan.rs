//! A table of the fleet: the union of one table over the stores that were pinned for a query.
//!
//! The scan knows its stores by name from the beginning, so that no later pass can add or lose one. It is a
//! placeholder: [`crate::distribute`] replaces it by one leaf per store, and executing it is an error.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, Result, exec_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use lariat_collector::worker::scan::{PARTITIONS, ScanSpec, Share, StoreScan, projected, properties};
use lariat_schema::ids::{NodeId, StoreId};
use lariat_schema::tables::Table;
use uuid::Uuid;

pub(crate) mod ids;
pub(crate) mod weights;
pub(crate) mod window;

/// A store that takes part in a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinnedStore {
    pub(crate) store_id: StoreId,
    pub(crate) node_id: NodeId,
}

/// One table over the pinned stores.
#[derive(Debug)]
pub(crate) struct FleetTable {
    pub(crate) table: Table,
    pub(crate) query_id: Uuid,
    pub(crate) stores: Arc<[PinnedStore]>,
}

#[async_trait]
impl TableProvider for FleetTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters.iter().map(|filter| pushdown(filter)).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.table.schema();
        let projection = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        if self.stores.is_empty() {
            return Ok(Arc::new(EmptyExec::new(projected(self.table, &projection)?)));
        }
        let filter = match conjunction(filters.iter().cloned()) {
            Some(filter) => Some(session.create_physical_expr(filter, &DFSchema::try_from(schema)?)?),
            None => None,
        };
        let leaves = leaves(self, &projection, filter.as_ref(), limit)?;
        Ok(Arc::new(FleetScan::try_new(leaves)?))
    }
}

/// Conditions that a node can judge by its rows alone are judged there, exactly.
fn pushdown(filter: &Expr) -> TableProviderFilterPushDown {
    use datafusion::common::tree_node::TreeNode;
    let elsewhere = filter
        .exists(|expr| {
            Ok(matches!(
                expr,
                Expr::ScalarSubquery(_)
                    | Expr::InSubquery(_)
                    | Expr::Exists(_)
                    | Expr::OuterReferenceColumn(..)
                    | Expr::Placeholder(_)
                    | Expr::ScalarVariable(..)
            ))
        })
        .unwrap_or(true);
    if elsewhere || filter.is_volatile() {
        TableProviderFilterPushDown::Unsupported
    } else {
        TableProviderFilterPushDown::Exact
    }
}

/// One leaf per store; two for a single store, since the engine takes a boundary between one task and one for no
/// boundary at all and would execute the leaf on the query service.
fn leaves(
    table: &FleetTable,
    projection: &[usize],
    filter: Option<&Arc<dyn PhysicalExpr>>,
    limit: Option<usize>,
) -> Result<Vec<Arc<StoreScan>>> {
    let of = if table.stores.len() == 1 { 2 } else { 1 };
    let mut leaves = Vec::with_capacity(table.stores.len() * of as usize);
    for store in table.stores.iter() {
        for index in 0..of {
            leaves.push(Arc::new(StoreScan::try_new(ScanSpec {
                store_id: store.store_id,
                node_id: store.node_id.clone(),
                query_id: table.query_id,
                table: table.table,
                projection: projection.to_vec(),
                filter: filter.cloned(),
                limit,
                share: Share { index, of },
            })?));
        }
    }
    Ok(leaves)
}

/// The placeholder for all leaves of a table.
#[derive(Debug)]
pub(crate) struct FleetScan {
    leaves: Vec<Arc<StoreScan>>,
    properties: Arc<PlanProperties>,
}

impl FleetScan {
    fn try_new(leaves: Vec<Arc<StoreScan>>) -> Result<Self> {
        let Some(first) = leaves.first() else { return internal_err!("a fleet scan without stores") };
        // As many partitions as will arrive, so that the planner sees what the boundary will deliver.
        let properties = properties(first.schema(), leaves.len() * PARTITIONS);
        let properties = Arc::unwrap_or_clone(properties).with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self { leaves, properties: Arc::new(properties) })
    }

    /// One leaf per task.
    pub(crate) fn leaves(&self) -> &[Arc<StoreScan>] {
        &self.leaves
    }
}

impl DisplayAs for FleetScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetScan: leaves={}", self.leaves.len())
    }
}

impl ExecutionPlan for FleetScan {
    fn name(&self) -> &'static str {
        "FleetScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.leaves.first().map_or(Ok(TreeNodeRecursion::Continue), |leaf| leaf.apply_expressions(visit))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("FleetScan has no children");
        }
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        exec_err!("the leaves of a fleet table are executed by their nodes")
    }
}
