//! What the fuzzer drives: everything of the collector that reads bytes from outside or from a disk, with what must hold
//! whatever they are. The functions are here and not in the fuzzer's own crate, since what they reach is private; they are
//! built for it and for the tests only. A property that fails panics, which is how a fuzzer is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::RecordBatch;
use lariat_schema::ids::StoreId;
use lariat_schema::node_api::NodeIdentity;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::Signal;
use uuid::Uuid;

use crate::columns::has_schema_of;
use crate::decode::{Decoded, Encoding, Form, Mapping, Senders, decode_mapped};
use crate::forward::fuzzing as forward_queue;
use crate::ingest::commit::{received, table_of};
use crate::keep::Keeper;
use crate::log::entry::{self, Entry, Packer};
use crate::log::{Header, Schemas};
use crate::store::fuzzing as store_files;
use crate::store::manifest::Manifest;
use crate::store::state::State;

/// The moment of decoding, Unix nanoseconds.
const NOW: i64 = 1_760_000_009_000_000_000;
/// The dedup window, nanoseconds.
const WINDOW: i64 = 120_000_000_000;
/// A mapping that matches what a fuzzer can guess.
const MAPPING: &str = "rules:\n  - name: a\n    when: { kind: client }\n    as: attempt\n    set: { rpc.method: { attribute: a }, lariat.attempts: { attribute: b, after: x, otherwise: z } }\n  \
                       - name: b\n    when: { has: [a] }\n    as: decision\n    set: { lariat.result: { status: { ok: success, error: error } } }\n";

/// A request's body, after a byte that says what it is: it is refused, or what came of it is consistent, survives the log, and
/// the account of it closes.
pub fn otlp(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first() else { return };
    let signal = [Signal::Traces, Signal::Metrics, Signal::Logs][usize::from(head % 3)];
    let encoding = if head / 3 % 2 == 0 { Encoding::Protobuf } else { Encoding::Json };
    let form = Form { signal, encoding, trusted: head / 6 % 2 == 0 };
    let mapping = (head / 12 % 2 == 1).then(|| Mapping::parse(MAPPING).expect("it is good"));
    let Ok(decoding) = decode_mapped(body, form, NOW, mapping.as_ref(), None) else { return };
    let senders = Senders::default();
    let again =
        decode_mapped(body, form, NOW, mapping.as_ref(), Some(&senders)).expect("the same bytes are good again");
    let decoded = decoding.decoded;
    let rows = decoded.batch.num_rows();
    assert!(has_schema_of(&decoded.batch, table_of(signal)));
    assert_eq!((decoded.keys.len(), decoded.contents.len()), (rows, rows));
    assert_eq!((&decoded.keys, &decoded.contents), (&again.decoded.keys, &again.decoded.contents));
    assert_eq!((decoded.fingerprint, decoded.rejected), (again.decoded.fingerprint, again.decoded.rejected));
    assert!(rows < 1 << 20, "{rows} rows of {} bytes", body.len());
    if rows > 0 || decoded.rejected > 0 {
        logged(&decoded);
    }
}

/// What is decoded goes through the log and into a store without a disk.
fn logged(decoded: &Decoded) {
    let table = table_of(decoded.signal);
    let batch = &decoded.batch;
    let (packed, row_bytes) = Packer::new().and_then(|mut packer| packer.pack(batch)).expect("rows can be packed");
    let header = Header {
        version: entry::VERSION,
        lsn: 1,
        commit_unix_nanos: NOW,
        jumped_nanos: 0,
        table: Some(table),
        trusted: decoded.trusted,
        decisions: 0,
        rejected: decoded.rejected,
        received: received(decoded.signal, batch, None),
        row_bytes,
        policies: None,
    };
    let keys = decoded.keys.iter().copied().zip(decoded.contents.iter().copied()).collect();
    let (written, mut frame) = (Entry { header, keys, packed }, Vec::new());
    entry::write(&written, &mut frame).expect("an entry can be written");
    let (read, length) = entry::read(&frame).expect("what was written can be read");
    assert_eq!((&read.header, &read.keys, length), (&written.header, &written.keys, frame.len()));
    let rows = Schemas::default().rows(&read).expect("the rows can be read").filter(|rows| rows.num_rows() > 0);
    assert_eq!(rows.as_ref().map_or(0, RecordBatch::num_rows), batch.num_rows());
    let mut state = State::new(&Manifest::new(StoreId(Uuid::nil())), BTreeMap::new(), Keeper::new(WINDOW));
    state.apply(&read.header, rows);
    state.begin_seal(true);
    let _ = (state.snapshot(table), state.ranges(), state.boots(), state.lost(), state.call_metrics());
    assert!(state.ledger().iter().all(|line| line.counts.closes()), "I-1 is broken: {:?}", state.ledger());
}

/// The log: bytes as they are, a payload under a right checksum, or rows under a right header. What can be read is read again
/// as the same.
pub fn log(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first() else { return };
    match head % 3 {
        0 => readable(rest),
        1 => {
            let mut frame = Vec::with_capacity(rest.len() + entry::FRAME_BYTES);
            frame.extend_from_slice(&u32::try_from(rest.len()).unwrap_or(u32::MAX).to_le_bytes());
            frame.extend_from_slice(&crc32fast::hash(rest).to_le_bytes());
            frame.extend_from_slice(rest);
            readable(&frame);
        }
        _ => {
            let table = Table::ALL[usize::from(head / 3) % Table::ALL.len()];
            let version = 1 + head / 16 % 2;
            let header = Header {
                version,
                lsn: 7,
                commit_unix_nanos: NOW,
                jumped_nanos: 0,
                table: (head / 32 % 4 != 0).then_some(table),
                trusted: true,
                decisions: 0,
                rejected: 0,
                received: Vec::new(),
                row_bytes: crate::columns::count(rest.len()),
                policies: None,
            };
            let Ok(packed) = zstd::bulk::compress(rest, 1) else { return };
            opened(&Entry { header, keys: Vec::new(), packed });
        }
    }
}

fn readable(bytes: &[u8]) {
    let Ok((entry, length)) = entry::read(bytes) else { return };
    assert!(length <= bytes.len());
    let mut again = Vec::new();
    entry::write(&entry, &mut again).expect("what was read can be written");
    assert_eq!(entry::read(&again).expect("and read").0, entry);
    opened(&entry);
}

fn opened(entry: &Entry) {
    if entry.header.table.is_none() {
        let _ = Schemas::unpack(entry);
    } else if let Ok(Some(rows)) = Schemas::default().rows(entry) {
        assert!(entry.header.table.is_some_and(|table| has_schema_of(&rows, table)));
    }
}

/// A manifest: it is refused, or everything that is asked of it has an answer.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return };
    let again = serde_json::to_vec(&manifest).expect("what was read can be written");
    let read: Manifest = serde_json::from_slice(&again).expect("and read");
    assert_eq!(serde_json::to_vec(&read).expect("and written"), again);
    let identity = NodeIdentity {
        node_id: "lariat@fuzz".into(),
        region: "here".into(),
        boot_id: lariat_schema::ids::BootId(Uuid::nil()),
    };
    store_files::asked(&manifest, &identity, NOW);
    let state = State::new(&manifest, BTreeMap::new(), Keeper::new(WINDOW));
    let _ = (state.ranges(), state.boots(), state.lost(), state.ledger());
}

/// A mapping file: it is one, or every fault has a text.
pub fn mapping(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Mapping::parse(text) {
        Ok(mapping) => {
            let body = br#"{"resourceSpans":[{"scopeSpans":[{"scope":{"name":"a"},"spans":[{"traceId":"0192f0c48a5b7c3d9e1f0123456789ab","spanId":"0000000000000001","name":"a","kind":3,"startTimeUnixNano":"1760000000000000000","attributes":[{"key":"a","value":{"stringValue":"x7"}},{"key":"b","value":{"intValue":"1"}}]}]}]}]}"#;
            let form = Form { signal: Signal::Traces, encoding: Encoding::Json, trusted: true };
            let rows = decode_mapped(body, form, NOW, Some(&mapping), None).expect("a good span stays one");
            assert_eq!(rows.decoded.batch.num_rows(), 1);
        }
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.reason.is_empty())),
    }
}

/// A file of the queue that is sent on from, and its cursor: it opens, gives out what is whole, and takes new requests.
pub fn forward(bytes: &[u8]) {
    let folder = PathBuf::from("/dev/shm").join(format!("lariat-fuzz-{}", Uuid::new_v4()));
    let folder = if folder.parent().is_some_and(std::path::Path::is_dir) {
        folder
    } else {
        std::env::temp_dir().join(folder.file_name().unwrap_or_default())
    };
    std::fs::create_dir_all(&folder).expect("a folder for the queue");
    forward_queue::survives(&folder, bytes);
    std::fs::remove_dir_all(&folder).expect("the folder goes again");
}

/// The one message of a gRPC call in pieces: its bytes, or a refusal, and never more than was allowed.
pub fn grpc(bytes: &[u8]) {
    crate::receive::fuzzing::message(bytes);
}

#[cfg(test)]
mod tests;
