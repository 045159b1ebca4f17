//! The seed of a selection's draws, as a function of what every record of it says anyhow: its boot, its decision's number
//! and its own. A seed of its own in each record would be eight random bytes that no encoding makes smaller. The proxy
//! that draws, whoever tells a selection and whoever runs one again use this one definition.
//!
//! It keeps nothing secret: who may read the record may know the draws. What must not be guessed by a client has a random
//! seed in the proxy.

use crate::ids::BootId;

/// The seed of the `selection`th selection (from 1) of a decision. Over the numbers of one boot no two first selections
/// share one.
#[must_use]
pub const fn selection_seed(boot_id: BootId, decision_seq: u64, selection: u64) -> u64 {
    let (upper, lower) = boot_id.0.as_u64_pair();
    mix(mix(mix(upper ^ lower) ^ decision_seq) ^ selection)
}

/// One step of SplitMix64: each number has another, and near ones have far ones.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_mixing_is_splitmix64() {
        // The first numbers of the reference implementation for seed 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn a_seed_is_the_same_for_everybody() {
        let boot_id: BootId = "0192f0c4-8a5b-4c3d-9e1f-0123456789ab".parse().unwrap();
        assert_eq!(selection_seed(boot_id, 7, 1), 0xd9c1_7d23_c991_910d);
    }

    #[test]
    fn seeds_of_boots_decisions_and_selections_differ() {
        let mut seeds = HashSet::new();
        for boot in 1..=4 {
            for decision_seq in 1..=2_000 {
                for selection in 1..=3 {
                    assert!(seeds.insert(selection_seed(BootId(Uuid::from_u128(boot)), decision_seq, selection)));
                }
            }
        }
    }
}
