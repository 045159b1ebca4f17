//! What was passed on before. A node that reconnects, or two nodes that tell of one call, would otherwise show a decision
//! twice. The window is bounded in time and in number, so that it costs the same at any load; what falls out of it could
//! be shown twice, which is a lesser fault in a feed than growing without bound.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_128;

/// How long a decision is remembered: a retry of a node's stream comes within it.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(120);
/// Most decisions remembered: 120 s at 400 calls a second, 2 MiB.
pub(super) const MAX_SEEN: usize = 50_000;

/// The decisions of the last while.
#[derive(Debug, Default)]
pub(super) struct Seen {
    keys: HashSet<u128>,
    order: VecDeque<(Instant, u128)>,
}

impl Seen {
    /// True the first time that a decision comes within the window.
    pub(super) fn is_new(&mut self, request_id: &str, batch_index: i32, now: Instant) -> bool {
        while self.order.len() >= MAX_SEEN
            || self.order.front().is_some_and(|(at, _)| now.duration_since(*at) >= SEEN_FOR)
        {
            if let Some((_, oldest)) = self.order.pop_front() {
                self.keys.remove(&oldest);
            }
        }
        let key = xxh3_128(format!("{batch_index} {request_id}").as_bytes());
        let new = self.keys.insert(key);
        if new {
            self.order.push_back((now, key));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_new_once_and_again_after_the_window() {
        let mut seen = Seen::default();
        let start = Instant::now();
        assert!(seen.is_new("a", 0, start));
        assert!(!seen.is_new("a", 0, start + SEEN_FOR - Duration::from_millis(1)));
        assert!(seen.is_new("a", 1, start), "another call of the same batch is another decision");
        assert!(seen.is_new("a", 0, start + SEEN_FOR));
    }

    #[test]
    fn the_window_never_holds_more_than_its_bound() {
        let mut seen = Seen::default();
        let start = Instant::now();
        for request in 0..MAX_SEEN + 10 {
            assert!(seen.is_new(&request.to_string(), 0, start));
        }
        assert_eq!((seen.keys.len(), seen.order.len()), (MAX_SEEN, MAX_SEEN));
        assert!(seen.is_new("0", 0, start), "the oldest was forgotten");
    }
}
