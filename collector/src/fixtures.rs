//! Requests for tests, made of JSON rows with the tables' columns, and a store with a clock that the test moves.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use lariat_schema::node_api::NodeIdentity;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::Signal;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::decode::Decoded;
use crate::dedup::Window;
use crate::ingest::spine::{Spine, SpineSettings};
use crate::keep::{Policies, SamplingPolicy};
use crate::log::CreateSegment;
use crate::log::clock::Reading;
use crate::log::segment::create_on_disk;
use crate::store::maintain::StoreSettings;
use crate::store::steps::Steps;
use crate::store::{ReadStore, Retention};

/// Start of the tests' time, Unix nanoseconds: the start of an hour and of a slice.
pub(crate) const START: i64 = 1_763_683_200_000_000_000;
pub(crate) const SECOND: i64 = 1_000_000_000;

/// A batch of a table from rows that name only the columns that matter.
pub(crate) fn batch(table: Table, rows: &[Value]) -> RecordBatch {
    let mut decoder = ReaderBuilder::new(table.schema()).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    decoder.flush().unwrap().unwrap_or_else(|| RecordBatch::new_empty(table.schema()))
}

/// A span; `fields` overrides.
pub(crate) fn span(trace: u128, id: u64, parent: Option<u64>, fields: Value) -> Value {
    let mut row = json!({
        "time": START, "duration_ns": 5_000_000, "observed_time": 0,
        "trace_id": format!("{trace:032x}"), "span_id": format!("{id:016x}"),
        "name": "call", "span_kind": "internal", "status": "unset", "keep_reason": "undecided", "adjusted_count": 1.0,
    });
    if let Some(parent) = parent {
        row["parent_span_id"] = json!(format!("{parent:016x}"));
    }
    merge(&mut row, fields);
    row
}

/// A decision's SERVER span in the profile `public`.
pub(crate) fn decision(trace: u128, fields: Value) -> Value {
    let mut row = json!({
        "span_kind": "server", "request_id": format!("{trace:032x}"), "batch_index": 0, "profile": "public",
        "chain": "ethereum", "method": "eth_blockNumber", "provider_id": "p1", "transport": "http",
        "strategy": "fastest", "result": "success", "attempts": 1, "failovers": 0, "node_id": "n", "region": "r",
    });
    merge(&mut row, fields);
    span(trace, 1, None, row)
}

/// Puts fields into a row, in place of those that it has.
pub(crate) fn merge(row: &mut Value, fields: Value) {
    if let (Some(row), Value::Object(fields)) = (row.as_object_mut(), fields) {
        row.extend(fields);
    }
}

/// A decoded request of spans; equal rows make equal requests.
pub(crate) fn spans(rows: &[Value]) -> Decoded {
    let keys = rows.iter().map(|row| xxh3_128(format!("{}{}", row["trace_id"], row["span_id"]).as_bytes())).collect();
    decoded(Signal::Traces, Table::Spans, rows, keys)
}

/// A decoded request of points, each of a series and time of its own.
pub(crate) fn points(values: &[i64]) -> Decoded {
    let rows: Vec<Value> = values
        .iter()
        .map(|value| {
            json!({"time": START + value, "observed_time": 0, "series_id": format!("{value:032x}"), "name": "m",
                "instrument": "gauge", "labels": {}, "value": value, "no_recorded_value": false})
        })
        .collect();
    let keys = rows.iter().map(|row| xxh3_128(row["series_id"].to_string().as_bytes())).collect();
    decoded(Signal::Metrics, Table::Metrics, &rows, keys)
}

fn decoded(signal: Signal, table: Table, rows: &[Value], keys: Vec<u128>) -> Decoded {
    let text: Vec<String> = rows.iter().map(Value::to_string).collect();
    Decoded {
        signal,
        batch: batch(table, rows),
        keys,
        contents: text.iter().map(|row| xxh3_64(row.as_bytes())).collect(),
        fingerprint: xxh3_128(text.join("\n").as_bytes()),
        body_bytes: text.iter().map(String::len).sum(),
        rejected: 0,
        reason: None,
        trusted: true,
    }
}

/// A store's surroundings: its directory, a clock, policies.
pub(crate) struct Place {
    pub(crate) root: tempfile::TempDir,
    pub(crate) elapsed: Arc<AtomicI64>,
    /// How far the wall's clock is from the time that elapsed since [`START`].
    pub(crate) off: Arc<AtomicI64>,
    pub(crate) policies: Policies,
    pub(crate) store: StoreSettings,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            elapsed: Arc::default(),
            off: Arc::default(),
            policies: Policies::default(),
            store: StoreSettings {
                retention: Retention::default(),
                bucket_retention: Retention::of_all(Duration::from_secs(400 * 86_400)),
                bucket: None,
                disk_budget_bytes: None,
                upload_after_nanos: None,
                // Tests maintain by hand.
                every: Duration::from_secs(1_000_000),
                steps: Steps::default(),
            },
        }
    }

    pub(crate) fn with_rate(rate: f64) -> Self {
        let mut place = Self::new();
        place.policies = Policies::default().with("public", SamplingPolicy::with_rate(rate));
        place
    }

    pub(crate) fn advance(&self, nanos: i64) {
        self.elapsed.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets the wall's clock ahead, or back.
    pub(crate) fn leap(&self, nanos: i64) {
        self.off.fetch_add(nanos, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) -> Spine {
        self.open_with(Box::new(create_on_disk))
    }

    pub(crate) fn open_with(&self, create_segment: CreateSegment) -> Spine {
        self.try_open_with(create_segment).unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Spine, crate::ingest::OpenError> {
        self.try_open_with(Box::new(create_on_disk))
    }

    fn try_open_with(&self, create_segment: CreateSegment) -> Result<Spine, crate::ingest::OpenError> {
        let (elapsed, off) = (Arc::clone(&self.elapsed), Arc::clone(&self.off));
        Spine::open(SpineSettings {
            data_dir: self.root.path().to_owned(),
            identity: identity(),
            window: Window { age_nanos: 120 * SECOND, decisions: 0 },
            // Tests seal by hand.
            flush_age: Duration::from_secs(1_000_000),
            policies: self.policies.clone(),
            clock: Arc::new(move || {
                let elapsed_nanos = elapsed.load(Ordering::SeqCst);
                Reading { unix_nanos: START + elapsed_nanos + off.load(Ordering::SeqCst), elapsed_nanos }
            }),
            create_segment,
            store: self.store.clone(),
        })
    }
}

pub(crate) fn identity() -> NodeIdentity {
    NodeIdentity {
        node_id: "lariat@test".into(),
        region: "here".into(),
        boot_id: lariat_schema::ids::BootId(uuid::Uuid::new_v4()),
    }
}

/// Every row of a table that a reader sees, one batch per file or hot batch.
pub(crate) fn visible(store: &dyn ReadStore, table: Table) -> Vec<RecordBatch> {
    let snapshot = store.snapshot(table);
    let mut batches = snapshot.batches.clone();
    for file in &snapshot.files {
        batches.extend(read(&file.path));
    }
    batches
}

pub(crate) fn read(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

/// Rows as JSON objects without what is null: maps as objects, ids in hexadecimal.
pub(crate) fn as_json(batch: &RecordBatch) -> Vec<Value> {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    serde_json::from_slice(&writer.into_inner()).unwrap()
}

pub(crate) fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// How many visible points were received, by [`points`]: those that the store itself writes are left out.
pub(crate) fn received_points(store: &dyn ReadStore) -> usize {
    let of =
        |batch: &RecordBatch| crate::columns::texts(batch, "name").iter().filter(|name| *name == Some("m")).count();
    visible(store, Table::Metrics).iter().map(of).sum()
}

/// `trace_id` of each visible span with its keep reason, sorted.
pub(crate) fn kept(store: &dyn ReadStore) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for batch in visible(store, Table::Spans) {
        let (traces, spans) = (crate::columns::ids(&batch, "trace_id"), crate::columns::ids(&batch, "span_id"));
        let reasons = crate::columns::texts(&batch, "keep_reason");
        for row in 0..batch.num_rows() {
            let id = hex::encode([traces.value(row), spans.value(row)].concat());
            found.push((id, reasons.value(row).to_owned()));
        }
    }
    found.sort();
    found
}
