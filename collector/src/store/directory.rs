//! A store's data directory: one process at a time, one identity for ever.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lariat_schema::ids::StoreId;
use lariat_schema::layout::{LOG_DIR, PARQUET_DIR, QUARANTINE_DIR, STORE_ID_FILE};

use parking_lot::Mutex;

use crate::log::segment::sync_folder;

/// Folder of dedup keys that left memory.
const DEDUP_DIR: &str = "dedup";
/// Folder of what a start reads in place of the log.
const CHECKPOINT_DIR: &str = "checkpoint";
/// File that a process holds locked as long as it owns the directory.
const LOCK_FILE: &str = "lock";

/// Why a data directory cannot be used. Each is for the operator to cure; none cures itself.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("the data directory {path} is in use by another process: stop it, or choose another `data_dir`")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made or written.
    #[error("cannot use the data directory: {path}: {source}; make it writable, or choose another `data_dir`")]
    Unusable {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its identity cannot be read.
    #[error("{path} holds `{found}`, which is no store id: restore the file, or move the directory away")]
    Identity {
        /// The file.
        path: PathBuf,
        /// Its content.
        found: String,
    },
}

/// An owned data directory; the ownership ends with [`Self::release`], or when this is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) root: PathBuf,
    pub(crate) store_id: StoreId,
    lock: Mutex<Option<File>>,
}

impl Directory {
    /// Takes the directory, making it and its identity if they are new.
    pub(crate) fn open(root: &Path) -> Result<Self, DirectoryError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Unusable { path, source }
        };
        std::fs::create_dir_all(root).map_err(unusable(root))?;
        let root = root.canonicalize().map_err(unusable(root))?;
        let lock_path = root.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(unusable(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::Locked { path: root }),
            Err(TryLockError::Error(source)) => return Err(DirectoryError::Unusable { path: lock_path, source }),
        }
        for folder in [LOG_DIR, PARQUET_DIR] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(unusable(&folder))?;
        }
        let store_id = identity(&root)?;
        Ok(Self { root, store_id, lock: Mutex::new(Some(lock)) })
    }

    /// Gives the directory up: readers may hold this value longer than anybody writes.
    pub(crate) fn release(&self) {
        *self.lock.lock() = None;
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join(LOG_DIR)
    }

    pub(crate) fn dedup(&self) -> PathBuf {
        self.root.join(DEDUP_DIR)
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join(CHECKPOINT_DIR)
    }

    pub(crate) fn parquet(&self) -> PathBuf {
        self.root.join(PARQUET_DIR)
    }

    /// Moves a sealed file out of the store, under a name that says where it lay.
    pub(crate) fn quarantine(&self, path: &Path) -> io::Result<()> {
        let folder = self.root.join(QUARANTINE_DIR);
        std::fs::create_dir_all(&folder)?;
        let parquet = self.parquet();
        let name = path.strip_prefix(&parquet).unwrap_or(path).to_string_lossy().replace('/', "_");
        match std::fs::rename(path, folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Files in quarantine.
    pub(crate) fn quarantined(&self) -> usize {
        std::fs::read_dir(self.root.join(QUARANTINE_DIR)).map_or(0, Iterator::count)
    }
}

fn identity(root: &Path) -> Result<StoreId, DirectoryError> {
    let path = root.join(STORE_ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| DirectoryError::Identity { path, found: text.trim().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = StoreId(uuid::Uuid::new_v4());
            write_durably(&path, format!("{id}\n").as_bytes())
                .map_err(|source| DirectoryError::Unusable { path, source })?;
            Ok(id)
        }
        Err(source) => Err(DirectoryError::Unusable { path, source }),
    }
}

/// Puts a whole file in place: readers see the old content or the new, also after a crash.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    install(&stage(path, bytes)?, path)
}

/// Writes the content beside its place, durably. On an error nothing has changed.
pub(crate) fn stage(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

/// Puts staged content in its place. After an error a restart may find the old content or the new.
pub(crate) fn install(temporary: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_identity_and_belongs_to_one_owner_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = Directory::open(root.path()).unwrap();
        assert!(matches!(Directory::open(root.path()), Err(DirectoryError::Locked { .. })));
        let id = first.store_id;
        drop(first);
        assert_eq!(Directory::open(root.path()).unwrap().store_id, id);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named_in_the_error() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = Directory::open(&file.join("data")).unwrap_err().to_string();
        assert!(error.contains("file/data") && error.contains("data_dir"), "{error}");
    }
}
