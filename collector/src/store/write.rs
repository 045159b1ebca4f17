//! Rows into sealed files: sorted, split by hour, with everything that lets a reader skip what it does not need.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampNanosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use lariat_schema::ids::StoreId;
use lariat_schema::layout::{SCHEMA_VERSION_KEY, file_path};
use lariat_schema::tables::Table;
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::manifest::FileEntry;
use crate::columns::{column, count, moments};
use crate::log::segment::sync_folder;

/// Key of the store's id in a file's metadata.
pub(crate) const STORE_ID_KEY: &str = "lariat.store_id";
/// Rows of a row group: small enough to skip, large enough to compress.
const ROW_GROUP_ROWS: usize = 131_072;
/// Rows of a page: what a lookup by id reads at least.
const PAGE_ROWS: usize = 4_096;
/// zstd level of sealed files: beyond it files hardly shrink.
const ZSTD: i32 = 3;
/// Share of wrong hits of a bloom filter.
const BLOOM_FPP: f64 = 0.01;
const NANOS_PER_HOUR: i64 = 3_600 * NANOS_PER_SECOND;

/// Why rows could not be sealed. They stay where they were, and are tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("cannot arrange the rows of {table}: {source}")]
    Rows { table: Table, source: ArrowError },
    #[error("cannot encode the rows of {table}: {source}")]
    Encode { table: Table, source: ParquetError },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// Where files go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) parquet: PathBuf,
    pub(crate) store_id: StoreId,
}

impl Target {
    /// Writes the rows as sorted files, one per hour of their time, each durable before this returns.
    pub(crate) fn write(
        &self,
        table: Table,
        batches: &[RecordBatch],
        next_sequence: &mut u64,
    ) -> Result<Vec<FileEntry>, SealError> {
        let rows = |source| SealError::Rows { table, source };
        let all = concat_batches(&table.schema(), batches).map_err(rows)?;
        let mut hours: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        let order = sorted(table, &all).map_err(rows)?;
        let times = moments(&all, "time");
        for row in order {
            let at = usize::try_from(row).unwrap_or_default();
            hours.entry(times.value(at).div_euclid(NANOS_PER_HOUR)).or_default().push(row);
        }
        let mut entries = Vec::with_capacity(hours.len());
        for rows_of_hour in hours.into_values() {
            let batch = take_record_batch(&all, &UInt32Array::from(rows_of_hour)).map_err(rows)?;
            let sequence = *next_sequence;
            *next_sequence += 1;
            entries.push(self.write_file(table, &batch, sequence)?);
        }
        Ok(entries)
    }

    fn write_file(&self, table: Table, batch: &RecordBatch, sequence: u64) -> Result<FileEntry, SealError> {
        let encode = |source| SealError::Encode { table, source };
        let times = span_of(moments(batch, "time"));
        let mut bytes = Vec::new();
        let properties = self.properties(table, batch).map_err(encode)?;
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).map_err(encode)?;
        writer.write(batch).and_then(|()| writer.close()).map_err(encode)?;
        let relative = file_path(table, self.store_id, times.from_unix_nanos, sequence);
        let path = self.parquet.join(&relative);
        put(&self.parquet, &path, &bytes).map_err(|source| SealError::Write { path, source })?;
        Ok(FileEntry {
            path: relative,
            table,
            bytes: count(bytes.len()),
            rows: count(batch.num_rows()),
            crc32: crc32fast::hash(&bytes),
            times,
            commits: span_of(moments(batch, "observed_time")),
            replaces: Vec::new(),
        })
    }

    fn properties(&self, table: Table, batch: &RecordBatch) -> Result<WriterProperties, ParquetError> {
        let schema = batch.schema();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD)?))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_sorting_columns(Some(sorting_columns(table, &schema)))
            .set_key_value_metadata(Some(vec![
                KeyValue::new(SCHEMA_VERSION_KEY.to_owned(), lariat_schema::SCHEMA_VERSION.to_string()),
                KeyValue::new(STORE_ID_KEY.to_owned(), self.store_id.to_string()),
            ]));
        for name in table.bloom_columns() {
            let path = ColumnPath::from(*name);
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), BLOOM_FPP)
                .set_column_bloom_filter_max_ndv(path, count(batch.num_rows()).max(1));
        }
        Ok(properties.build())
    }
}

/// The table's sort columns, by their place among the file's leaf columns: nested columns have several leaves.
fn sorting_columns(table: Table, schema: &SchemaRef) -> Vec<SortingColumn> {
    let leaves = parquet::arrow::ArrowSchemaConverter::new().convert(schema);
    let Ok(leaves) = leaves else { return Vec::new() };
    table
        .sort_columns()
        .iter()
        .filter_map(|name| {
            let at = leaves.columns().iter().position(|leaf| leaf.path().string() == *name)?;
            Some(SortingColumn { column_idx: i32::try_from(at).ok()?, descending: false, nulls_first: true })
        })
        .collect()
}

/// The rows' order by the table's sort columns.
fn sorted(table: Table, batch: &RecordBatch) -> Result<Vec<u32>, ArrowError> {
    let columns: Vec<ArrayRef> = table
        .sort_columns()
        .iter()
        .map(|name| {
            let index = batch.schema().index_of(name)?;
            Ok(Arc::clone(batch.column(index)))
        })
        .collect::<Result<_, ArrowError>>()?;
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(&columns)?;
    let length = u32::try_from(batch.num_rows()).map_err(|_| ArrowError::ComputeError("too many rows".to_owned()))?;
    let mut order: Vec<u32> = (0..length).collect();
    let at = |row: &u32| rows.row(usize::try_from(*row).unwrap_or_default());
    order.sort_by(|left, right| at(left).cmp(&at(right)));
    Ok(order)
}

/// The half-open range of a column of moments.
pub(crate) fn span_of(times: &TimestampNanosecondArray) -> TimeRange {
    let from = arrow::compute::min(times).unwrap_or(0);
    TimeRange::new(from, arrow::compute::max(times).unwrap_or(0).saturating_add(1))
}

/// Times of a batch of any table.
pub(crate) fn times_of(batch: &RecordBatch) -> TimeRange {
    span_of(column(batch, "time"))
}

/// A file under its final name, durable with every folder above it.
fn put(parquet: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    fs::create_dir_all(folder)?;
    super::directory::write_durably(path, bytes)?;
    for above in folder.ancestors().skip(1).take_while(|above| above.starts_with(parquet)) {
        sync_folder(above)?;
    }
    Ok(())
}
