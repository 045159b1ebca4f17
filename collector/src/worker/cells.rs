//! Which files a leaf of longer cells reads, and for which time each.
//!
//! Every moment of every file is read once: from the longest cells that the question allows where these lie wholly inside the
//! time that the filter allows, from shorter ones at the edges of it, and from the file itself where neither says the same.
//! Deciding by whole files was rejected: the edges of a window would then be read by 10 s up to the next hour, which for
//! a day is as much as all the rest.

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
