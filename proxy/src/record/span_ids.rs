//! Span ids that are counted and not drawn. An id must be unlike the others of its trace, and nobody's secret: where a
//! trace is our own its id has the randomness, and in a client's trace a random beginning per boot keeps ids of two nodes
//! apart. Neighbours in the record then share all but their last bytes, where eight random ones, repeated in the
//! parent's column, would be a sixth of what a decision takes at rest.
//!
//! A provider that is told of a trace learns from two ids how many decisions lie between them.

/// Bits for a decision and its attempts: twice as many as a call may make.
const PLACE_BITS: u32 = 5;
const LAST_PLACE: u32 = (1 << PLACE_BITS) - 1;

/// The ids of one boot, around a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanIds(u64);

impl SpanIds {
    /// From 2^62 to 2^63, so that counting from there in either direction meets neither zero nor the other end.
    pub(crate) fn random() -> Self {
        Self(rand::random::<u64>() >> 2 | 1 << 62)
    }

    /// Of the SERVER span of the decision with that number.
    pub(crate) const fn of_decision(self, decision_seq: u64) -> [u8; 8] {
        self.of_attempt(decision_seq, 0)
    }

    /// Of the CLIENT span of its attempt with that ordinal.
    pub(crate) const fn of_attempt(self, decision_seq: u64, ordinal: u32) -> [u8; 8] {
        let place = if ordinal < LAST_PLACE { ordinal } else { LAST_PLACE };
        self.0.wrapping_add(decision_seq << PLACE_BITS | place as u64).to_be_bytes()
    }

    /// Of the CLIENT span of a probe, by its number.
    pub(crate) const fn of_probe(self, number: u64) -> [u8; 8] {
        self.0.wrapping_sub(number).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_spans_of_a_boot_share_an_id_and_none_is_zero() {
        for ids in [SpanIds::random(), SpanIds(1 << 62), SpanIds((1 << 63) - 1)] {
            let mut seen = HashSet::new();
            for number in 1..=500 {
                assert!(seen.insert(ids.of_decision(number)) && seen.insert(ids.of_probe(number)));
                // As many channels as a call may ask for.
                assert!((1..=16).all(|ordinal| seen.insert(ids.of_attempt(number, ordinal))));
            }
            assert!(!seen.contains(&[0; 8]));
        }
    }

    #[test]
    fn two_boots_have_ids_far_apart() {
        assert_ne!(SpanIds::random(), SpanIds::random());
    }
}
