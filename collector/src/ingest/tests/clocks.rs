//! What a store does when its clock is set, and with records whose times are far away.

use lariat_schema::tables::Table;
use serde_json::json;

use super::*;
use crate::fixtures::START;

const YEAR: i64 = 365 * 86_400 * SECOND;

/// Waits until the committing thread has looked at the clock `condition` asks for.
pub(super) fn eventually(spine: &Spine, what: &str, condition: impl Fn(&Spine) -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !condition(spine) {
        assert!(std::time::Instant::now() < deadline, "{what} never came");
        std::thread::yield_now();
    }
}

fn jumps(spine: &Spine) -> u64 {
    spine.core.counters.clock_jumps.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_clock_that_leaps_a_year_ends_no_window_and_decides_no_waiting_span() {
    let place = Place::new();
    let spine = place.open();
    let child = span(2, 2, Some(1), json!({"profile": "public"}));
    spine.ingest(spans(&[decision(1, json!({})), child])).await.unwrap();
    place.leap(YEAR);
    eventually(&spine, "the jump", |spine| jumps(spine) == 1);
    // It stands, so commit times follow it.
    place.advance(11 * SECOND);
    eventually(&spine, "the new time", |spine| spine.core.watermark_unix_nanos() > START + YEAR);
    let again = spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    assert_eq!(again, Committed { accepted: 0, deduplicated: 1 });
    assert_eq!(total(&spine).in_flight, 1, "the child still waits for its root");
    place.leap(-YEAR);
    eventually(&spine, "the jump back", |spine| jumps(spine) == 2);
    spine.ingest(spans(&[decision(3, json!({}))])).await.unwrap();
    assert!(spine.core.watermark_unix_nanos() > START + YEAR, "commit times never go back");
    place.advance(31 * SECOND);
    eventually(&spine, "the verdict", |spine| total(spine).in_flight == 0);
    let before = (kept(&*spine.core), total(&spine));
    spine.kill();
    drop(spine);
    let spine = place.open();
    assert_eq!((kept(&*spine.core), total(&spine)), before);
    let again = spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    assert_eq!(again, Committed { accepted: 0, deduplicated: 1 });
    place.advance(121 * SECOND);
    eventually(&spine, "the end of the window", |spine| spine.core.counters.dedup_keys.load(Ordering::Relaxed) == 0);
}

#[tokio::test]
async fn spans_of_last_year_and_of_the_next_are_taken_in_and_lie_where_they_belong() {
    let place = Place::new();
    let spine = place.open();
    let rows: Vec<_> =
        [-YEAR, 0, YEAR].iter().zip(1..).map(|(away, trace)| decision(trace, json!({"time": START + away}))).collect();
    spine.ingest(spans(&rows)).await.unwrap();
    spine.core.seal(false).unwrap();
    let files = spine.core.snapshot(Table::Spans).files;
    let mut years: Vec<String> =
        files.iter().map(|file| file.path.to_string_lossy().split("date=").nth(1).unwrap()[..4].to_owned()).collect();
    years.sort();
    assert_eq!(years, ["2024", "2025", "2026"]);
    assert_eq!(kept(&*spine.core).len(), 3);
}

#[tokio::test]
async fn a_record_that_was_new_again_after_its_window_is_remembered_over_a_crash() {
    let place = Place::new();
    let spine = place.open();
    spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    place.advance(121 * SECOND);
    eventually(&spine, "the end of the window", |spine| spine.core.watermark_unix_nanos() >= START + 121 * SECOND);
    // Each time beside another one, so that no body comes twice.
    let again = spine.ingest(spans(&[decision(1, json!({})), decision(2, json!({}))])).await.unwrap();
    assert_eq!(again, Committed { accepted: 2, deduplicated: 0 });
    spine.kill();
    drop(spine);
    let spine = place.open();
    let third = spine.ingest(spans(&[decision(1, json!({})), decision(3, json!({}))])).await.unwrap();
    assert_eq!(third, Committed { accepted: 1, deduplicated: 1 });
}
