//! Looks into the bucket every few seconds: one listing, and those manifests whose tag has changed since.
//!
//! A bucket that is away costs nothing that is known: the catalog stays as it was, and the failure is counted. What is
//! asked never waits for a look.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use futures::{StreamExt as _, TryStreamExt as _};
use lariat_collector::store::{Bucket, BucketError, BucketPlace};
use lariat_schema::bucket::{MANIFESTS_DIR, StoreManifest};
use lariat_schema::ids::StoreId;
use parking_lot::Mutex;

use super::catalog::{self, Catalog};

/// Pause between two looks; a store tells every ten seconds at most.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest time for one look: a bucket that takes longer is as good as away.
pub(crate) const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// Stores that are known at a time, as many as the fleet may have members.
const MAX_STORES: usize = 4_096;
/// Bytes of one manifest, and of all: a store of ten years of hourly files has some ten megabytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
const MAX_CATALOG_BYTES: u64 = 256 << 20;

/// The bucket as a query service sees it.
pub(crate) struct Shelf {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// Where it is, for others to compare; no secret is in it.
    pub(crate) place: String,
    catalog: Mutex<Arc<Catalog>>,
    tags: Mutex<HashMap<StoreId, Tag>>,
    looked: AtomicBool,
    pub(crate) failures: AtomicU64,
    refused: AtomicU64,
}

/// What tells one version of an object from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    tag: String,
    bytes: u64,
}

impl Tag {
    pub(crate) fn of(object: &ObjectMeta) -> Self {
        let tag = object.e_tag.clone().unwrap_or_else(|| object.last_modified.to_rfc3339());
        Self { tag, bytes: object.size }
    }
}

impl Shelf {
    /// Opens it; nothing is asked of it yet.
    pub(crate) fn open(place: &BucketPlace) -> Result<Self, BucketError> {
        Ok(Self::over(Bucket::open(place)?.below_root(), place.url.to_string()))
    }

    pub(crate) fn over(objects: Arc<dyn ObjectStore>, place: String) -> Self {
        Self {
            objects,
            place,
            catalog: Mutex::default(),
            tags: Mutex::default(),
            looked: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// What is known by now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.lock())
    }

    /// True once a look has ended, whatever it found.
    pub(crate) fn has_looked(&self) -> bool {
        self.looked.load(Ordering::Acquire)
    }

    /// One look; true if there is news.
    pub(crate) async fn look(&self) -> bool {
        let looked = tokio::time::timeout(LOOK_TIMEOUT, self.refresh()).await;
        let news = match looked {
            Ok(Ok(news)) => news,
            Ok(Err(error)) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "cannot look into the bucket: what is known of it stays");
                false
            }
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(timeout_ms = LOOK_TIMEOUT.as_millis(), "the bucket does not answer");
                false
            }
        };
        self.looked.store(true, Ordering::Release);
        news
    }

    async fn refresh(&self) -> datafusion::object_store::Result<bool> {
        let listing = self.objects.list(Some(&Path::from(MANIFESTS_DIR))).take(MAX_STORES);
        let listed: Vec<ObjectMeta> = listing.try_collect().await?;
        let mut next = Catalog::clone(&self.catalog());
        let before = self.tags.lock().clone();
        let mut tags = HashMap::new();
        let (mut news, mut bytes) = (false, 0_u64);
        for object in listed {
            let Some(store) = store_of(&object.location) else { continue };
            let tag = Tag::of(&object);
            bytes = bytes.saturating_add(object.size);
            if before.get(&store) == Some(&tag) {
                tags.insert(store, tag);
                continue;
            }
            news = true;
            if object.size > MAX_MANIFEST_BYTES || bytes > MAX_CATALOG_BYTES {
                self.refuse(store, "it is too large");
                next.remove(store);
            } else {
                match self.read(store, &object.location).await {
                    Ok(Some(said)) => next.insert(Arc::new(said)),
                    Ok(None) => next.remove(store),
                    // What was known of it stays, and the next look asks again.
                    Err(error) => {
                        self.failures.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(%store, %error, "cannot read a store's manifest in the bucket");
                        tags.extend(before.get(&store).map(|tag| (store, tag.clone())));
                        continue;
                    }
                }
            }
            tags.insert(store, tag);
        }
        let vanished: Vec<StoreId> = before.keys().filter(|store| !tags.contains_key(store)).copied().collect();
        news |= !vanished.is_empty();
        vanished.into_iter().for_each(|store| next.remove(store));
        *self.tags.lock() = tags;
        *self.catalog.lock() = Arc::new(next);
        Ok(news)
    }

    async fn read(&self, store: StoreId, location: &Path) -> datafusion::object_store::Result<Option<StoreManifest>> {
        let content = self.objects.get(location).await?.bytes().await?;
        Ok(match catalog::read(store, &content) {
            Ok(said) => Some(said),
            Err(error) => {
                self.refuse(store, &error.to_string());
                None
            }
        })
    }

    /// What it holds, what was read of it here, who else reads it and what went wrong, as Prometheus text.
    pub(crate) fn figures(&self, files_read: u64, services: u64) -> String {
        use std::fmt::Write;
        let catalog = self.catalog();
        let mut text = String::new();
        for (name, kind, value) in [
            ("lariat_query_bucket_stores", "gauge", catalog.stores().count() as u64),
            ("lariat_query_bucket_files", "gauge", catalog.files() as u64),
            ("lariat_query_bucket_files_read_total", "counter", files_read),
            ("lariat_query_bucket_other_services", "gauge", services),
            ("lariat_query_bucket_failures_total", "counter", self.failures.load(Ordering::Relaxed)),
            ("lariat_query_bucket_manifests_refused_total", "counter", self.refused.load(Ordering::Relaxed)),
        ] {
            writeln!(text, "# TYPE {name} {kind}\n{name} {value}").ok();
        }
        text
    }

    fn refuse(&self, store: StoreId, why: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%store, why, "a store's manifest in the bucket is left out");
    }
}

/// The store of a manifest's name.
fn store_of(location: &Path) -> Option<StoreId> {
    location.filename()?.strip_prefix("store=")?.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use datafusion::object_store::PutPayload;
    use datafusion::object_store::memory::InMemory;
    use lariat_schema::bucket::{VERSION, manifest_path};

    use super::*;

    fn manifest(store: StoreId, version: u32, written: i64) -> Vec<u8> {
        let said = StoreManifest {
            version,
            store_id: store,
            node_id: "lariat@a".into(),
            region: "local".into(),
            written_unix_nanos: written,
            boots: Vec::new(),
            tables: Vec::new(),
        };
        serde_json::to_vec(&said).unwrap()
    }

    async fn put(objects: &InMemory, path: &str, bytes: Vec<u8>) {
        objects.put(&Path::from(path), PutPayload::from(bytes)).await.unwrap();
    }

    #[tokio::test]
    async fn a_look_reads_what_changed_and_forgets_what_is_gone() {
        let objects = Arc::new(InMemory::new());
        let shelf = Shelf::over(Arc::clone(&objects) as _, "memory".to_owned());
        assert!(!shelf.has_looked());
        assert!(!shelf.look().await && shelf.has_looked());
        let (one, two) = (StoreId(uuid::Uuid::from_u128(1)), StoreId(uuid::Uuid::from_u128(2)));
        put(&objects, &manifest_path(one), manifest(one, VERSION, 5)).await;
        put(&objects, &manifest_path(two), manifest(two, VERSION + 1, 5)).await;
        put(&objects, "manifests/readme.txt", b"hello".to_vec()).await;
        assert!(shelf.look().await);
        let catalog = shelf.catalog();
        assert_eq!(catalog.stores().map(|said| said.store_id).collect::<Vec<_>>(), [one]);
        assert_eq!(shelf.refused.load(Ordering::Relaxed), 1);
        assert!(!shelf.look().await, "nothing has changed");
        put(&objects, &manifest_path(one), manifest(one, VERSION, 6)).await;
        assert!(shelf.look().await);
        assert_eq!(shelf.catalog().get(one).unwrap().written_unix_nanos, 6);
        // Who holds a catalog keeps it.
        assert_eq!(catalog.get(one).unwrap().written_unix_nanos, 5);
        objects.delete(&Path::from(manifest_path(one))).await.unwrap();
        assert!(shelf.look().await);
        assert!(shelf.catalog().get(one).is_none());
    }
}
