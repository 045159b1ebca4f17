//! The leaf that reads files of the bucket: rows of some stores of one table, filtered and projected.
//!
//! It is executed by query services only. What it names are files of stores, below the root of the bucket that the service
//! itself is configured with: no address, and no path that is not of [`layout::file_path`]'s form.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, exec_err, internal_err, not_impl_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use futures::{StreamExt as _, TryStreamExt as _};
use lariat_collector::worker::read::{bytes_scanned, deal, rows_in_bucket};
use lariat_collector::worker::scan::{PARTITIONS, Rows, in_store, properties};
use lariat_collector::worker::{StoreScanCodec, filter_from, filter_to};
use lariat_schema::layout::named_file;
use lariat_schema::tables::Table;
use prost::Message;
use url::Url;
use uuid::Uuid;

use super::cut::BucketFile;
use super::worker::Book;

/// Most files that one leaf reads: forty years of hourly files. Each costs some hundred bytes of the plan.
const MAX_FILES: usize = 350_400;

/// What a leaf reads.
#[derive(Debug, Clone)]
pub(crate) struct BucketSpec {
    /// Under which it is written down what is read: one try at a query.
    pub(crate) read_id: Uuid,
    pub(crate) rows: Rows,
    pub(crate) files: Vec<BucketFile>,
}

/// The leaf.
#[derive(Debug)]
pub(crate) struct BucketScan {
    spec: BucketSpec,
    /// Which query service reads it; unknown to that service itself.
    service: Option<Url>,
    properties: Arc<PlanProperties>,
    book: Option<Arc<Book>>,
}

impl BucketScan {
    /// A leaf for a service. With the book of this process's own worker it can be executed here.
    pub(crate) fn try_new(spec: BucketSpec, service: Option<Url>, book: Option<Arc<Book>>) -> Result<Self> {
        let schema = spec.rows.schema()?;
        Ok(Self { spec, service, properties: properties(schema, PARTITIONS), book })
    }

    /// The same with some of its columns, by their places, in this order.
    pub(crate) fn choose(&self, columns: &[usize]) -> Result<Self> {
        let spec = BucketSpec { rows: self.spec.rows.choose(columns), ..self.spec.clone() };
        Self::try_new(spec, self.service.clone(), self.book.clone())
    }

    pub(crate) fn service(&self) -> Option<&Url> {
        self.service.as_ref()
    }
}

impl DisplayAs for BucketScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BucketSpec { rows, files, .. } = &self.spec;
        let stores: std::collections::BTreeSet<_> = files.iter().map(|file| file.store_id).collect();
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        write!(f, "BucketScan: table={}", rows.table)?;
        if let Some(service) = &self.service {
            write!(f, ", service={service}")?;
        }
        write!(f, ", stores={}, files={}, bytes={bytes}", stores.len(), files.len())?;
        rows.show(f)
    }
}

impl ExecutionPlan for BucketScan {
    fn name(&self) -> &'static str {
        "BucketScan"
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
            return internal_err!("BucketScan has no children");
        }
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(book) = &self.book else {
            return exec_err!("files of the bucket are read by the query service that a leaf is sent to");
        };
        let dealt = deal(self.spec.files.clone(), PARTITIONS, |file| file.bytes);
        let mut mine = dealt.into_iter().nth(partition).unwrap_or_default();
        mine.sort_by(|a, b| (a.store_id, &a.path).cmp(&(b.store_id, &b.path)));
        let stores: Vec<Vec<BucketFile>> =
            mine.chunk_by(|a, b| a.store_id == b.store_id).map(<[BucketFile]>::to_vec).collect();
        let reader = Reader { spec: self.spec.clone(), book: Arc::clone(book), context };
        // One store after the other: a failure is then the failure of one, and memory is that of one.
        let rows = futures::stream::iter(stores).map(move |files| reader.open(&files)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// Reads the stores of one partition.
struct Reader {
    spec: BucketSpec,
    book: Arc<Book>,
    context: Arc<TaskContext>,
}

impl Reader {
    fn open(&self, files: &[BucketFile]) -> Result<SendableRecordBatchStream> {
        let Some(store_id) = files.first().map(|file| file.store_id) else {
            return internal_err!("a store without files");
        };
        let account = self.book.account(self.spec.read_id, store_id);
        account.files(files.len());
        let runtime = self.context.runtime_env();
        let named = files.iter().map(|file| (file.path.as_str(), file.bytes));
        let opened = rows_in_bucket(&self.spec.rows, named, &runtime)
            .and_then(|plan| Ok((plan.execute(0, Arc::clone(&self.context))?, plan)));
        let (rows, plan) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                account.failed(&error);
                return Err(in_store(store_id, error));
            }
        };
        let schema = rows.schema();
        let (of_error, of_end) = (account.clone(), account.clone());
        let end = futures::stream::once(async move {
            of_end.ended(bytes_scanned(&plan));
            None
        });
        let counted = rows
            .inspect_ok(move |batch| account.rows(batch.num_rows()))
            .map_err(move |error| {
                of_error.failed(&error);
                in_store(store_id, error)
            })
            .map(Some)
            .chain(end)
            .filter_map(futures::future::ready);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }
}

/// Writes leaves of both kinds, and reads those of the bucket for the worker of a query service.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeafCodec {
    stores: StoreScanCodec,
    book: Option<Arc<Book>>,
}

impl LeafCodec {
    /// For the worker of a query service.
    pub(crate) fn for_worker(book: Arc<Book>) -> Self {
        Self { stores: StoreScanCodec::for_coordinator(), book: Some(book) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct BucketScanProto {
    // Numbers that the leaf of a store does not have: neither can be taken for the other.
    #[prost(string, tag = "20")]
    read_id: String,
    #[prost(string, tag = "21")]
    table: String,
    #[prost(uint32, repeated, tag = "22")]
    projection: Vec<u32>,
    #[prost(bytes = "vec", optional, tag = "23")]
    filter: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "24")]
    limit: Option<u64>,
    #[prost(message, repeated, tag = "25")]
    files: Vec<FileProto>,
}

#[derive(Clone, PartialEq, Message)]
struct FileProto {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint64, tag = "2")]
    bytes: u64,
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn file(proto: FileProto, table: Table) -> Result<BucketFile> {
    match named_file(table, &proto.path) {
        Some((store_id, _)) => Ok(BucketFile { store_id, path: proto.path, bytes: proto.bytes }),
        None => exec_err!("`{}` is no file of the table {table}", proto.path),
    }
}

impl PhysicalExtensionCodec for LeafCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let proto = BucketScanProto::decode(bytes).map_err(external)?;
        if proto.read_id.is_empty() {
            return self.stores.try_decode(bytes, inputs, context, converter);
        }
        if proto.files.len() > MAX_FILES {
            return exec_err!("a leaf of {} files is larger than {MAX_FILES}", proto.files.len());
        }
        let table: Table = proto.table.parse().map_err(external)?;
        let filter = proto.filter.map(|bytes| filter_from(&bytes, table, self, context, converter)).transpose()?;
        let rows = Rows {
            table,
            cells: None,
            projection: proto.projection.iter().map(|index| *index as usize).collect(),
            filter,
            limit: proto.limit.map(usize::try_from).transpose().map_err(external)?,
        };
        let spec = BucketSpec {
            read_id: proto.read_id.parse().map_err(external)?,
            rows,
            files: proto.files.into_iter().map(|proto| file(proto, table)).collect::<Result<_>>()?,
        };
        Ok(Arc::new(BucketScan::try_new(spec, None, self.book.clone())?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(scan) = node.downcast_ref::<BucketScan>() else {
            return self.stores.try_encode(node, bytes, converter);
        };
        let BucketSpec { read_id, rows, files } = &scan.spec;
        if files.len() > MAX_FILES {
            return not_impl_err!("a question over {} files of the bucket: ask for a shorter time", files.len());
        }
        let projection: std::result::Result<Vec<u32>, _> = rows.projection.iter().map(|i| u32::try_from(*i)).collect();
        let proto = BucketScanProto {
            read_id: read_id.to_string(),
            table: rows.table.as_str().to_owned(),
            projection: projection.map_err(external)?,
            filter: rows.filter.as_ref().map(|filter| filter_to(filter, self, converter)).transpose()?,
            limit: rows.limit.map(|limit| limit as u64),
            files: files.iter().map(|file| FileProto { path: file.path.clone(), bytes: file.bytes }).collect(),
        };
        proto.encode(bytes).map_err(external)
    }
}
