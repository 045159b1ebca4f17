//! The distinct values of a column, numbered in the order in which they come.
//!
//! Nearly every value of a telemetry column was there a moment ago, and to find that out is most of the work of writing
//! it, to the log and to a file. So the last values are looked for first, by their ends and their length, which for short ones are all that there
//! is: no byte of them is hashed or compared. Only what is not among them is looked up in a map. The library hashes and
//! compares each value in full, and took four times as long.
//!
//! Texts are numbered a column at a time where that can be. Of most columns all texts are one, and the keys of a map are those
//! of the row before: such a column is compared with itself, moved by a row, and no text of it is looked at by itself.

use std::cmp::Ordering;
use std::ops::Range;

use arrow::array::{Array, StringArray};
use arrow::buffer::NullBuffer;

use crate::hashed::TextMap;

/// The number of a row that has no value.
pub(crate) const NO_VALUE: u32 = u32::MAX;
/// Texts among which the first one is looked for again: as many as a row has keys at most, mostly.
const PERIOD_TEXTS: usize = 128;
/// Places at which it is found, and the column compared with itself: a column whose first text is frequent has no period.
const PERIOD_TRIES: usize = 4;
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

/// Texts of a column where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a> {
    offsets: &'a [i32],
    bytes: &'a [u8],
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Texts<'a> {
    pub(crate) fn of(array: &'a StringArray) -> Self {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        Self { offsets: array.value_offsets(), bytes: array.value_data(), nulls }
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub(crate) fn has_nulls(&self) -> bool {
        self.nulls.is_some()
    }

    /// True where these are the first texts of `other`: the very same ones, not equal ones.
    pub(crate) fn begins(&self, other: &Self) -> bool {
        let is_same = std::ptr::eq(self.offsets.as_ptr(), other.offsets.as_ptr())
            && std::ptr::eq(self.bytes.as_ptr(), other.bytes.as_ptr());
        is_same && self.len() <= other.len() && self.nulls.is_none() && other.nulls.is_none()
    }

    /// The text of a row.
    #[inline]
    pub(crate) fn value(&self, row: usize) -> Option<&'a [u8]> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        self.bytes.get(at(self.offsets[row])..at(self.offsets[row + 1]))
    }

    /// Bytes of the texts of some rows, all of which have one.
    pub(crate) fn bytes_of(&self, rows: Range<usize>) -> usize {
        at(self.offsets[rows.end]) - at(self.offsets[rows.start])
    }

    /// How many texts there are before the same ones come again, to the end of the column, if that is so: one of a column
    /// whose texts are all the same, as many as a row has keys of a column of keys.
    pub(crate) fn period(&self) -> Option<usize> {
        if self.nulls.is_some() || self.len() < 2 {
            return None;
        }
        let first = self.value(0)?;
        let again = (1..=PERIOD_TEXTS.min(self.len() / 2)).filter(|row| self.value(*row) == Some(first));
        again.take(PERIOD_TRIES).find(|period| self.repeats_after(*period))
    }

    fn repeats_after(&self, period: usize) -> bool {
        let (from, moved, end) = (self.offsets[0], self.offsets[period], self.offsets[self.len()]);
        let bytes = |from: i32, to: i32| self.bytes.get(at(from)..at(to));
        if bytes(from, end - (moved - from)) != bytes(moved, end) {
            return false;
        }
        // Without an early end, so that many are compared at once.
        let pairs = self.offsets[period..].iter().zip(self.offsets);
        pairs.fold(0, |other, (later, earlier)| other | (later - earlier) ^ (moved - from)) == 0
    }
}

#[inline]
fn at(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or_default()
}

/// The values of one column.
pub(crate) struct Dictionary<'a> {
    recent: Vec<Recent<'a>>,
    column: u32,
    numbers: TextMap<&'a [u8], u32>,
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
            numbers: TextMap::default(),
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

    /// Numbers the texts of some rows, behind `numbers`. `before` is how far ahead of a text the one stands that it mostly
    /// equals.
    pub(crate) fn number_rows(&mut self, texts: Texts<'a>, rows: Range<usize>, before: usize, numbers: &mut Vec<u32>) {
        for row in rows {
            let Some(value) = texts.value(row) else {
                numbers.push(NO_VALUE);
                continue;
            };
            let same = row.checked_sub(before).filter(|earlier| texts.value(*earlier) == Some(value));
            let known = same.and_then(|_| numbers.get(numbers.len().wrapping_sub(before)).copied());
            numbers.push(known.unwrap_or_else(|| self.number(value)));
        }
    }

    /// The same of all texts of a column, of which `period` many come again and again.
    pub(crate) fn number_repeated(&mut self, texts: Texts<'a>, period: usize, numbers: &mut Vec<u32>) {
        let from = numbers.len();
        self.number_rows(texts, 0..period, period, numbers);
        while numbers.len() - from < texts.len() {
            let more = (numbers.len() - from).min(texts.len() - (numbers.len() - from));
            numbers.extend_from_within(from..from + more);
        }
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

    /// Bytes of the value that has a number.
    pub(crate) fn length(&self, number: u32) -> usize {
        usize::try_from(number).ok().and_then(|number| self.values.get(number)).map_or(0, |value| value.len())
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

    proptest! {
        #[test]
        fn a_column_is_numbered_as_its_texts_are_one_by_one(
            row in proptest::collection::vec("[ab]{0,3}", 1..6),
            times in 1_usize..9,
            changes in proptest::collection::vec((0_usize..40, proptest::option::of("[ab]{0,3}")), 0..3),
            before in 1_usize..7,
        ) {
            let mut texts: Vec<Option<String>> = row.iter().cycle().take(row.len() * times).cloned().map(Some).collect();
            for (at, text) in changes {
                if let Some(place) = texts.get_mut(at) {
                    *place = text;
                }
            }
            let array = StringArray::from(texts.clone());
            let column = Texts::of(&array);
            let (mut whole, mut single) = (Dictionary::new(), Dictionary::new());
            let mut numbers = vec![7, 8];
            match column.period() {
                Some(period) => whole.number_repeated(column, period, &mut numbers),
                None => whole.number_rows(column, 0..column.len(), before, &mut numbers),
            }
            let expected: Vec<u32> = (0..column.len()).map(|row| column.value(row).map_or(NO_VALUE, |text| single.number(text))).collect();
            prop_assert_eq!(&numbers[2..], expected);
            prop_assert_eq!(whole.values(), single.values());
            if let Some(period) = column.period() {
                prop_assert!(texts.iter().zip(&texts[period..]).all(|(text, later)| text == later));
            }
        }
    }

    #[test]
    fn keys_of_rows_and_a_column_of_one_text_have_a_period_and_a_change_ends_it() {
        let keys = ["method", "route", "method2"];
        let of = |texts: &[&str]| Texts::of(&StringArray::from(texts.to_vec())).period();
        let mut texts = keys.repeat(100);
        assert_eq!((of(&texts), of(&["one"; 9]), of(&["one"; 1]), of(&[""; 4])), (Some(3), Some(1), None, Some(1)));
        texts[200] = "other2";
        assert_eq!(of(&texts), None);
        // The same bytes, cut elsewhere.
        assert_eq!(of(&["ab", "c", "ab", "c", "a", "bc"]), None);
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
