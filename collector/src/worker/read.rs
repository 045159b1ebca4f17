//! One partition of a leaf: the share of the pinned files and hot batches that falls to it, through one filter.
//!
//! Files without a row of the times and ids that the filter allows are left out by the manifest alone, unopened. Whole
//! files of the others are dealt out, the largest first to whoever has least: splitting files by row group would need their
//! footers before the plan is built. The filter stands twice, in the Parquet reader (statistics, page index, bloom
//! filters, late materialisation) and exactly above both sources, since a reader may pass rows that it cannot judge.

use std::collections::{HashMap, HashSet};
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
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{Stream, StreamExt};
use lariat_schema::ids::StoreId;
use lariat_schema::layout::sequence_of;

use super::cells::{Source, choose};
use super::ids::WantedIds;
use super::passing::Passing;
use super::pins::Pin;
use super::scan::{PARTITIONS, Rows, ScanSpec, in_store};
use super::times::Times;
use super::window;
use super::wire::Pruned;
use crate::columns::bytes_of;
use crate::store::{SealedFile, Snapshot};

/// What a worker calls its bucket. Each worker knows one and no other.
pub const BUCKET_URL: &str = "lariat-bucket://store";

/// The rows of one partition of a leaf.
pub(crate) fn partition(
    spec: &ScanSpec,
    snapshot: &Snapshot,
    pin: Arc<Pin>,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let parts = spec.share.of as usize * PARTITIONS;
    let part = spec.share.index as usize * PARTITIONS + partition;
    let (times, ids) = (window::of(&spec.rows), WantedIds::of(&spec.rows));
    let own = sources(spec, snapshot);
    let has_rows = |source: &&Source| {
        let file = &source.file;
        let touches = source.times.as_ref().is_none_or(|of_source| of_source.touch(&file.times));
        times.overlaps(&file.times) && touches && ids.may_be_in(file)
    };
    let wanted: Vec<_> = own.iter().filter(has_rows).cloned().collect();
    if part == 0 {
        let files = (own.len() - wanted.len()) as u64;
        pin.ruled_out(Pruned { files, ..Pruned::default() });
    }
    let dealt = dealt_files(wanted, parts, part);
    let files: Vec<_> = dealt.iter().map(|source| Arc::clone(&source.file)).collect();
    let batches: Vec<_> = snapshot.batches.iter().skip(part).step_by(parts).cloned().collect();
    let hot_bytes: usize = batches.iter().map(bytes_of).sum();
    pin.reading.bytes.fetch_add(hot_bytes as u64, Ordering::Relaxed);
    pin.reading.files.fetch_add(files.len() as u64, Ordering::Relaxed);
    let plan = plan(&spec.rows, dealt, batches, context.runtime_env().as_ref())?;
    let inner = plan.execute(0, context)?;
    pin.leaf_began();
    Ok(Box::pin(Counted { store_id: spec.store_id, inner, plan, pin, files, done: false }))
}

/// What is read of a snapshot: its files, and longer cells in place of some where the leaf may read those.
fn sources(spec: &ScanSpec, snapshot: &Snapshot) -> Vec<Source> {
    let own = own_files(snapshot, &spec.without);
    match spec.rows.cells.zip(window::of_cells(&spec.rows)) {
        Some((widest, times)) => choose(own, &snapshot.cells, widest, &times),
        None => own.into_iter().map(Source::whole).collect(),
    }
}

/// The files of a snapshot apart from those that are read elsewhere.
fn own_files(snapshot: &Snapshot, without: &[u64]) -> Vec<Arc<SealedFile>> {
    if without.is_empty() {
        return snapshot.files.clone();
    }
    let without: HashSet<u64> = without.iter().copied().collect();
    let elsewhere =
        |file: &Arc<SealedFile>| sequence_of(&file.path).is_some_and(|sequence| without.contains(&sequence));
    snapshot.files.iter().filter(|file| !elsewhere(file)).cloned().collect()
}

/// The files of a part: each belongs to exactly one.
fn dealt_files(files: Vec<Source>, parts: usize, part: usize) -> Vec<Source> {
    let mut order = files;
    order.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    deal(order, parts, |source| source.file.bytes).into_iter().nth(part).unwrap_or_default()
}

/// Deals things out, the largest first to whoever has least: the same things in the same order are always dealt alike.
#[must_use]
pub fn deal<T>(mut things: Vec<T>, parts: usize, bytes: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    things.sort_by_key(|thing| std::cmp::Reverse(bytes(thing)));
    let mut loads = vec![0_u64; parts];
    let mut dealt: Vec<Vec<T>> = (0..parts).map(|_| Vec::new()).collect();
    for thing in things {
        let lightest = (0..parts).min_by_key(|index| (loads[*index], dealt[*index].len())).unwrap_or(0);
        loads[lightest] += bytes(&thing);
        dealt[lightest].push(thing);
    }
    dealt
}

/// A plan with one partition over these files and batches.
fn plan(
    rows: &Rows,
    files: Vec<Source>,
    batches: Vec<RecordBatch>,
    runtime: &RuntimeEnv,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    if !batches.is_empty() {
        let columns = read_columns(rows);
        let hot = MemorySourceConfig::try_new_exec(&[batches], rows.table.schema(), Some(columns.clone()))?;
        parts.push(filtered(rows, &columns, hot)?);
    }
    // Files of which the same moments are read are read together.
    let mut groups: HashMap<(Option<Times>, bool), FileGroup> = HashMap::new();
    for Source { file, times } in files {
        let read = PartitionedFile::new(file.path.to_string_lossy(), file.bytes);
        groups.entry((times, file.only_in_bucket)).or_default().push(read);
    }
    for ((times, in_bucket), files) in groups {
        let url = if in_bucket { ObjectStoreUrl::parse(BUCKET_URL)? } else { ObjectStoreUrl::local_filesystem() };
        let rows = match times {
            Some(times) => &rows.within(&times)?,
            None => rows,
        };
        parts.push(parquet(rows, files, url, runtime)?);
    }
    one_partition(rows, parts)
}

/// A plan with one partition over files of a bucket, each by its path and its size. The bucket is what the context's
/// runtime knows under [`BUCKET_URL`].
///
/// # Errors
/// When the rows cannot be had of the table.
pub fn rows_in_bucket<'a>(
    rows: &Rows,
    files: impl IntoIterator<Item = (&'a str, u64)>,
    runtime: &RuntimeEnv,
) -> Result<Arc<dyn ExecutionPlan>> {
    let files: FileGroup = files.into_iter().map(|(path, bytes)| PartitionedFile::new(path, bytes)).collect();
    let parts = if files.is_empty() {
        Vec::new()
    } else {
        vec![parquet(rows, files, ObjectStoreUrl::parse(BUCKET_URL)?, runtime)?]
    };
    one_partition(rows, parts)
}

fn one_partition(rows: &Rows, parts: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    if parts.is_empty() {
        return Ok(Arc::new(EmptyExec::new(rows.schema()?)));
    }
    let mut plan = UnionExec::try_new(parts)?;
    if plan.output_partitioning().partition_count() > 1 {
        plan = Arc::new(CoalescePartitionsExec::new(plan).with_fetch(rows.limit));
    }
    Ok(plan)
}

/// The output of rows of which these columns were read.
fn filtered(rows: &Rows, columns: &[usize], read: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(filter) = &rows.filter else { return Ok(read) };
    let filter = reassign_expr_columns(Arc::clone(filter), &read.schema())?;
    let output = rows.projection.iter().filter_map(|wanted| columns.iter().position(|read| read == wanted)).collect();
    Ok(Arc::new(Passing::try_new(read, filter, output)?))
}

/// The columns to read: the output's, and then those that only the filter needs.
fn read_columns(rows: &Rows) -> Vec<usize> {
    let mut columns = rows.projection.clone();
    let mut of_filter: Vec<_> = rows.filter.iter().flat_map(collect_columns).map(|column| column.index()).collect();
    of_filter.sort_unstable();
    for column in of_filter {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

/// The rows of these files. Files never change under their names, so that a footer that was read once is good for as long
/// as the runtime keeps it.
fn parquet(rows: &Rows, files: FileGroup, url: ObjectStoreUrl, runtime: &RuntimeEnv) -> Result<Arc<dyn ExecutionPlan>> {
    let columns = read_columns(rows);
    let footers = runtime.cache_manager.get_file_metadata_cache();
    let reader = CachedParquetFileReaderFactory::new(runtime.object_store(&url)?, footers);
    let mut options = TableParquetOptions::default();
    options.global.enable_page_index = true;
    options.global.bloom_filter_on_read = true;
    options.global.pruning = true;
    options.global.pushdown_filters = true;
    options.global.schema_force_view_types = false;
    let mut source = ParquetSource::new(rows.table.schema())
        .with_table_parquet_options(options)
        .with_parquet_file_reader_factory(Arc::new(reader));
    if let Some(filter) = &rows.filter {
        source = source.with_predicate(Arc::clone(filter));
    }
    let config = FileScanConfigBuilder::new(url, Arc::new(source))
        .with_file_group(files)
        .with_projection_indices(Some(columns.clone()))?
        .with_limit(if rows.filter.is_some() { None } else { rows.limit })
        .build();
    filtered(rows, &columns, DataSourceExec::from_data_source(config))
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
        self.pin.ruled_out(pruned(&self.plan));
        self.pin.leaf_ended();
        self.files.clear();
    }
}

/// Bytes that a plan has read from files so far.
#[must_use]
pub fn bytes_scanned(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own =
        plan.metrics().and_then(|metrics| metrics.sum_by_name("bytes_scanned")).map_or(0, |value| value.as_usize());
    own as u64 + plan.children().into_iter().map(bytes_scanned).sum::<u64>()
}

/// What the readers of files ruled out.
fn pruned(plan: &Arc<dyn ExecutionPlan>) -> Pruned {
    let mut sum = plan.children().into_iter().map(pruned).fold(Pruned::default(), Pruned::and);
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        let MetricValue::PruningMetrics { name, pruning_metrics } = metric.value() else { continue };
        let count = pruning_metrics.pruned() as u64;
        match name.as_ref() {
            "row_groups_pruned_statistics" => sum.row_groups += count,
            "row_groups_pruned_bloom_filter" => sum.row_groups_by_bloom_filter += count,
            "page_index_pages_pruned" => sum.pages += count,
            _ => {}
        }
    }
    sum
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
