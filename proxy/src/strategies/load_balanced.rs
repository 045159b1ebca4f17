//! A uniformly random order. Not a rotation: a counter would be shared state on the request path, and rotations of many
//! nodes fall into step.

use super::{Candidate, draw};

pub(super) fn score(candidates: &mut [Candidate], seed: u64) {
    for candidate in candidates {
        candidate.score = draw(seed, &candidate.name);
    }
}
