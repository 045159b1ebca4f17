//! What a stream of events does, as a pure state machine: inputs and times come in, actions come out. It promises its
//! clients each event once and in order, over the failure of any provider: events that may have been missed are asked
//! for over HTTP while new ones are held back, duplicates are dropped by what identifies them, and a hole that cannot
//! be filled ends the stream. Nothing is ever left out silently.
//!
//! ```text
//! active ──feed lost, stale──► switching ──subscribed──► filling ──filled──► active
//!    └──────────a block is missing──────────────────────────▲
//!                              switching ──nobody──► degraded ──after a while──► switching
//! ```
//!
//! The new feed stands before the gap is measured: the other way round, what happens between would be in neither.
//! Forks are delivered as the provider sends them. Pending transactions have no order and no past: there a change of
//! provider is told as a gap.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use super::notice::{Identity, Notice};
use super::subject::Kind;

/// Blocks within which a head of lower number is taken for a fork; below it for a provider that lags.
const WINDOW_BLOCKS: u64 = 256;
/// Heads remembered: those of the window, and as many of its forks.
const MAX_HEADS: usize = 512;
/// Logs remembered: more than a block holds.
const MAX_LOGS: usize = 8_192;
/// Events held back while a gap is filled. What is beyond it is asked for afterwards.
const MAX_HELD: usize = 512;
/// Blocks before the last head whose logs are asked for again: the events and the heads of a provider come on separate
/// subscriptions, so that a head may overtake the last logs of its parent.
const LOG_MARGIN_BLOCKS: u64 = 1;
/// Least time between two tries while nobody serves the stream.
const LEAST_RETRY_MS: u64 = 5_000;

/// The bounds of a stream, in the profile's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) stale_ms: u64,
    pub(super) max_fill_blocks: u64,
    /// How long after the failure of all providers they are tried again.
    pub(super) retry_ms: u64,
}

/// What happens to a stream.
#[derive(Debug, Clone)]
pub(super) enum Input {
    /// A provider has been subscribed to.
    Opened,
    /// No provider could be.
    NoFeed,
    /// The feed has ended.
    Lost,
    Event(Notice),
    /// A head of the provider that gives the events, where those are no heads themselves.
    Head(u64),
    /// The height of the chain, as asked for.
    Height(u64),
    /// All events up to that block, in order, as asked for.
    Filled {
        to: u64,
        notices: Vec<Notice>,
    },
    /// What was asked for did not come in time.
    NotFilled,
    /// A provider is connected that was not.
    Chance,
    /// Time has passed.
    Time,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Deliver(Bytes),
    /// Choose another provider; feeds and questions under way are given up.
    Open {
        stale_ms: Option<u64>,
    },
    /// Ask for the height of the chain.
    Measure,
    /// Ask for the events of these blocks.
    Fill {
        from: u64,
        to: u64,
    },
    Tell(Told),
    /// Nothing comes after this.
    End(Ending),
}

/// What clients are told besides events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// No provider serves the stream for now.
    Degraded,
    /// It goes on, and nothing was lost.
    Resumed,
    /// It goes on; what happened meanwhile is not known.
    Gap,
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// More is missing than is asked for.
    TooFar { blocks: u64 },
    /// What is missing could not be had.
    NotFilled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Switching,
    /// From this block on; `measured` after a change of provider, not where the provider itself left something out.
    Filling {
        from: u64,
        measured: bool,
    },
    Degraded {
        since_ms: u64,
    },
    Ended,
}

/// What was held back.
#[derive(Debug)]
enum Held {
    Notice(Notice),
    Head(u64),
}

/// Something is missing before what was to be processed, which is handed back.
struct Hole {
    from: u64,
    to: u64,
    before: Held,
}

/// The last events, to know them again.
#[derive(Debug)]
struct Recent {
    order: VecDeque<Identity>,
    known: HashSet<Identity>,
    bound: usize,
}

impl Recent {
    /// True if it is new.
    fn note(&mut self, identity: Identity) -> bool {
        if !self.known.insert(identity) {
            return false;
        }
        // A log that was taken back may come again, and be taken back again.
        if let Identity::Log { block, index, removed } = identity {
            self.known.remove(&Identity::Log { block, index, removed: !removed });
        }
        self.order.push_back(identity);
        while self.order.len() > self.bound {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        true
    }
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    kind: Kind,
    limits: Limits,
    state: State,
    /// The last block that is delivered, in whole or (logs) in part.
    covered: Option<u64>,
    /// Height when the stream began, for a feed that fails before its first head.
    baseline: Option<u64>,
    /// First block that was seen: what is before it is none of the stream's business.
    floor: Option<u64>,
    recent: Recent,
    held: VecDeque<Held>,
    /// Something found no room among what is held.
    torn: bool,
    heard_ms: u64,
    degraded: bool,
    /// Events dropped since they were known.
    pub(super) duplicates: u64,
}

impl Stream {
    /// A stream whose first feed stands.
    pub(super) fn new(kind: Kind, limits: Limits, baseline: Option<u64>, now_ms: u64) -> Self {
        let bound = if kind == Kind::Logs { MAX_LOGS } else { MAX_HEADS };
        Self {
            kind,
            limits,
            state: State::Active,
            covered: None,
            baseline,
            floor: None,
            recent: Recent { order: VecDeque::new(), known: HashSet::new(), bound },
            held: VecDeque::new(),
            torn: false,
            heard_ms: now_ms,
            degraded: false,
            duplicates: 0,
        }
    }

    /// Puts other bounds in force.
    pub(super) const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// When time itself is an input.
    pub(super) const fn wake_ms(&self) -> Option<u64> {
        match self.state {
            State::Active | State::Filling { .. } => Some(self.heard_ms.saturating_add(self.limits.stale_ms)),
            State::Degraded { since_ms } => Some(since_ms.saturating_add(self.limits.retry_ms)),
            State::Switching | State::Ended => None,
        }
    }

    /// True while no provider serves it and none is asked.
    pub(super) const fn is_degraded(&self) -> bool {
        matches!(self.state, State::Degraded { .. })
    }

    /// Takes what happened and says what is to be done.
    pub(super) fn step(&mut self, now_ms: u64, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        let has_feed = matches!(self.state, State::Active | State::Filling { .. });
        match (input, self.state) {
            (Input::Event(notice), _) if has_feed => {
                if self.kind == Kind::NewHeads {
                    self.heard_ms = now_ms;
                }
                self.arrive(Held::Notice(notice), &mut out);
            }
            (Input::Head(number), _) if has_feed => {
                self.heard_ms = now_ms;
                self.arrive(Held::Head(number), &mut out);
            }
            (Input::Lost, _) if has_feed => self.open(None, &mut out),
            (Input::Time, _) if has_feed => {
                let silent_ms = now_ms.saturating_sub(self.heard_ms);
                if silent_ms >= self.limits.stale_ms {
                    self.open(Some(silent_ms), &mut out);
                }
            }
            (Input::Time, State::Degraded { since_ms }) if now_ms >= since_ms.saturating_add(self.limits.retry_ms) => {
                self.open(None, &mut out);
            }
            (Input::Chance, State::Degraded { since_ms }) if now_ms >= since_ms.saturating_add(LEAST_RETRY_MS) => {
                self.open(None, &mut out);
            }
            (Input::NoFeed, State::Switching) => {
                self.state = State::Degraded { since_ms: now_ms };
                if !std::mem::replace(&mut self.degraded, true) {
                    out.push(Action::Tell(Told::Degraded));
                }
            }
            (Input::Opened, State::Switching) => {
                self.heard_ms = now_ms;
                self.opened(&mut out);
            }
            (Input::Height(height), State::Filling { from, measured: true }) => self.measured(from, height, &mut out),
            (Input::Filled { to, notices }, State::Filling { .. }) => {
                for notice in notices {
                    self.deliver(notice, &mut out);
                }
                self.covered = self.covered.max(Some(to));
                self.release(&mut out);
            }
            (Input::NotFilled, State::Filling { measured: true, .. }) => self.end(Ending::NotFilled, &mut out),
            // The provider told of a block that nobody else has: another one is asked.
            (Input::NotFilled, State::Filling { measured: false, .. }) => self.open(None, &mut out),
            _ => {}
        }
        out
    }

    fn open(&mut self, stale_ms: Option<u64>, out: &mut Vec<Action>) {
        // What is held back is asked for again, since it was not delivered.
        self.held.clear();
        self.torn = false;
        self.state = State::Switching;
        out.push(Action::Open { stale_ms });
    }

    fn end(&mut self, ending: Ending, out: &mut Vec<Action>) {
        self.held.clear();
        self.state = State::Ended;
        out.push(Action::End(ending));
    }

    /// The first block that may be missing.
    fn wanted(&self) -> Option<u64> {
        match (self.covered, self.baseline) {
            (Some(covered), _) if self.kind == Kind::Logs => Some(covered.saturating_sub(LOG_MARGIN_BLOCKS)),
            (Some(covered), _) => Some(covered + 1),
            (None, baseline) => Some(baseline? + 1),
        }
    }

    fn opened(&mut self, out: &mut Vec<Action>) {
        match self.wanted().filter(|_| self.kind != Kind::PendingTransactions) {
            Some(from) => {
                self.state = State::Filling { from, measured: true };
                out.push(Action::Measure);
            }
            None => {
                self.state = State::Active;
                self.degraded = false;
                out.push(Action::Tell(Told::Gap));
            }
        }
    }

    fn measured(&mut self, from: u64, height: u64, out: &mut Vec<Action>) {
        let margin = if self.kind == Kind::Logs { LOG_MARGIN_BLOCKS + 1 } else { 0 };
        match (height + 1).saturating_sub(from) {
            0 => self.release(out),
            blocks if blocks > self.limits.max_fill_blocks + margin => self.end(Ending::TooFar { blocks }, out),
            _ => out.push(Action::Fill { from, to: height }),
        }
    }

    fn arrive(&mut self, arrived: Held, out: &mut Vec<Action>) {
        if self.state != State::Active {
            if self.held.len() < MAX_HELD && !self.torn {
                self.held.push_back(arrived);
            } else {
                self.torn = true;
            }
        } else if let Err(hole) = self.process(arrived, out) {
            self.fill(hole, out);
        }
    }

    /// Asks for what is missing, and holds back what came after it.
    fn fill(&mut self, Hole { from, to, before }: Hole, out: &mut Vec<Action>) {
        if to - from >= self.limits.max_fill_blocks {
            // So far ahead of what it said before, the provider is not believed.
            return self.open(None, out);
        }
        self.held.push_front(before);
        self.state = State::Filling { from, measured: false };
        out.push(Action::Fill { from, to });
    }

    /// Works off what was held back.
    fn release(&mut self, out: &mut Vec<Action>) {
        self.state = State::Active;
        while let Some(held) = self.held.pop_front() {
            if let Err(hole) = self.process(held, out) {
                return self.fill(hole, out);
            }
        }
        match self.wanted().filter(|_| std::mem::take(&mut self.torn)) {
            Some(from) => {
                self.state = State::Filling { from, measured: true };
                out.push(Action::Measure);
            }
            None if std::mem::take(&mut self.degraded) => out.push(Action::Tell(Told::Resumed)),
            None => {}
        }
    }

    fn process(&mut self, arrived: Held, out: &mut Vec<Action>) -> Result<(), Hole> {
        match (arrived, self.covered) {
            (Held::Notice(notice), Some(covered)) if self.kind == Kind::NewHeads && notice.number > covered + 1 => {
                Err(Hole { from: covered + 1, to: notice.number - 1, before: Held::Notice(notice) })
            }
            (Held::Notice(notice), _) => {
                self.deliver(notice, out);
                Ok(())
            }
            (Held::Head(number), Some(covered)) if self.kind == Kind::Logs && number > covered + 1 => {
                Err(Hole { from: covered, to: number - 1, before: Held::Head(number) })
            }
            (Held::Head(number), covered) => {
                self.floor.get_or_insert(number);
                self.covered = covered.max(Some(number));
                Ok(())
            }
        }
    }

    /// Delivers an event unless it was delivered before, or is older than the stream.
    fn deliver(&mut self, notice: Notice, out: &mut Vec<Action>) {
        let Notice { number, identity, raw } = notice;
        if identity == Identity::Pending {
            return out.push(Action::Deliver(raw));
        }
        let covered = self.covered.unwrap_or(number);
        let old = number < *self.floor.get_or_insert(number) || number.saturating_add(WINDOW_BLOCKS) <= covered;
        if old || !self.recent.note(identity) {
            self.duplicates += 1;
            return;
        }
        if self.kind == Kind::NewHeads {
            self.covered = Some(number);
        }
        out.push(Action::Deliver(raw));
    }
}

#[cfg(test)]
mod tests;
