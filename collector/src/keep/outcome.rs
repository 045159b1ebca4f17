//! What came of spans: the kept rows, and what the ledger is told.
//!
//! The ledger counts by owner, and neighbours mostly are of one: a change is of all rows that stand together, never one
//! of each row.

use arrow::array::RecordBatch;

use super::spans::Spans;
use super::verdict::Verdict;

/// A change of the ledger caused by deciding: of neighbouring rows of one owner together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fate {
    /// Entry that the record came with.
    pub(crate) lsn: u64,
    pub(crate) profile: Option<String>,
    pub(crate) account_id: Option<String>,
    pub(crate) kept: i64,
    pub(crate) sampled_out: i64,
    /// Records that begin to wait, less those that wait no longer.
    pub(crate) waiting: i64,
}

/// What came of spans.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Kept rows, by the entry that they came with.
    pub(crate) kept: Vec<(u64, RecordBatch)>,
    pub(crate) fates: Vec<Fate>,
}

impl Outcome {
    /// Counts all rows of an entry, those without a verdict as waiting.
    pub(super) fn count_all(&mut self, lsn: u64, spans: &Spans<'_>, verdicts: &[Option<Verdict>]) {
        let mut from = 0;
        while from < verdicts.len() {
            let to = spans.same_owner_until(from);
            let fate = self.count(lsn, spans, from, None);
            for verdict in &verdicts[from..to] {
                let kept = verdict.is_some_and(|verdict| verdict.mark.is_some());
                fate.kept += i64::from(kept);
                fate.sampled_out += i64::from(verdict.is_some() && !kept);
                fate.waiting += i64::from(verdict.is_none());
            }
            from = to;
        }
    }

    /// Counts a row's verdict, none yet being no fate; who calls counts the waiting.
    pub(super) fn count(&mut self, lsn: u64, spans: &Spans<'_>, row: usize, verdict: Option<Verdict>) -> &mut Fate {
        let (profile, account_id) = (spans.profile(row), spans.account_id(row));
        let same = |last: &Fate| {
            last.lsn == lsn && last.profile.as_deref() == profile && last.account_id.as_deref() == account_id
        };
        let at = match self.fates.last() {
            Some(last) if same(last) => self.fates.len() - 1,
            _ => {
                self.fates.push(Fate {
                    lsn,
                    profile: profile.map(str::to_owned),
                    account_id: account_id.map(str::to_owned),
                    ..Fate::default()
                });
                self.fates.len() - 1
            }
        };
        let fate = &mut self.fates[at];
        let kept = verdict.is_some_and(|verdict| verdict.mark.is_some());
        fate.kept += i64::from(kept);
        fate.sampled_out += i64::from(verdict.is_some() && !kept);
        fate
    }
}
