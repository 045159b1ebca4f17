//! The requests that wait to be sent on: segments on the disk, a place up to which they were delivered, a bound.
//!
//! A request stands here before its sender is told that it was accepted, and leaves when the other side has taken it or
//! refused it for good; whoever is killed between the two sends it again. When the bound is reached the oldest segment
//! goes, counted: fresh telemetry is worth more than old, and receiving never waits for another collector. Nothing
//! here waits for a network.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::{self, MAGIC, Request};
use crate::columns::count;
use crate::log::segment::sync_folder;

/// A segment is this part of the bound, so that reaching it costs an eighth of what waits.
const SEGMENTS: u64 = 8;
/// The largest segment, bytes.
const SEGMENT_BYTES: u64 = 16 << 20;
/// File that names the first request that was not delivered.
const CURSOR_FILE: &str = "cursor";
/// File that names requests which were under way when their segment was dropped: a process that is killed before the
/// other side has answered has lost them, and the next one counts them.
const UNDER_WAY_FILE: &str = "under_way";
/// File that one process holds locked.
const LOCK_FILE: &str = "lock";
/// What ends in this is a segment.
const EXTENSION: &str = "queue";

/// A place between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    segment: u64,
    offset: u64,
}

/// A request to be sent, and where it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) request: Request,
    pub(super) end: Position,
}

/// What became of requests that were not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Losses {
    /// Dropped because newer ones needed their room.
    pub(super) overflow: u64,
    /// Larger than the whole queue.
    pub(super) too_large: u64,
    /// The disk took or gave them not.
    pub(super) disk: u64,
    /// Bytes cut off the newest segment at the start.
    pub(super) torn_bytes: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// Requests that were not handed out.
    unread: u64,
    /// Open once something was read of it.
    reader: Option<File>,
}

/// The queue of one collector.
#[derive(Debug)]
pub(super) struct Queue {
    folder: PathBuf,
    limit_bytes: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The end of the newest segment, while it is written to.
    active: Option<Arc<File>>,
    next_number: u64,
    read: Position,
    /// Ends of requests that were handed out and not delivered, oldest first: as many as are sent at once.
    under_way: VecDeque<Position>,
    /// Some of them are noted, since their segment is gone.
    noted: bool,
    cursor: File,
    losses: Losses,
    lock: Option<File>,
}

impl Queue {
    /// Opens the queue of a folder, and cuts off what a crash left half written.
    pub(super) fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let open =
            |name: &str| OpenOptions::new().create(true).truncate(false).read(true).write(true).open(folder.join(name));
        let lock = open(LOCK_FILE)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process forwards from it")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let cursor = open(CURSOR_FILE)?;
        let delivered = read_cursor(&cursor);
        let mut queue = Self {
            folder: folder.to_owned(),
            limit_bytes,
            segments: VecDeque::new(),
            active: None,
            next_number: delivered.segment,
            read: delivered,
            under_way: VecDeque::new(),
            noted: false,
            cursor,
            losses: Losses::default(),
            lock: Some(lock),
        };
        queue.losses.overflow += queue.lost_under_way(delivered);
        queue.find_segments(delivered)?;
        Ok(queue)
    }

    fn find_segments(&mut self, delivered: Position) -> io::Result<()> {
        let mut numbers = Vec::new();
        for file in std::fs::read_dir(&self.folder)? {
            let path = file?.path();
            let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION);
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            numbers.extend(number.filter(|_| is_segment));
        }
        numbers.sort_unstable();
        for (index, number) in numbers.iter().enumerate() {
            let path = self.path(*number);
            let newest = index + 1 == numbers.len();
            let (starts, end) = segment::scan(&path, newest)?;
            let length = std::fs::metadata(&path)?.len();
            if length > end && newest {
                tracing::warn!(file = %path.display(), bytes = length - end, "cut the torn tail of what waits to be sent on");
                self.losses.torn_bytes += length - end;
                OpenOptions::new().write(true).open(&path)?.set_len(end)?;
            } else if length > end {
                tracing::error!(file = %path.display(), bytes = length - end, "a part of what waits to be sent on is damaged");
                self.losses.disk += 1;
            }
            let from = if *number == delivered.segment { delivered.offset } else { 0 };
            let unread = count(starts.iter().filter(|start| **start >= from).count());
            if *number < delivered.segment || unread == 0 {
                std::fs::remove_file(&path)?;
                continue;
            }
            self.segments.push_back(Segment { number: *number, bytes: end, unread, reader: None });
        }
        self.next_number = self.next_number.max(numbers.last().copied().unwrap_or(0)) + 1;
        Ok(())
    }

    /// How many requests a former process had under way that nobody can send any more.
    fn lost_under_way(&self, delivered: Position) -> u64 {
        let path = self.folder.join(UNDER_WAY_FILE);
        let Ok(bytes) = std::fs::read(&path) else { return 0 };
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, file = %path.display(), "cannot delete what was counted: it is counted again");
        }
        let lost =
            bytes.as_chunks::<POSITION_BYTES>().0.iter().filter_map(Position::read).filter(|end| *end > delivered);
        count(lost.count())
    }

    /// Notes what is under way of a segment that goes. Not synced: after a power cut nobody knows.
    fn note_under_way(&mut self, segment: u64) {
        let of_it: Vec<u8> =
            self.under_way.iter().filter(|end| end.segment == segment).flat_map(|end| end.bytes()).collect();
        if of_it.is_empty() {
            return;
        }
        self.noted = true;
        let noted = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.folder.join(UNDER_WAY_FILE))
            .and_then(|mut file| file.write_all(&of_it));
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot note which dropped requests are under way");
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.{EXTENSION}"))
    }

    /// Writes requests behind the others. What is returned has to be synced before they are durable; nothing of a
    /// request that the disk did not take is left.
    pub(super) fn append(&mut self, requests: &[Request]) -> Vec<Arc<File>> {
        let mut touched: Vec<Arc<File>> = Vec::new();
        let mut frame = Vec::new();
        if self.lock.is_none() {
            return touched;
        }
        for request in requests {
            let bytes = segment::frame_bytes(request);
            if bytes + count(MAGIC.len()) > self.limit_bytes {
                self.losses.too_large += 1;
                continue;
            }
            self.make_room(bytes);
            frame.clear();
            segment::write(request, &mut frame);
            match self.write(&frame) {
                Ok(file) => {
                    if !touched.iter().any(|known| Arc::ptr_eq(known, &file)) {
                        touched.push(file);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot queue a request to be sent on: it is dropped there");
                    self.losses.disk += 1;
                }
            }
        }
        touched
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<Arc<File>> {
        let largest = (self.limit_bytes / SEGMENTS).min(SEGMENT_BYTES);
        if self.segments.back().is_some_and(|newest| newest.bytes + count(frame.len()) > largest) {
            self.active = None;
        }
        let file = match &self.active {
            Some(file) => Arc::clone(file),
            None => self.begin()?,
        };
        let Some(newest) = self.segments.back_mut() else { return Err(io::Error::other("no segment")) };
        if let Err(error) = (&*file).write_all(frame) {
            self.active = None;
            file.set_len(newest.bytes)?;
            return Err(error);
        }
        newest.bytes += count(frame.len());
        newest.unread += 1;
        Ok(file)
    }

    fn begin(&mut self) -> io::Result<Arc<File>> {
        let number = self.next_number;
        self.next_number += 1;
        let path = self.path(number);
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        if let Err(error) =
            file.set_len(0).and_then(|()| (&file).write_all(MAGIC)).and_then(|()| sync_folder(&self.folder))
        {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let file = Arc::new(file);
        self.segments.push_back(Segment { number, bytes: count(MAGIC.len()), unread: 0, reader: None });
        self.active = Some(Arc::clone(&file));
        Ok(file)
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes() + bytes + count(MAGIC.len()) > self.limit_bytes {
            let Some(oldest) = self.segments.front() else { return };
            let number = oldest.number;
            self.losses.overflow += oldest.unread;
            self.note_under_way(number);
            if self.segments.len() == 1 {
                self.active = None;
            }
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = self.segments.pop_front() {
            let path = self.path(oldest.number);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, file = %path.display(), "cannot delete what was sent on or dropped");
            }
        }
    }

    /// The next request, which stays until it is told as [`Self::delivered`].
    pub(super) fn take(&mut self) -> Option<Taken> {
        self.lock.as_ref()?;
        loop {
            let read = self.read;
            let folder = self.folder.clone();
            let segment =
                self.segments.iter_mut().find(|segment| segment.number >= read.segment && segment.unread > 0)?;
            let start =
                if segment.number == read.segment { read.offset.max(count(MAGIC.len())) } else { count(MAGIC.len()) };
            match next(segment, &folder, start) {
                Ok(Some((request, offset))) => {
                    segment.unread -= 1;
                    let end = Position { segment: segment.number, offset };
                    self.read = end;
                    self.under_way.push_back(end);
                    return Some(Taken { request, end });
                }
                damaged => {
                    // What follows a damaged frame cannot be found.
                    let error = damaged.err().map(|error| error.to_string());
                    tracing::error!(
                        segment = segment.number,
                        at = start,
                        requests = segment.unread,
                        error,
                        "requests that wait to be sent on cannot be read: they are dropped there"
                    );
                    self.losses.disk += segment.unread;
                    segment.unread = 0;
                    self.read = Position { segment: segment.number, offset: segment.bytes };
                }
            }
        }
    }

    /// Everything up to there was taken by the other side, or refused for good.
    pub(super) fn delivered(&mut self, end: Position) {
        if self.lock.is_none() {
            return;
        }
        self.under_way.retain(|under_way| *under_way > end);
        let oldest = self.segments.front().map_or(u64::MAX, |segment| segment.number);
        if self.noted && self.under_way.iter().all(|under_way| under_way.segment >= oldest) {
            self.noted = std::fs::remove_file(self.folder.join(UNDER_WAY_FILE)).is_err();
        }
        // Not synced: an older place after a power cut sends again what was delivered, and loses nothing.
        if let Err(error) = self.cursor.write_all_at(&end.bytes(), 0) {
            tracing::warn!(%error, "cannot note what was sent on: it is sent again after a restart");
        }
        while let Some(oldest) = self.segments.front() {
            let is_written = self.segments.len() == 1 && self.active.is_some();
            let done = oldest.number < end.segment || (oldest.number == end.segment && oldest.bytes <= end.offset);
            if !done || oldest.unread > 0 || is_written {
                return;
            }
            self.remove_oldest();
        }
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Requests that were not handed out.
    pub(super) fn unread(&self) -> u64 {
        self.segments.iter().map(|segment| segment.unread).sum()
    }

    pub(super) fn losses(&self) -> Losses {
        self.losses
    }

    /// Gives the folder up; nothing is read or written any more.
    pub(super) fn release(&mut self) {
        self.lock = None;
        self.active = None;
    }
}

fn next(segment: &mut Segment, folder: &Path, at: u64) -> io::Result<Option<(Request, u64)>> {
    let file = match segment.reader.take() {
        Some(file) => file,
        None => File::open(folder.join(format!("{:020}.{EXTENSION}", segment.number)))?,
    };
    let found = segment::read_at(&file, at, segment.bytes)?;
    segment.reader = Some(file);
    Ok(found)
}

/// Bytes of a place as it is written: two numbers and their checksum.
const POSITION_BYTES: usize = 20;

impl Position {
    fn bytes(self) -> [u8; POSITION_BYTES] {
        let mut bytes = [0; POSITION_BYTES];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; POSITION_BYTES]) -> Option<Self> {
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        let whole = crc32fast::hash(&bytes[..16]).to_le_bytes() == bytes[16..];
        whole.then(|| Self { segment: number(0), offset: number(8) })
    }
}

fn read_cursor(file: &File) -> Position {
    let mut bytes = [0; POSITION_BYTES];
    let read = file.read_exact_at(&mut bytes, 0).ok();
    read.and_then(|()| Position::read(&bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
