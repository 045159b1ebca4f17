//! The ledger of a load: one line for each request that was acknowledged, on disk before the load goes on. A test kills
//! the collector, reads the ledger, and asks for every span in it. Lines are fsynced in groups, since one fsync for
//! each would pace the load by this disk.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines that wait for the disk; a load whose disk is slower than that waits.
const LINES_WAITING: usize = 4_096;
/// Lines written between two fsyncs at most.
const LINES_PER_SYNC: usize = 1_024;

/// One acknowledged request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLine {
    /// Number of the request.
    pub request: u64,
    /// Trace id of its first unit.
    pub first_trace_id: [u8; 16],
    /// Spans in it.
    pub spans: u32,
    /// How many of them the receiver said it rejected.
    pub rejected: u32,
}

/// A ledger that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be made, written or read.
    #[error("ledger {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is none of ours.
    #[error("ledger {path}, line {line}: expected `request trace_id spans rejected`")]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
    },
}

impl LedgerLine {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let request = parts.next()?.parse().ok()?;
        let mut first_trace_id = [0; 16];
        hex::decode_to_slice(parts.next()?, &mut first_trace_id).ok()?;
        let spans = parts.next()?.parse().ok()?;
        let rejected = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { request, first_trace_id, spans, rejected })
    }
}

/// Reads a ledger. A last line without its end is still being written, and left out.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn read(path: &Path) -> Result<Vec<LedgerLine>, LedgerError> {
    let text = std::fs::read_to_string(path).map_err(|source| LedgerError::Io { path: path.to_owned(), source })?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let bad = |i| LedgerError::Line { path: path.to_owned(), line: i + 1 };
    whole.lines().enumerate().map(|(i, line)| LedgerLine::parse(line).ok_or_else(|| bad(i))).collect()
}

/// A ledger being written, by a thread of its own.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    writer: JoinHandle<io::Result<()>>,
    lines: SyncSender<LedgerLine>,
}

impl Ledger {
    pub(crate) fn create(path: &Path) -> Result<Self, LedgerError> {
        let io_error = |source| LedgerError::Io { path: path.to_owned(), source };
        let file = File::create(path).map_err(io_error)?;
        let (lines, waiting) = sync_channel(LINES_WAITING);
        let writer = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || write(file, &waiting));
        Ok(Self { path: path.to_owned(), writer: writer.map_err(io_error)?, lines })
    }

    pub(crate) fn lines(&self) -> SyncSender<LedgerLine> {
        self.lines.clone()
    }

    /// Waits until everything is on disk; every other sender must be gone.
    pub(crate) fn finish(self) -> Result<(), LedgerError> {
        drop(self.lines);
        let written = self.writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer ended early")));
        written.map_err(|source| LedgerError::Io { path: self.path, source })
    }
}

fn write(file: File, waiting: &Receiver<LedgerLine>) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    while let Ok(first) = waiting.recv() {
        for line in std::iter::once(first).chain(waiting.try_iter()).take(LINES_PER_SYNC) {
            writeln!(out, "{} {} {} {}", line.request, hex::encode(line.first_trace_id), line.spans, line.rejected)?;
        }
        out.flush()?;
        out.get_ref().sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_save_a_torn_end_and_a_bad_line_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let ledger = Ledger::create(&path).unwrap();
        let line = |request| LedgerLine { request, first_trace_id: [7; 16], spans: 100, rejected: 3 };
        let sender = ledger.lines();
        (0..3_000).for_each(|request| sender.send(line(request)).unwrap());
        drop(sender);
        ledger.finish().unwrap();
        assert_eq!(read(&path).unwrap(), (0..3_000).map(line).collect::<Vec<_>>());
        let torn = std::fs::read_to_string(&path).unwrap() + "3000 0707";
        std::fs::write(&path, torn).unwrap();
        assert_eq!(read(&path).unwrap().len(), 3_000);
        std::fs::write(&path, "1 abc\n").unwrap();
        assert!(matches!(read(&path), Err(LedgerError::Line { line: 1, .. })));
    }
}
