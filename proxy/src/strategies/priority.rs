//! The configured priority, ascending; of one provider's channels HTTP comes before WebSocket.

use lariat_schema::attributes::split_channel;

use super::{Candidate, Rule};

/// `priority`
pub(super) struct Priority;

impl Rule for Priority {
    fn score(&self, candidates: &mut [Candidate], _seed: u64) {
        for candidate in candidates {
            let ws = split_channel(&candidate.name).is_some_and(|(_, transport)| transport == "ws");
            candidate.score = f64::from(candidate.inputs.priority) + if ws { 0.5 } else { 0.0 };
        }
    }

    fn weight(&self, _candidate: &Candidate, is_first: bool) -> f64 {
        f64::from(u8::from(is_first))
    }
}
