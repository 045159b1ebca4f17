//! The only truth about which files exist: a file that it does not name is not part of the store, whatever lies on
//! the disk.
//!
//! One JSON file, replaced whole: it is small since compaction bounds the number of files, and a journal would need a
//! reader that can be wrong. It also holds what the log is no longer asked for: how far each table is sealed, which rows
//! before that still wait for their root, and the ledger's sum.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lariat_schema::ids::StoreId;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use serde::{Deserialize, Serialize};

use super::derived::DerivedEntry;
use super::directory::{install, stage};
use super::gone::GoneBook;
use super::{RequestIds, SealedFile, Weights};
use crate::attendance::Attendance;
use crate::dedup::KeyCut;
use crate::ledger::Line;
use crate::sequences::Sequences;

/// Its name below the data directory.
pub(crate) const MANIFEST_FILE: &str = "manifest.json";
/// Bytes read at a time when a checksum is compared.
const VERIFY_BUFFER_BYTES: usize = 1 << 18;

/// One sealed file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// Below the Parquet folder.
    pub(crate) path: String,
    pub(crate) table: Table,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) crc32: u32,
    /// Event times of its rows.
    pub(crate) times: TimeRange,
    /// Commit times of its rows.
    pub(crate) commits: TimeRange,
    /// Files that its rows stood in before, as long as these may still lie on the disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) replaces: Vec<String>,
    /// How often its rows were merged: files of one level are merged with each other.
    #[serde(default)]
    pub(crate) level: u8,
    /// It is not merged again, and so may be uploaded.
    #[serde(default, rename = "final")]
    pub(crate) is_final: bool,
    /// When the bucket was known to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uploaded_unix_nanos: Option<i64>,
    /// Its local copy was given up for space: only the bucket has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) only_in_bucket: bool,
    /// What sampling did to its rows; `None` in entries that are older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weights: Option<Weights>,
    /// The request ids of its rows; `None` in entries that are older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_ids: Option<RequestIds>,
}

impl FileEntry {
    /// True if it lies on this disk.
    pub(crate) fn is_local(&self) -> bool {
        !self.only_in_bucket
    }

    #[cfg(test)]
    pub(crate) fn for_test(table: Table, path: &str, bytes: u64) -> Self {
        let (path, times) = (path.to_owned(), TimeRange::new(0, 1));
        Self {
            path,
            table,
            bytes,
            rows: 1,
            crc32: 0,
            times,
            commits: times,
            replaces: Vec::new(),
            level: 0,
            is_final: false,
            uploaded_unix_nanos: None,
            only_in_bucket: false,
            weights: None,
            request_ids: None,
        }
    }
}

/// First entry of the log that is not in the files, by table. Both are the same since rows that wait for their root are
/// named one by one; in manifests that are older the spans' cut stood before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cuts {
    pub(crate) spans: u64,
    /// Of all other tables, which wait for nothing.
    pub(crate) others: u64,
}

impl Cuts {
    pub(crate) const NONE: Self = Self { spans: 0, others: 0 };

    pub(crate) fn of(self, table: Table) -> u64 {
        if table == Table::Spans { self.spans } else { self.others }
    }

    /// True if files and manifest hold all that came of this entry.
    pub(crate) fn hold(self, lsn: u64, table: Table) -> bool {
        lsn < self.of(table) && lsn < self.others && lsn < self.spans
    }
}

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) store_id: StoreId,
    /// Next number for a file; none is used twice.
    pub(crate) next_sequence: u64,
    pub(crate) cuts: Cuts,
    /// Highest commit time given out.
    pub(crate) last_commit_unix_nanos: i64,
    /// Leaps of the clock that are in it.
    #[serde(default)]
    pub(crate) jumped_nanos: i64,
    /// Rows of entries before the cut that stood in no file since they waited for their root: entry, and which of its rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) waiting: Vec<(u64, Vec<usize>)>,
    /// Where in the log the dedup keys are.
    #[serde(default)]
    pub(crate) keys: KeyCut,
    /// What a start reads in place of the log before the cut; `None` where it could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<CheckpointEntry>,
    /// Sum of the ledger's entries before `cuts.spans`.
    pub(crate) ledger: Vec<Line>,
    pub(crate) sequences: Sequences,
    /// Absent in manifests of stores that did not record it.
    #[serde(default)]
    pub(crate) attendance: Attendance,
    pub(crate) files: Vec<FileEntry>,
    /// Files of longer cells, made of others: none of their rows counts as one. Older versions know nothing of them, and
    /// remove what they find.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) derived: Vec<DerivedEntry>,
    /// Time whose rows are gone.
    #[serde(default)]
    pub(crate) gone: GoneBook,
    /// Commit times up to which the files hold everything; `None` in manifests that are older than this.
    #[serde(default)]
    pub(crate) cut_commits: Option<CutCommits>,
}

/// The file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointEntry {
    /// Below the folder of checkpoints.
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Commit time of the first entry of the log that may not be in the files, by table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CutCommits {
    pub(crate) spans_unix_nanos: i64,
    pub(crate) others_unix_nanos: i64,
}

impl CutCommits {
    pub(crate) fn of(self, table: Table) -> i64 {
        if table == Table::Spans { self.spans_unix_nanos } else { self.others_unix_nanos }
    }
}

impl Manifest {
    pub(crate) fn new(store_id: StoreId) -> Self {
        Self {
            store_id,
            next_sequence: 1,
            cuts: Cuts::NONE,
            last_commit_unix_nanos: 0,
            jumped_nanos: 0,
            waiting: Vec::new(),
            keys: KeyCut::default(),
            checkpoint: None,
            ledger: Vec::new(),
            sequences: Sequences::default(),
            attendance: Attendance::default(),
            files: Vec::new(),
            derived: Vec::new(),
            gone: GoneBook::default(),
            cut_commits: None,
        }
    }

    /// Reads it; a new directory has none.
    pub(crate) fn load(root: &Path, store_id: StoreId) -> Result<Self, ManifestError> {
        let path = root.join(MANIFEST_FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| ManifestError::Content { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::new(store_id)),
            Err(source) => Err(ManifestError::Read { path, source }),
        }
    }

    /// Puts it in place, durably.
    pub(crate) fn save(&self, root: &Path) -> Result<(), NotSaved> {
        let unsaved = |source| NotSaved { may_be_in_force: false, source };
        let bytes = serde_json::to_vec(self).map_err(|error| unsaved(io::Error::other(error)))?;
        let path = root.join(MANIFEST_FILE);
        let temporary = stage(&path, &bytes).map_err(unsaved)?;
        install(&temporary, &path).map_err(|source| NotSaved { may_be_in_force: true, source })
    }

    /// Length and checksum of a file on this disk, whatever it holds.
    pub(crate) fn checksum(&self, path: &str) -> Option<(u64, u32)> {
        let cells = || self.derived.iter().find(|entry| entry.path == path).map(|entry| (entry.bytes, entry.crc32));
        match self.names(path) {
            Some(entry) => entry.is_local().then_some((entry.bytes, entry.crc32)),
            None => cells(),
        }
    }

    /// Takes longer cells off the list that are not there as they were written: they are made anew.
    pub(crate) fn forget_missing_cells(&mut self, parquet: &Path) {
        self.derived.retain(|entry| match length(&parquet.join(&entry.path), entry.bytes) {
            Ok(()) => true,
            Err(fault) => {
                tracing::warn!(file = entry.path, %fault, "a file of longer cells is made anew");
                false
            }
        });
    }

    /// The entry of a file.
    pub(crate) fn names(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|entry| entry.path == path)
    }
}

/// The manifest could not be put in place.
#[derive(Debug)]
pub(crate) struct NotSaved {
    /// True where a restart may find it all the same: then the files that it names must stay.
    pub(crate) may_be_in_force: bool,
    pub(crate) source: io::Error,
}

/// Why the manifest cannot be read. It is written atomically, so this is a fault of the disk or of a hand.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is there and cannot be read.
    #[error("cannot read the manifest {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("the manifest {path} is damaged: {source}; restore it, or move the data directory away to start anew")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// A sealed file that readers may hold.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    pub(crate) entry: FileEntry,
    pub(crate) file: Arc<SealedFile>,
}

impl Pinned {
    pub(crate) fn new(parquet: &Path, entry: FileEntry) -> Self {
        let file = Arc::new(SealedFile {
            path: if entry.is_local() { parquet.join(&entry.path) } else { PathBuf::from(&entry.path) },
            bytes: entry.bytes,
            rows: entry.rows,
            times: entry.times,
            only_in_bucket: entry.only_in_bucket,
            weights: entry.weights,
            request_ids: entry.request_ids,
        });
        Self { entry, file }
    }
}

/// The files of readers, by table.
type Readable = BTreeMap<Table, Vec<Pinned>>;

/// The files of readers, and those that the manifest names and that are not there or have another length.
/// Content is not looked at: a start must not take longer the more there is; checksums are compared afterwards.
pub(crate) fn open_files(parquet: &Path, manifest: &Manifest) -> (Readable, Vec<(FileEntry, Fault)>) {
    let mut files = Readable::new();
    let mut faulty = Vec::new();
    for entry in &manifest.files {
        match if entry.is_local() { length(&parquet.join(&entry.path), entry.bytes) } else { Ok(()) } {
            Ok(()) => files.entry(entry.table).or_default().push(Pinned::new(parquet, entry.clone())),
            Err(fault) => faulty.push((entry.clone(), fault)),
        }
    }
    remove_unnamed(parquet, manifest);
    (files, faulty)
}

/// What is wrong with a sealed file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it has {found} bytes instead of {wanted}")]
    Length { found: u64, wanted: u64 },
    #[error("its checksum is {found:08x} instead of {wanted:08x}")]
    Checksum { found: u32, wanted: u32 },
}

impl Fault {
    /// False where the same look may succeed later, as when descriptors ran out.
    pub(crate) fn lasts(&self) -> bool {
        match self {
            Self::Unreadable(error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            }
            Self::Length { .. } | Self::Checksum { .. } => true,
        }
    }
}

fn length(path: &Path, wanted: u64) -> Result<(), Fault> {
    let found = std::fs::metadata(path)?.len();
    if found == wanted { Ok(()) } else { Err(Fault::Length { found, wanted }) }
}

/// Reads a whole file and compares it with what the manifest says of it.
pub(crate) fn verify(path: &Path, bytes: u64, crc32: u32) -> Result<(), Fault> {
    length(path, bytes)?;
    let mut file = std::fs::File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; VERIFY_BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    let found = hasher.finalize();
    if found == crc32 { Ok(()) } else { Err(Fault::Checksum { found, wanted: crc32 }) }
}

/// Files of a seal or compaction that did not come to its end, or that were replaced while somebody read them.
fn remove_unnamed(parquet: &Path, manifest: &Manifest) {
    let cells = manifest.derived.iter().map(|entry| &entry.path);
    let named: std::collections::HashSet<PathBuf> =
        manifest.files.iter().map(|entry| &entry.path).chain(cells).map(|path| parquet.join(path)).collect();
    let mut folders = vec![parquet.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet" || extension == "tmp")
                && !named.contains(&path)
            {
                tracing::info!(file = %path.display(), "removed a file that the manifest does not name");
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(file = %path.display(), %error, "cannot remove it");
                }
            }
        }
    }
}
