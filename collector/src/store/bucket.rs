//! The bucket of a store: where it is, how it is reached, and what the store says of itself there.
//!
//! S3 and what speaks its protocol through `object_store`; a folder (`file://`) for a shared disk and for tests.
//! Credentials are the environment's (`AWS_*`) and never part of a configuration, a log line or an error.

use std::sync::Arc;
use std::time::Duration;

use lariat_schema::bucket::{FileInBucket, FileWeights, StoreManifest, TableInBucket, VERSION, manifest_path};
use lariat_schema::duration_text;
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::{Boot, NodeIdentity};
use lariat_schema::tables::Table;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;
use url::Url;

use super::manifest::Manifest;
use super::retain::Retention;

/// Age of a file's oldest row at which it is uploaded, though its hour may still run.
const DEFAULT_UPLOAD_AFTER: Duration = Duration::from_secs(3_600);
/// How long a store remembers what the bucket has of it.
const DEFAULT_RETENTION: Duration = Duration::from_secs(400 * 86_400);
/// Time for one request: a part of some megabytes over a thin line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Retries inside one request, for a server that is busy for a moment: longer absences are the upload's own to wait for.
const REQUEST_RETRIES: usize = 2;

/// Section `collector.bucket`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// `s3://bucket/folder`, or `file:///folder`.
    pub url: Url,
    /// Address of a store that is not Amazon's; plain HTTP if it says so.
    #[serde(default)]
    pub endpoint: Option<Url>,
    /// Region; none: what the environment says.
    #[serde(default)]
    pub region: Option<String>,
    /// Age of its oldest row at which a file is uploaded, though its hour may still run.
    #[serde(default = "default_upload_after", deserialize_with = "duration_text::deserialize")]
    pub upload_after: Duration,
    /// How long the store counts on what the bucket has; deleting objects is the bucket's own, by its lifecycle rules.
    #[serde(default = "default_retention")]
    pub retention: Retention,
}

impl BucketConfig {
    /// Where it is, without what is done there.
    #[must_use]
    pub fn place(&self) -> BucketPlace {
        BucketPlace { url: self.url.clone(), endpoint: self.endpoint.clone(), region: self.region.clone() }
    }
}

/// Where a bucket is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketPlace {
    /// `s3://bucket/folder`, or `file:///folder`.
    pub url: Url,
    /// Address of a store that is not Amazon's; plain HTTP if it says so.
    #[serde(default)]
    pub endpoint: Option<Url>,
    /// Region; none: what the environment says.
    #[serde(default)]
    pub region: Option<String>,
}

fn default_upload_after() -> Duration {
    DEFAULT_UPLOAD_AFTER
}

fn default_retention() -> Retention {
    Retention::of_all(DEFAULT_RETENTION)
}

/// Why a bucket cannot be used. Each is for the operator to cure.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Neither a bucket nor a folder.
    #[error("`bucket.url` is {scheme}://…: write s3://bucket/folder or file:///folder")]
    Scheme {
        /// What was written.
        scheme: String,
    },
    /// A secret where everybody can read it.
    #[error(
        "`bucket.url` and `endpoint` must hold no user and no password: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Secret,
    /// It cannot be reached as configured.
    #[error("cannot use the bucket: {0}")]
    Store(#[from] object_store::Error),
    /// Its folder cannot be made.
    #[error("cannot make the folder of `bucket.url`: {0}")]
    Folder(#[from] std::io::Error),
}

/// A bucket, ready for use.
#[derive(Clone)]
pub struct Bucket {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// Where uploads in parts can be resumed.
    pub(crate) multipart: Option<Arc<dyn MultipartStore>>,
    root: Path,
}

impl Bucket {
    /// Opens it; nothing is asked of it yet, since it may be away when a process starts.
    ///
    /// # Errors
    /// When the place cannot be one, or holds a secret.
    pub fn open(place: &BucketPlace) -> Result<Self, BucketError> {
        let secret = |url: &Url| !url.username().is_empty() || url.password().is_some();
        if secret(&place.url) || place.endpoint.as_ref().is_some_and(secret) {
            return Err(BucketError::Secret);
        }
        match place.url.scheme() {
            "file" => {
                let folder =
                    place.url.to_file_path().map_err(|()| BucketError::Scheme { scheme: "file".to_owned() })?;
                std::fs::create_dir_all(&folder)?;
                let objects = Arc::new(LocalFileSystem::new_with_prefix(folder)?);
                Ok(Self { objects, multipart: None, root: Path::default() })
            }
            "s3" => {
                let client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
                let retry = RetryConfig {
                    backoff: BackoffConfig::default(),
                    max_retries: REQUEST_RETRIES,
                    retry_timeout: REQUEST_TIMEOUT,
                };
                let mut builder = AmazonS3Builder::from_env()
                    .with_bucket_name(place.url.host_str().unwrap_or_default())
                    .with_client_options(client)
                    .with_retry(retry);
                if let Some(endpoint) = &place.endpoint {
                    let plain = endpoint.scheme() == "http";
                    builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/')).with_allow_http(plain);
                }
                if let Some(region) = &place.region {
                    builder = builder.with_region(region);
                }
                let root = Path::parse(place.url.path()).map_err(object_store::Error::from)?;
                let s3 = Arc::new(builder.build()?);
                Ok(Self { objects: Arc::clone(&s3) as Arc<dyn ObjectStore>, multipart: Some(s3), root })
            }
            scheme => Err(BucketError::Scheme { scheme: scheme.to_owned() }),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(objects: Arc<dyn ObjectStore>, multipart: Arc<dyn MultipartStore>) -> Self {
        Self { objects, multipart: Some(multipart), root: Path::from("below") }
    }

    /// Where a path of ours lies in the bucket.
    pub(crate) fn key(&self, path: &str) -> Path {
        self.root.parts().chain(Path::from(path).parts()).collect()
    }

    /// The bucket below its root, for readers.
    #[must_use]
    pub fn below_root(&self) -> Arc<dyn ObjectStore> {
        if self.root.as_ref().is_empty() {
            return Arc::clone(&self.objects);
        }
        Arc::new(PrefixStore::new(Arc::clone(&self.objects), self.root.clone()))
    }
}

/// What the store says of itself in the bucket, and where.
pub(crate) fn manifest_of(
    manifest: &Manifest,
    store_id: StoreId,
    identity: &NodeIdentity,
    boots: Vec<Boot>,
    now_unix_nanos: i64,
) -> (String, StoreManifest) {
    let tables = Table::ALL.iter().map(|table| table_of(manifest, *table)).collect();
    let said = StoreManifest {
        version: VERSION,
        store_id,
        node_id: identity.node_id.clone(),
        region: identity.region.clone(),
        written_unix_nanos: now_unix_nanos,
        boots,
        tables,
    };
    (manifest_path(store_id), said)
}

fn table_of(manifest: &Manifest, table: Table) -> TableInBucket {
    let files = || manifest.files.iter().filter(move |file| file.table == table);
    let sealed = manifest.cut_commits.map_or(i64::MIN, |cut| cut.of(table));
    let waiting = files().filter(|file| file.uploaded_unix_nanos.is_none()).map(|file| file.commits.from_unix_nanos);
    TableInBucket {
        table,
        cut_unix_nanos: waiting.min().unwrap_or(i64::MAX).min(sealed),
        gone: manifest.gone.of(table),
        files: files()
            .filter(|file| file.uploaded_unix_nanos.is_some())
            .map(|file| FileInBucket {
                path: file.path.clone(),
                bytes: file.bytes,
                rows: file.rows,
                crc32: file.crc32,
                times: file.times,
                commits: file.commits,
                only_here: file.only_in_bucket,
                weights: file
                    .weights
                    .map(|weights| FileWeights { heaviest: weights.heaviest, unknown: weights.unknown }),
            })
            .collect(),
    }
}
