//! What a seal writes itself says the same as what the library writes of the same rows: values, statistics, indexes and
//! filters.

use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use arrow::array::RecordBatch;

use super::*;
use crate::store::order::{Gather, arranged};
use crate::store::steps::Steps;

/// Rows with all that a column can have: nulls, few texts and many, long ones, numbers, lists and maps, empty ones too.
fn row(n: u128) -> serde_json::Value {
    let number = usize::try_from(n).unwrap();
    let names = ["GET", "GET /orders/{id}", "", "POST /a/rather/long/name/of/a/route"];
    let (weights, chains) = ([1.0, 20.0, 5.0], ["base", "ethereum"]);
    let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let mut row = decision(
        n + 1,
        json!({
            "time": START + i64::try_from(n * 7_919 % 60_000).unwrap() * 1_000_000,
            "observed_time": START + i64::try_from(n / 500).unwrap(),
            "span_id": format!("{:016x}", u64::try_from(spread >> 64).unwrap()),
            "name": names[number % names.len()],
            "chain": chains[number / 50 % 2],
            "adjusted_count": weights[number % weights.len()],
            "jsonrpc_id": number.to_string(),
            "instance_id": format!("1:{}:0123456789ab", n % 700),
            "method_original": format!("{number:0250}"),
            "bytes_out": i64::try_from(number % 900).unwrap() - 30,
            "selection_ns": number * 37,
            "attributes": {"http.route": format!("/api/{}", n % 9), "none": null, "user_agent.original": "load/1.0"},
            "resource_attributes": {},
            "eligible": [
                {"selection": 1, "rank": 1, "provider_id": "northwind", "transport": "http", "score": 12.5, "probability": 0.0},
                {"selection": 1, "rank": 2, "provider_id": "harbor", "transport": "ws", "inputs": format!("ms={}", n % 31)},
            ],
        }),
    );
    let fields = row.as_object_mut().unwrap();
    if n.is_multiple_of(5) {
        fields.insert("status_message".to_owned(), json!("no answer ".repeat(usize::try_from(n % 15).unwrap())));
        fields.insert("adjusted_count".to_owned(), json!(null));
        fields.insert("eligible".to_owned(), json!([]));
        for absent in ["request_id", "instance_id", "bytes_out", "attributes"] {
            fields.remove(absent);
        }
    }
    row
}

fn batches() -> Vec<RecordBatch> {
    let rows: Vec<_> = (0..9_500).map(row).collect();
    let mut batches: Vec<_> = rows.chunks(2_700).map(|rows| crate::fixtures::batch(Table::Spans, rows)).collect();
    batches.insert(1, crate::fixtures::batch(Table::Spans, &[]));
    // A batch that is a piece of another one.
    batches.push(crate::fixtures::batch(Table::Spans, &(9_500..9_600).map(row).collect::<Vec<_>>()).slice(20, 50));
    batches
}

/// The rows in two files: written by a seal, and batch after batch as a merge does.
fn written(folder: &std::path::Path, batches: &[RecordBatch]) -> [manifest::FileEntry; 2] {
    let target =
        write::Target { parquet: folder.to_owned(), store_id: StoreId(uuid::Uuid::nil()), steps: Steps::default() };
    let mut own = target.write(Table::Spans, batches, &|| 1, Stage::Seal).unwrap();
    let places: Vec<_> = arranged(Table::Spans, batches).unwrap().into_iter().map(|(_, place)| place).collect();
    let gather = Gather::new(batches, &places);
    let schema = Table::Spans.schema();
    let columns = schema.fields().iter().enumerate().map(|(at, field)| gather.column(at, field.data_type()).unwrap());
    let sorted = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
    let mut file = target.start(Table::Spans, 9_550, 2, Stage::Seal).unwrap();
    file.write(&sorted).unwrap();
    [own.remove(0), file.finish().unwrap()]
}

fn metadata(path: &std::path::Path) -> ParquetMetaData {
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.parse_and_finish(&File::open(path).unwrap()).unwrap()
}

#[test]
fn a_seal_and_the_library_write_the_same_values_statistics_and_indexes() {
    let folder = tempfile::tempdir().unwrap();
    let files = written(folder.path(), &batches());
    let paths = files.each_ref().map(|file| folder.path().join(&file.path));
    let [own, library] = paths.each_ref().map(|path| read(path));
    assert_eq!(own, library);
    let [own, library] = &files;
    assert_eq!(
        (own.times, own.commits, own.weights, own.rows),
        (library.times, library.commits, library.weights, library.rows)
    );
    let [own, library] = paths.each_ref().map(|path| metadata(path));
    assert_eq!((own.num_row_groups(), library.num_row_groups()), (1, 1));
    let mut by_hand = 0;
    for (at, (own_column, column)) in own.row_group(0).columns().iter().zip(library.row_group(0).columns()).enumerate()
    {
        let name = column.column_path().string();
        assert_eq!(own_column.num_values(), column.num_values(), "{name}");
        assert_eq!(own_column.statistics(), column.statistics(), "{name}");
        assert_eq!(own_column.encodings_mask(), column.encodings_mask(), "{name}");
        assert_eq!(own_column.dictionary_page_offset().is_some(), column.dictionary_page_offset().is_some(), "{name}");
        assert!(own_column.compressed_size() <= column.compressed_size() * 11 / 10 + 64, "{name} is larger");
        by_hand += usize::from(own_column.definition_level_histogram().is_none());
        if column.column_path().parts().len() == 1 {
            let index = |metadata: &ParquetMetaData| metadata.column_index().unwrap()[0][at].clone();
            assert_eq!(
                format!("{:?}", boundaries(&index(&own))),
                format!("{:?}", boundaries(&index(&library))),
                "{name}"
            );
            let rows = |metadata: &ParquetMetaData| -> Vec<i64> {
                let pages = metadata.offset_index().unwrap()[0][at].page_locations().iter();
                pages.map(|page| page.first_row_index).collect()
            };
            assert_eq!(rows(&own), rows(&library), "{name}");
        }
    }
    assert!(by_hand > 20, "only {by_hand} columns were written by a seal itself");
}

#[test]
fn row_groups_that_take_a_part_of_the_batches_hold_their_rows_and_no_others() {
    let (folder, batches) = (tempfile::tempdir().unwrap(), batches());
    let files = written(folder.path(), &batches);
    let target = write::Target {
        parquet: folder.path().to_owned(),
        store_id: StoreId(uuid::Uuid::nil()),
        steps: Steps::default(),
    };
    let places: Vec<_> = arranged(Table::Spans, &batches).unwrap().into_iter().map(|(_, place)| place).collect();
    let sorted = |file: &manifest::FileEntry| {
        let batches = read(&folder.path().join(&file.path));
        let rows = |batch: &RecordBatch| {
            let row = |row| format!("{:?}", batch.slice(row, 1).columns());
            (0..batch.num_rows()).map(row).collect::<Vec<_>>()
        };
        let mut rows: Vec<String> = batches.iter().flat_map(rows).collect();
        rows.sort_unstable();
        rows
    };
    // A third of the rows, nearly all, and single ones.
    for cuts in [vec![3_200, 6_400], vec![100, 9_500], vec![1, 3, 6]] {
        let mut file = target.start(Table::Spans, 9_550, 3, Stage::Seal).unwrap();
        let ends = cuts.iter().copied().chain([places.len()]);
        for (from, to) in [0].into_iter().chain(cuts.iter().copied()).zip(ends) {
            file.write_group(&Gather::new(&batches, &places[from..to])).unwrap();
        }
        assert_eq!(sorted(&file.finish().unwrap()), sorted(&files[0]), "{cuts:?}");
    }
}

/// What a column index says of each page.
fn boundaries(index: &ColumnIndexMetaData) -> Vec<(bool, Option<i64>, String)> {
    (0..usize::try_from(index.num_pages()).unwrap())
        .map(|page| {
            let extremes = match index {
                ColumnIndexMetaData::BYTE_ARRAY(index) | ColumnIndexMetaData::FIXED_LEN_BYTE_ARRAY(index) => {
                    format!("{:?} {:?}", index.min_value(page), index.max_value(page))
                }
                ColumnIndexMetaData::INT32(index) => format!("{:?} {:?}", index.min_value(page), index.max_value(page)),
                ColumnIndexMetaData::INT64(index) => format!("{:?} {:?}", index.min_value(page), index.max_value(page)),
                ColumnIndexMetaData::DOUBLE(index) => {
                    format!("{:?} {:?}", index.min_value(page), index.max_value(page))
                }
                _ => String::new(),
            };
            (index.is_null_page(page), index.null_count(page), extremes)
        })
        .collect()
}
