//! The functions in SQL, in one piece and in parts, beside the same question by buckets.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::{Rng, SeedableRng};

use super::*;

/// Cells in several partitions: a key, a zero count, an offset and counts.
fn context(cells: &[(&str, i64, i32, Vec<i64>)], partitions: usize) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(partitions.max(1)).with_batch_size(7);
    let context = SessionContext::new_with_config(config);
    register(&mut *context.state_ref().write()).unwrap();
    let batch = |cells: &[(&str, i64, i32, Vec<i64>)]| {
        let counts = cells.iter().map(|cell| Some(cell.3.iter().copied().map(Some).collect::<Vec<_>>()));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("key", Arc::new(StringArray::from_iter_values(cells.iter().map(|cell| cell.0)))),
            ("zero", Arc::new(Int64Array::from_iter_values(cells.iter().map(|cell| cell.1)))),
            ("first", Arc::new(Int32Array::from_iter_values(cells.iter().map(|cell| cell.2)))),
            ("counts", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(counts))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let schema = batch(cells).schema();
    let parts = cells.chunks(cells.len().div_ceil(partitions.max(1)).max(1)).map(|part| vec![batch(part)]).collect();
    context.register_table("cells", Arc::new(MemTable::try_new(schema, parts).unwrap())).unwrap();
    context
}

async fn rows(context: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

/// Key, index and count of every bucket, in order.
fn buckets(batches: &[RecordBatch]) -> Vec<(String, i64, i64)> {
    let of_batch = |batch: &RecordBatch| -> Vec<_> {
        let (keys, index, count) = (batch.column(0), batch.column(1), batch.column(2));
        let (index, count) = (index.as_primitive::<Int64Type>(), count.as_primitive::<Int64Type>());
        let row = |row: usize| (keys.as_string::<i32>().value(row).to_owned(), index.value(row), count.value(row));
        (0..batch.num_rows()).map(row).collect()
    };
    let mut all: Vec<_> = batches.iter().flat_map(of_batch).collect();
    all.sort();
    all
}

#[tokio::test]
async fn sums_of_sketches_in_parts_are_those_that_unnested_buckets_give() {
    let mut random = rand::rngs::StdRng::seed_from_u64(11);
    for partitions in [1, 3] {
        let cells: Vec<_> = (0..200)
            .map(|_| {
                let counts = (0..random.random_range(0..40)).map(|_| random.random_range(0..5)).collect();
                (
                    ["a", "b", "c"][random.random_range(0..3)],
                    random.random_range(0..3),
                    random.random_range(-1..900),
                    counts,
                )
            })
            .collect();
        let context = context(&cells, partitions);
        let merged = "SELECT key, s['zero_count'] AS zero, unnest(range(CAST(s['offset'] AS BIGINT), \
                      CAST(s['offset'] AS BIGINT) + CAST(cardinality(s['counts']) AS BIGINT))) AS bucket, unnest(s['counts']) AS n \
                      FROM (SELECT key, merged_sketch(zero, first, counts) AS s FROM cells GROUP BY key)";
        let merged = format!("SELECT key, bucket, n FROM ({merged}) WHERE n > 0");
        let plain = "SELECT key, bucket, sum(n) AS n FROM (SELECT key, unnest(range(CAST(first AS BIGINT), \
                     CAST(first AS BIGINT) + CAST(cardinality(counts) AS BIGINT))) AS bucket, unnest(counts) AS n FROM cells) \
                     WHERE n > 0 GROUP BY 1, 2";
        let (merged, plain) = (buckets(&rows(&context, &merged).await), buckets(&rows(&context, plain).await));
        assert!(plain.len() > 500 && merged == plain, "{} and {} buckets", merged.len(), plain.len());
        let all = rows(&context, "SELECT merged_sketch(zero, first, counts)['zero_count'] AS zero FROM cells").await;
        let zero: i64 = cells.iter().map(|cell| cell.1).sum();
        assert_eq!(all[0].column(0).as_primitive::<Int64Type>().value(0), zero);
    }
}

#[tokio::test]
async fn a_percentile_of_sketches_is_read_off_their_sum_and_heeds_a_filter() {
    let context = context(&[("a", 0, 64 * 20, vec![90]), ("a", 0, 64 * 21, vec![10]), ("b", 7, 0, vec![])], 2);
    let sql = "SELECT sketch_percentile(zero, first, counts, 0.9) AS p90, sketch_percentile(zero, first, counts, 0.91) AS p91, \
               sketch_percentile(zero, first, counts, 0.5) FILTER (WHERE first = 1344) AS upper \
               FROM cells WHERE key = 'a' GROUP BY key";
    let answer = rows(&context, sql).await;
    let at = |column: usize| answer[0].column(column).as_primitive::<Float64Type>().value(0);
    let near = |found: f64, exact: f64| (found / exact - 1.0).abs() < 0.0055;
    assert!(near(at(0), 1_054_000.0) && near(at(1), 2_108_000.0) && near(at(2), 2_108_000.0), "{answer:?}");
    let none = rows(&context, "SELECT sketch_percentile(zero, first, counts, 0.5) FROM cells WHERE key = 'z'").await;
    assert!(none[0].column(0).is_null(0));
}

#[tokio::test]
async fn what_is_no_sketch_is_refused_in_words() {
    let context = context(&[("a", 0, 2_000_000_000, vec![1])], 1);
    let refused = async |sql: &str| match context.sql(sql).await {
        Err(error) => error.to_string(),
        Ok(frame) => frame.collect().await.unwrap_err().to_string(),
    };
    let far = refused("SELECT merged_sketch(zero, first, counts) FROM cells").await;
    assert!(far.contains("1 buckets from index 2000000000 are no sketch of scale 6"), "{far}");
    let typed = refused("SELECT merged_sketch(key, first, counts) FROM cells").await;
    assert!(typed.contains("write merged_sketch(sketch_zero_count, sketch_offset, sketch_counts)"), "{typed}");
    let share = refused("SELECT sketch_percentile(zero, first, counts, 95) FROM cells").await;
    assert!(share.contains("a constant from 0 to 1"), "{share}");
}
