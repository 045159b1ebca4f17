//! The configured priority, ascending; of one provider's channels HTTP comes before WebSocket.

use lariat_schema::attributes::split_channel;

use super::Candidate;

pub(super) fn score(candidates: &mut [Candidate]) {
    for candidate in candidates {
        let ws = split_channel(&candidate.name).is_some_and(|(_, transport)| transport == "ws");
        candidate.score = f64::from(candidate.inputs.priority) + if ws { 0.5 } else { 0.0 };
    }
}
