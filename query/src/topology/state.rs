//! The states of one address: `connected → discovering → responding → ready`, and `unresponsive`, `disconnected`.
//! Pure: what was seen goes in, the state comes out; when to look is the loop's business.

use lariat_schema::coverage::NodeState;

/// Failed rounds in a row that make a node unresponsive.
pub(crate) const FAILURES_TO_UNRESPONSIVE: u32 = 2;

/// What one look at an address showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A round begins.
    Asked,
    /// It answered a query or a health check.
    Answered,
    /// It answered both, and showed a recent commit.
    Proved,
    /// No answer in time, or a broken one.
    Silent,
    /// Its address refuses connections: nobody is there.
    Refused,
    /// Discovery no longer gives the address.
    Gone,
}

/// Where an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The state as shown.
    pub(crate) state: NodeState,
    failures: u32,
    rounds_failed: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { state: NodeState::Connected, failures: 0, rounds_failed: false }
    }
}

impl Progress {
    /// Takes in one look.
    pub(crate) fn see(&mut self, seen: &Seen) {
        match seen {
            Seen::Asked => {
                if self.state == NodeState::Connected {
                    self.state = NodeState::Discovering;
                }
            }
            Seen::Answered => {
                self.failures = 0;
                if self.state != NodeState::Ready {
                    self.state = NodeState::Responding;
                }
            }
            Seen::Proved => {
                self.failures = 0;
                self.state = NodeState::Ready;
            }
            Seen::Silent => {
                self.failures += 1;
                self.rounds_failed = true;
                if self.failures >= FAILURES_TO_UNRESPONSIVE && self.state != NodeState::Disconnected {
                    self.state = NodeState::Unresponsive;
                }
            }
            Seen::Refused | Seen::Gone => {
                self.failures += 1;
                self.rounds_failed = true;
                self.state = NodeState::Disconnected;
            }
        }
    }

    /// True for a node that is worth asking: it has not failed, or not often enough to be given up for now.
    pub(crate) fn worth_asking(&self) -> bool {
        !matches!(self.state, NodeState::Unresponsive | NodeState::Disconnected)
    }

    /// True once it is ready or has failed a round.
    pub(crate) fn settled(&self) -> bool {
        self.state == NodeState::Ready || self.rounds_failed
    }

    /// Failed looks in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seen: &[Seen]) -> Progress {
        let mut progress = Progress::default();
        for seen in seen {
            progress.see(seen);
        }
        progress
    }

    #[test]
    fn a_node_passes_through_every_state_on_its_way_to_ready() {
        assert_eq!(after(&[]).state, NodeState::Connected);
        assert_eq!(after(&[Seen::Asked]).state, NodeState::Discovering);
        assert_eq!(after(&[Seen::Asked, Seen::Answered]).state, NodeState::Responding);
        assert_eq!(after(&[Seen::Asked, Seen::Answered, Seen::Proved]).state, NodeState::Ready);
    }

    #[test]
    fn one_silence_is_forgiven_and_two_in_a_row_are_not() {
        let ready = [Seen::Asked, Seen::Proved];
        assert_eq!(after(&[&ready[..], &[Seen::Silent]].concat()).state, NodeState::Ready);
        assert_eq!(after(&[&ready[..], &[Seen::Silent, Seen::Silent]].concat()).state, NodeState::Unresponsive);
        assert_eq!(
            after(&[&ready[..], &[Seen::Silent, Seen::Answered, Seen::Silent]].concat()).state,
            NodeState::Ready
        );
    }

    #[test]
    fn a_refused_connection_disconnects_at_once_and_an_answer_brings_the_node_back() {
        let gone = after(&[Seen::Asked, Seen::Proved, Seen::Refused]);
        assert_eq!(gone.state, NodeState::Disconnected);
        assert!(!gone.worth_asking() && gone.settled());
        assert_eq!(after(&[Seen::Refused, Seen::Answered]).state, NodeState::Responding);
        assert_eq!(after(&[Seen::Refused, Seen::Silent, Seen::Silent]).state, NodeState::Disconnected);
    }

    #[test]
    fn a_node_settles_by_being_ready_or_by_failing_a_round() {
        assert!(!after(&[Seen::Asked, Seen::Answered]).settled());
        assert!(after(&[Seen::Proved]).settled());
        assert!(after(&[Seen::Silent]).settled());
    }
}
