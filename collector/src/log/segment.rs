//! Files of the log as the system offers them, behind a trait so that a full or failing disk can be played in tests,
//! and the reading of a segment that a crash or a bad disk may have damaged.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entry::{self, BadEntry, Entry, Schemas};

/// First bytes of every segment.
pub(crate) const MAGIC: &[u8; 8] = b"LARIATL1";

/// A file that grows at its end.
pub(crate) trait SegmentFile: Send {
    /// Writes at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything written is on disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Makes a new segment file, durable in its folder.
pub(crate) fn create_on_disk(path: &Path) -> io::Result<Box<dyn SegmentFile>> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    // What a failed attempt left under this name holds nothing that was acknowledged.
    file.set_len(0)?;
    if let Some(folder) = path.parent() {
        sync_folder(folder)?;
    }
    Ok(Box::new(file))
}

/// Makes renames and new names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What was found in a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Bytes cut from the ends of segments: entries that were never acknowledged.
    pub(crate) torn_bytes: u64,
    /// Copies of bytes that could not be read and that may have been acknowledged.
    pub(crate) set_aside: Vec<PathBuf>,
}

/// Facts of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) last_lsn: u64,
    pub(crate) last_steady_nanos: i64,
    pub(crate) bytes: u64,
}

/// The same as a checkpoint tells them to the next process, which need not read the segment to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) first_lsn: u64,
    pub(crate) last_lsn: u64,
    pub(crate) last_steady_nanos: i64,
    pub(crate) bytes: u64,
}

impl Segment {
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            first_lsn: super::first_lsn(&self.path),
            last_lsn: self.last_lsn,
            last_steady_nanos: self.last_steady_nanos,
            bytes: self.bytes,
        }
    }
}

/// Reads a segment in order and hands each entry to `visit`, up to the first of the `next` segment: from there on it
/// holds what was refused. Bytes that cannot be read are cut off: where nothing that was acknowledged can follow, they
/// are the tail that a crash or a refusal tore; otherwise they are copied aside.
pub(crate) fn read(
    path: &Path,
    next: Option<u64>,
    damage: &mut Damage,
    visit: &mut dyn FnMut(&Entry, &Schemas),
) -> io::Result<Option<Segment>> {
    let bytes = std::fs::read(path)?;
    let mut segment = Segment { path: path.to_owned(), last_lsn: 0, last_steady_nanos: 0, bytes: 0 };
    let mut schemas = Schemas::default();
    let mut at = if bytes.starts_with(MAGIC) { MAGIC.len() } else { 0 };
    let mut fault = (at == 0 && !bytes.is_empty()).then_some(BadEntry::Short);
    while fault.is_none() && at < bytes.len() {
        match entry::read(&bytes[at..]).and_then(|(entry, length)| {
            if entry.header.table.is_none() {
                schemas = Schemas::unpack(&entry)?;
            } else if next.is_some_and(|next| entry.header.lsn >= next) {
                return Err(BadEntry::Refused { lsn: entry.header.lsn });
            } else if segment.last_lsn > 0 && entry.header.lsn != segment.last_lsn.saturating_add(1) {
                return Err(BadEntry::Order { lsn: entry.header.lsn, last: segment.last_lsn });
            }
            Ok((entry, length))
        }) {
            Ok((entry, length)) => {
                if entry.header.table.is_some() {
                    segment.last_lsn = entry.header.lsn;
                    segment.last_steady_nanos = entry.header.moment().steady_nanos();
                }
                visit(&entry, &schemas);
                at += length;
            }
            Err(error) => fault = Some(error),
        }
    }
    if let Some(fault) = fault {
        // Entries are numbered without holes, so that it is known whether one is missing before the next segment.
        let whole = match next {
            Some(next) => segment.last_lsn.saturating_add(1) >= next,
            None => !readable_follows(&bytes[at..]),
        };
        cut(path, &bytes, at, whole, &fault, damage)?;
    }
    segment.bytes = crate::columns::count(at);
    Ok((segment.last_lsn > 0).then_some(segment))
}

fn cut(path: &Path, bytes: &[u8], at: usize, whole: bool, fault: &BadEntry, damage: &mut Damage) -> io::Result<()> {
    let rest = &bytes[at..];
    if whole {
        tracing::warn!(file = %path.display(), at, bytes = rest.len(), %fault, "cut what was never acknowledged off the log");
        damage.torn_bytes += crate::columns::count(rest.len());
    } else {
        let aside = path.with_extension(format!("log.damaged-{at}"));
        std::fs::write(&aside, rest)?;
        File::open(&aside)?.sync_all()?;
        tracing::error!(file = %path.display(), at, bytes = rest.len(), %fault, aside = %aside.display(),
            "a part of the log is damaged: kept what stands before it, set the rest aside");
        damage.set_aside.push(aside);
    }
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(crate::columns::count(at))?;
    file.sync_all()
}

/// True if a whole entry stands right after the damaged one: then it was not the tail.
fn readable_follows(rest: &[u8]) -> bool {
    let Some(length) = rest.first_chunk::<4>().and_then(|bytes| usize::try_from(u32::from_le_bytes(*bytes)).ok())
    else {
        return false;
    };
    rest.get(entry::FRAME_BYTES.saturating_add(length)..).is_some_and(|next| entry::read(next).is_ok())
}
