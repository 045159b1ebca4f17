//! From which height on a chain's blocks can no longer change, as far as the cache trusts it: some blocks below the height
//! that most providers agree on. The tag `finalized` would say it exactly and costs a call; a chain's distance is a
//! constant, chosen so that what is final by this rule is final by the chain's own.

/// Distance where the chain is not listed.
const DEFAULT_DEPTH: u64 = 64;
/// Three epochs of 32 slots: what is justified two epochs ago is final in all but the worst case.
const BEACON_DEPTH: u64 = 96;
/// Polygon has seen reorganisations of more than a hundred blocks.
const POLYGON_DEPTH: u64 = 512;
/// An hour of blocks of two seconds. A rollup's blocks are final when its batches are on Ethereum, some 20 minutes later.
const ROLLUP_2S_DEPTH: u64 = 1_800;
/// An hour of blocks of a second.
const ROLLUP_1S_DEPTH: u64 = 3_600;
/// An hour of blocks of a quarter of a second.
const ROLLUP_250MS_DEPTH: u64 = 14_400;

/// Blocks between the agreed height and the newest that is final.
pub(crate) const fn depth(chain_id: u64) -> u64 {
    match chain_id {
        // Ethereum, Holesky, Hoodi, Sepolia.
        1 | 17_000 | 560_048 | 11_155_111 => BEACON_DEPTH,
        // Polygon, Amoy.
        137 | 80_002 => POLYGON_DEPTH,
        // OP Mainnet, OP Sepolia, Base, Base Sepolia, Blast, Mode, Zora, Linea, Scroll, Mantle.
        10 | 11_155_420 | 8_453 | 84_532 | 81_457 | 34_443 | 7_777_777 | 59_144 | 534_352 | 5_000 => ROLLUP_2S_DEPTH,
        // zkSync Era, Unichain, World Chain, Ink.
        324 | 130 | 480 | 57_073 => ROLLUP_1S_DEPTH,
        // Arbitrum One, Nova, Sepolia.
        42_161 | 42_170 | 421_614 => ROLLUP_250MS_DEPTH,
        _ => DEFAULT_DEPTH,
    }
}

/// The newest final height, of the heights that providers have reported lately. It counts from the lower median: of two
/// or more providers a single one that runs ahead, or lies, cannot make young blocks final.
pub(crate) fn final_height(heights: impl Iterator<Item = u64>, chain_id: u64) -> Option<u64> {
    let mut heights: Vec<u64> = heights.collect();
    heights.sort_unstable();
    let agreed = heights.get(heights.len().checked_sub(1)? / 2)?;
    agreed.checked_sub(depth(chain_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_provider_that_runs_ahead_makes_nothing_final() {
        let height = |heights: &[u64]| final_height(heights.iter().copied(), 4_242);
        assert_eq!(height(&[1_000]), Some(936));
        assert_eq!(height(&[1_000, 9_000]), Some(936));
        assert_eq!(height(&[9_000, 1_000, 1_001]), Some(937));
        assert_eq!(height(&[1_000, 1_001, 9_000, 8_000]), Some(937));
        assert_eq!(height(&[]), None, "nothing is final where no height is known");
        assert_eq!(height(&[63]), None);
    }

    #[test]
    fn rollups_wait_for_an_hour_of_their_blocks() {
        assert_eq!((depth(1), depth(8_453), depth(42_161)), (96, 1_800, 14_400));
    }
}
