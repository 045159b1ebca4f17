//! Files of the queue: requests as they were received, each in a frame with a checksum.
//!
//! The log of the store was not used as the queue: it holds rows after dedup, out of which no request can be made again
//! as it was sent, and what waits for another collector must not keep the store from deleting its own files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use lariat_schema::vocabulary::Signal;

use crate::columns::count;
use crate::decode::Encoding;

/// First bytes of every segment.
pub(super) const MAGIC: &[u8; 8] = b"LARIATF1";
/// Length and checksum before each frame, both 32 bits, little-endian.
const PREFIX_BYTES: u64 = 8;
/// What a frame holds before the body: signal, encoding, compression, hops, and the time of receipt.
const HEAD_BYTES: usize = 12;

/// How the body of a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// A request as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) signal: Signal,
    pub(crate) encoding: Encoding,
    pub(crate) coding: Coding,
    /// How often it was sent on before it came here.
    pub(crate) hops: u8,
    pub(crate) received_unix_nanos: i64,
    pub(crate) body: Bytes,
}

/// Bytes that the request takes in a segment.
pub(super) fn frame_bytes(request: &Request) -> u64 {
    PREFIX_BYTES + count(HEAD_BYTES + request.body.len())
}

/// Appends a frame.
pub(super) fn write(request: &Request, to: &mut Vec<u8>) {
    let signal = match request.signal {
        Signal::Traces => 0,
        Signal::Metrics => 1,
        Signal::Logs => 2,
    };
    let encoding = match request.encoding {
        Encoding::Protobuf => 0,
        Encoding::Json => 1,
    };
    let coding = match request.coding {
        Coding::Identity => 0,
        Coding::Gzip => 1,
        Coding::Zstd => 2,
    };
    let mut head = [signal, encoding, coding, request.hops, 0, 0, 0, 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&request.received_unix_nanos.to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head);
    checksum.update(&request.body);
    let length = u32::try_from(HEAD_BYTES + request.body.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(&checksum.finalize().to_le_bytes());
    to.extend_from_slice(&head);
    to.extend_from_slice(&request.body);
}

/// Length of the frame at `at`, prefix included, if one of a possible length begins there and ends before `end`.
fn length_at(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, u32)>> {
    let mut prefix = [0; 8];
    if at + PREFIX_BYTES > end {
        return Ok(None);
    }
    file.read_exact_at(&mut prefix, at)?;
    let [a, b, c, d, e, f, g, h] = prefix;
    let length = u64::from(u32::from_le_bytes([a, b, c, d])) + PREFIX_BYTES;
    let possible = length >= PREFIX_BYTES + count(HEAD_BYTES) && length <= end - at;
    Ok(possible.then_some((length, u32::from_le_bytes([e, f, g, h]))))
}

/// Reads the frame at `at` and tells where the next begins; nothing if what stands there is no whole frame.
pub(super) fn read_at(file: &File, at: u64, end: u64) -> io::Result<Option<(Request, u64)>> {
    let Some((length, checksum)) = length_at(file, at, end)? else { return Ok(None) };
    let mut payload = vec![0; usize::try_from(length - PREFIX_BYTES).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut payload, at + PREFIX_BYTES)?;
    Ok(if crc32fast::hash(&payload) == checksum { parse(payload).map(|request| (request, at + length)) } else { None })
}

fn parse(payload: Vec<u8>) -> Option<Request> {
    let head: [u8; HEAD_BYTES] = payload.get(..HEAD_BYTES)?.try_into().ok()?;
    let [signal, encoding, coding, hops, time @ ..] = head;
    Some(Request {
        signal: match signal {
            0 => Signal::Traces,
            1 => Signal::Metrics,
            2 => Signal::Logs,
            _ => return None,
        },
        encoding: match encoding {
            0 => Encoding::Protobuf,
            1 => Encoding::Json,
            _ => return None,
        },
        coding: match coding {
            0 => Coding::Identity,
            1 => Coding::Gzip,
            2 => Coding::Zstd,
            _ => return None,
        },
        hops,
        received_unix_nanos: i64::from_le_bytes(time),
        body: Bytes::from(payload).slice(HEAD_BYTES..),
    })
}

/// Where the frames of a segment begin that a former process wrote, and where the last whole one ends. Only the newest
/// is read whole, since only its tail can be torn; a damaged checksum elsewhere shows when the frame is sent.
pub(super) fn scan(path: &Path, newest: bool) -> io::Result<(Vec<u64>, u64)> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let magic = count(MAGIC.len());
    let mut found = [0; MAGIC.len()];
    if end < magic || file.read_exact_at(&mut found, 0).is_err() || found != *MAGIC {
        return Ok((Vec::new(), 0));
    }
    let (mut starts, mut at) = (Vec::new(), magic);
    loop {
        let next = if newest {
            read_at(&file, at, end)?.map(|(_, next)| next)
        } else {
            length_at(&file, at, end)?.map(|(length, _)| at + length)
        };
        let Some(next) = next else { return Ok((starts, at)) };
        starts.push(at);
        at = next;
    }
}
