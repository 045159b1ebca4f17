//! When the store's node was heard: its own status every 10 s, and the proxy's heartbeats with the decisions that they
//! number. Coverage is computed from this, so it is kept as long as the store and not as long as rows are.
//!
//! Kept as stretches in which nothing is missing and not as a list of signs: a quiet month of one boot is one stretch. A
//! sign that is taken in twice changes nothing and the order of arrival does not matter, so that a replay of the log
//! and late retries do no harm. Only boots that wrote a status of their own count: a foreign proxy that sends its
//! heartbeats here is somebody else's node.

use arrow::array::{Array, BooleanArray, RecordBatch};
use lariat_schema::ids::BootId;
use lariat_schema::node_api::{Boot, Heard};
use lariat_schema::time_range::NANOS_PER_SECOND;
use lariat_schema::{attributes, events};
use serde::{Deserialize, Serialize};

use crate::columns::{column, moments, text, texts};
use crate::live::attribute;
use crate::sequences::Sequences;

/// Heartbeats that are no further apart are one stretch: three of them, so that one that was lost is no absence.
pub(crate) const HEARTBEAT_GAP_NANOS: i64 = 15 * NANOS_PER_SECOND;
/// The same of statuses, which come every 10 s.
pub(crate) const STATUS_GAP_NANOS: i64 = 25 * NANOS_PER_SECOND;

/// Boots that are told: a year of nightly restarts comes near to it. Beyond it the oldest are forgotten, and their time
/// is `unknown`.
const MAX_BOOTS: usize = 256;
/// Stretches of one kind in one boot: each hole makes one more. Beyond it the oldest are forgotten, as above.
const MAX_STRETCHES: usize = 256;

/// The boots of a store, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Attendance(Vec<Life>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    boot_id: BootId,
    started_unix_nanos: i64,
    known_from_unix_nanos: i64,
    statuses: Vec<Run>,
    heartbeats: Vec<Run>,
    proxy_farewell_unix_nanos: Option<i64>,
    farewell_unix_nanos: Option<i64>,
}

/// Signs of life one after another; all decisions after `first_seq` up to `last_seq` were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    from: i64,
    to: i64,
    first_seq: i64,
    last_seq: i64,
    /// What was missing before it when a sign last came: for when the received numbers of its boot are forgotten.
    #[serde(default)]
    missing_before: u64,
}

impl Run {
    fn sign(at: i64, seq: i64) -> Self {
        Self { from: at, to: at, first_seq: seq, last_seq: seq, missing_before: 0 }
    }
}

impl Attendance {
    /// Takes in rows of `node_status`, which only this store's collector writes.
    pub(crate) fn take_status(&mut self, batch: &RecordBatch) {
        let (boots, times) = (texts(batch, "boot_id"), moments(batch, "time"));
        let farewells: &BooleanArray = column(batch, "farewell");
        for row in 0..batch.num_rows() {
            let Some(Ok(boot_id)) = text(boots, row).map(str::parse::<BootId>) else { continue };
            let at = times.value(row);
            let life = self.life(boot_id, at);
            insert(&mut life.statuses, Run::sign(at, 0), STATUS_GAP_NANOS, &|_, _| Some(0));
            if farewells.is_valid(row) && farewells.value(row) {
                life.farewell_unix_nanos = Some(at);
            }
            life.bound();
        }
    }

    /// Takes in the heartbeats among these records.
    pub(crate) fn take_logs(&mut self, batch: &RecordBatch, sequences: &Sequences) {
        let (names, boots) = (texts(batch, "event_name"), texts(batch, "boot_id"));
        let times = moments(batch, "time");
        for row in 0..batch.num_rows() {
            if text(names, row) != Some(events::HEARTBEAT) {
                continue;
            }
            let Some(Ok(boot_id)) = text(boots, row).map(str::parse::<BootId>) else { continue };
            let Some(life) = self.0.iter_mut().find(|life| life.boot_id == boot_id) else { continue };
            let number = |key| attribute(batch, row, key).and_then(|value| value.parse::<i64>().ok());
            let Some(seq) = number(attributes::HEARTBEAT_SEQ) else { continue };
            let at = times.value(row);
            let missing = |after, up_to| sequences.missing(&boot_id, after, up_to);
            insert(&mut life.heartbeats, Run::sign(at, seq), HEARTBEAT_GAP_NANOS, &missing);
            if attribute(batch, row, attributes::HEARTBEAT_FAREWELL).as_deref() == Some("true") {
                life.proxy_farewell_unix_nanos = Some(at);
            }
            life.bound();
        }
    }

    fn life(&mut self, boot_id: BootId, at: i64) -> &mut Life {
        let place = self.0.iter().position(|life| life.boot_id == boot_id).unwrap_or_else(|| {
            let after = self.0.partition_point(|life| life.started_unix_nanos <= at);
            let life = Life {
                boot_id,
                started_unix_nanos: at,
                known_from_unix_nanos: at,
                statuses: Vec::new(),
                heartbeats: Vec::new(),
                proxy_farewell_unix_nanos: None,
                farewell_unix_nanos: None,
            };
            self.0.insert(after, life);
            if self.0.len() > MAX_BOOTS && after > 0 {
                self.0.remove(0);
                return after - 1;
            }
            after
        });
        &mut self.0[place]
    }

    /// Up to which number the decisions of a boot had come at a moment, at least; `None` of a boot that is not this node's.
    pub(crate) fn numbered(&self, boot_id: &str, at_unix_nanos: i64) -> Option<i64> {
        let life = self.0.iter().find(|life| life.boot_id.to_string() == boot_id)?;
        let before = life.heartbeats.iter().filter(|run| run.from <= at_unix_nanos);
        Some(before.map(|run| run.first_seq).max().unwrap_or(0))
    }

    /// What it adds up to, with what is missing of the decisions as they are received by now.
    pub(crate) fn boots(&self, sequences: &Sequences) -> Vec<Boot> {
        self.0.iter().map(|life| life.told(sequences)).collect()
    }
}

impl Life {
    fn bound(&mut self) {
        for runs in [&mut self.statuses, &mut self.heartbeats] {
            let surplus = runs.len().saturating_sub(MAX_STRETCHES);
            runs.drain(..surplus);
            if let Some(first) = runs.first().filter(|_| surplus > 0) {
                self.known_from_unix_nanos = self.known_from_unix_nanos.max(first.from);
            }
        }
    }

    fn told(&self, sequences: &Sequences) -> Boot {
        let missing =
            |run: &Run, after| sequences.missing(&self.boot_id, after, run.first_seq).unwrap_or(run.missing_before);
        Boot {
            boot_id: self.boot_id,
            started_unix_nanos: self.started_unix_nanos,
            known_from_unix_nanos: self.known_from_unix_nanos,
            statuses: heard(&self.statuses, STATUS_GAP_NANOS, |_, _| 0),
            heartbeats: heard(&self.heartbeats, HEARTBEAT_GAP_NANOS, missing),
            proxy_farewell_unix_nanos: self.proxy_farewell_unix_nanos,
            farewell_unix_nanos: self.farewell_unix_nanos,
        }
    }
}

/// Puts a sign where it belongs and joins what has become one. What `missing` does not know any longer stays as it was.
fn insert(runs: &mut Vec<Run>, mut sign: Run, gap_nanos: i64, missing: &dyn Fn(i64, i64) -> Option<u64>) {
    let place = runs.partition_point(|run| run.from <= sign.from);
    if place > 0 && sign.to <= runs[place - 1].to {
        return;
    }
    let before = if place > 0 { runs[place - 1].last_seq } else { 0 };
    sign.missing_before = u64::try_from(sign.first_seq.saturating_sub(before)).unwrap_or(0);
    runs.insert(place, sign);
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for mut run in runs.drain(..) {
        let after = joined.last().map_or(0, |open| open.last_seq);
        run.missing_before = missing(after, run.first_seq).unwrap_or(run.missing_before);
        match joined.last_mut() {
            Some(open) if run.from.saturating_sub(open.to) <= gap_nanos && run.missing_before == 0 => {
                open.to = run.to;
                open.last_seq = open.last_seq.max(run.last_seq);
            }
            _ => joined.push(run),
        }
    }
    *runs = joined;
}

/// The stretches with what is missing before each. What came meanwhile closes holes that were there when they were made.
fn heard(runs: &[Run], gap_nanos: i64, missing: impl Fn(&Run, i64) -> u64) -> Vec<Heard> {
    let mut told: Vec<Heard> = Vec::with_capacity(runs.len());
    let mut after = 0;
    for run in runs {
        let missing_before = missing(run, after);
        after = run.last_seq;
        match told.last_mut() {
            Some(open) if missing_before == 0 && run.from.saturating_sub(open.to_unix_nanos) <= gap_nanos => {
                open.to_unix_nanos = run.to;
            }
            _ => told.push(Heard { from_unix_nanos: run.from, to_unix_nanos: run.to, missing_before }),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GAP: i64 = 15;

    fn runs(signs: &[(i64, i64)], received: &dyn Fn(i64) -> bool) -> Vec<Run> {
        let missing = |after: i64, up_to: i64| Some((after + 1..=up_to).filter(|seq| !received(*seq)).count() as u64);
        let mut runs = Vec::new();
        for (at, seq) in signs {
            insert(&mut runs, Run::sign(*at, *seq), GAP, &missing);
        }
        runs
    }

    #[test]
    fn heartbeats_without_a_hole_are_one_stretch_and_a_hole_or_a_silence_ends_it() {
        let all = runs(&[(0, 0), (5, 3), (10, 3), (15, 9)], &|_| true);
        assert_eq!(all, [Run { from: 0, to: 15, first_seq: 0, last_seq: 9, missing_before: 0 }]);
        let holed = runs(&[(0, 0), (5, 3), (10, 5), (15, 9)], &|seq| seq != 4);
        assert_eq!(holed.iter().map(|run| (run.from, run.to)).collect::<Vec<_>>(), [(0, 5), (10, 15)]);
        let silent = runs(&[(0, 0), (5, 0), (30, 0)], &|_| true);
        assert_eq!(silent.iter().map(|run| (run.from, run.to)).collect::<Vec<_>>(), [(0, 5), (30, 30)]);
    }

    #[test]
    fn a_hole_that_a_retry_fills_is_none_any_longer() {
        let holed = runs(&[(0, 0), (5, 3), (10, 5)], &|seq| seq != 4);
        let told = heard(&holed, GAP, |run, after| u64::from(after < 4 && 4 <= run.first_seq));
        assert_eq!(told.iter().map(|heard| heard.missing_before).collect::<Vec<_>>(), [0, 1]);
        let filled = heard(&holed, GAP, |_, _| 0);
        assert_eq!(filled, [Heard { from_unix_nanos: 0, to_unix_nanos: 10, missing_before: 0 }]);
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_and_repetitions_change_nothing(
            steps in prop::collection::vec((1_i64..40, 0_i64..4), 1..30),
            shuffle in prop::collection::vec(0_usize..1000, 60),
            lost in prop::collection::hash_set(1_i64..80, 0..4),
        ) {
            let (mut at, mut seq) = (0, 0);
            let signs: Vec<(i64, i64)> = steps.iter().map(|(later, more)| {
                at += later;
                seq += more;
                (at, seq)
            }).collect();
            let mut mixed: Vec<(i64, i64)> = shuffle.iter().map(|index| signs[index % signs.len()]).collect();
            mixed.extend(&signs);
            let received = |seq: i64| !lost.contains(&seq);
            prop_assert_eq!(runs(&mixed, &received), runs(&signs, &received));
        }
    }
}
