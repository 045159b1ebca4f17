//! The states of one address: `connected → discovering → responding → ready`, and `unresponsive`, `disconnected`.
//!
//! Pure: an event and the time go in, the new state and what is to be done come out. Sockets, DNS and timers are the
//! loop's business ([`super::poll`]), so that every transition can be tested on values, and none can depend on when a
//! task happened to run. DNS alone never changes the state of a node: an address that is missing from an answer while its
//! node still answers is a resolver's mistake, and not a death.

use std::collections::VecDeque;
use std::time::Duration;

use lariat_schema::coverage::NodeState;

/// Time between two looks at a node, and between two questions to DNS.
pub(crate) const ROUND: Duration = Duration::from_secs(5);
/// Failed looks in a row that make a node unresponsive.
const FAILURES_TO_UNRESPONSIVE: u32 = 2;
/// Time to the second look after a first failure: with it a hang is noticed within 10 s.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);
/// First and longest pause between two attempts to learn who is at an address, doubled after each.
const DISCOVERY_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Attempts to learn it in a row; afterwards it is asked once a round.
const DISCOVERY_ATTEMPTS: u32 = 5;
/// Time to the next look at a node that answers and has not proved a commit yet, or that has just gone.
const EAGER_PAUSE: Duration = Duration::from_millis(250);
/// How many such looks there are: a fleet that starts is complete sooner, and a dead one is not asked for ever.
const EAGER_LOOKS: u32 = 20;
/// A node that lost `ready` so often...
const FLAPS: usize = 3;
/// ...within this time is flapping...
const FLAP_WINDOW: Duration = Duration::from_secs(60);
/// ...and must prove itself so often in a row before it is ready again.
const FLAP_PROOFS: u32 = 3;
/// DNS answers in a row without an address after which one that does not answer either is forgotten.
const UNLISTED_TO_FORGET: u32 = 3;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Discovery gives the address.
    Listed,
    /// A DNS answer lacks it.
    Unlisted,
    /// Time has passed.
    Tick,
    /// A look has ended: the identity, a health check and the first step of a query.
    Looked(Health),
    /// A query met the node.
    Queried(Health),
    /// The connection that is held open broke.
    LinkLost,
    /// It said farewell.
    Farewell,
}

/// What was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered a query and showed a recent commit.
    Proved,
    /// It answered.
    Answered,
    /// No answer in time, or a broken one.
    Silent,
    /// Its address refuses connections: nobody is there.
    Refused,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Look at the node.
    Look,
    /// Tell `cluster:topology`.
    Tell {
        /// The state before.
        from: NodeState,
    },
    /// Forget the address.
    Forget,
}

/// Where an address stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The state as shown.
    pub(crate) state: NodeState,
    /// True once it told who it is.
    identified: bool,
    /// Failed looks in a row.
    failures: u32,
    /// Looks since it last was ready.
    eager_looks: u32,
    /// Proofs in a row.
    proofs: u32,
    /// When it lost `ready`, the newest last.
    losses: VecDeque<Duration>,
    /// DNS answers in a row that lack it.
    unlisted: u32,
    looking: bool,
    next_look: Duration,
    has_failed: bool,
}

impl Progress {
    /// An address that was learned at `now`.
    pub(crate) fn learned(now: Duration) -> Self {
        Self {
            state: NodeState::Connected,
            identified: false,
            failures: 0,
            eager_looks: 0,
            proofs: 0,
            losses: VecDeque::new(),
            unlisted: 0,
            looking: false,
            next_look: now,
            has_failed: false,
        }
    }

    /// The transition. Time is since any fixed moment.
    pub(crate) fn step(mut self, event: Event, now: Duration) -> (Self, Vec<Action>) {
        let before = self.state;
        let mut actions = Vec::new();
        match event {
            Event::Listed => self.unlisted = 0,
            Event::Unlisted => {
                self.unlisted = self.unlisted.saturating_add(1);
                if self.unlisted >= UNLISTED_TO_FORGET && !self.answers() {
                    actions.push(Action::Forget);
                }
            }
            Event::Tick => {
                if !self.looking && now >= self.next_look {
                    self.looking = true;
                    if !self.identified && self.state == NodeState::Connected && self.failures < DISCOVERY_ATTEMPTS {
                        self.state = NodeState::Discovering;
                    }
                    actions.push(Action::Look);
                }
            }
            Event::Looked(health) => {
                self.looking = false;
                self.eager_looks = self.eager_looks.saturating_add(1);
                self.met(health, now);
                self.next_look = now + self.pause();
            }
            Event::Queried(health) => self.met(health, now),
            Event::LinkLost => self.next_look = now,
            Event::Farewell => {
                self.state = NodeState::Disconnected;
                self.proofs = 0;
                self.eager_looks = 0;
                self.next_look = now + EAGER_PAUSE;
            }
        }
        if self.state != before {
            actions.push(Action::Tell { from: before });
        }
        (self, actions)
    }

    fn met(&mut self, health: Health, now: Duration) {
        let was_ready = self.state == NodeState::Ready;
        match health {
            Health::Proved | Health::Answered => {
                self.identified = true;
                self.failures = 0;
                self.proofs = if health == Health::Proved { self.proofs.saturating_add(1) } else { 0 };
                let wanted = if self.is_flapping(now) { FLAP_PROOFS } else { 1 };
                if self.proofs >= wanted {
                    self.state = NodeState::Ready;
                    self.eager_looks = 0;
                } else if !was_ready {
                    self.state = NodeState::Responding;
                }
            }
            Health::Silent => {
                self.failed();
                if !self.identified {
                    if self.failures >= DISCOVERY_ATTEMPTS && self.state == NodeState::Discovering {
                        self.state = NodeState::Connected;
                    }
                } else if self.failures >= FAILURES_TO_UNRESPONSIVE && self.state != NodeState::Disconnected {
                    self.state = NodeState::Unresponsive;
                }
            }
            Health::Refused => {
                self.failed();
                self.state = NodeState::Disconnected;
            }
        }
        if was_ready && self.state != NodeState::Ready {
            self.losses.push_back(now);
            self.eager_looks = 0;
            if self.losses.len() > FLAPS {
                self.losses.pop_front();
            }
        }
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.proofs = 0;
        self.has_failed = true;
    }

    fn is_flapping(&self, now: Duration) -> bool {
        self.losses.len() >= FLAPS && self.losses.iter().all(|loss| now.saturating_sub(*loss) <= FLAP_WINDOW)
    }

    fn answers(&self) -> bool {
        matches!(self.state, NodeState::Responding | NodeState::Ready)
    }

    /// Time from the end of a look to the next one.
    fn pause(&self) -> Duration {
        if self.answers() {
            return match (self.state, self.failures) {
                (NodeState::Ready, 0) => ROUND,
                (NodeState::Ready, _) => DOUBT_PAUSE,
                // Proofs of a flapping node count once a round: quick ones would prove nothing.
                _ if self.losses.len() >= FLAPS => ROUND,
                _ if self.eager_looks < EAGER_LOOKS => EAGER_PAUSE,
                _ => ROUND,
            };
        }
        if !self.identified && self.state != NodeState::Disconnected {
            let (first, longest) = DISCOVERY_BACKOFF;
            return match self.failures {
                failures if failures >= DISCOVERY_ATTEMPTS => ROUND,
                failures => (first * 2_u32.saturating_pow(failures.saturating_sub(1))).min(longest),
            };
        }
        match self.state {
            NodeState::Disconnected if self.eager_looks < EAGER_LOOKS => EAGER_PAUSE,
            _ => ROUND,
        }
    }

    /// When the next look is due.
    pub(crate) fn next_look(&self) -> Duration {
        self.next_look
    }

    /// True for a node that is worth asking: it has not failed, or not often enough to be given up for now.
    pub(crate) fn worth_asking(&self) -> bool {
        match self.state {
            NodeState::Responding | NodeState::Ready => true,
            NodeState::Connected | NodeState::Discovering => self.failures < FAILURES_TO_UNRESPONSIVE,
            NodeState::Unresponsive | NodeState::Disconnected | NodeState::NeverSeen => false,
        }
    }

    /// True once it is ready or has failed a look.
    pub(crate) fn settled(&self) -> bool {
        self.state == NodeState::Ready || self.has_failed
    }
}

#[cfg(test)]
mod tests;
