//! The leaf of every plan: one named store's rows of one table, filtered and projected.
//!
//! The query service builds and shows it, and only the node that keeps the store executes it: elsewhere, executing it
//! is an error and never an empty answer. All leaves of a table have the same number of partitions, since the engine
//! takes tasks of one stage for equals.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::binary;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use lariat_schema::cells::CellWidth;
use lariat_schema::ids::{NodeId, StoreId};
use lariat_schema::tables::Table;
use uuid::Uuid;

use super::pins::PinBook;
use super::read;
use super::times::Times;

/// Partitions of every leaf: two, so that a node uses both of its query threads and an aggregate has a partial half.
pub const PARTITIONS: usize = 2;

/// Which part of a store a leaf reads: share `index` of `of`. More than one share is used where one store is read by
/// several tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: u32,
    /// How many there are.
    pub of: u32,
}

impl Share {
    /// The whole store.
    pub const WHOLE: Self = Self { index: 0, of: 1 };
}

/// What a leaf reads.
#[derive(Debug, Clone)]
pub struct ScanSpec {
    /// The store whose rows are read.
    pub store_id: StoreId,
    /// Current name of the node that keeps it.
    pub node_id: NodeId,
    /// The query that pinned the snapshot.
    pub query_id: Uuid,
    /// What is wanted of its rows.
    pub rows: Rows,
    /// Which part of the store.
    pub share: Share,
    /// Sequences of files that are read elsewhere, in the store's bucket.
    pub without: Arc<[u64]>,
}

/// What a leaf hands on of the rows that it reads.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The table.
    pub table: Table,
    /// The widest cells of the table that say the same, where it is `rollups`; `None`: its rows as they are.
    pub cells: Option<CellWidth>,
    /// Columns of the table, by index, in the order of the output.
    pub projection: Vec<usize>,
    /// A condition over the table's whole schema; rows that do not satisfy it are left out.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Rows that are enough, per partition.
    pub limit: Option<usize>,
}

impl Rows {
    /// The columns of the output.
    ///
    /// # Errors
    /// When the table does not have one of them.
    pub fn schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.table.schema().project(&self.projection)?))
    }

    /// The same with some of its columns, by their places in the output, in this order.
    #[must_use]
    pub fn choose(&self, columns: &[usize]) -> Self {
        Self { projection: columns.iter().map(|column| self.projection[*column]).collect(), ..self.clone() }
    }

    /// The same of some moments alone.
    pub(crate) fn within(&self, times: &Times) -> Result<Self> {
        let schema = self.table.schema();
        let mut condition = times.condition(&schema)?;
        if let Some(filter) = &self.filter {
            condition = binary(Arc::clone(filter), Operator::And, condition, &schema)?;
        }
        Ok(Self { filter: Some(condition), ..self.clone() })
    }

    /// What every leaf shows of itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.table.schema();
        let columns: Vec<_> = self.projection.iter().map(|index| schema.field(*index).name().as_str()).collect();
        if let Some(width) = self.cells {
            write!(f, ", cells={width}")?;
        }
        write!(f, ", projection=[{}]", columns.join(", "))?;
        if let Some(filter) = &self.filter {
            write!(f, ", filters=[{filter}]")?;
        }
        match self.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

/// The leaf.
#[derive(Debug)]
pub struct StoreScan {
    spec: ScanSpec,
    properties: Arc<PlanProperties>,
    book: Option<Arc<PinBook>>,
}

impl StoreScan {
    /// A leaf to be sent to the node that keeps the store.
    ///
    /// # Errors
    /// When the projection names a column that the table does not have.
    pub fn try_new(spec: ScanSpec) -> Result<Self> {
        Self::build(spec, None)
    }

    /// A leaf at home: the node that keeps the store.
    ///
    /// # Errors
    /// When the leaf names another store than the one kept here.
    pub(crate) fn try_at_home(spec: ScanSpec, book: &Arc<PinBook>) -> Result<Self> {
        if spec.store_id != book.store_id() {
            return Err(unread(format!("this node keeps store {}, not {}", book.store_id(), spec.store_id)));
        }
        Self::build(spec, Some(Arc::clone(book)))
    }

    fn build(spec: ScanSpec, book: Option<Arc<PinBook>>) -> Result<Self> {
        let schema = spec.rows.schema()?;
        Ok(Self { spec, properties: properties(schema, PARTITIONS), book })
    }

    /// What it reads.
    #[must_use]
    pub fn spec(&self) -> &ScanSpec {
        &self.spec
    }
}

/// The properties of rows in no order, in so many partitions.
#[must_use]
pub fn properties(schema: SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

impl DisplayAs for StoreScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ScanSpec { store_id, node_id, rows, share, without, .. } = &self.spec;
        write!(f, "StoreScan: store={store_id}, node={node_id}, table={}", rows.table)?;
        if *share != Share::WHOLE {
            write!(f, ", share={}/{}", share.index + 1, share.of)?;
        }
        if !without.is_empty() {
            write!(f, ", files_in_bucket={}", without.len())?;
        }
        rows.show(f)
    }
}

impl ExecutionPlan for StoreScan {
    fn name(&self) -> &'static str {
        "StoreScan"
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
        self.spec.rows.filter.as_ref().map_or(Ok(TreeNodeRecursion::Continue), visit)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("StoreScan has no children");
        }
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let ScanSpec { store_id, query_id, rows: Rows { table, .. }, .. } = &self.spec;
        let Some(book) = &self.book else {
            return Err(unread(format!("store {store_id} is read by the node that keeps it and by nobody else")));
        };
        let Some(pin) = book.get(*query_id) else {
            let message =
                format!("store {store_id} holds no snapshot for query {query_id}: it ended or was never pinned");
            return Err(unread(message));
        };
        let Some(snapshot) = pin.snapshot(*table) else {
            return Err(unread(format!("query {query_id} did not pin table {table} of store {store_id}")));
        };
        read::partition(&self.spec, snapshot, Arc::clone(&pin), partition, context)
            .map_err(|error| in_store(*store_id, error))
    }
}

/// A leaf that cannot be read here: the node's fault and not the question's, which is told apart by the error's kind.
fn unread(message: String) -> DataFusionError {
    DataFusionError::External(message.into())
}

/// Names the store that an error comes from.
#[must_use]
pub fn in_store(store_id: StoreId, error: DataFusionError) -> DataFusionError {
    error.context(format!("store {store_id} could not be read"))
}
