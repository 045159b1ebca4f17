//! Which decisions of each boot were received, by the number that its proxy gave them: a number that never comes was lost
//! before the collector, and only the numbers after it tell.
//!
//! Kept are the stretches that came, each with the moment at which it was first seen, so that a hole has an age: a call
//! that is under way is a hole too. Counting what comes was rejected, since a count cannot tell a retry from a decision.
//! Taking in a number twice changes nothing, so that a replay of the log does no harm.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use lariat_schema::ids::BootId;
use lariat_schema::time_range::NANOS_PER_SECOND;
use serde::{Deserialize, Serialize};

use crate::columns::{count, ids, long, longs, text, texts};

/// Boots whose numbers are remembered; older ones are told in older rows of `node_status`.
const MAX_BOOTS: usize = 16;
/// Stretches remembered per boot: more are holes upon holes. Of the oldest only the number of their holes is kept.
const MAX_STRETCHES: usize = 256;
/// Age from which a hole is a loss and no call that is under way: as coverage has it.
pub(crate) const LOST_AFTER_NANOS: i64 = 120 * NANOS_PER_SECOND;

/// The received numbers by boot, the oldest boot first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sequences(Vec<Sequence>);

/// The received numbers of a boot. The manifest of older stores has the first two fields in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sequence {
    boot_id: String,
    stretches: Vec<Stretch>,
    /// Up to here nothing is remembered but the next number.
    #[serde(default)]
    forgotten_to: i64,
    /// How many up to there had not come when they were forgotten.
    #[serde(default)]
    forgotten_missing: i64,
}

/// Numbers without a hole, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Stretch {
    first: i64,
    last: i64,
    /// Steady time at which the first of them came: what is missing before them is known since then.
    #[serde(default)]
    since_nanos: i64,
}

/// Decisions that a boot numbered and that never came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) boot_id: String,
    pub(crate) decisions: i64,
}

impl Sequences {
    /// Takes in the numbers of the decisions among spans that were committed at a steady time.
    pub(crate) fn take(&mut self, spans: &RecordBatch, steady_nanos: i64) {
        let (boots, numbers) = (texts(spans, "boot_id"), longs(spans, "decision_seq"));
        let requests = ids(spans, "request_id");
        if numbers.null_count() == numbers.len() {
            return;
        }
        let mut found: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for row in 0..spans.num_rows() {
            if let (Some(boot), Some(number), true) = (text(boots, row), long(numbers, row), requests.is_valid(row)) {
                found.entry(boot).or_default().push(number);
            }
        }
        for (boot, numbers) in found {
            self.of_boot(boot).take(&numbers, steady_nanos);
        }
        let surplus = self.0.len().saturating_sub(MAX_BOOTS);
        self.0.drain(..surplus);
    }

    fn of_boot(&mut self, boot_id: &str) -> &mut Sequence {
        let at = self.0.iter().position(|known| known.boot_id == boot_id).unwrap_or_else(|| {
            self.0.push(Sequence {
                boot_id: boot_id.to_owned(),
                stretches: Vec::new(),
                forgotten_to: 0,
                forgotten_missing: 0,
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Every stretch with its boot: first and last number.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (&str, i64, i64)> {
        self.0.iter().flat_map(|boot| {
            boot.stretches.iter().map(move |stretch| (boot.boot_id.as_str(), stretch.first, stretch.last))
        })
    }

    /// How many of the decisions after `after` up to `up_to` of a boot were not received; `None` where that is forgotten
    /// or the boot is not known.
    pub(crate) fn missing(&self, boot_id: &BootId, after: i64, up_to: i64) -> Option<u64> {
        let boot_id = boot_id.to_string();
        let boot = self.0.iter().find(|known| known.boot_id == boot_id).filter(|boot| after >= boot.forgotten_to)?;
        Some(count(usize::try_from(boot.missing(after, up_to)).unwrap_or(0)))
    }

    /// What was lost before the collector, of the boots that are remembered. `numbered` tells up to which number a boot of
    /// this store's own node had come at least [`LOST_AFTER_NANOS`] ago; of other boots it knows nothing, and what
    /// they sent elsewhere before the first that came here is no loss.
    pub(crate) fn lost(&self, steady_nanos: i64, numbered: impl Fn(&str) -> Option<i64>) -> Vec<Lost> {
        let known_before = steady_nanos.saturating_sub(LOST_AFTER_NANOS);
        let lost = |boot: &Sequence| Lost {
            boot_id: boot.boot_id.clone(),
            decisions: boot.lost(known_before, numbered(&boot.boot_id)),
        };
        self.0.iter().map(lost).filter(|lost| lost.decisions > 0).collect()
    }
}

impl Sequence {
    fn take(&mut self, numbers: &[i64], since_nanos: i64) {
        let known = self.forgotten_to;
        let fresh = numbers.iter().filter(|number| **number > known);
        self.stretches.extend(fresh.map(|number| Stretch { first: *number, last: *number, since_nanos }));
        self.stretches.sort_unstable();
        let mut joined: Vec<Stretch> = Vec::with_capacity(self.stretches.len());
        for stretch in self.stretches.drain(..) {
            match joined.last_mut() {
                Some(open) if stretch.first <= open.last.saturating_add(1) => {
                    open.last = open.last.max(stretch.last);
                    open.since_nanos = open.since_nanos.min(stretch.since_nanos);
                }
                _ => joined.push(stretch),
            }
        }
        let surplus = joined.len().saturating_sub(MAX_STRETCHES);
        for forgotten in joined.drain(..surplus) {
            let before = forgotten.first.saturating_sub(self.forgotten_to).saturating_sub(1);
            self.forgotten_missing = self.forgotten_missing.saturating_add(before.max(0));
            self.forgotten_to = forgotten.last;
        }
        self.stretches = joined;
    }

    fn missing(&self, after: i64, up_to: i64) -> i64 {
        let received = |stretch: &Stretch| {
            stretch.last.min(up_to).saturating_sub(stretch.first.max(after.saturating_add(1))).saturating_add(1).max(0)
        };
        let numbered = up_to.saturating_sub(after).max(0);
        self.stretches.iter().map(received).fold(numbered, i64::saturating_sub).max(0)
    }

    fn lost(&self, known_before_nanos: i64, numbered: Option<i64>) -> i64 {
        let mut lost = self.forgotten_missing;
        let mut before = match (numbered, self.stretches.first()) {
            (None, Some(first)) if self.forgotten_to == 0 => first.first.saturating_sub(1),
            _ => self.forgotten_to,
        };
        for stretch in &self.stretches {
            // Later numbers that have been here for long prove a hole as well as the one right after it.
            if stretch.since_nanos <= known_before_nanos {
                lost = lost.saturating_add(self.missing(before, stretch.first));
                before = stretch.first;
            }
        }
        lost.saturating_add(numbered.map_or(0, |numbered| self.missing(before, numbered)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab";

    fn with(arrivals: &[(i64, i64)]) -> Sequences {
        let mut sequences = Sequences::default();
        for (number, at) in arrivals {
            sequences.of_boot(BOOT).take(&[*number], *at);
        }
        sequences
    }

    fn lost(sequences: &Sequences, now: i64, numbered: Option<i64>) -> i64 {
        sequences.lost(now, |_| numbered).first().map_or(0, |lost| lost.decisions)
    }

    fn stretches(sequences: &Sequences) -> Vec<(i64, i64)> {
        sequences.stretches().map(|(_, first, last)| (first, last)).collect()
    }

    #[test]
    fn stretches_join_across_arrivals_and_a_hole_stays() {
        let mut sequences = with(&[(5, 0), (1, 0), (2, 0), (9, 0), (3, 0), (3, 0)]);
        assert_eq!(stretches(&sequences), [(1, 3), (5, 5), (9, 9)]);
        sequences.of_boot(BOOT).take(&[4], 1);
        assert_eq!(stretches(&sequences), [(1, 5), (9, 9)]);
        assert_eq!(sequences.missing(&BOOT.parse().unwrap(), 0, 12), Some(6));
    }

    #[test]
    fn a_hole_is_a_loss_once_it_is_older_than_a_call_can_be_and_none_once_it_is_filled() {
        let mut sequences = with(&[(1, 0), (2, 0), (5, 7)]);
        assert_eq!(lost(&sequences, 6 + LOST_AFTER_NANOS, None), 0);
        assert_eq!(lost(&sequences, 7 + LOST_AFTER_NANOS, None), 2);
        sequences.of_boot(BOOT).take(&[4], 9 + LOST_AFTER_NANOS);
        assert_eq!(lost(&sequences, 7 + LOST_AFTER_NANOS, None), 1, "5 told of both");
        sequences.of_boot(BOOT).take(&[3], i64::MAX);
        assert_eq!(lost(&sequences, i64::MAX, None), 0);
    }

    #[test]
    fn what_a_heartbeat_numbered_and_nothing_followed_is_lost_too() {
        let sequences = with(&[(3, 0)]);
        assert_eq!(lost(&sequences, i64::MAX, None), 0, "another node's first decisions went elsewhere");
        assert_eq!(lost(&sequences, i64::MAX, Some(3)), 2);
        assert_eq!(lost(&sequences, 0, Some(8)), 7);
    }

    #[test]
    fn beyond_the_bound_holes_are_still_counted_and_a_replay_adds_none() {
        let numbers: Vec<i64> = (1..=300).map(|number| number * 2).collect();
        let mut sequences = Sequences::default();
        for _ in 0..2 {
            sequences.of_boot(BOOT).take(&numbers, 0);
            assert_eq!(sequences.stretches().count(), MAX_STRETCHES);
            assert_eq!(lost(&sequences, i64::MAX, Some(600)), 300);
        }
        assert_eq!(sequences.missing(&BOOT.parse().unwrap(), 0, 600), None);
        assert_eq!(sequences.missing(&BOOT.parse().unwrap(), 580, 600), Some(10));
    }

    #[test]
    fn what_older_stores_wrote_is_read() {
        let read: Sequences = serde_json::from_str(&format!(r#"[["{BOOT}", [[1, 3], [5, 9]]]]"#)).unwrap();
        assert_eq!(stretches(&read), [(1, 3), (5, 9)]);
        assert_eq!(lost(&read, LOST_AFTER_NANOS, None), 1);
        let again: Sequences = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }
}
