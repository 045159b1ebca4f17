//! What is known of the upstreams: circuits, rate limits, latencies, heights. Calls and probes write it down in a
//! [`Book`] under one short lock per channel; a decision reads only a [`Snapshot`], immutable and numbered, so that what
//! it saw can be told afterwards and two decisions of one snapshot saw the same. Reading the live state instead would
//! be fresher by a few milliseconds and could not be replayed. Transitions publish at once, evidence within
//! [`PUBLISH_EVERY`].

mod book;
pub(crate) mod evidence;
mod heights;
mod latencies;
mod status;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lariat_schema::vocabulary::{CircuitState, Transport};

use crate::profiles::ProfileKey;
use crate::upstream::LinkView;
pub(crate) use book::{Admission, Book, Change, Succession};
use evidence::Evidence;
pub(crate) use heights::Noted;
pub(crate) use status::{Health, Status};

/// How long evidence may wait for the next snapshot.
pub(crate) const PUBLISH_EVERY: Duration = Duration::from_millis(25);
/// Age beyond which a height says nothing of the consensus.
pub(crate) const HEIGHT_MAX_AGE_MS: u64 = 30_000;
/// Most time for which a height is credited with blocks that should have come since.
const OPTIMISM_MS: f64 = 30_000.0;
/// Time between blocks where the profile does not say.
const DEFAULT_BLOCK_TIME_MS: u64 = 12_000;

/// Index of a channel: the instance's, times two, plus one for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChannelIndex(pub(crate) usize);

impl ChannelIndex {
    pub(crate) const fn new(instance: usize, transport: Transport) -> Self {
        Self(instance * 2 + matches!(transport, Transport::Ws) as usize)
    }
    pub(crate) const fn instance(self) -> usize {
        self.0 / 2
    }
    pub(crate) const fn transport(self) -> Transport {
        if self.0.is_multiple_of(2) { Transport::Http } else { Transport::Ws }
    }
}

/// A provider by its place in the catalog: profile, chain, provider.
pub(crate) type Place = (usize, usize, usize);

/// What evidence is kept under: a profile and a method. A profile's key stays when its place in the catalog changes.
pub(crate) type EvidenceKey = (ProfileKey, &'static str);

/// A reported height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Height {
    pub(crate) height: u64,
    pub(crate) at_ms: u64,
}

/// What is known of a channel.
#[derive(Debug, Clone)]
pub(crate) struct ChannelView {
    pub(crate) circuit: CircuitState,
    pub(crate) epoch: u64,
    /// When an open circuit is tried again.
    pub(crate) open_until_ms: u64,
    pub(crate) trial_under_way: bool,
    /// Until when the provider is taken to limit us.
    pub(crate) limited_until_ms: u64,
    /// Latency of the probes.
    pub(crate) prior_ms: Option<f64>,
    pub(crate) evidence: Arc<HashMap<EvidenceKey, Evidence>>,
}

/// Everything that a decision may know, as it was at one moment of the book's clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) number: u64,
    pub(crate) channels: Vec<ChannelView>,
    /// The height that each instance is believed to have.
    pub(crate) heights: Vec<Option<Height>>,
    /// Instances whose latest report of a height is not believed.
    pub(crate) doubted: HashSet<usize>,
    /// By chain id, the time between blocks where it is learned, in milliseconds.
    pub(crate) block_times_ms: HashMap<u64, f64>,
    pub(crate) sockets: Vec<LinkView>,
    pub(crate) health: Vec<Health>,
    pub(crate) drained: HashSet<Place>,
}

impl Snapshot {
    pub(crate) fn channel(&self, channel: ChannelIndex) -> &ChannelView {
        &self.channels[channel.0]
    }

    /// How the socket of an instance stands; not connected where it has none.
    pub(crate) fn socket(&self, instance: usize) -> LinkView {
        self.sockets.get(instance).copied().unwrap_or_default()
    }

    /// Whether the latest report of an instance's height is not believed.
    pub(crate) fn is_doubted(&self, instance: usize) -> bool {
        self.doubted.contains(&instance)
    }

    /// The time between blocks of a chain: learned, or as configured, or a guess.
    pub(crate) fn block_time_ms(&self, chain_id: u64, configured_ms: Option<u64>) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a setting far below 2^52")]
        let configured = configured_ms.unwrap_or(DEFAULT_BLOCK_TIME_MS) as f64;
        self.block_times_ms.get(&chain_id).copied().unwrap_or(configured).max(1.0)
    }

    /// Consensus height of the given upstreams: of the heights that are fresh, the one a quarter from the top, so that
    /// one provider that runs ahead does not make all others lag.
    pub(crate) fn consensus(&self, instances: impl Iterator<Item = usize>, now_ms: u64) -> Option<u64> {
        let mut fresh: Vec<u64> = instances
            .filter_map(|instance| self.heights[instance])
            .filter(|height| now_ms.saturating_sub(height.at_ms) <= HEIGHT_MAX_AGE_MS)
            .map(|height| height.height)
            .collect();
        fresh.sort_unstable_by(|a, b| b.cmp(a));
        fresh.get(fresh.len() / 4).copied()
    }

    /// Blocks behind the consensus, at most 0, as last reported.
    pub(crate) fn lag(&self, instance: usize, consensus: u64) -> Option<i64> {
        let height = self.heights[instance]?;
        let lag = i64::try_from(height.height).ok()? - i64::try_from(consensus).ok()?;
        Some(lag.min(0))
    }

    /// The same, with the blocks credited that should have come since the report.
    pub(crate) fn optimistic_lag(
        &self,
        instance: usize,
        consensus: u64,
        block_time_ms: f64,
        now_ms: u64,
    ) -> Option<f64> {
        let height = self.heights[instance]?;
        #[allow(clippy::cast_precision_loss, reason = "heights and milliseconds stay far below 2^52")]
        let (elapsed, behind) = (now_ms.saturating_sub(height.at_ms) as f64, height.height as f64 - consensus as f64);
        Some(behind + (elapsed.min(OPTIMISM_MS) / block_time_ms.max(1.0)).floor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heights(heights: &[u64]) -> Snapshot {
        let heights = heights.iter().map(|height| Some(Height { height: *height, at_ms: 0 })).collect();
        Snapshot { heights, ..Snapshot::default() }
    }

    #[test]
    fn one_provider_that_runs_ahead_of_four_does_not_set_the_consensus() {
        let snapshot = heights(&[100, 100, 9_000, 99]);
        assert_eq!(snapshot.consensus(0..4, 0), Some(100));
        assert_eq!(snapshot.consensus(0..4, HEIGHT_MAX_AGE_MS + 1), None, "heights too old to say anything");
    }

    #[test]
    fn an_old_report_is_credited_with_the_blocks_since() {
        let snapshot = heights(&[90]);
        assert_eq!(snapshot.optimistic_lag(0, 100, 1_000.0, 0), Some(-10.0));
        assert_eq!(snapshot.optimistic_lag(0, 100, 1_000.0, 4_500), Some(-6.0));
        assert_eq!(snapshot.lag(0, 100), Some(-10));
    }
}
