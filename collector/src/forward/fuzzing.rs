//! The files of a queue that a fuzzer made up.

use std::path::Path;

use bytes::Bytes;
use lariat_schema::vocabulary::Signal;

use super::queue::Queue;
use super::segment::{self, Coding, MAGIC, Request};
use crate::decode::Encoding;

const LIMIT_BYTES: u64 = 1 << 20;
/// The name that the made-up segment has.
const SEGMENT: &str = "00000000000000000003.queue";
/// Bytes of a cursor.
const CURSOR_BYTES: usize = 20;

/// Opens a queue over a cursor and a segment, takes what is in it, and goes on with a new request.
pub(crate) fn survives(folder: &Path, bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first() else { return };
    let rest = if head % 2 == 0 {
        rest
    } else {
        rest.split_at_checked(CURSOR_BYTES).map_or(rest, |(cursor, rest)| {
            std::fs::write(folder.join("cursor"), cursor).expect("a folder of one's own");
            std::fs::write(folder.join("under_way"), cursor).expect("a folder of one's own");
            rest
        })
    };
    let mut file = Vec::new();
    if head / 2 % 2 == 1 {
        // A frame whose checksum is right.
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&u32::try_from(rest.len()).unwrap_or(u32::MAX).to_le_bytes());
        file.extend_from_slice(&crc32fast::hash(rest).to_le_bytes());
    }
    file.extend_from_slice(rest);
    std::fs::write(folder.join(SEGMENT), &file).expect("a folder of one's own");
    let mut queue = Queue::open(folder, LIMIT_BYTES).expect("whatever lies there, it opens");
    while let Some(taken) = queue.take() {
        queue.delivered(taken.end);
    }
    let request = Request {
        signal: Signal::Logs,
        encoding: Encoding::Json,
        coding: Coding::Identity,
        hops: 1,
        received_unix_nanos: 7,
        body: Bytes::copy_from_slice(rest),
    };
    queue.append(std::slice::from_ref(&request));
    let fits = segment::frame_bytes(&request) < LIMIT_BYTES / 2;
    assert!(!fits || queue.take().map(|taken| taken.request) == Some(request), "a new request comes out as it went in");
}
