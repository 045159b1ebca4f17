//! The keys that rows of a map have, as far as they are those of a row before.
//!
//! A sender's records name the same keys in the same order again and again. Comparing them with a row before costs less than
//! to sort them, and their sorted texts are then copied as one. The last two orders are remembered, since a decision and its
//! attempts take turns. More would be a search, which costs what it saves.

use super::attributes::Entries;

/// Keys of a row beyond which it is sorted by itself: hardly any record has as many, and what is remembered stays small.
const MAX_KEYS: usize = 64;
/// Bytes of them beyond which the same holds.
const MAX_KEY_BYTES: usize = 4 << 10;

/// The keys of a row: as they came, and sorted.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// Keys in the order in which they came, one behind the other, and where each ends.
    came: Vec<u8>,
    came_ends: Vec<usize>,
    /// The numbers of these keys, if all have one.
    numbers: Vec<u16>,
    /// Places among those that came, sorted by key; of a key that stands more than once the last.
    pub(super) sorted: Vec<usize>,
    /// The sorted keys one behind the other, and where each ends.
    pub(super) keys: Vec<u8>,
    pub(super) ends: Vec<usize>,
}

impl Shape {
    fn fits(&self, entries: &Entries<'_>) -> bool {
        if entries.len() != self.came_ends.len() {
            return false;
        }
        if !self.numbers.is_empty() && self.numbers.iter().copied().eq(entries.numbers()) {
            return true;
        }
        let mut from = 0;
        entries.keys().zip(&self.came_ends).all(|(key, to)| {
            let known = &self.came[from..*to];
            from = *to;
            known == key.as_bytes()
        })
    }

    fn learn(&mut self, entries: &Entries<'_>) {
        let Self { came, came_ends, numbers, sorted, keys, ends } = self;
        numbers.clear();
        if entries.numbers().all(|number| number > 0) {
            numbers.extend(entries.numbers());
        }
        for bytes in [&mut *came, &mut *keys] {
            bytes.clear();
        }
        for places in [&mut *came_ends, &mut *sorted, &mut *ends] {
            places.clear();
        }
        let names: Vec<&str> = entries.keys().collect();
        for name in &names {
            came.extend_from_slice(name.as_bytes());
            came_ends.push(came.len());
        }
        sorted.extend(0..names.len());
        sorted.sort_by(|left, right| names[*left].cmp(names[*right]));
        // OTLP forbids a key that stands more than once; the last one counts.
        sorted.dedup_by(|later, kept| {
            let same = names[*later] == names[*kept];
            if same {
                *kept = *later;
            }
            same
        });
        for place in sorted.iter() {
            keys.extend_from_slice(names[*place].as_bytes());
            ends.push(keys.len());
        }
    }
}

/// The shapes of the rows before.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    last: Shape,
    before: Shape,
}

impl Shapes {
    /// The shape of a row; none if it is too large to be remembered.
    pub(super) fn of(&mut self, entries: &Entries<'_>) -> Option<&Shape> {
        if self.last.fits(entries) {
            return Some(&self.last);
        }
        if entries.len() > MAX_KEYS || entries.keys().map(str::len).sum::<usize>() > MAX_KEY_BYTES {
            return None;
        }
        std::mem::swap(&mut self.last, &mut self.before);
        if !self.last.fits(entries) {
            self.last.learn(entries);
        }
        Some(&self.last)
    }
}
