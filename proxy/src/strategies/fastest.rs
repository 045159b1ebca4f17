//! The lowest expected latency first: channels with enough good evidence for this method by that, the others after them
//! by the latency of their probes. A channel without evidence is not put first to gain some: probes do that without
//! making a client wait.

use super::{Candidate, Rule, UNKNOWN_LATENCY_MS};

/// `fastest`
pub(super) struct Fastest;

impl Rule for Fastest {
    fn score(&self, candidates: &mut [Candidate], _seed: u64) {
        for candidate in candidates {
            let inputs = &candidate.inputs;
            let measured = inputs.latency_ms.filter(|_| inputs.qualified);
            candidate.group = u8::from(measured.is_none());
            candidate.score = measured.or(inputs.prior_ms).unwrap_or(UNKNOWN_LATENCY_MS);
        }
    }

    fn weight(&self, _candidate: &Candidate, is_first: bool) -> f64 {
        f64::from(u8::from(is_first))
    }
}
