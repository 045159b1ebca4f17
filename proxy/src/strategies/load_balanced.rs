//! A uniformly random order. Not a rotation: a counter would be shared state on the request path, and rotations of many
//! nodes fall into step.

use super::{Candidate, Rule, draw};

/// `load_balanced`
pub(super) struct LoadBalanced;

impl Rule for LoadBalanced {
    fn score(&self, candidates: &mut [Candidate], seed: u64) {
        for candidate in candidates {
            candidate.score = draw(seed, &candidate.name);
        }
    }

    fn weight(&self, _candidate: &Candidate, _is_first: bool) -> f64 {
        1.0
    }
}
