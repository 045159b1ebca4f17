//! Recognises what was received before, between requests and never within one, inside a window.
//!
//! The window is exact: every key is held with a hash of its content, so that the same key with other content is a
//! conflict, which is kept and counted, and not silently taken for a duplicate. A filter with false positives was
//! rejected: it would drop records that never came before. Judging changes nothing; a request is remembered only when
//! the log has it, and forgotten again when the log could not take it. Memory is bounded by [`Window::max_keys`]: past
//! it the oldest requests leave before their time, which is counted.

use std::collections::VecDeque;

use arrow::array::BooleanArray;
use lariat_schema::vocabulary::Signal;
use xxhash_rust::xxh3::xxh3_128;

use crate::hashed::HashedMap;

/// How long a request is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// At least so many nanoseconds.
    pub(crate) age_nanos: i64,
    /// And at least so many decisions.
    pub(crate) decisions: u64,
    /// But never more keys than this.
    pub(crate) max_keys: usize,
}

/// What is new in a request.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Judgement {
    /// Rows that are new; `None` where all are.
    pub(crate) fresh: Option<BooleanArray>,
    /// Number of rows that are not.
    pub(crate) deduplicated: u64,
    /// Rows whose key is known with other content: new, and counted.
    pub(crate) conflicts: u64,
    /// What to remember if the request becomes durable.
    pub(crate) keys: Vec<(u128, u64)>,
}

#[derive(Debug)]
struct Remembered {
    lsn: u64,
    commit_unix_nanos: i64,
    decisions: u64,
    keys: Vec<u128>,
}

/// What was received inside the window.
#[derive(Debug)]
pub(crate) struct Dedup {
    window: Window,
    contents: HashedMap<u64>,
    requests: VecDeque<Remembered>,
    decisions: u64,
    evicted_early: u64,
}

impl Dedup {
    pub(crate) fn new(window: Window) -> Self {
        Self { window, contents: HashedMap::default(), requests: VecDeque::new(), decisions: 0, evicted_early: 0 }
    }

    /// Says what of a request is new.
    pub(crate) fn judge(&self, signal: Signal, fingerprint: u128, keys: &[u128], contents: &[u64]) -> Judgement {
        let whole = of_request(fingerprint);
        if self.contents.contains_key(&whole) {
            return Judgement {
                fresh: Some(BooleanArray::from(vec![false; keys.len()])),
                deduplicated: crate::columns::count(keys.len()),
                ..Judgement::default()
            };
        }
        let mut judgement = Judgement { keys: Vec::with_capacity(keys.len() + 1), ..Judgement::default() };
        let mut fresh = Vec::with_capacity(keys.len());
        for (key, content) in keys.iter().zip(contents) {
            let key = of_record(signal, *key);
            let verdict = match self.contents.get(&key) {
                None => Some(key),
                Some(known) if known == content => None,
                Some(_) => {
                    // The other content has an entry of its own, so that its own retry is recognised too.
                    let other = of_conflict(key, *content);
                    (!self.contents.contains_key(&other)).then(|| {
                        judgement.conflicts += 1;
                        other
                    })
                }
            };
            fresh.push(verdict.is_some());
            match verdict {
                Some(key) => judgement.keys.push((key, *content)),
                None => judgement.deduplicated += 1,
            }
        }
        judgement.keys.push((whole, 0));
        if judgement.deduplicated > 0 {
            judgement.fresh = Some(BooleanArray::from(fresh));
        }
        judgement
    }

    /// Remembers what stands in the log, in the order of the log.
    pub(crate) fn remember(&mut self, lsn: u64, commit_unix_nanos: i64, decisions: u64, keys: &[(u128, u64)]) {
        for (key, content) in keys {
            self.contents.entry(*key).or_insert(*content);
        }
        self.decisions += decisions;
        let keys = keys.iter().map(|(key, _)| *key).collect();
        self.requests.push_back(Remembered { lsn, commit_unix_nanos, decisions, keys });
    }

    /// Forgets everything from `lsn` on: the log could not take it.
    pub(crate) fn forget_from(&mut self, lsn: u64) {
        while self.requests.back().is_some_and(|last| last.lsn >= lsn) {
            if let Some(last) = self.requests.pop_back() {
                self.drop_keys(&last);
            }
        }
    }

    /// Lets go of what has left the window.
    pub(crate) fn advance(&mut self, now_unix_nanos: i64) {
        while let Some(first) = self.requests.front() {
            let aged = now_unix_nanos.saturating_sub(first.commit_unix_nanos) > self.window.age_nanos
                && self.decisions.saturating_sub(first.decisions) >= self.window.decisions;
            let full = self.contents.len() > self.window.max_keys;
            if !aged && !full {
                break;
            }
            if !aged {
                self.evicted_early += 1;
            }
            if let Some(first) = self.requests.pop_front() {
                self.drop_keys(&first);
            }
        }
    }

    fn drop_keys(&mut self, request: &Remembered) {
        for key in &request.keys {
            self.contents.remove(key);
        }
        self.decisions -= request.decisions;
    }

    /// The oldest entry of the log that the window needs after a restart.
    pub(crate) fn oldest_lsn(&self) -> Option<u64> {
        self.requests.front().map(|first| first.lsn)
    }

    /// Keys held.
    pub(crate) fn len(&self) -> usize {
        self.contents.len()
    }

    /// Requests that left before their time since memory is bounded.
    pub(crate) fn evicted_early(&self) -> u64 {
        self.evicted_early
    }
}

fn of_request(fingerprint: u128) -> u128 {
    fingerprint ^ 0x6c61_7269_6174_2e62_6f64_7900_0000_0001
}

fn of_record(signal: Signal, key: u128) -> u128 {
    key ^ match signal {
        Signal::Traces => 0x6c61_7269_6174_2e74_7261_6365_0000_0002,
        Signal::Metrics => 0x6c61_7269_6174_2e6d_6574_7269_6300_0003,
        Signal::Logs => 0x6c61_7269_6174_2e6c_6f67_0000_0000_0004,
    }
}

fn of_conflict(key: u128, content: u64) -> u128 {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&key.to_le_bytes());
    bytes[16..].copy_from_slice(&content.to_le_bytes());
    xxh3_128(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { age_nanos: 100, decisions: 0, max_keys: 1_000 };

    #[test]
    fn a_retried_body_adds_nothing() {
        let mut dedup = Dedup::new(WINDOW);
        let first = dedup.judge(Signal::Traces, 7, &[1, 2], &[10, 20]);
        assert_eq!((first.deduplicated, first.fresh.clone()), (0, None));
        dedup.remember(1, 0, 0, &first.keys);
        let again = dedup.judge(Signal::Traces, 7, &[1, 2], &[10, 20]);
        assert_eq!((again.deduplicated, again.keys.len()), (2, 0));
    }

    #[test]
    fn equal_records_of_one_request_are_not_duplicates_of_each_other() {
        let dedup = Dedup::new(WINDOW);
        assert_eq!(dedup.judge(Signal::Logs, 7, &[1, 1], &[10, 10]).deduplicated, 0);
    }

    #[test]
    fn a_known_key_with_other_content_is_a_counted_conflict_once() {
        let mut dedup = Dedup::new(WINDOW);
        let first = dedup.judge(Signal::Traces, 7, &[1], &[10]);
        dedup.remember(1, 0, 0, &first.keys);
        let other = dedup.judge(Signal::Traces, 8, &[1], &[11]);
        assert_eq!((other.deduplicated, other.conflicts), (0, 1));
        dedup.remember(2, 0, 0, &other.keys);
        let again = dedup.judge(Signal::Traces, 9, &[1, 1], &[11, 10]);
        assert_eq!((again.deduplicated, again.conflicts), (2, 0));
    }

    #[test]
    fn what_the_log_could_not_take_is_new_again() {
        let mut dedup = Dedup::new(WINDOW);
        let first = dedup.judge(Signal::Traces, 7, &[1], &[10]);
        dedup.remember(5, 0, 0, &first.keys);
        dedup.forget_from(5);
        assert_eq!(dedup.judge(Signal::Traces, 7, &[1], &[10]).deduplicated, 0);
        assert_eq!((dedup.len(), dedup.oldest_lsn()), (0, None));
    }

    #[test]
    fn a_request_is_remembered_for_its_age_and_for_its_decisions_and_never_beyond_the_bound() {
        let mut dedup = Dedup::new(Window { age_nanos: 100, decisions: 2, max_keys: 8 });
        for lsn in 0..3_u64 {
            dedup.remember(lsn, 0, 1, &[(u128::from(lsn), 0)]);
        }
        dedup.advance(100);
        assert_eq!(dedup.oldest_lsn(), Some(0), "still young");
        dedup.advance(101);
        assert_eq!(dedup.oldest_lsn(), Some(1), "two decisions stay whatever their age");
        let keys: Vec<(u128, u64)> = (10..17).map(|key| (key, 0)).collect();
        dedup.remember(9, 101, 0, &keys);
        dedup.advance(101);
        assert_eq!((dedup.len(), dedup.oldest_lsn(), dedup.evicted_early()), (8, Some(2), 1));
    }
}
