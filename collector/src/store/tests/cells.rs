//! Longer cells say what the rows say that they were added up of, whatever comes late, is merged, packed, given up or lost,
//! and wherever a crash falls (I-3).

use std::collections::BTreeMap;

use futures::StreamExt as _;
use lariat_schema::cells::{CellWidth, KEY_COLUMNS};
use proptest::prelude::*;
use serde_json::Value;

use super::crashes::{Until, copy, parquet_files};
use super::*;
use crate::fixtures::{as_json, identity};
use crate::ingest::spine::Spine;
use crate::worker::pins::PinBook;
use crate::worker::scan::{Rows, ScanSpec, Share, StoreScan};
use crate::worker::times::Times;

pub(super) const HOUR: i64 = 3_600 * SECOND;
/// Seconds from [`START`], which is midnight, between which calls happen where two days matter: two hours and one.
const AROUND_MIDNIGHT: std::ops::Range<i64> = -7_200..3_600;

/// A decision that ended so many seconds after [`START`].
pub(super) async fn call(spine: &Spine, n: u128, after_seconds: i64, provider: &str) {
    let duration = 1_000_000 * (1 + i64::try_from(n % 97).unwrap());
    let time = START + after_seconds * SECOND - duration;
    let excluded = json!([{"selection": 1, "provider_id": provider, "transport": "ws", "reason": "lagging"}]);
    let eligible =
        json!([{"selection": 1, "rank": 1, "provider_id": provider, "transport": "http", "probability": 0.25}]);
    let fields = json!({"time": time, "eligible": eligible, "billable_units": 1.5, "duration_ns": duration, "provider_id": provider, "excluded": excluded});
    spine.ingest(spans(&[decision(n, fields)])).await.unwrap();
}

/// All merges and all longer cells, packed.
pub(super) fn tidy(spine: &Spine) {
    while spine.core.compact().is_ok_and(|merged| merged) {}
    while spine.core.derive_next().is_ok_and(|made| made.is_some()) {}
    while spine.core.pack_next().is_ok_and(|packed| packed.is_some()) {}
    spine.core.sweep();
}

/// Rows of a leaf in these times, longer cells where `cells` allows them.
pub(super) async fn leaf(spine: &Spine, cells: Option<CellWidth>, times: &[TimeRange], without: &[u64]) -> Vec<Value> {
    use datafusion::physical_plan::ExecutionPlan as _;
    let book = Arc::new(PinBook::new(Arc::clone(&spine.core) as _, identity(), false));
    let query_id = uuid::Uuid::new_v4();
    let request = json!({"query_id": query_id, "tables": [Table::Rollups], "keep_ms": 10_000});
    book.pin(&serde_json::from_value(request).unwrap()).unwrap();
    let schema = Table::Rollups.schema();
    let filter = Times::of(times.iter().copied()).condition(&schema).unwrap();
    let projection = (0..schema.fields().len()).collect();
    let mut rows = Vec::new();
    for index in 0..2 {
        let spec = ScanSpec {
            store_id: spine.core.store_id(),
            node_id: "lariat@test".into(),
            query_id,
            rows: Rows {
                table: Table::Rollups,
                cells,
                projection: Clone::clone(&projection),
                filter: Some(Arc::clone(&filter)),
                limit: None,
            },
            share: Share { index, of: 2 },
            without: without.into(),
        };
        let scan = StoreScan::try_at_home(spec, &book).unwrap();
        let context = datafusion::prelude::SessionContext::new();
        for partition in 0..2 {
            let mut stream = scan.execute(partition, context.task_ctx()).unwrap();
            while let Some(batch) = stream.next().await {
                rows.extend(as_json(&batch.unwrap()));
            }
        }
    }
    rows
}

/// Sums by what cells are about: whole numbers and, in the millionth, doubles; buckets of sketches; exclusions by reason.
pub(super) fn sums(rows: &[Value]) -> BTreeMap<String, BTreeMap<String, i64>> {
    let mut all: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for row in rows {
        let key = KEY_COLUMNS.iter().map(|name| format!("{} ", row[*name])).collect::<String>();
        let of_key = all.entry(key).or_default();
        let mut add = |name: String, more: i64| *of_key.entry(name).or_default() += more;
        for (name, value) in row.as_object().unwrap() {
            if KEY_COLUMNS.contains(&name.as_str())
                || ["time", "observed_time", "sketch_offset"].contains(&name.as_str())
            {
                continue;
            }
            match value {
                Value::Number(number) if number.is_i64() => add(name.clone(), number.as_i64().unwrap()),
                #[allow(clippy::cast_possible_truncation, reason = "sums of small numbers")]
                Value::Number(number) => add(name.clone(), (number.as_f64().unwrap() * 1e6).round() as i64),
                Value::Array(counts) if name == "sketch_counts" => {
                    for (at, count) in (row["sketch_offset"].as_i64().unwrap()..).zip(counts) {
                        add(format!("bucket {at}"), count.as_i64().unwrap());
                    }
                }
                Value::Array(excluded) => {
                    for one in excluded {
                        add(format!("excluded {}", one["reason"]), one["count"].as_i64().unwrap());
                    }
                }
                other => panic!("{name}: {other}"),
            }
        }
        of_key.retain(|_, sum| *sum != 0);
    }
    all
}

pub(super) async fn same(spine: &Spine, times: &[TimeRange], without: &[u64]) {
    let rows = sums(&leaf(spine, None, times, without).await);
    for width in CellWidth::ALL {
        let cells = sums(&leaf(spine, Some(*width), times, without).await);
        assert_eq!(cells, rows, "{width} in {times:?} without {without:?}");
    }
}

pub(super) fn seconds(from: i64, to: i64) -> TimeRange {
    TimeRange::new(START + from * SECOND, START + to * SECOND)
}

/// Two hours of calls of two providers, which are over.
async fn two_hours(place: &Place) -> Spine {
    calls_every(97, 0..7_200, place).await
}

pub(super) async fn calls_every(seconds: usize, within: std::ops::Range<i64>, place: &Place) -> Spine {
    let spine = place.open();
    let mut n = 0;
    for after in (within.start + 5..within.end).step_by(seconds) {
        for provider in ["p1", "p2"] {
            n += 1;
            call(&spine, n, after, provider).await;
        }
        if after % 3 == 0 {
            spine.core.seal(false).unwrap();
        }
    }
    spine.core.seal(false).unwrap();
    place.advance(4 * HOUR);
    spine
}

#[tokio::test]
async fn an_hour_that_is_over_is_read_from_few_long_cells_and_its_edges_from_shorter_ones() {
    let place = Place::new();
    let spine = two_hours(&place).await;
    tidy(&spine);
    let whole = [seconds(0, 7_200)];
    let read = |cells, times: &[TimeRange]| {
        let (spine, times) = (&spine, times.to_vec());
        async move { leaf(spine, cells, &times, &[]).await.len() }
    };
    let (raw, five, hour) = (
        read(None, &whole).await,
        read(Some(CellWidth::FiveMinutes), &whole).await,
        read(Some(CellWidth::Hour), &whole).await,
    );
    assert!(hour * 12 <= five + 12 && five * 2 < raw, "{raw} rows, {five} of 5 m, {hour} of 1 h");
    // From the tenth second on: 5-minute cells where they lie inside, rows before.
    let ragged = [seconds(10, 7_200)];
    let edged = read(Some(CellWidth::Hour), &ragged).await;
    assert!(hour < edged && edged < five, "{edged}");
    for times in [&whole[..], &ragged, &[seconds(10, 3_590), seconds(3_620, 7_190)], &[seconds(300, 301)], &[]] {
        same(&spine, times, &[]).await;
    }
    // Two ranges that meet inside an hour are one.
    assert_eq!(read(Some(CellWidth::Hour), &[seconds(0, 1_795), seconds(1_795, 7_200)]).await, hour);
}

#[tokio::test]
async fn rows_that_come_late_are_read_beside_the_cells_until_they_are_added_up_too() {
    let place = Place::new();
    let spine = two_hours(&place).await;
    tidy(&spine);
    let before = leaf(&spine, Some(CellWidth::Hour), &[seconds(0, 7_200)], &[]).await.len();
    for sealed in [false, true] {
        call(&spine, 5_000 + u128::from(sealed), 1_800, "p1").await;
        if sealed {
            spine.core.seal(false).unwrap();
        }
        same(&spine, &[seconds(0, 7_200)], &[]).await;
        assert!(leaf(&spine, Some(CellWidth::Hour), &[seconds(0, 7_200)], &[]).await.len() > before);
    }
    place.advance(HOUR);
    tidy(&spine);
    same(&spine, &[seconds(0, 7_200)], &[]).await;
    assert_eq!(leaf(&spine, Some(CellWidth::Hour), &[seconds(0, 7_200)], &[]).await.len(), before);
}

#[tokio::test]
async fn cells_go_with_the_files_that_they_were_made_of_and_count_nowhere() {
    let place = Place::new();
    let spine = two_hours(&place).await;
    while spine.core.compact().unwrap() {}
    let ranges = |spine: &Spine| format!("{:?}", spine.core.ranges());
    let before = ranges(&spine);
    tidy(&spine);
    assert_eq!(ranges(&spine), before);
    let parquet = spine.core.directory.parquet();
    let files = |width: CellWidth| parquet_files(&parquet.join(width.relation()));
    assert!(files(CellWidth::Hour) >= 1 && files(CellWidth::FiveMinutes) >= 1);
    let gone: Vec<_> = {
        let manifest = spine.core.manifest.lock();
        manifest.files.iter().filter(|file| file.table == Table::Rollups).cloned().collect()
    };
    spine.core.change(&gone, Vec::new(), |_| {}).unwrap();
    spine.core.sweep();
    assert!(spine.core.manifest.lock().derived.is_empty());
    assert_eq!((files(CellWidth::Hour), files(CellWidth::FiveMinutes)), (0, 0));
}

#[tokio::test]
async fn damaged_cells_are_made_anew_and_missing_ones_too() {
    let place = Place::new();
    let spine = two_hours(&place).await;
    tidy(&spine);
    let path = spine.core.snapshot(Table::Rollups).cells[0].file.path.clone();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let suspect = Arc::clone(&spine.core.snapshot(Table::Rollups).cells[0].file);
    spine.core.suspect(&[suspect]);
    spine.core.verify_some(1);
    assert!(!path.exists());
    same(&spine, &[seconds(0, 7_200)], &[]).await;
    tidy(&spine);
    assert!(spine.core.snapshot(Table::Rollups).cells.iter().all(|cells| cells.file.path != path));
    let path = spine.core.snapshot(Table::Rollups).cells[0].file.path.clone();
    let named = spine.core.manifest.lock().derived.clone();
    spine.kill();
    drop(spine);
    std::fs::remove_file(&path).unwrap();
    let spine = place.open();
    same(&spine, &[seconds(0, 7_200)], &[]).await;
    tidy(&spine);
    assert_eq!(spine.core.manifest.lock().derived.len(), named.len());
    assert_eq!(spine.core.counters.quarantined.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_crash_before_any_effect_of_adding_up_cells_counts_nothing_twice() {
    let template = Place::new();
    calls_every(900, AROUND_MIDNIGHT, &template).await.kill();
    let all = [seconds(AROUND_MIDNIGHT.start, AROUND_MIDNIGHT.end)];
    let mut effects = 0;
    loop {
        let mut place = Place::new();
        copy(template.root.path(), place.root.path());
        let until = Until::new(&mut place);
        place.advance(4 * HOUR);
        let spine = place.open();
        let before = sums(&leaf(&spine, None, &all, &[]).await);
        until.off_after(effects);
        tidy(&spine);
        same(&spine, &all, &[]).await;
        let reached = until.reached.lock().len();
        spine.kill();
        drop(spine);
        until.on();
        let spine = place.open();
        same(&spine, &all, &[]).await;
        tidy(&spine);
        // Of the day that is over one file of each width, of the running one another.
        assert_eq!(spine.core.manifest.lock().derived.len(), 4);
        assert_eq!(sums(&leaf(&spine, Some(CellWidth::Hour), &all, &[]).await), before);
        let named = {
            let manifest = spine.core.manifest.lock();
            manifest.files.len() + manifest.derived.len()
        };
        assert_eq!(parquet_files(&place.root.path().join("parquet")), named, "after {effects} effects");
        if reached <= effects {
            return;
        }
        effects += 1 + effects / 8;
    }
}

/// What happens to a store.
#[derive(Debug, Clone)]
enum Event {
    Calls(Vec<(i64, bool)>),
    Seal,
    Pass(i64),
    Merge,
    AddUp,
    Pack,
    /// A final file is only in the bucket from now on.
    GiveUp(usize),
    Lose(usize),
    Restart,
    Crash(usize),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop::collection::vec((AROUND_MIDNIGHT, any::<bool>()), 1..8).prop_map(Event::Calls),
        4 => Just(Event::Seal),
        2 => (0i64..1_500).prop_map(Event::Pass),
        3 => Just(Event::Merge),
        4 => Just(Event::AddUp),
        3 => Just(Event::Pack),
        1 => (0usize..20).prop_map(Event::GiveUp),
        1 => (0usize..20).prop_map(Event::Lose),
        1 => Just(Event::Restart),
        1 => (0usize..30).prop_map(Event::Crash),
    ]
}

/// One of the store's own files of cells.
fn file(spine: &Spine, at: usize) -> Option<super::manifest::FileEntry> {
    let manifest = spine.core.manifest.lock();
    let cells = manifest.files.iter().filter(|file| file.table == Table::Rollups && file.is_final && file.is_local());
    let cells: Vec<_> = cells.cloned().collect();
    (!cells.is_empty()).then(|| cells[at % cells.len()].clone())
}

async fn happen(
    place: &Place,
    until: &Until,
    mut spine: Spine,
    event: Event,
    n: &mut u128,
    without: &mut Vec<u64>,
) -> Spine {
    match event {
        Event::Calls(calls) => {
            for (after, other) in calls {
                *n += 1;
                call(&spine, *n, after, if other { "p1" } else { "p2" }).await;
            }
        }
        Event::Seal => spine.core.seal(false).unwrap(),
        Event::Pass(after) => place.advance(after * SECOND),
        Event::Merge => while spine.core.compact().unwrap() {},
        Event::AddUp => while spine.core.derive_next().unwrap().is_some() {},
        Event::Pack => while spine.core.pack_next().unwrap().is_some() {},
        Event::GiveUp(at) => {
            if let Some(given_up) = file(&spine, at) {
                without.extend(lariat_schema::layout::sequence_of(std::path::Path::new(&given_up.path)));
                let left = super::manifest::FileEntry { only_in_bucket: true, ..given_up.clone() };
                spine.core.change(&[given_up], vec![left], |_| {}).unwrap();
            }
        }
        Event::Lose(at) => {
            if let Some(lost) = file(&spine, at) {
                spine.core.change(&[lost], Vec::new(), |_| {}).unwrap();
            }
        }
        Event::Restart | Event::Crash(_) => {
            if let Event::Crash(effects) = event {
                until.off_after(effects);
                let _ = spine.core.seal(false);
                tidy(&spine);
            }
            spine.kill();
            drop(spine);
            until.on();
            spine = place.open();
        }
    }
    spine.core.sweep();
    spine
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn sums_over_longer_cells_are_those_over_rows_whatever_happened(
        events in prop::collection::vec(events(), 1..20),
        windows in prop::collection::vec((-720i64..360, 1i64..1_080), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut place = Place::new();
            let until = Until::new(&mut place);
            place.store.bucket = Some(super::bucket::in_memory());
            // The hours of the calls are over, so that a merge ends each.
            place.advance(4 * HOUR);
            let (mut spine, mut n, mut without) = (place.open(), 0, Vec::new());
            for event in events {
                spine = happen(&place, &until, spine, event, &mut n, &mut without).await;
                let times: Vec<_> = windows.iter().map(|(from, length)| seconds(from * 10, (from + length) * 10)).collect();
                same(&spine, &times, &without).await;
            }
            tidy(&spine);
            same(&spine, &[seconds(AROUND_MIDNIGHT.start, AROUND_MIDNIGHT.end)], &without).await;
        });
    }
}
