//! The distinct values of a column, numbered in the order in which they come.
//!
//! Nearly every value of a telemetry column was there a moment ago, and to find that out is most of the work of writing
//! it, to the log and to a file. So the last values are looked for first, by their ends and their length, which for short ones are all that there
//! is: no byte of them is hashed or compared. Only what is not among them is looked up in a map. The library hashes and
//! compares each value in full, and took four times as long.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Places for the last values: more than most columns have at a time.
const RECENT: usize = 1_024;
/// Bytes that are looked at on each side of a value.
const END_BYTES: usize = 8;

/// A value that came a moment ago.
#[derive(Clone, Copy)]
struct Recent<'a> {
    head: u64,
    tail: u64,
    value: &'a [u8],
    number: u32,
    /// The column that it is of, counted from 1.
    column: u32,
}

impl Recent<'_> {
    /// Of no column.
    const NONE: Self = Self { head: 0, tail: 0, value: &[], number: 0, column: 0 };
}

/// The values of one column.
pub(crate) struct Dictionary<'a> {
    recent: Vec<Recent<'a>>,
    column: u32,
    numbers: HashMap<&'a [u8], u32>,
    values: Vec<&'a [u8]>,
    bytes: usize,
    /// For each value the round in which it was last seen, see [`Self::extremes`].
    seen: Vec<u32>,
    round: u32,
}

impl<'a> Dictionary<'a> {
    pub(crate) fn new() -> Self {
        Self {
            recent: vec![Recent::NONE; RECENT],
            column: 1,
            numbers: HashMap::new(),
            values: Vec::new(),
            bytes: 0,
            seen: Vec::new(),
            round: 0,
        }
    }

    /// Begins another column.
    pub(crate) fn clear(&mut self) {
        self.column += 1;
        self.numbers.clear();
        self.values.clear();
        self.seen.clear();
        self.bytes = 0;
    }

    /// The number of a value, which is a new one if the value is.
    #[inline]
    pub(crate) fn number(&mut self, value: &'a [u8]) -> u32 {
        let (head, tail) = ends(value);
        let place = place(head, tail, value.len());
        let recent = &self.recent[place];
        let same_ends = recent.head == head && recent.tail == tail && recent.value.len() == value.len();
        if same_ends && recent.column == self.column && (value.len() <= 2 * END_BYTES || recent.value == value) {
            return recent.number;
        }
        let number = self.find(value);
        self.recent[place] = Recent { head, tail, value, number, column: self.column };
        number
    }

    fn find(&mut self, value: &'a [u8]) -> u32 {
        // What cannot be numbered is more than any dictionary may hold, see `bytes`.
        let next = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(value).or_insert(next);
        if number == next {
            self.bytes += value.len();
            self.values.push(value);
        }
        number
    }

    /// The values in the order of their numbers.
    pub(crate) fn values(&self) -> &[&'a [u8]] {
        &self.values
    }

    /// Bytes of all values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The least and the greatest of some values, given by their numbers.
    pub(crate) fn extremes(
        &mut self,
        numbers: &[u32],
        order: fn(&[u8], &[u8]) -> Ordering,
    ) -> Option<(&'a [u8], &'a [u8])> {
        self.round += 1;
        self.seen.resize(self.values.len(), 0);
        let mut extremes: Option<(&[u8], &[u8])> = None;
        let mut last = None;
        for number in numbers {
            if last.replace(*number) == Some(*number) {
                continue;
            }
            let at = usize::try_from(*number).unwrap_or(usize::MAX);
            if std::mem::replace(&mut self.seen[at], self.round) == self.round {
                continue;
            }
            let value = self.values[at];
            extremes = Some(extremes.map_or((value, value), |(least, greatest)| {
                (
                    if order(value, least).is_lt() { value } else { least },
                    if order(value, greatest).is_gt() { value } else { greatest },
                )
            }));
        }
        extremes
    }
}

/// The first and the last bytes of a value; with the length they are all of a value of at most sixteen.
#[inline]
fn ends(value: &[u8]) -> (u64, u64) {
    match (value.first_chunk::<END_BYTES>(), value.last_chunk::<END_BYTES>()) {
        (Some(head), Some(tail)) => (u64::from_le_bytes(*head), u64::from_le_bytes(*tail)),
        _ => match (value.first_chunk::<4>(), value.last_chunk::<4>()) {
            (Some(head), Some(tail)) => {
                (u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << 32, 0)
            }
            _ => (value.iter().fold(0, |ends, byte| ends << 8 | u64::from(*byte)), 0),
        },
    }
}

/// Where such a value stands among the last ones.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the upper bits are wanted, and are fewer than any usize has")]
fn place(head: u64, tail: u64, length: usize) -> usize {
    /// Odd and without a pattern, so that a product's upper bits depend on all of a value's.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (head ^ tail.rotate_left(23) ^ length as u64).wrapping_mul(SPREAD);
    (mixed >> (u64::BITS - RECENT.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_values_have_one_number_and_others_another(
            texts in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..20), 0..400),
        ) {
            let mut dictionary = Dictionary::new();
            let numbers: Vec<u32> = texts.iter().map(|text| dictionary.number(text)).collect();
            for (text, number) in texts.iter().zip(&numbers) {
                prop_assert_eq!(dictionary.values()[*number as usize], text.as_slice());
            }
            let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
            prop_assert_eq!(dictionary.values().len(), distinct.len());
            prop_assert_eq!(dictionary.bytes(), distinct.iter().map(|text| text.len()).sum::<usize>());
            let (some, _) = numbers.split_at(numbers.len() / 2);
            let expected = texts[..some.len()].iter();
            let extremes = dictionary.extremes(some, <[u8]>::cmp);
            prop_assert_eq!(extremes.map(|(least, _)| least.to_vec()), expected.clone().min().cloned());
            prop_assert_eq!(extremes.map(|(_, greatest)| greatest.to_vec()), expected.max().cloned());
        }
    }

    #[test]
    fn values_that_meet_in_one_place_are_told_apart() {
        let values: Vec<Vec<u8>> =
            (0..20_000_u32).map(|n| format!("/orders/{n}/a/long/middle/{n}").into_bytes()).collect();
        let mut dictionary = Dictionary::new();
        for round in 0..2 {
            for (expected, value) in (0..).zip(&values) {
                assert_eq!(dictionary.number(value), expected, "round {round}");
            }
        }
    }
}
