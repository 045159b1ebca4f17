//! A simulated chain that several providers share. Its blocks are a function of a seed and a number, never stored:
//! two providers that are asked for block n answer the same bytes, however far apart in time, and a run repeats from
//! its seed. A stored chain was rejected, since it would grow for as long as a demo runs and would need a lock on each
//! read. Forks are made by hand only, and there is no state: balances and code are derived from the address.

pub(crate) mod block;
mod identity;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use identity::{Domain, derive_bytes, fingerprint, hex_data, hex_quantity, item_of_hash};

/// Seconds that a hand-driven chain counts from: the time of its block 0, so that its blocks never depend on a clock.
const MANUAL_GENESIS_UNIX_S: u64 = 1_700_000_000;

/// What a chain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChainSettings {
    /// What every hash of the chain is derived from.
    pub seed: u64,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Time between two blocks, milliseconds.
    pub block_time_ms: u64,
    /// Height at the moment of creation.
    pub start_height: u64,
}

impl Default for ChainSettings {
    fn default() -> Self {
        Self { seed: 1, chain_id: 1, block_time_ms: 2_000, start_height: 21_000_000 }
    }
}

#[derive(Debug)]
enum Clock {
    Timed { started: Instant, started_unix_s: u64 },
    Manual { height: watch::Sender<u64> },
}

/// A simulated chain; shared between providers in an `Arc`.
#[derive(Debug)]
pub struct Chain {
    settings: ChainSettings,
    clock: Clock,
    /// First blocks of the forks that won, in their order.
    forks: watch::Sender<Vec<u64>>,
}

impl Chain {
    /// A chain that grows by itself, one block every `block_time_ms` from now on.
    #[must_use]
    pub fn new(settings: ChainSettings) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = Clock::Timed { started: Instant::now(), started_unix_s: now.as_secs() };
        Self { settings, clock, forks: watch::Sender::default() }
    }

    /// A chain that grows only by [`Chain::advance`], for tests.
    #[must_use]
    pub fn manual(settings: ChainSettings) -> Self {
        let (height, _) = watch::channel(settings.start_height);
        Self { settings, clock: Clock::Manual { height }, forks: watch::Sender::default() }
    }

    /// What the chain is.
    #[must_use]
    pub fn settings(&self) -> &ChainSettings {
        &self.settings
    }

    /// Number of the newest block.
    #[must_use]
    pub fn height(&self) -> u64 {
        match &self.clock {
            Clock::Timed { started, .. } => {
                let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.settings.start_height.saturating_add(elapsed_ms / self.block_time_ms())
            }
            Clock::Manual { height } => *height.borrow(),
        }
    }

    /// Adds `blocks` to a chain made with [`Chain::manual`]; one that grows by itself is left alone.
    pub fn advance(&self, blocks: u64) {
        if let Clock::Manual { height } = &self.clock {
            height.send_modify(|height| *height = height.saturating_add(blocks));
        }
    }

    /// Puts other blocks in the place of those from `number` on; the height stays. Subscriptions announce them anew.
    pub fn reorganise(&self, number: u64) {
        self.forks.send_modify(|forks| forks.push(number));
    }

    /// The forks that won so far, and each one after them.
    pub(crate) fn forks(&self) -> watch::Receiver<Vec<u64>> {
        self.forks.subscribe()
    }

    /// What the hash of a block is derived from: another seed on each fork.
    fn seed_of(&self, number: u64) -> u64 {
        let forks = self.forks.borrow().iter().filter(|first| **first <= number).count();
        self.settings.seed.wrapping_add((forks as u64) << 32)
    }

    /// Returns once the chain is at least `wanted` blocks high.
    pub async fn reached(&self, wanted: u64) {
        match &self.clock {
            Clock::Timed { started, .. } => {
                let blocks = wanted.saturating_sub(self.settings.start_height);
                tokio::time::sleep_until(*started + Duration::from_millis(blocks.saturating_mul(self.block_time_ms())))
                    .await;
            }
            Clock::Manual { height } => {
                // The sender lives in this very chain, so that the wait cannot end by its being dropped.
                let _ = height.subscribe().wait_for(|height| *height >= wanted).await;
            }
        }
    }

    /// Time of block `number`, Unix seconds.
    #[must_use]
    pub(crate) fn block_unix_s(&self, number: u64) -> u64 {
        match &self.clock {
            Clock::Timed { started_unix_s, .. } => {
                let start = self.settings.start_height;
                if number >= start {
                    started_unix_s.saturating_add((number - start).saturating_mul(self.block_time_ms()) / 1_000)
                } else {
                    started_unix_s.saturating_sub((start - number).saturating_mul(self.block_time_ms()) / 1_000)
                }
            }
            Clock::Manual { .. } => {
                MANUAL_GENESIS_UNIX_S.saturating_add(number.saturating_mul(self.block_time_ms()) / 1_000)
            }
        }
    }

    fn block_time_ms(&self) -> u64 {
        self.settings.block_time_ms.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chain_grows_by_one_block_per_block_time() {
        let chain = Chain::new(ChainSettings { block_time_ms: 20, start_height: 100, ..ChainSettings::default() });
        let started = Instant::now();
        chain.reached(104).await;
        assert!(started.elapsed() >= Duration::from_millis(79), "block 104 came after {:?}", started.elapsed());
        assert!(chain.height() >= 104);
    }

    #[tokio::test]
    async fn a_manual_chain_grows_only_by_hand() {
        let chain = Chain::manual(ChainSettings { start_height: 7, ..ChainSettings::default() });
        chain.advance(3);
        chain.reached(10).await;
        assert_eq!(chain.height(), 10);
    }
}
