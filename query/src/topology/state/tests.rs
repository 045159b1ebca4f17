//! Every transition, on values.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A machine with a clock that only the test moves.
struct Bench {
    progress: Progress,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { progress: Progress::learned(Duration::ZERO), now: Duration::ZERO }
    }

    fn after(events: &[Event]) -> Self {
        let mut bench = Self::new();
        for event in events {
            bench.feed(*event);
        }
        bench
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        let (progress, actions) = self.progress.clone().step(event, self.now);
        self.progress = progress;
        actions
    }

    /// Waits until the next look is due, begins it and ends it; returns the time that passed before it began.
    fn look(&mut self, health: Health, takes: Duration) -> Duration {
        let waited = self.progress.next_look().saturating_sub(self.now);
        self.now += waited;
        assert!(self.feed(Event::Tick).contains(&Action::Look));
        self.now += takes;
        self.feed(Event::Looked(health));
        waited
    }

    fn state(&self) -> NodeState {
        self.progress.state
    }
}

fn ready() -> Bench {
    let bench = Bench::after(&[Event::Tick, Event::Looked(Health::Proved)]);
    assert_eq!(bench.state(), NodeState::Ready);
    bench
}

#[test]
fn a_node_passes_through_every_state_on_its_way_to_ready_and_each_change_is_told() {
    let mut bench = Bench::new();
    assert_eq!(bench.state(), NodeState::Connected);
    assert_eq!(bench.feed(Event::Tick), [Action::Look, Action::Tell { from: NodeState::Connected }]);
    assert_eq!(bench.state(), NodeState::Discovering);
    assert_eq!(bench.feed(Event::Looked(Health::Answered)), [Action::Tell { from: NodeState::Discovering }]);
    assert_eq!(bench.state(), NodeState::Responding);
    bench.look(Health::Proved, Duration::ZERO);
    assert_eq!(bench.state(), NodeState::Ready);
    assert_eq!(bench.feed(Event::Queried(Health::Proved)), []);
}

#[test]
fn a_ready_node_is_looked_at_every_five_seconds_after_the_last_look_ended_and_never_twice_at_once() {
    let mut bench = ready();
    assert_eq!(bench.look(Health::Proved, SECOND), ROUND);
    assert_eq!(bench.look(Health::Proved, SECOND), ROUND);
    bench.now += ROUND;
    assert_eq!(bench.feed(Event::Tick), [Action::Look]);
    bench.now += ROUND;
    assert_eq!(bench.feed(Event::Tick), []);
}

#[test]
fn one_silence_is_forgiven_and_two_in_a_row_are_not() {
    let mut bench = ready();
    bench.look(Health::Silent, 2 * SECOND);
    assert_eq!(bench.state(), NodeState::Ready);
    bench.look(Health::Proved, Duration::ZERO);
    bench.look(Health::Silent, 2 * SECOND);
    assert_eq!(bench.state(), NodeState::Ready);
    bench.look(Health::Silent, 2 * SECOND);
    assert_eq!(bench.state(), NodeState::Unresponsive);
    assert!(!bench.progress.worth_asking());
}

#[test]
fn a_hang_is_noticed_within_fifteen_seconds_wherever_in_the_round_it_begins() {
    let mut bench = ready();
    let hang = bench.now;
    while bench.state() == NodeState::Ready {
        bench.look(Health::Silent, 2 * SECOND);
    }
    assert!(bench.now - hang <= 15 * SECOND, "{:?}", bench.now - hang);
}

#[test]
fn queries_that_find_nobody_count_as_looks_do() {
    let mut bench = ready();
    bench.feed(Event::Queried(Health::Silent));
    assert_eq!(bench.state(), NodeState::Ready);
    bench.feed(Event::Queried(Health::Silent));
    assert_eq!(bench.state(), NodeState::Unresponsive);
    bench.feed(Event::Queried(Health::Answered));
    assert_eq!(bench.state(), NodeState::Responding);
}

#[test]
fn a_refused_connection_disconnects_at_once_and_an_answer_brings_the_node_back() {
    let mut bench = ready();
    bench.feed(Event::Queried(Health::Refused));
    assert_eq!(bench.state(), NodeState::Disconnected);
    assert!(!bench.progress.worth_asking() && bench.progress.settled());
    bench.look(Health::Silent, SECOND);
    bench.look(Health::Silent, SECOND);
    assert_eq!(bench.state(), NodeState::Disconnected);
    bench.look(Health::Answered, SECOND);
    assert_eq!(bench.state(), NodeState::Responding);
}

#[test]
fn who_is_at_an_address_is_asked_with_backoff_and_then_once_a_round() {
    let mut bench = Bench::new();
    let waited: Vec<u128> = (0..8).map(|_| bench.look(Health::Silent, Duration::ZERO).as_millis()).collect();
    assert_eq!(waited, [0, 200, 400, 800, 1_600, 5_000, 5_000, 5_000]);
    assert_eq!(bench.state(), NodeState::Connected);
    assert!(!bench.progress.worth_asking());
    bench.look(Health::Proved, Duration::ZERO);
    assert_eq!(bench.state(), NodeState::Ready);
}

#[test]
fn a_lost_connection_is_looked_at_at_once_without_a_change_of_state() {
    let mut bench = ready();
    assert_eq!(bench.feed(Event::LinkLost), []);
    assert_eq!((bench.state(), bench.look(Health::Refused, Duration::ZERO)), (NodeState::Ready, Duration::ZERO));
    assert_eq!(bench.state(), NodeState::Disconnected);
}

#[test]
fn a_farewell_disconnects_at_once_and_is_no_flap() {
    let mut bench = ready();
    for _ in 0..5 {
        assert_eq!(bench.feed(Event::Farewell), [Action::Tell { from: NodeState::Ready }]);
        assert_eq!(bench.state(), NodeState::Disconnected);
        bench.look(Health::Proved, Duration::ZERO);
        assert_eq!(bench.state(), NodeState::Ready);
    }
}

#[test]
fn a_flapping_node_must_prove_itself_three_times_and_a_quiet_minute_forgives() {
    let mut bench = ready();
    for _ in 0..3 {
        assert_eq!(bench.state(), NodeState::Ready);
        bench.feed(Event::Queried(Health::Refused));
        bench.look(Health::Proved, Duration::ZERO);
    }
    assert_eq!(bench.state(), NodeState::Responding);
    assert!(bench.progress.worth_asking());
    assert_eq!(bench.look(Health::Proved, Duration::ZERO), ROUND);
    assert_eq!(bench.state(), NodeState::Responding);
    bench.look(Health::Proved, Duration::ZERO);
    assert_eq!(bench.state(), NodeState::Ready);
    bench.now += 2 * FLAP_WINDOW;
    bench.feed(Event::Queried(Health::Refused));
    bench.look(Health::Proved, Duration::ZERO);
    assert_eq!(bench.state(), NodeState::Ready);
}

#[test]
fn a_live_node_that_dns_leaves_out_stays_and_a_dead_one_is_forgotten_after_three_answers() {
    let mut bench = ready();
    for _ in 0..10 {
        assert_eq!(bench.feed(Event::Unlisted), []);
        assert_eq!(bench.state(), NodeState::Ready);
    }
    bench.feed(Event::Listed);
    bench.feed(Event::Queried(Health::Refused));
    assert_eq!(bench.feed(Event::Unlisted), []);
    assert_eq!(bench.feed(Event::Unlisted), []);
    assert_eq!(bench.feed(Event::Unlisted), [Action::Forget]);
}

#[test]
fn a_node_settles_by_being_ready_or_by_failing_a_look() {
    assert!(!Bench::new().progress.settled());
    assert!(!Bench::after(&[Event::Tick, Event::Looked(Health::Answered)]).progress.settled());
    assert!(ready().progress.settled());
    assert!(Bench::after(&[Event::Tick, Event::Looked(Health::Silent)]).progress.settled());
}
