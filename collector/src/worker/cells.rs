//! Which files a leaf of longer cells reads, and for which time each.
//!
//! Every moment of every file is read once: from the longest cells that the question allows where these lie wholly inside the
//! time that the filter allows, from shorter ones at the edges of it, and from the file itself where neither says the same.
//! Deciding by whole files was rejected: the edges of a window would then be read by 10 s up to the next hour, which for
//! a day is as much as all the rest. A file of a day is read for the hours of it that stand and lie inside, so that it may
//! have rows of others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lariat_schema::cells::CellWidth;
use lariat_schema::layout::sequence_of;

use super::times::Times;
use crate::store::{CellFile, SealedFile};

/// A file, and the moments whose rows are read of it; `None`: all.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) file: Arc<SealedFile>,
    pub(super) times: Option<Times>,
}

impl Source {
    pub(super) fn whole(file: Arc<SealedFile>) -> Self {
        Self { file, times: None }
    }
}

/// Chooses among the files of a store and the longer cells that were made of them. `times` is what the filter allows.
pub(super) fn choose(files: Vec<Arc<SealedFile>>, cells: &[CellFile], widest: CellWidth, times: &Times) -> Vec<Source> {
    let there: HashSet<u64> = files.iter().filter_map(|file| sequence_of(&file.path)).collect();
    // Moments of files that are read from cells.
    let mut taken: HashMap<u64, Times> = HashMap::new();
    let mut sources = Vec::new();
    for width in CellWidth::ALL.iter().rev().filter(|width| **width <= widest) {
        for file in cells.iter().filter(|file| file.width == *width) {
            let mut read = Times::of([]);
            for hour in file.hours.iter() {
                let inside = times.and(&Times::of([hour.times()])).whole(width.nanos());
                let is_free = hour.of.iter().all(|source| there.contains(source) && !taken.contains_key(source));
                if is_free && !inside.is_empty() {
                    taken.extend(hour.of.iter().map(|source| (*source, inside.clone())));
                    read = read.or(&inside);
                }
            }
            if !read.is_empty() {
                let is_whole = read.hold(&file.file.times);
                sources.push(Source { file: Arc::clone(&file.file), times: (!is_whole).then_some(read) });
            }
        }
    }
    for file in files {
        let elsewhere = sequence_of(&file.path).and_then(|sequence| taken.remove(&sequence));
        match elsewhere {
            Some(elsewhere) if elsewhere.hold(&file.times) => {}
            Some(elsewhere) => sources.push(Source { file, times: Some(elsewhere.not()) }),
            None => sources.push(Source::whole(file)),
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
    use proptest::prelude::*;

    use super::*;
    use crate::store::CellHour;

    const HOUR: i64 = 3_600 * NANOS_PER_SECOND;
    /// Windows begin and end with one of these.
    const TICK: i64 = 100 * NANOS_PER_SECOND;
    /// Across the end of a day.
    const HOURS: std::ops::Range<i64> = 22..28;
    /// Files that an hour may have, and files of cells of one width.
    const FILES: usize = 3;

    fn file(sequence: u64, hours: impl IntoIterator<Item = i64>) -> Arc<SealedFile> {
        let hours: Vec<i64> = hours.into_iter().collect();
        let (first, last) = (hours.iter().min().unwrap(), hours.iter().max().unwrap());
        Arc::new(SealedFile {
            path: format!("{sequence:012}.parquet").into(),
            bytes: 1,
            rows: 1,
            times: TimeRange::new(first * HOUR, (last + 1) * HOUR),
            only_in_bucket: false,
            weights: None,
            request_ids: None,
        })
    }

    fn window(from: i64, to: i64) -> TimeRange {
        TimeRange::new(from * TICK, to * TICK)
    }

    /// Whether a source reads rows of this time, where the filter lets them through.
    fn reads(source: &Source, times: &Times, at: i64) -> bool {
        let moment = TimeRange::new(at, at + 1);
        times.hold(&moment) && source.times.as_ref().is_none_or(|of_source| of_source.hold(&moment))
    }

    fn sequence(hour: i64, file: usize) -> u64 {
        u64::try_from(hour).unwrap() * 10 + u64::try_from(file).unwrap()
    }

    /// Which files of cells have what was made of each file of each hour, and in which hours a file has rows that do not stand.
    #[derive(Debug, Clone)]
    struct Made {
        width: CellWidth,
        of: Vec<[Option<usize>; FILES]>,
        stale: Vec<[bool; FILES]>,
    }

    impl Made {
        /// The files of cells with a standing hour, each with all hours that it has rows of.
        fn files(&self, first: u64) -> Vec<(CellFile, Vec<i64>)> {
            let file_of = |at: usize| {
                let (mut standing, mut rows) = (Vec::new(), Vec::new());
                for (hour, (of, stale)) in HOURS.zip(self.of.iter().zip(&self.stale)) {
                    let of = (0..FILES).filter(|file| of[*file] == Some(at)).map(|file| sequence(hour, file));
                    let of: Vec<u64> = of.collect();
                    if !of.is_empty() || stale[at] {
                        rows.push(hour);
                    }
                    if !of.is_empty() {
                        standing.push(CellHour { hour, of });
                    }
                }
                let made = || {
                    let file = file(first + u64::try_from(at).unwrap(), rows.clone());
                    CellFile { file, width: self.width, hours: standing.clone().into() }
                };
                (!standing.is_empty()).then(|| (made(), rows.clone()))
            };
            (0..FILES).filter_map(file_of).collect()
        }
    }

    fn made(width: CellWidth) -> impl Strategy<Value = Made> {
        let hours = HOURS.count();
        let of = prop::collection::vec(prop::array::uniform3(prop::option::weighted(0.8, 0..FILES)), hours);
        let stale = prop::collection::vec(prop::array::uniform3(any::<bool>()), hours);
        (of, stale).prop_map(move |(of, stale)| Made { width, of, stale })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn every_moment_of_every_file_is_read_once_whatever_is_packed_together_and_stands(
            there in prop::collection::vec(prop::array::uniform3(prop::bool::weighted(0.9)), HOURS.count()),
            short in made(CellWidth::FiveMinutes),
            long in made(CellWidth::Hour),
            windows in prop::collection::vec((790i64..1_010, 1i64..220), 1..4),
            widest in prop::sample::select(CellWidth::ALL),
        ) {
            let times = Times::of(windows.into_iter().map(|(from, length)| window(from, from + length)));
            let places = HOURS.zip(&there).flat_map(|(hour, there)| {
                (0..FILES).filter(move |file| there[*file]).map(move |file| (hour, sequence(hour, file)))
            });
            let places: Vec<(i64, u64)> = places.collect();
            let files = places.iter().map(|(hour, sequence)| file(*sequence, [*hour])).collect();
            let cells = [short.files(1_000), long.files(2_000)].concat();
            let of_store: Vec<CellFile> = cells.iter().map(|(cells, _)| cells.clone()).collect();
            let sources = choose(files, &of_store, widest, &times);
            let read = |path: &std::path::Path, at: i64| {
                sources.iter().filter(|source| source.file.path == path && reads(source, &times, at)).count()
            };
            for (file, rows) in &cells {
                let width = file.width.nanos();
                for start in rows.iter().flat_map(|hour| (hour * HOUR..(hour + 1) * HOUR).step_by(usize::try_from(width).unwrap())) {
                    let count = read(&file.file.path, start);
                    prop_assert!(count <= usize::from(file.width <= widest));
                    if count == 1 {
                        let hour = file.hours.iter().find(|hour| hour.hour == start.div_euclid(HOUR));
                        prop_assert!(hour.is_some(), "rows of an hour that does not stand");
                        prop_assert!(hour.unwrap().of.iter().all(|of| places.iter().any(|(_, there)| there == of)));
                        prop_assert!(times.hold(&TimeRange::new(start, start + width)), "a cell over the edge");
                    }
                }
            }
            for (hour, sequence) in &places {
                for at in (hour * HOUR..(hour + 1) * HOUR).step_by(usize::try_from(TICK).unwrap()) {
                    let own = read(&file(*sequence, [*hour]).path, at);
                    let added_up = cells.iter().filter(|(file, _)| {
                        file.hours.iter().any(|of| of.hour == *hour && of.of.contains(sequence))
                    });
                    let in_cells: usize = added_up
                        .map(|(file, _)| read(&file.file.path, at - at.rem_euclid(file.width.nanos())))
                        .sum();
                    let wanted = usize::from(times.hold(&TimeRange::new(at, at + 1)));
                    // A longer cell that holds the moment is read at its start, which is inside wherever the cell is.
                    prop_assert_eq!(own + in_cells, wanted, "file {} at {}", sequence, at / TICK);
                }
            }
        }
    }

    #[test]
    fn a_file_of_a_day_is_read_for_the_part_of_it_that_is_asked_for() {
        let hours: Arc<[CellHour]> = (0..24).map(|hour| CellHour { hour, of: vec![sequence(hour, 0)] }).collect();
        let files = || (0..24).map(|hour| file(sequence(hour, 0), [hour])).collect::<Vec<_>>();
        let day = CellFile { file: file(1_000, 0..24), width: CellWidth::Hour, hours };
        let chosen = |from: i64, to: i64| {
            choose(files(), std::slice::from_ref(&day), CellWidth::Hour, &Times::of([window(from, to)]))
        };
        let whole = chosen(0, 24 * 36);
        assert_eq!((whole.len(), &whole[0].times), (1, &None));
        // From half past eleven: the file for the hours from twelve on, the files of the others as they are.
        let half = chosen(23 * 18, 24 * 36);
        assert_eq!(half.iter().filter(|source| source.file.path == day.file.path).count(), 1);
        assert_eq!(half[0].times, Some(Times::of([window(12 * 36, 24 * 36)])));
        assert_eq!(half.len(), 1 + 12);
    }
}
