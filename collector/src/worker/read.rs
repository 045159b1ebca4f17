//! One partition of a leaf: the share of the pinned files and hot batches that falls to it, through one filter.
//!
//! Whole files are dealt out, the largest first to whoever has least: splitting files by row group would need their
//! footers before the plan is built. The filter stands twice, in the Parquet reader (statistics, page index, bloom
//! filters, late materialisation) and exactly above both sources, since a reader may pass rows that it cannot judge.

use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{Stream, StreamExt};
use lariat_schema::ids::StoreId;

use super::pins::Pin;
use super::scan::{PARTITIONS, ScanSpec, in_store, projected};
use crate::store::{SealedFile, Snapshot};

/// What the worker calls the store's bucket. Each worker knows its own store's and no other.
pub(crate) const BUCKET_URL: &str = "lariat-bucket://store";

/// The rows of one partition of a leaf.
pub(crate) fn partition(
    spec: &ScanSpec,
    snapshot: &Snapshot,
    pin: Arc<Pin>,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let buckets = spec.share.of as usize * PARTITIONS;
    let bucket = spec.share.index as usize * PARTITIONS + partition;
    let files = dealt_files(&snapshot.files, buckets, bucket);
    let batches: Vec<_> = snapshot.batches.iter().skip(bucket).step_by(buckets).cloned().collect();
    let hot_bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    pin.reading.bytes.fetch_add(hot_bytes as u64, Ordering::Relaxed);
    pin.reading.files.fetch_add(files.len() as u64, Ordering::Relaxed);
    let plan = plan(spec, &files, batches)?;
    let inner = plan.execute(0, context)?;
    pin.leaf_began();
    Ok(Box::pin(Counted { store_id: spec.store_id, inner, plan, pin, files, done: false }))
}

/// The files of a bucket: each file belongs to exactly one.
fn dealt_files(files: &[Arc<SealedFile>], buckets: usize, bucket: usize) -> Vec<Arc<SealedFile>> {
    let mut order: Vec<_> = files.iter().collect();
    order.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    let mut loads = vec![0_u64; buckets];
    let mut mine = Vec::new();
    for file in order {
        let lightest = (0..buckets).min_by_key(|index| loads[*index]).unwrap_or(0);
        loads[lightest] += file.bytes;
        if lightest == bucket {
            mine.push(Arc::clone(file));
        }
    }
    mine
}

/// A plan with one partition over these files and batches.
fn plan(spec: &ScanSpec, files: &[Arc<SealedFile>], batches: Vec<RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
    let columns = read_columns(spec);
    let mut sources: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    if !batches.is_empty() {
        sources.push(MemorySourceConfig::try_new_exec(&[batches], spec.table.schema(), Some(columns.clone()))?);
    }
    let (remote, local): (Vec<_>, Vec<_>) = files.iter().cloned().partition(|file| file.only_in_bucket);
    for (files, url) in [(local, ObjectStoreUrl::local_filesystem()), (remote, ObjectStoreUrl::parse(BUCKET_URL)?)] {
        if !files.is_empty() {
            sources.push(parquet(spec, &files, &columns, url)?);
        }
    }
    if sources.is_empty() {
        return Ok(Arc::new(EmptyExec::new(projected(spec.table, &spec.projection)?)));
    }
    let mut plan = UnionExec::try_new(sources)?;
    if let Some(filter) = &spec.filter {
        let filter = reassign_expr_columns(Arc::clone(filter), &plan.schema())?;
        let output = spec.projection.iter().map(|wanted| columns.iter().position(|read| read == wanted)).collect();
        plan = Arc::new(FilterExecBuilder::new(filter, plan).apply_projection(output)?.build()?);
    }
    if plan.output_partitioning().partition_count() > 1 {
        plan = Arc::new(CoalescePartitionsExec::new(plan).with_fetch(spec.limit));
    }
    Ok(plan)
}

/// The columns to read: the output's, and then those that only the filter needs.
fn read_columns(spec: &ScanSpec) -> Vec<usize> {
    let mut columns = spec.projection.clone();
    let mut of_filter: Vec<_> = spec.filter.iter().flat_map(collect_columns).map(|column| column.index()).collect();
    of_filter.sort_unstable();
    for column in of_filter {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

fn parquet(
    spec: &ScanSpec,
    files: &[Arc<SealedFile>],
    columns: &[usize],
    url: ObjectStoreUrl,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut options = TableParquetOptions::default();
    options.global.enable_page_index = true;
    options.global.bloom_filter_on_read = true;
    options.global.pruning = true;
    options.global.pushdown_filters = true;
    options.global.schema_force_view_types = false;
    let mut source = ParquetSource::new(spec.table.schema()).with_table_parquet_options(options);
    if let Some(filter) = &spec.filter {
        source = source.with_predicate(Arc::clone(filter));
    }
    let group: FileGroup =
        files.iter().map(|file| PartitionedFile::new(file.path.to_string_lossy(), file.bytes)).collect();
    let config = FileScanConfigBuilder::new(url, Arc::new(source))
        .with_file_group(group)
        .with_projection_indices(Some(columns.to_vec()))?
        .with_limit(if spec.filter.is_some() { None } else { spec.limit })
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

/// Counts the rows that pass, and holds the pinned files until the last one has passed.
struct Counted {
    store_id: StoreId,
    inner: SendableRecordBatchStream,
    plan: Arc<dyn ExecutionPlan>,
    pin: Arc<Pin>,
    files: Vec<Arc<SealedFile>>,
    done: bool,
}

impl Counted {
    /// Adds up what was read from files, once: at the end of the rows or, after a limit, when the reader has gone.
    fn finish(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.pin.reading.bytes.fetch_add(bytes_scanned(&self.plan), Ordering::Relaxed);
        self.pin.leaf_ended();
        self.files.clear();
    }
}

fn bytes_scanned(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own =
        plan.metrics().and_then(|metrics| metrics.sum_by_name("bytes_scanned")).map_or(0, |value| value.as_usize());
    own as u64 + plan.children().into_iter().map(bytes_scanned).sum::<u64>()
}

impl Stream for Counted {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pinned<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.inner.poll_next_unpin(context);
        match polled {
            Poll::Ready(Some(Ok(batch))) => {
                self.pin.hands_on(batch.num_rows() as u64);
                Poll::Ready(Some(Ok(batch)))
            }
            Poll::Ready(Some(Err(error))) => {
                // One of them may be damaged. The next query is answered without it.
                self.pin.suspect(&self.files);
                Poll::Ready(Some(Err(in_store(self.store_id, error))))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl RecordBatchStream for Counted {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.finish();
    }
}
