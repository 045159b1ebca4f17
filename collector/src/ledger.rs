//! The account of every decoded record (I-1): received = stored + sampled out + deduplicated + rejected + dropped +
//! in flight.
//!
//! The manifest holds the sum of all entries of the log before its cut, what is in flight included, and a start adds the
//! entries from there on: none twice, since who replays knows the cut. Counters that are only kept in memory were
//! rejected: they would start at zero beside rows that do not.

use std::collections::BTreeMap;

use lariat_schema::vocabulary::{NONE, OVERFLOW, Signal};
use serde::{Deserialize, Serialize};

/// Accounts and profiles that have counts of their own; the rest is counted together.
const MAX_KEYS: usize = 4_096;

/// Whose records are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LedgerKey {
    pub(crate) signal: Signal,
    pub(crate) profile: String,
    pub(crate) account_id: String,
}

impl LedgerKey {
    pub(crate) fn new(signal: Signal, profile: Option<&str>, account_id: Option<&str>) -> Self {
        let named = |name: Option<&str>| name.unwrap_or(NONE).to_owned();
        Self { signal, profile: named(profile), account_id: named(account_id) }
    }
}

/// Decoded records by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the ledger's columns")]
pub(crate) struct Counts {
    pub(crate) received: i64,
    pub(crate) stored: i64,
    pub(crate) sampled_out: i64,
    pub(crate) deduplicated: i64,
    pub(crate) rejected: i64,
    pub(crate) dropped: i64,
    pub(crate) in_flight: i64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        // Saturating, since the sum of a damaged manifest can be any number.
        self.received = self.received.saturating_add(other.received);
        self.stored = self.stored.saturating_add(other.stored);
        self.sampled_out = self.sampled_out.saturating_add(other.sampled_out);
        self.deduplicated = self.deduplicated.saturating_add(other.deduplicated);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.dropped = self.dropped.saturating_add(other.dropped);
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
    }

    /// True if what was received is accounted for (I-1).
    #[must_use]
    pub(crate) fn closes(&self) -> bool {
        let fates = [self.stored, self.sampled_out, self.deduplicated, self.rejected, self.dropped, self.in_flight];
        i128::from(self.received) == fates.into_iter().map(i128::from).sum::<i128>()
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) key: LedgerKey,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

/// All counts.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<LedgerKey, Counts>);

impl Ledger {
    /// Continues from a sum.
    pub(crate) fn resume(lines: &[Line]) -> Self {
        Self(lines.iter().map(|line| (line.key.clone(), line.counts)).collect())
    }

    /// Counts a change.
    pub(crate) fn add(&mut self, key: LedgerKey, counts: Counts) {
        if counts == Counts::default() {
            return;
        }
        let key = if self.0.contains_key(&key) || self.0.len() < MAX_KEYS {
            key
        } else {
            LedgerKey::new(key.signal, Some(OVERFLOW), Some(OVERFLOW))
        };
        self.0.entry(key).or_default().add(&counts);
    }

    /// Spans that wait but that are not among these are nowhere: they are dropped. `waiting` are all that there are, by owner.
    pub(crate) fn drop_all_but(&mut self, waiting: &BTreeMap<LedgerKey, i64>) -> i64 {
        let mut left = waiting.clone();
        let mut dropped = 0;
        for (key, counts) in &mut self.0 {
            let there = left.get_mut(key).map_or(0, std::mem::take).clamp(0, counts.in_flight.max(0));
            let gone = counts.in_flight.saturating_sub(there);
            counts.add(&Counts { in_flight: gone.saturating_neg(), dropped: gone, ..Counts::default() });
            dropped += gone;
        }
        dropped
    }

    /// Every line.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.0.iter().map(|(key, counts)| Line { key: key.clone(), counts: *counts }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(count: i64) -> Counts {
        Counts { received: count, stored: count, ..Counts::default() }
    }

    #[test]
    fn a_resumed_ledger_goes_on_where_the_sum_ends() {
        let key = LedgerKey::new(Signal::Traces, Some("public"), None);
        let mut ledger = Ledger::default();
        ledger.add(key.clone(), received(10));
        let mut resumed = Ledger::resume(&ledger.lines());
        for ledger in [&mut ledger, &mut resumed] {
            ledger.add(key.clone(), received(30));
        }
        assert_eq!(resumed.lines(), ledger.lines());
        assert_eq!(resumed.lines()[0].counts.received, 40);
    }

    #[test]
    fn what_is_in_flight_and_nowhere_to_be_found_is_dropped_and_the_account_closes() {
        let key = |profile| LedgerKey::new(Signal::Traces, Some(profile), None);
        let waiting = |in_flight| Counts { received: in_flight, in_flight, ..Counts::default() };
        let mut ledger = Ledger::default();
        ledger.add(key("a"), waiting(3));
        ledger.add(key("b"), waiting(2));
        assert_eq!(ledger.drop_all_but(&BTreeMap::from([(key("a"), 1), (key("b"), 2), (key("c"), 1)])), 2);
        let lines = ledger.lines();
        assert_eq!(lines[0].counts, Counts { received: 3, in_flight: 1, dropped: 2, ..Counts::default() });
        assert!(lines[1].counts == waiting(2) && lines.len() == 2);
    }

    #[test]
    fn beyond_the_bound_accounts_are_counted_together_and_nothing_is_lost() {
        let mut ledger = Ledger::default();
        let accounts = i64::try_from(MAX_KEYS).unwrap() + 50;
        for account in 0..accounts {
            ledger.add(LedgerKey::new(Signal::Traces, None, Some(&account.to_string())), received(1));
        }
        let lines = ledger.lines();
        assert_eq!(lines.len(), MAX_KEYS + 1);
        assert_eq!(lines.iter().map(|line| line.counts.received).sum::<i64>(), accounts);
    }
}
