//! A leaf on the wire: its specification, the condition as DataFusion's own protobuf. Nothing that a plan could name on
//! another machine, no path and no address, is part of it.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, exec_err, not_impl_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalExprNode;
use lariat_schema::ids::{NodeId, StoreId};
use lariat_schema::tables::Table;
use prost::Message;
use uuid::Uuid;

use super::pins::PinBook;
use super::scan::{Rows, ScanSpec, Share, StoreScan};

/// Writes leaves on the query service and reads them on the node.
#[derive(Debug, Clone, Default)]
pub struct StoreScanCodec {
    book: Option<Arc<PinBook>>,
}

impl StoreScanCodec {
    /// The query service's: leaves that it reads back cannot be executed.
    #[must_use]
    pub fn for_coordinator() -> Self {
        Self::default()
    }

    /// The node's: leaves that it reads are executed over this book's store, and no other's.
    #[must_use]
    pub fn for_node(book: Arc<PinBook>) -> Self {
        Self { book: Some(book) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoreScanProto {
    #[prost(string, tag = "1")]
    store_id: String,
    #[prost(string, tag = "2")]
    node_id: String,
    #[prost(string, tag = "3")]
    query_id: String,
    #[prost(string, tag = "4")]
    table: String,
    #[prost(uint32, repeated, tag = "5")]
    projection: Vec<u32>,
    #[prost(bytes = "vec", optional, tag = "6")]
    filter: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "7")]
    limit: Option<u64>,
    #[prost(uint32, tag = "8")]
    share_index: u32,
    #[prost(uint32, tag = "9")]
    share_of: u32,
    #[prost(uint64, repeated, tag = "10")]
    without: Vec<u64>,
    /// Nodes that do not know it, or not this width, read the rows as they are.
    #[prost(string, optional, tag = "11")]
    cells: Option<String>,
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A condition as DataFusion's protobuf.
///
/// # Errors
/// When it has none.
pub fn filter_to(
    filter: &Arc<dyn PhysicalExpr>,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Vec<u8>> {
    Ok(converter.physical_expr_to_proto(filter, codec)?.encode_to_vec())
}

/// A condition over a table, from DataFusion's protobuf.
///
/// # Errors
/// When it is none.
pub fn filter_from(
    bytes: &[u8],
    table: Table,
    codec: &dyn PhysicalExtensionCodec,
    context: &TaskContext,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn PhysicalExpr>> {
    let node = PhysicalExprNode::decode(bytes).map_err(external)?;
    let decode = PhysicalPlanDecodeContext::new(context, codec);
    converter.proto_to_physical_expr(&node, &table.schema(), &decode)
}

impl PhysicalExtensionCodec for StoreScanCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        _inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let proto = StoreScanProto::decode(bytes).map_err(external)?;
        let table: Table = proto.table.parse().map_err(external)?;
        let projection: Vec<_> = proto.projection.iter().map(|index| *index as usize).collect();
        let share = Share { index: proto.share_index, of: proto.share_of };
        if share.index >= share.of || share.of > MAX_SHARES {
            return exec_err!("a leaf cannot read share {} of {}", share.index, share.of);
        }
        if proto.without.len() > MAX_WITHOUT {
            return exec_err!("a leaf leaves out {} files of at most {MAX_WITHOUT}", proto.without.len());
        }
        let filter = proto.filter.map(|bytes| filter_from(&bytes, table, self, context, converter)).transpose()?;
        let spec = ScanSpec {
            store_id: proto.store_id.parse::<StoreId>().map_err(external)?,
            node_id: NodeId::from(proto.node_id),
            query_id: proto.query_id.parse::<Uuid>().map_err(external)?,
            rows: Rows {
                table,
                cells: proto.cells.and_then(|cells| cells.parse().ok()),
                projection,
                filter,
                limit: proto.limit.map(usize::try_from).transpose().map_err(external)?,
            },
            share,
            without: proto.without.into(),
        };
        let scan = match &self.book {
            Some(book) => StoreScan::try_at_home(spec, book)?,
            None => StoreScan::try_new(spec)?,
        };
        Ok(Arc::new(scan))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(scan) = node.downcast_ref::<StoreScan>() else {
            return not_impl_err!("{} cannot be sent to a node", node.name());
        };
        let spec = scan.spec();
        let Rows { table, cells, projection, filter, limit } = &spec.rows;
        let filter = filter.as_ref().map(|filter| filter_to(filter, self, converter)).transpose()?;
        let projection: std::result::Result<Vec<u32>, _> = projection.iter().map(|i| u32::try_from(*i)).collect();
        let proto = StoreScanProto {
            store_id: spec.store_id.to_string(),
            node_id: spec.node_id.to_string(),
            query_id: spec.query_id.to_string(),
            table: table.as_str().to_owned(),
            projection: projection.map_err(external)?,
            filter,
            limit: limit.map(|limit| limit as u64),
            share_index: spec.share.index,
            share_of: spec.share.of,
            without: spec.without.to_vec(),
            cells: cells.map(|cells| cells.to_string()),
        };
        proto.encode(bytes).map_err(external)
    }
}

/// Most shares that one store is read in: more tasks than this on one node only cost.
const MAX_SHARES: u32 = 16;

/// Most files of a store that a leaf leaves to the bucket: a table of forty years of hourly files. With more the node reads
/// them itself.
pub const MAX_WITHOUT: usize = 350_400;
