//! Final files into the bucket, one after the other, the oldest first, each exactly once.
//!
//! A file is put only where nothing is, and written down as uploaded only when that is known. Where the answer was lost,
//! the next attempt finds an object in its place and compares it: the same bytes are ours. A large file goes in parts
//! whose progress is on disk, so that neither a lost connection nor a restart begins it again. With the bucket away the
//! node goes on; the pause grows, and the disk budget decides what stays meanwhile.

use std::io::{self, Read as _, Seek as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use lariat_schema::bucket::StoreManifest;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error as BucketFault, MultipartUpload as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, manifest_of};
use super::core::Core;
use super::directory::write_durably;
use super::manifest::{Fault, FileEntry, verify};

/// Bytes of a part: held in memory once, and sent again whole when a connection breaks. Files of up to two go in one piece.
const PART_BYTES: u64 = 8 << 20;
/// Attempts at a part that a bucket which answers does not take, before the upload begins anew.
const FAILED_PARTS: u32 = 3;
/// Where the progress of the file under way stands, below the data directory.
const PROGRESS_FILE: &str = "upload.json";
/// Pause when there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// Pauses after failures: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Pause between two versions of the store's manifest in the bucket.
const MANIFEST_EVERY: Duration = Duration::from_secs(10);

/// Why a file is not in the bucket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the file is damaged: {0}")]
    Damaged(Fault),
    #[error("the file cannot be read: {0}")]
    Local(#[from] io::Error),
    #[error("the bucket holds something else under its name")]
    Conflict,
    #[error("the bucket: {0}")]
    Bucket(#[from] BucketFault),
}

/// How far a file in parts is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    path: String,
    crc32: u32,
    upload: String,
    parts: Vec<String>,
}

/// Works until `ending` says that no file will follow, and then until all are there or the bucket takes none.
pub(crate) async fn keep_uploading(core: Arc<Core>, bucket: Arc<Bucket>, ending: CancellationToken) {
    let mut uploader = Uploader::new(core, bucket);
    let mut backoff = BACKOFF.0;
    while !ending.is_cancelled() {
        let pause = match uploader.step().await {
            Ok(true) => Duration::ZERO,
            Ok(false) => {
                backoff = BACKOFF.0;
                IDLE
            }
            Err(error) => {
                tracing::warn!(%error, pause_ms = backoff.as_millis(), "cannot upload: it is tried again");
                uploader.core.counters.upload_failures.fetch_add(1, Ordering::Relaxed);
                let pause = backoff;
                backoff = (backoff * 2).min(BACKOFF.1);
                pause
            }
        };
        tokio::select! {
            () = ending.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Err(error) = uploader.finish().await {
        let files = uploader.waiting().len();
        tracing::warn!(%error, files, "the last files are not in the bucket: the next start uploads them");
    }
}

/// Uploads one file after another.
pub(crate) struct Uploader {
    core: Arc<Core>,
    bucket: Arc<Bucket>,
    /// What the bucket's manifest says, apart from when.
    said: Option<StoreManifest>,
    said_at: Option<tokio::time::Instant>,
    /// Files whose place is taken by something else. They stay here; an operator has to look.
    refused: Vec<String>,
    pub(crate) part_bytes: u64,
    /// Parts in a row that a bucket which answers did not take.
    failed_parts: AtomicU32,
}

impl Uploader {
    pub(crate) fn new(core: Arc<Core>, bucket: Arc<Bucket>) -> Self {
        Self {
            core,
            bucket,
            said: None,
            said_at: None,
            refused: Vec::new(),
            part_bytes: PART_BYTES,
            failed_parts: AtomicU32::new(0),
        }
    }

    /// Uploads the next file, or what the store says of itself; false if there is nothing to do.
    pub(crate) async fn step(&mut self) -> Result<bool, UploadError> {
        let waiting = self.waiting();
        self.core.counters.upload_waiting.store(crate::columns::count(waiting.len()), Ordering::Relaxed);
        let Some(entry) = waiting.into_iter().next() else {
            self.tell(true).await?;
            return Ok(false);
        };
        let span = tracing::info_span!("upload", table = %entry.table, bytes = entry.bytes);
        let uploaded = tracing::Instrument::instrument(self.upload(&entry), span).await;
        match uploaded {
            Ok(()) => {
                self.core.counters.uploads.fetch_add(1, Ordering::Relaxed);
                self.core.counters.upload_bytes.fetch_add(entry.bytes, Ordering::Relaxed);
                self.on_disk(move |core| core.uploaded(&entry)).await;
                self.tell(false).await?;
                Ok(true)
            }
            Err(UploadError::Damaged(fault)) => {
                self.on_disk(move |core| {
                    let _one = core.tending.lock();
                    core.set_aside(&entry, &fault)
                })
                .await;
                Ok(true)
            }
            Err(error @ UploadError::Conflict) => {
                tracing::error!(file = entry.path, %error, "a file stays on this disk only");
                self.core.counters.upload_conflicts.fetch_add(1, Ordering::Relaxed);
                self.refused.push(entry.path);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Uploads what is left, and tells how far the store goes now.
    async fn finish(&mut self) -> Result<(), UploadError> {
        self.said_at = None;
        while self.step().await? {}
        Ok(())
    }

    /// Files to be uploaded, the oldest first.
    fn waiting(&self) -> Vec<FileEntry> {
        let manifest = self.core.manifest.lock();
        let wanted = |file: &&FileEntry| {
            file.is_final && file.is_local() && file.uploaded_unix_nanos.is_none() && !self.refused.contains(&file.path)
        };
        let mut waiting: Vec<FileEntry> = manifest.files.iter().filter(wanted).cloned().collect();
        waiting.sort_by(|a, b| (a.times.to_unix_nanos, &a.path).cmp(&(b.times.to_unix_nanos, &b.path)));
        waiting
    }

    async fn on_disk(&self, work: impl FnOnce(&Core) -> Result<(), super::write::SealError> + Send + 'static) {
        let core = Arc::clone(&self.core);
        match tokio::task::spawn_blocking(move || work(&core)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot write down what was uploaded: it is found there again"),
            Err(error) => tracing::error!(%error, "the writing down of an upload ended early"),
        }
    }

    async fn upload(&self, entry: &FileEntry) -> Result<(), UploadError> {
        let path = self.core.directory.parquet().join(&entry.path);
        let checked = {
            let (path, entry) = (path.clone(), entry.clone());
            blocking(move || Ok(verify(&path, entry.bytes, entry.crc32))).await?
        };
        match checked {
            Err(fault) if fault.lasts() => return Err(UploadError::Damaged(fault)),
            Err(fault) => return Err(UploadError::Local(io::Error::other(fault))),
            Ok(()) => {}
        }
        let key = self.bucket.key(&entry.path);
        if entry.bytes <= 2 * self.part_bytes {
            let bytes = read_part(path, 0, entry.bytes).await?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            return match self.bucket.objects.put_opts(&key, bytes, options).await {
                Ok(_) => Ok(()),
                Err(BucketFault::AlreadyExists { .. }) => self.compare(&key, entry).await,
                Err(error) => Err(error.into()),
            };
        }
        match self.bucket.objects.head(&key).await {
            Ok(_) => return self.compare(&key, entry).await,
            Err(BucketFault::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match &self.bucket.multipart {
            Some(multipart) => self.in_parts(multipart.as_ref(), &key, path, entry).await,
            None => self.in_one_go(&key, path, entry).await,
        }
    }

    /// The object under a file's name is the file if it has its size and checksum.
    async fn compare(&self, key: &Path, entry: &FileEntry) -> Result<(), UploadError> {
        let found = self.bucket.objects.get(key).await?;
        if found.meta.size != entry.bytes {
            return Err(UploadError::Conflict);
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut stream = found.into_stream();
        while let Some(bytes) = stream.next().await {
            hasher.update(&bytes?);
        }
        if hasher.finalize() == entry.crc32 { Ok(()) } else { Err(UploadError::Conflict) }
    }

    /// Parts with their progress on disk.
    async fn in_parts(
        &self,
        multipart: &dyn MultipartStore,
        key: &Path,
        path: PathBuf,
        entry: &FileEntry,
    ) -> Result<(), UploadError> {
        let mut progress = match self.progress().await {
            Some(progress) if progress.path == entry.path && progress.crc32 == entry.crc32 => progress,
            _ => {
                let upload = multipart.create_multipart(key).await?;
                Progress { path: entry.path.clone(), crc32: entry.crc32, upload, parts: Vec::new() }
            }
        };
        self.remember(&progress).await?;
        loop {
            let index = progress.parts.len();
            let from = crate::columns::count(index).saturating_mul(self.part_bytes);
            if from >= entry.bytes {
                break;
            }
            let bytes = read_part(path.clone(), from, self.part_bytes.min(entry.bytes - from)).await?;
            match multipart.put_part(key, &progress.upload, index, bytes).await {
                Ok(part) => progress.parts.push(part.content_id),
                Err(error) => return self.stuck(key, entry, error).await,
            }
            self.failed_parts.store(0, Ordering::Relaxed);
            self.core.counters.upload_parts.fetch_add(1, Ordering::Relaxed);
            self.remember(&progress).await?;
        }
        let parts = progress.parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
        match multipart.complete_multipart(key, &progress.upload, parts).await {
            Ok(_) => self.forget().await,
            Err(error) => self.stuck(key, entry, error).await,
        }
    }

    /// A part or the end of an upload was not taken. Stores differ in how they say that they know nothing of an upload,
    /// so the object itself is looked for: it is there when the answer to the end was lost; where the store answers and
    /// it is not, a few attempts more are made before the upload begins anew.
    async fn stuck(&self, key: &Path, entry: &FileEntry, error: BucketFault) -> Result<(), UploadError> {
        match self.bucket.objects.head(key).await {
            Ok(_) => {
                self.forget().await?;
                self.compare(key, entry).await
            }
            Err(BucketFault::NotFound { .. }) => {
                if self.failed_parts.fetch_add(1, Ordering::Relaxed) + 1 >= FAILED_PARTS {
                    self.failed_parts.store(0, Ordering::Relaxed);
                    self.forget().await?;
                }
                Err(error.into())
            }
            // The bucket is away: what it has of the upload is there when it is back.
            Err(_) => Err(error.into()),
        }
    }

    async fn in_one_go(&self, key: &Path, path: PathBuf, entry: &FileEntry) -> Result<(), UploadError> {
        let mut upload = self.bucket.objects.put_multipart(key).await?;
        let mut from = 0;
        while from < entry.bytes {
            let length = self.part_bytes.min(entry.bytes - from);
            upload.put_part(read_part(path.clone(), from, length).await?).await?;
            from += length;
        }
        upload.complete().await?;
        Ok(())
    }

    fn progress_path(&self) -> PathBuf {
        self.core.directory.root.join(PROGRESS_FILE)
    }

    async fn progress(&self) -> Option<Progress> {
        let path = self.progress_path();
        let read = blocking(move || std::fs::read(path)).await.ok()?;
        serde_json::from_slice(&read).ok()
    }

    async fn remember(&self, progress: &Progress) -> Result<(), UploadError> {
        let (path, bytes) = (self.progress_path(), serde_json::to_vec(progress).map_err(io::Error::other)?);
        Ok(blocking(move || write_durably(&path, &bytes)).await?)
    }

    async fn forget(&self) -> Result<(), UploadError> {
        let path = self.progress_path();
        Ok(blocking(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await?)
    }

    /// Tells what the store has in the bucket and how far that goes, if that has changed: now and then while files
    /// follow each other, and once they are all there.
    async fn tell(&mut self, all_there: bool) -> Result<(), UploadError> {
        let (path, said) = {
            let core = &self.core;
            let boots = core.state.lock().boots();
            manifest_of(&core.manifest.lock(), core.directory.store_id, &core.identity, boots, core.now())
        };
        let ends = |said: &StoreManifest| -> Vec<_> {
            said.boots.iter().map(|boot| (boot.boot_id, boot.farewell_unix_nanos)).collect()
        };
        let unchanged = |before: &StoreManifest| before.tables == said.tables && ends(before) == ends(&said);
        let same = self.said.as_ref().is_some_and(unchanged);
        let early = self.said_at.is_some_and(|at| at.elapsed() < MANIFEST_EVERY);
        let files = |said: &StoreManifest| said.tables.iter().map(|table| table.files.len()).sum::<usize>();
        let news = self.said.as_ref().is_none_or(|before| files(before) != files(&said));
        if same || (early && !(all_there && news)) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&said).map_err(io::Error::other)?;
        self.bucket.objects.put(&self.bucket.key(&path), bytes.into()).await?;
        self.said = Some(said);
        self.said_at = Some(tokio::time::Instant::now());
        Ok(())
    }
}

impl Core {
    /// The bucket has the file. If it left the list meanwhile, nobody counts on the object.
    fn uploaded(&self, entry: &FileEntry) -> Result<(), super::write::SealError> {
        let _one = self.tending.lock();
        let Some(entry) = self.manifest.lock().names(&entry.path).cloned() else { return Ok(()) };
        let marked = FileEntry { uploaded_unix_nanos: Some(self.now()), ..entry.clone() };
        self.change(&[entry], vec![marked], |_| {})
    }
}

async fn read_part(path: PathBuf, from: u64, length: u64) -> Result<PutPayload, UploadError> {
    let bytes = blocking(move || {
        let mut file = std::fs::File::open(path)?;
        file.seek(io::SeekFrom::Start(from))?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    })
    .await?;
    Ok(bytes.into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
