//! The promises of the spine against crashes, full disks and retries (I-1 to I-3).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lariat_schema::tables::Table;
use serde_json::json;

use super::spine::Spine;
use super::*;
use crate::fixtures::{Place, SECOND, decision, kept, points, rows, span, spans, visible};
use crate::ledger::Counts;
use crate::log::SegmentFile;
use crate::log::segment::create_on_disk;
use crate::store::ReadStore as _;

mod clocks;
mod disk;
mod losses;
mod model;
mod restart;
mod span_metrics;
mod weather;

fn total(spine: &Spine) -> Counts {
    let mut total = Counts::default();
    for line in spine.core.state.lock().ledger() {
        assert!(line.counts.closes(), "I-1 is broken: {line:?}");
        total.received += line.counts.received;
        total.stored += line.counts.stored;
        total.sampled_out += line.counts.sampled_out;
        total.deduplicated += line.counts.deduplicated;
        total.rejected += line.counts.rejected;
        total.dropped += line.counts.dropped;
        total.in_flight += line.counts.in_flight;
    }
    total
}

#[tokio::test]
async fn what_is_acknowledged_is_visible_at_once_and_the_ledger_closes() {
    let place = Place::new();
    let spine = place.open();
    let mut request = spans(&[decision(1, json!({})), span(1, 2, Some(1), json!({"span_kind": "client"}))]);
    request.rejected = 3;
    let committed = spine.ingest(request).await.unwrap();
    assert_eq!(committed, Committed { accepted: 2, deduplicated: 0 });
    assert_eq!(rows(&visible(&*spine.core, Table::Spans)), 2);
    spine.ingest(points(&[1, 2])).await.unwrap();
    assert_eq!(crate::fixtures::received_points(&*spine.core), 2);
    let expected = Counts { received: 7, stored: 4, rejected: 3, ..Counts::default() };
    assert_eq!(total(&spine), expected);
    assert!(spine.core.snapshot(Table::Spans).watermark_unix_nanos >= crate::fixtures::START);
}

#[tokio::test]
async fn a_crash_keeps_what_was_acknowledged_and_a_retry_after_it_adds_nothing() {
    let place = Place::new();
    let spine = place.open();
    for trace in 1..=20 {
        spine.ingest(spans(&[decision(trace, json!({}))])).await.unwrap();
    }
    spine.core.seal(false).unwrap();
    for trace in 21..=40 {
        spine.ingest(spans(&[decision(trace, json!({}))])).await.unwrap();
    }
    let (before, ledger) = (kept(&*spine.core), total(&spine));
    spine.kill();
    drop(spine);
    let spine = place.open();
    assert_eq!(kept(&*spine.core), before);
    assert_eq!(total(&spine), ledger);
    for trace in [1, 25] {
        let again = spine.ingest(spans(&[decision(trace, json!({}))])).await.unwrap();
        assert_eq!(again, Committed { accepted: 0, deduplicated: 1 });
    }
    assert_eq!(kept(&*spine.core), before);
}

#[tokio::test]
async fn a_restart_decides_again_exactly_as_before() {
    let place = Place::with_rate(0.3);
    let spine = place.open();
    for trace in 0..200_u128 {
        let trace = trace.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let late = span(trace, 3, Some(2), json!({"profile": "public"}));
        spine.ingest(spans(&[late])).await.unwrap();
        let root = decision(trace, json!({"result": if trace % 7 == 0 { "error" } else { "success" }}));
        spine.ingest(spans(&[root, span(trace, 2, Some(1), json!({"profile": "public"}))])).await.unwrap();
        if trace % 50 == 3 {
            spine.core.seal(false).unwrap();
        }
        place.advance(SECOND / 10);
    }
    spine.ingest(spans(&[span(7, 9, Some(8), json!({"status": "error"}))])).await.unwrap();
    place.advance(31 * SECOND);
    spine.ingest(points(&[1])).await.unwrap();
    let (before, ledger) = (kept(&*spine.core), total(&spine));
    assert!(ledger.sampled_out > 0 && before.iter().any(|(_, reason)| reason == "orphan"));
    spine.kill();
    drop(spine);
    let spine = place.open();
    assert_eq!(kept(&*spine.core), before);
    assert_eq!(total(&spine), ledger);
}

#[tokio::test]
async fn a_clean_end_seals_everything_and_the_next_start_reads_it_once() {
    let place = Place::new();
    let spine = place.open();
    spine.ingest(spans(&[decision(1, json!({})), span(5, 2, Some(9), json!({}))])).await.unwrap();
    let undecided = kept(&*spine.core);
    assert_eq!(undecided.len(), 2);
    assert_eq!(total(&spine).in_flight, 1);
    spine.close().unwrap();
    assert!(spine.core.snapshot(Table::Spans).batches.is_empty());
    assert_eq!(total(&spine).in_flight, 0);
    drop(spine);
    let spine = place.open();
    assert_eq!(kept(&*spine.core).len(), 2);
    assert_eq!(rows(&spine.core.snapshot(Table::Spans).batches), 0);
}

/// Every row of the rollups, without the moments of their commits.
fn cells(spine: &Spine) -> Vec<String> {
    let mut cells = Vec::new();
    for batch in visible(&*spine.core, Table::Rollups) {
        let mut writer = arrow::json::ArrayWriter::new(Vec::new());
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let rows: Vec<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_slice(&writer.into_inner()).unwrap();
        cells.extend(rows.into_iter().map(|mut row| {
            row.remove("observed_time");
            serde_json::Value::Object(row).to_string()
        }));
    }
    cells.sort();
    cells
}

#[tokio::test]
async fn a_replay_gives_exactly_the_cells_and_the_ledger_of_before() {
    let place = Place::with_rate(0.2);
    let spine = place.open();
    for n in 0..60_u64 {
        let fields = json!({"method": format!("m{}", n % 7), "account_id": format!("a{}", n % 3), "billable_units": 0.1,
            "duration_ns": 1_000_000 * n, "result": if n % 5 == 0 { "error" } else { "success" }});
        spine.ingest(spans(&[decision(u128::from(n) + 1, fields)])).await.unwrap();
        place.advance(SECOND);
        if n == 30 {
            spine.core.seal(false).unwrap();
        }
    }
    let (before, ledger) = (cells(&spine), spine.core.state.lock().ledger());
    assert!(before.len() > 60, "{} cells", before.len());
    spine.kill();
    drop(spine);
    let spine = place.open();
    assert_eq!(cells(&spine), before);
    assert_eq!(spine.core.state.lock().ledger(), ledger);
}

/// A disk that refuses the n-th write or sync and every one after it, until it is told to recover.
struct FullDisk {
    file: Box<dyn SegmentFile>,
    writes_left: Arc<AtomicUsize>,
}

impl FullDisk {
    fn allowed(&self) -> io::Result<()> {
        self.writes_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .map(|_| ())
            .map_err(|_| io::Error::from(io::ErrorKind::StorageFull))
    }
}

impl SegmentFile for FullDisk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.allowed() {
            // As a real one: a part of it is written.
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.allowed()?;
        self.file.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

#[tokio::test]
async fn a_full_disk_refuses_retryably_and_what_was_acknowledged_before_stays() {
    let place = Place::new();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let disk = Arc::clone(&left);
    let spine = place.open_with(Box::new(move |path: &Path| {
        Ok(Box::new(FullDisk { file: create_on_disk(path)?, writes_left: Arc::clone(&disk) }) as Box<dyn SegmentFile>)
    }));
    spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    for writes in [0, 1] {
        left.store(writes, Ordering::SeqCst);
        let refused = spine.ingest(spans(&[decision(2, json!({}))])).await;
        assert!(matches!(refused, Err(Refused::NotDurable { .. })), "{refused:?}");
        assert_eq!(total(&spine).received, 1);
    }
    left.store(usize::MAX, Ordering::SeqCst);
    let committed = spine.ingest(spans(&[decision(2, json!({}))])).await.unwrap();
    assert_eq!(committed, Committed { accepted: 1, deduplicated: 0 });
    let before = kept(&*spine.core);
    spine.kill();
    drop(spine);
    let spine = place.open();
    assert_eq!(kept(&*spine.core), before);
    assert_eq!(before.len(), 2);
}
