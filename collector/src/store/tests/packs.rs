//! A day's longer cells in one file say what those of its hours said, whatever comes late, is damaged or goes (I-3).

use std::collections::BTreeMap;
use std::path::Path;

use lariat_schema::cells::CellWidth;

use super::cells::{HOUR, call, calls_every, leaf, same, seconds, sums, tidy};
use super::crashes::parquet_files;
use super::derived::{DerivedEntry, HourPlan, Plan};
use super::manifest::FileEntry;
use super::write::hour_of;
use super::*;
use crate::ingest::spine::Spine;

/// The hour of [`START`], which begins a day.
const MIDNIGHT: i64 = START / HOUR;

fn entries(spine: &Spine) -> Vec<DerivedEntry> {
    spine.core.manifest.lock().derived.clone()
}

/// How many files the cells of a width stand in, and their hours after midnight.
fn made(spine: &Spine, width: CellWidth) -> Vec<Vec<i64>> {
    let mut made: Vec<Vec<i64>> = entries(spine)
        .iter()
        .filter(|entry| entry.width == width)
        .map(|entry| entry.hours.iter().map(|hour| hour.hour - MIDNIGHT).collect())
        .collect();
    made.sort();
    made
}

fn add_up(spine: &Spine) {
    while spine.core.compact().unwrap() {}
    while spine.core.derive_next().unwrap().is_some() {}
}

/// The hours after midnight of the rows of a file, as they come, and how many rows each has in a row.
fn hours_in(spine: &Spine, path: &str) -> Vec<(i64, usize)> {
    let mut hours: Vec<(i64, usize)> = Vec::new();
    for batch in read(&spine.core.directory.parquet().join(path)) {
        for time in moments(&batch, "time").values() {
            let hour = time.div_euclid(HOUR) - MIDNIGHT;
            match hours.last_mut() {
                Some((last, rows)) if *last == hour => *rows += 1,
                _ => hours.push((hour, 1)),
            }
        }
    }
    hours
}

#[tokio::test]
async fn the_cells_of_a_day_that_is_over_stand_in_one_file_of_each_width_hour_by_hour() {
    let place = Place::new();
    let spine = calls_every(97, -3 * 3_600..3_600, &place).await;
    add_up(&spine);
    let window = [seconds(-9_000, 3_000)];
    let before = sums(&leaf(&spine, Some(CellWidth::Hour), &window, &[]).await);
    assert_eq!(made(&spine, CellWidth::Hour), [[-3], [-2], [-1], [0]]);
    let rows = |spine: &Spine, day: i64| -> BTreeMap<CellWidth, u64> {
        let mut rows = BTreeMap::new();
        for entry in entries(spine).iter().filter(|entry| (entry.hours[0].hour - MIDNIGHT).div_euclid(24) == day) {
            *rows.entry(entry.width).or_default() += entry.rows;
        }
        rows
    };
    let rows_before = rows(&spine, -1);
    tidy(&spine);
    for width in CellWidth::ALL {
        assert_eq!(made(&spine, *width), [vec![-3, -2, -1], vec![0]]);
        assert_eq!(parquet_files(&spine.core.directory.parquet().join(width.relation())), 2);
    }
    assert_eq!(rows(&spine, -1), rows_before);
    for entry in entries(&spine) {
        let hours: Vec<i64> = hours_in(&spine, &entry.path).into_iter().map(|(hour, _)| hour).collect();
        let standing: Vec<i64> = entry.hours.iter().map(|hour| hour.hour - MIDNIGHT).collect();
        assert_eq!(hours, standing, "each hour's rows stand together, in their order");
        let footer = SerializedFileReader::new(File::open(spine.core.directory.parquet().join(&entry.path)).unwrap());
        assert!(footer.unwrap().metadata().row_group(0).sorting_columns().is_none());
    }
    assert_eq!(sums(&leaf(&spine, Some(CellWidth::Hour), &window, &[]).await), before);
    for times in [
        &window[..],
        &[seconds(-10_800, 3_600)],
        &[seconds(-7_200, -3_600)],
        &[seconds(-10_790, -7_210), seconds(-3_000, 10)],
    ] {
        same(&spine, times, &[]).await;
    }
    assert_eq!(spine.core.counters.packed_files.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn hours_of_few_rows_that_are_there_together_are_added_up_into_one_file() {
    let place = Place::new();
    let spine = place.open();
    for (n, after) in [(1, -7_000), (2, -3_000), (3, 600), (4, 4_200)] {
        call(&spine, n, after, "p1").await;
    }
    spine.core.seal(false).unwrap();
    place.advance(4 * HOUR);
    add_up(&spine);
    for width in CellWidth::ALL {
        assert_eq!(made(&spine, *width), [[-2, -1], [0, 1]]);
    }
    same(&spine, &[seconds(-7_200, 7_200)], &[]).await;
    same(&spine, &[seconds(-3_600, 3_600)], &[]).await;
}

#[tokio::test]
async fn a_running_day_is_packed_when_it_has_many_files() {
    let place = Place::new();
    let spine = calls_every(901, 0..8 * 3_600, &place).await;
    place.advance(HOUR);
    tidy(&spine);
    // The first four hours are over, and nothing is to be gained yet.
    assert!(made(&spine, CellWidth::Hour).len() > 1);
    place.advance(6 * HOUR);
    tidy(&spine);
    assert_eq!(made(&spine, CellWidth::Hour), [(0..8).collect::<Vec<_>>()]);
    same(&spine, &[seconds(1_800, 7 * 3_600)], &[]).await;
}

#[tokio::test]
async fn rows_of_an_hour_that_was_made_anew_are_left_behind_at_the_next_pack() {
    let place = Place::new();
    let spine = calls_every(97, -7_200..3_600, &place).await;
    tidy(&spine);
    let window = [seconds(-7_200, 3_600)];
    call(&spine, 5_000, -7_000, "p3").await;
    spine.core.seal(false).unwrap();
    place.advance(HOUR);
    add_up(&spine);
    assert_eq!(made(&spine, CellWidth::Hour), [[-2], [-1], [0]]);
    let old = entries(&spine).into_iter().find(|entry| entry.hours[0].hour == MIDNIGHT - 1).unwrap();
    let kept = hours_in(&spine, &old.path).into_iter().find(|(hour, _)| *hour == -1).unwrap();
    assert_eq!(hours_in(&spine, &old.path).len(), 2, "the rows of both hours are still in the file");
    same(&spine, &window, &[]).await;
    let fresh: u64 = entries(&spine)
        .iter()
        .filter(|entry| entry.width == old.width && entry.hours[0].hour == MIDNIGHT - 2)
        .map(|entry| entry.rows)
        .sum();
    tidy(&spine);
    let packed = entries(&spine).into_iter().find(|entry| entry.width == old.width && entry.hours.len() == 2).unwrap();
    assert_eq!(packed.rows, fresh + u64::try_from(kept.1).unwrap());
    same(&spine, &window, &[]).await;
}

#[tokio::test]
async fn parts_of_an_hour_become_one_that_goes_with_any_file_of_them() {
    let place = Place::new();
    let spine = calls_every(900, -3_600..3_600, &place).await;
    call(&spine, 5_000, -1_800, "p1").await;
    spine.core.seal(false).unwrap();
    let cells = |spine: &Spine| -> Vec<FileEntry> {
        let manifest = spine.core.manifest.lock();
        manifest.files.iter().filter(|file| file.table == Table::Rollups).cloned().collect()
    };
    // As files are that a bucket has.
    for file in cells(&spine) {
        spine
            .core
            .change(std::slice::from_ref(&file), vec![FileEntry { is_final: true, ..file.clone() }], |_| {})
            .unwrap();
    }
    let hour = MIDNIGHT - 1;
    let old: Vec<FileEntry> = cells(&spine).into_iter().filter(|file| hour_of(file.times) == Some(hour)).collect();
    assert_eq!(old.len(), 2);
    for file in &old {
        spine.core.make_cells(&Plan { hours: vec![HourPlan { hour, old: vec![file.clone()] }] }).unwrap();
    }
    while spine.core.derive_next().unwrap().is_some() {}
    assert_eq!(made(&spine, CellWidth::Hour), [[-1], [-1], [0]]);
    while spine.core.pack_next().unwrap().is_some() {}
    assert_eq!(made(&spine, CellWidth::Hour), [[-1], [0]]);
    let of_hour =
        |spine: &Spine| entries(spine).into_iter().filter(|entry| entry.hours[0].hour == hour).collect::<Vec<_>>();
    assert!(of_hour(&spine).iter().all(|entry| entry.hours[0].of.len() == 2));
    let window = [seconds(-3_600, 3_600)];
    same(&spine, &window, &[]).await;
    spine.core.change(&old[..1], Vec::new(), |_| {}).unwrap();
    assert!(of_hour(&spine).is_empty());
    same(&spine, &window, &[]).await;
    while spine.core.derive_next().unwrap().is_some() {}
    assert_eq!(of_hour(&spine).len(), CellWidth::ALL.len());
    same(&spine, &window, &[]).await;
}

#[tokio::test]
async fn a_damaged_file_is_not_packed_but_made_anew() {
    let place = Place::new();
    let spine = calls_every(97, -7_200..3_600, &place).await;
    add_up(&spine);
    let damaged = entries(&spine).into_iter().find(|entry| entry.hours[0].hour == MIDNIGHT - 2).unwrap().path;
    let path = spine.core.directory.parquet().join(&damaged);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    while spine.core.pack_next().unwrap().is_some() {}
    assert!(!path.exists() && entries(&spine).iter().all(|entry| entry.path != damaged));
    same(&spine, &[seconds(-7_200, 3_600)], &[]).await;
    tidy(&spine);
    for width in CellWidth::ALL {
        assert_eq!(made(&spine, *width), [vec![-2, -1], vec![0]]);
    }
    same(&spine, &[seconds(-7_200, 3_600)], &[]).await;
}

#[tokio::test]
async fn whoever_reads_the_files_of_hours_keeps_them_while_the_day_is_packed() {
    let place = Place::new();
    let spine = calls_every(97, -7_200..3_600, &place).await;
    add_up(&spine);
    let held = spine.core.snapshot(Table::Rollups);
    let paths: Vec<_> = held.cells.iter().map(|cells| cells.file.path.clone()).collect();
    tidy(&spine);
    assert!(paths.iter().all(|path| Path::exists(path)));
    drop(held);
    spine.core.sweep();
    assert_eq!(paths.iter().filter(|path| path.exists()).count(), CellWidth::ALL.len(), "those of the running day");
}
