//! Clearing by age and by size: what goes, what stays, what is said of it, and what queries still read.

use super::*;
use crate::ingest::Refused;
use crate::store::steps::{Step, Steps};

const HOUR: i64 = 3_600 * SECOND;

fn retention(text: &str) -> Retention {
    serde_json::from_str(text).unwrap()
}

/// A store with a sealed file of one span for each of the last hours, the clock at the end of the last.
async fn hours(place: &Place, count: i64) -> crate::ingest::spine::Spine {
    let spine = place.open();
    for hour in 0..count {
        let time = START + hour * HOUR;
        spine.ingest(spans(&[decision(u128::try_from(hour).unwrap() + 1, json!({"time": time}))])).await.unwrap();
        spine.core.seal(false).unwrap();
        place.advance(HOUR);
    }
    spine
}

fn paths(spine: &crate::ingest::spine::Spine) -> Vec<std::path::PathBuf> {
    spine.core.snapshot(Table::Spans).files.iter().map(|file| file.path.clone()).collect()
}

#[tokio::test]
async fn rows_past_their_retention_go_and_are_told_as_expired_while_a_query_reads_on() {
    let mut place = Place::new();
    place.store.retention = retention(r#"{"default": "30d", "spans": "3h"}"#);
    let spine = hours(&place, 6).await;
    let held = spine.core.snapshot(Table::Spans);
    spine.core.expire().unwrap();
    spine.core.sweep();
    // Rows of the first three hours were committed more than three hours ago.
    assert_eq!(kept(&*spine.core).len(), 3);
    assert_eq!(held.files.iter().map(|file| rows(&read(&file.path))).sum::<usize>(), 6);
    let told = gone(&spine, Table::Spans);
    assert_eq!(told.iter().map(|gone| (gone.why, gone.rows)).collect::<Vec<_>>(), [(Why::Expired, 3)]);
    assert_eq!((told[0].from_unix_nanos, told[0].to_unix_nanos), (START, START + 2 * HOUR + 1));
    assert!(gone(&spine, Table::Rollups).is_empty());
    let old: Vec<_> = held.files.iter().map(|file| file.path.clone()).collect();
    drop(held);
    spine.core.sweep();
    assert_eq!(old.iter().filter(|path| path.exists()).count(), 3);
    let counters = &spine.core.counters;
    assert_eq!((counters.expired_rows.load(Ordering::Relaxed), counters.lost_rows.load(Ordering::Relaxed)), (3, 0));
    drop(spine);
    let spine = place.open();
    assert_eq!((kept(&*spine.core).len(), gone(&spine, Table::Spans).len()), (3, 1));
}

#[tokio::test]
async fn a_budget_deletes_the_oldest_files_and_says_that_they_are_lost() {
    let mut place = Place::new();
    place.store.disk_budget_bytes = Some(u64::MAX);
    let spine = hours(&place, 6).await;
    spine.core.relieve().unwrap();
    assert!(gone(&spine, Table::Spans).is_empty());
    let used = spine.core.counters.disk_used_bytes.load(Ordering::Relaxed);
    let newest = paths(&spine).pop().unwrap();
    let three: u64 = spine.core.snapshot(Table::Spans).files[..3].iter().map(|file| file.bytes).sum();
    drop(spine);
    // Some files less than it takes: some go, the newest stay.
    place.store.disk_budget_bytes = Some(used - three);
    let spine = place.open();
    spine.core.relieve().unwrap();
    let told = gone(&spine, Table::Spans);
    assert!(!told.is_empty() && told.iter().all(|gone| gone.why == Why::Lost), "{told:?}");
    assert!(newest.exists());
    assert_eq!(told[0].from_unix_nanos, START);
    let lost: u64 = told.iter().map(|gone| gone.rows).sum();
    assert_eq!(usize::try_from(lost).unwrap() + kept(&*spine.core).len(), 6);
    assert!(!spine.core.over_budget.load(Ordering::Relaxed));
    spine.ingest(spans(&[decision(77, json!({}))])).await.unwrap();
}

#[tokio::test]
async fn beyond_the_budget_requests_are_refused_and_taken_again_once_there_is_room() {
    let mut place = Place::new();
    // Less than the log of one request.
    place.store.disk_budget_bytes = Some(1_000);
    let spine = place.open();
    spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    spine.core.seal(false).unwrap();
    let held = spine.core.snapshot(Table::Spans);
    spine.core.relieve().unwrap();
    let refused = spine.ingest(spans(&[decision(2, json!({}))])).await.unwrap_err();
    assert!(matches!(refused, Refused::NotDurable { .. }), "{refused}");
    assert_eq!(spine.core.counters.budget_refusals.load(Ordering::Relaxed), 1);
    // What a query holds stays readable meanwhile.
    assert_eq!(held.files.iter().map(|file| rows(&read(&file.path))).sum::<usize>(), 1);
    drop((held, spine));
    place.store.disk_budget_bytes = Some(1 << 30);
    let spine = place.open();
    spine.core.relieve().unwrap();
    assert_eq!(spine.ingest(spans(&[decision(2, json!({}))])).await.unwrap().accepted, 1);
}

#[tokio::test]
async fn on_a_disk_without_room_for_a_manifest_old_files_go_all_the_same() {
    let mut place = Place::new();
    let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&full);
    place.store.retention = retention(r#""1h""#);
    place.store.steps = Steps::observed_by(move |step| match step {
        Step::Delete => {
            // Room comes with the first deleted file.
            seen.store(false, Ordering::SeqCst);
            Ok(())
        }
        Step::Manifest | Step::Write if seen.load(Ordering::SeqCst) => Err(std::io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let spine = hours(&place, 4).await;
    full.store(true, Ordering::SeqCst);
    spine.ingest(spans(&[decision(9, json!({"time": START + 4 * HOUR}))])).await.unwrap();
    let error = spine.core.seal(false).unwrap_err();
    assert!(error.to_string().contains("storage"), "{error}");
    assert_eq!(kept(&*spine.core).len(), 5);
    spine.core.expire().unwrap();
    spine.core.seal(false).unwrap();
    assert_eq!(kept(&*spine.core).len(), 2);
    drop(spine);
    let spine = place.open();
    assert_eq!((kept(&*spine.core).len(), gone(&spine, Table::Spans)[0].why), (2, Why::Expired));
}
