//! Time whose rows this store had and has no longer. It outlives the files, since an answer over that time must say what
//! it lacks (I-5) for as long as somebody may ask.
//!
//! Kept as stretches and not as a list of files, so that years of retention are one entry. Stretches may only grow into
//! time between two gone files, never shrink: what is said to be gone may be more than what is, and never less.

use lariat_schema::coverage::Why;
use lariat_schema::node_api::Gone;
use lariat_schema::tables::Table;
use lariat_schema::time_range::{NANOS_PER_SECOND, SLICE_NANOS, TimeRange};
use serde::{Deserialize, Serialize};

use super::manifest::FileEntry;

/// Stretches of a table. Beyond them the oldest two become one: losses that many are a history of their own.
const MAX_STRETCHES: usize = 256;
/// Expired stretches this near to each other are one: files are of hours, and an hour's last row comes before its end.
const EXPIRED_GAP_NANOS: i64 = 3_600 * NANOS_PER_SECOND;
/// Lost stretches this near to each other are one: coverage counts in slices.
const LOST_GAP_NANOS: i64 = SLICE_NANOS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    table: Table,
    times: TimeRange,
    rows: u64,
    why: Why,
}

/// Every stretch of every table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct GoneBook(Vec<Stretch>);

impl GoneBook {
    /// The rows of a file are gone.
    pub(crate) fn add(&mut self, file: &FileEntry, why: Why) {
        self.0.push(Stretch { table: file.table, times: file.times, rows: file.rows, why });
        self.join(file.table);
    }

    /// What was lost before this moment would be gone by now anyhow.
    pub(crate) fn expire(&mut self, table: Table, horizon_unix_nanos: i64) {
        let mut changed = false;
        for stretch in self.0.iter_mut().filter(|stretch| stretch.table == table && stretch.why == Why::Lost) {
            if stretch.times.to_unix_nanos <= horizon_unix_nanos {
                stretch.why = Why::Expired;
                changed = true;
            }
        }
        if changed {
            self.join(table);
        }
    }

    /// The stretches of a table, in order of time.
    pub(crate) fn of(&self, table: Table) -> Vec<Gone> {
        let mut found: Vec<Gone> = self
            .0
            .iter()
            .filter(|stretch| stretch.table == table)
            .map(|stretch| Gone {
                from_unix_nanos: stretch.times.from_unix_nanos,
                to_unix_nanos: stretch.times.to_unix_nanos,
                rows: stretch.rows,
                why: stretch.why,
            })
            .collect();
        found.sort_by_key(|gone| (gone.from_unix_nanos, gone.to_unix_nanos));
        found
    }

    fn join(&mut self, table: Table) {
        let (mut own, others): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|stretch| stretch.table == table);
        self.0 = others;
        let mut joined = Vec::new();
        for why in [Why::Expired, Why::Lost] {
            let gap = if why == Why::Expired { EXPIRED_GAP_NANOS } else { LOST_GAP_NANOS };
            let mut same: Vec<_> = own.extract_if(.., |stretch| stretch.why == why).collect();
            same.sort_by_key(|stretch| stretch.times.from_unix_nanos);
            let start = joined.len();
            for stretch in same {
                match joined.get_mut(start..).and_then(<[Stretch]>::last_mut) {
                    Some(open) if stretch.times.from_unix_nanos <= open.times.to_unix_nanos.saturating_add(gap) => {
                        *open = hull(*open, stretch);
                    }
                    _ => joined.push(stretch),
                }
            }
        }
        joined.sort_by_key(|stretch| stretch.times.from_unix_nanos);
        while joined.len() > MAX_STRETCHES {
            let second = joined.remove(1);
            joined[0] = hull(joined[0], second);
        }
        self.0.extend(joined);
    }
}

fn hull(left: Stretch, right: Stretch) -> Stretch {
    let from = left.times.from_unix_nanos.min(right.times.from_unix_nanos);
    let to = left.times.to_unix_nanos.max(right.times.to_unix_nanos);
    let why = if left.why == right.why { left.why } else { Why::Lost };
    Stretch { table: left.table, times: TimeRange::new(from, to), rows: left.rows.saturating_add(right.rows), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600 * NANOS_PER_SECOND;

    fn file(from: i64, to: i64) -> FileEntry {
        FileEntry { times: TimeRange::new(from, to), rows: 10, ..FileEntry::for_test(Table::Spans, "f", 1) }
    }

    #[test]
    fn hours_that_expire_one_after_another_are_one_stretch_and_losses_apart_are_two() {
        let mut book = GoneBook::default();
        for hour in [2, 0, 1] {
            book.add(&file(hour * HOUR + 5, (hour + 1) * HOUR - 7), Why::Expired);
        }
        book.add(&file(10 * HOUR, 11 * HOUR), Why::Lost);
        book.add(&file(13 * HOUR, 14 * HOUR), Why::Lost);
        let whys: Vec<_> =
            book.of(Table::Spans).iter().map(|gone| (gone.why, gone.from_unix_nanos, gone.rows)).collect();
        assert_eq!(whys, [(Why::Expired, 5, 30), (Why::Lost, 10 * HOUR, 10), (Why::Lost, 13 * HOUR, 10)]);
        assert!(book.of(Table::Logs).is_empty());
        book.expire(Table::Spans, 12 * HOUR);
        let lost = book.of(Table::Spans).into_iter().filter(|gone| gone.why == Why::Lost).count();
        assert_eq!(lost, 1);
    }

    #[test]
    fn the_book_is_bounded_and_never_says_that_less_is_gone() {
        let mut book = GoneBook::default();
        for hour in 0..1_000 {
            book.add(&file(hour * 2 * HOUR, hour * 2 * HOUR + HOUR), Why::Lost);
        }
        let gone = book.of(Table::Spans);
        assert_eq!((gone.len(), gone.iter().map(|gone| gone.rows).sum::<u64>()), (MAX_STRETCHES, 10_000));
        for hour in 0..1_000 {
            let at = hour * 2 * HOUR;
            assert!(gone.iter().any(|gone| gone.from_unix_nanos <= at && at + HOUR <= gone.to_unix_nanos));
        }
    }
}
