//! Files in the bucket: each exactly once, whatever is lost on the way, and readable when nothing of them is left here.

use std::collections::VecDeque;
use std::ops::Range;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use lariat_schema::bucket::{StoreManifest, manifest_path};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;

use super::*;
use crate::ingest::spine::Spine;
use crate::store::bucket::{Bucket, BucketConfig, BucketError};
use crate::store::upload::{UploadError, Uploader};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    /// It does not arrive.
    Lost,
    /// It arrives, and its answer is lost.
    AnswerLost,
}

/// A bucket in memory behind a bad line.
#[derive(Debug, Default)]
struct Line {
    inner: InMemory,
    fates: Mutex<VecDeque<Fate>>,
    parts: Mutex<Vec<usize>>,
    puts: Mutex<Vec<String>>,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bad line")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "line", source: "the connection broke".into() }
}

impl Line {
    async fn pass<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::Good);
        if fate == Fate::Lost {
            return Err(broken());
        }
        let answer = request.await?;
        if fate == Fate::AnswerLost { Err(broken()) } else { Ok(answer) }
    }

    fn expect(&self, fates: &[Fate]) {
        *self.fates.lock() = fates.iter().copied().collect();
    }
}

#[async_trait]
impl ObjectStore for Line {
    async fn put_opts(&self, key: &Key, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.puts.lock().push(key.to_string());
        self.pass(self.inner.put_opts(key, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(key, options).await
    }

    async fn get_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(key, ranges).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Line {
    async fn create_multipart(&self, key: &Key) -> object_store::Result<String> {
        self.pass(self.inner.create_multipart(key)).await
    }

    async fn put_part(&self, key: &Key, id: &String, index: usize, data: PutPayload) -> object_store::Result<PartId> {
        let part = self.pass(self.inner.put_part(key, id, index, data)).await?;
        self.parts.lock().push(index);
        Ok(part)
    }

    async fn complete_multipart(&self, key: &Key, id: &String, parts: Vec<PartId>) -> object_store::Result<PutResult> {
        self.pass(self.inner.complete_multipart(key, id, parts)).await
    }

    async fn abort_multipart(&self, key: &Key, id: &String) -> object_store::Result<()> {
        self.inner.abort_multipart(key, id).await
    }
}

/// A store with one final file of spans, and its bucket behind a line.
/// A bucket that nothing goes wrong with.
pub(super) fn in_memory() -> Bucket {
    let line = Arc::new(Line::default());
    Bucket::of(Arc::clone(&line) as _, line as _)
}

async fn with_a_final_file(place: &mut Place) -> (Spine, Arc<Line>, Arc<Bucket>) {
    let line = Arc::new(Line::default());
    let bucket = Bucket::of(Arc::clone(&line) as _, Arc::clone(&line) as _);
    place.store.bucket = Some(bucket.clone());
    place.store.upload_after_nanos = Some(600 * SECOND);
    let spine = place.open();
    for n in 0..3 {
        spine.ingest(spans(&[decision(n + 1, json!({"node_id": format!("node {n}")}))])).await.unwrap();
        spine.core.seal(false).unwrap();
    }
    place.advance(601 * SECOND);
    while spine.core.compact().unwrap() {}
    (spine, line, Arc::new(bucket))
}

/// Uploads until there is nothing left; how many attempts failed.
async fn upload_all(uploader: &mut Uploader) -> usize {
    let mut failures = 0;
    for _ in 0..100 {
        match uploader.step().await {
            Ok(true) => {}
            Ok(false) => return failures,
            Err(_) => failures += 1,
        }
    }
    panic!("the uploads do not end");
}

async fn objects(line: &Line) -> Vec<String> {
    let mut found: Vec<_> = line.inner.list(None).map(|object| object.unwrap().location.to_string()).collect().await;
    found.sort();
    found
}

async fn told(line: &Line, spine: &Spine) -> StoreManifest {
    let key = format!("below/{}", manifest_path(spine.core.store_id()));
    serde_json::from_slice(&line.inner.get(&Key::from(key)).await.unwrap().bytes().await.unwrap()).unwrap()
}

/// The file that is uploaded next.
fn next_file(spine: &Spine) -> crate::store::manifest::FileEntry {
    let manifest = spine.core.manifest.lock();
    let finals = manifest.files.iter().filter(|file| file.is_final);
    finals.min_by_key(|file| (file.times.to_unix_nanos, file.path.clone())).cloned().unwrap()
}

fn count_of(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_final_file_is_uploaded_once_and_the_store_tells_what_is_there() {
    let mut place = Place::new();
    let (spine, line, bucket) = with_a_final_file(&mut place).await;
    let files = spine.core.snapshot(Table::Spans).files;
    assert_eq!(files.len(), 1);
    let mut uploader = Uploader::new(Arc::clone(&spine.core), Arc::clone(&bucket));
    assert_eq!(upload_all(&mut uploader).await, 0);
    let path = files[0].path.strip_prefix(spine.core.directory.parquet()).unwrap().to_str().unwrap().to_owned();
    let there = objects(&line).await;
    assert!(there.contains(&format!("below/{path}")), "{there:?}");
    assert!(path.contains("spans/date=2025-11-21/hour=00/store="), "{path}");
    let said = told(&line, &spine).await;
    let spans_said = said.tables.iter().find(|said| said.table == Table::Spans).unwrap();
    assert_eq!(spans_said.files.iter().map(|file| (&*file.path, file.rows)).collect::<Vec<_>>(), [(&*path, 3)]);
    // Everything committed before the cut is there, and nothing later was.
    assert!(spans_said.cut_unix_nanos >= spans_said.files[0].commits.to_unix_nanos);
    let puts = line.puts.lock().len();
    assert_eq!(upload_all(&mut uploader).await, 0);
    drop((uploader, files));
    spine.kill();
    let spine = place.open();
    let mut uploader = Uploader::new(Arc::clone(&spine.core), bucket);
    assert_eq!(upload_all(&mut uploader).await, 0);
    let puts: Vec<_> = line.puts.lock()[puts..].to_vec();
    assert!(puts.iter().all(|key| key.contains("manifests")), "uploaded again: {puts:?}");
}

#[tokio::test]
async fn the_cut_stays_before_rows_that_only_the_node_has() {
    let mut place = Place::new();
    let (spine, line, bucket) = with_a_final_file(&mut place).await;
    spine.ingest(spans(&[decision(50, json!({}))])).await.unwrap();
    spine.core.seal(false).unwrap();
    let newest = spine.core.snapshot(Table::Spans).files.pop().unwrap();
    let only_here = moments(&read(&newest.path)[0], "observed_time").value(0);
    let mut uploader = Uploader::new(Arc::clone(&spine.core), bucket);
    upload_all(&mut uploader).await;
    let said = told(&line, &spine).await;
    let cut = said.tables.iter().find(|said| said.table == Table::Spans).unwrap().cut_unix_nanos;
    assert!(START < cut && cut <= only_here, "{cut} is after {only_here}");
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_recognised_and_a_strange_object_is_not_overwritten() {
    let mut place = Place::new();
    let (spine, line, bucket) = with_a_final_file(&mut place).await;
    let mut uploader = Uploader::new(Arc::clone(&spine.core), Arc::clone(&bucket));
    line.expect(&[Fate::Lost, Fate::AnswerLost]);
    assert_eq!(upload_all(&mut uploader).await, 2);
    let counters = &spine.core.counters;
    let files = count_of(&counters.uploads);
    assert!(files > 0 && count_of(&counters.upload_conflicts) == 0);
    assert_eq!(objects(&line).await.iter().filter(|key| key.ends_with(".parquet")).count() as u64, files);

    let mut other = Place::new();
    let (spine, line, bucket) = with_a_final_file(&mut other).await;
    let entry = spine.core.manifest.lock().files.iter().find(|file| file.is_final).cloned().unwrap();
    line.inner.put(&bucket.key(&entry.path), PutPayload::from_static(b"not ours")).await.unwrap();
    let mut uploader = Uploader::new(Arc::clone(&spine.core), Arc::clone(&bucket));
    upload_all(&mut uploader).await;
    assert_eq!(count_of(&spine.core.counters.upload_conflicts), 1);
    let kept = line.inner.get(&bucket.key(&entry.path)).await.unwrap().bytes().await.unwrap();
    assert_eq!(&kept[..], b"not ours");
    assert!(spine.core.manifest.lock().names(&entry.path).unwrap().uploaded_unix_nanos.is_none());
}

#[tokio::test]
async fn a_large_file_goes_in_parts_that_are_resumed_after_a_restart_and_never_sent_twice() {
    let mut place = Place::new();
    let (spine, line, bucket) = with_a_final_file(&mut place).await;
    let entry = next_file(&spine);
    let part_bytes = entry.bytes / 7;
    let parts = usize::try_from(entry.bytes.div_ceil(part_bytes)).unwrap();
    // It begins, two parts arrive, then the line breaks.
    line.expect(&[Fate::Good, Fate::Good, Fate::Good, Fate::Lost]);
    let mut uploader = Uploader::new(Arc::clone(&spine.core), Arc::clone(&bucket));
    uploader.part_bytes = part_bytes;
    assert!(matches!(uploader.step().await, Err(UploadError::Bucket(_))));
    assert_eq!(*line.parts.lock(), [0, 1]);
    drop(uploader);
    spine.kill();
    let spine = place.open();
    // The answer to its end is lost.
    let mut fates = vec![Fate::Good; parts - 2];
    fates.push(Fate::AnswerLost);
    line.expect(&fates);
    let mut uploader = Uploader::new(Arc::clone(&spine.core), Arc::clone(&bucket));
    uploader.part_bytes = part_bytes;
    assert!(uploader.step().await.unwrap());
    assert_eq!(*line.parts.lock(), (0..parts).collect::<Vec<_>>());
    let there = line.inner.get(&bucket.key(&entry.path)).await.unwrap().bytes().await.unwrap();
    assert_eq!((there.len() as u64, crc32fast::hash(&there)), (entry.bytes, entry.crc32));
    assert!(spine.core.manifest.lock().names(&entry.path).unwrap().uploaded_unix_nanos.is_some());
}

#[tokio::test]
async fn an_upload_that_the_bucket_forgot_begins_anew() {
    let mut place = Place::new();
    let (spine, line, bucket) = with_a_final_file(&mut place).await;
    let mut uploader = Uploader::new(Arc::clone(&spine.core), Arc::clone(&bucket));
    uploader.part_bytes = 1_000;
    line.expect(&[Fate::Good, Fate::Good, Fate::Lost]);
    assert!(uploader.step().await.is_err());
    // Another server in its place, that knows nothing.
    let empty = Arc::new(Line::default());
    let bucket = Arc::new(Bucket::of(Arc::clone(&empty) as _, Arc::clone(&empty) as _));
    let mut uploader = Uploader::new(Arc::clone(&spine.core), bucket);
    uploader.part_bytes = 1_000;
    let failures = upload_all(&mut uploader).await;
    assert!((1..=4).contains(&failures), "{failures}");
    assert!(count_of(&spine.core.counters.uploads) > 0);
}

#[tokio::test]
async fn a_damaged_file_is_not_uploaded() {
    let mut place = Place::new();
    let (spine, line, bucket) = with_a_final_file(&mut place).await;
    let path = spine.core.snapshot(Table::Spans).files[0].path.clone();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut uploader = Uploader::new(Arc::clone(&spine.core), bucket);
    upload_all(&mut uploader).await;
    assert!(!objects(&line).await.iter().any(|key| key.contains("spans/")));
    assert_eq!(gone(&spine, Table::Spans).iter().map(|gone| gone.rows).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn what_the_bucket_has_is_given_up_here_first_and_still_read() {
    let mut place = Place::new();
    let (spine, _line, bucket) = with_a_final_file(&mut place).await;
    let mut uploader = Uploader::new(Arc::clone(&spine.core), bucket);
    upload_all(&mut uploader).await;
    let path = spine.core.snapshot(Table::Spans).files[0].path.clone();
    drop(uploader);
    spine.kill();
    place.store.disk_budget_bytes = Some(1);
    let spine = place.open();
    spine.core.relieve().unwrap();
    assert!(!path.exists());
    assert!(gone(&spine, Table::Spans).is_empty());
    let files = spine.core.snapshot(Table::Spans).files;
    assert_eq!((files.len(), files[0].only_in_bucket), (1, true));
    assert_eq!(scanned(&spine, Table::Spans).await, 3);
    assert!(count_of(&spine.core.counters.copies_dropped) > 0);
    // The list survives a restart, and nothing is missing.
    drop(files);
    spine.kill();
    let spine = place.open();
    assert_eq!((scanned(&spine, Table::Spans).await, gone(&spine, Table::Spans).len()), (3, 0));
    // Past its retention here the copy in the bucket still counts, past that of the bucket it does not.
    place.advance(31 * 86_400 * SECOND);
    spine.core.expire().unwrap();
    assert!(gone(&spine, Table::Spans).is_empty());
    drop(spine);
    place.store.bucket_retention = serde_json::from_value(json!("1h")).unwrap();
    let spine = place.open();
    spine.core.expire().unwrap();
    assert_eq!(gone(&spine, Table::Spans).iter().map(|gone| gone.why).collect::<Vec<_>>(), [Why::Expired]);
}

#[tokio::test]
async fn a_store_whose_rows_are_in_the_bucket_does_not_open_without_it() {
    let mut place = Place::new();
    let (spine, _line, bucket) = with_a_final_file(&mut place).await;
    let mut uploader = Uploader::new(Arc::clone(&spine.core), bucket);
    upload_all(&mut uploader).await;
    drop(uploader);
    spine.kill();
    place.store.disk_budget_bytes = Some(1);
    let spine = place.open();
    spine.core.relieve().unwrap();
    spine.kill();
    place.store.bucket = None;
    let error = place.try_open().err().unwrap().to_string();
    assert!(error.contains("collector.bucket"), "{error}");
}

/// Rows of a table as a leaf of a query reads them.
async fn scanned(spine: &Spine, table: Table) -> usize {
    use crate::worker::pins::PinBook;
    use crate::worker::scan::{Rows, ScanSpec, Share, StoreScan};
    use datafusion::physical_plan::ExecutionPlan as _;
    let book = Arc::new(PinBook::new(Arc::clone(&spine.core) as _, crate::fixtures::identity(), false));
    let query_id = uuid::Uuid::new_v4();
    let request = serde_json::json!({"query_id": query_id, "tables": [table], "keep_ms": 10_000});
    let reply = book.pin(&serde_json::from_value(request).unwrap()).unwrap();
    assert!((reply.sampling.unknown_weight_share, reply.sampling.min_probability) == (0.0, 1.0));
    let spec = ScanSpec {
        store_id: spine.core.store_id(),
        node_id: "lariat@test".into(),
        query_id,
        rows: Rows { table, cells: None, projection: vec![0, 3], filter: None, limit: None },
        share: Share::WHOLE,
        without: Arc::default(),
    };
    let scan = StoreScan::try_at_home(spec, &book).unwrap();
    let context = datafusion::prelude::SessionContext::new();
    crate::worker::register_bucket(&context.runtime_env(), spine.core.bucket()).unwrap();
    let mut found = 0;
    for partition in 0..2 {
        let mut rows = scan.execute(partition, context.task_ctx()).unwrap();
        while let Some(batch) = rows.next().await {
            found += batch.unwrap().num_rows();
        }
    }
    found
}

#[test]
fn a_bucket_is_s3_or_a_folder_and_its_address_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let config = |url: &str| serde_json::from_value::<BucketConfig>(json!({"url": url})).unwrap().place();
    Bucket::open(&config(&format!("file://{}/made", folder.path().display()))).unwrap();
    assert!(folder.path().join("made").is_dir());
    assert!(matches!(Bucket::open(&config("gs://other")), Err(BucketError::Scheme { .. })));
    let error = Bucket::open(&config("s3://key:hunter2@bucket")).err().unwrap();
    assert!(matches!(error, BucketError::Secret) && !error.to_string().contains("hunter2"));
    assert!(serde_json::from_value::<BucketConfig>(json!({"url": "s3://b", "secret": "x"})).is_err());
}
