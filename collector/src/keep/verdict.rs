//! What the spans of a unit share, and the eight bytes in which it is remembered of very many.

use lariat_schema::vocabulary::KeepReason;

use super::spans::Mark;
use super::threshold::Threshold;

/// What a unit's spans share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) mark: Option<Mark>,
    /// Kept for what it is and not by a draw.
    pub(crate) whole: bool,
}

/// Bits of the threshold; all of them set: it is not known.
const THRESHOLD: u64 = (1 << REASON) - 1;
/// Where the reason begins.
const REASON: u32 = 57;
/// Bits of the reason; none of them set: there is no mark.
const REASONS: u64 = 0xf;
/// Kept whole.
const WHOLE: u64 = 1 << 61;

/// A verdict in one number. The numbers of reasons are stored, so that each stays what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed(u64);

impl Packed {
    pub(crate) fn of(verdict: Verdict) -> Self {
        let mark = verdict.mark.map_or(0, |Mark { reason, threshold }| {
            number(reason) << REASON | threshold.map_or(THRESHOLD, Threshold::value)
        });
        Self(mark | if verdict.whole { WHOLE } else { 0 })
    }

    pub(crate) fn verdict(self) -> Verdict {
        let threshold = Threshold::from_value(self.0 & THRESHOLD);
        let mark = reason(self.0 >> REASON & REASONS).map(|reason| Mark { reason, threshold });
        Verdict { mark, whole: self.0 & WHOLE > 0 }
    }

    /// As it is stored.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// What was stored, if it can be.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let packed = Self(bits);
        (Self::of(packed.verdict()) == packed).then_some(packed)
    }
}

fn number(reason: KeepReason) -> u64 {
    match reason {
        KeepReason::Error => 1,
        KeepReason::Failover => 2,
        KeepReason::Hedge => 3,
        KeepReason::Slow => 4,
        KeepReason::Transition => 5,
        KeepReason::Rate => 6,
        KeepReason::Budget => 7,
        KeepReason::Upstream => 8,
        KeepReason::Orphan => 9,
        KeepReason::Undecided => 10,
        KeepReason::Always => 11,
    }
}

fn reason(wanted: u64) -> Option<KeepReason> {
    KeepReason::ALL.iter().copied().find(|reason| number(*reason) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_comes_back_from_its_number_and_no_other_number_is_taken_for_one() {
        let thresholds = [None, Some(Threshold::ALL), Some(Threshold::of(0.05)), Some(Threshold::of(0.0))];
        for whole in [false, true] {
            let marks = KeepReason::ALL
                .iter()
                .flat_map(|reason| thresholds.map(|threshold| Some(Mark { reason: *reason, threshold })))
                .chain([None]);
            for mark in marks {
                let packed = Packed::of(Verdict { mark, whole });
                assert_eq!(packed.verdict(), Verdict { mark, whole });
                assert_eq!(Packed::from_bits(packed.bits()), Some(packed));
            }
        }
        for bits in [1, 12 << REASON, 1 << 62, u64::MAX, (6 << REASON) | ((1 << 56) + 1)] {
            assert_eq!(Packed::from_bits(bits), None, "{bits:x}");
        }
    }
}
