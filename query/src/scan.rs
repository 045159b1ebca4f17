//! A table of the fleet: the union of one table over the stores that were pinned for a query and over the files of the
//! bucket that no node reads.
//!
//! The scan knows its stores and files by name from the beginning, so that no later pass can add or lose one. It is a
//! placeholder: [`crate::distribute`] replaces it by its leaves, and executing it is an error.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
use lariat_collector::worker::read::deal;
use lariat_collector::worker::scan::{PARTITIONS, Rows, ScanSpec, Share, StoreScan, properties};
use lariat_schema::cells::CellWidth;
use lariat_schema::ids::NodeId;
use lariat_schema::tables::Table;
use uuid::Uuid;

use crate::bucket::catalog::Catalog;
use crate::bucket::cut::{Answering, BucketFile, cut};
use crate::bucket::part::BucketPart;
use crate::bucket::scan::{BucketScan, BucketSpec};
use crate::bucket::worker::Book;
use window::Asked;

pub(crate) mod columns;
pub(crate) mod ids;
pub(crate) mod weights;
pub(crate) mod window;

/// A store whose node takes part in a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinnedStore {
    pub(crate) answering: Answering,
    pub(crate) node_id: NodeId,
}

/// One table over the pinned stores, and over those in the bucket. It is the same for all questions: who takes part in one
/// of them stands in its session, as [`Participants`].
#[derive(Debug)]
pub(crate) struct FleetTable {
    pub(crate) table: Table,
    /// The widest cells that may be read, where the table is `rollups` under another name.
    pub(crate) cells: Option<CellWidth>,
}

/// Who takes part in one try at a query.
#[derive(Debug)]
pub(crate) struct Participants {
    pub(crate) query_id: Uuid,
    pub(crate) stores: Vec<PinnedStore>,
    pub(crate) bucket: Option<Arc<BucketReads>>,
}

/// How one try at a query reads the bucket.
#[derive(Debug)]
pub(crate) struct BucketReads {
    pub(crate) part: BucketPart,
    pub(crate) read_id: Uuid,
    /// Of the worker of this process.
    pub(crate) book: Arc<Book>,
    /// Set where a plan reads a file of it.
    pub(crate) used: AtomicBool,
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
        let filter = match conjunction(filters.iter().cloned()) {
            Some(filter) => Some(session.create_physical_expr(filter, &DFSchema::try_from(schema)?)?),
            None => None,
        };
        let Some(participants) = session.config().get_extension::<Participants>() else {
            return internal_err!("a session in which nobody takes part");
        };
        let rows = Rows { table: self.table, cells: self.cells, projection, filter, limit };
        let leaves = leaves(&participants, &rows, window::bounds(filters))?;
        if leaves.is_empty() {
            return Ok(Arc::new(EmptyExec::new(rows.schema()?)));
        }
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

/// One leaf per store and one per query service that reads the bucket. They are two at least, since the engine takes a
/// boundary between one task and one for no boundary at all and would execute the leaf where the answer is made.
fn leaves(participants: &Participants, rows: &Rows, asked: Asked) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
    let Participants { query_id, stores, bucket } = participants;
    let answering: Vec<Answering> = stores.iter().map(|store| store.answering).collect();
    let cut = match bucket {
        Some(bucket) => cut(rows.table, asked, &answering, &bucket.part.catalog, |store| bucket.part.is_usable(store)),
        None => cut(rows.table, asked, &answering, &Catalog::default(), |_| false),
    };
    let mut leaves: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    if let Some(bucket) = bucket.as_ref().filter(|_| !cut.files.is_empty()) {
        bucket.used.store(true, Ordering::Release);
        let alone = cut.nodes.is_empty();
        leaves.extend(bucket_leaves(bucket, rows, cut.files, alone)?);
    }
    let of = if leaves.is_empty() && cut.nodes.len() == 1 { 2 } else { 1 };
    for (store, (store_id, without)) in stores.iter().zip(cut.nodes) {
        for index in 0..of {
            leaves.push(Arc::new(StoreScan::try_new(ScanSpec {
                store_id,
                node_id: store.node_id.clone(),
                query_id: *query_id,
                rows: rows.clone(),
                share: Share { index, of },
                without: Arc::clone(&without),
            })?));
        }
    }
    Ok(leaves)
}

/// The files of the bucket, dealt out to the query services that read it.
fn bucket_leaves(
    bucket: &BucketReads,
    rows: &Rows,
    files: Vec<BucketFile>,
    alone: bool,
) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
    let services = bucket.part.services();
    // The bucket has rows as they are.
    let rows = Rows { cells: None, ..rows.clone() };
    let parts = if alone { services.len().max(2) } else { services.len() };
    let dealt = deal(files, parts, |file| file.bytes);
    let mut leaves: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    for (files, service) in dealt.into_iter().zip(services.iter().cycle()) {
        if !files.is_empty() || (alone && leaves.len() < 2) {
            let spec = BucketSpec { read_id: bucket.read_id, rows: rows.clone(), files };
            let book = Some(Arc::clone(&bucket.book));
            leaves.push(Arc::new(BucketScan::try_new(spec, Some(service.clone()), book)?));
        }
    }
    Ok(leaves)
}

/// The placeholder for all leaves of a table.
#[derive(Debug)]
pub(crate) struct FleetScan {
    leaves: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl FleetScan {
    fn try_new(leaves: Vec<Arc<dyn ExecutionPlan>>) -> Result<Self> {
        let Some(first) = leaves.first() else { return internal_err!("a fleet scan without stores") };
        // As many partitions as will arrive, so that the planner sees what the boundary will deliver.
        let properties = properties(first.schema(), leaves.len() * PARTITIONS);
        let properties = Arc::unwrap_or_clone(properties).with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self { leaves, properties: Arc::new(properties) })
    }

    /// The same with some of its columns, by their places, in this order.
    fn choose(&self, columns: &[usize]) -> Result<Self> {
        let chosen = self.leaves.iter().map(|leaf| -> Result<Arc<dyn ExecutionPlan>> {
            if let Some(leaf) = leaf.downcast_ref::<StoreScan>() {
                let spec = leaf.spec();
                return Ok(Arc::new(StoreScan::try_new(ScanSpec { rows: spec.rows.choose(columns), ..spec.clone() })?));
            }
            match leaf.downcast_ref::<BucketScan>() {
                Some(leaf) => Ok(Arc::new(leaf.choose(columns)?)),
                None => internal_err!("{} is no leaf", leaf.name()),
            }
        });
        Self::try_new(chosen.collect::<Result<_>>()?)
    }

    /// One leaf per task.
    pub(crate) fn leaves(&self) -> &[Arc<dyn ExecutionPlan>] {
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
        exec_err!("the leaves of a fleet table are executed by those whom they name")
    }
}
