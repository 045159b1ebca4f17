//! The queue against restarts, torn tails, damage and its bound.

use bytes::Bytes;
use lariat_schema::vocabulary::Signal;
use proptest::prelude::*;

use super::super::segment::Coding;
use super::*;
use crate::decode::Encoding;

const LIMIT: u64 = 64 << 10;

fn request(number: u32, bytes: usize) -> Request {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(bytes.max(4), 7);
    Request {
        signal: Signal::Logs,
        encoding: Encoding::Json,
        coding: Coding::Zstd,
        hops: 3,
        received_unix_nanos: -5,
        body: Bytes::from(body),
    }
}

fn number(taken: &Taken) -> u32 {
    u32::from_le_bytes(taken.request.body[..4].try_into().unwrap())
}

fn drain(queue: &mut Queue) -> Vec<u32> {
    std::iter::from_fn(|| queue.take()).map(|taken| number(&taken)).collect()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
    paths.sort();
    paths
}

#[test]
fn requests_come_out_whole_and_in_order_and_what_was_not_delivered_comes_again_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    queue.append(&[request(1, 10), request(2, 5_000), request(3, 10)]);
    let first = queue.take().unwrap();
    assert_eq!(first.request, request(1, 10));
    queue.delivered(first.end);
    assert_eq!(queue.take().unwrap().request, request(2, 5_000));
    assert!(Queue::open(root.path(), LIMIT).is_err(), "a queue has one owner");
    drop(queue);
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    assert_eq!(queue.unread(), 2);
    queue.append(&[request(4, 10)]);
    assert_eq!(drain(&mut queue), [2, 3, 4]);
    assert_eq!(queue.losses(), Losses::default());
}

#[test]
fn a_full_queue_drops_its_oldest_counts_them_and_takes_the_new() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    for number in 0..200 {
        queue.append(&[request(number, 1_000)]);
        assert!(queue.bytes() <= LIMIT);
    }
    let dropped = u32::try_from(queue.losses().overflow).unwrap();
    assert!(dropped > 130 && dropped < 160, "{dropped}");
    assert_eq!(drain(&mut queue), (dropped..200).collect::<Vec<_>>());
    queue.append(&[request(200, 100_000)]);
    assert_eq!((queue.losses().too_large, queue.take()), (1, None));
}

#[test]
fn what_is_under_way_when_its_segment_is_dropped_is_not_counted_as_dropped() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    queue.append(&[request(0, 1_000)]);
    let under_way = queue.take().unwrap();
    for number in 1..200 {
        queue.append(&[request(number, 1_000)]);
    }
    queue.delivered(under_way.end);
    let rest = drain(&mut queue);
    assert_eq!(1 + queue.losses().overflow + count(rest.len()), 200);
    // It was delivered, so the next process has nothing to count.
    drop(queue);
    assert_eq!(Queue::open(root.path(), LIMIT).unwrap().losses().overflow, 0);
}

#[test]
fn what_was_under_way_of_a_dropped_segment_when_the_process_died_is_counted_by_the_next_one_once() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    queue.append(&[request(0, 1_000), request(1, 1_000), request(2, 1_000)]);
    let first = queue.take().unwrap();
    queue.take().unwrap();
    queue.delivered(first.end);
    for number in 3..200 {
        queue.append(&[request(number, 1_000)]);
    }
    let dropped = queue.losses().overflow;
    drop(queue);
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    assert_eq!(queue.losses().overflow, 1);
    assert_eq!(1 + 1 + dropped + count(drain(&mut queue).len()), 200);
    drop(queue);
    assert_eq!(Queue::open(root.path(), LIMIT).unwrap().losses().overflow, 0);
}

#[test]
fn a_disk_that_takes_nothing_costs_the_request_which_is_counted_and_the_next_goes_on_when_there_is_room() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    queue.append(&[request(0, 1_000)]);
    // Where the next segment is to be: a file that is always full.
    queue.active = None;
    let full = queue.path(queue.next_number);
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    assert!(queue.append(&[request(1, 1_000)]).is_empty());
    assert_eq!((queue.losses().disk, full.exists()), (1, false));
    // In the middle of a segment, nothing of the request is left.
    queue.append(&[request(2, 1_000)]);
    let (before, good) = (queue.bytes(), queue.active.take());
    queue.active = Some(Arc::new(OpenOptions::new().append(true).open("/dev/full").unwrap()));
    queue.append(&[request(3, 1_000)]);
    assert_eq!((queue.losses().disk, queue.bytes()), (2, before));
    drop(good);
    queue.append(&[request(4, 1_000)]);
    assert_eq!(drain(&mut queue), [0, 2, 4]);
}

#[test]
fn delivered_segments_are_deleted() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    for number in 0..40 {
        queue.append(&[request(number, 1_000)]);
    }
    assert!(segments(root.path()).len() > 3);
    while let Some(taken) = queue.take() {
        queue.delivered(taken.end);
    }
    assert_eq!(segments(root.path()).len(), 1);
    drop(queue);
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    assert_eq!((queue.unread(), segments(root.path()).len(), queue.take()), (0, 0, None));
    queue.append(&[request(7, 10)]);
    assert_eq!(drain(&mut queue), [7]);
}

#[test]
fn a_torn_tail_is_cut_and_counted() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    queue.append(&[request(1, 100), request(2, 100)]);
    drop(queue);
    let path = &segments(root.path())[0];
    let length = std::fs::metadata(path).unwrap().len();
    OpenOptions::new().write(true).open(path).unwrap().set_len(length - 1).unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    assert_eq!(queue.losses().torn_bytes, 8 + 12 + 100 - 1);
    queue.append(&[request(3, 100)]);
    assert_eq!(drain(&mut queue), [1, 3]);
}

#[test]
fn a_damaged_request_costs_the_rest_of_its_segment_and_no_other() {
    let root = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(root.path(), LIMIT).unwrap();
    queue.append(&(0..20).map(|number| request(number, 1_000)).collect::<Vec<_>>());
    let path = &segments(root.path())[0];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[1_500] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let read = drain(&mut queue);
    assert_eq!(count(read.len()) + queue.losses().disk, 20);
    assert_eq!((read[0], read.last()), (0, Some(&19)));
    assert!(queue.losses().disk < 8);
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Take,
    Deliver,
    Restart,
    Tear(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (4_usize..3_000).prop_map(Step::Append),
        (4_usize..3_000).prop_map(Step::Append),
        Just(Step::Take),
        Just(Step::Deliver),
        Just(Step::Restart),
        (1_u64..50).prop_map(Step::Tear),
    ]
}

proptest! {
    /// Whatever happens, each request is delivered at least once or counted, and the order of first deliveries holds.
    #[test]
    fn every_request_is_delivered_at_least_once_or_counted(steps in prop::collection::vec(step(), 1..120)) {
        let root = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(root.path(), LIMIT).unwrap();
        let (mut next, mut under_way, mut delivered, mut lost, mut half) = (0_u32, VecDeque::new(), Vec::new(), 0, 0);
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    queue.append(&[request(next, bytes)]);
                    next += 1;
                }
                Step::Take => under_way.extend(queue.take()),
                Step::Deliver => {
                    if let Some(taken) = under_way.pop_front() {
                        queue.delivered(taken.end);
                        delivered.push(number(&taken));
                    }
                }
                Step::Restart | Step::Tear(_) => {
                    let losses = queue.losses();
                    lost += losses.overflow + losses.disk;
                    drop(queue);
                    under_way.clear();
                    if let (Step::Tear(bytes), Some(path)) = (&step, segments(root.path()).last()) {
                        // Half of a frame that a crash kept from being written whole.
                        let mut torn = Vec::new();
                        segment::write(&request(u32::MAX, 100), &mut torn);
                        let mut file = OpenOptions::new().append(true).open(path).unwrap();
                        file.write_all(&torn[..usize::try_from(*bytes).unwrap()]).unwrap();
                        half += 1;
                    }
                    queue = Queue::open(root.path(), LIMIT).unwrap();
                }
            }
        }
        while let Some(taken) = under_way.pop_front().or_else(|| queue.take()) {
            queue.delivered(taken.end);
            delivered.push(number(&taken));
        }
        lost += queue.losses().overflow + queue.losses().disk;
        prop_assert_eq!(queue.unread(), 0);
        prop_assert!(half == 0 || delivered.iter().all(|number| *number < next));
        delivered.sort_unstable();
        delivered.dedup();
        prop_assert!(count(delivered.len()) + lost >= u64::from(next), "{} + {} < {}", delivered.len(), lost, next);
        prop_assert!(lost > 0 || delivered == (0..next).collect::<Vec<_>>());
    }
}

proptest! {
    /// Whatever a bad disk made of the files, the queue opens, ends, and takes new requests.
    #[test]
    fn arbitrary_files_are_survived(
        segment in prop::collection::vec(any::<u8>(), 0..400),
        whole in any::<bool>(),
        cursor in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut bytes = if whole { MAGIC.to_vec() } else { Vec::new() };
        if whole {
            segment::write(&request(1, 50), &mut bytes);
        }
        bytes.extend(segment);
        for number in [3, 4] {
            std::fs::write(root.path().join(format!("{number:020}.{EXTENSION}")), &bytes).unwrap();
        }
        std::fs::write(root.path().join(CURSOR_FILE), cursor).unwrap();
        let mut queue = Queue::open(root.path(), LIMIT).unwrap();
        queue.append(&[request(9, 50)]);
        let read = drain(&mut queue);
        prop_assert_eq!(read.last(), Some(&9));
        prop_assert!(!whole || read.first() == Some(&1));
    }
}
