//! Hashes of a simulated chain: 32 bytes that look random, are a function of (seed, kind, number, index), and can be
//! taken apart again by whoever knows the seed. That is how a transaction is found by its hash without an index: the
//! last twelve bytes are the number and index under a mask made of the first twenty.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Multiplier of the 64-bit FNV-1a hash.
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// Start value of the 64-bit FNV-1a hash.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// What a hash names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domain {
    /// A block.
    Block,
    /// A transaction in a block.
    Transaction,
    /// A root, an address or other content that nobody looks up.
    Content,
    /// A transaction that waits for its block.
    Pending,
}

impl Domain {
    const fn salt(self) -> u64 {
        match self {
            Self::Block => 0x626c_6f63_6b00_0001,
            Self::Transaction => 0x7472_616e_7300_0002,
            Self::Content => 0x636f_6e74_6500_0003,
            Self::Pending => 0x7065_6e64_6900_0004,
        }
    }
}

/// A hash of text and bytes that need no secrecy, only to be the same for the same input.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The 32 bytes of item `index` of number `number`.
pub(crate) fn derive_bytes(seed: u64, domain: Domain, number: u64, index: u32) -> [u8; 32] {
    let mut place = [0; 20];
    place[..8].copy_from_slice(&number.to_be_bytes());
    place[8..12].copy_from_slice(&index.to_be_bytes());
    place[12..].copy_from_slice(&domain.salt().to_be_bytes());
    let mut bytes = [0; 32];
    ChaCha8Rng::seed_from_u64(seed ^ fingerprint(&place)).fill(&mut bytes[..20]);
    let mask = mask_of(seed, domain, &bytes[..20]);
    for (i, byte) in place[..12].iter().enumerate() {
        bytes[20 + i] = byte ^ mask[i];
    }
    bytes
}

/// The number and index that `hash` was made of, if this chain made it.
pub(crate) fn item_of_hash(seed: u64, domain: Domain, hash: &[u8; 32]) -> Option<(u64, u32)> {
    let mask = mask_of(seed, domain, &hash[..20]);
    let mut place = [0; 12];
    for (i, byte) in place.iter_mut().enumerate() {
        *byte = hash[20 + i] ^ mask[i];
    }
    let number = u64::from_be_bytes(place[..8].try_into().ok()?);
    let index = u32::from_be_bytes(place[8..].try_into().ok()?);
    (derive_bytes(seed, domain, number, index) == *hash).then_some((number, index))
}

fn mask_of(seed: u64, domain: Domain, head: &[u8]) -> [u8; 12] {
    let mut mask = [0; 12];
    ChaCha8Rng::seed_from_u64(fingerprint(head) ^ seed.rotate_left(17) ^ domain.salt()).fill(&mut mask[..]);
    mask
}

/// Bytes as Ethereum writes data: `0x` and two digits for each.
pub(crate) fn hex_data(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A number as Ethereum writes quantities: `0x` and no leading zeros.
pub(crate) fn hex_quantity(number: u64) -> String {
    format!("{number:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_leads_back_to_its_number_on_its_own_chain_only() {
        let hash = derive_bytes(7, Domain::Transaction, 21_000_000, 3);
        assert_eq!(item_of_hash(7, Domain::Transaction, &hash), Some((21_000_000, 3)));
        assert_eq!(item_of_hash(8, Domain::Transaction, &hash), None);
        assert_eq!(item_of_hash(7, Domain::Block, &hash), None);
    }
}
