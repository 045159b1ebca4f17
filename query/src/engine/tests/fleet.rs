//! Nodes with small stores: half of the rows in a Parquet file, half in hot batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampNanosecondArray, new_null_array,
};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, TimestampNanosecondType};
use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use lariat_collector::store::{ReadStore, SealedFile, Snapshot};
use lariat_collector::worker::pins::{PinBook, WorkerFigures};
use lariat_schema::ids::{BootId, StoreId};
use lariat_schema::node_api::{Boot, NodeIdentity, NodeInfo, TableRange};
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::REGIONS;
use crate::server::{self, Config, Query, Settings};
use crate::topology::{ClusterConfig, Secret, now_unix_nanos};

pub(super) const TOKEN: &str = "a-token-of-the-tests";

/// Rows of spans that differ by node.
pub(super) fn spans(node: u32, rows: usize) -> RecordBatch {
    let schema = Table::Spans.schema();
    let start = now_unix_nanos() / 1_000_000_000_000 * 1_000_000_000_000 - 1_000_000_000_000;
    let numbers = || (0..rows).map(move |row| i64::try_from(row).unwrap() + i64::from(node) * 1_000);
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let pick = |of: &[&str]| numbers().map(|n| of[usize::try_from(n).unwrap() % of.len()].to_owned()).collect();
        let text: Vec<String> = match field.name().as_str() {
            "region" => vec![REGIONS[node as usize % REGIONS.len()].to_owned(); rows],
            "chain" => pick(&["ethereum", "base", "arbitrum"]),
            "method" => pick(&["eth_call", "eth_blockNumber", "eth_getLogs", "eth_chainId"]),
            "span_kind" => vec!["server".to_owned(); rows],
            _ => vec!["x".to_owned(); rows],
        };
        match field.data_type() {
            DataType::Utf8 => Arc::new(StringArray::from(text)),
            DataType::Timestamp(..) => {
                let times = numbers().map(|n| start + n * 1_000_000);
                Arc::new(TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            DataType::FixedSizeBinary(length) => {
                let length = usize::try_from(*length).unwrap();
                let ids = numbers().map(|n| {
                    let mut id = vec![0; length];
                    id[length - 8..].copy_from_slice(&n.to_be_bytes());
                    id
                });
                Arc::new(FixedSizeBinaryArray::try_from_iter(ids).unwrap())
            }
            DataType::Int64 => Arc::new(Int64Array::from_iter_values(numbers().map(|n| n * 1_000))),
            DataType::Int32 => Arc::new(Int32Array::from(vec![1; rows])),
            DataType::Float64 => Arc::new(Float64Array::from(vec![1.0; rows])),
            DataType::Boolean => Arc::new(BooleanArray::from(vec![false; rows])),
            other => new_null_array(other, rows),
        }
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}

struct SmallStore {
    id: StoreId,
    file: Arc<SealedFile>,
    hot: Vec<RecordBatch>,
    boots: Mutex<Vec<Boot>>,
    told: TimeRange,
}

impl ReadStore for SmallStore {
    fn store_id(&self) -> StoreId {
        self.id
    }

    fn snapshot(&self, table: Table) -> Snapshot {
        let holds = table == Table::Spans;
        Snapshot {
            table,
            cells: Vec::new(),
            files: if holds { vec![Arc::clone(&self.file)] } else { Vec::new() },
            batches: if holds { self.hot.clone() } else { Vec::new() },
            watermark_unix_nanos: now_unix_nanos(),
        }
    }

    fn boots(&self) -> Vec<Boot> {
        self.boots.lock().clone()
    }

    fn watermark_unix_nanos(&self) -> i64 {
        now_unix_nanos()
    }

    fn ranges(&self) -> Vec<TableRange> {
        let times = self.told;
        vec![TableRange {
            table: Table::Spans,
            from_unix_nanos: Some(times.from_unix_nanos),
            to_unix_nanos: Some(times.to_unix_nanos),
            rows: 100,
            gone: Vec::new(),
        }]
    }
}

struct Node {
    address: String,
    name: String,
    store: Arc<SmallStore>,
    pins: Arc<PinBook>,
    stalled: Arc<AtomicBool>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Some nodes and their directories.
pub(crate) struct Fleet {
    nodes: Vec<Node>,
    hung: Vec<TcpListener>,
    _dir: TempDir,
}

impl Fleet {
    pub(crate) async fn start(count: u32) -> Self {
        Self::start_with(count, 100, 0).await
    }

    /// Nodes with so many rows each, and so many times as many again, which share the memory of the first.
    pub(crate) async fn start_with(count: u32, rows: usize, again: usize) -> Self {
        Self::start_over((0..count).map(|node| (spans(node, rows), again)).collect()).await
    }

    /// A node for each batch of spans, which it has once and so many times again.
    pub(super) async fn start_over(rows: Vec<(RecordBatch, usize)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = Vec::new();
        for (number, (rows, again)) in (0..).zip(rows) {
            nodes.push(Node::start(number, dir.path(), rows, again).await);
        }
        Self { nodes, hung: Vec::new(), _dir: dir }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        let hung = self.hung.iter().map(|listener| listener.local_addr().unwrap().to_string());
        self.nodes.iter().map(|node| node.address.clone()).chain(hung).collect()
    }

    pub(super) fn stores(&self) -> Vec<StoreId> {
        self.nodes.iter().map(|node| node.store.id).collect()
    }

    /// The one file of a node.
    pub(super) fn file(&self, number: usize) -> PathBuf {
        self.nodes[number].store.file.path.clone()
    }

    /// A query service over the fleet that has met every node that answers.
    pub(crate) async fn query(&self) -> Query {
        server::start(settings(self.addresses(), Some(TOKEN), None)).await.unwrap()
    }

    /// The same with other bounds.
    pub(crate) async fn query_with(&self, change: impl FnOnce(&mut Config)) -> Query {
        let mut settings = settings(self.addresses(), Some(TOKEN), None);
        change(&mut settings.config);
        server::start(settings).await.unwrap()
    }

    pub(super) async fn query_in(&self, data_dir: &Path) -> Query {
        server::start(settings(self.addresses(), Some(TOKEN), Some(data_dir))).await.unwrap()
    }

    /// Ends a node with all its connections, and returns its name.
    pub(crate) fn kill(&mut self, number: usize) -> String {
        self.nodes[number].runtime.take().unwrap().shutdown_background();
        self.nodes[number].name.clone()
    }

    pub(super) async fn add_hung(&mut self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.hung.push(listener);
        address
    }

    /// From now on a node takes plans and does nothing with them.
    pub(crate) fn stall(&self, number: usize) {
        self.nodes[number].stalled.store(true, Ordering::Release);
    }

    /// What its nodes do for queries.
    pub(crate) fn figures(&self) -> Vec<WorkerFigures> {
        self.nodes.iter().map(|node| node.pins.figures()).collect()
    }

    /// From now on a node tells these lives.
    pub(super) fn set_boots(&self, number: usize, boots: Vec<Boot>) {
        *self.nodes[number].store.boots.lock() = boots;
    }

    pub(super) fn corrupt(&self, number: usize) {
        let file = &self.nodes[number].store.file;
        let size = usize::try_from(file.bytes).unwrap();
        std::fs::write(&file.path, vec![7; size]).unwrap();
    }
}

pub(crate) fn settings(nodes: Vec<String>, token: Option<&str>, data_dir: Option<&Path>) -> Settings {
    let free = "127.0.0.1:0".parse().unwrap();
    let config = Config { http: free, flight_sql: free, postgres: free, ..Config::default() };
    let cluster = ClusterConfig { nodes, token: token.map(Secret::new), ..ClusterConfig::default() };
    Settings { config, cluster, data_dir: data_dir.map(Path::to_owned), extra: None }
}

impl Node {
    async fn start(number: u32, dir: &Path, rows: RecordBatch, again: usize) -> Self {
        let count = rows.num_rows();
        let path = dir.join(format!("{number}.parquet"));
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), rows.schema(), None).unwrap();
        let half = count / 2;
        writer.write(&rows.slice(0, half)).unwrap();
        writer.close().unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        let now = now_unix_nanos();
        let told = TimeRange::new(now - 600_000_000_000, now);
        let times = rows.column_by_name("time").unwrap().as_primitive::<TimestampNanosecondType>();
        let times = TimeRange::new(min(times).unwrap(), max(times).unwrap() + 1);
        let id = StoreId(uuid::Uuid::new_v4());
        let file = Arc::new(SealedFile {
            path,
            bytes,
            rows: half as u64,
            times,
            only_in_bucket: false,
            weights: None,
            request_ids: None,
        });
        let mut hot = vec![rows.slice(half, half / 2), rows.slice(half + half / 2, count - half - half / 2)];
        hot.extend(std::iter::repeat_n(rows, again));
        let store = Arc::new(SmallStore { id, file, hot, boots: Mutex::default(), told });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let name = format!("lariat@{address}");
        let identity = NodeIdentity {
            node_id: name.as_str().into(),
            region: REGIONS[number as usize % REGIONS.len()].into(),
            boot_id: BootId(uuid::Uuid::new_v4()),
        };
        let reader: Arc<dyn ReadStore> = Arc::clone(&store) as _;
        let (worker, pins) =
            lariat_collector::worker::routes(reader, identity.clone(), false, Some(TOKEN.into())).unwrap();
        let of_info = Arc::clone(&store);
        let info = move || async move { Json(info(&identity, &of_info)) };
        let stalled = Arc::new(AtomicBool::new(false));
        let routes = worker
            .route("/v1/info", get(info))
            .layer(middleware::from_fn_with_state(Arc::clone(&stalled), unless_stalled));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
        tokio::time::timeout(Duration::from_secs(30), tokio::net::TcpStream::connect(&address)).await.unwrap().unwrap();
        Self { address, name, store, pins, stalled, runtime: Some(runtime) }
    }
}

/// A stalled node pins, and never answers the worker protocol.
async fn unless_stalled(State(stalled): State<Arc<AtomicBool>>, request: Request, next: Next) -> Response {
    if stalled.load(Ordering::Acquire) && request.uri().path().contains("Worker") {
        std::future::pending::<()>().await;
    }
    next.run(request).await
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn info(identity: &NodeIdentity, store: &SmallStore) -> NodeInfo {
    NodeInfo {
        identity: identity.clone(),
        store_id: store.id,
        version: "0".to_owned(),
        started_unix_nanos: 0,
        now_unix_nanos: now_unix_nanos(),
        watermark_unix_nanos: now_unix_nanos(),
        has_proxy: false,
        ranges: store.ranges(),
        forward: None,
        boots: store.boots(),
    }
}
