//! Walks a protobuf request down to its records, which alone become objects.
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

/// Gives every record of `body` to `sink`, or says what is wrong with the bytes.
pub(super) fn walk<S: Sink>(body: &[u8], sink: &mut S) -> Result<(), String> {
    each(body, DESCRIPTION, |resource| {
        let mut description = Resource::default();
        each(resource, DESCRIPTION, |part| merge(&mut description, part))?;
        sink.resource(&description);
        each(resource, CONTENT, |scope| {
            let mut description = InstrumentationScope::default();
            each(scope, DESCRIPTION, |part| merge(&mut description, part))?;
            sink.scope(&description);
            each(scope, CONTENT, |encoded| {
                let record = S::Record::decode(encoded).map_err(|error| error.to_string())?;
                sink.record(&record, encoded);
                Ok(())
            })
        })
    })
}

fn merge<M: Message>(message: &mut M, mut part: &[u8]) -> Result<(), String> {
    message.merge(&mut part).map_err(|error| error.to_string())
}

/// Calls `on` with each value of the field `wanted` and skips all other fields.
fn each(mut bytes: &[u8], wanted: u32, mut on: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).map_err(|error| error.to_string())?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut bytes).map_err(|error| error.to_string())?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (value, rest) = bytes
                .split_at_checked(length)
                .ok_or_else(|| format!("field {tag} claims {length} bytes, {} are left", bytes.len()))?;
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
