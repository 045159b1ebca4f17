//! Metrics of spans over the log: nothing is lost or counted twice by a crash or an end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::Array;

use super::*;
use crate::columns::{doubles, moments, texts};

/// The highest count of calls since each start of the series.
fn calls(spine: &Spine) -> BTreeMap<i64, i64> {
    let mut found = BTreeMap::new();
    for batch in visible(&*spine.core, Table::Metrics) {
        for row in (0..batch.num_rows()).filter(|row| texts(&batch, "name").value(*row) == "traces_spanmetrics_calls") {
            assert!(moments(&batch, "start_time").is_valid(row));
            #[allow(clippy::cast_possible_truncation, reason = "a small whole number")]
            let calls = doubles(&batch, "value").value(row) as i64;
            let highest = found.entry(moments(&batch, "start_time").value(row)).or_insert(0);
            *highest = calls.max(*highest);
        }
    }
    found
}

async fn until(place: &Place, spine: &Spine, total: i64) {
    place.advance(11 * SECOND);
    let deadline = Instant::now() + Duration::from_secs(30);
    while calls(spine).values().sum::<i64>() < total {
        assert!(Instant::now() < deadline, "{:?} instead of {total}", calls(spine));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn every_span_counts_once_over_kills_and_ends_and_the_ledger_knows_nothing_of_it() {
    // What is sampled out counts too.
    let place = Place::with_rate(0.0);
    let mut spine = place.open();
    let mut total = 0;
    for round in 0..6_u32 {
        for trace in 0..3_u128 {
            spine.ingest(spans(&[decision(u128::from(round) * 10 + trace + 1, json!({}))])).await.unwrap();
            total += 1;
        }
        match round % 3 {
            0 => until(&place, &spine, total).await,
            1 => {
                spine.kill();
                spine = place.open();
            }
            _ => {
                spine.core.seal(true).unwrap();
                spine.close().unwrap();
                drop(spine);
                spine = place.open();
                assert_eq!(calls(&spine).values().sum::<i64>(), total, "an end writes what is left");
            }
        }
    }
    until(&place, &spine, total).await;
    assert_eq!(calls(&spine).values().sum::<i64>(), total);
    let counts = self::total(&spine);
    assert_eq!((counts.received, counts.sampled_out), (total, total));
}
