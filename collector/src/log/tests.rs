//! Damage to the log: what can be read is, what cannot is never lost without a word.

use arrow::error::ArrowError;
use lariat_schema::tables::Table;
use proptest::prelude::*;
use serde_json::json;

use super::entry::BadEntry;
use super::*;
use crate::fixtures::{batch, decision};

fn entry(lsn: u64) -> (Vec<u8>, (u64, i64)) {
    let rows = batch(Table::Spans, &[decision(u128::from(lsn), json!({}))]);
    let (packed, row_bytes) = entry::Packer::new().unwrap().pack(&rows).unwrap();
    let header = Header {
        version: entry::VERSION,
        lsn,
        commit_unix_nanos: 10,
        jumped_nanos: 0,
        table: Some(Table::Spans),
        trusted: true,
        decisions: 1,
        rejected: 0,
        received: Vec::new(),
        row_bytes,
        policies: None,
    };
    let mut frame = Vec::new();
    entry::write(&Entry { header, keys: vec![(u128::from(lsn), 7)], packed }, &mut frame).unwrap();
    (frame, (lsn, 10))
}

const ALL: Unread<'static> = Unread { known: &[], is_needed: &|_| true };

fn written(folder: &Path, count: u64) -> PathBuf {
    let (mut log, _) = Log::open(folder, Box::new(segment::create_on_disk), &ALL, &mut |_, _| {}).unwrap();
    for lsn in 1..=count {
        let (frame, last) = entry(lsn);
        log.append(&frame, lsn, last, &InForce::default()).unwrap();
    }
    folder.join(format!("{:020}.log", 1))
}

fn found(folder: &Path) -> (Vec<u64>, Damage) {
    let mut lsns = Vec::new();
    let (_, damage) = Log::open(folder, Box::new(segment::create_on_disk), &ALL, &mut |entry, schemas| {
        if entry.header.table.is_some() {
            let rows = schemas.rows(entry).unwrap().unwrap();
            assert_eq!(rows, batch(Table::Spans, &[decision(u128::from(entry.header.lsn), json!({}))]));
            assert_eq!(entry.keys, [(u128::from(entry.header.lsn), 7)]);
            lsns.push(entry.header.lsn);
        }
    })
    .unwrap();
    (lsns, damage)
}

/// Rows as former versions packed them, every column: nothing stands before the message in version 1, the number of columns
/// that are left out in version 2.
fn packed_by_version(version: u8, rows: &arrow::array::RecordBatch) -> (Vec<u8>, u64) {
    use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
    let options = IpcWriteOptions::try_new(8, false, arrow::ipc::MetadataVersion::V5).unwrap();
    let (mut tracker, mut context) = (DictionaryTracker::new(false), IpcWriteContext::default());
    let (_, message) = IpcDataGenerator::default().encode(rows, &mut tracker, &options, &mut context).unwrap();
    let mut plain = if version == 1 { Vec::new() } else { vec![0; 4] };
    plain.extend_from_slice(&u32::try_from(message.ipc_message.len()).unwrap().to_le_bytes());
    plain.extend_from_slice(&message.ipc_message);
    plain.extend_from_slice(&message.arrow_data);
    (zstd::bulk::compress(&plain, 1).unwrap(), plain.len() as u64)
}

#[test]
fn rows_of_former_versions_are_still_read_and_those_of_a_later_one_are_refused() {
    let rows = batch(Table::Spans, &[decision(1, json!({}))]);
    let (bytes, _) = entry(1);
    let (mut former, _) = entry::read(&bytes).unwrap();
    for (version, readable) in [(1, true), (2, true), (entry::VERSION + 1, false)] {
        (former.packed, former.header.row_bytes) = packed_by_version(version, &rows);
        former.header.version = version;
        let mut frame = Vec::new();
        entry::write(&former, &mut frame).unwrap();
        let read = entry::read(&frame);
        assert_eq!(read.is_ok(), readable, "version {version}");
        if let Ok((read, _)) = read {
            assert_eq!(Schemas::default().rows(&read).unwrap().unwrap(), rows);
        }
    }
}

#[test]
fn many_rows_are_read_back_with_texts_that_repeat_and_such_that_do_not() {
    let row = |n: u128| {
        let method = format!("eth_{}", n % 300);
        let mut row = decision(n, json!({"method": method, "jsonrpc_id": n.to_string(), "provider_id": "northwind"}));
        row.as_object_mut().unwrap().retain(|key, _| !n.is_multiple_of(3) || key != "provider_id");
        row
    };
    for rows in [1, 31, 32, 700] {
        let rows = batch(Table::Spans, &(1..=rows).map(row).collect::<Vec<_>>());
        let (packed, row_bytes) = entry::Packer::new().unwrap().pack(&rows).unwrap();
        let (bytes, _) = entry(1);
        let (entry, _) = entry::read(&bytes).unwrap();
        let header = Header { row_bytes, ..entry.header };
        let entry = Entry { header, keys: entry.keys, packed };
        assert_eq!(Schemas::default().rows(&entry).unwrap().unwrap(), rows);
    }
}

#[test]
fn entries_are_read_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3);
    assert_eq!(found(folder.path()), (vec![1, 2, 3], Damage::default()));
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_counted_and_what_stands_before_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), 3);
    let whole = std::fs::read(&path).unwrap();
    let start = whole.len() - entry(3).0.len();
    for cut in start + 1..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (lsns, damage) = found(folder.path());
        assert_eq!(lsns, [1, 2]);
        assert_eq!(damage, Damage { torn_bytes: crate::columns::count(cut - start), set_aside: Vec::new() });
    }
}

#[test]
fn a_flipped_bit_in_the_middle_sets_the_rest_aside_and_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), 3);
    let whole = std::fs::read(&path).unwrap();
    let second = whole.len() - entry(3).0.len() - entry(2).0.len();
    let mut damaged = whole.clone();
    damaged[second + entry::FRAME_BYTES + 40] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let (lsns, damage) = found(folder.path());
    assert_eq!((lsns, damage.set_aside.len()), (vec![1], 1));
    assert_eq!(std::fs::read(&damage.set_aside[0]).unwrap(), damaged[second..]);
    assert_eq!(found(folder.path()).0, [1], "the second start finds it whole");
}

#[test]
fn no_byte_of_an_entry_can_be_changed_unnoticed() {
    let (frame, _) = entry(1);
    for at in 0..frame.len() {
        let mut changed = frame.clone();
        changed[at] ^= 0x10;
        assert!(entry::read(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn a_length_that_the_bytes_cannot_hold_is_refused_before_room_is_made_for_it() {
    let mut plain = Vec::new();
    for part in [&b"logs"[..], &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x7f]] {
        plain.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
        plain.extend_from_slice(part);
    }
    let (bytes, _) = entry(1);
    let (mut preamble, _) = entry::read(&bytes).unwrap();
    preamble.header.table = None;
    preamble.header.row_bytes = crate::columns::count(plain.len());
    preamble.packed = zstd::bulk::compress(&plain, 1).unwrap();
    // By the length alone: who makes room first finds only then that the bytes end, which is an error of reading.
    match Schemas::unpack(&preamble) {
        Err(BadEntry::Rows(ArrowError::ParseError(reason))) => assert!(reason.contains("2130706432"), "{reason}"),
        other => panic!("two gibibytes were filled: {other:?}"),
    }
}

#[test]
fn only_segments_that_are_spent_are_deleted_and_only_from_the_oldest_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(folder.path(), Box::new(segment::create_on_disk), &ALL, &mut |_, _| {}).unwrap();
    for lsn in 1..=4 {
        let (frame, last) = entry(lsn);
        log.append(&frame, lsn, last, &InForce::default()).unwrap();
        log.rotate();
    }
    let closed = log.closed();
    assert_eq!(delete_spent(&closed, &|segment| segment.last_lsn != 3), 2);
    assert_eq!(found(folder.path()).0, [3, 4]);
}

#[test]
fn a_segment_that_is_known_and_not_needed_is_left_unread_and_deleted_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(folder.path(), Box::new(segment::create_on_disk), &ALL, &mut |_, _| {}).unwrap();
    for lsn in 1..=4 {
        let (frame, last) = entry(lsn);
        log.append(&frame, lsn, last, &InForce::default()).unwrap();
        log.rotate();
    }
    let known: Vec<Facts> = log.closed().lock()[..3].iter().map(Segment::facts).collect();
    // It would not survive being read.
    std::fs::write(folder.path().join(format!("{:020}.log", 2)), b"damaged").unwrap();
    let unread = Unread { known: &known, is_needed: &|facts| facts.last_lsn != 2 };
    let mut lsns = Vec::new();
    let (log, damage) = Log::open(folder.path(), Box::new(segment::create_on_disk), &unread, &mut |entry, _| {
        lsns.extend(entry.header.table.map(|_| entry.header.lsn));
    })
    .unwrap();
    assert_eq!((lsns, damage), (vec![1, 3, 4], Damage::default()));
    let closed = log.closed();
    assert_eq!(closed.lock().iter().map(Segment::facts).take(3).collect::<Vec<_>>(), known);
    assert_eq!(delete_spent(&closed, &|segment| segment.last_lsn < 3), 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A disk that writes, but neither syncs nor cuts while it is told not to.
struct Stubborn(Box<dyn SegmentFile>, Arc<std::sync::atomic::AtomicBool>);

impl Stubborn {
    fn allowed(&self) -> io::Result<()> {
        if self.1.load(std::sync::atomic::Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl SegmentFile for Stubborn {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.allowed()?;
        self.0.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.allowed()?;
        self.0.truncate(length)
    }
}

#[test]
fn a_group_that_can_be_neither_synced_nor_cut_off_is_gone_after_a_restart() {
    for entries_after in [0, 2] {
        let folder = tempfile::tempdir().unwrap();
        let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let state = Arc::clone(&broken);
        let create = move |path: &Path| {
            Ok(Box::new(Stubborn(segment::create_on_disk(path)?, Arc::clone(&state))) as Box<dyn SegmentFile>)
        };
        let (mut log, _) = Log::open(folder.path(), Box::new(create), &ALL, &mut |_, _| {}).unwrap();
        for lsn in 1..=2 {
            let (frame, last) = entry(lsn);
            log.append(&frame, lsn, last, &InForce::default()).unwrap();
        }
        broken.store(true, std::sync::atomic::Ordering::SeqCst);
        let (frame, last) = entry(3);
        assert!(log.append(&frame, 3, last, &InForce::default()).is_err());
        broken.store(false, std::sync::atomic::Ordering::SeqCst);
        for lsn in 3..3 + entries_after {
            let (frame, last) = entry(lsn);
            log.append(&frame, lsn, last, &InForce::default()).unwrap();
        }
        let refused = crate::columns::count(frame.len());
        let expected = Damage { torn_bytes: refused, set_aside: Vec::new() };
        assert_eq!(found(folder.path()), ((1..3 + entries_after).collect(), expected));
        assert_eq!(found(folder.path()), ((1..3 + entries_after).collect(), Damage::default()), "once is enough");
    }
}

/// Damage to the bytes of a segment.
#[derive(Debug, Clone)]
enum Damaging {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

fn damaging() -> impl Strategy<Value = Damaging> {
    prop_oneof![
        (any::<usize>(), 1..=255_u8).prop_map(|(at, bits)| Damaging::Flip(at, bits)),
        any::<usize>().prop_map(Damaging::Cut),
        (any::<usize>(), proptest::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Damaging::Insert(at, bytes)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Damaging::Repeat(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_segment_its_entries_are_read_in_order_or_not_at_all_and_the_next_start_finds_it_whole(
        damages in proptest::collection::vec(damaging(), 0..4), next in proptest::option::of(1..6_u64)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), 3);
        let mut bytes = std::fs::read(&path).unwrap();
        for damage in damages {
            let length = bytes.len().max(1);
            match damage {
                Damaging::Flip(at, bits) => bytes.get_mut(at % length).into_iter().for_each(|byte| *byte ^= bits),
                Damaging::Cut(at) => bytes.truncate(at % length),
                Damaging::Insert(at, more) => {
                    let at = (at % length).min(bytes.len());
                    bytes.splice(at..at, more);
                }
                Damaging::Repeat(from, to) => {
                    let (from, to) = ((from % length).min(bytes.len()), (to % length).min(bytes.len()));
                    let copy = bytes[from.min(to)..from.max(to)].to_vec();
                    bytes.extend(copy);
                }
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Some(next) = next {
            std::fs::write(folder.path().join(format!("{:020}.log", next + 1)), b"").unwrap();
        }
        let (lsns, _) = found(folder.path());
        prop_assert!(lsns.iter().zip(1..).all(|(lsn, expected)| *lsn == expected), "{:?}", lsns);
        prop_assert!(next.is_none_or(|next| lsns.iter().all(|lsn| *lsn <= next)));
        prop_assert_eq!(found(folder.path()), (lsns, Damage::default()));
    }

    #[test]
    fn arbitrary_bytes_are_no_entry_and_no_panic(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(entry::read(&payload).is_err());
        // With a checksum that is right, so that what stands behind it is read too.
        let mut framed = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        framed.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        framed.extend_from_slice(&payload);
        prop_assert!(entry::read(&framed).is_err());
    }
}
