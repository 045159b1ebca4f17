//! Walks a protobuf request down to its records.
//!
//! The three requests have one shape: field 1 holds resources, whose field 1 is the resource and field 2 the scopes,
//! whose field 1 is the scope and field 2 the records. Fields may come in any order, so each level is read twice:
//! first for what describes it, then for what it contains. Everything else is skipped, schema URLs included: they name
//! the version of the names, and no row has a place for them.

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::Sink;

/// Field of a request that holds its resources, and of a resource or scope that describes it.
const DESCRIPTION: u32 = 1;
/// Field of a resource that holds its scopes, and of a scope that holds its records.
const CONTENT: u32 = 2;
/// Field of a resource and of a scope that names its schema: not stored, but it must be text as protobuf wants it.
const SCHEMA_URL: u32 = 3;

/// Gives every record of `body` to `sink`, or says what is wrong with the bytes.
pub(super) fn walk<'a, S: Sink<'a>>(body: &'a [u8], sink: &mut S) -> Result<(), String> {
    each(body, DESCRIPTION, |resource| {
        each(resource, SCHEMA_URL, text)?;
        let mut description = Resource::default();
        each(resource, DESCRIPTION, |part| merge(&mut description, part))?;
        sink.resource(&description);
        each(resource, CONTENT, |scope| {
            each(scope, SCHEMA_URL, text)?;
            let mut description = InstrumentationScope::default();
            each(scope, DESCRIPTION, |part| merge(&mut description, part))?;
            sink.scope(&description);
            let mut records = 0;
            each(scope, CONTENT, |_| {
                records += 1;
                Ok(())
            })?;
            sink.expect(records);
            each(scope, CONTENT, |encoded| sink.encoded(encoded))
        })
    })
}

/// True for a message that would take more memory than any honest record.
pub(super) fn is_outsized(encoded: &[u8]) -> bool {
    encoded.len() > SMALL_BYTES && parts(encoded, 0) > MAX_PARTS
}

/// One message as an object, unless that would take more memory than any honest record: an empty message takes two
/// bytes on the wire and a hundred as an object, so that a body within its limit could fill the memory. `Ok(None)` if so.
pub(super) fn object<M: Message + Default>(encoded: &[u8]) -> Result<Option<M>, String> {
    if is_outsized(encoded) {
        return Ok(None);
    }
    M::decode(encoded).map(Some).map_err(|error| error.to_string())
}

/// Messages up to this size are small as objects too.
pub(super) const SMALL_BYTES: usize = 64 << 10;
/// Most parts (messages, texts) of one record: 32 MiB of objects.
pub(super) const MAX_PARTS: usize = 1 << 18;
/// How deep parts are counted; below this an object has grown by all its levels already.
const PARTS_DEPTH: u8 = 16;

/// How many parts a message has. What may be a message is taken for one, so that a text can count for more than it is.
fn parts(mut bytes: &[u8], depth: u8) -> usize {
    let mut count = 0_usize;
    while let Ok((tag, wire_type)) = decode_key(&mut bytes) {
        if wire_type != WireType::LengthDelimited {
            if skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).is_err() {
                break;
            }
            continue;
        }
        let length = decode_varint(&mut bytes).ok().and_then(|length| usize::try_from(length).ok());
        let Some((value, rest)) = length.and_then(|length| bytes.split_at_checked(length)) else { break };
        bytes = rest;
        count += 1;
        if depth < PARTS_DEPTH {
            count += parts(value, depth + 1);
        }
        if count > MAX_PARTS {
            break;
        }
    }
    count
}

/// A message taken apart: without the fields `taken`, and their values with their numbers.
pub(super) struct Split<'a> {
    pub(super) rest: Vec<u8>,
    pub(super) taken: Vec<(u32, &'a [u8])>,
}

/// Takes the messages in the fields `taken` out of a message.
pub(super) fn split<'a>(mut bytes: &'a [u8], taken: &[u32]) -> Result<Split<'a>, String> {
    let mut split = Split { rest: Vec::new(), taken: Vec::new() };
    while !bytes.is_empty() {
        let before = bytes;
        let (tag, wire_type) = decode_key(&mut bytes).map_err(|error| error.to_string())?;
        if !taken.contains(&tag) {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).map_err(|error| error.to_string())?;
            split.rest.extend_from_slice(&before[..before.len() - bytes.len()]);
            continue;
        }
        if wire_type != WireType::LengthDelimited {
            return Err(format!("field {tag} is no message"));
        }
        let (value, rest) = delimited(bytes, tag)?;
        split.taken.push((tag, value));
        bytes = rest;
    }
    Ok(split)
}

/// The value of a length-delimited field, and what follows it.
fn delimited(mut bytes: &[u8], tag: u32) -> Result<(&[u8], &[u8]), String> {
    let length = decode_varint(&mut bytes).map_err(|error| error.to_string())?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.split_at_checked(length).ok_or_else(|| format!("field {tag} claims {length} bytes, {} are left", bytes.len()))
}

fn merge<M: Message>(message: &mut M, mut part: &[u8]) -> Result<(), String> {
    if is_outsized(part) {
        return Err(format!("a resource or scope has more than {MAX_PARTS} parts"));
    }
    message.merge(&mut part).map_err(|error| error.to_string())
}

fn text(value: &[u8]) -> Result<(), String> {
    std::str::from_utf8(value).map(|_| ()).map_err(|error| format!("schema_url is no text: {error}"))
}

/// A field that is a message or text of less than 16 KiB, as nearly all are, with its number and what follows it. Of any other
/// nothing is said.
#[inline]
fn short_field(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (key, rest) = bytes.split_first()?;
    if *key >= 0x80 || key & 7 != 2 || *key < 8 {
        return None;
    }
    let (length, rest) = match rest {
        [low, rest @ ..] if *low < 0x80 => (usize::from(*low), rest),
        [low, high, rest @ ..] if *high < 0x80 => (usize::from(low & 0x7f) | usize::from(*high) << 7, rest),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((u32::from(key >> 3), value, rest))
}

/// Calls `on` with each value of the field `wanted` and skips all other fields.
fn each<'a>(
    mut bytes: &'a [u8],
    wanted: u32,
    mut on: impl FnMut(&'a [u8]) -> Result<(), String>,
) -> Result<(), String> {
    while !bytes.is_empty() {
        if let Some((tag, value, rest)) = short_field(bytes) {
            bytes = rest;
            if tag == wanted {
                on(value)?;
            }
            continue;
        }
        let (tag, wire_type) = decode_key(&mut bytes).map_err(|error| error.to_string())?;
        if wire_type == WireType::LengthDelimited {
            let (value, rest) = delimited(bytes, tag)?;
            bytes = rest;
            if tag == wanted {
                on(value)?;
            }
        } else if tag == wanted {
            return Err(format!("field {tag} is no message"));
        } else {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
