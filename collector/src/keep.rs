//! Decides what is kept, by decision unit: the unit's root decides, its descendants follow.
//!
//! A verdict is a function of the log alone: rows, the policies logged before them and commit times, never of the
//! clock or of arrival in memory, so that a restart decides again exactly as before and nothing of it must be stored.
//! Deciding each span by itself was rejected: a kept decision whose attempts are gone explains nothing. Rows that wait
//! for their root stay readable with weight 1. Nothing here reads or writes a file.

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use lariat_schema::vocabulary::KeepReason;

pub(crate) mod memory;
mod outcome;
mod pending;
mod policy;
pub(crate) mod spans;
mod threshold;
pub(crate) mod verdict;
mod verdicts;

pub(crate) use outcome::{Fate, Outcome};
pub use policy::{DEFAULT_KEPT_WHOLE_PER_SECOND, DEFAULT_RATE, DEFAULT_SLOW_MS, Policies, SamplingPolicy};

use crate::log::Moment;
use lariat_schema::time_range::NANOS_PER_SECOND;
use memory::Fell;
use pending::{Pending, Waiting};
use spans::{Mark, SpanKey, Spans};
use threshold::{Incoming, Threshold, Upstream, random_bits};
use verdict::{Packed, Verdict};
use verdicts::Verdicts;

use crate::columns::count;
use crate::hashed::HashedMap;

/// How long a span waits for its root.
pub(crate) const WAIT_NANOS: i64 = 30 * NANOS_PER_SECOND;
/// Spans that may wait: beyond it the oldest are decided alone.
pub(crate) const MAX_WAITING: usize = 50_000;
/// Verdicts remembered of units that were drawn at their profile's rate: beyond it the oldest are forgotten. That changes
/// none of them, since a descendant that comes later is drawn at the same rate by the same random bits; it waits in
/// vain for its root, is told as an orphan, and an error among such is kept whole.
const MAX_DRAWN_VERDICTS: usize = if cfg!(test) { 10_000 } else { 120_000 };
/// The same of units that were kept whole, whose late descendants would be drawn instead: five spans for each of the
/// hundred decisions a second that a profile keeps whole, through a window of 120 s. Both together take some 9 MB.
const MAX_WHOLE_VERDICTS: usize = 60_000;
/// Bytes of the values of spans that wait, beyond which the same happens: some twenty thousand of ordinary size.
pub(crate) const MAX_WAITING_BYTES: usize = 16 << 20;

/// Spans of one entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) lsn: u64,
    pub(crate) at: Moment,
    pub(crate) trusted: bool,
    pub(crate) batch: &'a RecordBatch,
    /// False for rows that a sealed file has already: only their verdicts are wanted again.
    pub(crate) wanted: bool,
}

/// A policy with the threshold of its rate.
struct Drawn {
    policy: SamplingPolicy,
    threshold: Threshold,
}

impl Drawn {
    fn of(policy: SamplingPolicy) -> Self {
        Self { policy, threshold: Threshold::of(policy.rate) }
    }
}

/// The keeping stage.
#[derive(Debug)]
pub(crate) struct Keeper {
    policies: Policies,
    window_nanos: i64,
    /// Of units that were drawn at their profile's rate.
    drawn: Verdicts,
    /// Of units that were kept whole.
    whole: Verdicts,
    pending: Pending,
    second: i64,
    kept_whole: HashMap<String, u64>,
    unknown_weights: u64,
    incomplete: u64,
}

impl Keeper {
    /// `window_nanos` is how long a verdict is remembered.
    pub(crate) fn new(window_nanos: i64) -> Self {
        Self {
            policies: Policies::default(),
            window_nanos,
            drawn: Verdicts::new(MAX_DRAWN_VERDICTS),
            whole: Verdicts::new(MAX_WHOLE_VERDICTS),
            pending: Pending::default(),
            second: i64::MIN,
            kept_whole: HashMap::new(),
            unknown_weights: 0,
            incomplete: 0,
        }
    }

    /// Sets the policies that hold for everything after.
    pub(crate) fn set_policies(&mut self, policies: Policies) {
        self.policies = policies;
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Units kept whose weight is not known, since the start: their sender's threshold contradicts itself.
    pub(crate) fn unknown_weights(&self) -> u64 {
        self.unknown_weights
    }

    /// Verdicts forgotten before their window ended, since the start: of units kept whole, whose late descendants are
    /// decided otherwise, and of drawn ones, whose are not.
    pub(crate) fn forgotten_early(&self) -> (u64, u64) {
        (self.whole.forgotten_early(), self.drawn.forgotten_early())
    }

    /// Decisions kept without all of their attempts, since the start.
    pub(crate) fn incomplete(&self) -> u64 {
        self.incomplete
    }

    /// Spans that wait for their root.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Bytes that they hold.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// Bytes of the spans that wait, of what finds them, and of the verdicts.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.drawn.memory_bytes() + self.whole.memory_bytes() + self.pending.memory_bytes()
    }

    /// The oldest entry that has undecided rows which stand in no file, with its commit.
    pub(crate) fn oldest_waiting(&self) -> Option<(u64, Moment)> {
        self.pending.oldest_wanted()
    }

    /// The undecided rows.
    pub(crate) fn waiting_rows(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.pending.rows()
    }

    /// Decides what an entry brings, and what waited for it.
    pub(crate) fn take(&mut self, arrival: Arrival<'_>) -> Result<Outcome, ArrowError> {
        let mut outcome = self.expire(arrival.at.steady_nanos())?;
        self.forget(arrival.at.steady_nanos());
        let spans = Spans::of(arrival.batch);
        let rows = arrival.batch.num_rows();
        let keys: Vec<SpanKey> = (0..rows).map(|row| spans.key(row)).collect();
        let mut verdicts: Vec<Option<Verdict>> = vec![None; rows];
        let mut profile = None;
        let mut policy = Drawn::of(self.policies.of(profile));
        let mut fallen = Vec::with_capacity(rows);
        for (row, verdict) in verdicts.iter_mut().enumerate() {
            if spans.is_root(row) {
                // Neighbours mostly are of one profile.
                if spans.profile(row) != profile {
                    profile = spans.profile(row);
                    policy = Drawn::of(self.policies.of(profile));
                }
                let decided = self.decide_root(&spans, row, &arrival, &policy);
                *verdict = Some(decided);
                fallen.push((keys[row], decided));
            }
        }
        self.remember_all(&fallen, arrival.at.steady_nanos());
        self.follow_parents(&spans, &keys, &mut verdicts, arrival.at.steady_nanos());
        // What is decided here frees what waited for it before, and nothing of its own entry.
        let waited = self.pending.len() > 0;
        let decided = (0..rows).filter(|row| waited && verdicts[*row].is_some()).map(|row| keys[row]).collect();
        self.settle(arrival, &spans, &verdicts, &mut outcome)?;
        self.cascade(decided, arrival.at.steady_nanos(), &mut outcome)?;
        while self.pending.len() > MAX_WAITING || self.pending.bytes() > MAX_WAITING_BYTES {
            self.decide_oldest_alone(arrival.at.steady_nanos(), &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Rows whose parents are decided, here or before, follow them; parents may stand after their children.
    fn follow_parents(&mut self, spans: &Spans<'_>, keys: &[SpanKey], verdicts: &mut [Option<Verdict>], commit: i64) {
        let undecided = (0..keys.len()).filter(|row| verdicts[*row].is_none());
        let mut undecided: Vec<(usize, Option<SpanKey>)> = undecided.map(|row| (row, spans.parent(row))).collect();
        loop {
            let before = undecided.len();
            undecided.retain(|(row, parent)| {
                let Some(known) = parent.and_then(|parent| self.verdict(parent, commit)) else { return true };
                verdicts[*row] = Some(known);
                self.remember(keys[*row], commit, known);
                false
            });
            if undecided.len() == before {
                return;
            }
        }
    }

    fn settle(
        &mut self,
        arrival: Arrival<'_>,
        spans: &Spans<'_>,
        verdicts: &[Option<Verdict>],
        outcome: &mut Outcome,
    ) -> Result<(), ArrowError> {
        let marks: Vec<Option<Mark>> =
            verdicts.iter().map(|verdict| verdict.and_then(|verdict| verdict.mark)).collect();
        if arrival.wanted && marks.iter().any(Option::is_some) {
            let missing = self.missing_attempts(spans, &marks);
            self.incomplete +=
                count(missing.iter().filter(|missing| missing.is_some_and(|missing| missing > 0)).count());
            outcome.kept.push((arrival.lsn, spans::marked(arrival.batch, &marks, &missing)?));
        }
        if arrival.wanted {
            outcome.count_all(arrival.lsn, spans, verdicts);
        }
        let mut waiting = Vec::new();
        for (row, _) in verdicts.iter().enumerate().filter(|(_, verdict)| verdict.is_none()) {
            let parent = spans.parent(row).unwrap_or_default();
            let (key, is_attempt) = (spans.key(row), spans.is_attempt(row));
            waiting.push(Waiting { row, place: row, key, parent, is_attempt });
        }
        if !waiting.is_empty() {
            self.pending.add(arrival, waiting)?;
        }
        Ok(())
    }

    /// Of each kept decision that tells how many attempts it made, how many of them are neither beside it nor waited for
    /// it. A decision does not wait for its attempts: nearly all come with it, and it would be late for the sake of others.
    fn missing_attempts(&self, spans: &Spans<'_>, marks: &[Option<Mark>]) -> Vec<Option<i32>> {
        let made: Vec<Option<i32>> = (0..marks.len()).map(|row| marks[row].and_then(|_| spans.attempts(row))).collect();
        if made.iter().flatten().all(|made| *made <= 0) {
            return made;
        }
        let mut beside: HashedMap<i32> = HashedMap::default();
        for parent in (0..marks.len()).filter(|row| spans.is_attempt(*row)).filter_map(|row| spans.parent(row)) {
            *beside.entry(parent).or_insert(0) += 1;
        }
        let missing = |(row, made): (usize, Option<i32>)| {
            let key = spans.key(row);
            let came = beside.get(&key).copied().unwrap_or(0).saturating_add(self.pending.attempts_of(key));
            made.map(|made| made.saturating_sub(came).max(0))
        };
        made.into_iter().enumerate().map(missing).collect()
    }

    /// Decides waiting rows whose parents are decided now, and theirs in turn.
    fn cascade(&mut self, mut decided: Vec<SpanKey>, commit: i64, outcome: &mut Outcome) -> Result<(), ArrowError> {
        let mut settled = Vec::new();
        while let Some(parent) = decided.pop() {
            let Some(verdict) = self.verdict(parent, commit) else { continue };
            for (lsn, waiting) in self.pending.children_of(parent) {
                self.remember(waiting.key, commit, verdict);
                decided.push(waiting.key);
                settled.push((lsn, waiting, verdict));
            }
        }
        self.release(&settled, outcome)
    }

    fn release(&mut self, settled: &[(u64, Waiting, Verdict)], outcome: &mut Outcome) -> Result<(), ArrowError> {
        let mut by_entry: BTreeMap<u64, Vec<(Waiting, Verdict)>> = BTreeMap::new();
        for (lsn, waiting, verdict) in settled {
            by_entry.entry(*lsn).or_default().push((*waiting, *verdict));
        }
        for (lsn, rows) in by_entry {
            let Some((batch, wanted)) = self.pending.batch(lsn) else { continue };
            let spans = Spans::of(&batch);
            let mut marks = vec![None; batch.num_rows()];
            for (waiting, verdict) in rows.iter().filter(|_| wanted) {
                marks[waiting.place] = verdict.mark;
                outcome.count(lsn, &spans, waiting.place, Some(*verdict)).waiting -= 1;
            }
            if marks.iter().any(Option::is_some) {
                // No decision waits for anything.
                outcome.kept.push((lsn, spans::marked(&batch, &marks, &[])?));
            }
            self.pending.done(lsn, rows.iter().map(|(waiting, _)| waiting.row))?;
        }
        Ok(())
    }

    /// Decides alone what has waited long enough at `now`.
    pub(crate) fn expire(&mut self, now_steady_nanos: i64) -> Result<Outcome, ArrowError> {
        let mut outcome = Outcome::default();
        while let Some((_, commit)) = self.pending.oldest() {
            // Decided as of the moment the wait ended, so that it does not matter who noticed it when.
            let deadline = commit.saturating_add(WAIT_NANOS);
            if deadline > now_steady_nanos {
                break;
            }
            self.decide_oldest_alone(deadline, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Decides alone everything that waits: nothing more will come.
    pub(crate) fn expire_all(&mut self, now_steady_nanos: i64) -> Result<Outcome, ArrowError> {
        let mut outcome = Outcome::default();
        while self.pending.len() > 0 {
            self.decide_oldest_alone(now_steady_nanos, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn decide_oldest_alone(&mut self, commit: i64, outcome: &mut Outcome) -> Result<(), ArrowError> {
        let Some((lsn, trusted, batch, rows)) = self.pending.oldest_rows() else { return Ok(()) };
        let spans = Spans::of(&batch);
        let mut settled = Vec::new();
        for waiting in rows {
            let verdict = self.decide_alone(&spans, waiting.place, trusted, commit);
            self.remember(waiting.key, commit, verdict);
            self.pending.forget_child(waiting.parent, lsn, waiting.row);
            settled.push((lsn, waiting, verdict));
        }
        let decided = settled.iter().map(|(_, waiting, _)| waiting.key).collect();
        self.release(&settled, outcome)?;
        self.cascade(decided, commit, outcome)
    }

    fn decide_root(&mut self, spans: &Spans<'_>, row: usize, arrival: &Arrival<'_>, drawn: &Drawn) -> Verdict {
        let Drawn { policy, threshold } = drawn;
        let (whole, reason) = match spans.remarkable(row, policy.slow_ms) {
            Some(reason) if self.within_budget(spans.profile(row), policy, arrival.at.steady_nanos()) => (true, reason),
            Some(_) => (false, KeepReason::Budget),
            None => (false, KeepReason::Rate),
        };
        let ours = if whole { Threshold::ALL } else { *threshold };
        Verdict { mark: self.draw(spans, row, arrival.trusted, ours, reason), whole }
    }

    /// A span whose root never came: an error is kept whole within the budget, anything else at the rate.
    fn decide_alone(&mut self, spans: &Spans<'_>, row: usize, trusted: bool, steady_nanos: i64) -> Verdict {
        let policy = self.policies.of(spans.profile(row));
        let whole = spans.is_error(row) && self.within_budget(spans.profile(row), &policy, steady_nanos);
        let ours = if whole { Threshold::ALL } else { Threshold::of(policy.rate) };
        Verdict { mark: self.draw(spans, row, trusted, ours, KeepReason::Orphan), whole }
    }

    /// Draws by our threshold, after what a trusted sender drew by its own.
    fn draw(
        &mut self,
        spans: &Spans<'_>,
        row: usize,
        trusted: bool,
        ours: Threshold,
        reason: KeepReason,
    ) -> Option<Mark> {
        let said = spans.trace_state(row).filter(|_| trusted);
        let incoming = said.map(Incoming::parse).unwrap_or_default();
        let random = incoming.random.unwrap_or_else(|| random_bits(spans.trace_id(row)));
        if !ours.keeps(random) {
            return None;
        }
        let upstream_reason = if reason == KeepReason::Orphan { reason } else { KeepReason::Upstream };
        Some(match incoming.upstream(random) {
            Upstream::Known(upstream) if upstream > ours => Mark { reason: upstream_reason, threshold: Some(upstream) },
            Upstream::Known(_) => Mark { reason, threshold: Some(ours) },
            Upstream::Unknown => {
                self.unknown_weights += 1;
                Mark { reason: upstream_reason, threshold: None }
            }
        })
    }

    /// Takes one place of the profile's budget for the second, if there is one. A second that has passed by the time
    /// that somebody asks for it is over.
    fn within_budget(&mut self, profile: Option<&str>, policy: &SamplingPolicy, steady_nanos: i64) -> bool {
        let second = steady_nanos.div_euclid(NANOS_PER_SECOND);
        if second > self.second {
            self.second = second;
            self.kept_whole.clear();
        }
        let taken = self.kept_whole.entry(profile.unwrap_or_default().to_owned()).or_insert(0);
        *taken += 1;
        *taken <= policy.kept_whole_per_second
    }

    fn verdict(&self, key: SpanKey, now: i64) -> Option<Verdict> {
        let found = self.drawn.find(key).into_iter().chain(self.whole.find(key));
        let newest = found.max_by_key(|fell| fell.at)?;
        (now.saturating_sub(newest.at) <= self.window_nanos).then(|| newest.verdict.verdict())
    }

    fn remember_all(&mut self, fallen: &[(SpanKey, Verdict)], at: i64) {
        let keys = |whole: bool| fallen.iter().filter(move |(_, one)| one.whole == whole).map(|(key, _)| *key);
        self.whole.fetch(keys(true));
        self.drawn.fetch(keys(false));
        for (key, verdict) in fallen {
            self.remember(*key, at, *verdict);
        }
    }

    fn remember(&mut self, key: SpanKey, at: i64, verdict: Verdict) {
        let verdicts = if verdict.whole { &mut self.whole } else { &mut self.drawn };
        verdicts.push(Fell { at, key, verdict: Packed::of(verdict) });
    }

    fn forget(&mut self, now: i64) {
        self.whole.forget(now, self.window_nanos);
        self.drawn.forget(now, self.window_nanos);
    }
}

#[cfg(test)]
mod tests;
