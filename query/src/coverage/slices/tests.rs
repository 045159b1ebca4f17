//! Slices against a model that judges every second of them by itself.

use lariat_schema::ids::BootId;
use proptest::prelude::*;

use super::*;

/// A sign of life: second, highest number, and whether it is the farewell.
#[derive(Debug, Clone, Copy)]
struct Sign {
    at: i64,
    seq: i64,
}

/// What really happened in one boot.
#[derive(Debug, Clone)]
struct Truth {
    started: i64,
    signs: Vec<Sign>,
    farewell: bool,
}

#[derive(Debug, Clone)]
struct World {
    boots: Vec<Truth>,
    lost: Vec<(usize, i64)>,
    now: i64,
    watermark: i64,
    expected: Vec<(i64, i64)>,
    gone: Vec<(i64, i64, Why)>,
}

const S: i64 = NANOS_PER_SECOND;

impl World {
    fn missing(&self, boot: usize, after: i64, up_to: i64) -> u64 {
        (after + 1..=up_to).filter(|seq| self.lost.contains(&(boot, *seq))).count() as u64
    }

    /// As a node tells it. With `joined` neighbours without a hole or a silence are one stretch.
    fn told(&self, joined: bool) -> Told {
        let boots = self.boots.iter().enumerate().map(|(index, truth)| {
            let mut heard: Vec<Heard> = Vec::new();
            let mut after = 0;
            for sign in &truth.signs {
                let missing_before = self.missing(index, after, sign.seq);
                after = sign.seq;
                let at = sign.at * S;
                match heard.last_mut() {
                    Some(open) if joined && missing_before == 0 && at - open.to_unix_nanos <= HEARTBEAT_GAP_NANOS => {
                        open.to_unix_nanos = at;
                    }
                    _ => heard.push(Heard { from_unix_nanos: at, to_unix_nanos: at, missing_before }),
                }
            }
            let farewell = truth.farewell.then(|| truth.signs.last().map_or(truth.started, |sign| sign.at) * S);
            Boot {
                boot_id: BootId::from_bytes([u8::try_from(index).unwrap(); 16]),
                started_unix_nanos: truth.started * S,
                known_from_unix_nanos: truth.started * S,
                statuses: Vec::new(),
                heartbeats: heard,
                proxy_farewell_unix_nanos: farewell,
                farewell_unix_nanos: farewell,
            }
        });
        Told {
            watermark_unix_nanos: self.watermark * S,
            now_unix_nanos: self.now * S,
            has_proxy: true,
            boots: boots.collect(),
        }
    }

    fn life(&self, joined: bool) -> Life {
        let range = |from: i64, to: i64| TimeRange::new(from * S, to * S);
        Life {
            expected: self.expected.iter().map(|(from, to)| range(*from, *to)).collect(),
            source: Source::Told {
                pieces: pieces(&self.told(joined), Depends::Decisions),
                watermark_unix_nanos: self.watermark * S,
                later: Reason::Late,
                left_unix_nanos: None,
                gone: self.gone.iter().map(|(from, to, why)| (range(*from, *to), *why)).collect(),
            },
        }
    }

    /// The second that begins at `at`, by the design's words.
    fn second(&self, at: i64) -> Verdict {
        if self.boots.is_empty() {
            // The store tells nothing of itself: the watermark alone is believed.
            return Verdict::Covered;
        }
        let Some(index) = self.boots.iter().rposition(|boot| boot.started <= at) else {
            return Verdict::Missing(Reason::Unknown);
        };
        let (boot, is_last) = (&self.boots[index], index + 1 == self.boots.len());
        let begin = Sign { at: boot.started, seq: 0 };
        let before = boot.signs.iter().rev().find(|sign| sign.at <= at).unwrap_or(&begin);
        if let Some(after) = boot.signs.iter().find(|sign| sign.at > at) {
            return match self.missing(index, before.seq, after.seq) {
                0 if after.at - before.at <= 15 => Verdict::Covered,
                0 => Verdict::Missing(Reason::Down),
                _ if self.now - after.at <= 120 => Verdict::Missing(Reason::Late),
                _ => Verdict::Missing(Reason::Lost),
            };
        }
        if boot.farewell {
            return Verdict::NotExpected;
        }
        if is_last && self.now - before.at <= 15 {
            return Verdict::Missing(Reason::Late);
        }
        // An earlier boot that had no heartbeat at all had no proxy: its collector's statuses come less often.
        let tail = if boot.signs.is_empty() && !is_last { 11 } else { 6 };
        Verdict::Missing(if at - before.at < tail { Reason::Unknown } else { Reason::Down })
    }

    /// A slice, second by second.
    fn slice(&self, from: i64) -> Verdict {
        let expected = |at: &i64| self.expected.iter().any(|(from, to)| from <= at && at < to);
        let seconds: Vec<Verdict> = (from..from + 10).filter(expected).map(|at| self.second(at)).collect();
        if seconds.iter().all(|second| *second == Verdict::NotExpected) {
            return Verdict::NotExpected;
        }
        let has = |reason: Reason| seconds.contains(&Verdict::Missing(reason));
        let is_gone = |wanted: Why| {
            self.gone
                .iter()
                .any(|(first, last, why)| *why == wanted && *first < from + 10 && from < *last && first < last)
        };
        if is_gone(Why::Lost) || has(Reason::Lost) {
            Verdict::Missing(Reason::Lost)
        } else if is_gone(Why::Expired) {
            Verdict::Missing(Reason::Expired)
        } else if has(Reason::Unknown) {
            Verdict::Missing(Reason::Unknown)
        } else if self.watermark < from + 10 || has(Reason::Late) {
            Verdict::Missing(Reason::Late)
        } else if has(Reason::Down) && !seconds.contains(&Verdict::Covered) {
            Verdict::Missing(Reason::Down)
        } else {
            Verdict::Covered
        }
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let sign = (prop_oneof![8 => 4_i64..7, 2 => 7_i64..60], 0_i64..4);
    let boot = (0_i64..50, prop::collection::vec(sign, 0..25), any::<bool>());
    let gone = (0_i64..600, 0_i64..60, prop_oneof![Just(Why::Expired), Just(Why::Lost)]);
    (
        prop::collection::vec(boot, 0..5),
        prop::collection::vec((0_usize..5, 1_i64..40), 0..5),
        0_i64..200,
        -30_i64..1,
        prop::collection::vec((0_i64..300, 1_i64..300), 1..4),
        prop::collection::vec(gone, 0..3),
    )
        .prop_map(|(boots, lost, wait, behind, tenures, gone)| {
            let mut at = 20;
            let mut truths = Vec::new();
            for (pause, signs, farewell) in boots {
                at += pause;
                let (started, mut seq) = (at, 0);
                let signs: Vec<Sign> = signs
                    .iter()
                    .map(|(later, more)| {
                        at += later;
                        seq += more;
                        Sign { at, seq }
                    })
                    .collect();
                truths.push(Truth { started, farewell: farewell && !signs.is_empty(), signs });
                at += 1;
            }
            let now = at + wait;
            let mut from = 0;
            let expected = tenures
                .iter()
                .map(|(pause, length)| {
                    let tenure = (from + pause, from + pause + length);
                    from = tenure.1;
                    tenure
                })
                .collect();
            let gone = gone.iter().map(|(from, length, why)| (*from, from + length, *why)).collect();
            World { boots: truths, lost, now, watermark: now + behind, expected, gone }
        })
}

proptest! {
    #[test]
    fn every_slice_has_the_one_verdict_that_its_seconds_give(world in worlds(), begin in 0_i64..10, length in 1_i64..80) {
        let window = TimeRange::new(begin * 10 * S, (begin + length) * 10 * S);
        for joined in [false, true] {
            let stretches = world.life(joined).judge(window);
            // Stretches are the window, without gaps or overlaps, and neighbours differ.
            prop_assert_eq!(stretches.first().map(|stretch| stretch.times.from_unix_nanos), Some(window.from_unix_nanos));
            prop_assert_eq!(stretches.last().map(|stretch| stretch.times.to_unix_nanos), Some(window.to_unix_nanos));
            for pair in stretches.windows(2) {
                prop_assert_eq!(pair[0].times.to_unix_nanos, pair[1].times.from_unix_nanos);
                prop_assert_ne!(pair[0].verdict, pair[1].verdict);
            }
            let (mut expected, mut covered) = (0, 0);
            for from in (begin..begin + length).map(|slice| slice * 10) {
                let wanted = world.slice(from);
                let found = stretches.iter().find(|stretch| stretch.times.contains(from * S)).map(|s| s.verdict);
                prop_assert_eq!(found, Some(wanted), "slice at {} of {:?}", from, world);
                expected += u64::from(wanted != Verdict::NotExpected);
                covered += u64::from(wanted == Verdict::Covered);
            }
            let count = |of: fn(&Verdict) -> bool| -> u64 {
                stretches.iter().filter(|stretch| of(&stretch.verdict)).map(Stretch::slices).sum()
            };
            prop_assert_eq!(count(|verdict| *verdict != Verdict::NotExpected), expected);
            prop_assert_eq!(count(|verdict| *verdict == Verdict::Covered), covered);
        }
    }
}

#[test]
fn a_year_of_one_quiet_boot_is_judged_by_a_handful_of_slices() {
    let year = 365 * 86_400;
    let world = World {
        boots: vec![Truth { started: 0, signs: (0..4).map(|n| Sign { at: n * 5, seq: 0 }).collect(), farewell: false }],
        lost: Vec::new(),
        now: year,
        watermark: year,
        expected: vec![(0, i64::MAX / S)],
        gone: Vec::new(),
    };
    let stretches = world.life(true).judge(TimeRange::new(0, year * S));
    let whys: Vec<Verdict> = stretches.iter().map(|stretch| stretch.verdict).collect();
    let missing = Verdict::Missing;
    assert_eq!(whys, [Verdict::Covered, missing(Reason::Unknown), missing(Reason::Down)]);
}
