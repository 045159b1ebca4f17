//! The runs of an earlier process: which of them together hold all keys that the window needs, and the filter of them.
//!
//! Runs name the entries of the log whose keys they hold, so that they are a chain without a list of them that could be
//! wrong. Where the chain breaks, by a run that is missing or damaged, everything after it is read from the log again:
//! the order in which keys came is kept, and with it which content of a key was the first.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::filter::{Filter, GENERATIONS};
use super::generations::{Generation, RUNS_PER_GENERATION, join_smallest};
use super::run::{self, Run};

/// Threads that check runs: as many as a small machine has cores.
const CHECKING_THREADS: usize = 2;
/// Keys from which a run is filtered apart and then laid into the filter, which takes a look at each word of it.
const APART_KEYS: usize = 65_536;

/// What was found.
pub(super) struct Found {
    pub(super) generations: VecDeque<Generation>,
    /// A number after which no file is named.
    pub(super) next_name: u64,
}

/// Opens what is of use in the folder and deletes the rest.
pub(super) fn restored(folder: &Path, filter: &mut Filter, needed_from: u64) -> io::Result<Found> {
    std::fs::create_dir_all(folder)?;
    let (mut runs, mut next_name) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        next_name = next_name.max(number_of(&path));
        match Run::found(path.clone()) {
            Ok(found) => runs.push(found),
            Err(error) => {
                tracing::warn!(%error, "cannot use a run of dedup keys: they are read from the log again");
                run::delete(&path);
            }
        }
    }
    let mut generations = grouped(chained(runs, needed_from));
    let broken = check(&mut generations, filter);
    if let Some((at, error)) = broken {
        tracing::warn!(%error, "a run of dedup keys is damaged: its keys and the later ones are read from the log again");
        cut(&mut generations, at, filter);
    }
    Ok(Found { generations, next_name })
}

/// The number in a file's name.
fn number_of(path: &Path) -> u64 {
    path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).unwrap_or(0)
}

/// The runs that follow each other from the entry `needed_from` on; deletes the others.
fn chained(mut runs: Vec<Run>, needed_from: u64) -> Vec<Run> {
    runs.sort_by_key(|run| (run.about.from_lsn, std::cmp::Reverse(run.about.to_lsn)));
    let mut chain: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        let about = run.about;
        let follows = match chain.last() {
            None => about.from_lsn <= needed_from && needed_from < about.to_lsn,
            Some(last) => about.from_lsn == last.about.to_lsn,
        };
        if follows { chain.push(run) } else { run.delete() }
    }
    chain
}

/// Runs in generations as they were filled, no more of these than there are bits.
fn grouped(runs: Vec<Run>) -> VecDeque<Generation> {
    let mut generations: VecDeque<Generation> = VecDeque::new();
    for run in runs {
        match generations.back_mut().filter(|open| parts(open).saturating_add(run.about.parts) <= PARTS) {
            Some(open) => open.runs.push(run),
            None => generations.push_back(Generation { bit: 0, runs: vec![run], full: true }),
        }
    }
    let mut surplus = generations.len().saturating_sub(usize::try_from(GENERATIONS).unwrap_or(usize::MAX));
    while surplus > 0 && join_smallest(&mut generations).is_some() {
        surplus -= 1;
    }
    for (bit, generation) in (0..GENERATIONS).zip(&mut generations) {
        generation.bit = bit;
    }
    reopen_newest(&mut generations);
    generations
}

/// Runs of a full generation, as a number of those that it was merged of.
const PARTS: u64 = RUNS_PER_GENERATION as u64;

fn parts(generation: &Generation) -> u64 {
    generation.runs.iter().fold(0, |parts, run| parts.saturating_add(run.about.parts))
}

fn reopen_newest(generations: &mut VecDeque<Generation>) {
    if let Some(newest) = generations.back_mut() {
        newest.full = parts(newest) >= PARTS;
    }
}

/// Checks every run and fills the filter. Tells the first that is damaged, by its place among all.
fn check(generations: &mut VecDeque<Generation>, filter: &mut Filter) -> Option<(usize, io::Error)> {
    let runs: Vec<Mutex<(u32, &mut Run)>> = generations
        .iter_mut()
        .flat_map(|generation| {
            let bit = generation.bit;
            generation.runs.iter_mut().map(move |run| Mutex::new((bit, run)))
        })
        .collect();
    if runs.is_empty() {
        return None;
    }
    let (next, broken) = (AtomicUsize::new(0), Mutex::new(None));
    let filter = Mutex::new(filter);
    let work = || {
        while let Some((at, run)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, runs.get(at)?)))
        {
            let mut run = run.lock();
            let bit = run.0;
            let checked = if run.1.keys > APART_KEYS {
                let mut plane = filter.lock().plane();
                run.1.check(&mut |key| plane.add(key)).map(|()| filter.lock().put(&plane, bit))
            } else {
                let mut keys = Vec::with_capacity(run.1.keys);
                let checked = run.1.check(&mut |key| keys.push(key));
                checked.map(|()| {
                    let mut filter = filter.lock();
                    keys.into_iter().for_each(|key| filter.add(key, bit));
                })
            };
            if let Err(error) = checked {
                let mut broken = broken.lock();
                if broken.as_ref().is_none_or(|(first, _)| at < *first) {
                    *broken = Some((at, error));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..CHECKING_THREADS.min(runs.len()) {
            scope.spawn(work);
        }
        work();
    });
    broken.into_inner()
}

/// Deletes the runs from this place on.
fn cut(generations: &mut VecDeque<Generation>, at: usize, filter: &mut Filter) {
    let mut left = at;
    for generation in generations.iter_mut() {
        let kept = left.min(generation.runs.len());
        left -= kept;
        generation.runs.drain(kept..).for_each(Run::delete);
        if kept == 0 {
            filter.clear(generation.bit);
        }
    }
    generations.retain(|generation| !generation.runs.is_empty());
    reopen_newest(generations);
}
