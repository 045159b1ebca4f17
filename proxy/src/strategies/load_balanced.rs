//! A uniformly random order. Not a rotation: a counter would be shared state on the request path, and rotations of many
//! nodes fall into step.

use rand::Rng;

use super::Candidate;

pub(super) fn score(candidates: &mut [Candidate], rng: &mut impl Rng) {
    for candidate in candidates {
        candidate.score = rng.random();
    }
}
