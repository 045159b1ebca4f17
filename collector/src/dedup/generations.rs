//! The keys that left memory: runs on disk in generations, each with its own bit in the filter.
//!
//! Runs come small, since they come out of memory, and are merged into one when a generation is full: a hit then costs
//! one read. When all bits are taken, two neighbours share one, so that however many keys the window holds none leaves
//! before its time and memory stays as it is; a false hit then costs two reads.
//!
//! A run that left the window stays on the disk until the manifest says so too: the next start can then tell a run that
//! nobody needs from one that is missing.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use super::filter::{Filter, GENERATIONS};
use super::restored::{Found, restored};
use super::run::{About, End, Run, merge};

/// Runs that are merged into one: at the rate that the window is made for, a generation lasts some five seconds.
pub(super) const RUNS_PER_GENERATION: usize = 8;

#[derive(Debug)]
pub(super) struct Generation {
    pub(super) bit: u32,
    /// Oldest first.
    pub(super) runs: Vec<Run>,
    pub(super) full: bool,
}

impl Generation {
    pub(super) fn keys(&self) -> usize {
        self.runs.iter().map(|run| run.keys).sum()
    }
}

/// All runs, oldest first.
#[derive(Debug)]
pub(crate) struct Generations {
    folder: PathBuf,
    filter: Filter,
    generations: VecDeque<Generation>,
    /// What left the window, oldest first, and still lies on the disk.
    retired: VecDeque<Run>,
    next_name: u64,
}

impl Generations {
    /// With what an earlier process left in the folder, as far as all keys of entries from `needed_from` on are in it without
    /// a hole; the rest is deleted.
    pub(crate) fn open(folder: PathBuf, filter_words: usize, needed_from: u64) -> io::Result<Self> {
        let mut filter = Filter::new(filter_words);
        let Found { generations, next_name } = restored(&folder, &mut filter, needed_from)?;
        Ok(Self { folder, filter, generations, retired: VecDeque::new(), next_name })
    }

    /// The newest run.
    pub(crate) fn newest(&self) -> Option<&About> {
        self.generations.back().and_then(|newest| newest.runs.last()).map(|run| &run.about)
    }

    /// The content's hash of a key; of several the newest one's: the others have left the window, and stand here since
    /// runs leave whole.
    pub(crate) fn find(&self, key: u128) -> io::Result<Option<u64>> {
        self.find_in(key, self.may_hold(key))
    }

    /// The generations that may hold a key, a bit each.
    pub(crate) fn may_hold(&self, key: u128) -> u32 {
        self.filter.may_hold(key)
    }

    /// The same as [`Self::find`], of a key that only these generations may hold.
    pub(crate) fn find_in(&self, key: u128, mut may_hold: u32) -> io::Result<Option<u64>> {
        if may_hold == 0 {
            return Ok(None);
        }
        for generation in self.generations.iter().rev() {
            if may_hold & (1 << generation.bit) == 0 {
                continue;
            }
            may_hold &= !(1 << generation.bit);
            for run in generation.runs.iter().rev() {
                if let Some(content) = run.find(key)? {
                    return Ok(Some(content));
                }
            }
        }
        Ok(None)
    }

    /// Takes in sorted keys as a run. On an error nothing has changed.
    pub(crate) fn add(&mut self, sorted: &[(u128, u64)], about: About) -> io::Result<()> {
        let run = Run::write(self.name(), sorted.iter().map(|key| Ok(*key)), about)?;
        if self.generations.back().is_none_or(|newest| newest.full) {
            let bit = self.free_bit();
            self.generations.push_back(Generation { bit, runs: Vec::new(), full: false });
        }
        let merged = self.name();
        let Some(newest) = self.generations.back_mut() else { return Ok(()) };
        for (key, _) in sorted {
            self.filter.add(*key, newest.bit);
        }
        newest.runs.push(run);
        if newest.runs.len() >= RUNS_PER_GENERATION {
            newest.full = true;
            // Without room for the merged run the small ones do as well.
            match merge(merged, &newest.runs) {
                Ok(Some(run)) => {
                    for small in std::mem::replace(&mut newest.runs, vec![run]) {
                        small.delete();
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot merge dedup keys: looking them up costs more"),
            }
        }
        Ok(())
    }

    /// Lets go of the runs at the old end that have left the window.
    pub(crate) fn release(&mut self, has_left: &dyn Fn(End) -> bool) {
        while let Some(oldest) = self.generations.front_mut() {
            let left = oldest.runs.iter().take_while(|run| has_left(run.about.end)).count();
            self.retired.extend(oldest.runs.drain(..left));
            if !oldest.runs.is_empty() {
                break;
            }
            let bit = oldest.bit;
            self.generations.pop_front();
            self.filter.clear(bit);
        }
    }

    /// Deletes what left the window before entry `needed_from` of the log, as the manifest has it.
    pub(crate) fn delete_retired(&mut self, needed_from: u64) {
        while self.retired.front().is_some_and(|oldest| oldest.about.to_lsn <= needed_from) {
            if let Some(oldest) = self.retired.pop_front() {
                oldest.delete();
            }
        }
    }

    /// A bit that no generation has; if there is none, the two neighbours with the fewest keys share one from now on.
    fn free_bit(&mut self) -> u32 {
        let taken = self.generations.iter().fold(0_u32, |taken, generation| taken | (1 << generation.bit));
        if taken != u32::MAX {
            return taken.trailing_ones() % GENERATIONS;
        }
        let Some((older, newer)) = join_smallest(&mut self.generations) else { return 0 };
        self.filter.fold(newer, older);
        self.filter.clear(newer);
        newer
    }

    fn name(&mut self) -> PathBuf {
        self.next_name += 1;
        self.folder.join(format!("{:012}.run", self.next_name))
    }

    /// The oldest entry of the log whose keys stand here.
    pub(crate) fn oldest_lsn(&self) -> Option<u64> {
        self.generations.front().and_then(|oldest| oldest.runs.first()).map(|run| run.about.first_lsn)
    }

    pub(crate) fn keys(&self) -> usize {
        self.generations.iter().map(Generation::keys).sum()
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.generations.iter().flat_map(|generation| &generation.runs).chain(&self.retired).map(Run::bytes).sum()
    }

    /// Bytes of the filter, and of what says where a key stands on disk.
    pub(crate) fn memory_bytes(&self) -> usize {
        let runs = self.generations.iter().flat_map(|generation| &generation.runs);
        self.filter_bytes() + runs.map(Run::memory_bytes).sum::<usize>()
    }

    /// Bytes of the filter.
    pub(crate) fn filter_bytes(&self) -> usize {
        self.filter.bytes()
    }
}

/// Makes one generation of the two neighbours with the fewest keys; tells the bit that it has, and the one that is free.
pub(super) fn join_smallest(generations: &mut VecDeque<Generation>) -> Option<(u32, u32)> {
    let pairs = generations.iter().zip(generations.iter().skip(1));
    let sizes = pairs.map(|(older, newer)| older.keys() + newer.keys());
    let at = sizes.enumerate().min_by_key(|(_, keys)| *keys).map(|(at, _)| at)?;
    let newer = generations.remove(at + 1)?;
    let older = generations.get_mut(at)?;
    older.runs.extend(newer.runs);
    Some((older.bit, newer.bit))
}
