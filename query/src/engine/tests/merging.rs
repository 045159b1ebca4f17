//! Answers of a fleet beside one engine that has all rows: whatever is split over nodes must merge to the same.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryArray, Float64Array, Int64Array, StringArray};
use arrow::util::display::array_value_to_string;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

/// Rows of spans with these columns in place of the usual ones.
pub(super) fn with(node: u32, columns: HashMap<&str, ArrayRef>) -> RecordBatch {
    let rows = columns.values().next().map_or(0, |column| column.len());
    let usual = spans(node, rows);
    let schema = usual.schema();
    let take = |(index, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| {
        columns.get(field.name().as_str()).unwrap_or(usual.column(index)).clone()
    };
    RecordBatch::try_new(Arc::clone(&schema), schema.fields().iter().enumerate().map(take).collect()).unwrap()
}

/// Calls as a sampler leaves them: some kept whole, some for several, some of unknown weight; traces with several calls,
/// some of which went through two nodes.
fn sampled(rng: &mut StdRng, node: u32, rows: usize) -> RecordBatch {
    let traces: Vec<[u8; 16]> = (0..rows)
        .map(|_| {
            let mut id = [7; 16];
            let number: u64 = if rng.random_bool(0.3) { rng.random_range(0..20) } else { rng.random() };
            id[8..].copy_from_slice(&number.to_be_bytes());
            id
        })
        .collect();
    let mut texts = |of: &[&str]| -> ArrayRef {
        Arc::new((0..rows).map(|_| of.choose(rng).map(|text| (*text).to_owned())).collect::<StringArray>())
    };
    let (chains, methods) =
        (texts(&["ethereum", "base", "arbitrum", "optimism"]), texts(&["eth_call", "eth_getLogs", "net_version"]));
    let regions = texts(&REGIONS);
    let durations: Int64Array = (0..rows).map(|_| Some(rng.random_range(1..3_000_000_000_i64))).collect();
    let weights = [Some(1.0), Some(1.0), Some(5.0), Some(20.0), Some(100.0), None];
    let weights: Float64Array = (0..rows).map(|_| *weights.choose(rng).unwrap()).collect();
    with(
        node,
        HashMap::from([
            ("chain", chains),
            ("method", methods),
            ("region", regions),
            ("duration_ns", Arc::new(durations) as ArrayRef),
            ("adjusted_count", Arc::new(weights) as ArrayRef),
            ("trace_id", Arc::new(FixedSizeBinaryArray::try_from_iter(traces.into_iter()).unwrap()) as ArrayRef),
        ]),
    )
}

fn cells(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let row = |batch: &RecordBatch, row: usize| -> Vec<String> {
        batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect()
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |at| row(batch, at))).collect()
}

/// The same texts, or numbers that differ by less than `tolerance` of themselves.
fn assert_same(sql: &str, found: &[RecordBatch], wanted: &[RecordBatch], tolerance: f64) {
    let (found, wanted) = (cells(found), cells(wanted));
    let same = |found: &String, wanted: &String| match (found.parse::<f64>(), wanted.parse::<f64>()) {
        (Ok(found), Ok(wanted)) => (found - wanted).abs() <= tolerance * wanted.abs(),
        _ => found == wanted,
    };
    let rows_same = |(found, wanted): (&Vec<String>, &Vec<String>)| found.iter().zip(wanted).all(|(a, b)| same(a, b));
    assert!(
        found.len() == wanted.len() && found.iter().zip(&wanted).all(rows_same),
        "{sql}\nfound  {found:?}\nwanted {wanted:?}"
    );
}

/// Sums of whole numbers are the same to the last digit; sums of doubles depend on their order in the last digits.
const EXACTLY: &[&str] = &[
    "SELECT count(*), sum(duration_ns), min(duration_ns), max(duration_ns) FROM spans",
    "SELECT region, count(*), sum(duration_ns) FROM spans GROUP BY region ORDER BY region",
    "SELECT region, count(*), sum(duration_ns) FROM spans GROUP BY ROLLUP(region) ORDER BY region NULLS FIRST",
    "SELECT chain, method, count(*) n FROM spans GROUP BY chain, method ORDER BY n DESC, chain, method LIMIT 5",
    "SELECT chain, region, count(DISTINCT trace_id), count(DISTINCT method) FROM spans GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT approx_distinct(method), approx_distinct(duration_ns) FROM spans",
    "SELECT duration_ns, chain, region FROM spans ORDER BY duration_ns DESC, chain, region LIMIT 17",
    "SELECT chain, duration_ns FROM (SELECT chain, duration_ns, row_number() OVER (PARTITION BY chain ORDER BY duration_ns) n \
     FROM spans) WHERE n <= 2 ORDER BY chain, duration_ns",
    "SELECT median(duration_ns), percentile_cont(duration_ns, 0.95) FROM spans",
    "SELECT count(*) FILTER (WHERE duration_ns > 1000000000) FROM spans HAVING count(*) > 10",
    "SELECT chain, sum(adjusted_count) FROM spans GROUP BY chain ORDER BY chain",
    "SELECT time_slot, count(*) FROM (SELECT date_bin(INTERVAL '10 seconds', time) AS time_slot FROM spans) GROUP BY 1 ORDER BY 1",
];

const NEARLY: &[(&str, f64)] = &[
    ("SELECT chain, avg(duration_ns), stddev(duration_ns) FROM spans GROUP BY chain ORDER BY chain", 1e-9),
    ("SELECT approx_percentile_cont(duration_ns, 0.9) FROM spans", 0.03),
    (
        "SELECT chain, e['value'], e['lower'], e['upper'], e['rows'], e['unknown_rows'] FROM (SELECT chain, estimated_count() e \
         FROM spans GROUP BY chain) ORDER BY chain",
        1e-9,
    ),
    (
        "SELECT e['value'], e['lower'], e['upper'], e['rows'], e['unknown_rows'] FROM (SELECT estimated_sum(duration_ns) e \
         FROM spans)",
        1e-9,
    ),
    (
        "SELECT region, e['value'], e['lower'], e['upper'] FROM (SELECT region, estimated_avg(duration_ns) e FROM spans \
         GROUP BY region) ORDER BY region",
        1e-9,
    ),
    (
        "SELECT method, e['value'], e['lower'], e['upper'] FROM (SELECT method, estimated_percentile(duration_ns, 0.95) e \
         FROM spans GROUP BY ROLLUP(method)) ORDER BY method NULLS FIRST",
        1e-9,
    ),
    (
        "SELECT chain, estimated_count()['value'] AS n FROM spans GROUP BY chain HAVING estimated_count()['value'] > 10 \
         ORDER BY n DESC",
        1e-9,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_answers_as_one_engine_with_all_rows_does_over_random_rows() {
    for seed in [1, 20_261_126] {
        let mut rng = StdRng::seed_from_u64(seed);
        let rows: Vec<RecordBatch> = (0..4)
            .map(|node| {
                let rows = rng.random_range(1..700);
                sampled(&mut rng, node, rows)
            })
            .collect();
        let fleet = Fleet::start_over(rows.iter().map(|rows| (rows.clone(), 0)).collect()).await;
        let query = fleet.query().await;
        let oracle = LocalEngine::new(vec![(Table::Spans, rows)]).await.unwrap();
        let exactly = EXACTLY.iter().map(|sql| (*sql, 0.0));
        for (sql, tolerance) in exactly.chain(NEARLY.iter().copied()) {
            let wanted = oracle.ask(Question::new(sql)).await.unwrap();
            let found = ask(&query, sql).await;
            assert_eq!(found.coverage.answered, 4, "{sql}");
            assert_same(sql, &found.batches, &wanted.batches, tolerance);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_on_one_node_and_a_hundred_on_another_are_1100_with_their_mean_and_p95() {
    let calls = |node: u32, count: usize, ms: i64| {
        let durations: ArrayRef = Arc::new(Int64Array::from(vec![ms * 1_000_000; count]));
        (with(node, HashMap::from([("duration_ns", durations)])), 0)
    };
    let fleet = Fleet::start_over(vec![calls(0, 1_000, 100), calls(1, 100, 200)]).await;
    let query = fleet.query().await;
    let sql = "SELECT count(*) AS n, avg(duration_ns) / 1e6 AS mean, estimated_avg(duration_ns)['value'] / 1e6 AS weighted, \
               estimated_percentile(duration_ns, 0.5)['value'] / 1e6 AS p50, \
               estimated_percentile(duration_ns, 0.95)['value'] / 1e6 AS p95, estimated_count()['upper'] AS calls FROM spans";
    let answer = ask(&query, sql).await;
    let row: Vec<f64> = cells(&answer.batches)[0].iter().map(|cell| cell.parse().unwrap()).collect();
    let wanted = [1_100.0, 120_000.0 / 1_100.0, 120_000.0 / 1_100.0, 100.0, 200.0, 1_100.0];
    assert!(row.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{row:?}");
    assert_eq!((answer.coverage.expected, answer.coverage.answered), (2, 2));
    // By region it is each node's own, beside the total.
    let sql = "SELECT region, count(*), approx_percentile_cont(duration_ns, 0.95) FROM spans GROUP BY ROLLUP(region) ORDER BY 2";
    let rows = cells(&ask(&query, sql).await.batches);
    let counts: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(counts, [("eu-west", "100"), ("us-east", "1000"), ("", "1100")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_aggregate_over_sampled_rows_carries_a_hint_and_an_estimate_does_not() {
    let mut rng = StdRng::seed_from_u64(7);
    let fleet = Fleet::start_over(vec![(sampled(&mut rng, 0, 200), 0)]).await;
    let query = fleet.query().await;
    for (sql, wanted) in [
        ("SELECT count(*) FROM spans", Some("estimated_count")),
        ("SELECT chain, avg(duration_ns) FROM routing_decisions GROUP BY chain", Some("estimated_avg")),
        ("SELECT * FROM (SELECT median(duration_ns) AS m FROM spans) WHERE m > 0", Some("estimated_percentile")),
        ("SELECT estimated_count() FROM spans", None),
        ("SELECT sum(adjusted_count) FROM spans", None),
        ("SELECT max(duration_ns) FROM spans", None),
        ("SELECT chain FROM spans LIMIT 1", None),
        ("SELECT count(*) FROM nodes", None),
    ] {
        let answer = ask(&query, sql).await;
        assert!(wanted.is_none() || answer.sampling.weighted && answer.sampling.min_probability <= 0.01, "{sql}");
        let hint = answer.hint.as_deref();
        assert_eq!(
            hint.is_some_and(|hint| hint.contains(wanted.unwrap_or("estimate"))),
            wanted.is_some(),
            "{sql}: {hint:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn estimates_that_cannot_be_are_refused_with_what_to_write() {
    let fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    for (sql, text) in [
        ("SELECT estimated_count() FROM metrics", "adjusted_count"),
        ("SELECT estimated_count() FROM (SELECT chain FROM spans)", "adjusted_count"),
        ("SELECT estimated_count() FROM spans a JOIN spans b ON a.trace_id = b.trace_id", "ambiguous"),
        ("SELECT estimated_sum() FROM spans", "estimated_sum(x)"),
        ("SELECT estimated_sum(chain) FROM spans", "cannot be"),
        ("SELECT estimated_percentile(duration_ns, 1.5) FROM spans", "from 0 to 1"),
        ("SELECT estimated_percentile(duration_ns, duration_ns) FROM spans", "from 0 to 1"),
        ("SELECT estimated_sum(DISTINCT duration_ns) FROM spans", "DISTINCT"),
        ("SELECT estimated_count() OVER () FROM spans", "over a window"),
    ] {
        let refused = query.engine().ask(Question::new(sql)).await;
        assert!(
            matches!(&refused, Err(AskError::BadQuestion { message, .. }) if message.contains(text)),
            "{sql}: {refused:?}"
        );
    }
    for sql in [
        "SELECT estimated_count(adjusted_count, request_id) FROM spans",
        "SELECT estimated_sum(duration_ns, 2.0, 'x') FROM spans",
        "SELECT estimated_count() FROM candidates",
        "SELECT estimated_count(a.adjusted_count, a.trace_id) FROM spans a JOIN spans b ON a.trace_id = b.trace_id",
        "SELECT estimated_count()['value'] * 2 AS twice FROM spans WHERE chain = 'base' GROUP BY method ORDER BY twice",
    ] {
        ask(&query, sql).await;
    }
}
