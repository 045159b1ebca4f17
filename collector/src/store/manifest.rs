//! The only truth about which files exist: a file that it does not name is not part of the store, whatever lies on
//! the disk.
//!
//! One JSON file, replaced whole: it is small since compaction bounds the number of files, and a journal would need a
//! reader that can be wrong. It also holds what the log is no longer asked for: how far each table is sealed, and the
//! ledger's sum.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lariat_schema::ids::StoreId;
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use serde::{Deserialize, Serialize};

use super::SealedFile;
use super::directory::write_durably;
use crate::ledger::Line;
use crate::node_status::Sequences;

/// Its name below the data directory.
pub(crate) const MANIFEST_FILE: &str = "manifest.json";

/// One sealed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Files that its rows stood in before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) replaces: Vec<String>,
}

/// First entry of the log that is not in the files, by table.
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
    /// Sum of the ledger's entries before `cuts.spans`.
    pub(crate) ledger: Vec<Line>,
    pub(crate) sequences: Sequences,
    pub(crate) files: Vec<FileEntry>,
}

impl Manifest {
    pub(crate) fn new(store_id: StoreId) -> Self {
        Self {
            store_id,
            next_sequence: 1,
            cuts: Cuts::NONE,
            last_commit_unix_nanos: 0,
            ledger: Vec::new(),
            sequences: Sequences::default(),
            files: Vec::new(),
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
    pub(crate) fn save(&self, root: &Path) -> io::Result<()> {
        write_durably(&root.join(MANIFEST_FILE), &serde_json::to_vec_pretty(self).map_err(io::Error::other)?)
    }
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
            path: parquet.join(&entry.path),
            bytes: entry.bytes,
            rows: entry.rows,
            times: entry.times,
        });
        Self { entry, file }
    }
}

/// The files that the manifest names and that can be read, by table. One that cannot is set aside under another name:
/// the rest is served without it.
pub(crate) fn open_files(parquet: &Path, manifest: &mut Manifest) -> BTreeMap<Table, Vec<Pinned>> {
    let mut files: BTreeMap<Table, Vec<Pinned>> = BTreeMap::new();
    manifest.files.retain(|entry| match check(&parquet.join(&entry.path), entry) {
        Ok(()) => {
            files.entry(entry.table).or_default().push(Pinned::new(parquet, entry.clone()));
            true
        }
        Err(fault) => {
            let path = parquet.join(&entry.path);
            tracing::error!(file = %path.display(), table = %entry.table, rows = entry.rows, from = entry.times.from_unix_nanos,
                to = entry.times.to_unix_nanos, %fault, "a sealed file cannot be read: its rows are lost, the rest is served");
            if path.exists() {
                let aside = path.with_extension("parquet.corrupt");
                if let Err(error) = std::fs::rename(&path, &aside) {
                    tracing::error!(file = %path.display(), %error, "cannot set the file aside");
                }
            }
            false
        }
    });
    remove_unnamed(parquet, manifest);
    files
}

fn check(path: &Path, entry: &FileEntry) -> Result<(), String> {
    let bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes != entry.bytes {
        return Err(format!("it has {bytes} bytes instead of {}", entry.bytes));
    }
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
    let rows = reader.metadata().file_metadata().num_rows();
    if rows != crate::columns::signed(entry.rows) {
        return Err(format!("it has {rows} rows instead of {}", entry.rows));
    }
    Ok(())
}

/// Files of a seal or compaction that did not come to its end, or that were replaced while somebody read them.
fn remove_unnamed(parquet: &Path, manifest: &Manifest) {
    let named: std::collections::HashSet<PathBuf> =
        manifest.files.iter().map(|entry| parquet.join(&entry.path)).collect();
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
