//! The hashes of a chain's latest blocks as providers announce them, to notice that what was final was not. A
//! reorganisation within the finality distance is everyday and costs the cache nothing; one below it makes what is kept
//! wrong, and shows in no height where the new fork is as high. Only what is announced is looked at: asking for old blocks
//! from time to time was rejected, since it would cost calls where nothing is wrong, which is always. Pure.

use std::collections::BTreeMap;

pub(crate) type BlockHash = [u8; 32];

/// A head as a provider announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) hash: BlockHash,
    pub(crate) parent: Option<BlockHash>,
}

/// What is remembered of a chain: blocks of twice the finality distance below its height, and of once above it.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    hashes: BTreeMap<u64, BlockHash>,
    /// Highest height that was reported since it last fell.
    highest: u64,
    /// What it was before, if it fell and no head came since: the head that shows why may be noted a moment later.
    fell_from: Option<u64>,
}

impl Lineage {
    /// Notes the greatest of the heights that providers report. True where it has fallen by what lies above the final one.
    pub(super) fn observe(&mut self, highest: u64, depth: u64) -> bool {
        let has_fallen = self.highest.saturating_sub(highest) >= depth;
        if has_fallen {
            self.fell_from = Some(std::mem::replace(&mut self.highest, highest));
        } else {
            self.highest = self.highest.max(highest);
        }
        has_fallen
    }

    /// Notes a head. Says which block is another one than it was, the lowest that is known of, if that was final `depth`
    /// blocks below the height.
    pub(super) fn note(&mut self, head: &Head, depth: u64) -> Option<u64> {
        let highest = self.fell_from.take().map_or(self.highest, |before| before.max(self.highest));
        let oldest = highest.saturating_sub(depth.saturating_mul(2));
        self.hashes = self.hashes.split_off(&oldest);
        if head.number < oldest || head.number > highest.saturating_add(depth) {
            return None;
        }
        let below = head.number.checked_sub(1).filter(|below| *below >= oldest).zip(head.parent);
        let turned = [Some((head.number, head.hash)), below]
            .into_iter()
            .flatten()
            .filter(|(number, hash)| self.hashes.insert(*number, *hash).is_some_and(|before| before != *hash))
            .map(|(number, _)| number)
            .min()?;
        // What is above it was of the fork that is gone: it tells nothing of this one.
        let _of_the_old_fork = self.hashes.split_off(&(head.number + 1));
        (turned <= highest.saturating_sub(depth)).then_some(turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPTH: u64 = 10;

    fn head(number: u64, fork: u8) -> Head {
        let hash = |number: u64| {
            let mut hash = [fork; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            hash
        };
        Head { number, hash: hash(number), parent: Some(hash(number - 1)) }
    }

    fn grown(to: u64) -> Lineage {
        let mut lineage = Lineage::default();
        for number in 100..=to {
            assert!(!lineage.observe(number, DEPTH));
            assert_eq!(lineage.note(&head(number, 0), DEPTH), None);
        }
        lineage
    }

    #[test]
    fn a_fork_above_what_is_final_is_everyday() {
        let mut lineage = grown(130);
        for number in 122..=130 {
            assert_eq!(lineage.note(&head(number, 1), DEPTH), None, "{number}");
        }
        assert_eq!(lineage.note(&head(131, 1), DEPTH), None);
    }

    #[test]
    fn another_block_where_one_was_final_is_told_once() {
        let mut lineage = grown(130);
        let told: Vec<_> = (118..=131).filter_map(|number| lineage.note(&head(number, 1), DEPTH)).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0] <= 120);
    }

    #[test]
    fn it_is_told_once_whether_the_height_or_the_head_is_seen_to_fall_first() {
        for falls_first in [false, true] {
            let mut lineage = grown(130);
            assert!(lineage.observe(115, DEPTH));
            lineage.observe(130, DEPTH);
            assert_eq!(lineage.note(&head(130, 0), DEPTH), None, "a provider that lags is no fork");
            assert_eq!(falls_first && lineage.observe(115, DEPTH), falls_first);
            assert_eq!(lineage.note(&head(115, 1), DEPTH), Some(114), "{falls_first}");
            lineage.observe(115, DEPTH);
            let told: Vec<_> = (116..=131).filter_map(|number| lineage.note(&head(number, 1), DEPTH)).collect();
            assert!(told.is_empty(), "{falls_first}: {told:?}");
        }
    }

    #[test]
    fn another_parent_tells_it_too_and_the_same_heads_of_another_provider_tell_nothing() {
        let mut lineage = grown(130);
        for number in 112..=130 {
            assert_eq!(lineage.note(&head(number, 0), DEPTH), None);
        }
        // The fork begins at the parent of the first head that is announced.
        assert_eq!(lineage.note(&head(121, 1), DEPTH), Some(120));
    }

    #[test]
    fn what_is_far_above_or_below_is_not_remembered_and_memory_is_bounded() {
        let mut lineage = grown(130);
        assert_eq!(lineage.note(&head(u64::MAX, 1), DEPTH), None);
        assert_eq!(lineage.note(&head(100, 1), DEPTH), None);
        for number in 131..2_000 {
            lineage.observe(number, DEPTH);
            lineage.note(&head(number, 0), DEPTH);
        }
        assert!(lineage.hashes.len() <= 3 * 10 + 2, "{}", lineage.hashes.len());
    }
}
