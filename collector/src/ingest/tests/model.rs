//! A store against a model of it, through crashes at every stage, retries, duplicates, reorderings and a leaping clock
//! (I-1 to I-3).
//!
//! The model knows of each record (a key and a content) how often it must be visible and since when it is remembered.
//! After every step the store is compared with it: nothing acknowledged is missing, nothing is there twice inside the
//! window, nothing refused is there at all, and the ledger closes with exactly the rows that were received.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use lariat_schema::layout::{LOG_DIR, PARQUET_DIR};
use lariat_schema::tables::Table;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::disk::{Disk, Fault};
use super::total;
use crate::columns::{ids, longs};
use crate::fixtures::{Place, SECOND, decision, points, span, spans, visible};
use crate::ingest::spine::Spine;
use crate::ingest::{Committed, Ingest as _, Refused};

/// The window of the fixtures, with room for the moments between a tick and a commit.
const WINDOW: i64 = 120 * SECOND;

/// A record: its trace, whether it is a child of the trace's decision, and which content.
type Record = (u8, bool, u8);

#[derive(Debug, Clone)]
enum Step {
    /// Requests of several clients at once, some of them sent twice at once; the disk may fail in it.
    Send {
        requests: Vec<BTreeSet<Record>>,
        fault: Option<(u8, Fault)>,
        twice: bool,
    },
    /// A client sends again what it had no answer for.
    Retry,
    /// The process dies between two requests.
    Crash {
        kept: u8,
        zeros: bool,
    },
    Seal,
    /// The process dies in a seal: what of it stands on the disk.
    CrashInSeal(SealCrash),
    /// The process dies, and of what the next start would read in place of the log something is gone or damaged.
    Damage {
        folder: &'static str,
        file: u8,
        how: Damage,
    },
    Compact,
    /// Seconds pass, and the committing thread looks at the clock before the next step if told to.
    Pass(u8, bool),
    /// The wall's clock is set.
    Leap(i8),
}

#[derive(Debug, Clone, Copy)]
enum SealCrash {
    /// Some of its files, one of them torn; the manifest is the old one.
    Files { torn: bool },
    /// All of its files and the checkpoint, perhaps torn; the manifest is the old one.
    Checkpoint { torn: bool },
    /// The manifest, with the old one's next version half written beside it; the log is whole.
    Manifest,
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Gone,
    Flipped(u16),
    Cut(u16),
}

fn damage() -> impl Strategy<Value = Step> {
    let how =
        prop_oneof![Just(Damage::Gone), any::<u16>().prop_map(Damage::Flipped), any::<u16>().prop_map(Damage::Cut),];
    (prop_oneof![Just("checkpoint"), Just("dedup")], any::<u8>(), how).prop_map(|(folder, file, how)| Step::Damage {
        folder,
        file,
        how,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (0..12_u8, any::<bool>(), prop_oneof![8 => Just(0_u8), 2 => 1..3_u8]);
    let request = proptest::collection::btree_set(record, 1..6);
    let part = || prop_oneof![Just(0_u8), Just(255), any::<u8>()];
    let fault = prop_oneof![
        part().prop_map(|part| Fault::Refuse { part }),
        part().prop_map(|part| Fault::RefuseAndKeep { part }),
        part().prop_map(|part| Fault::Die { part }),
    ];
    let send =
        (proptest::collection::vec(request, 1..4), proptest::option::weighted(0.5, (0..5_u8, fault)), any::<bool>())
            .prop_map(|(requests, fault, twice)| Step::Send { requests, fault, twice });
    let step = prop_oneof![
        10 => send,
        4 => Just(Step::Retry),
        2 => (part(), any::<bool>()).prop_map(|(kept, zeros)| Step::Crash { kept, zeros }),
        2 => Just(Step::Seal),
        1 => any::<bool>().prop_map(|torn| Step::CrashInSeal(SealCrash::Files { torn })),
        1 => any::<bool>().prop_map(|torn| Step::CrashInSeal(SealCrash::Checkpoint { torn })),
        1 => Just(Step::CrashInSeal(SealCrash::Manifest)),
        2 => damage(),
        1 => Just(Step::Compact),
        3 => (1..70_u8, any::<bool>()).prop_map(|(seconds, seen)| Step::Pass(seconds, seen)),
        1 => (-3..4_i8).prop_map(Step::Leap),
    ];
    proptest::collection::vec(step, 1..20)
}

/// What is known of a record.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    visible: usize,
    /// When it was last taken in as new.
    since: Option<i64>,
}

/// How a request ended, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Acknowledged,
    Refused,
    /// The process died first.
    Unknown,
}

struct World {
    runtime: tokio::runtime::Runtime,
    place: Place,
    disk: Disk,
    spine: Spine,
    known: BTreeMap<Record, Known>,
    received: i64,
    points: i64,
    unanswered: Vec<BTreeSet<Record>>,
}

impl World {
    fn new() -> Self {
        let (place, disk) = (Place::new(), Disk::default());
        let spine = place.open_with(disk.create());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { runtime, place, disk, spine, known: BTreeMap::new(), received: 0, points: 0, unanswered: Vec::new() }
    }

    fn now(&self) -> i64 {
        self.place.elapsed.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn reopen(&mut self, kept: u8, zeros: bool) {
        self.spine.kill();
        self.disk.crash(kept, zeros);
        self.spine = self.place.open_with(self.disk.create());
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send { requests, fault, twice } => self.send(requests, fault, twice),
            Step::Retry => {
                let requests = std::mem::take(&mut self.unanswered);
                self.send(requests, None, false);
            }
            Step::Crash { kept, zeros } => self.reopen(kept, zeros),
            Step::Seal => self.spine.core.seal(false).unwrap(),
            Step::CrashInSeal(crash) => self.crash_in_seal(crash),
            Step::Damage { folder, file, how } => {
                self.spine.kill();
                self.disk.crash(200, false);
                let there = files(&self.place.root.path().join(folder));
                if let Some(file) = there.get(usize::from(file) % there.len().max(1)) {
                    damaged(file, how);
                }
                self.spine = self.place.open_with(self.disk.create());
            }
            Step::Compact => {
                self.spine.core.compact().unwrap();
                self.spine.core.sweep();
            }
            Step::Pass(seconds, seen) => {
                self.place.advance(i64::from(seconds) * SECOND);
                if seen {
                    self.send_point();
                }
            }
            Step::Leap(months) => self.place.leap(i64::from(months) * 30 * 86_400 * SECOND),
        }
        self.compare(&[]);
    }

    fn send(&mut self, mut requests: Vec<BTreeSet<Record>>, fault: Option<(u8, Fault)>, twice: bool) {
        if twice && let Some(first) = requests.first().cloned() {
            requests.push(first);
        }
        if let Some((operations, fault)) = fault {
            self.disk.arm(operations, fault);
        }
        let sent = requests.iter().map(|request| {
            let rows: Vec<Value> = request.iter().map(row).collect();
            self.spine.ingest(spans(&rows))
        });
        let answers: Vec<Result<Committed, Refused>> = self.runtime.block_on(futures::future::join_all(sent));
        let died = self.disk.is_dead();
        let ends: Vec<End> = answers
            .iter()
            .map(|answer| match answer {
                Ok(_) => End::Acknowledged,
                Err(_) if died => End::Unknown,
                Err(_) => End::Refused,
            })
            .collect();
        self.disk.disarm();
        if died {
            self.reopen(200, false);
        }
        let requests: Vec<(BTreeSet<Record>, End)> = requests.into_iter().zip(ends).collect();
        for (request, end) in &requests {
            if *end != End::Acknowledged {
                self.unanswered.push(request.clone());
            }
        }
        self.compare(&requests);
    }

    /// Something of another table, after which the committing thread looks at the clock.
    fn send_point(&mut self) {
        self.points += 1;
        self.runtime.block_on(self.spine.ingest(points(&[self.points]))).unwrap();
        self.received += 1;
    }

    /// Plays a death in the middle of a seal by putting back what would not have been written yet.
    fn crash_in_seal(&mut self, crash: SealCrash) {
        let root = self.place.root.path().to_owned();
        let (manifest, checkpoints) = (root.join("manifest.json"), root.join("checkpoint"));
        let segments: Vec<(PathBuf, Vec<u8>)> = [root.join(LOG_DIR), checkpoints.clone()]
            .iter()
            .flat_map(|folder| files(folder))
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        let old_manifest = std::fs::read(&manifest).ok();
        let old_files = files(&root.join(PARQUET_DIR));
        self.spine.core.seal(false).unwrap();
        self.spine.kill();
        self.disk.crash(255, false);
        if !matches!(crash, SealCrash::Manifest) {
            match old_manifest {
                Some(bytes) => std::fs::write(&manifest, bytes).unwrap(),
                None => drop(std::fs::remove_file(&manifest)),
            }
        }
        let new_checkpoint = files(&checkpoints).into_iter().find(|path| !segments.iter().any(|(old, _)| old == path));
        for (path, bytes) in segments.into_iter().filter(|(path, _)| !path.exists()) {
            std::fs::write(path, bytes).unwrap();
        }
        match crash {
            SealCrash::Checkpoint { torn } => {
                if let Some(new) = new_checkpoint.filter(|_| torn) {
                    damaged(&new, Damage::Cut(30_000));
                }
            }
            SealCrash::Files { torn } => {
                new_checkpoint.into_iter().for_each(|new| std::fs::remove_file(new).unwrap());
                let new = files(&root.join(PARQUET_DIR)).into_iter().find(|path| !old_files.contains(path));
                if let Some(new) = new.filter(|_| torn) {
                    let bytes = std::fs::read(&new).unwrap();
                    std::fs::write(new.with_extension("tmp"), &bytes[..bytes.len() / 2]).unwrap();
                    std::fs::remove_file(new).unwrap();
                }
            }
            SealCrash::Manifest => std::fs::write(manifest.with_extension("tmp"), b"{\"store_id\": ").unwrap(),
        }
        self.spine = self.place.open_with(self.disk.create());
    }

    /// Compares the store with the model after these requests.
    fn compare(&mut self, requests: &[(BTreeSet<Record>, End)]) {
        let found = self.found();
        let now = self.now();
        let records: BTreeSet<Record> = found
            .keys()
            .copied()
            .chain(self.known.keys().copied())
            .chain(requests.iter().flat_map(|(records, _)| records.clone()))
            .collect();
        for record in records {
            let visible = found.get(&record).copied().unwrap_or(0);
            let known = self.known.entry(record).or_default();
            let ends: Vec<End> =
                requests.iter().filter(|(records, _)| records.contains(&record)).map(|(_, end)| *end).collect();
            let age = known.since.map(|since| now - since);
            let may_be_new = age.is_none_or(|age| age > WINDOW - SECOND) && ends.iter().any(|end| *end != End::Refused);
            let must_be_new = age.is_none() && ends.contains(&End::Acknowledged);
            let added = visible.checked_sub(known.visible);
            assert!(
                added.is_some_and(|added| (usize::from(must_be_new)..=usize::from(may_be_new)).contains(&added)),
                "{record:?} is visible {visible} times, was {known:?} at {now}, and its requests ended {ends:?}"
            );
            if added == Some(1) {
                *known = Known { visible, since: Some(now) };
            }
        }
        self.compare_ledger(&found, requests);
    }

    fn compare_ledger(&mut self, found: &BTreeMap<Record, usize>, requests: &[(BTreeSet<Record>, End)]) {
        let counts = total(&self.spine);
        let rows = |request: &BTreeSet<Record>| i64::try_from(request.len()).unwrap();
        let acknowledged: i64 =
            requests.iter().filter(|(_, end)| *end == End::Acknowledged).map(|(request, _)| rows(request)).sum();
        // Each request without an answer was taken in whole or not at all.
        let mut possible = BTreeSet::from([self.received + acknowledged]);
        for (request, _) in requests.iter().filter(|(_, end)| *end == End::Unknown) {
            possible.extend(possible.clone().into_iter().map(|sum| sum + rows(request)));
        }
        assert!(possible.contains(&counts.received), "{} received, one of {possible:?} is right", counts.received);
        self.received = counts.received;
        let visible: usize = found.values().sum();
        assert_eq!(counts.stored + counts.in_flight, i64::try_from(visible).unwrap() + self.points);
        assert_eq!(counts.received, counts.stored + counts.in_flight + counts.deduplicated);
    }

    fn found(&self) -> BTreeMap<Record, usize> {
        let mut found = BTreeMap::new();
        for batch in visible(&*self.spine.core, Table::Spans) {
            let (traces, spans, durations) =
                (ids(&batch, "trace_id"), ids(&batch, "span_id"), longs(&batch, "duration_ns"));
            for row in 0..batch.num_rows() {
                let record = (
                    traces.value(row)[15] - 1,
                    spans.value(row)[7] == 2,
                    u8::try_from(durations.value(row) - 5_000_000).unwrap(),
                );
                *found.entry(record).or_insert(0) += 1;
            }
        }
        found
    }
}

fn row((trace, child, content): &Record) -> Value {
    let (trace, fields) =
        (u128::from(*trace) + 1, json!({"duration_ns": 5_000_000 + i64::from(*content), "profile": "public"}));
    if *child { span(trace, 2, Some(1), fields) } else { decision(trace, fields) }
}

fn damaged(path: &std::path::Path, how: Damage) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = |part: u16| bytes.len().saturating_sub(1) * usize::from(part) / usize::from(u16::MAX);
    match how {
        Damage::Gone => return std::fs::remove_file(path).unwrap(),
        Damage::Flipped(part) => {
            let at = at(part);
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 4);
        }
        Damage::Cut(part) => bytes.truncate(at(part)),
    }
    std::fs::write(path, bytes).unwrap();
}

fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Cases of a run; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_crashes_fails_is_retried_or_sent_twice_nothing_acknowledged_is_lost_and_nothing_counts_twice(
        steps in steps()
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.reopen(128, true);
        world.compare(&[]);
        world.spine.close().unwrap();
        world.spine = world.place.open_with(world.disk.create());
        world.compare(&[]);
    }
}
