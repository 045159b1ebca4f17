//! Reads a request's bytes and decompresses them, inside the limits and the budget.
//!
//! Nothing is allocated that was not reserved, and nothing is read beyond a limit: a bomb costs what it was allowed to
//! be, whatever its header promises.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::budget::Reservation;
use super::refusal::{Refusal, Size};

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Identity,
    Gzip,
    Zstd,
}

/// What decompression asks for first where the length is not told; it doubles from there.
const FIRST_BUFFER_BYTES: usize = 64 << 10;
/// How many times its size deflate can stand for at most.
const DEFLATE_RATIO: usize = 1_032;
/// Largest window that a zstd frame may ask for, as a power of two: 8 MiB, what its level 19 uses.
const ZSTD_WINDOW_LOG: u32 = 23;

impl Compression {
    /// By its name in `Content-Encoding` or `grpc-encoding`.
    pub(super) fn by_name(name: Option<&str>) -> Result<Self, Refusal> {
        match name.map(str::trim) {
            None | Some("" | "identity") => Ok(Self::Identity),
            Some(name) if name.eq_ignore_ascii_case("gzip") => Ok(Self::Gzip),
            Some(name) if name.eq_ignore_ascii_case("zstd") => Ok(Self::Zstd),
            Some(name) => Err(Refusal::Compression { found: name.to_owned() }),
        }
    }
}

/// Bytes of one request, as they come in.
#[derive(Debug)]
pub(super) struct Reader {
    body: Incoming,
    buffer: BytesMut,
    seen: usize,
    limit: usize,
}

impl Reader {
    pub(super) fn new(body: Incoming, limit: usize) -> Self {
        Self { body, buffer: BytesMut::new(), seen: 0, limit }
    }

    /// Bytes read so far.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// The whole body of an HTTP request.
    pub(super) async fn whole(&mut self, reservation: &mut Reservation) -> Result<Bytes, Refusal> {
        let mut reserved = 0;
        if let Some(length) = self.body.size_hint().exact() {
            reserved = self.declared(length, reservation)?;
        }
        while let Some(chunk) = self.next().await? {
            let total = self.buffer.len() + chunk.len();
            if total > self.limit {
                return Err(Refusal::TooLarge { size: Size::OnTheWire, limit: self.limit });
            }
            if total > reserved {
                reservation.grow(total - reserved)?;
                reserved = total;
            }
            self.buffer.extend_from_slice(&chunk);
        }
        Ok(std::mem::take(&mut self.buffer).freeze())
    }

    /// The one message of a unary gRPC request: whether it is compressed, and its bytes. Room for it is reserved as soon as the
    /// sender says how long it is.
    pub(super) async fn message(&mut self, reservation: &mut Reservation) -> Result<(bool, Bytes), Refusal> {
        let mut message = Message::default();
        while let Some(chunk) = self.next().await? {
            if let Some(declared) = message.push(chunk, self.limit)? {
                reservation.grow(declared)?;
                message.make_room();
            }
        }
        message.whole()
    }

    /// Reserves what the sender says will come.
    fn declared(&mut self, length: u64, reservation: &mut Reservation) -> Result<usize, Refusal> {
        match usize::try_from(length) {
            Ok(length) if length <= self.limit => {
                reservation.grow(length)?;
                self.buffer.reserve(length);
                Ok(length)
            }
            _ => Err(Refusal::TooLarge { size: Size::OnTheWire, limit: self.limit }),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Refusal::Interrupted { reason: error.to_string() })?;
            if let Ok(data) = frame.into_data() {
                self.seen += data.len();
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// A gRPC message as it comes in: a flag, its length, its bytes. One that comes in one piece is not copied.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// The first piece, as long as it is the only one.
    first: Bytes,
    buffer: BytesMut,
    expected: Option<usize>,
}

impl Message {
    const PREFIX: usize = 5;

    /// Takes a piece of it; tells once how many bytes the sender says will come.
    pub(super) fn push(&mut self, piece: Bytes, limit: usize) -> Result<Option<usize>, Refusal> {
        if self.first.is_empty() && self.buffer.is_empty() {
            self.first = piece;
        } else {
            self.make_room();
            self.buffer.extend_from_slice(&std::mem::take(&mut self.first));
            self.buffer.extend_from_slice(&piece);
        }
        let mut declared = None;
        if self.expected.is_none()
            && let [_, a, b, c, d, ..] = *self.bytes()
        {
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            if length > limit {
                return Err(Refusal::TooLarge { size: Size::OnTheWire, limit });
            }
            declared = Some(length);
            self.expected = declared;
        }
        if self.expected.is_some_and(|expected| self.bytes().len() > Self::PREFIX + expected) {
            return Err(malformed("a unary call carries one message, and bytes follow the first"));
        }
        Ok(declared)
    }

    /// Makes room for what is still to come, if its length is known and it has no room yet.
    pub(super) fn make_room(&mut self) {
        let whole = self.expected.map_or(0, |expected| Self::PREFIX + expected);
        if self.first.len() < whole && self.buffer.capacity() < whole {
            self.buffer.reserve(whole - self.buffer.len());
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.buffer.is_empty() { &self.first } else { &self.buffer }
    }

    /// Whether it is compressed, and its bytes.
    pub(super) fn whole(mut self) -> Result<(bool, Bytes), Refusal> {
        if self.expected.is_none_or(|expected| self.bytes().len() < Self::PREFIX + expected) {
            return Err(malformed("the gRPC message is cut short"));
        }
        let compressed = match self.bytes()[0] {
            0 => false,
            1 => true,
            flag => return Err(malformed(&format!("{flag} is no flag of a gRPC message"))),
        };
        let mut bytes = if self.buffer.is_empty() { self.first } else { std::mem::take(&mut self.buffer).freeze() };
        Ok((compressed, bytes.split_off(Self::PREFIX)))
    }
}

/// Decompresses; the result is reserved, and what was compressed is given back with it.
pub(super) fn decompress(
    compression: Compression,
    bytes: Bytes,
    limit: usize,
    reservation: &mut Reservation,
) -> Result<Bytes, Refusal> {
    let failed = |error: std::io::Error| malformed(&format!("cannot decompress the body: {error}"));
    let decompressed = match compression {
        Compression::Identity => return Ok(bytes),
        Compression::Gzip => {
            let decoder = flate2::read::MultiGzDecoder::new(&bytes[..]);
            fill(decoder, gzip_length(&bytes, limit), limit, reservation)?
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&bytes[..]).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
            fill(decoder, FIRST_BUFFER_BYTES, limit, reservation)?
        }
    };
    reservation.shrink(bytes.len());
    Ok(decompressed)
}

/// What a gzip body says at its end that it will be, if that can be.
fn gzip_length(bytes: &[u8], limit: usize) -> usize {
    let said = bytes.last_chunk().map_or(0, |last| u32::from_le_bytes(*last));
    let most = bytes.len().saturating_mul(DEFLATE_RATIO).min(limit);
    usize::try_from(said).unwrap_or(usize::MAX).clamp(1, most.max(1))
}

/// Reads to the end, into a buffer that begins with `first` bytes and doubles.
fn fill(mut from: impl Read, first: usize, limit: usize, reservation: &mut Reservation) -> Result<Bytes, Refusal> {
    let failed = |error: std::io::Error| malformed(&format!("cannot decompress the body: {error}"));
    reservation.grow(first.min(limit))?;
    let mut buffer = vec![0; first.min(limit)];
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            // Whether anything follows is asked before there is room for it: the sender mostly told the length.
            let mut next = [0];
            if read(&mut from, &mut next).map_err(failed)? == 0 {
                return Ok(Bytes::from(buffer));
            }
            if filled == limit {
                return Err(Refusal::TooLarge { size: Size::Decompressed, limit });
            }
            let size = (filled * 2).clamp(FIRST_BUFFER_BYTES.min(limit), limit);
            reservation.grow(size - filled)?;
            buffer.resize(size, 0);
            buffer[filled] = next[0];
            filled += 1;
            continue;
        }
        match read(&mut from, &mut buffer[filled..]).map_err(failed)? {
            0 => break,
            more => filled += more,
        }
    }
    buffer.truncate(filled);
    Ok(Bytes::from(buffer))
}

fn read(from: &mut impl Read, into: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match from.read(into) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn malformed(reason: &str) -> Refusal {
    Refusal::Malformed { reason: reason.to_owned() }
}
