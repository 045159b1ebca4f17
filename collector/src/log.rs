//! The write-ahead log: what stands here is acknowledged, what is acknowledged stands here.
//!
//! Many requests share one `fdatasync`. A group is written whole or, when the disk refuses any part of it, cut off
//! again whole, so that an answer of "not durable" is never followed by its rows after a restart. A segment is never
//! continued after a restart or after a failed write: a new one begins, with the schemas and sampling policies that
//! hold from there on. It is named after its first entry, and what an older segment holds from that number on was never
//! acknowledged: so a group ends with its segment even where the disk refuses to cut it off. The log decides nothing
//! about its content.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub(crate) mod clock;
pub(crate) mod entry;
pub(crate) mod segment;
mod texts;

pub(crate) use clock::Moment;
pub(crate) use entry::{Entry, Header, Received, Schemas};
pub(crate) use segment::{Damage, Facts, Segment, SegmentFile};

use crate::keep::Policies;

/// Size from which a segment is followed by the next one.
pub(crate) const SEGMENT_BYTES: u64 = 16 << 20;

/// Sampling policies and the commit time from which they hold: a verdict that fell before is by older ones.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct InForce {
    pub(crate) policies: Policies,
    pub(crate) since: Moment,
}

/// Makes the file of a new segment.
pub(crate) type CreateSegment = Box<dyn Fn(&Path) -> io::Result<Box<dyn SegmentFile>> + Send + Sync>;

struct Active {
    file: Box<dyn SegmentFile>,
    segment: Segment,
}

/// Segments that are complete, oldest first; shared with whoever deletes them.
pub(crate) type Closed = Arc<Mutex<Vec<Segment>>>;

/// The writing end.
pub(crate) struct Log {
    folder: PathBuf,
    create: CreateSegment,
    active: Option<Active>,
    closed: Closed,
    /// Bytes of the segments that were read when it was opened.
    pub(crate) read_bytes: u64,
}

/// What is known of segments before they are read, and which of these must be.
pub(crate) struct Unread<'a> {
    pub(crate) known: &'a [Facts],
    pub(crate) is_needed: &'a dyn Fn(&Facts) -> bool,
}

impl Log {
    /// Reads what is there, oldest first, and opens the log for writing. Segments that are known and not needed are left
    /// unread.
    pub(crate) fn open(
        folder: &Path,
        create: CreateSegment,
        unread: &Unread<'_>,
        visit: &mut dyn FnMut(&Entry, &Schemas),
    ) -> io::Result<(Self, Damage)> {
        std::fs::create_dir_all(folder)?;
        let mut paths = Vec::new();
        for file in std::fs::read_dir(folder)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut damage = Damage::default();
        let mut closed = Vec::new();
        let mut read_bytes = 0;
        for (index, path) in paths.iter().enumerate() {
            let known = unread.known.iter().find(|facts| facts.first_lsn == first_lsn(path));
            if let Some(facts) = known.filter(|facts| !(unread.is_needed)(facts)) {
                let Facts { last_lsn, last_steady_nanos, bytes, .. } = *facts;
                closed.push(Segment { path: path.clone(), last_lsn, last_steady_nanos, bytes });
                continue;
            }
            read_bytes += std::fs::metadata(path)?.len();
            match segment::read(path, paths.get(index + 1).map(|next| first_lsn(next)), &mut damage, visit)? {
                Some(segment) => closed.push(segment),
                // Nothing but a preamble: the next segment may want its name.
                None => std::fs::remove_file(path)?,
            }
        }
        let log =
            Self { folder: folder.to_owned(), create, active: None, closed: Arc::new(Mutex::new(closed)), read_bytes };
        Ok((log, damage))
    }

    /// Gives it up, to be opened again.
    pub(crate) fn into_create(self) -> CreateSegment {
        self.create
    }

    /// The complete segments.
    pub(crate) fn closed(&self) -> Closed {
        Arc::clone(&self.closed)
    }

    /// Writes a group of framed entries, whose first has `first_lsn`, and returns once they are on disk. On an error
    /// nothing of the group is in the log.
    pub(crate) fn append(
        &mut self,
        frames: &[u8],
        first_lsn: u64,
        last: (u64, i64),
        in_force: &InForce,
    ) -> io::Result<()> {
        if self.active.is_none() {
            self.begin(first_lsn, in_force)?;
        }
        let active = self.active.as_mut().ok_or_else(|| io::Error::other("the log has no segment"))?;
        let before = active.segment.bytes;
        match active.file.append(frames).and_then(|()| active.file.sync()) {
            Ok(()) => {
                active.segment.bytes += crate::columns::count(frames.len());
                (active.segment.last_lsn, active.segment.last_steady_nanos) = last;
                if active.segment.bytes >= SEGMENT_BYTES {
                    self.rotate();
                }
                Ok(())
            }
            Err(error) => {
                // After a failed write or sync the page cache may differ from the disk: this file is not trusted again.
                let cut = active.file.truncate(before).and_then(|()| active.file.sync());
                let path = active.segment.path.clone();
                self.rotate();
                if let Err(cut) = cut {
                    // The next segment's name says where this one ends; the sooner it stands on disk the better.
                    let begun = self.begin(first_lsn, in_force);
                    tracing::error!(file = %path.display(), %cut, abandoned = begun.is_ok(),
                        "cannot cut a failed write off the log: its segment ends before it");
                }
                Err(error)
            }
        }
    }

    fn begin(&mut self, first_lsn: u64, in_force: &InForce) -> io::Result<()> {
        let path = self.folder.join(format!("{first_lsn:020}.log"));
        let mut file = (self.create)(&path)?;
        let mut bytes = segment::MAGIC.to_vec();
        let preamble = preamble(first_lsn, in_force).and_then(|preamble| entry::write(&preamble, &mut bytes));
        preamble.map_err(io::Error::other)?;
        if let Err(error) = file.append(&bytes) {
            // An empty segment does no harm, and the next attempt starts it again.
            let _ = file.truncate(0);
            return Err(error);
        }
        let segment = Segment { path, last_lsn: 0, last_steady_nanos: 0, bytes: crate::columns::count(bytes.len()) };
        self.active = Some(Active { file, segment });
        Ok(())
    }

    /// Ends the current segment: the next entry begins one, with the policies of then.
    pub(crate) fn rotate(&mut self) {
        if let Some(active) = self.active.take().filter(|active| active.segment.last_lsn > 0) {
            self.closed.lock().push(active.segment);
        }
    }
}

/// Deletes complete segments, oldest first, as long as `spent` says so.
pub(crate) fn delete_spent(closed: &Closed, spent: &dyn Fn(&Segment) -> bool) -> usize {
    let mut closed = closed.lock();
    let count = closed.iter().take_while(|segment| spent(segment)).count();
    let mut deleted = 0;
    for segment in closed.drain(..count) {
        match std::fs::remove_file(&segment.path) {
            Ok(()) => deleted += 1,
            Err(error) => {
                tracing::warn!(file = %segment.path.display(), %error, "cannot delete a spent segment of the log");
            }
        }
    }
    deleted
}

/// The number of a segment's first entry, from its name; a foreign name bounds nothing.
fn first_lsn(path: &Path) -> u64 {
    path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).unwrap_or(u64::MAX)
}

/// The first entry of a segment: the schemas and policies that hold for the others.
pub(crate) fn preamble(first_lsn: u64, in_force: &InForce) -> Result<Entry, entry::BadEntry> {
    let (packed, row_bytes) = Schemas::pack_current()?;
    let header = Header {
        version: entry::VERSION,
        lsn: first_lsn,
        commit_unix_nanos: in_force.since.commit_unix_nanos,
        jumped_nanos: in_force.since.jumped_nanos,
        table: None,
        trusted: true,
        decisions: 0,
        rejected: 0,
        received: Vec::new(),
        row_bytes,
        policies: Some(in_force.policies.clone()),
    };
    Ok(Entry { header, keys: Vec::new(), packed })
}

#[cfg(test)]
mod tests;
