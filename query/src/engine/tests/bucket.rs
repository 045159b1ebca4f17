//! The bucket in place of nodes that do not answer, and of copies that nodes have given up.

use std::path::{Path, PathBuf};

use lariat_collector::store::BucketPlace;
use lariat_schema::bucket::{FileInBucket, FileWeights, StoreManifest, TableInBucket, VERSION, manifest_path};
use lariat_schema::ids::{BootId, StoreId};
use lariat_schema::layout::file_path;
use lariat_schema::node_api::{Boot, Heard};
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};

use super::*;
use crate::topology::now_unix_nanos;

/// A folder as a bucket.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn place(&self) -> BucketPlace {
        serde_json::from_value(serde_json::json!({"url": format!("file://{}", self.0.path().display())})).unwrap()
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Uploads a store's one file, which has this sequence there, and tells of it. Returns where it lies.
    fn upload(&self, store: StoreId, sequence: u64, file: &Path, only_here: bool, cut: i64) -> PathBuf {
        let now = now_unix_nanos();
        let bytes = std::fs::read(file).unwrap();
        let path = file_path(Table::Spans, store, now, sequence);
        let file = FileInBucket {
            path: path.clone(),
            bytes: bytes.len() as u64,
            rows: 50,
            crc32: 0,
            times: TimeRange::new(now - 600 * NANOS_PER_SECOND, now),
            commits: TimeRange::new(now - 600 * NANOS_PER_SECOND, now),
            only_here,
            weights: Some(FileWeights { heaviest: 1.0, unknown: 0 }),
        };
        let from = now - 700 * NANOS_PER_SECOND;
        let boot = Boot {
            boot_id: BootId::from_bytes([7; 16]),
            started_unix_nanos: from,
            known_from_unix_nanos: from,
            statuses: vec![Heard { from_unix_nanos: from, to_unix_nanos: now, missing_before: 0 }],
            heartbeats: Vec::new(),
            proxy_farewell_unix_nanos: None,
            farewell_unix_nanos: None,
        };
        let tables =
            vec![TableInBucket { table: Table::Spans, cut_unix_nanos: cut, gone: Vec::new(), files: vec![file] }];
        let said = StoreManifest {
            version: VERSION,
            store_id: store,
            node_id: "lariat@bucket".into(),
            region: "local".into(),
            written_unix_nanos: now,
            boots: vec![boot],
            tables,
        };
        let at = self.put(&path, &bytes);
        self.put(&manifest_path(store), &serde_json::to_vec(&said).unwrap());
        at
    }
}

async fn query_over(fleet: &Fleet, bucket: &Folder) -> Query {
    let mut settings = fleet::settings(fleet.addresses(), Some(fleet::TOKEN), None);
    settings.config.bucket = Some(bucket.place());
    let query = server::start(settings).await.unwrap();
    formats::ready(query.http_address()).await;
    query
}

const COUNT: &str = "SELECT count(*) FROM spans";

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_a_node_that_is_gone_comes_from_the_bucket_and_the_rest_of_it_is_missing() {
    let mut fleet = Fleet::start(3).await;
    let bucket = Folder::new();
    let cut = now_unix_nanos() - 300 * NANOS_PER_SECOND;
    bucket.upload(fleet.stores()[1], 1, &fleet.file(1), false, cut);
    let query = query_over(&fleet, &bucket).await;
    let whole = ask(&query, COUNT).await;
    assert_eq!((count(&whole), whole.coverage.answered), (300, 3), "{:?}", whole.coverage);
    let killed = fleet.kill(1);
    let answer = ask(&query, COUNT).await;
    assert_eq!(count(&answer), 250);
    let node = answer.coverage.nodes.iter().find(|node| node.node_id == killed).unwrap();
    assert_eq!((node.source.as_deref(), node.answered, node.rows), (Some("bucket"), false, 50), "{node:?}");
    assert!(node.ratio > 0.2 && node.ratio < 0.8, "{node:?}");
    assert_eq!(node.missing.iter().map(|missing| missing.why.as_str()).collect::<Vec<_>>(), ["unreachable"]);
    assert!(!answer.coverage.complete && answer.coverage.answered == 2);
    assert_eq!(answer.stats.files_scanned, 3, "{:?}", answer.stats);
    // What lies before the cut is all there, and then nothing is lacking.
    let past = format!("{COUNT} WHERE time < '{}'", crate::coverage::rfc3339(cut - 60 * NANOS_PER_SECOND));
    let answer = ask(&query, &past).await;
    assert!(answer.coverage.complete && answer.coverage.answered == 3, "{:?}", answer.coverage);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_query_over_nodes_and_bucket_equals_a_single_process_over_the_same_rows() {
    let mut fleet = Fleet::start(2).await;
    let bucket = Folder::new();
    bucket.upload(fleet.stores()[1], 1, &fleet.file(1), false, now_unix_nanos());
    let query = query_over(&fleet, &bucket).await;
    ask(&query, COUNT).await;
    fleet.kill(1);
    for nodes in [1, 0] {
        if nodes == 0 {
            fleet.kill(0);
        }
        let mut rows = vec![spans(1, 100).slice(0, 50)];
        rows.extend((nodes == 1).then(|| spans(0, 100)));
        let oracle = LocalEngine::new(vec![(Table::Spans, rows)]).await.unwrap();
        for sql in [
            "SELECT chain, count(*) n, sum(duration_ns) s FROM spans GROUP BY chain ORDER BY chain",
            "SELECT time, region, duration_ns FROM spans ORDER BY duration_ns DESC, time, region LIMIT 7",
            "SELECT count(DISTINCT method) FROM routing_decisions WHERE duration_ns > 20000",
            "SELECT a.region, count(*) FROM spans a JOIN spans b ON a.trace_id = b.trace_id GROUP BY 1 ORDER BY 1",
            "SELECT count(*) FROM spans WHERE duration_ns > (SELECT avg(duration_ns) FROM spans)",
            "SELECT count(*) FROM candidates",
            "SELECT count(*) FROM logs",
        ] {
            let wanted = oracle.ask(Question::new(sql)).await.unwrap();
            let found = ask(&query, sql).await;
            assert_eq!(text(&found.batches), text(&wanted.batches), "{nodes} nodes: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_a_node_has_given_up_are_read_from_the_bucket_and_by_nobody_else() {
    let fleet = Fleet::start(2).await;
    let bucket = Folder::new();
    let there = bucket.upload(fleet.stores()[1], 1, &fleet.file(1), true, now_unix_nanos());
    let query = query_over(&fleet, &bucket).await;
    let answer = ask(&query, &format!("EXPLAIN {COUNT}")).await;
    let plan = answer.batches[0].column(1).as_string::<i32>().value(0).to_owned();
    assert!(plan.contains("files_in_bucket=1") && plan.contains("BucketScan: table=spans"), "{plan}");
    // The node's copy is no longer looked at.
    fleet.corrupt(1);
    let answer = ask(&query, &format!("{COUNT} WHERE duration_ns >= 0")).await;
    assert_eq!((count(&answer), answer.coverage.answered), (200, 2), "{:?}", answer.coverage);
    assert!(answer.coverage.nodes.iter().all(|node| node.source.as_deref() == Some("live") && node.rows == 100));

    // Without the object the node reads its own again, and is itself left out, since that one is corrupt.
    std::fs::remove_file(there).unwrap();
    let answer = ask(&query, &format!("{COUNT} WHERE duration_ns >= 0")).await;
    assert_eq!((count(&answer), answer.coverage.answered), (100, 1), "{:?}", answer.coverage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_costs_its_own_store_and_no_other() {
    let mut fleet = Fleet::start(3).await;
    let bucket = Folder::new();
    let damaged = bucket.upload(fleet.stores()[0], 1, &fleet.file(0), false, now_unix_nanos());
    bucket.upload(fleet.stores()[1], 1, &fleet.file(1), false, now_unix_nanos());
    let query = query_over(&fleet, &bucket).await;
    assert_eq!(count(&ask(&query, COUNT).await), 300);
    let (first, second) = (fleet.kill(0), fleet.kill(1));
    assert_eq!(count(&ask(&query, COUNT).await), 200);
    std::fs::write(&damaged, vec![7; usize::try_from(std::fs::metadata(&damaged).unwrap().len()).unwrap()]).unwrap();
    // Its footer is known from the question before; its rows are not.
    let answer = ask(&query, "SELECT count(*), sum(duration_ns) FROM spans").await;
    assert_eq!(count(&answer), 150, "{:?}", answer.coverage);
    let of = |name: &str| answer.coverage.nodes.iter().find(|node| node.node_id == name).unwrap();
    assert_eq!((of(&first).source.as_deref(), of(&second).source.as_deref()), (None, Some("bucket")));
    assert!(of(&first).error.as_deref().unwrap().contains("its part in the bucket"), "{:?}", of(&first));
}

/// Two query services over the same fleet and bucket that know each other.
async fn two_services(fleet: &Fleet, bucket: &Folder) -> [Query; 2] {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses = [free(), free()];
    let start = async |own: SocketAddr| {
        let mut settings = fleet::settings(fleet.addresses(), Some(fleet::TOKEN), None);
        settings.config.bucket = Some(bucket.place());
        settings.config.http = own;
        settings.cluster.queries = addresses.iter().map(ToString::to_string).collect();
        let query = server::start(settings).await.unwrap();
        formats::ready(own).await;
        query
    };
    [start(addresses[0]).await, start(addresses[1]).await]
}

async fn plan(query: &Query, sql: &str) -> String {
    ask(query, &format!("EXPLAIN {sql}")).await.batches[0].column(1).as_string::<i32>().value(0).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_query_services_share_a_cold_question_and_the_death_of_one_costs_no_answer() {
    let mut fleet = Fleet::start(3).await;
    let bucket = Folder::new();
    for number in 0..3 {
        bucket.upload(fleet.stores()[number], 1, &fleet.file(number), false, now_unix_nanos());
    }
    let [first, second] = two_services(&fleet, &bucket).await;
    for number in 0..3 {
        fleet.kill(number);
    }
    let sql = "SELECT chain, count(*) n, sum(duration_ns) s FROM spans GROUP BY chain ORDER BY chain";
    let other = format!("service=http://{}", second.http_address());
    let until = Instant::now() + Duration::from_secs(30);
    while !plan(&first, sql).await.contains(&other) {
        assert!(Instant::now() < until, "they never met");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows = (0..3).map(|node| spans(node, 100).slice(0, 50)).collect();
    let oracle = LocalEngine::new(vec![(Table::Spans, rows)]).await.unwrap();
    let wanted = text(&oracle.ask(Question::new(sql)).await.unwrap().batches);
    let read = async |query: &Query| {
        let (_, _, body) = formats::get(query.http_address(), "/metrics").await;
        let body = String::from_utf8(body.to_vec()).unwrap();
        let line = body.lines().find_map(|line| line.strip_prefix("lariat_query_bucket_files_read_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = (read(&first).await, read(&second).await);
    let answer = ask(&first, sql).await;
    assert_eq!(text(&answer.batches), wanted);
    let after = (read(&first).await, read(&second).await);
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
    assert_eq!((after.0 - before.0) + (after.1 - before.1), 3);
    // Both accounts are in the answer's.
    assert_eq!(answer.stats.files_scanned, 3, "{:?}", answer.stats);
    assert_eq!(answer.coverage.nodes.iter().map(|node| node.rows).sum::<u64>(), 150);

    second.shutdown(Duration::ZERO).await;
    let since = Instant::now();
    let answer = ask(&first, sql).await;
    assert_eq!((text(&answer.batches), answer.stats.files_scanned), (wanted, 3));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_service_reads_the_bucket_for_bearers_of_the_token_alone_and_executes_nothing_else_for_them() {
    let fleet = Fleet::start(1).await;
    let bucket = Folder::new();
    let query = query_over(&fleet, &bucket).await;
    let (status, _, _) = formats::get(query.http_address(), crate::bucket::worker::SERVICE_PATH).await;
    assert_eq!(status.as_u16(), 401);
    let open = server::start({
        let mut settings = fleet::settings(fleet.addresses(), None, None);
        settings.config.bucket = Some(bucket.place());
        settings
    });
    let (status, _, _) = formats::get(open.await.unwrap().http_address(), crate::bucket::worker::SERVICE_PATH).await;
    assert_eq!(status.as_u16(), 404);
}
