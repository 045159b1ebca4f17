//! A random order in which a channel comes first with a probability that falls with the cube of its latency. Each draws
//! −ln(U)/w: sorting those is drawing without replacement by weight. Fast channels get most of the traffic, slow ones
//! enough to show when they have become fast.

use super::{Candidate, Rule, draw};

/// How steeply the weight falls with latency.
const BETA: f64 = 3.0;
/// Latencies below are not told apart, so that one lucky microsecond does not take all traffic.
const MIN_LATENCY_MS: f64 = 0.1;

/// The weight, up to a factor that all candidates of a group share.
fn weight_for(candidate: &Candidate) -> f64 {
    candidate.inputs.latency_ms.map_or(1.0, |latency_ms| latency_ms.max(MIN_LATENCY_MS).powf(-BETA))
}

/// `latency_weighted`
pub(super) struct LatencyWeighted;

impl Rule for LatencyWeighted {
    fn score(&self, candidates: &mut [Candidate], seed: u64) {
        for candidate in candidates {
            candidate.group = match candidate.inputs.latency_ms {
                Some(_) if candidate.inputs.qualified => 0,
                Some(_) => 1,
                None => 2,
            };
            // 1 − U lies in (0, 1], so that the logarithm is finite.
            candidate.score = -(1.0 - draw(seed, &candidate.name)).ln() / weight_for(candidate);
        }
    }

    fn weight(&self, candidate: &Candidate, _is_first: bool) -> f64 {
        weight_for(candidate)
    }
}
