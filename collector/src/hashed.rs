//! Maps whose keys are 128-bit hashes already: of a span, of a record, of a cell; and maps by short texts.
//!
//! Hashing such a key once more with the standard library's SipHash costs more than all else that is done with it.
//! Taking the key as it is was rejected: whoever sends records could choose ids that meet in one bucket. So a key is
//! folded with two numbers that each map draws for itself.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A map by hash.
pub(crate) type HashedMap<V> = HashMap<u128, V, Folding>;

/// The secret numbers of a map.
#[derive(Debug, Clone)]
pub(crate) struct Folding {
    low: u64,
    high: u64,
}

impl Default for Folding {
    fn default() -> Self {
        let random = RandomState::new();
        Self { low: random.hash_one(1_u8), high: random.hash_one(2_u8) }
    }
}

impl BuildHasher for Folding {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { low: self.low, high: self.high, folded: 0 }
    }
}

/// A key under the secret numbers.
#[derive(Debug)]
pub(crate) struct Folded {
    low: u64,
    high: u64,
    folded: u64,
}

#[allow(clippy::cast_possible_truncation, reason = "the halves of a number are what is wanted")]
impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.folded
    }

    /// Of a key that is no number; none of the maps has such.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u128(u128::from(*byte) ^ u128::from(self.folded));
        }
    }

    fn write_u128(&mut self, key: u128) {
        let product = u128::from(key as u64 ^ self.low) * u128::from((key >> 64) as u64 ^ self.high);
        self.folded = product as u64 ^ (product >> 64) as u64;
    }
}

/// A map by texts. The standard library's hash of a short text takes several times as long as finding it.
pub(crate) type TextMap<K, V> = HashMap<K, V, TextHashing>;

/// The secret number of a map by texts.
#[derive(Debug, Clone)]
pub(crate) struct TextHashing(u64);

impl Default for TextHashing {
    fn default() -> Self {
        Self(RandomState::new().hash_one(3_u8))
    }
}

impl BuildHasher for TextHashing {
    type Hasher = TextHash;

    fn build_hasher(&self) -> TextHash {
        TextHash(self.0)
    }
}

/// A text under the secret number.
#[derive(Debug)]
pub(crate) struct TextHash(u64);

impl Hasher for TextHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The length of a text that follows.
    fn write_usize(&mut self, length: usize) {
        self.0 ^= crate::columns::count(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_in_one_bit_are_told_apart_and_two_maps_fold_differently() {
        let (one, other) = (Folding::default(), Folding::default());
        let seen: std::collections::HashSet<u64> = (0..128).map(|bit| one.hash_one(1_u128 << bit)).collect();
        assert_eq!(seen.len(), 128);
        assert_ne!(one.hash_one(7_u128), other.hash_one(7_u128));
    }
}
