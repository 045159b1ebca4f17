//! Keys on disk: sorted, in pages of 4 KiB with a checksum, found by one read.
//!
//! A run is written once and never synced: its keys stand in the log too, from which a restart makes it anew, so that
//! there is one truth about what was received and nothing that could disagree with it. A page that cannot be read is an
//! error and never "not known".

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a key with its content's hash.
const KEY_BYTES: usize = 24;
/// Keys of a page.
const PAGE_KEYS: usize = 170;
/// Bytes of a page: its keys, zeros if they are fewer, and a checksum.
const PAGE_BYTES: usize = PAGE_KEYS * KEY_BYTES + 4;

/// Where a run ends in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) steady_nanos: i64,
    /// Decisions remembered up to there, since the start.
    pub(crate) decisions: u64,
}

/// A sorted file of keys; it is deleted when this is dropped.
#[derive(Debug)]
pub(crate) struct Run {
    path: PathBuf,
    file: File,
    /// First key of each page.
    fences: Vec<u128>,
    pub(crate) keys: usize,
    /// Oldest entry of the log that it holds keys of.
    pub(crate) first_lsn: u64,
    pub(crate) end: End,
}

impl Run {
    /// Writes keys that are sorted and distinct.
    pub(crate) fn write(
        path: PathBuf,
        sorted: impl Iterator<Item = io::Result<(u128, u64)>>,
        first_lsn: u64,
        end: End,
    ) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        let written = write_pages(&mut file, sorted);
        match written {
            Ok((fences, keys)) => Ok(Self { path, file, fences, keys, first_lsn, end }),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// The content's hash of a key, if the run holds it.
    pub(crate) fn find(&self, key: u128) -> io::Result<Option<u64>> {
        let after = self.fences.partition_point(|fence| *fence <= key);
        let Some(page) = after.checked_sub(1) else { return Ok(None) };
        let bytes = self.page(page)?;
        let keys = self.keys_of(page);
        let (mut low, mut high) = (0, keys);
        while low < high {
            let middle = low.midpoint(high);
            let (found, content) = key_at(&bytes, middle);
            match found.cmp(&key) {
                std::cmp::Ordering::Equal => return Ok(Some(content)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// All keys in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = io::Result<(u128, u64)>> {
        (0..self.fences.len()).flat_map(|page| {
            let read = self.page(page);
            let keys = if read.is_ok() { self.keys_of(page) } else { 1 };
            (0..keys).map(move |at| match &read {
                Ok(bytes) => Ok(key_at(bytes, at)),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            })
        })
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        crate::columns::count(self.fences.len() * PAGE_BYTES)
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.fences.capacity().saturating_mul(size_of::<u128>()) + size_of::<Self>()
    }

    fn keys_of(&self, page: usize) -> usize {
        (self.keys - page * PAGE_KEYS).min(PAGE_KEYS)
    }

    fn page(&self, page: usize) -> io::Result<[u8; PAGE_BYTES]> {
        let mut bytes = [0; PAGE_BYTES];
        self.file.read_exact_at(&mut bytes, crate::columns::count(page * PAGE_BYTES))?;
        let (keys, checksum) = bytes.split_at(PAGE_KEYS * KEY_BYTES);
        if crc32fast::hash(keys).to_le_bytes() != *checksum {
            let reason = format!("page {page} of {} is damaged", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(bytes)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(file = %self.path.display(), %error, "cannot delete a run of dedup keys");
        }
    }
}

/// Makes one run of several; of a key that stands in two of them the newer one's content holds. `runs` are oldest first.
pub(crate) fn merge(path: PathBuf, runs: &[Run]) -> io::Result<Option<Run>> {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Ok(None) };
    let mut inputs: Vec<_> = runs.iter().map(Run::iter).collect();
    let mut next = BinaryHeap::with_capacity(inputs.len());
    // The smallest key first, and of equal ones that of the newest run.
    for (at, input) in inputs.iter_mut().enumerate() {
        if let Some((key, content)) = input.next().transpose()? {
            next.push((Reverse(key), at, content));
        }
    }
    let mut last_key = None;
    let merged = std::iter::from_fn(|| {
        while let Some((Reverse(key), at, content)) = next.pop() {
            match inputs[at].next().transpose() {
                Ok(Some((key, content))) => next.push((Reverse(key), at, content)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
            if last_key.replace(key) != Some(key) {
                return Some(Ok((key, content)));
            }
        }
        None
    });
    Run::write(path, merged, first.first_lsn, last.end).map(Some)
}

/// Makes the folder of the runs anew: what an earlier process left there is made again from the log.
pub(crate) fn clear_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(folder)
}

fn write_pages(
    file: &mut File,
    sorted: impl Iterator<Item = io::Result<(u128, u64)>>,
) -> io::Result<(Vec<u128>, usize)> {
    let mut out = BufWriter::with_capacity(64 * PAGE_BYTES, file);
    let (mut fences, mut keys) = (Vec::new(), 0_usize);
    let mut page = Vec::with_capacity(PAGE_BYTES);
    for one in sorted {
        let (key, content) = one?;
        if page.is_empty() {
            fences.push(key);
        }
        page.extend_from_slice(&key.to_le_bytes());
        page.extend_from_slice(&content.to_le_bytes());
        keys += 1;
        if page.len() == PAGE_KEYS * KEY_BYTES {
            put_page(&mut out, &mut page)?;
        }
    }
    if !page.is_empty() {
        put_page(&mut out, &mut page)?;
    }
    out.flush()?;
    Ok((fences, keys))
}

fn put_page(out: &mut impl Write, page: &mut Vec<u8>) -> io::Result<()> {
    page.resize(PAGE_KEYS * KEY_BYTES, 0);
    let checksum = crc32fast::hash(page);
    page.extend_from_slice(&checksum.to_le_bytes());
    out.write_all(page)?;
    page.clear();
    Ok(())
}

fn key_at(page: &[u8; PAGE_BYTES], at: usize) -> (u128, u64) {
    let mut key = [0; 16];
    let mut content = [0; 8];
    let start = at * KEY_BYTES;
    key.copy_from_slice(&page[start..start + 16]);
    content.copy_from_slice(&page[start + 16..start + KEY_BYTES]);
    (u128::from_le_bytes(key), u64::from_le_bytes(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: End = End { steady_nanos: 0, decisions: 0 };

    fn run(path: PathBuf, keys: impl Iterator<Item = u128>) -> Run {
        Run::write(path, keys.map(|key| Ok((key, u64::try_from(key % 1_000).unwrap()))), 1, END).unwrap()
    }

    #[test]
    fn every_key_of_a_run_is_found_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, 169, 170, 171, 1_000] {
            let run = run(folder.path().join("a"), (0..count).map(|key| key * 2 + 1));
            for key in 0..count * 2 + 2 {
                let expected = (key % 2 == 1).then(|| u64::try_from(key % 1_000).unwrap());
                assert_eq!(run.find(key).unwrap(), expected.filter(|_| key < count * 2), "{key} of {count}");
            }
        }
    }

    #[test]
    fn merged_runs_hold_the_keys_of_all_and_the_newer_content() {
        let folder = tempfile::tempdir().unwrap();
        let older = run(folder.path().join("a"), (0..500).map(|key| key * 3));
        let newer = Run::write(folder.path().join("b"), (0..900).map(|key| Ok((key, 7))), 5, END).unwrap();
        let merged = merge(folder.path().join("c"), &[older, newer]).unwrap().unwrap();
        assert_eq!((merged.keys, merged.first_lsn), (900 + 200, 1));
        assert_eq!([3, 4, 9, 1_497].map(|key| merged.find(key).unwrap()), [Some(7), Some(7), Some(7), Some(497)]);
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1, "the inputs are gone with their last use");
    }

    #[test]
    fn a_damaged_page_is_an_error_and_never_an_unknown_key() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path().join("a"), 0..400);
        run.file.write_all_at(&[0xff], 5_000).unwrap();
        assert!(run.find(1).unwrap().is_some());
        assert_eq!(run.find(200).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(run.iter().any(|key| key.is_err()));
    }
}
