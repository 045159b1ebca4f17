//! Which generations of keys may hold one: a Bloom filter for each, laid side by side.
//!
//! One word has one bit for each generation, so that asking all of them costs as much as asking one. A filter per file
//! was rejected: at the rate that the window is made for there are dozens, and a record that is new asks every one.
//! The size is fixed and never grows with the load: past it false hits become more frequent, and each costs one read of
//! a page. It never says no for a key that was added.

use xxhash_rust::xxh3::xxh3_64;

/// Generations at a time: the bits of a word.
pub(crate) const GENERATIONS: u32 = u32::BITS;
/// Words at the default size: 32 MiB. Twelve million keys, 120 s of 100,000 spans a second, are found in 0.2 % of the
/// generations that do not hold them, so that one new record in fifteen reads a page in vain; at half the size nearly every
/// one would.
pub(crate) const WORDS: usize = 8 << 20;
/// Places of a key: at sixteen bits for a key more of them cost more than the false hits that they save.
const PROBES: u32 = 4;
/// Words among which all places of a key are: a page of memory. Places all over the filter were rejected, since finding the
/// address of a page that was not used for a moment costs more than reading it; that the keys of blocks differ in number
/// makes hardly a false hit more.
const BLOCK_WORDS: usize = 1_024;
/// Bits of a hash that choose one of them.
const PLACE_BITS: u32 = 16;

/// The filters of all generations.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Empty until something is added: a node with little traffic keeps its keys elsewhere.
    words: Vec<u32>,
    size: usize,
}

impl Filter {
    /// With so many words, a power of two.
    pub(crate) fn new(size: usize) -> Self {
        Self { words: Vec::new(), size: size.next_power_of_two() }
    }

    /// Adds a key to a generation.
    pub(crate) fn add(&mut self, key: u128, generation: u32) {
        if self.words.is_empty() {
            self.words = vec![0; self.size];
        }
        for place in places(key, self.size) {
            self.words[place] |= 1 << generation;
        }
    }

    /// The generations that may hold a key, a bit each.
    pub(crate) fn may_hold(&self, key: u128) -> u32 {
        if self.words.is_empty() {
            return 0;
        }
        places(key, self.size).fold(u32::MAX, |found, place| found & self.words[place])
    }

    /// A filter of one generation by itself, to be filled apart from the others.
    pub(crate) fn plane(&self) -> Plane {
        Plane { bits: vec![0; self.size.div_ceil(64)], size: self.size }
    }

    /// Adds everything of a plane to a generation.
    pub(crate) fn put(&mut self, plane: &Plane, generation: u32) {
        if self.words.is_empty() {
            self.words = vec![0; self.size];
        }
        for (words, bits) in self.words.chunks_mut(64).zip(&plane.bits) {
            for (at, word) in words.iter_mut().enumerate() {
                *word |= u32::from((bits >> at) & 1 == 1) << generation;
            }
        }
    }

    /// Empties a generation.
    pub(crate) fn clear(&mut self, generation: u32) {
        for word in &mut self.words {
            *word &= !(1 << generation);
        }
    }

    /// Adds everything of one generation to another.
    pub(crate) fn fold(&mut self, from: u32, into: u32) {
        for word in &mut self.words {
            *word |= ((*word >> from) & 1) << into;
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.words.len() * size_of::<u32>()
    }
}

/// A bit for each place: small enough to be filled in a processor's cache.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    bits: Vec<u64>,
    size: usize,
}

impl Plane {
    /// Adds a key.
    pub(crate) fn add(&mut self, key: u128) {
        for place in places(key, self.size) {
            self.bits[place / 64] |= 1 << (place % 64);
        }
    }
}

/// The block follows from the first bits of the key, which is a hash: keys that come sorted, as out of memory and in runs,
/// go through the filter from its beginning to its end.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a product of a number of 64 bits and one of blocks, cut to the latter"
)]
fn places(key: u128, size: usize) -> impl Iterator<Item = usize> {
    let block = size.min(BLOCK_WORDS);
    let blocks = (size / block) as u128;
    let first = (((key >> 64) * blocks) >> 64) as usize * block;
    let hash = xxh3_64(&key.to_le_bytes());
    (0..PROBES).map(move |probe| first + ((hash >> (probe * PLACE_BITS)) as usize & (block - 1)))
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    fn key(of: u128) -> u128 {
        xxh3_128(&of.to_le_bytes())
    }

    #[test]
    fn a_key_is_found_in_every_generation_that_it_was_added_to_and_seldom_in_others() {
        let mut filter = Filter::new(1 << 15);
        for of in 0..4_096_u128 {
            filter.add(key(of), u32::from(of % 2 == 0));
        }
        assert!((0..4_096).all(|of| filter.may_hold(key(of)) & (1 << u32::from(of % 2 == 0)) > 0));
        let wrong = (4_096..14_096).filter(|of| filter.may_hold(key(*of)) > 0).count();
        assert!(wrong < 200, "{wrong} of 10,000 unknown keys may be held at 16 bits a key");
        filter.fold(1, 5);
        filter.clear(1);
        assert!((0..4_096).step_by(2).all(|of| filter.may_hold(key(of)) & (1 << 5) > 0));
        assert!((0..4_096).any(|of| filter.may_hold(key(of)) & (1 << 1) == 0));
    }

    #[test]
    fn a_plane_that_is_put_in_finds_what_keys_that_are_added_would() {
        let (mut added, mut put) = (Filter::new(1 << 8), Filter::new(1 << 8));
        let mut plane = put.plane();
        for of in 0..40 {
            added.add(key(of), 3);
            plane.add(key(of));
        }
        put.put(&plane, 3);
        assert!((0..10_000).all(|of| added.may_hold(key(of)) == put.may_hold(key(of))));
    }
}
