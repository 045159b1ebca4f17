//! A disk for the log that fails as the test says, and that forgets what was not synced when the process dies.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::segment::create_on_disk;
use crate::log::{CreateSegment, SegmentFile};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// One write or sync is refused, after `part` of 255 of its bytes.
    Refuse { part: u8 },
    /// The same, and what was written cannot be cut off again.
    RefuseAndKeep { part: u8 },
    /// The process dies in it, after `part` of 255 of the bytes; nothing happens afterwards.
    Die { part: u8 },
}

#[derive(Debug, Default, Clone, Copy)]
struct Lengths {
    written: u64,
    synced: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// Operations that still succeed, and what happens to the next.
    fuse: Option<(u8, Fault)>,
    cannot_cut: bool,
    dead: bool,
    lengths: HashMap<PathBuf, Lengths>,
}

impl Inner {
    fn burn(&mut self) -> Option<Fault> {
        match &mut self.fuse {
            Some((0, fault)) => {
                let fault = *fault;
                self.fuse = None;
                self.dead |= matches!(fault, Fault::Die { .. });
                self.cannot_cut |= matches!(fault, Fault::RefuseAndKeep { .. });
                Some(fault)
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("the process is dead")) } else { Ok(()) }
    }
}

/// The disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    pub(super) fn create(&self) -> CreateSegment {
        let disk = self.clone();
        Box::new(move |path: &Path| {
            disk.0.lock().alive()?;
            let file = create_on_disk(path)?;
            disk.0.lock().lengths.insert(path.to_owned(), Lengths::default());
            Ok(Box::new(File { file, path: path.to_owned(), disk: disk.clone() }) as Box<dyn SegmentFile>)
        })
    }

    /// Lets `operations` succeed, then fails.
    pub(super) fn arm(&self, operations: u8, fault: Fault) {
        self.0.lock().fuse = Some((operations, fault));
    }

    pub(super) fn disarm(&self) {
        let mut inner = self.0.lock();
        (inner.fuse, inner.cannot_cut) = (None, false);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// What a crash leaves: of the bytes that no sync covered the first `kept` of 255, the rest gone, or zeros.
    pub(super) fn crash(&self, kept: u8, zeros: bool) {
        let mut inner = self.0.lock();
        inner.dead = false;
        inner.fuse = None;
        inner.cannot_cut = false;
        for (path, Lengths { written, synced }) in inner.lengths.drain() {
            let Ok(file) = std::fs::OpenOptions::new().write(true).open(&path) else { continue };
            let whole = file.metadata().unwrap().len();
            assert!(whole >= written.min(synced), "{} lost synced bytes", path.display());
            let left = synced + (whole.saturating_sub(synced)) * u64::from(kept) / 255;
            file.set_len(left.min(whole)).unwrap();
            if zeros {
                file.set_len(whole).unwrap();
            }
        }
    }
}

struct File {
    file: Box<dyn SegmentFile>,
    path: PathBuf,
    disk: Disk,
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.alive()?;
        let (written, outcome) = match inner.burn() {
            None => (bytes.len(), Ok(())),
            Some(Fault::Refuse { part } | Fault::RefuseAndKeep { part } | Fault::Die { part }) => {
                (bytes.len() * usize::from(part) / 255, Err(io::Error::from(io::ErrorKind::StorageFull)))
            }
        };
        self.file.append(&bytes[..written])?;
        inner.lengths.entry(self.path.clone()).or_default().written += u64::try_from(written).unwrap();
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.alive()?;
        let fault = inner.burn();
        let lengths = inner.lengths.entry(self.path.clone()).or_default();
        match fault {
            // A sync that reports an error may have reached the disk, and one that the process died in too.
            Some(Fault::Refuse { part } | Fault::RefuseAndKeep { part } | Fault::Die { part }) => {
                if part > 127 {
                    lengths.synced = lengths.written;
                }
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            None => {
                lengths.synced = lengths.written;
                Ok(())
            }
        }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.alive()?;
        if inner.cannot_cut {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        self.file.truncate(length)?;
        let lengths = inner.lengths.entry(self.path.clone()).or_default();
        lengths.written = length;
        lengths.synced = lengths.synced.min(length);
        Ok(())
    }
}
