//! What a start reads, and that it comes to the same state whatever of it is missing.

use std::path::PathBuf;

use lariat_schema::layout::LOG_DIR;
use serde_json::{Value, json};

use super::*;

/// Trace ids as random as a sender's.
fn id(trace: u128) -> u128 {
    trace.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn started(spine: &Spine) -> (bool, u64, u64) {
    let counters = &spine.core.counters;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    (load(&counters.checkpoint_used) == 1, load(&counters.replayed_entries), load(&counters.start_log_bytes))
}

fn log_bytes(place: &Place) -> u64 {
    files(place, LOG_DIR).iter().map(|path| path.metadata().unwrap().len()).sum()
}

fn files(place: &Place, folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(place.root.path().join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn again(spine: Spine, place: &Place) -> Spine {
    spine.kill();
    drop(spine);
    place.open()
}

/// Segments of sealed entries, each of a process of its own; dedup keys of all but the last few are on disk.
async fn sealed_segments(place: &Place) -> Spine {
    let mut spine = place.open();
    for round in 0..6_u128 {
        for trace in round * 20 + 1..=round * 20 + 20 {
            let child = span(id(trace), 2, Some(1), json!({"profile": "public"}));
            spine.ingest(spans(&[decision(id(trace), json!({})), child])).await.unwrap();
        }
        place.advance(SECOND);
        spine.core.seal(false).unwrap();
        spine = again(spine, place);
    }
    spine
}

#[tokio::test]
async fn a_start_after_many_sealed_segments_reads_none_of_their_rows_and_knows_all_that_they_said() {
    let place = Place::with_rate(0.5);
    let spine = sealed_segments(&place).await;
    let (before, ledger) = (kept(&*spine.core), total(&spine));
    let keys = spine.core.counters.dedup_keys.load(Ordering::Relaxed);
    let spine = again(spine, &place);
    let (from_checkpoint, replayed, read_bytes) = started(&spine);
    // What is not sealed: the status that each process begins with.
    assert!(from_checkpoint && replayed <= 4, "{replayed} entries");
    assert!(read_bytes < log_bytes(&place) / 2, "{read_bytes} of {}", log_bytes(&place));
    assert_eq!((kept(&*spine.core), total(&spine)), (before, ledger));
    clocks::eventually(&spine, "the keys", |spine| spine.core.counters.dedup_keys.load(Ordering::Relaxed) >= keys);
    for trace in [1, 61, 120] {
        let child = span(id(trace), 2, Some(1), json!({"profile": "public"}));
        let again = spine.ingest(spans(&[decision(id(trace), json!({})), child])).await.unwrap();
        assert_eq!(again, Committed { accepted: 0, deduplicated: 2 }, "trace {trace}");
    }
    // A late span follows the verdict that fell in a segment that was not read.
    let kept_one = kept(&*spine.core)[0].0[..32].to_owned();
    let trace = u128::from_str_radix(&kept_one, 16).unwrap();
    spine.ingest(spans(&[span(trace, 3, Some(1), json!({"profile": "public"}))])).await.unwrap();
    assert_eq!(kept(&*spine.core).iter().filter(|(id, reason)| id[..32] == kept_one && reason == "rate").count(), 3);
}

#[tokio::test]
async fn after_a_clean_end_the_next_start_reads_nothing_of_the_log() {
    let place = Place::new();
    let spine = sealed_segments(&place).await;
    spine.close().unwrap();
    let ledger = total(&spine);
    drop(spine);
    let spine = place.open();
    assert_eq!(started(&spine), (true, 0, 0));
    assert_eq!(total(&spine), ledger);
    let again = spine.ingest(spans(&[decision(id(1), json!({}))])).await.unwrap();
    assert_eq!(again, Committed { accepted: 0, deduplicated: 1 });
}

#[tokio::test]
async fn segments_that_were_never_read_go_when_the_window_has_passed_and_so_do_runs_and_checkpoints() {
    let place = Place::new();
    let mut spine = sealed_segments(&place).await;
    assert!(files(&place, LOG_DIR).len() >= 6 && !files(&place, "dedup").is_empty());
    for _ in 0..2 {
        place.advance(121 * SECOND);
        clocks::eventually(&spine, "the end of the window", |spine| {
            spine.core.counters.dedup_keys.load(Ordering::Relaxed) == 0
        });
        spine.ingest(points(&[1])).await.unwrap();
        spine.core.seal(false).unwrap();
        spine = again(spine, &place);
        spine.core.seal(false).unwrap();
    }
    assert!(files(&place, LOG_DIR).len() <= 3, "{:?}", files(&place, LOG_DIR));
    assert!(files(&place, "dedup").len() <= 1, "{:?}", files(&place, "dedup"));
    assert_eq!(files(&place, "checkpoint").len(), 1);
}

/// What a store shows and remembers, for comparison.
fn shown(spine: &Spine) -> (Vec<(String, String)>, Counts, Vec<String>) {
    (kept(&*spine.core), total(spine), cells(spine))
}

/// Waiting spans before and after a cut, some of units that were decided before and some whose root is still to come.
async fn waiting(place: &Place) -> Spine {
    let spine = place.open();
    for trace in 1..=40_u128 {
        let orphan = span(id(trace * 1_000), 2, Some(9), json!({"profile": "public"}));
        let early = span(id(trace), 2, Some(1), json!({"profile": "public"}));
        spine.ingest(spans(&[orphan, early])).await.unwrap();
        place.advance(SECOND / 2);
        if trace == 10 || trace == 30 {
            spine.core.seal(false).unwrap();
            assert_eq!(spine.core.state.lock().figures().hot_rows, 0, "nothing is held back by what waits");
        }
        if trace % 3 == 0 {
            let root = decision(id(trace - 2), json!({"result": if trace % 2 == 0 { "error" } else { "success" }}));
            spine.ingest(spans(&[root])).await.unwrap();
        }
    }
    spine
}

/// Sends the roots that are still to come and lets the others wait in vain.
async fn finished(spine: &Spine, place: &Place) {
    for trace in [2, 3, 32, 39] {
        spine.ingest(spans(&[decision(id(trace), json!({}))])).await.unwrap();
    }
    place.advance(40 * SECOND);
    spine.ingest(points(&[7])).await.unwrap();
    spine.core.seal(false).unwrap();
    assert_eq!(total(spine).in_flight, 0);
}

#[tokio::test]
async fn what_waits_over_a_cut_waits_on_after_a_crash_and_is_decided_as_without_it() {
    let undisturbed = Place::with_rate(0.4);
    let spine = waiting(&undisturbed).await;
    let before = shown(&spine);
    finished(&spine, &undisturbed).await;
    let expected = shown(&spine);
    for damage in ["nothing", "checkpoint gone", "checkpoint damaged", "run gone", "run damaged", "both"] {
        let place = Place::with_rate(0.4);
        let spine = waiting(&place).await;
        spine.kill();
        drop(spine);
        for folder in ["checkpoint", "dedup"] {
            let file = files(&place, folder)[0].clone();
            let is_meant = damage == "both" || damage.starts_with(if folder == "dedup" { "run" } else { folder });
            if is_meant && damage.ends_with("damaged") {
                let mut bytes = std::fs::read(&file).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&file, bytes).unwrap();
            } else if is_meant {
                std::fs::remove_file(&file).unwrap();
            }
        }
        let spine = place.open();
        let has_checkpoint = !(damage.starts_with("checkpoint") || damage == "both");
        assert_eq!(started(&spine).0, has_checkpoint, "{damage}");
        assert_eq!(shown(&spine), before, "{damage}");
        for trace in 1..=40_u128 {
            let orphan = span(id(trace * 1_000), 2, Some(9), json!({"profile": "public"}));
            let early = span(id(trace), 2, Some(1), json!({"profile": "public"}));
            let retry = spine.ingest(spans(&[orphan, early])).await.unwrap();
            assert_eq!((retry.accepted, retry.deduplicated), (0, 2), "{damage}");
        }
        finished(&spine, &place).await;
        let (kept, mut counts, cells) = shown(&spine);
        (counts.received, counts.deduplicated) = (counts.received - 80, counts.deduplicated - 80);
        assert_eq!((kept, counts, cells), expected.clone(), "{damage}");
    }
}

#[tokio::test]
async fn waiting_rows_that_are_neither_in_a_checkpoint_nor_in_the_log_are_told_as_dropped() {
    let place = Place::new();
    let spine = place.open();
    spine.ingest(spans(&[decision(1, json!({})), span(9, 2, Some(5), json!({}))])).await.unwrap();
    spine.core.seal(false).unwrap();
    spine.kill();
    drop(spine);
    for folder in ["checkpoint", LOG_DIR, "dedup"] {
        std::fs::remove_dir_all(place.root.path().join(folder)).unwrap();
    }
    let spine = place.open();
    let expected = Counts { received: 2, stored: 1, dropped: 1, ..Counts::default() };
    assert_eq!((kept(&*spine.core).len(), total(&spine)), (1, expected));
}

#[tokio::test]
async fn a_refused_checkpoint_stops_no_seal_and_the_next_start_reads_the_log() {
    let mut place = Place::new();
    place.store.steps = crate::store::steps::Steps::observed_by(|step| {
        if step == crate::store::steps::Step::Checkpoint { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    let spine = waiting(&place).await;
    assert_eq!(spine.core.counters.checkpoint_failures.load(Ordering::Relaxed), 2);
    let before = shown(&spine);
    let spine = again(spine, &place);
    let (from_checkpoint, replayed, _) = started(&spine);
    assert!(!from_checkpoint && replayed > 50);
    assert_eq!(shown(&spine), before);
}

/// The manifest without what is younger than its first form.
fn in_the_old_form(manifest: &mut Value) {
    let manifest = manifest.as_object_mut().unwrap();
    for key in ["jumped_nanos", "waiting", "keys", "checkpoint"] {
        manifest.remove(key);
    }
}

#[tokio::test]
async fn a_store_whose_spans_were_sealed_up_to_the_oldest_that_waited_is_opened_as_it_was_left() {
    let place = Place::new();
    let path = place.root.path().join("manifest.json");
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
    let spine = place.open();
    spine.ingest(spans(&[decision(1, json!({}))])).await.unwrap();
    spine.core.seal(false).unwrap();
    let first = read();
    // Spans were held back from here on, points were not.
    spine.ingest(spans(&[span(2, 2, Some(1), json!({}))])).await.unwrap();
    spine.ingest(points(&[1, 2])).await.unwrap();
    spine.core.seal(false).unwrap();
    let (before, ledger) = (kept(&*spine.core), total(&spine));
    spine.kill();
    drop(spine);
    let mut manifest = read();
    in_the_old_form(&mut manifest);
    manifest["cuts"]["spans"] = first["cuts"]["spans"].clone();
    manifest["ledger"] = first["ledger"].clone();
    std::fs::write(&path, manifest.to_string()).unwrap();
    for folder in ["checkpoint", "dedup"] {
        std::fs::remove_dir_all(place.root.path().join(folder)).unwrap();
    }
    let spine = place.open();
    assert_eq!((kept(&*spine.core), total(&spine)), (before.clone(), ledger));
    assert_eq!(crate::fixtures::received_points(&*spine.core), 2);
    assert_eq!(spine.ingest(points(&[1, 2])).await.unwrap().accepted, 0);
    spine.core.seal(false).unwrap();
    let spine = again(spine, &place);
    assert!(started(&spine).0, "from now on in the new form");
    assert_eq!((kept(&*spine.core), total(&spine).in_flight), (before, 1));
    spine.ingest(spans(&[decision(2, json!({}))])).await.unwrap();
    assert_eq!((total(&spine).in_flight, total(&spine).stored), (0, 5));
}
