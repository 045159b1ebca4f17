//! The live side of health: the only place where it changes. One lock per channel, held for a few assignments and never
//! over an await; a global one would make every call wait for every other. What changed and is worth an event is
//! returned as a value, since telling is not this module's work.
//!
//! A reload makes a new book, since channels have other places then; what is known of an instance that stays is not
//! copied but shared, so that the late result of a call under the old rules still counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use lariat_schema::vocabulary::{CircuitState, ErrorCategory};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::evidence::{Evidence, average};
use super::{ChannelIndex, ChannelView, EvidenceKey, Height, Place, Snapshot};
use crate::circuit::{Circuit, Denied, Lease, Transition};
use crate::classify;
use crate::profiles::ProfileKey;

/// How long a provider that said nothing of its rate limit's end is taken to limit us.
const DEFAULT_LIMITED_MS: u64 = 30_000;
/// Bound on the methods that evidence is kept of, per profile and channel: the known methods are fewer.
const MAX_CELLS_PER_CHANNEL: usize = 4_096;

struct Cell {
    circuit: Circuit,
    limited_until_ms: u64,
    prior_ms: Option<f64>,
    evidence: HashMap<EvidenceKey, Evidence>,
    shared: Option<Arc<HashMap<EvidenceKey, Evidence>>>,
}

impl Cell {
    fn new(recovery_ms: u64) -> Self {
        Self {
            circuit: Circuit::new(recovery_ms),
            limited_until_ms: 0,
            prior_ms: None,
            evidence: HashMap::new(),
            shared: None,
        }
    }
}

/// A circuit's transition, with the channel that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) channel: ChannelIndex,
    pub(crate) transition: Transition,
}

/// What a book and those that succeed it have in common.
struct Lineage {
    started: Instant,
    recovery_ms: u64,
    /// Number of the latest snapshot.
    number: AtomicU64,
    /// Changes so far, whichever book they were noted through.
    changes: AtomicU64,
}

/// Everything known of the upstreams.
pub(crate) struct Book {
    lineage: Arc<Lineage>,
    cells: Vec<Arc<Mutex<Cell>>>,
    /// True for instances behind providers of several profiles.
    shared: Vec<bool>,
    heights: Vec<Arc<Mutex<Option<Height>>>>,
    drained: Mutex<HashSet<Place>>,
    snapshot: ArcSwap<Snapshot>,
    /// Changes that are in the snapshot.
    published: AtomicU64,
    publishing: Mutex<()>,
}

/// What another catalog makes of a book.
pub(crate) struct Succession {
    /// For each of its instances, which one of the old catalog it was.
    pub(crate) kept: Vec<Option<usize>>,
    /// For each of its instances, whether several profiles use it.
    pub(crate) shared: Vec<bool>,
    /// The drained providers at their new places.
    pub(crate) drained: HashSet<Place>,
    /// The profiles whose evidence stays.
    pub(crate) profiles: HashSet<ProfileKey>,
}

/// The right to make one attempt on a channel; given back when dropped unsettled.
pub(crate) struct Admission<'b> {
    book: &'b Book,
    channel: ChannelIndex,
    pub(crate) lease: Lease,
    settled: bool,
}

impl Book {
    /// `shared` says for each instance whether several profiles use it.
    pub(crate) fn new(shared: Vec<bool>, recovery_ms: u64) -> Self {
        let (number, changes) = (AtomicU64::new(0), AtomicU64::new(0));
        let lineage = Arc::new(Lineage { started: Instant::now(), recovery_ms, number, changes });
        let kept = vec![None; shared.len()];
        Self::assemble(
            lineage,
            &[],
            &[],
            Succession { kept, shared, drained: HashSet::new(), profiles: HashSet::new() },
        )
    }

    /// The book that follows this one: what is known of kept instances is the same in both from now on.
    pub(crate) fn succeed(&self, succession: Succession) -> Self {
        Self::assemble(self.lineage.clone(), &self.cells, &self.heights, succession)
    }

    fn assemble(
        lineage: Arc<Lineage>,
        cells: &[Arc<Mutex<Cell>>],
        heights: &[Arc<Mutex<Option<Height>>>],
        succession: Succession,
    ) -> Self {
        let Succession { kept, shared, drained, profiles } = succession;
        let cell = |channel: ChannelIndex| match kept[channel.instance()] {
            Some(before) => {
                let cell = cells[ChannelIndex::new(before, channel.transport()).0].clone();
                let mut known = cell.lock();
                known.evidence.retain(|(profile, _), _| profiles.contains(profile));
                known.shared = None;
                drop(known);
                cell
            }
            None => Arc::new(Mutex::new(Cell::new(lineage.recovery_ms))),
        };
        let height = |before: &Option<usize>| before.map_or_else(Arc::default, |before| heights[before].clone());
        let book = Self {
            cells: (0..kept.len() * 2).map(|at| cell(ChannelIndex(at))).collect(),
            heights: kept.iter().map(height).collect(),
            lineage,
            shared,
            drained: Mutex::new(drained),
            snapshot: ArcSwap::default(),
            published: AtomicU64::new(0),
            publishing: Mutex::new(()),
        };
        book.publish();
        book
    }

    /// Milliseconds of this book's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.lineage.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Leaves a change to the next tick.
    fn mark(&self) {
        self.lineage.changes.fetch_add(1, Ordering::Release);
    }

    /// Makes a change known at once.
    fn publish_change(&self) {
        self.mark();
        self.publish();
    }

    fn publish(&self) {
        let _one_at_a_time = self.publishing.lock();
        // Read before the cells: what changes meanwhile is published again by the next tick.
        let changes = self.lineage.changes.load(Ordering::Acquire);
        let channels = self.cells.iter().map(|cell| view(&mut cell.lock())).collect();
        let number = self.lineage.number.fetch_add(1, Ordering::Relaxed) + 1;
        let heights = self.heights.iter().map(|height| *height.lock()).collect();
        let drained = self.drained.lock().clone();
        self.snapshot.store(Arc::new(Snapshot { number, channels, heights, drained }));
        self.published.store(changes, Ordering::Release);
    }

    /// Half-opens what is due and publishes what changed; to be called every [`super::PUBLISH_EVERY`].
    pub(crate) fn tick(&self) -> Vec<Change> {
        let now_ms = self.now_ms();
        let changes: Vec<Change> = self
            .cells
            .iter()
            .enumerate()
            .filter_map(|(i, cell)| {
                let transition = cell.lock().circuit.tick(now_ms)?;
                Some(Change { channel: ChannelIndex(i), transition })
            })
            .collect();
        if !changes.is_empty() {
            self.mark();
        }
        if self.lineage.changes.load(Ordering::Acquire) != self.published.load(Ordering::Acquire) {
            self.publish();
        }
        changes
    }

    /// Asks for the right to make an attempt.
    pub(crate) fn admit(&self, channel: ChannelIndex) -> Result<Admission<'_>, Denied> {
        let lease = self.cells[channel.0].lock().circuit.admit()?;
        if lease.state == CircuitState::HalfOpen {
            self.publish_change();
        }
        Ok(Admission { book: self, channel, lease, settled: false })
    }

    /// Notes a probe's latency.
    pub(crate) fn note_prior(&self, channel: ChannelIndex, latency_ms: f64) {
        let mut cell = self.cells[channel.0].lock();
        cell.prior_ms = Some(average(cell.prior_ms, latency_ms));
        drop(cell);
        self.mark();
    }

    /// Notes a height; true if it is another one than before.
    pub(crate) fn note_height(&self, instance: usize, height: u64) -> bool {
        let now = Height { height, at_ms: self.now_ms() };
        let before = self.heights[instance].lock().replace(now);
        self.mark();
        before.is_none_or(|before| before.height != height)
    }

    /// Opens or closes a circuit by hand.
    pub(crate) fn force(&self, channel: ChannelIndex, to: CircuitState) -> Option<Change> {
        let transition = self.cells[channel.0].lock().circuit.force(to, self.now_ms())?;
        self.publish_change();
        Some(Change { channel, transition })
    }

    /// Keeps calls away from a provider, or lets them return.
    pub(crate) fn drain(&self, place: Place, drained: bool) {
        let mut set = self.drained.lock();
        let _changed = if drained { set.insert(place) } else { set.remove(&place) };
        drop(set);
        self.publish_change();
    }
}

fn view(cell: &mut Cell) -> ChannelView {
    let evidence = cell.shared.get_or_insert_with(|| Arc::new(cell.evidence.clone())).clone();
    ChannelView {
        circuit: cell.circuit.state,
        epoch: cell.circuit.epoch,
        open_until_ms: cell.circuit.open_until_ms,
        trial_under_way: cell.circuit.trial_under_way,
        limited_until_ms: cell.limited_until_ms,
        prior_ms: cell.prior_ms,
        evidence,
    }
}

impl Admission<'_> {
    /// The attempt got an answer: of use, with its latency and the method it was for, or the call's own fault.
    pub(crate) fn succeed(mut self, useful: Option<(ProfileKey, &'static str, f64)>) -> Option<Change> {
        self.settled = true;
        let now_ms = self.book.now_ms();
        let mut cell = self.book.cells[self.channel.0].lock();
        if let Some((profile, method, latency_ms)) = useful {
            note(&mut cell, profile, method, |evidence| evidence.succeed(latency_ms, now_ms));
        }
        let transition = cell.circuit.succeed(self.lease);
        drop(cell);
        self.conclude(transition)
    }

    /// The attempt failed; `retry_after_ms` is the provider's own word on its rate limit.
    pub(crate) fn fail(
        mut self,
        category: ErrorCategory,
        scope: Option<EvidenceKey>,
        retry_after_ms: Option<u64>,
    ) -> Option<Change> {
        self.settled = true;
        let now_ms = self.book.now_ms();
        let shared = self.book.shared[self.channel.instance()];
        let mut cell = self.book.cells[self.channel.0].lock();
        if category == ErrorCategory::RateLimit {
            let until = now_ms + retry_after_ms.unwrap_or(DEFAULT_LIMITED_MS);
            cell.limited_until_ms = cell.limited_until_ms.max(until);
        }
        let penalised = classify::is_penalised(category)
            && (!shared || !matches!(category, ErrorCategory::Timeout | ErrorCategory::AuthError));
        let transition = if penalised {
            if let Some((profile, method)) = scope {
                note(&mut cell, profile, method, |evidence| evidence.fail(now_ms));
            }
            cell.circuit.fail(self.lease, category, now_ms, rand::random::<f64>())
        } else {
            cell.circuit.release(self.lease);
            None
        };
        drop(cell);
        self.conclude(transition)
    }

    /// The attempt was given up since another channel answered first, after that long.
    pub(crate) fn outrun(mut self, profile: ProfileKey, method: &'static str, waited_ms: f64) {
        self.settled = true;
        let mut cell = self.book.cells[self.channel.0].lock();
        note(&mut cell, profile, method, |evidence| evidence.outrun(waited_ms));
        cell.circuit.release(self.lease);
        drop(cell);
        self.book.mark();
    }

    fn conclude(&self, transition: Option<Transition>) -> Option<Change> {
        if transition.is_some() || self.lease.state == CircuitState::HalfOpen {
            self.book.publish_change();
        } else {
            self.book.mark();
        }
        transition.map(|transition| Change { channel: self.channel, transition })
    }
}

fn note(cell: &mut Cell, profile: ProfileKey, method: &'static str, change: impl FnOnce(&mut Evidence)) {
    if cell.evidence.len() < MAX_CELLS_PER_CHANNEL || cell.evidence.contains_key(&(profile, method)) {
        change(cell.evidence.entry((profile, method)).or_default());
        cell.shared = None;
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.book.cells[self.channel.0].lock().circuit.release(self.lease);
            self.book.mark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lariat_schema::vocabulary::Transport;

    const CHANNEL: ChannelIndex = ChannelIndex::new(0, Transport::Http);

    #[test]
    fn a_transition_is_in_the_next_snapshot_at_once_and_its_number_is_higher() {
        let book = Book::new(vec![false], 30_000);
        let before = book.snapshot().number;
        for n in 1..=3 {
            let change = book.admit(CHANNEL).unwrap().fail(ErrorCategory::NetworkError, None, None);
            assert_eq!(change.is_some(), n == 3);
        }
        let snapshot = book.snapshot();
        assert_eq!(snapshot.channel(CHANNEL).circuit, CircuitState::Open);
        assert!(snapshot.number > before);
    }

    #[test]
    fn an_admission_that_is_dropped_gives_the_trial_back() {
        let book = Book::new(vec![false], 30_000);
        book.force(CHANNEL, CircuitState::HalfOpen);
        let admission = book.admit(CHANNEL).unwrap();
        assert!(book.admit(CHANNEL).is_err());
        drop(admission);
        assert!(book.admit(CHANNEL).is_ok());
    }

    #[test]
    fn timeouts_of_one_profile_do_not_close_a_shared_upstream_to_another() {
        let book = Book::new(vec![true], 30_000);
        for _ in 0..10 {
            assert_eq!(
                book.admit(CHANNEL).unwrap().fail(ErrorCategory::Timeout, Some((ProfileKey::of("public"), "m")), None),
                None
            );
        }
    }

    #[test]
    fn what_a_call_under_the_old_rules_learns_is_known_under_the_new_ones() {
        let (kept, gone) = (ProfileKey::of("public"), ProfileKey::of("gone"));
        let old = Book::new(vec![false, false], 30_000);
        let second = ChannelIndex::new(1, Transport::Http);
        for profile in [kept, gone] {
            old.admit(second).unwrap().succeed(Some((profile, "m", 7.0)));
        }
        old.note_height(1, 40);
        let under_way = [old.admit(second).unwrap(), old.admit(second).unwrap(), old.admit(second).unwrap()];
        let new = old.succeed(Succession {
            kept: vec![Some(1), None],
            shared: vec![false; 2],
            drained: HashSet::from([(0, 0, 1)]),
            profiles: HashSet::from([kept]),
        });
        let snapshot = new.snapshot();
        assert!(snapshot.number > old.snapshot().number);
        assert!(snapshot.drained.contains(&(0, 0, 1)));
        assert_eq!((snapshot.heights[0].map(|it| it.height), snapshot.heights[1]), (Some(40), None));
        let evidence = &snapshot.channel(CHANNEL).evidence;
        assert_eq!(evidence[&(kept, "m")].latency_ms, Some(7.0));
        assert!(!evidence.contains_key(&(gone, "m")));
        for admission in under_way {
            admission.fail(ErrorCategory::NetworkError, None, None);
        }
        old.note_height(1, 41);
        new.tick();
        assert_eq!(new.snapshot().channel(CHANNEL).circuit, CircuitState::Open);
        assert_eq!(new.snapshot().channel(ChannelIndex::new(1, Transport::Http)).circuit, CircuitState::Closed);
        assert_eq!(new.snapshot().heights[0].map(|it| it.height), Some(41));
    }
}
