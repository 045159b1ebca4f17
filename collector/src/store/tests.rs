//! Sealed files, and that a reader finds each row in exactly one place whatever moves (I-3).

use std::fs::File;
use std::sync::atomic::Ordering;

use lariat_schema::coverage::Why;
use lariat_schema::ids::RequestId;
use lariat_schema::node_api::Gone;
use lariat_schema::tables::Table;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use serde_json::json;

use super::encode::Stage;
use super::steps::Steps;
use super::*;
use crate::columns::{moments, texts};
use crate::fixtures::{Place, SECOND, START, decision, kept, points, read, rows, spans};
use crate::ingest::Ingest as _;

#[tokio::test]
async fn a_sealed_file_and_a_merged_one_are_sorted_and_have_what_readers_skip_by() {
    let place = Place::new();
    let spine = place.open();
    for n in 0..50_u128 {
        let chain = ["base", "ethereum", "arbitrum"][usize::try_from(n % 3).unwrap()];
        let time = START + i64::try_from(n * 7_919 % 50).unwrap();
        spine.ingest(spans(&[decision(n + 1, json!({"chain": chain, "time": time}))])).await.unwrap();
    }
    spine.core.seal(false).unwrap();
    made_for_readers(&spine, 50);
    for n in 50..80_u128 {
        let time = START + i64::try_from(n * 7_919 % 80).unwrap();
        spine.ingest(spans(&[decision(n + 1, json!({"chain": "base", "time": time}))])).await.unwrap();
    }
    spine.core.seal(false).unwrap();
    place.advance(2 * 3_600 * SECOND);
    while spine.core.compact().unwrap() {}
    made_for_readers(&spine, 80);
}

#[test]
fn files_of_every_table_are_read_as_what_was_written_without_arrows_schema() {
    for (table, stage) in Table::ALL.iter().flat_map(|table| [(*table, Stage::Seal), (*table, Stage::Merge)]) {
        let folder = tempfile::tempdir().unwrap();
        let target = write::Target {
            parquet: folder.path().to_owned(),
            store_id: StoreId(uuid::Uuid::nil()),
            steps: Steps::default(),
        };
        let file = target.start(table, 1, 1, stage).unwrap().finish().unwrap();
        let file = File::open(folder.path().join(file.path)).unwrap();
        let read = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(read.schema().fields(), table.schema().fields(), "{table}");
    }
}

fn made_for_readers(spine: &crate::ingest::spine::Spine, rows: usize) {
    let files = spine.core.snapshot(Table::Spans).files;
    assert_eq!(files.len(), 1);
    let all = read(&files[0].path);
    let order: Vec<(String, i64)> = all
        .iter()
        .flat_map(|batch| {
            (0..batch.num_rows())
                .map(|row| (texts(batch, "chain").value(row).to_owned(), moments(batch, "time").value(row)))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(order.is_sorted() && order.len() == rows);
    assert!(files[0].times.from_unix_nanos >= START && files[0].times.to_unix_nanos <= START + 80);
    let id = |number: usize| RequestId::from_bytes((number as u128).to_be_bytes());
    assert_eq!(files[0].request_ids, Some(RequestIds::Within { least: id(1), greatest: id(rows) }));

    let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options = ReadOptionsBuilder::new().with_reader_properties(properties).with_page_index().build();
    let reader = SerializedFileReader::new_with_options(File::open(&files[0].path).unwrap(), options).unwrap();
    let metadata = reader.metadata();
    let group = metadata.row_group(0);
    let sorting = group.sorting_columns().unwrap();
    let names: Vec<String> = sorting
        .iter()
        .map(|column| group.column(usize::try_from(column.column_idx).unwrap()).column_path().string())
        .collect();
    assert_eq!(names, Table::Spans.sort_columns());
    assert!(group.columns().iter().all(|column| matches!(column.compression(), Compression::ZSTD(_))));
    assert!(
        group
            .columns()
            .iter()
            .filter(|column| column.column_path().parts().len() == 1)
            .all(|column| column.statistics().is_some())
    );
    assert!(metadata.offset_index().is_some() && metadata.column_index().is_some());
    let groups = reader.get_row_group(0).unwrap();
    for name in Table::Spans.bloom_columns() {
        let at = group.columns().iter().position(|column| column.column_path().string() == *name).unwrap();
        let filter = groups.get_column_bloom_filter(at).unwrap_or_else(|| panic!("{name} has no bloom filter"));
        assert!(filter.check(&parquet::data_type::FixedLenByteArray::from(1_u128.to_be_bytes().to_vec())));
    }
    let keys: Vec<&str> =
        metadata.file_metadata().key_value_metadata().unwrap().iter().map(|pair| &*pair.key).collect();
    assert!(keys.contains(&lariat_schema::layout::SCHEMA_VERSION_KEY) && keys.contains(&encode::STORE_ID_KEY));
}

#[tokio::test]
async fn readers_find_each_row_once_while_it_is_sealed_and_compacted() {
    let place = Place::new();
    let spine = Arc::new(place.open());
    let reading = Arc::clone(&spine);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let reader = std::thread::spawn(move || {
        let mut seen = 0;
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            let ids: Vec<_> = kept(&*reading.core).into_iter().map(|(id, _)| id).collect();
            let mut distinct = ids.clone();
            distinct.dedup();
            assert_eq!(distinct.len(), ids.len(), "a row was read twice");
            assert!(ids.len() >= seen, "rows vanished: {} after {seen}", ids.len());
            seen = ids.len();
        }
    });
    for n in 0..30 {
        spine.ingest(spans(&[decision(n + 1, json!({}))])).await.unwrap();
        spine.core.seal(false).unwrap();
        spine.core.compact().unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    reader.join().unwrap();
    assert_eq!(kept(&*spine.core).len(), 30);
    assert!(spine.core.snapshot(Table::Spans).files.len() <= 9);
}

#[tokio::test]
async fn a_replaced_file_stays_as_long_as_a_snapshot_holds_it() {
    let place = Place::new();
    let spine = place.open();
    for n in 0..9 {
        spine.ingest(points(&[n])).await.unwrap();
        spine.core.seal(false).unwrap();
    }
    let held = spine.core.snapshot(Table::Metrics);
    while spine.core.compact().unwrap() {}
    spine.core.sweep();
    assert_eq!(held.files.iter().map(|file| rows(&read(&file.path))).sum::<usize>(), 9);
    let paths: Vec<_> = held.files.iter().map(|file| file.path.clone()).collect();
    drop(held);
    spine.core.sweep();
    let gone = paths.iter().filter(|path| !path.exists()).count();
    assert!(gone >= 9 - 1, "{gone} of 9 are gone");
    assert_eq!(crate::fixtures::received_points(&*spine.core), 9);
}

#[tokio::test]
async fn a_corrupt_or_missing_file_is_left_out_and_the_rest_is_served() {
    let place = Place::new();
    let spine = place.open();
    for n in 0..3 {
        spine.ingest(points(&[n])).await.unwrap();
        spine.core.seal(false).unwrap();
    }
    let files = spine.core.snapshot(Table::Metrics).files;
    spine.close().unwrap();
    drop(spine);
    let mut bytes = std::fs::read(&files[0].path).unwrap();
    let end = bytes.len() - 6;
    bytes[end] ^= 0xff;
    std::fs::write(&files[0].path, bytes).unwrap();
    std::fs::remove_file(&files[1].path).unwrap();
    let spine = place.open();
    // What is missing is seen at once, what is damaged when checksums are compared.
    assert_eq!(spine.core.snapshot(Table::Metrics).files.len(), 2);
    spine.core.verify_some(u64::MAX);
    assert_eq!(crate::fixtures::received_points(&*spine.core), 1);
    assert!(!files[0].path.exists());
    assert_eq!(std::fs::read_dir(place.root.path().join("quarantine")).unwrap().count(), 1);
    let gone = gone(&spine, Table::Metrics);
    assert_eq!(gone.iter().map(|gone| (gone.why, gone.rows)).collect::<Vec<_>>(), [(Why::Lost, 2)]);
    assert_eq!((gone[0].from_unix_nanos, gone[0].to_unix_nanos), (START, START + 2));
    spine.ingest(points(&[7])).await.unwrap();
    spine.core.seal(false).unwrap();
    assert_eq!(crate::fixtures::received_points(&*spine.core), 2);
    drop(spine);
    // It is lost for good, also after another start.
    let spine = place.open();
    assert_eq!(self::gone(&spine, Table::Metrics).len(), 1);
    assert_eq!(spine.core.counters.quarantined.load(Ordering::Relaxed), 1);
}

fn gone(spine: &crate::ingest::spine::Spine, table: Table) -> Vec<Gone> {
    spine.core.ranges().into_iter().find(|range| range.table == table).unwrap().gone
}

#[tokio::test]
async fn rows_of_two_hours_lie_in_the_folders_of_their_hours() {
    let place = Place::new();
    let spine = place.open();
    let late = json!({"time": START + 3_600 * SECOND});
    spine.ingest(spans(&[decision(1, json!({})), decision(2, late)])).await.unwrap();
    spine.core.seal(false).unwrap();
    let files = spine.core.snapshot(Table::Spans).files;
    let hours: Vec<bool> = ["hour=00", "hour=01"]
        .iter()
        .map(|hour| files.iter().any(|file| file.path.to_string_lossy().contains(hour)))
        .collect();
    assert_eq!((files.len(), hours), (2, vec![true, true]));
}

#[tokio::test]
async fn a_seal_over_very_many_hours_makes_few_files_and_loses_no_row() {
    const HOUR: i64 = 3_600 * SECOND;
    let place = Place::new();
    let spine = place.open();
    for (request, base) in [(0_u128, START - 9_000 * HOUR), (1, START - 200 * HOUR)] {
        let rows: Vec<_> = (0..200)
            .map(|n| {
                let trace = request * 1_000 + u128::try_from(n).unwrap() + 1;
                // One hour has more rows than the others, which have one each.
                decision(trace, json!({"time": if n % 2 == 0 { START } else { base + n * HOUR }}))
            })
            .collect();
        spine.ingest(spans(&rows)).await.unwrap();
        spine.core.seal(false).unwrap();
    }
    let files = spine.core.snapshot(Table::Spans).files;
    assert_eq!(files.len(), 2 * 7);
    let odd = |path: &std::path::Path| path.to_string_lossy().contains("/date=1970-01-01/hour=00/");
    assert_eq!(files.iter().filter(|file| odd(&file.path)).count(), 2);
    // The cells of those calls lie in as many hours.
    assert_eq!(spine.core.counters.odd_files.load(Ordering::Relaxed), 4);
    assert_eq!(kept(&*spine.core).len(), 400);
    place.advance(700 * SECOND);
    while spine.core.compact().unwrap() {}
    spine.core.sweep();
    let files = spine.core.snapshot(Table::Spans).files;
    assert_eq!(files.iter().filter(|file| odd(&file.path)).count(), 1, "they are merged");
    assert_eq!(kept(&*spine.core).len(), 400);
}

#[tokio::test]
async fn the_log_shrinks_once_its_rows_are_sealed_and_its_keys_are_past_the_window() {
    let place = Place::new();
    let spine = place.open();
    spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    spine.set_policies(crate::keep::Policies::default().with("other", crate::keep::SamplingPolicy::default()));
    place.advance(300 * SECOND);
    // The new policies begin a segment: the old one is complete.
    spine.ingest(spans(&[decision(2, json!({}))])).await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let segments = || std::fs::read_dir(place.root.path().join("log")).unwrap().count();
    let before = segments();
    while segments() >= before && std::time::Instant::now() < deadline {
        spine.core.seal(false).unwrap();
        tokio::task::yield_now().await;
    }
    assert!(segments() < before);
    assert_eq!(kept(&*spine.core).len(), 2);
}

mod bucket;
mod cells;
mod crashes;
mod packs;
mod pages;
mod retention;
mod sizes;
mod weights;
