//! Commit times, from a clock that people and machines set.
//!
//! A commit time is later than every one before it, tells the wall's time where it can, and says how much time passed:
//! windows, waits and budgets depend on that. So commit times follow the wall's clock while it agrees with the time that
//! elapsed. When it leaps ahead they go on by elapsed time until the leap has stood for [`CONFIRM_NANOS`], then leap too,
//! and the leap is kept apart ([`Moment::jumped_nanos`]), so that no window ends by it. When it falls back they go on by
//! elapsed time until it has caught up. While no process runs only the wall could tell how long, so that time counts as
//! a leap: windows last for time that a process ran. Following the wall alone was rejected: a leap of a year would end
//! every window at once, and falling back would stop time.

/// Disagreement with the time that elapsed from which it is a jump: the design's bound for a suspect clock.
const TOLERANCE_NANOS: i64 = 1_000_000_000;
/// How long a leap ahead must stand: a clock that is set and set back leaves no trace but its count.
pub(crate) const CONFIRM_NANOS: i64 = 10_000_000_000;

/// The system's clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The wall's clock.
    pub(crate) unix_nanos: i64,
    /// Time that elapsed since some moment of this process; it never falls back.
    pub(crate) elapsed_nanos: i64,
}

/// A commit's place in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    pub(crate) commit_unix_nanos: i64,
    /// Sum of the leaps ahead that commit times have followed, and of the time between processes.
    pub(crate) jumped_nanos: i64,
}

impl Moment {
    /// Time without the leaps: what windows, waits and budgets are measured in.
    pub(crate) fn steady_nanos(self) -> i64 {
        self.commit_unix_nanos.saturating_sub(self.jumped_nanos)
    }
}

/// Gives out commit times.
#[derive(Debug)]
pub(crate) struct CommitClock {
    last: Moment,
    last_elapsed_nanos: Option<i64>,
    /// When the wall's clock began to disagree.
    disagrees_since: Option<i64>,
    jumps: u64,
}

impl CommitClock {
    /// Goes on after the last commit of the log.
    pub(crate) fn resume(last: Moment) -> Self {
        Self { last, last_elapsed_nanos: None, disagrees_since: None, jumps: 0 }
    }

    /// The next commit time.
    pub(crate) fn next(&mut self, reading: Reading) -> Moment {
        let Reading { unix_nanos, elapsed_nanos } = reading;
        let first = self.last_elapsed_nanos.is_none();
        let since_last = elapsed_nanos.saturating_sub(self.last_elapsed_nanos.unwrap_or(elapsed_nanos)).max(0);
        self.last_elapsed_nanos = Some(elapsed_nanos);
        let expected = self.last.commit_unix_nanos.saturating_add(since_last);
        let ahead = unix_nanos.saturating_sub(expected);
        if first && ahead > 0 {
            self.last.jumped_nanos = self.last.jumped_nanos.saturating_add(ahead);
        }
        let agrees = (first && ahead >= 0) || ahead.saturating_abs() <= TOLERANCE_NANOS;
        let commit = if agrees {
            self.disagrees_since = None;
            unix_nanos
        } else {
            let since = *self.disagrees_since.get_or_insert_with(|| {
                self.jumps += 1;
                elapsed_nanos
            });
            if ahead > 0 && elapsed_nanos.saturating_sub(since) >= CONFIRM_NANOS {
                self.disagrees_since = None;
                self.last.jumped_nanos = self.last.jumped_nanos.saturating_add(ahead);
                unix_nanos
            } else {
                expected
            }
        };
        self.last.commit_unix_nanos = commit.max(self.last.commit_unix_nanos.saturating_add(1));
        self.last
    }

    /// How often the wall's clock left the time that elapsed.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const YEAR: i64 = 365 * 86_400 * SECOND;
    const NOW: i64 = 1_763_683_200 * SECOND;

    fn clock() -> CommitClock {
        let mut clock = CommitClock::resume(Moment { commit_unix_nanos: NOW, jumped_nanos: 0 });
        clock.next(Reading { unix_nanos: NOW, elapsed_nanos: 0 });
        clock.last = Moment { commit_unix_nanos: NOW, jumped_nanos: 0 };
        clock
    }

    #[test]
    fn a_clock_that_is_slewed_is_followed_and_no_jump() {
        let mut clock = clock();
        for second in 1..=10 {
            let unix_nanos = NOW + second * (SECOND + SECOND / 2_000);
            let moment = clock.next(Reading { unix_nanos, elapsed_nanos: second * SECOND });
            assert_eq!(moment, Moment { commit_unix_nanos: unix_nanos, jumped_nanos: 0 });
        }
        assert_eq!(clock.jumps(), 0);
    }

    #[test]
    fn a_leap_of_a_year_is_followed_once_it_has_stood_and_takes_nothing_from_any_window() {
        let mut clock = clock();
        for second in 1..=30 {
            let elapsed_nanos = second * SECOND;
            let moment = clock.next(Reading { unix_nanos: NOW + YEAR + elapsed_nanos, elapsed_nanos });
            let leapt = if second <= 10 { 0 } else { YEAR };
            assert_eq!(moment.commit_unix_nanos, NOW + elapsed_nanos + leapt, "second {second}");
            assert_eq!(moment.steady_nanos(), NOW + elapsed_nanos);
        }
        assert_eq!(clock.jumps(), 1);
        let back = clock.next(Reading { unix_nanos: NOW + 31 * SECOND, elapsed_nanos: 31 * SECOND });
        assert_eq!(back.commit_unix_nanos, NOW + YEAR + 31 * SECOND, "commit times never go back");
        assert_eq!((back.steady_nanos(), clock.jumps()), (NOW + 31 * SECOND, 2));
    }

    #[test]
    fn a_leap_that_is_taken_back_leaves_no_trace_but_its_count() {
        let mut clock = clock();
        clock.next(Reading { unix_nanos: NOW + YEAR, elapsed_nanos: SECOND });
        let moment = clock.next(Reading { unix_nanos: NOW + 2 * SECOND, elapsed_nanos: 2 * SECOND });
        assert_eq!(moment, Moment { commit_unix_nanos: NOW + 2 * SECOND, jumped_nanos: 0 });
        assert_eq!(clock.jumps(), 1);
    }

    #[test]
    fn the_time_between_two_processes_is_no_part_of_any_window() {
        let mut clock = CommitClock::resume(Moment { commit_unix_nanos: NOW, jumped_nanos: 3 });
        let moment = clock.next(Reading { unix_nanos: NOW + YEAR, elapsed_nanos: 5 });
        assert_eq!(moment, Moment { commit_unix_nanos: NOW + YEAR, jumped_nanos: 3 + YEAR });
        assert_eq!(clock.jumps(), 0);
    }

    #[test]
    fn time_goes_on_while_the_clock_is_behind_also_after_a_restart() {
        let mut clock = CommitClock::resume(Moment { commit_unix_nanos: NOW, jumped_nanos: 7 });
        for second in 0..200 {
            let elapsed_nanos = second * SECOND;
            let moment = clock.next(Reading { unix_nanos: NOW - YEAR + elapsed_nanos, elapsed_nanos });
            assert!((moment.commit_unix_nanos - NOW - elapsed_nanos).abs() <= 1);
            assert_eq!(moment.jumped_nanos, 7);
        }
        assert_eq!(clock.jumps(), 1);
    }

    proptest! {
        #[test]
        fn whatever_the_clock_does_commit_times_rise_and_steady_time_is_what_elapsed(
            steps in proptest::collection::vec((0..20 * SECOND, -2 * YEAR..2 * YEAR, 0..4_u8), 1..60)
        ) {
            let mut clock = clock();
            let (mut wall, mut elapsed) = (NOW, 0);
            let mut last = clock.last;
            for (passed, leap, odds) in steps {
                elapsed += passed;
                wall += passed + if odds == 0 { leap } else { 0 };
                let moment = clock.next(Reading { unix_nanos: wall, elapsed_nanos: elapsed });
                prop_assert!(moment.commit_unix_nanos > last.commit_unix_nanos);
                prop_assert!(moment.jumped_nanos >= last.jumped_nanos);
                let steady = moment.steady_nanos() - last.steady_nanos();
                prop_assert!((steady - passed).abs() <= TOLERANCE_NANOS + 1, "{} passed, {} counted", passed, steady);
                last = moment;
            }
        }
    }
}
