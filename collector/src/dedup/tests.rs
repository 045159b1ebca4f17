//! The window: what it recognises, how long, and that neither load nor disk make it forget.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const WINDOW: Window = Window { age_nanos: 100, decisions: 0 };

/// A window that moves keys to disk early, behind a filter so small that it errs often.
fn small(window: Window) -> (tempfile::TempDir, Dedup) {
    let folder = tempfile::tempdir().unwrap();
    let dedup = Dedup::sized(window, &folder.path().join("dedup"), 1, 16, 64).unwrap();
    (folder, dedup)
}

fn judge(dedup: &Dedup, fingerprint: u128, keys: &[u128], contents: &[u64]) -> Judgement {
    dedup.judge(Signal::Traces, fingerprint, keys, contents).unwrap()
}

fn remember(dedup: &mut Dedup, lsn: u64, steady_nanos: i64, decisions: u64, keys: &[(u128, u64)]) {
    dedup.remember(&Keys { lsn, steady_nanos, decisions, may_conflict: true, keys });
}

#[test]
fn a_retried_body_adds_nothing() {
    let (_folder, mut dedup) = small(WINDOW);
    let first = judge(&dedup, 7, &[1, 2], &[10, 20]);
    assert_eq!((first.deduplicated, first.fresh.clone()), (0, None));
    remember(&mut dedup, 1, 0, 0, &first.keys);
    let again = judge(&dedup, 7, &[1, 2], &[10, 20]);
    assert_eq!((again.deduplicated, again.keys.len()), (2, 0));
}

#[test]
fn equal_records_of_one_request_are_not_duplicates_of_each_other() {
    let (_folder, dedup) = small(WINDOW);
    assert_eq!(judge(&dedup, 7, &[1, 1], &[10, 10]).deduplicated, 0);
}

#[test]
fn a_known_key_with_other_content_is_a_counted_conflict_once() {
    let (_folder, mut dedup) = small(WINDOW);
    let first = judge(&dedup, 7, &[1], &[10]);
    remember(&mut dedup, 1, 0, 0, &first.keys);
    let other = judge(&dedup, 8, &[1], &[11]);
    assert_eq!((other.deduplicated, other.conflicts), (0, 1));
    remember(&mut dedup, 2, 0, 0, &other.keys);
    let again = judge(&dedup, 9, &[1, 1], &[11, 10]);
    assert_eq!((again.deduplicated, again.conflicts), (2, 0));
}

#[test]
fn two_contents_of_one_key_in_one_request_are_both_recognised_in_the_next() {
    let (_folder, mut dedup) = small(WINDOW);
    let first = judge(&dedup, 7, &[1, 1], &[10, 11]);
    assert_eq!((first.deduplicated, first.conflicts), (0, 1));
    remember(&mut dedup, 1, 0, 0, &first.keys);
    let again = judge(&dedup, 8, &[1, 1], &[11, 10]);
    assert_eq!((again.deduplicated, again.conflicts), (2, 0));
}

#[test]
fn what_the_log_could_not_take_is_new_again() {
    let (_folder, mut dedup) = small(Window { age_nanos: 100, decisions: 1 });
    let first = judge(&dedup, 7, &[1], &[10]);
    remember(&mut dedup, 5, 0, 1, &first.keys);
    dedup.forget_from(5);
    assert_eq!(judge(&dedup, 7, &[1], &[10]).deduplicated, 0);
    assert_eq!((dedup.len(), dedup.oldest_lsn()), (0, None));
}

#[test]
fn a_request_is_remembered_until_both_its_age_and_its_decisions_have_passed() {
    let (_folder, mut dedup) = small(Window { age_nanos: 100, decisions: 2 });
    for lsn in 0..3_u64 {
        remember(&mut dedup, lsn, 0, 1, &[(u128::from(lsn), 0)]);
    }
    dedup.advance(100);
    assert_eq!(dedup.oldest_lsn(), Some(0), "still young");
    dedup.advance(101);
    assert_eq!(dedup.oldest_lsn(), Some(1), "two decisions stay whatever their age");
}

#[test]
fn a_flood_makes_neither_the_filter_larger_nor_the_window_shorter() {
    let folder = tempfile::tempdir().unwrap();
    let window = Window { age_nanos: 1_000_000, decisions: 0 };
    let mut dedup = Dedup::sized(window, &folder.path().join("dedup"), 0, 16, 65_536).unwrap();
    let per_request = 20;
    // Forty times as many generations as there are bits.
    let requests = 20_u128 * 8 * u128::from(filter::GENERATIONS);
    let keys_of = |request: u128| -> Vec<u128> {
        (0..per_request).map(|at| xxh3_128(&(request * per_request + at).to_le_bytes())).collect()
    };
    for request in 0..requests {
        let keys = keys_of(request);
        let judgement = judge(&dedup, request, &keys, &vec![3; keys.len()]);
        assert_eq!(judgement.deduplicated, 0, "request {request} never came before");
        remember(&mut dedup, u64::try_from(request).unwrap(), i64::try_from(request).unwrap(), 1, &judgement.keys);
        dedup.settle().unwrap();
    }
    assert_eq!(dedup.filter_bytes(), 4 * 65_536);
    assert_eq!(dedup.len(), usize::try_from(requests * (per_request + 1)).unwrap());
    for request in (0..requests).step_by(97) {
        let keys = keys_of(request);
        assert_eq!(judge(&dedup, u128::MAX - request, &keys, &vec![3; keys.len()]).deduplicated, 20);
    }
    dedup.advance(2_000_000);
    assert_eq!((dedup.len(), dedup.oldest_lsn()), (0, None));
    dedup.delete_retired(u64::MAX);
    assert_eq!(dedup.disk_bytes(), 0);
    assert_eq!(std::fs::read_dir(folder.path().join("dedup")).unwrap().count(), 0, "no file stays behind");
}

#[test]
fn keys_that_cannot_be_moved_to_disk_stay_in_memory_up_to_a_bound_and_then_requests_are_refused() {
    let (folder, mut dedup) = small(WINDOW);
    std::fs::remove_dir_all(folder.path().join("dedup")).unwrap();
    let mut lsn = 0;
    let refused = loop {
        let keys: Vec<u128> = (0..10).map(|at| u128::from(lsn) * 10 + at).collect();
        match dedup.judge(Signal::Logs, u128::from(lsn), &keys, &[0; 10]) {
            Ok(judgement) => remember(&mut dedup, lsn, 0, 0, &judgement.keys),
            Err(error) => break error,
        }
        assert!(dedup.settle().is_err() || dedup.len() < 16);
        lsn += 1;
        assert!(lsn < 100, "the bound is never reached");
    };
    assert!(refused.to_string().contains("cannot be moved"));
    std::fs::create_dir_all(folder.path().join("dedup")).unwrap();
    dedup.settle().unwrap();
    assert_eq!(dedup.judge(Signal::Logs, 1_000, &[5], &[0]).unwrap().deduplicated, 1);
}

/// A window of many requests of four keys each, some of them on disk; the last are in memory only.
fn filled(folder: &Path, requests: u64) -> Dedup {
    let mut dedup = Dedup::sized(Window { age_nanos: 1_000, decisions: 0 }, folder, 1, 16, 64).unwrap();
    for lsn in 1..=requests {
        let keys: Vec<_> = (0..4).map(|at| (u128::from(lsn) * 4 + at, lsn)).collect();
        remember(&mut dedup, lsn, i64::try_from(lsn).unwrap(), 1, &keys);
        dedup.settle().unwrap();
    }
    dedup
}

fn reopened(folder: &Path, needed_from: u64) -> Dedup {
    Dedup::sized(Window { age_nanos: 1_000, decisions: 0 }, folder, needed_from, 16, 64).unwrap()
}

/// The requests whose keys are all known, and none of the others' is.
fn known(dedup: &Dedup, requests: u64) -> Vec<u64> {
    let found = |lsn: &u64| (0..4).filter(|at| dedup.find(u128::from(*lsn) * 4 + at).unwrap() == Some(*lsn)).count();
    assert!((1..=requests).all(|lsn| matches!(found(&lsn), 0 | 4)));
    (1..=requests).filter(|lsn| found(lsn) == 4).collect()
}

#[test]
fn the_next_process_finds_what_is_on_disk_and_is_told_from_where_on_the_log_has_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    for requests in [3, 4, 5, 31, 32, 33, 300] {
        let _ = std::fs::remove_dir_all(folder.path());
        let before = filled(folder.path(), requests);
        let settled = before.settled_to() - 1;
        assert_eq!(settled, requests / 4 * 4);
        drop(before);
        let mut after = reopened(folder.path(), 1);
        assert_eq!((after.settled_to() - 1, known(&after, requests)), (settled, (1..=settled).collect()));
        assert_eq!(after.oldest_lsn(), (settled > 0).then_some(1));
        // It goes on as the other would have: the same bits, the same window.
        for lsn in settled + 1..=requests + 40 {
            let keys: Vec<_> = (0..4).map(|at| (u128::from(lsn) * 4 + at, lsn)).collect();
            remember(&mut after, lsn, i64::try_from(lsn).unwrap(), 1, &keys);
            after.settle().unwrap();
        }
        assert_eq!(known(&after, requests + 40).len(), usize::try_from(requests).unwrap() + 40);
        after.advance(2_000 + i64::try_from(requests).unwrap());
        assert_eq!((after.len(), after.oldest_lsn()), (0, None));
    }
}

#[test]
fn from_a_run_that_is_missing_or_damaged_on_everything_is_read_from_the_log_again() {
    for damage in 0..3_u8 {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), 78));
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        // Two merged runs of 32 requests, then three of four.
        assert_eq!(files.len(), 5);
        let middle = &files[2];
        match damage {
            0 => std::fs::remove_file(middle).unwrap(),
            1 => {
                let mut bytes = std::fs::read(middle).unwrap();
                bytes[100] ^= 1;
                std::fs::write(middle, bytes).unwrap();
            }
            _ => std::fs::write(middle, &std::fs::read(middle).unwrap()[..4_000]).unwrap(),
        }
        let after = reopened(folder.path(), 1);
        assert_eq!(after.settled_to(), 65);
        assert_eq!(known(&after, 78), (1..=64).collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "what is of no use is gone");
        drop(after);
        assert_eq!(reopened(folder.path(), 0).settled_to(), 0, "the oldest is missing");
    }
}

#[test]
fn a_run_that_left_the_window_lies_on_the_disk_until_the_manifest_needs_it_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let mut dedup = filled(folder.path(), 78);
    dedup.advance(1_040);
    assert_eq!(dedup.oldest_lsn(), Some(33));
    drop(dedup);
    // An older manifest asks for more.
    let mut dedup = reopened(folder.path(), 1);
    assert_eq!(known(&dedup, 78), (1..=76).collect::<Vec<_>>());
    dedup.advance(1_040);
    dedup.delete_retired(33);
    drop(dedup);
    let at_78 = KeyCut { needed_from: 33, settled_to: 77, young_from: 77 };
    for (cut, from) in [
        (at_78, 77),
        (KeyCut { young_from: 79, ..at_78 }, 79),
        (KeyCut { settled_to: 79, young_from: 79, ..at_78 }, 77),
    ] {
        assert_eq!(Dedup::open(WINDOW, folder.path(), cut).unwrap().1, from, "{cut:?}");
    }
    let after = reopened(folder.path(), 33);
    assert_eq!((after.settled_to(), known(&after, 78)), (77, (33..=76).collect::<Vec<_>>()));
}

/// What the property test does to a window.
#[derive(Debug, Clone)]
enum Step {
    /// A request of records: key and content each.
    Request(Vec<(u8, u8)>),
    /// The log could not take the last request.
    Refused(Vec<(u8, u8)>),
    /// So much time passes.
    Pass(u8),
    /// The newest keys go to disk, as after a group of requests.
    Settle,
    /// The process dies, and the next one reads what is on disk and the rest in the log; or all of it in the log.
    Restart(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // So few keys that they come again when they have left the window.
    let records = || proptest::collection::vec((0..40_u8, 0..3_u8), 0..5);
    let step = prop_oneof![
        6 => records().prop_map(Step::Request),
        1 => records().prop_map(Step::Refused),
        2 => (0..40_u8).prop_map(Step::Pass),
        2 => Just(Step::Settle),
        1 => any::<bool>().prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn inside_the_window_each_content_of_each_key_is_new_once_also_over_restarts(steps in steps()) {
        let (folder, mut dedup) = small(WINDOW);
        // What the log holds: number, time and keys of each request.
        let mut log = Vec::<(u64, i64, Vec<_>)>::new();
        let mut needed_from = 1;
        // When each content of each key was last taken in as new.
        let mut model: HashMap<(u8, u8), i64> = HashMap::new();
        let (mut now, mut lsn) = (0_i64, 0_u64);
        for step in steps {
            let (records, durable) = match step {
                Step::Pass(nanos) => {
                    now += i64::from(nanos);
                    dedup.advance(now);
                    needed_from = dedup.oldest_lsn().unwrap_or(lsn + 1);
                    dedup.delete_retired(needed_from);
                    continue;
                }
                Step::Settle => {
                    dedup.settle().unwrap();
                    continue;
                }
                Step::Restart(has_runs) => {
                    drop(dedup);
                    let path = folder.path().join("dedup");
                    if !has_runs {
                        Dedup::clear(&path).unwrap();
                    }
                    dedup = Dedup::sized(WINDOW, &path, needed_from, 16, 64).unwrap();
                    let from = dedup.settled_to();
                    assert!(has_runs || from == needed_from);
                    for (lsn, steady_nanos, keys) in log.iter().filter(|(lsn, ..)| *lsn >= from) {
                        dedup.replay(&Keys { lsn: *lsn, steady_nanos: *steady_nanos, decisions: 0, may_conflict: true, keys });
                        dedup.settle().unwrap();
                    }
                    dedup.advance(now);
                    continue;
                }
                Step::Request(records) => (records, true),
                Step::Refused(records) => (records, false),
            };
            lsn += 1;
            let keys: Vec<u128> = records.iter().map(|(key, _)| u128::from(*key)).collect();
            let contents: Vec<u64> = records.iter().map(|(_, content)| u64::from(*content)).collect();
            let judgement = judge(&dedup, u128::from(lsn), &keys, &contents);
            for (at, record) in records.iter().enumerate() {
                let is_new = judgement.fresh.as_ref().is_none_or(|fresh| fresh.value(at));
                match model.get(record) {
                    Some(since) if now - since <= WINDOW.age_nanos => prop_assert!(!is_new, "{:?} is counted twice", record),
                    None => prop_assert!(is_new, "{:?} never came and is dropped", record),
                    Some(_) => {}
                }
            }
            remember(&mut dedup, lsn, now, 0, &judgement.keys);
            if durable {
                let new: HashSet<(u8, u8)> = records
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| judgement.fresh.as_ref().is_none_or(|fresh| fresh.value(*at)))
                    .map(|(_, record)| *record)
                    .collect();
                model.extend(new.into_iter().map(|record| (record, now)));
                log.push((lsn, now, judgement.keys));
                if lsn % 5 == 0 {
                    dedup.settle().unwrap();
                }
            } else {
                dedup.forget_from(lsn);
            }
        }
    }
}
