//! The live side of health: the only place where it changes. One lock per channel, held for a few assignments and never
//! over an await; a global one would make every call wait for every other. What changed and is worth an event is
//! returned as a value, since telling is not this module's work.
//!
//! A reload makes a new book, since channels have other places then; what is known of an instance that stays is not
//! copied but shared, so that the late result of a call under the old rules still counts.

mod admission;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use lariat_schema::vocabulary::{CircuitState, Transport};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::evidence::{Evidence, average};
use super::heights::{Heights, Noted};
use super::status::{Health, Status};
use super::{ChannelIndex, ChannelView, EvidenceKey, Place, Snapshot};
use crate::circuit::{Circuit, Denied, Transition};
use crate::profiles::{Catalog, ProfileKey};
use crate::upstream::{Link, Upstreams};
pub(crate) use admission::Admission;

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
    /// Attempts under way.
    in_flight: u32,
}

impl Cell {
    fn new(recovery_ms: u64) -> Self {
        Self {
            circuit: Circuit::new(recovery_ms),
            limited_until_ms: 0,
            prior_ms: None,
            evidence: HashMap::new(),
            shared: None,
            in_flight: 0,
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
    /// By chain id; one lock, which probes and new heads take a few times a second.
    chains: Mutex<HashMap<u64, Heights>>,
    /// The latest key of an instance.
    keys: AtomicU64,
}

/// What is known of an instance beside its channels.
struct Known {
    /// Its name among the heights of its chain, which stays when its place in the catalog changes.
    key: u64,
    health: Mutex<Health>,
}

/// What the catalog says of an instance.
#[derive(Default)]
struct Member {
    chain_id: u64,
    block_time_ms: Option<u64>,
    link: Option<Arc<Link>>,
}

/// Everything known of the upstreams.
pub(crate) struct Book {
    lineage: Arc<Lineage>,
    cells: Vec<Arc<Mutex<Cell>>>,
    /// True for instances behind providers of several profiles.
    shared: Vec<bool>,
    instances: Vec<Arc<Known>>,
    members: Vec<Member>,
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

impl Book {
    /// `shared` says for each instance whether several profiles use it.
    pub(crate) fn new(shared: Vec<bool>, recovery_ms: u64) -> Self {
        let (number, changes, keys) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let chains = Mutex::default();
        let lineage = Arc::new(Lineage { started: Instant::now(), recovery_ms, number, changes, chains, keys });
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
        Self::assemble(self.lineage.clone(), &self.cells, &self.instances, succession)
    }

    fn assemble(
        lineage: Arc<Lineage>,
        cells: &[Arc<Mutex<Cell>>],
        instances: &[Arc<Known>],
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
        let known = |before: &Option<usize>| match before {
            Some(before) => instances[*before].clone(),
            None => Arc::new(Known { key: lineage.keys.fetch_add(1, Ordering::Relaxed), health: Mutex::default() }),
        };
        let book = Self {
            cells: (0..kept.len() * 2).map(|at| cell(ChannelIndex(at))).collect(),
            instances: kept.iter().map(known).collect(),
            members: kept.iter().map(|_| Member::default()).collect(),
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

    /// The same book for the instances of that catalog and their sockets, which it tells of their circuits.
    pub(crate) fn attending(mut self, catalog: &Catalog, upstreams: &Upstreams) -> Self {
        let mut members: Vec<Member> = catalog
            .instances
            .iter()
            .zip(upstreams.links(catalog))
            .map(|(instance, link)| Member { chain_id: instance.chain_id, block_time_ms: None, link })
            .collect();
        for chain in catalog.profiles.iter().flat_map(|profile| &profile.chains) {
            for provider in &chain.providers {
                let known = &mut members[provider.instance].block_time_ms;
                *known = (*known).or(chain.block_time_ms);
            }
        }
        let mut chains = self.lineage.chains.lock();
        chains.retain(|id, _| members.iter().any(|member| member.chain_id == *id));
        for heights in chains.values_mut() {
            heights.retain(|key| self.instances.iter().any(|known| known.key == key));
        }
        drop(chains);
        self.members = members;
        self.publish();
        self
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
        let mut snapshot = Snapshot { number, channels, ..Snapshot::default() };
        self.add_chains(&mut snapshot);
        for (at, member) in self.members.iter().enumerate() {
            let circuit = snapshot.channel(ChannelIndex::new(at, Transport::Ws)).circuit;
            snapshot.sockets.push(member.link.as_ref().map(|link| link.view()).unwrap_or_default());
            if let Some(link) = &member.link {
                link.set_circuit_open(circuit == CircuitState::Open);
            }
        }
        snapshot.health = self.instances.iter().map(|known| known.health.lock().clone()).collect();
        snapshot.drained = self.drained.lock().clone();
        self.snapshot.store(Arc::new(snapshot));
        self.published.store(changes, Ordering::Release);
    }

    fn add_chains(&self, snapshot: &mut Snapshot) {
        let chains = self.lineage.chains.lock();
        for (at, (known, member)) in self.instances.iter().zip(&self.members).enumerate() {
            let heights = chains.get(&member.chain_id);
            snapshot.heights.push(heights.and_then(|heights| heights.credible(known.key)));
            if heights.is_some_and(|heights| heights.is_doubted(known.key)) {
                snapshot.doubted.insert(at);
            }
        }
        let learned = chains.iter().filter_map(|(id, heights)| Some((*id, heights.block_time_ms()?)));
        snapshot.block_times_ms = learned.collect();
    }

    /// Whether a socket stands otherwise than the snapshot says.
    fn has_other_sockets(&self) -> bool {
        let snapshot = self.snapshot.load();
        let linked = self.members.iter().enumerate().filter_map(|(at, member)| Some((at, member.link.as_ref()?)));
        linked.into_iter().any(|(at, link)| link.view() != snapshot.socket(at))
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
        if !changes.is_empty() || self.has_other_sockets() {
            self.mark();
        }
        if self.lineage.changes.load(Ordering::Acquire) != self.published.load(Ordering::Acquire) {
            self.publish();
        }
        changes
    }

    /// Asks for the right to make an attempt.
    pub(crate) fn admit(&self, channel: ChannelIndex) -> Result<Admission<'_>, Denied> {
        let mut cell = self.cells[channel.0].lock();
        let lease = cell.circuit.admit()?;
        cell.in_flight += 1;
        drop(cell);
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

    /// Notes a height that an instance reported.
    pub(crate) fn note_height(&self, instance: usize, height: u64) -> Noted {
        let (member, key, now_ms) = (&self.members[instance], self.instances[instance].key, self.now_ms());
        let mut chains = self.lineage.chains.lock();
        let noted = chains.entry(member.chain_id).or_default().note(key, height, now_ms, member.block_time_ms);
        drop(chains);
        self.mark();
        noted
    }

    /// Notes what a probe makes of an instance's health, with its failures and successes in a row; returns what it was.
    pub(crate) fn note_health(&self, instance: usize, status: Status, row: (u32, u32), reason: &str) -> Status {
        let probed_at_ms = Some(self.now_ms());
        let (failures_in_a_row, successes_in_a_row) = row;
        let mut health = self.instances[instance].health.lock();
        let reason = match health.reason.take() {
            Some(before) if &*before == reason => before,
            _ => reason.into(),
        };
        let (from, probes) = (health.status, health.probes.saturating_add(1));
        *health = Health { status, probes, failures_in_a_row, successes_in_a_row, reason: Some(reason), probed_at_ms };
        drop(health);
        self.mark();
        from
    }

    /// Notes that a provider limits our rate for so long.
    pub(crate) fn note_limit(&self, channel: ChannelIndex, wait_ms: u64) {
        let until_ms = self.now_ms().saturating_add(wait_ms);
        let mut cell = self.cells[channel.0].lock();
        cell.limited_until_ms = cell.limited_until_ms.max(until_ms);
        drop(cell);
        self.mark();
    }

    /// Attempts of a channel that are under way.
    pub(crate) fn in_flight(&self, channel: ChannelIndex) -> u32 {
        self.cells[channel.0].lock().in_flight
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

#[cfg(test)]
mod tests {
    use super::*;
    use lariat_schema::vocabulary::ErrorCategory;

    const CHANNEL: ChannelIndex = ChannelIndex::new(0, Transport::Http);

    #[test]
    fn a_transition_is_in_the_next_snapshot_at_once_and_its_number_is_higher() {
        let book = Book::new(vec![false], 30_000);
        let before = book.snapshot().number;
        for n in 1..=3 {
            let change = book.admit(CHANNEL).unwrap().fail(ErrorCategory::NetworkError, None, None);
            assert_eq!(change.is_some(), n == 3);
            assert_eq!(book.in_flight(CHANNEL), 0);
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
        assert_eq!(book.in_flight(CHANNEL), 1);
        drop(admission);
        assert_eq!(book.in_flight(CHANNEL), 0);
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
