//! Recognises what was received before, between requests and never within one, inside a window.
//!
//! The window is exact: every key is held with a hash of its content, so that the same key with other content is a
//! conflict, which is kept and counted, and not silently taken for a duplicate. A filter alone was rejected: it would
//! drop records that never came before. Judging changes nothing; a request is remembered only when the log has it, and
//! forgotten again when the log could not take it. The newest keys are in memory, the others in sorted files behind a
//! filter of fixed size: nothing leaves before its time, whatever the load. The files are no truth of their own: the log
//! holds the same keys. A start reads the files, and the log only for what they do not hold.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use arrow::array::BooleanArray;
use lariat_schema::vocabulary::Signal;
use xxhash_rust::xxh3::xxh3_128;

use serde::{Deserialize, Serialize};

use crate::hashed::HashedMap;
use crate::held::table_bytes;

mod filter;
mod generations;
mod restored;
mod run;

use generations::Generations;
use run::{About, End};

/// Keys in memory from which they are moved to disk: some 6 MB. Tests of stores move them early, so that they all read
/// them from there.
const YOUNG_KEYS: usize = if cfg!(test) { 32 } else { 65_536 };
/// Keys in memory beyond which requests are refused: they cannot be moved to disk.
const YOUNG_KEYS_LIMIT: usize = 8 * YOUNG_KEYS;

/// How long a request is remembered at least: both must have passed before it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// So many nanoseconds.
    pub(crate) age_nanos: i64,
    /// So many decisions.
    pub(crate) decisions: u64,
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

/// The keys of one entry of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) lsn: u64,
    pub(crate) steady_nanos: i64,
    pub(crate) decisions: u64,
    /// False if surely no key among them had another content before.
    pub(crate) may_conflict: bool,
    pub(crate) keys: &'a [(u128, u64)],
}

/// Where in the log the keys of a window are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct KeyCut {
    /// Oldest entry that the window needs.
    pub(crate) needed_from: u64,
    /// The keys of entries before this one are on the disk, or have left the window.
    pub(crate) settled_to: u64,
    /// Oldest entry after it that has keys which are in memory only.
    pub(crate) young_from: u64,
}

#[derive(Debug)]
struct Remembered {
    lsn: u64,
    end: End,
    decisions: u64,
    keys: Vec<u128>,
}

/// What was received inside the window.
#[derive(Debug)]
pub(crate) struct Dedup {
    window: Window,
    /// The newest keys with their contents.
    young: HashedMap<u64>,
    requests: VecDeque<Remembered>,
    old: Generations,
    young_keys: usize,
    /// Decisions remembered since the oldest that is.
    decisions: u64,
    /// The keys of entries of the log before this one are on the disk, or have left the window.
    settled_to: u64,
    /// The newest request that may hold a second content of a key, while it is inside the window.
    conflict: Option<End>,
}

impl Dedup {
    /// A window with the keys that are in `folder`, as far as none is missing of the entries of the log that it needed, and the
    /// entry from which on those of the log are to be remembered.
    pub(crate) fn open(window: Window, folder: &Path, cut: KeyCut) -> io::Result<(Self, u64)> {
        let dedup = Self::sized(window, folder, cut.needed_from, YOUNG_KEYS, filter::WORDS)?;
        let is_whole = dedup.settled_to >= cut.settled_to;
        let from = if is_whole { dedup.settled_to.max(cut.young_from) } else { dedup.settled_to };
        Ok((dedup, from))
    }

    /// Forgets what is in `folder`.
    pub(crate) fn clear(folder: &Path) -> io::Result<()> {
        run::clear_folder(folder)
    }

    fn sized(
        window: Window,
        folder: &Path,
        needed_from: u64,
        young_keys: usize,
        filter_words: usize,
    ) -> io::Result<Self> {
        let old = Generations::open(folder.to_owned(), filter_words, needed_from)?;
        let newest = old.newest().copied();
        Ok(Self {
            window,
            young: HashedMap::default(),
            requests: VecDeque::new(),
            old,
            young_keys,
            decisions: newest.map_or(0, |newest| newest.end.decisions),
            settled_to: newest.map_or(needed_from, |newest| newest.to_lsn),
            conflict: newest.and_then(|newest| newest.conflict),
        })
    }

    /// The keys of entries before this one are on the disk, or have left the window.
    pub(crate) fn settled_to(&self) -> u64 {
        self.settled_to
    }

    /// Where in the log its keys are; `next_lsn` is the next entry's number.
    pub(crate) fn cut(&self, next_lsn: u64) -> KeyCut {
        KeyCut {
            needed_from: self.oldest_lsn().unwrap_or(next_lsn),
            settled_to: self.settled_to,
            young_from: self.requests.front().map_or(next_lsn, |first| first.lsn),
        }
    }

    /// Says what of a request is new. An error is the disk's: whether something is new cannot be told.
    pub(crate) fn judge(
        &self,
        signal: Signal,
        fingerprint: u128,
        keys: &[u128],
        contents: &[u64],
    ) -> io::Result<Judgement> {
        if self.young.len() > YOUNG_KEYS_LIMIT / YOUNG_KEYS * self.young_keys {
            return Err(io::Error::other("the keys of recent requests cannot be moved to disk"));
        }
        let whole = of_request(fingerprint);
        if self.find(whole)?.is_some() {
            return Ok(Judgement {
                fresh: Some(BooleanArray::from(vec![false; keys.len()])),
                deduplicated: crate::columns::count(keys.len()),
                ..Judgement::default()
            });
        }
        let mut judgement = Judgement { keys: Vec::with_capacity(keys.len() + 1), ..Judgement::default() };
        let mut fresh = Vec::with_capacity(keys.len());
        // First content of each new key of this request, where one stands in it twice.
        let mut own = may_repeat(keys).then(HashedMap::<u64>::default);
        // What is asked of memory for one key does not depend on another: it is asked for all at once, so that they are
        // not waited for one by one.
        let keys: Vec<u128> = keys.iter().map(|key| of_record(signal, *key)).collect();
        let young: Vec<Option<u64>> = keys.iter().map(|key| self.young.get(key).copied()).collect();
        let old: Vec<u32> = keys.iter().map(|key| self.old.may_hold(*key)).collect();
        for (((key, content), young), old) in keys.into_iter().zip(contents).zip(young).zip(old) {
            let known = match young {
                Some(content) => Some(content),
                None => self.old.find_in(key, old)?,
            };
            let is_new = match known.or_else(|| own.as_ref()?.get(&key).copied()) {
                // The first content may have left the window before the second.
                None if self.conflict.is_some() && self.find(of_conflict(key, *content))?.is_some() => false,
                None => {
                    if let Some(own) = &mut own {
                        own.insert(key, *content);
                    }
                    judgement.keys.push((key, *content));
                    true
                }
                Some(same) if same == *content => known.is_none(),
                Some(_) => {
                    // The other content has an entry of its own, so that its own retry is recognised too.
                    let other = of_conflict(key, *content);
                    let is_new = self.find(other)?.is_none();
                    if is_new {
                        judgement.conflicts += 1;
                        judgement.keys.push((other, *content));
                    }
                    is_new
                }
            };
            fresh.push(is_new);
            judgement.deduplicated += u64::from(!is_new);
        }
        judgement.keys.push((whole, 0));
        if judgement.deduplicated > 0 {
            judgement.fresh = Some(BooleanArray::from(fresh));
        }
        Ok(judgement)
    }

    fn find(&self, key: u128) -> io::Result<Option<u64>> {
        match self.young.get(&key) {
            Some(content) => Ok(Some(*content)),
            None => self.old.find(key),
        }
    }

    /// Remembers what goes to the log, in the order of the log.
    pub(crate) fn remember(&mut self, what: &Keys<'_>) {
        for (key, content) in what.keys {
            self.young.entry(*key).or_insert(*content);
        }
        self.decisions += what.decisions;
        let end = End { steady_nanos: what.steady_nanos, decisions: self.decisions };
        if what.may_conflict {
            self.conflict = Some(end);
        }
        let keys = what.keys.iter().map(|(key, _)| *key).collect();
        self.requests.push_back(Remembered { lsn: what.lsn, end, decisions: what.decisions, keys });
    }

    /// Remembers what the log holds, at a start. What had left the window by then goes first: a record that was new again has
    /// the key that left, and a key goes with the first request that brought it.
    pub(crate) fn replay(&mut self, what: &Keys<'_>) {
        self.advance(what.steady_nanos);
        self.remember(what);
    }

    /// Forgets everything from `lsn` on: the log could not take it.
    pub(crate) fn forget_from(&mut self, lsn: u64) {
        while self.requests.back().is_some_and(|last| last.lsn >= lsn) {
            if let Some(last) = self.requests.pop_back() {
                self.decisions -= last.decisions;
                self.drop_keys(&last);
            }
        }
    }

    /// Moves the newest keys to disk if they are many. Only for when the log has all that is remembered.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if self.young.len() < self.young_keys { Ok(()) } else { self.settle_all() }
    }

    /// Moves all keys to disk, so that the next start reads none from the log.
    pub(crate) fn settle_all(&mut self) -> io::Result<()> {
        let (Some(first), Some(last)) = (self.requests.front(), self.requests.back()) else { return Ok(()) };
        let about = About {
            from_lsn: self.settled_to.min(first.lsn),
            to_lsn: last.lsn + 1,
            first_lsn: first.lsn,
            end: last.end,
            conflict: self.conflict,
            parts: 1,
        };
        self.old.add(&sorted(&self.young), about)?;
        self.settled_to = about.to_lsn;
        self.young.clear();
        self.requests.clear();
        Ok(())
    }

    /// Deletes files whose keys left the window before entry `needed_from` of the log: the manifest says so.
    pub(crate) fn delete_retired(&mut self, needed_from: u64) {
        self.old.delete_retired(needed_from);
    }

    /// Lets go of what has left the window.
    pub(crate) fn advance(&mut self, now_steady_nanos: i64) {
        let (window, decisions) = (self.window, self.decisions);
        let has_left = move |end: End| {
            now_steady_nanos.saturating_sub(end.steady_nanos) > window.age_nanos
                && decisions.saturating_sub(end.decisions) >= window.decisions
        };
        self.old.release(&has_left);
        self.conflict = self.conflict.filter(|end| !has_left(*end));
        while self.requests.front().is_some_and(|first| has_left(first.end)) {
            if let Some(first) = self.requests.pop_front() {
                self.drop_keys(&first);
            }
        }
    }

    fn drop_keys(&mut self, request: &Remembered) {
        for key in &request.keys {
            self.young.remove(key);
        }
    }

    /// The oldest entry of the log that the window needs after a restart.
    fn oldest_lsn(&self) -> Option<u64> {
        self.old.oldest_lsn().or_else(|| self.requests.front().map(|first| first.lsn))
    }

    /// Keys held.
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.keys()
    }

    /// Bytes of memory that all of it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        // Each key stands in the table, and once more with its request.
        let keys = table_bytes::<u128, u64>(self.young.capacity()) + self.young.len() * size_of::<u128>();
        keys + self.requests.capacity() * size_of::<Remembered>() + self.old.memory_bytes()
    }

    /// Bytes of the keys on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.old.disk_bytes()
    }

    /// Bytes of memory of the filter before the keys on disk.
    pub(crate) fn filter_bytes(&self) -> usize {
        self.old.filter_bytes()
    }
}

/// Keys in their order. They are hashes: cut by their first byte, what is sorted at a time fits into a processor's cache.
fn sorted(keys: &HashedMap<u64>) -> Vec<(u128, u64)> {
    const PARTS: usize = 1 << u8::BITS;
    let of_part = keys.len() / PARTS + keys.len() / (4 * PARTS);
    let mut parts: Vec<_> = (0..PARTS).map(|_| Vec::with_capacity(of_part)).collect();
    for (key, content) in keys {
        let [first, ..] = key.to_be_bytes();
        parts[usize::from(first)].push((*key, *content));
    }
    parts.iter_mut().for_each(|part| part.sort_unstable());
    parts.concat()
}

/// Whether a key may stand among these twice. Of nearly no request one does, and a bit for each costs less than to put all of them
/// into a table: only keys that find theirs taken are compared, as long as they are few.
#[allow(clippy::cast_possible_truncation, reason = "the low bits are wanted, and keys are hashes")]
fn may_repeat(keys: &[u128]) -> bool {
    const BITS_PER_KEY: usize = 64;
    const FEW: usize = 32;
    let places = (keys.len() * BITS_PER_KEY).next_power_of_two();
    let mut taken = vec![0_u64; places.div_ceil(64)];
    let mut again = Vec::new();
    for key in keys {
        let place = *key as usize & (places - 1);
        let (word, bit) = (&mut taken[place / 64], 1 << (place % 64));
        if *word & bit > 0 {
            again.push(*key);
        }
        *word |= bit;
    }
    // Some meet by chance, of thousands of keys too many to be compared with all: the table will tell.
    again.len() > FEW || again.iter().any(|key| keys.iter().filter(|one| *one == key).nth(1).is_some())
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
mod tests;
