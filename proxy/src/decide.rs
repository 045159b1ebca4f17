//! The decision: which channels are eligible for a call, in which order, and why the others are not. A pure function of
//! the call, the profile, one snapshot and a seed. It filters in a fixed order and notes the first reason that holds, so
//! that "why was this provider not used" has one answer.

use lariat_schema::vocabulary::{CircuitState, ExclusionReason, Strategy, Transport};

use crate::health::{ChannelIndex, Place, Snapshot};
use crate::policy::{BlockNeed, MethodPolicy, Safety};
use crate::profiles::{Chain, ProfileKey, Provider};
use crate::strategies::{self, Candidate, Inputs, known_ms};

/// Channels that are considered at most; the rest are excluded as beyond the budget.
const MAX_ELIGIBLE: usize = 10;

/// What a call asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// Place of the profile in the catalog.
    pub(crate) profile: usize,
    /// What the profile's evidence is kept under.
    pub(crate) profile_key: ProfileKey,
    /// Place of the chain in the profile.
    pub(crate) chain_at: usize,
    pub(crate) chain: &'a Chain,
    pub(crate) method: &'a str,
    pub(crate) policy: &'static MethodPolicy,
    pub(crate) strategy: Strategy,
    /// Only this transport, if one was asked for.
    pub(crate) transport: Option<Transport>,
    /// Only this provider, if one was pinned: its place in the chain.
    pub(crate) pin: Option<usize>,
    /// Not these providers, by id.
    pub(crate) excluded: &'a [String],
    /// Whether providers that limit our rate are left out; else they come last.
    pub(crate) leave_out_limited: bool,
    pub(crate) need: BlockNeed,
    /// The book's clock.
    pub(crate) now_ms: u64,
}

/// One selection.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// In the order in which they are to be tried.
    pub(crate) eligible: Vec<Candidate>,
    pub(crate) excluded: Vec<Excluded>,
    /// True where filters were waived since they left nobody.
    pub(crate) fail_open: bool,
    pub(crate) snapshot: u64,
    /// The chain's height as its providers agree on it.
    pub(crate) consensus: Option<u64>,
}

/// A channel that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excluded {
    pub(crate) name: std::sync::Arc<str>,
    pub(crate) reason: ExclusionReason,
    channel: ChannelIndex,
    provider: usize,
}

/// What `tried` holds: a channel, and whether the whole provider is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) channel: ChannelIndex,
    pub(crate) reason: ExclusionReason,
}

/// Decides.
pub(crate) fn decide(ask: &Ask<'_>, snapshot: &Snapshot, tried: &[Tried], seed: u64) -> Decision {
    let consensus = snapshot.consensus(ask.chain.providers.iter().map(|provider| provider.instance), ask.now_ms);
    let (mut eligible, mut excluded) = (Vec::new(), Vec::new());
    for (at, provider) in ask.chain.providers.iter().enumerate() {
        for transport in [Transport::Http, Transport::Ws] {
            let channel = ChannelIndex::new(provider.instance, transport);
            match exclusion(ask, snapshot, tried, consensus, at, provider, channel) {
                Verdict::Absent => {}
                Verdict::Eligible => eligible.push(candidate(ask, snapshot, at, provider, channel)),
                Verdict::Excluded(reason) => {
                    excluded.push(Excluded {
                        name: provider.channel(transport).clone(),
                        reason,
                        channel,
                        provider: at,
                    });
                }
            }
        }
    }
    // Nobody is left: what was excluded for what it is said not to be able to do is tried all the same.
    let attempted = tried.iter().any(|tried| tried.reason == ExclusionReason::Tried);
    let fail_open = eligible.is_empty() && excluded.iter().any(|it| is_waivable(it.reason, attempted));
    if fail_open {
        excluded.retain(|it| {
            let waived = is_waivable(it.reason, attempted);
            if waived {
                eligible.push(candidate(ask, snapshot, it.provider, &ask.chain.providers[it.provider], it.channel));
            }
            !waived
        });
    }
    strategies::rank(ask.strategy, &mut eligible, seed);
    for candidate in eligible.drain(MAX_ELIGIBLE.min(eligible.len())..) {
        let Candidate { name, channel, provider, .. } = candidate;
        excluded.push(Excluded { name, reason: ExclusionReason::Budget, channel, provider });
    }
    Decision { eligible, excluded, fail_open, snapshot: snapshot.number, consensus }
}

/// Limits on parameters are waived once, before the first attempt: after it, an answer is there that says more than they.
const fn is_waivable(reason: ExclusionReason, attempted: bool) -> bool {
    match reason {
        ExclusionReason::Method | ExclusionReason::Lagging | ExclusionReason::Archival => true,
        ExclusionReason::Params => !attempted,
        _ => false,
    }
}

enum Verdict {
    /// The provider has no such channel.
    Absent,
    Eligible,
    Excluded(ExclusionReason),
}

fn exclusion(
    ask: &Ask<'_>,
    snapshot: &Snapshot,
    tried: &[Tried],
    consensus: Option<u64>,
    at: usize,
    provider: &Provider,
    channel: ChannelIndex,
) -> Verdict {
    use ExclusionReason as Why;
    let transport = channel.transport();
    if transport == Transport::Ws && !provider.has_ws || transport == Transport::Http && !provider.has_http {
        return Verdict::Absent;
    }
    let view = snapshot.channel(channel);
    let place: Place = (ask.profile, ask.chain_at, at);
    let why = if ask.pin.is_some_and(|pin| pin != at) {
        Why::PinnedElsewhere
    } else if ask.excluded.iter().any(|id| id == provider.id.as_str()) {
        Why::ExcludedByClient
    } else if ask.transport.is_some_and(|wanted| wanted != transport) {
        Why::Transport
    } else if transport == Transport::Ws && !snapshot.socket(provider.instance).connected {
        Why::NotConnected
    } else if let Some(tried) = tried.iter().find(|tried| tried.channel == channel) {
        tried.reason
    } else if view.circuit == CircuitState::Open {
        Why::CircuitOpen
    } else if view.trial_under_way {
        Why::HalfOpenBusy
    } else if ask.leave_out_limited && view.limited_until_ms > ask.now_ms {
        Why::RateLimited
    } else if transport == Transport::Ws && snapshot.socket(provider.instance).full {
        Why::Capacity
    } else if snapshot.drained.contains(&place) {
        Why::Draining
    } else if is_lagging(ask, snapshot, consensus, provider) {
        Why::Lagging
    } else if !provider.archival && needs_archive(ask, consensus) {
        Why::Archival
    } else if ask.policy.safety == Safety::Subscription && !gives_heads(ask, provider) {
        Why::NoNewHeads
    } else if lacks_method(ask, provider) {
        Why::Method
    } else if exceeds_limits(ask, provider, consensus) {
        Why::Params
    } else {
        return Verdict::Eligible;
    };
    Verdict::Excluded(why)
}

fn is_lagging(ask: &Ask<'_>, snapshot: &Snapshot, consensus: Option<u64>, provider: &Provider) -> bool {
    let (Some(max_lag), Some(consensus)) = (ask.chain.max_lag_blocks, consensus) else { return false };
    #[allow(clippy::cast_precision_loss, reason = "a setting of at most a million blocks")]
    let floor = -(max_lag as f64);
    let block_time_ms = snapshot.block_time_ms(ask.chain.chain_id, ask.chain.block_time_ms);
    snapshot.optimistic_lag(provider.instance, consensus, block_time_ms, ask.now_ms).is_some_and(|lag| lag < floor)
}

/// Age in blocks of the oldest state that the call needs.
fn age(ask: &Ask<'_>, consensus: Option<u64>) -> Option<u64> {
    match ask.need {
        BlockNeed::Recent => None,
        BlockNeed::Earliest => Some(consensus.unwrap_or(u64::MAX)),
        BlockNeed::At(height) | BlockNeed::Range(height, _) => Some(consensus?.saturating_sub(height)),
    }
}

/// Heads tell that a subscription lives, whatever it is about.
fn gives_heads(ask: &Ask<'_>, provider: &Provider) -> bool {
    provider.subscribe_new_heads.unwrap_or(ask.chain.websocket.subscribe_new_heads)
}

fn needs_archive(ask: &Ask<'_>, consensus: Option<u64>) -> bool {
    ask.policy.reads_state() && age(ask, consensus).is_some_and(|age| age > ask.chain.archival_threshold)
}

fn lacks_method(ask: &Ask<'_>, provider: &Provider) -> bool {
    let lacks = &provider.capabilities;
    lacks.unsupported_categories.iter().any(|category| category == ask.policy.category)
        || lacks.unsupported_methods.iter().any(|method| method == ask.method)
}

fn exceeds_limits(ask: &Ask<'_>, provider: &Provider, consensus: Option<u64>) -> bool {
    let limits = &provider.capabilities;
    if let (BlockNeed::Range(from, to), Some(span)) = (ask.need, limits.max_block_range)
        && to.saturating_sub(from) > span
    {
        return true;
    }
    limits.max_block_age.is_some_and(|oldest| {
        limits.block_age_methods.iter().any(|method| method == ask.method)
            && age(ask, consensus).is_some_and(|age| age > oldest)
    })
}

fn candidate(ask: &Ask<'_>, snapshot: &Snapshot, at: usize, provider: &Provider, channel: ChannelIndex) -> Candidate {
    let view = snapshot.channel(channel);
    let evidence = view.evidence.get(&(ask.profile_key, ask.policy.name));
    let behind = match ask.need {
        BlockNeed::At(height) | BlockNeed::Range(_, height) => {
            snapshot.heights[provider.instance].is_some_and(|known| known.height < height)
        }
        BlockNeed::Recent | BlockNeed::Earliest => false,
    };
    let inputs = Inputs {
        latency_ms: evidence.and_then(|evidence| evidence.latency_ms).map(known_ms),
        qualified: evidence.is_some_and(|evidence| evidence.is_qualified(ask.now_ms)),
        prior_ms: view.prior_ms.map(known_ms),
        priority: provider.priority,
        half_open: view.circuit == CircuitState::HalfOpen,
        limited: view.limited_until_ms > ask.now_ms,
        behind,
    };
    let name = provider.channel(channel.transport()).clone();
    Candidate { name, provider: at, channel, inputs, score: 0.0, probability: 0.0, group: 0 }
}

#[cfg(test)]
mod distribution;
#[cfg(test)]
pub(crate) mod fleets;
#[cfg(test)]
mod tests;
