//! The bytes that stand between the first byte of a request and the log: one sum of everything that the stage holds, and
//! the most that it ever was.
//!
//! Each part has a bound of its own where it grows; the sum is what the design bounds and what an operator can compare
//! with it. Asking the allocator was rejected: it knows neither which stage memory belongs to nor what of it is held.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What holds bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A frame of each connection, before it is known which request it is of.
    Connections,
    /// Requests from their first byte to the acknowledgement: bodies, then rows.
    Requests,
    /// Columns that say who sent requests, kept for their next ones.
    Senders,
    /// Entries of the log that are being written.
    Entries,
    /// Keys of the dedup window that are in memory, and the filter before the others.
    Keys,
    /// Spans that wait for their root, and verdicts.
    Undecided,
}

/// All parts with their names on `/metrics`.
pub(crate) const PARTS: [(Part, &str); 6] = [
    (Part::Connections, "connections"),
    (Part::Requests, "requests"),
    (Part::Senders, "senders"),
    (Part::Entries, "entries"),
    (Part::Keys, "keys"),
    (Part::Undecided, "undecided"),
];

/// Bytes by part.
#[derive(Debug, Default)]
pub(crate) struct Held {
    parts: [AtomicUsize; PARTS.len()],
    peak: AtomicUsize,
}

impl Held {
    /// Bytes that a part holds.
    pub(crate) fn of(&self, part: Part) -> usize {
        self.parts[part as usize].load(Ordering::Relaxed)
    }

    /// The most that all parts held together.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// A part holds so much from now on.
    pub(crate) fn set(&self, part: Part, bytes: usize) {
        self.parts[part as usize].store(bytes, Ordering::Relaxed);
        self.note();
    }

    /// A part holds so much more.
    pub(crate) fn add(&self, part: Part, bytes: usize) {
        self.parts[part as usize].fetch_add(bytes, Ordering::Relaxed);
        self.note();
    }

    /// The same, unless it would hold more than `limit`; false if so.
    pub(crate) fn try_add(&self, part: Part, bytes: usize, limit: usize) -> bool {
        let grown = |held: usize| held.checked_add(bytes).filter(|total| *total <= limit);
        let added = self.parts[part as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if added {
            self.note();
        }
        added
    }

    /// A part holds so much less.
    pub(crate) fn give_back(&self, part: Part, bytes: usize) {
        self.parts[part as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    fn note(&self) {
        let sum = self.parts.iter().map(|part| part.load(Ordering::Relaxed)).fold(0, usize::saturating_add);
        self.peak.fetch_max(sum, Ordering::Relaxed);
    }
}

/// Bytes of a hash map's table, by its capacity: one in eight places stays free, and each has a byte of its own.
pub(crate) fn table_bytes<K, V>(capacity: usize) -> usize {
    (capacity / 7 * 8).saturating_mul(size_of::<(K, V)>() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_of_the_sum_and_stays_when_the_parts_shrink() {
        let held = Held::default();
        held.add(Part::Requests, 60);
        held.set(Part::Keys, 50);
        held.give_back(Part::Requests, 60);
        held.set(Part::Undecided, 20);
        assert_eq!((held.of(Part::Requests), held.of(Part::Keys), held.peak()), (0, 50, 110));
        assert!(!held.try_add(Part::Requests, 11, 10) && held.try_add(Part::Requests, 10, 10));
        assert_eq!((held.of(Part::Requests), held.peak()), (10, 110));
    }

    #[test]
    fn a_table_is_counted_as_large_as_it_is() {
        let map: std::collections::HashMap<u128, u64> = (0..1_000_u64).map(|key| (u128::from(key), key)).collect();
        // 2,048 places of a key, a value and the padding between them, and a byte each.
        assert_eq!(table_bytes::<u128, u64>(map.capacity()), 2_048 * 33);
    }
}
