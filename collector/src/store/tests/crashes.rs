//! A crash, or a refusal of the disk, before each effect of sealing, merging and clearing: nothing is lost, nothing is
//! there twice (I-2, I-3).

use std::io;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::ingest::spine::Spine;
use crate::store::steps::{Step, Steps};

/// Spans and points in nine sealed files each, and one more of each still hot.
async fn filled(place: &Place) -> Spine {
    let spine = place.open();
    for n in 0..10 {
        spine.ingest(spans(&[decision(u128::try_from(n).unwrap() + 1, json!({}))])).await.unwrap();
        spine.ingest(points(&[n])).await.unwrap();
        if n < 9 {
            spine.core.seal(false).unwrap();
        }
    }
    spine
}

fn whole(spine: &Spine) {
    let ids: Vec<_> = kept(&*spine.core).into_iter().map(|(id, _)| id).collect();
    let mut distinct = ids.clone();
    distinct.dedup();
    assert_eq!((ids.len(), distinct.len()), (10, 10));
    assert_eq!(crate::fixtures::received_points(&*spine.core), 10);
}

/// Every effect up to a chosen one is let through; from it on the disk refuses all, as it does after a crash.
pub(super) struct Until {
    left: Arc<AtomicUsize>,
    pub(super) reached: Arc<parking_lot::Mutex<Vec<Step>>>,
}

impl Until {
    pub(super) fn new(place: &mut Place) -> Self {
        let until = Self {
            left: Arc::new(AtomicUsize::new(usize::MAX)),
            reached: Arc::new(parking_lot::Mutex::new(Vec::new())),
        };
        let (left, reached) = (Arc::clone(&until.left), Arc::clone(&until.reached));
        place.store.steps = Steps::observed_by(move |step| {
            let mut reached = reached.lock();
            // Pieces of one file are one effect: what a crash leaves of it has no name either way.
            if step == Step::Write && reached.last() == Some(&step) && left.load(Ordering::SeqCst) > 0 {
                return Ok(());
            }
            reached.push(step);
            drop(reached);
            let before = left.load(Ordering::SeqCst);
            if before == 0 {
                return Err(io::Error::other("the power went off"));
            }
            left.store(before.saturating_sub(1), Ordering::SeqCst);
            Ok(())
        });
        until
    }

    pub(super) fn off_after(&self, effects: usize) {
        self.reached.lock().clear();
        self.left.store(effects, Ordering::SeqCst);
    }

    pub(super) fn on(&self) {
        self.left.store(usize::MAX, Ordering::SeqCst);
    }
}

fn work(spine: &Spine) {
    // Each fails or not; what counts is what is there afterwards.
    let _ = spine.core.seal(false);
    while spine.core.compact().is_ok_and(|merged| merged) {}
    spine.core.sweep();
}

#[tokio::test]
async fn a_crash_before_any_effect_of_sealing_and_merging_loses_and_doubles_nothing() {
    let template = Place::new();
    filled(&template).await.kill();
    let mut effects = 0;
    loop {
        let mut place = Place::new();
        copy(template.root.path(), place.root.path());
        let until = Until::new(&mut place);
        let spine = place.open();
        until.off_after(effects);
        work(&spine);
        // Without a restart too.
        whole(&spine);
        let reached = until.reached.lock().clone();
        spine.kill();
        drop(spine);
        until.on();
        let spine = place.open();
        whole(&spine);
        work(&spine);
        whole(&spine);
        let named = spine.core.manifest.lock().files.len();
        assert_eq!(parquet_files(&place.root.path().join("parquet")), named, "after {effects} effects");
        if reached.len() <= effects {
            for step in [Step::Write, Step::Name, Step::Manifest, Step::Readers, Step::Delete] {
                assert!(reached.contains(&step), "{step:?} never happened");
            }
            return;
        }
        // Every one of the first, then ever fewer: later ones are of other tables in the same order.
        effects += 1 + effects / 12;
    }
}

pub(super) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

pub(super) fn parquet_files(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { parquet_files(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn an_hour_ends_in_one_sorted_file_while_a_query_reads_the_old_ones() {
    let place = Place::new();
    let spine = filled(&place).await;
    spine.core.seal(false).unwrap();
    let held = spine.core.snapshot(Table::Spans);
    place.advance(2 * 3_600 * SECOND);
    while spine.core.compact().unwrap() {}
    spine.core.sweep();
    whole(&spine);
    let files = spine.core.snapshot(Table::Spans).files;
    assert_eq!(files.len(), 1);
    let manifest = spine.core.manifest.lock();
    let entry = manifest.names(files[0].path.strip_prefix(spine.core.directory.parquet()).unwrap().to_str().unwrap());
    assert!(entry.is_some_and(|entry| entry.is_final && entry.rows == 10));
    drop(manifest);
    assert_eq!(held.files.len(), 10);
    assert_eq!(held.files.iter().map(|file| rows(&read(&file.path))).sum::<usize>(), 10);
}

#[tokio::test]
async fn a_merge_without_an_end_in_sight_ends_with_the_store() {
    let place = Place::new();
    let spine = filled(&place).await;
    spine.core.closing.store(true, Ordering::SeqCst);
    assert!(matches!(spine.core.compact(), Err(write::SealError::Closing)));
    whole(&spine);
}

#[tokio::test]
async fn a_damaged_file_among_those_to_be_merged_is_left_out_of_the_merge() {
    let place = Place::new();
    let spine = filled(&place).await;
    let damaged = spine.core.snapshot(Table::Metrics).files[3].path.clone();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    while spine.core.compact().unwrap() {}
    assert_eq!(crate::fixtures::received_points(&*spine.core), 9);
    assert_eq!(kept(&*spine.core).len(), 10);
    assert_eq!(super::gone(&spine, Table::Metrics).iter().map(|gone| gone.rows).sum::<u64>(), 1);
}
