//! Whether and when a second attempt is sent beside a slow first one. The wait is the channel's own latency quantile for
//! that method: a fixed wait would hedge every call of a slow method and none of a fast one. Choosing is pure; the budget
//! is one atomic number per profile, and bounds what hedging adds to the providers' load even when all of them are slow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::envelope::MIN_USEFUL;
use crate::policy::Safety;
use crate::profiles::Hedging;

/// A timer is no finer, and a hedge sooner than that saves nothing.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// One hedge, in the budget's unit.
const ONE: u64 = 1_000;
/// Hedges that may be saved up: enough for a moment in which a provider stalls, and no more.
const MAX_SAVED: u64 = 10 * ONE;

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    pub(super) hedging: Option<Hedging>,
    pub(super) safety: Safety,
    /// Whether any other channel was eligible beside the one that was chosen.
    pub(super) others: bool,
    /// The channel's latency quantile for the method, where it is known.
    pub(super) quantile_ms: Option<f64>,
    /// Time that the first attempt may take.
    pub(super) timeout: Duration,
    /// Time until the call's deadline.
    pub(super) left: Duration,
}

/// How long to wait for the first attempt before a second one is sent; none where none is to be sent.
pub(super) fn wait(situation: &Situation) -> Option<Duration> {
    let Situation { hedging, safety, others, quantile_ms, timeout, left } = *situation;
    if hedging?.budget <= 0.0 || safety != Safety::ReplaySafe || !others {
        return None;
    }
    let wait = Duration::try_from_secs_f64(quantile_ms? / 1_000.0).ok()?.max(MIN_WAIT);
    (wait < timeout && left.saturating_sub(wait) >= MIN_USEFUL).then_some(wait)
}

/// The hedges that a profile may send: each call adds its share, each hedge takes one.
#[derive(Debug, Default)]
pub(crate) struct HedgeBudget {
    saved: AtomicU64,
}

impl HedgeBudget {
    /// A call was made; `share` of the calls may be hedged.
    pub(crate) fn add(&self, share: f64) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share from 0 to 1, of a thousand"
        )]
        let share = (share.clamp(0.0, 1.0) * ONE as f64).round() as u64;
        // Past the bound the share is lost; both orders of two concurrent additions are right.
        let _full = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| {
            (saved < MAX_SAVED).then(|| (saved + share).min(MAX_SAVED))
        });
    }

    /// Takes one hedge, if there is one.
    pub(crate) fn take(&self) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(ONE)).is_ok()
    }

    /// Gives one back that was not sent.
    pub(crate) fn give_back(&self) {
        self.saved.fetch_add(ONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Situation = Situation {
        hedging: Some(Hedging { quantile: 0.95, budget: 0.05 }),
        safety: Safety::ReplaySafe,
        others: true,
        quantile_ms: Some(40.0),
        timeout: Duration::from_millis(1_200),
        left: Duration::from_millis(2_000),
    };

    #[test]
    fn a_hedge_waits_for_the_channels_own_quantile() {
        assert_eq!(wait(&USUAL), Some(Duration::from_millis(40)));
        assert_eq!(wait(&Situation { quantile_ms: Some(0.1), ..USUAL }), Some(MIN_WAIT));
        assert_eq!(wait(&Situation { quantile_ms: Some(1_199.0), ..USUAL }), Some(Duration::from_millis(1_199)));
    }

    #[test]
    fn there_is_none_where_it_is_off_or_unsafe_or_useless_or_the_quantile_is_unknown() {
        let no_budget = Some(Hedging { quantile: 0.95, budget: 0.0 });
        for (why, situation) in [
            ("off", Situation { hedging: None, ..USUAL }),
            ("no budget", Situation { hedging: no_budget, ..USUAL }),
            ("a transaction", Situation { safety: Safety::Broadcast, ..USUAL }),
            ("a filter", Situation { safety: Safety::Affine, ..USUAL }),
            ("an unknown method", Situation { safety: Safety::Unknown, ..USUAL }),
            ("nobody else", Situation { others: false, ..USUAL }),
            ("nothing is known", Situation { quantile_ms: None, ..USUAL }),
            ("the attempt ends first", Situation { quantile_ms: Some(1_200.0), ..USUAL }),
            ("too little would be left", Situation { left: Duration::from_millis(64), ..USUAL }),
            ("no number", Situation { quantile_ms: Some(f64::NAN), ..USUAL }),
        ] {
            assert_eq!(wait(&situation), None, "{why}");
        }
    }

    #[test]
    fn the_budget_is_a_share_of_the_calls_and_saves_up_ten_hedges_at_most() {
        let budget = HedgeBudget::default();
        assert!(!budget.take(), "nothing is there before the first call");
        let mut sent = 0;
        for _ in 0..1_000 {
            budget.add(0.05);
            sent += u32::from(budget.take());
        }
        assert_eq!(sent, 50);
        (0..100_000).for_each(|_| budget.add(0.05));
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
    }
}
