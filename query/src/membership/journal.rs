//! The file behind the memory of members: lines of JSON that are only ever appended, each synced before it counts. A last
//! line that a crash cut short is cut off; when the file has become long it is written anew, with one line per member,
//! beside the old one and put in its place in one step.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lariat_schema::ids::{NodeId, Region, StoreId};
use serde::Deserialize;

use super::Event;

/// The file, below the query service's data directory.
pub const MEMBERSHIP_FILE: &str = "membership.jsonl";

/// Lines beyond which the file is written anew, plus two for each member: about a megabyte.
const LONG_LINES: usize = 4_096;

/// The memory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The file cannot be opened, read or appended to.
    #[error("membership file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A line, as it is written now and as it was before events had names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Event),
    Member(OldMember),
}

#[derive(Deserialize)]
struct OldMember {
    store_id: StoreId,
    node_id: NodeId,
    region: Region,
    address: String,
    since_unix_nanos: i64,
    last_seen_unix_nanos: i64,
}

impl From<Line> for Event {
    fn from(line: Line) -> Self {
        match line {
            Line::Event(event) => event,
            Line::Member(old) => Self::Seen {
                at_unix_nanos: old.last_seen_unix_nanos,
                store_id: old.store_id,
                node_id: old.node_id,
                region: old.region,
                address: old.address,
                boot_id: None,
                started_unix_nanos: old.since_unix_nanos,
                since_unix_nanos: old.since_unix_nanos,
            },
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Journal {
    /// Opens it and reads what is there. A whole line that cannot be read is left out and stays.
    pub(super) fn open(data_dir: &Path) -> Result<(Self, Vec<Event>), MembershipError> {
        let path = data_dir.join(MEMBERSHIP_FILE);
        let failed = |source| MembershipError::File { path: path.clone(), source };
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        if whole < bytes.len() {
            tracing::warn!(bytes = bytes.len() - whole, "the end of the membership file was cut short and is cut off");
            file.set_len(whole as u64).and_then(|()| file.sync_data()).map_err(failed)?;
        }
        let mut events = Vec::new();
        let mut lines = 0;
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines += 1;
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => events.push(line.into()),
                Err(error) => tracing::warn!(%error, "a line of the membership file cannot be read and is left out"),
            }
        }
        Ok((Self { path, file, lines }, events))
    }

    /// Writes one event, durably.
    pub(super) fn append(&mut self, event: &Event) -> Result<(), MembershipError> {
        let written = line(event).and_then(|line| self.file.write_all(&line)).and_then(|()| self.file.sync_data());
        self.lines += 1;
        written.map_err(|source| self.failed(source))
    }

    /// True if it should be written anew for so many members.
    pub(super) fn is_long(&self, members: usize) -> bool {
        self.lines > LONG_LINES + 2 * members
    }

    /// Puts these events in place of all that was written.
    pub(super) fn replace(&mut self, events: &[Event]) -> Result<(), MembershipError> {
        self.lines = events.len();
        self.rewrite(events).map_err(|source| self.failed(source))
    }

    fn rewrite(&mut self, events: &[Event]) -> io::Result<()> {
        let beside = self.path.with_extension("jsonl.new");
        let mut file = File::create(&beside)?;
        for event in events {
            file.write_all(&line(event)?)?;
        }
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> MembershipError {
        MembershipError::File { path: self.path.clone(), source }
    }
}

fn line(event: &Event) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}
