//! The machine against a world that it cannot see: a chain, providers that lag, skip, repeat and reorder, and fail.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { stale_ms: 1_000, max_fill_blocks: 50, retry_ms: 60_000 };

fn block(number: u64, fork: u8) -> [u8; 32] {
    let mut hash = [fork; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    hash
}

fn head_of(number: u64, fork: u8) -> Notice {
    let raw = if fork == 0 { number.to_string() } else { format!("{number}/{fork}") };
    Notice { number, identity: Identity::Head(block(number, fork)), raw: raw.into() }
}

fn head(number: u64) -> Notice {
    head_of(number, 0)
}

fn log(number: u64, index: u64) -> Notice {
    let identity = Identity::Log { block: block(number, 0), index, removed: false };
    Notice { number, identity, raw: format!("{number}.{index}").into() }
}

fn heads(range: std::ops::RangeInclusive<u64>) -> Vec<Notice> {
    range.map(head).collect()
}

fn delivered(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Deliver(raw) => Some(String::from_utf8(raw.to_vec()).unwrap()),
            _ => None,
        })
        .collect()
}

fn started(kind: Kind) -> Stream {
    Stream::new(kind, LIMITS, Some(99), 0)
}

#[test]
fn a_lost_feed_is_replaced_and_the_gap_filled_while_new_events_wait() {
    let mut stream = started(Kind::NewHeads);
    assert_eq!(delivered(&stream.step(0, Input::Event(head(100)))), ["100"]);
    assert_eq!(stream.step(1, Input::Lost), [Action::Open { stale_ms: None }]);
    assert_eq!(stream.step(2, Input::Opened), [Action::Measure]);
    assert_eq!(stream.step(3, Input::Event(head(104))), []);
    assert_eq!(stream.step(4, Input::Height(103)), [Action::Fill { from: 101, to: 103 }]);
    assert_eq!(stream.step(5, Input::Event(head(105))), []);
    let filled = stream.step(6, Input::Filled { to: 103, notices: heads(101..=103) });
    assert_eq!(delivered(&filled), ["101", "102", "103", "104", "105"]);
    assert_eq!(delivered(&stream.step(7, Input::Event(head(106)))), ["106"]);
}

#[test]
fn a_feed_that_fails_before_its_first_head_is_filled_from_the_height_at_the_start() {
    let mut stream = started(Kind::NewHeads);
    stream.step(0, Input::Lost);
    stream.step(0, Input::Opened);
    assert_eq!(stream.step(0, Input::Height(100)), [Action::Fill { from: 100, to: 100 }]);
    let mut young = Stream::new(Kind::NewHeads, LIMITS, None, 0);
    young.step(0, Input::Lost);
    assert_eq!(young.step(0, Input::Opened), [Action::Tell(Told::Gap)], "nobody can say what was missed");
}

#[test]
fn a_provider_that_leaves_a_block_out_or_lags_or_repeats_is_corrected() {
    let mut stream = started(Kind::NewHeads);
    stream.step(0, Input::Event(head(100)));
    assert_eq!(stream.step(0, Input::Event(head(102))), [Action::Fill { from: 101, to: 101 }]);
    let filled = stream.step(0, Input::Filled { to: 101, notices: heads(101..=101) });
    assert_eq!(delivered(&filled), ["101", "102"]);
    for number in [101, 102, 99, 98] {
        assert_eq!(
            stream.step(0, Input::Event(head(number))),
            [],
            "{number} was delivered or is older than the stream"
        );
    }
    assert_eq!(stream.duplicates, 4);
}

#[test]
fn a_fork_is_delivered_as_the_provider_sends_it() {
    let mut stream = started(Kind::NewHeads);
    for number in 100..=102 {
        stream.step(0, Input::Event(head(number)));
    }
    let fork: Vec<String> = (101..=103).flat_map(|n| delivered(&stream.step(0, Input::Event(head_of(n, 1))))).collect();
    assert_eq!(fork, ["101/1", "102/1", "103/1"]);
}

#[test]
fn a_stream_without_a_head_is_stale_and_one_without_a_provider_degraded_until_one_is_there() {
    let mut stream = started(Kind::NewHeads);
    stream.step(500, Input::Event(head(100)));
    assert_eq!((stream.wake_ms(), stream.step(1_499, Input::Time)), (Some(1_500), vec![]));
    assert_eq!(stream.step(1_500, Input::Time), [Action::Open { stale_ms: Some(1_000) }]);
    assert_eq!(stream.step(2_000, Input::NoFeed), [Action::Tell(Told::Degraded)]);
    assert!(stream.is_degraded());
    assert_eq!(stream.step(6_000, Input::Chance), []);
    assert_eq!(stream.step(7_000, Input::Chance), [Action::Open { stale_ms: None }]);
    assert_eq!(stream.step(8_000, Input::NoFeed), [], "told once");
    assert_eq!(stream.step(68_000, Input::Time), [Action::Open { stale_ms: None }]);
    stream.step(68_001, Input::Opened);
    assert_eq!(stream.step(68_002, Input::Height(100)), [Action::Tell(Told::Resumed)], "nothing was missed");
}

#[test]
fn a_hole_that_cannot_be_filled_ends_the_stream_and_never_stays() {
    let mut far = started(Kind::NewHeads);
    far.step(0, Input::Event(head(100)));
    far.step(0, Input::Lost);
    far.step(0, Input::Opened);
    assert_eq!(far.step(0, Input::Height(151)), [Action::End(Ending::TooFar { blocks: 51 })]);
    assert_eq!(far.step(0, Input::Event(head(152))), [], "nothing comes after the end");

    let mut unfilled = started(Kind::NewHeads);
    unfilled.step(0, Input::Event(head(100)));
    unfilled.step(0, Input::Lost);
    unfilled.step(0, Input::Opened);
    unfilled.step(0, Input::Height(101));
    assert_eq!(unfilled.step(0, Input::NotFilled), [Action::End(Ending::NotFilled)]);
}

#[test]
fn a_provider_that_makes_heads_up_is_left_and_its_word_not_taken() {
    for invented in [103, 9_000_000] {
        let mut stream = started(Kind::NewHeads);
        stream.step(0, Input::Event(head(100)));
        let mut actions = stream.step(0, Input::Event(head(invented)));
        if actions == [Action::Fill { from: 101, to: 102 }] {
            actions = stream.step(0, Input::NotFilled);
        }
        assert_eq!(actions, [Action::Open { stale_ms: None }], "{invented}");
        stream.step(0, Input::Opened);
        assert_eq!(stream.step(0, Input::Height(100)), []);
        assert_eq!(delivered(&stream.step(0, Input::Event(head(101)))), ["101"]);
    }
}

#[test]
fn logs_are_filled_from_the_last_head_and_known_again_by_block_and_index() {
    let mut stream = started(Kind::Logs);
    stream.step(0, Input::Head(100));
    assert_eq!(delivered(&stream.step(0, Input::Event(log(100, 0)))), ["100.0"]);
    stream.step(0, Input::Head(101));
    assert_eq!(delivered(&stream.step(0, Input::Event(log(101, 0)))), ["101.0"]);
    stream.step(0, Input::Lost);
    stream.step(0, Input::Opened);
    assert_eq!(stream.step(0, Input::Height(103)), [Action::Fill { from: 100, to: 103 }]);
    stream.step(0, Input::Head(103));
    stream.step(0, Input::Event(log(103, 0)));
    let notices = vec![log(100, 0), log(101, 0), log(101, 1), log(103, 0)];
    assert_eq!(delivered(&stream.step(0, Input::Filled { to: 103, notices })), ["101.1", "103.0"]);
    assert_eq!(stream.step(0, Input::Head(105)), [Action::Fill { from: 103, to: 104 }], "a head was left out");
    let removed = Notice { identity: Identity::Log { block: block(103, 0), index: 0, removed: true }, ..log(103, 0) };
    stream.step(0, Input::Filled { to: 104, notices: vec![] });
    assert_eq!(delivered(&stream.step(0, Input::Event(removed))).len(), 1);
    assert_eq!(delivered(&stream.step(0, Input::Event(log(103, 0)))).len(), 1, "what was taken back may come again");
}

#[test]
fn what_finds_no_room_while_a_gap_is_filled_is_asked_for_afterwards() {
    let mut stream = Stream::new(Kind::NewHeads, Limits { max_fill_blocks: 10_000, ..LIMITS }, Some(99), 0);
    stream.step(0, Input::Event(head(100)));
    stream.step(0, Input::Lost);
    stream.step(0, Input::Opened);
    stream.step(0, Input::Height(101));
    for number in 102..2_000 {
        stream.step(0, Input::Event(head(number)));
    }
    let actions = stream.step(0, Input::Filled { to: 101, notices: heads(101..=101) });
    let upto = 101 + MAX_HELD as u64;
    assert_eq!(delivered(&actions).last(), Some(&upto.to_string()));
    assert_eq!(actions.last(), Some(&Action::Measure));
    assert_eq!(stream.step(0, Input::Height(1_999)), [Action::Fill { from: upto + 1, to: 1_999 }]);
}

#[test]
fn a_change_of_provider_is_told_to_who_follows_pending_transactions() {
    let mut stream = started(Kind::PendingTransactions);
    let pending = Notice { number: 0, identity: Identity::Pending, raw: "x".into() };
    for _ in 0..2 {
        assert_eq!(delivered(&stream.step(0, Input::Event(pending.clone()))), ["x"]);
    }
    stream.step(0, Input::Lost);
    assert_eq!(stream.step(0, Input::Opened), [Action::Tell(Told::Gap)]);
    assert_eq!(delivered(&stream.step(0, Input::Event(pending))), ["x"]);
}

/// What may go wrong.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// The chain grows, and the feed tells of it.
    Block,
    /// The chain grows, and the feed leaves it out.
    Skipped,
    /// The feed repeats an earlier block.
    Repeated(u64),
    /// The chain grows by two, and the feed tells of them in the wrong order.
    Reordered,
    /// The feed is lost; the next one lags by so many blocks.
    Lost(u64),
    /// No provider is there for a while.
    Nobody,
    /// What was asked for is answered.
    Answer,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Block),
        2 => Just(Fate::Skipped),
        2 => (0u64..6).prop_map(Fate::Repeated),
        2 => Just(Fate::Reordered),
        2 => (0u64..4).prop_map(Fate::Lost),
        1 => Just(Fate::Nobody),
        6 => Just(Fate::Answer),
    ]
}

/// A chain with a stream on it, and what the stream asks for.
struct World {
    stream: Stream,
    kind: Kind,
    height: u64,
    now_ms: u64,
    questions: Vec<Action>,
    /// What the feed tells next; below the height where its provider lags.
    told: u64,
    lag: u64,
    out: Vec<String>,
    ended: bool,
}

impl World {
    fn notices(&self, number: u64) -> Vec<Notice> {
        match self.kind {
            // Some blocks have no log.
            Kind::Logs => (0..number % 3).map(|index| log(number, index)).collect(),
            _ => vec![head(number)],
        }
    }

    fn feed(&mut self, input: Input) {
        self.now_ms += 1;
        let actions = self.stream.step(self.now_ms, input);
        self.out.extend(delivered(&actions));
        for action in actions {
            match action {
                Action::Deliver(_) | Action::Tell(_) => {}
                Action::End(_) => self.ended = true,
                Action::Open { .. } => self.questions = vec![action],
                question => self.questions = vec![question],
            }
        }
    }

    fn tell(&mut self, number: u64) {
        for notice in self.notices(number) {
            self.feed(Input::Event(notice));
        }
        if self.kind == Kind::Logs {
            self.feed(Input::Head(number));
        }
    }

    /// The provider tells of what it has seen, but not of those.
    fn catch_up(&mut self, without: &[u64]) {
        while self.told < self.height - self.lag.min(self.height) {
            self.told += 1;
            if !without.contains(&self.told) {
                self.tell(self.told);
            }
        }
    }

    fn answer(&mut self) {
        match self.questions.pop() {
            Some(Action::Open { .. }) => {
                // The feed gives what comes after its subscription.
                self.told = self.height - self.lag;
                self.feed(Input::Opened);
            }
            Some(Action::Measure) => self.feed(Input::Height(self.height)),
            Some(Action::Fill { from, to }) => {
                let notices = (from..=to).flat_map(|number| self.notices(number)).collect();
                self.feed(Input::Filled { to, notices });
            }
            _ => {}
        }
    }

    fn suffer(&mut self, fate: Fate) {
        match fate {
            Fate::Block => {
                self.height += 1;
                self.catch_up(&[]);
            }
            Fate::Skipped => {
                self.height += 1;
                self.catch_up(&[self.height - self.lag]);
            }
            Fate::Repeated(back) => {
                let number = self.told.saturating_sub(back).max(100);
                for notice in self.notices(number) {
                    self.feed(Input::Event(notice));
                }
            }
            Fate::Reordered if self.kind == Kind::NewHeads => {
                self.height += 2;
                self.catch_up(&[self.height - self.lag - 1]);
                self.tell(self.height - self.lag - 1);
            }
            Fate::Reordered => {}
            Fate::Lost(lag) => {
                self.lag = lag;
                self.feed(Input::Lost);
            }
            Fate::Nobody => {
                self.feed(Input::Lost);
                if matches!(self.questions[..], [Action::Open { .. }]) {
                    self.questions.clear();
                    self.feed(Input::NoFeed);
                    self.height += 1;
                    self.now_ms += LIMITS.retry_ms;
                    self.feed(Input::Time);
                }
            }
            Fate::Answer => self.answer(),
        }
    }

    /// Everything calms down: what is asked is answered, and the provider is at the head.
    fn calm_down(&mut self) {
        self.lag = 0;
        for _ in 0..20 {
            self.answer();
            self.height += 1;
            self.catch_up(&[]);
        }
        while !self.questions.is_empty() {
            self.answer();
        }
    }
}

fn run(kind: Kind, fates: &[Fate]) -> World {
    let limits = Limits { max_fill_blocks: 10_000, ..LIMITS };
    let stream = Stream::new(kind, limits, Some(99), 0);
    let mut world = World {
        stream,
        kind,
        height: 99,
        now_ms: 0,
        questions: Vec::new(),
        told: 99,
        lag: 0,
        out: Vec::new(),
        ended: false,
    };
    world.suffer(Fate::Block);
    for fate in fates {
        world.suffer(*fate);
    }
    world.calm_down();
    world
}

proptest! {
    #[test]
    fn every_head_comes_exactly_once_and_in_order_whatever_providers_do(
        fates in proptest::collection::vec(fate(), 0..120)
    ) {
        let world = run(Kind::NewHeads, &fates);
        prop_assert!(!world.ended);
        let expected: Vec<String> = (100..=world.height).map(|number| number.to_string()).collect();
        prop_assert_eq!(world.out, expected);
    }

    #[test]
    fn every_log_comes_exactly_once_whatever_providers_do(fates in proptest::collection::vec(fate(), 0..120)) {
        let world = run(Kind::Logs, &fates);
        prop_assert!(!world.ended);
        let expected: Vec<String> = (100..=world.height)
            .flat_map(|number| (0..number % 3).map(move |index| format!("{number}.{index}")))
            .collect();
        let mut once = world.out.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), world.out.len(), "none twice");
        let mut sorted = expected.clone();
        sorted.sort();
        prop_assert_eq!(once, sorted, "none missing");
    }

    #[test]
    fn no_input_at_any_time_makes_it_panic_or_deliver_after_its_end(
        inputs in proptest::collection::vec((0u8..10, 0u64..400), 0..200)
    ) {
        for kind in [Kind::NewHeads, Kind::Logs, Kind::PendingTransactions] {
            let mut stream = started(kind);
            let mut ended = false;
            for (i, (what, number)) in inputs.iter().enumerate() {
                let notice = || if kind == Kind::Logs { log(*number, 1) } else { head_of(*number, (*number % 3) as u8) };
                let input = match what {
                    0 => Input::Opened,
                    1 => Input::NoFeed,
                    2 => Input::Lost,
                    3 | 4 => Input::Event(notice()),
                    5 => Input::Head(*number),
                    6 => Input::Height(*number),
                    7 => Input::Filled { to: *number, notices: vec![notice()] },
                    8 => Input::NotFilled,
                    _ => Input::Time,
                };
                let actions = stream.step(i as u64 * number, input);
                prop_assert!(!ended || actions.is_empty());
                ended |= actions.iter().any(|action| matches!(action, Action::End(_)));
            }
        }
    }
}
