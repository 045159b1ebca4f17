//! The account of every decoded record (I-1): received = stored + sampled out + deduplicated + rejected + dropped +
//! in flight.
//!
//! Each change carries the entry of the log that caused it, so that a restart adds exactly the entries that the
//! manifest's sum does not hold yet, and none twice. Counters that are only kept in memory were rejected: they would
//! start at zero beside rows that do not.

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
pub(crate) struct Ledger {
    total: BTreeMap<LedgerKey, Counts>,
    /// Sum of the entries before `settled_lsn`.
    settled: BTreeMap<LedgerKey, Counts>,
    settled_lsn: u64,
    unsettled: BTreeMap<u64, Vec<(LedgerKey, Counts)>>,
}

impl Ledger {
    /// Continues from the sum of all entries before `settled_lsn`.
    pub(crate) fn resume(lines: &[Line], settled_lsn: u64) -> Self {
        let settled: BTreeMap<_, _> = lines.iter().map(|line| (line.key.clone(), line.counts)).collect();
        Self { total: settled.clone(), settled, settled_lsn, unsettled: BTreeMap::new() }
    }

    /// Counts a change that the entry `lsn` caused, unless the sum holds it already.
    pub(crate) fn add(&mut self, lsn: u64, key: LedgerKey, counts: Counts) {
        if lsn < self.settled_lsn || counts == Counts::default() {
            return;
        }
        let key = if self.total.contains_key(&key) || self.total.len() < MAX_KEYS {
            key
        } else {
            LedgerKey::new(key.signal, Some(OVERFLOW), Some(OVERFLOW))
        };
        self.total.entry(key.clone()).or_default().add(&counts);
        let changes = self.unsettled.entry(lsn).or_default();
        match changes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => known.add(&counts),
            None => changes.push((key, counts)),
        }
    }

    /// What the sum will be once everything before `lsn` is settled; changes nothing.
    pub(crate) fn settled_before(&self, lsn: u64) -> Vec<Line> {
        let mut sum = self.settled.clone();
        for (key, counts) in self.unsettled.range(..lsn).flat_map(|(_, changes)| changes) {
            sum.entry(key.clone()).or_default().add(counts);
        }
        sum.into_iter().map(|(key, counts)| Line { key, counts }).collect()
    }

    /// The manifest holds the sum of everything before `lsn`.
    pub(crate) fn settle(&mut self, lsn: u64) {
        self.settled = self.settled_before(lsn).into_iter().map(|line| (line.key, line.counts)).collect();
        self.unsettled = self.unsettled.split_off(&lsn);
        self.settled_lsn = self.settled_lsn.max(lsn);
    }

    /// Every line.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.total.iter().map(|(key, counts)| Line { key: key.clone(), counts: *counts }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(count: i64) -> Counts {
        Counts { received: count, stored: count, ..Counts::default() }
    }

    #[test]
    fn a_resumed_ledger_takes_each_entry_once() {
        let key = LedgerKey::new(Signal::Traces, Some("public"), None);
        let mut ledger = Ledger::default();
        for lsn in 1..=4 {
            ledger.add(lsn, key.clone(), received(10));
        }
        let saved = ledger.settled_before(3);
        ledger.settle(3);
        let mut resumed = Ledger::resume(&saved, 3);
        for lsn in 1..=4 {
            resumed.add(lsn, key.clone(), received(10));
        }
        assert_eq!(resumed.lines(), ledger.lines());
        assert_eq!(resumed.lines()[0].counts.received, 40);
    }

    #[test]
    fn beyond_the_bound_accounts_are_counted_together_and_nothing_is_lost() {
        let mut ledger = Ledger::default();
        let accounts = i64::try_from(MAX_KEYS).unwrap() + 50;
        for account in 0..accounts {
            ledger.add(1, LedgerKey::new(Signal::Traces, None, Some(&account.to_string())), received(1));
        }
        let lines = ledger.lines();
        assert_eq!(lines.len(), MAX_KEYS + 1);
        assert_eq!(lines.iter().map(|line| line.counts.received).sum::<i64>(), accounts);
    }
}
