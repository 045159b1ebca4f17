//! Keys on disk: sorted, in pages of 4 KiB with a checksum, found by one read.
//!
//! A run is written once and says at its end which entries of the log it holds the keys of, so that the next start reads it in
//! place of them. It is never synced: its keys stand in the log too, from which a start makes anew what a crash or a bad
//! disk left of it damaged. So every page is checked when it is opened again, and one that cannot be read later is an
//! error and never "not known".

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a key with its content's hash.
const KEY_BYTES: usize = 24;
/// Keys of a page.
const PAGE_KEYS: usize = 170;
/// Bytes of a page: its keys, zeros if they are fewer, and a checksum.
const PAGE_BYTES: usize = PAGE_KEYS * KEY_BYTES + 4;
/// Pages read at once when a run is opened again.
const OPEN_PAGES: usize = 64;
/// First bytes of a run's last part.
const MAGIC: &[u8; 8] = b"LARIATK1";
/// Bytes of that part: the magic, ten numbers and a checksum.
const ABOUT_BYTES: usize = 8 + 10 * 8 + 4;

/// Where a run ends in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) steady_nanos: i64,
    /// Decisions remembered up to there.
    pub(crate) decisions: u64,
}

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct About {
    /// It holds every key of the entries of the log from here on that was inside the window when it was written.
    pub(crate) from_lsn: u64,
    /// Up to here; this entry is not in it.
    pub(crate) to_lsn: u64,
    /// Oldest entry of the log that it holds keys of.
    pub(crate) first_lsn: u64,
    pub(crate) end: End,
    /// The newest request up to its end that may hold a second content of a key.
    pub(crate) conflict: Option<End>,
    /// Runs that it was merged of.
    pub(crate) parts: u64,
}

impl About {
    fn to_bytes(self, keys: usize) -> [u8; ABOUT_BYTES] {
        let conflict = self.conflict.unwrap_or(End { steady_nanos: 0, decisions: 0 });
        let numbers = [
            self.from_lsn,
            self.to_lsn,
            self.first_lsn,
            self.end.steady_nanos.cast_unsigned(),
            self.end.decisions,
            u64::from(self.conflict.is_some()),
            conflict.steady_nanos.cast_unsigned(),
            conflict.decisions,
            self.parts,
            crate::columns::count(keys),
        ];
        let mut bytes = [0; ABOUT_BYTES];
        let (head, checksum) = bytes.split_at_mut(ABOUT_BYTES - 4);
        head[..8].copy_from_slice(MAGIC);
        for (place, number) in head[8..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        checksum.copy_from_slice(&crc32fast::hash(head).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ABOUT_BYTES]) -> Option<(Self, usize)> {
        let (head, checksum) = bytes.split_at(ABOUT_BYTES - 4);
        if !head.starts_with(MAGIC) || crc32fast::hash(head).to_le_bytes() != *checksum {
            return None;
        }
        let mut numbers = [0; 10];
        for (number, bytes) in numbers.iter_mut().zip(head[8..].chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let [from_lsn, to_lsn, first_lsn, steady, decisions, has_conflict, of_conflict, conflicts, parts, keys] =
            numbers;
        let end = |steady: u64, decisions| End { steady_nanos: steady.cast_signed(), decisions };
        let conflict = (has_conflict == 1).then(|| end(of_conflict, conflicts));
        let about = Self { from_lsn, to_lsn, first_lsn, end: end(steady, decisions), conflict, parts };
        (from_lsn < to_lsn).then_some((about, usize::try_from(keys).ok()?))
    }
}

/// A sorted file of keys.
#[derive(Debug)]
pub(crate) struct Run {
    path: PathBuf,
    file: File,
    /// First key of each page.
    fences: Vec<u128>,
    pub(crate) keys: usize,
    pub(crate) about: About,
}

impl Run {
    /// Writes keys that are sorted and distinct.
    pub(crate) fn write(
        path: PathBuf,
        sorted: impl Iterator<Item = io::Result<(u128, u64)>>,
        about: About,
    ) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        let written = write_pages(&mut file, sorted)
            .and_then(|(fences, keys)| file.write_all(&about.to_bytes(keys)).map(|()| (fences, keys)));
        match written {
            Ok((fences, keys)) => Ok(Self { path, file, fences, keys, about }),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// What an earlier process left, as far as its last part tells: the pages are not looked at.
    pub(crate) fn found(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        let mut bytes = [0; ABOUT_BYTES];
        let at =
            length.checked_sub(crate::columns::count(ABOUT_BYTES)).ok_or_else(|| damaged(&path, "it is too short"))?;
        file.read_exact_at(&mut bytes, at)?;
        let (about, keys) = About::from_bytes(&bytes).ok_or_else(|| damaged(&path, "its end is damaged"))?;
        if crate::columns::count(keys.div_ceil(PAGE_KEYS) * PAGE_BYTES) != at {
            return Err(damaged(&path, "it has another length"));
        }
        Ok(Self { path, file, fences: Vec::new(), keys, about })
    }

    /// Checks every page of what was found and hands each key to `visit`.
    pub(crate) fn check(&mut self, visit: &mut dyn FnMut(u128)) -> io::Result<()> {
        let pages = self.keys.div_ceil(PAGE_KEYS);
        let mut fences = Vec::with_capacity(pages);
        let mut buffer = vec![0; OPEN_PAGES.min(pages) * PAGE_BYTES];
        let mut file = &self.file;
        io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
        let mut last = None;
        while fences.len() < pages {
            let many = OPEN_PAGES.min(pages - fences.len());
            let bytes = &mut buffer[..many * PAGE_BYTES];
            file.read_exact(bytes)?;
            for page in bytes.chunks_exact(PAGE_BYTES) {
                let page: &[u8; PAGE_BYTES] = page.try_into().map_err(io::Error::other)?;
                self.intact(fences.len(), page)?;
                let keys = self.keys_of(fences.len());
                fences.push(key_at(page, 0).0);
                for at in 0..keys {
                    let (key, _) = key_at(page, at);
                    if last.replace(key).is_some_and(|last| last >= key) {
                        return Err(damaged(&self.path, "its keys are in no order"));
                    }
                    visit(key);
                }
            }
        }
        self.fences = fences;
        Ok(())
    }

    /// Deletes the file.
    pub(crate) fn delete(self) {
        delete(&self.path);
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
        self.intact(page, &bytes)?;
        Ok(bytes)
    }

    fn intact(&self, page: usize, bytes: &[u8; PAGE_BYTES]) -> io::Result<()> {
        let (keys, checksum) = bytes.split_at(PAGE_KEYS * KEY_BYTES);
        let intact = crc32fast::hash(keys).to_le_bytes() == *checksum;
        if intact { Ok(()) } else { Err(damaged(&self.path, &format!("page {page} is damaged"))) }
    }
}

fn damaged(path: &Path, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", path.display()))
}

/// Deletes a file of the folder of runs.
pub(crate) fn delete(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(file = %path.display(), %error, "cannot delete a run of dedup keys");
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
        while let Some(mut smallest) = next.peek_mut() {
            let (Reverse(key), at, content) = *smallest;
            match inputs[at].next().transpose() {
                // Put in its place, so that it sinks once.
                Ok(Some((key, content))) => *smallest = (Reverse(key), at, content),
                Ok(None) => {
                    PeekMut::pop(smallest);
                }
                Err(error) => return Some(Err(error)),
            }
            if last_key.replace(key) != Some(key) {
                return Some(Ok((key, content)));
            }
        }
        None
    });
    let about = About {
        to_lsn: last.about.to_lsn,
        end: last.about.end,
        conflict: last.about.conflict,
        parts: runs.iter().map(|run| run.about.parts).sum(),
        ..first.about
    };
    Run::write(path, merged, about).map(Some)
}

/// Makes the folder of the runs anew, whatever an earlier process left there.
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
    drop(out);
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

    const END: End = End { steady_nanos: -7, decisions: 3 };
    const ABOUT: About = About { from_lsn: 1, to_lsn: 4, first_lsn: 2, end: END, conflict: Some(END), parts: 1 };

    fn run(path: PathBuf, keys: impl Iterator<Item = u128>) -> Run {
        Run::write(path, keys.map(|key| Ok((key, u64::try_from(key % 1_000).unwrap()))), ABOUT).unwrap()
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
        let newer = Run::write(
            folder.path().join("b"),
            (0..900).map(|key| Ok((key, 7))),
            About { from_lsn: 4, to_lsn: 9, ..ABOUT },
        )
        .unwrap();
        let merged = merge(folder.path().join("c"), &[older, newer]).unwrap().unwrap();
        assert_eq!((merged.keys, merged.about), (900 + 200, About { to_lsn: 9, parts: 2, ..ABOUT }));
        assert_eq!([3, 4, 9, 1_497].map(|key| merged.find(key).unwrap()), [Some(7), Some(7), Some(7), Some(497)]);
    }

    #[test]
    fn a_run_is_opened_again_with_all_that_it_was_about_and_not_after_any_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for keys in [0, 1, 170, 30_000] {
            drop(run(path.clone(), 0..keys));
            let mut again = Run::found(path.clone()).unwrap();
            let mut found = Vec::new();
            again.check(&mut |key| found.push(key)).unwrap();
            assert!(again.about == ABOUT && found.into_iter().eq(0..keys));
            assert_eq!(again.find(keys / 2).unwrap().is_some(), keys > 0);
        }
        drop(run(path.clone(), 0..200));
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(61).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert!(Run::found(path.clone()).and_then(|mut run| run.check(&mut |_| {})).is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(Run::found(path.clone()).and_then(|mut run| run.check(&mut |_| {})).is_err(), "cut at {at}");
        }
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
