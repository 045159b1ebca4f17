//! The verdicts that are remembered, so that descendants which come later follow them.
//!
//! They are kept as they fell, one behind the other, and found by a small table of places for some of them at a time. One
//! table of all of them was rejected: it is larger than a processor's cache, and each verdict would wait for memory once to
//! be put in and once more to be taken out again; here the newest table is in the cache, and old ones go as wholes. What is
//! forgotten is still exactly the oldest, however the tables are cut.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use super::memory::Fell;
use super::spans::SpanKey;
use crate::columns::count;
use crate::hashed::Folding;

/// Tables that as many verdicts as are remembered fill: who asks for an unknown one looks into each.
const TABLES: usize = 4;
/// Places of a table for each of its verdicts, so that most are found at once.
const PLACES_PER_VERDICT: usize = 2;

/// Verdicts of one kind, the oldest of which are forgotten first.
#[derive(Debug)]
pub(super) struct Verdicts {
    most: usize,
    /// Oldest first; all but the newest are full.
    tables: VecDeque<Table>,
    /// How many of the oldest table are forgotten.
    gone: usize,
    len: usize,
    folding: Folding,
    forgotten_early: u64,
}

/// Verdicts that follow each other, and where each stands.
#[derive(Debug)]
struct Table {
    fell: Vec<Fell>,
    /// One more than the place of a verdict in `fell`, and in the bits above it some of its key's hash, so that a verdict of
    /// another key is not looked at; none: 0. The next one is asked where two meet.
    places: Box<[u32]>,
    /// The bits of an entry that are a place in `fell`.
    place_mask: u32,
}

impl Table {
    fn new(verdicts: usize) -> Self {
        let places = (verdicts * PLACES_PER_VERDICT).next_power_of_two();
        let place_mask = u32::try_from((verdicts + 1).next_power_of_two() - 1).unwrap_or(u32::MAX);
        Self { fell: Vec::with_capacity(verdicts), places: vec![0; places].into(), place_mask }
    }

    fn clear(&mut self) {
        self.fell.clear();
        self.places.fill(0);
    }

    /// Where a key with this hash is looked for first.
    #[allow(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    fn first_place(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    /// What of the hash stands in an entry: none of the bits that choose the place.
    #[allow(clippy::cast_possible_truncation, reason = "a shift by half leaves half")]
    fn tag(&self, hash: u64) -> u32 {
        (hash >> u32::BITS) as u32 & !self.place_mask
    }

    /// The place of a key among `places`, or the free one where it belongs; there are more places than verdicts.
    fn place(&self, key: SpanKey, hash: u64) -> usize {
        let (mut place, tag) = (self.first_place(hash), self.tag(hash));
        loop {
            let entry = self.places[place];
            let is_other = entry & !self.place_mask != tag;
            if entry == 0 || !is_other && self.at(place).is_none_or(|(_, fell)| fell.key == key) {
                return place;
            }
            place = (place + 1) & (self.places.len() - 1);
        }
    }

    /// The verdict at a place, and how many fell before it.
    fn at(&self, place: usize) -> Option<(usize, &Fell)> {
        let before = usize::try_from(self.places[place] & self.place_mask).ok()?.checked_sub(1)?;
        Some((before, self.fell.get(before)?))
    }

    /// Puts it in, in place of an older one of its key.
    fn push(&mut self, fell: Fell, hash: u64) {
        let place = self.place(fell.key, hash);
        self.fell.push(fell);
        self.places[place] = u32::try_from(self.fell.len()).unwrap_or_default() | self.tag(hash);
    }
}

impl Verdicts {
    /// Remembers so many.
    pub(super) fn new(most: usize) -> Self {
        let folding = Folding::default();
        Self { most, tables: VecDeque::new(), gone: 0, len: 0, folding, forgotten_early: 0 }
    }

    /// How many were forgotten before their window ended, since the start.
    pub(super) fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// The newest verdict of a key.
    pub(super) fn find(&self, key: SpanKey) -> Option<Fell> {
        let hash = self.folding.hash_one(key);
        let newest_first = self.tables.iter().enumerate().rev();
        let mut found = newest_first.filter_map(|(nth, table)| Some((nth, table.at(table.place(key, hash))?)));
        let (nth, (before, fell)) = found.next()?;
        (nth > 0 || before >= self.gone).then_some(*fell)
    }

    /// Asks memory for the places of keys that will be pushed, for all at once: one by one each would wait for its own.
    pub(super) fn fetch(&self, keys: impl Iterator<Item = SpanKey>) {
        let Some(newest) = self.tables.back() else { return };
        let entries = keys.map(|key| newest.places[newest.first_place(self.folding.hash_one(key))]);
        std::hint::black_box(entries.fold(0, |all, entry| all ^ entry));
    }

    /// Remembers one that fell now.
    pub(super) fn push(&mut self, fell: Fell) {
        let of_table = self.most.div_ceil(TABLES);
        if self.tables.back().is_none_or(|newest| newest.fell.len() >= of_table) {
            self.tables.push_back(Table::new(of_table));
        }
        if let Some(newest) = self.tables.back_mut() {
            newest.push(fell, self.folding.hash_one(fell.key));
            self.len += 1;
        }
    }

    /// Forgets what has left the window, and the oldest of what is too much.
    pub(super) fn forget(&mut self, now: i64, window_nanos: i64) {
        while let Some(oldest) = self.tables.front() {
            let surplus = self.len.saturating_sub(self.most);
            let is_young = |fell: &Fell| now.saturating_sub(fell.at) <= window_nanos;
            let rest = oldest.fell.get(self.gone..).unwrap_or_default();
            let due = rest.iter().enumerate().take_while(|(nth, fell)| *nth < surplus || !is_young(fell));
            let (due, early) =
                due.fold((0, 0), |(due, early), (_, fell)| (due + 1, early + usize::from(is_young(fell))));
            self.forgotten_early += count(early);
            self.len -= due;
            self.gone += due;
            if due < rest.len() || rest.is_empty() {
                break;
            }
            self.gone = 0;
            if self.tables.len() == 1 {
                // It will be needed again.
                self.tables.iter_mut().for_each(Table::clear);
                break;
            }
            self.tables.pop_front();
        }
    }

    /// All of them, in the order in which they fell.
    pub(super) fn all(&self) -> Vec<Fell> {
        let mut all = Vec::with_capacity(self.len);
        for (nth, table) in self.tables.iter().enumerate() {
            let gone = if nth == 0 { self.gone } else { 0 };
            all.extend_from_slice(table.fell.get(gone..).unwrap_or_default());
        }
        all
    }

    /// Remembers these, and nothing else.
    pub(super) fn put_back(&mut self, all: &[Fell]) {
        self.tables.clear();
        (self.gone, self.len) = (0, 0);
        all.iter().for_each(|fell| self.push(*fell));
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let of_table =
            |table: &Table| table.fell.capacity() * size_of::<Fell>() + table.places.len() * size_of::<u32>();
        self.tables.iter().map(of_table).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::keep::verdict::{Packed, Verdict};

    fn fell(at: i64, key: u128) -> Fell {
        Fell { at, key, verdict: Packed::of(Verdict { mark: None, whole: at % 2 == 0 }) }
    }

    proptest! {
        #[test]
        fn what_is_found_and_forgotten_is_as_in_one_long_list(
            steps in proptest::collection::vec((0_i64..4, proptest::collection::vec(0_u128..60, 0..12)), 0..60),
            most in 1_usize..50,
            window in 1_i64..40,
        ) {
            let (mut verdicts, mut list, mut early) = (Verdicts::new(most), VecDeque::new(), 0);
            let mut now = 0;
            for (passed, keys) in steps {
                now += passed;
                verdicts.forget(now, window);
                while list.front().is_some_and(|old: &Fell| list.len() > most || now - old.at > window) {
                    early += u64::from(list.pop_front().is_some_and(|old| now - old.at <= window));
                }
                for key in keys {
                    verdicts.push(fell(now, key));
                    list.push_back(fell(now, key));
                }
                let newest: HashMap<u128, Fell> = list.iter().map(|fell| (fell.key, *fell)).collect();
                for key in 0..61 {
                    prop_assert_eq!(verdicts.find(key), newest.get(&key).copied());
                }
                prop_assert_eq!(verdicts.all(), list.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(verdicts.forgotten_early(), early);
                let mut again = Verdicts::new(most);
                again.put_back(&verdicts.all());
                prop_assert_eq!(again.all(), verdicts.all());
            }
        }
    }

    #[test]
    fn memory_stays_as_it_is_however_many_verdicts_fall() {
        let mut verdicts = Verdicts::new(1_000);
        let mut most = 0;
        for nth in 0..100_000 {
            verdicts.forget(nth, i64::MAX);
            verdicts.push(fell(nth, u128::from(nth.cast_unsigned())));
            most = most.max(verdicts.memory_bytes());
        }
        assert!(most <= (TABLES + 2) * (250 * size_of::<Fell>() + 512 * size_of::<u32>()), "{most}");
    }
}
