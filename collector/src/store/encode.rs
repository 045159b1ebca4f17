//! How a table's columns are encoded in Parquet, and what stands beside them for readers that skip.
//!
//! Encodings are chosen per column, by measurement (docs/data.md, "Bytes per row"); a column that is not named has
//! Parquet's own choice: a dictionary, or plain values where that grows too large. A seal writes what arrives as fast as it
//! arrives, and a merge soon writes the same rows again, in the background and to stay: what costs more work for fewer
//! bytes is left to it.

use lariat_schema::ids::StoreId;
use lariat_schema::layout::SCHEMA_VERSION_KEY;
use lariat_schema::tables::Table;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

/// Key of the store's id in a file's metadata.
pub(crate) const STORE_ID_KEY: &str = "lariat.store_id";
/// Rows of a row group: small enough to skip, large enough to compress.
pub(crate) const ROW_GROUP_ROWS: usize = 131_072;
/// Encoded bytes of a row group: what a writer holds in memory at most, whatever its rows are like.
pub(crate) const ROW_GROUP_BYTES: usize = 32 << 20;
/// Rows of a page: what a lookup by id reads at least.
const PAGE_ROWS: usize = 4_096;
/// zstd level of most columns: beyond it they hardly shrink.
const ZSTD: i32 = 3;
/// zstd level of the columns below in merged files: their values repeat at distances that only a longer search finds.
const ZSTD_OF_REPEATED: i32 = 9;
const REPEATED: &[&str] = &["eligible.list.item.score", "eligible.list.item.probability", "eligible.list.item.inputs"];
/// Share of wrong hits of a bloom filter.
const BLOOM_FPP: f64 = 0.01;

/// Columns with an encoding of their own, by table (`None`: all) and path. None of them repeats values, so that a
/// dictionary is only in the way. Encodings that few readers know are not used.
const ENCODINGS: &[(Option<Table>, &str, Encoding)] = &[
    (None, "time", Encoding::DELTA_BINARY_PACKED),
    (Some(Table::Spans), "trace_id", Encoding::PLAIN),
    (Some(Table::Spans), "span_id", Encoding::PLAIN),
    (Some(Table::Spans), "parent_span_id", Encoding::PLAIN),
    (Some(Table::Spans), "duration_ns", Encoding::DELTA_BINARY_PACKED),
    (Some(Table::Spans), "provider_ns", Encoding::DELTA_BINARY_PACKED),
    (Some(Table::Spans), "selection_ns", Encoding::PLAIN),
    (Some(Table::Spans), "overhead_ns", Encoding::PLAIN),
    (Some(Table::Spans), "decision_seq", Encoding::DELTA_BINARY_PACKED),
    (Some(Table::Spans), "jsonrpc_id", Encoding::DELTA_BYTE_ARRAY),
    (Some(Table::Spans), "params_digest", Encoding::DELTA_LENGTH_BYTE_ARRAY),
    (Some(Table::Spans), "response_digest", Encoding::DELTA_LENGTH_BYTE_ARRAY),
    (Some(Table::Spans), "eligible.list.item.score", Encoding::PLAIN),
];

/// What merged files have in place of these. Our own span ids differ in their last bytes, and scores in their first.
const MERGED_ENCODINGS: &[(Option<Table>, &str, Encoding)] = &[
    (Some(Table::Spans), "span_id", Encoding::DELTA_BYTE_ARRAY),
    (Some(Table::Spans), "parent_span_id", Encoding::DELTA_BYTE_ARRAY),
    (Some(Table::Spans), "eligible.list.item.score", Encoding::BYTE_STREAM_SPLIT),
];

/// What writes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A seal of hot rows.
    Seal,
    /// A merge of files.
    Merge,
    /// Rows added up, hour by hour: in no order that the whole file has.
    Cells,
}

/// True where a merge of one file is worth while.
pub(crate) fn is_smaller_merged(table: Table) -> bool {
    MERGED_ENCODINGS.iter().any(|(of, ..)| of.is_none_or(|of| of == table))
}

/// Properties of a file of about so many rows.
pub(crate) fn properties(
    table: Table,
    store_id: StoreId,
    rows: u64,
    stage: Stage,
) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_sorting_columns((stage != Stage::Cells).then(|| sorting_columns(table)))
        .set_key_value_metadata(Some(vec![
            KeyValue::new(SCHEMA_VERSION_KEY.to_owned(), lariat_schema::SCHEMA_VERSION.to_string()),
            KeyValue::new(STORE_ID_KEY.to_owned(), store_id.to_string()),
        ]));
    // A filter is of a row group.
    let distinct = rows.clamp(1, crate::columns::count(ROW_GROUP_ROWS));
    for name in table.bloom_columns() {
        let path = ColumnPath::from(*name);
        properties = properties
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_fpp(path.clone(), BLOOM_FPP)
            .set_column_bloom_filter_max_ndv(path, distinct);
    }
    for path in nested_columns(table) {
        properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    let merged = MERGED_ENCODINGS.iter().filter(|_| stage == Stage::Merge);
    for (_, name, encoding) in ENCODINGS.iter().chain(merged).filter(|(of, ..)| of.is_none_or(|of| of == table)) {
        let path = column_path(name);
        properties = properties.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, *encoding);
    }
    if (table, stage) == (Table::Spans, Stage::Merge) {
        let compression = Compression::ZSTD(ZstdLevel::try_new(ZSTD_OF_REPEATED)?);
        for name in REPEATED {
            properties = properties.set_column_compression(column_path(name), compression);
        }
    }
    Ok(properties.build())
}

fn column_path(name: &str) -> ColumnPath {
    ColumnPath::from(name.split('.').map(str::to_owned).collect::<Vec<_>>())
}

/// Leaves of lists and maps. The least and the greatest of all keys and values of a page tell no reader what to skip, and
/// cost more than anything else that stands beside the pages.
fn nested_columns(table: Table) -> Vec<ColumnPath> {
    let leaves = parquet::arrow::ArrowSchemaConverter::new().convert(&table.schema());
    let Ok(leaves) = leaves else { return Vec::new() };
    let leaves = leaves.columns().iter().map(|leaf| leaf.path());
    leaves.filter(|path| path.parts().len() > 1).cloned().collect()
}

/// The table's sort columns, by their place among the file's leaf columns: nested columns have several leaves.
fn sorting_columns(table: Table) -> Vec<SortingColumn> {
    let leaves = parquet::arrow::ArrowSchemaConverter::new().convert(&table.schema());
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
