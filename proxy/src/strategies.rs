//! The rules that rank eligible candidates, one file each. A strategy sees only what is recorded of the candidates, and
//! draws for each by its name: so the record alone is enough to run it again ([`replay`]), whatever order the profile
//! lists its providers in, and even where candidates beyond the budget are not in the record. It never sees who was
//! excluded.
//!
//! A generator that is read in turn would make each draw depend on how many came before; it is also slower to set up
//! than all draws of a selection take.

mod fastest;
mod latency_weighted;
mod load_balanced;
mod priority;

use std::fmt;
use std::sync::Arc;

use lariat_schema::vocabulary::Strategy;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Score of a candidate of which no latency is known, in milliseconds: after everything measured, and still a number
/// that every format can hold.
pub(crate) const UNKNOWN_LATENCY_MS: f64 = 1e9;

/// Significant bits of a score and of a probability once the order stands: they explain it, and are made again from the
/// inputs by whoever wants all bits. Rounding keeps the order of scores, and of equal ones the channel's rank tells it.
const TOLD_BITS: u32 = 16;

/// What a score is made of.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Inputs {
    /// Average latency for this method, if there is any.
    pub(crate) latency_ms: Option<f64>,
    /// Whether that is recent, enough and good.
    pub(crate) qualified: bool,
    /// Average latency of the probes.
    pub(crate) prior_ms: Option<f64>,
    /// The configured priority.
    pub(crate) priority: u32,
    /// Whether its circuit is half open.
    pub(crate) half_open: bool,
    /// Whether the provider limits our rate.
    pub(crate) limited: bool,
    /// Whether it is known not to have the wanted block yet.
    pub(crate) behind: bool,
}

impl Inputs {
    /// 0 is best: what is limited comes after what is not, and within that half-open after closed.
    const fn tier(&self) -> u8 {
        (self.behind as u8) * 4 + (self.limited as u8) * 2 + self.half_open as u8
    }
}

impl fmt::Display for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority={}", self.priority)?;
        if let Some(latency_ms) = self.latency_ms {
            write!(f, ",latency_ms={latency_ms}")?;
        }
        if let Some(prior_ms) = self.prior_ms {
            write!(f, ",prior_ms={prior_ms}")?;
        }
        for (name, set) in [
            ("qualified", self.qualified),
            ("half_open", self.half_open),
            ("limited", self.limited),
            ("behind", self.behind),
        ] {
            if set {
                write!(f, ",{name}=1")?;
            }
        }
        Ok(())
    }
}

impl Inputs {
    /// Reads what [`fmt::Display`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut inputs = Self::default();
        for pair in text.split(',') {
            let (name, value) = pair.split_once('=')?;
            match name {
                "priority" => inputs.priority = value.parse().ok()?,
                "latency_ms" => inputs.latency_ms = Some(value.parse().ok()?),
                "prior_ms" => inputs.prior_ms = Some(value.parse().ok()?),
                "qualified" => inputs.qualified = value == "1",
                "half_open" => inputs.half_open = value == "1",
                "limited" => inputs.limited = value == "1",
                "behind" => inputs.behind = value == "1",
                _ => return None,
            }
        }
        Some(inputs)
    }
}

/// An eligible candidate; `score` and `probability` are the strategy's to fill in.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Its channel's name.
    pub(crate) name: Arc<str>,
    /// Place of the provider in its chain.
    pub(crate) provider: usize,
    /// Its channel.
    pub(crate) channel: crate::health::ChannelIndex,
    pub(crate) inputs: Inputs,
    /// Lower first, within tier and group; rounded once the order stands.
    pub(crate) score: f64,
    /// Probability of being put first, rounded likewise.
    pub(crate) probability: f64,
    /// Lower first, within the tier: what is better known comes before what is not.
    pub(crate) group: u8,
}

/// A candidate's draw from [0, 1), uniform over seeds and independent of other names': the upper 53 bits of XXH3-64 of
/// its channel's name under the selection's seed.
#[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
fn draw(seed: u64, channel: &str) -> f64 {
    (xxh3_64_with_seed(channel.as_bytes(), seed) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A rule that ranks: one file each, and one line in [`rule`].
trait Rule: Sync {
    /// Gives each candidate its group and its score.
    fn score(&self, candidates: &mut [Candidate], seed: u64);
    /// How often it comes first, up to a factor that all candidates of its group share; `is_first` where this order has it
    /// there.
    fn weight(&self, candidate: &Candidate, is_first: bool) -> f64;
}

const fn rule(strategy: Strategy) -> &'static dyn Rule {
    match strategy {
        Strategy::LoadBalanced => &load_balanced::LoadBalanced,
        Strategy::Fastest => &fastest::Fastest,
        Strategy::Priority => &priority::Priority,
        Strategy::LatencyWeighted => &latency_weighted::LatencyWeighted,
    }
}

/// Puts the candidates in the order in which they are to be tried.
pub(crate) fn rank(strategy: Strategy, candidates: &mut [Candidate], seed: u64) {
    let rule = rule(strategy);
    rule.score(candidates, seed);
    candidates.sort_by(|a, b| {
        (a.inputs.tier(), a.group)
            .cmp(&(b.inputs.tier(), b.group))
            .then(a.score.total_cmp(&b.score))
            .then(a.name.cmp(&b.name))
    });
    let best = candidates.first().map(|best| (best.inputs.tier(), best.group));
    let mut sum = 0.0;
    for (i, candidate) in candidates.iter_mut().enumerate() {
        let contends = Some((candidate.inputs.tier(), candidate.group)) == best;
        candidate.probability = if contends { rule.weight(candidate, i == 0) } else { 0.0 };
        sum += candidate.probability;
    }
    for candidate in candidates.iter_mut() {
        candidate.probability = told(candidate.probability / sum);
        candidate.score = told(candidate.score);
    }
}

/// The nearest number of [`TOLD_BITS`] significant bits.
fn told(number: f64) -> f64 {
    const DROPPED_BITS: u32 = f64::MANTISSA_DIGITS - TOLD_BITS;
    f64::from_bits((number.to_bits() + (1 << (DROPPED_BITS - 1))) >> DROPPED_BITS << DROPPED_BITS)
}

/// A latency as decisions know it: three digits of it, and microseconds at the finest. Averages move by more from call to
/// call, and what is not known to a decision need not be recorded of it.
pub(crate) fn known_ms(latency_ms: f64) -> f64 {
    let steps_per_ms = match latency_ms {
        ..1.0 => 1_000.0,
        1.0..10.0 => 100.0,
        10.0..100.0 => 10.0,
        _ => 1.0,
    };
    (latency_ms * steps_per_ms).round() / steps_per_ms
}

/// Runs a recorded selection again: the channels in the order in which they would be tried. None where the record is
/// not one of this program's.
#[must_use]
pub fn replay(strategy: Strategy, seed: u64, eligible: &[(String, String)]) -> Option<Vec<String>> {
    let mut candidates = eligible
        .iter()
        .map(|(name, inputs)| {
            Some(Candidate {
                name: name.as_str().into(),
                provider: 0,
                channel: crate::health::ChannelIndex(0),
                inputs: Inputs::parse(inputs)?,
                score: 0.0,
                probability: 0.0,
                group: 0,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    rank(strategy, &mut candidates, seed);
    Some(candidates.into_iter().map(|candidate| candidate.name.to_string()).collect())
}

#[cfg(test)]
mod tests;
