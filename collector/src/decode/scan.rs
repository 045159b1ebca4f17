//! Reads the protobuf of a span or log record into a view of it, without an object.
//!
//! Only what any sender writes is read here. Where the bytes are damaged or unusual (a message field that stands twice
//! and is merged, groups, deep nesting), the scan says so and the record takes the way over its object, so that what is
//! accepted, what is refused and with which words stay prost's to say.

use prost::encoding::decode_varint;

use super::seen::Seen;
use super::view::{Attribute, EventView, LinkView, LogView, Nested, SpanView, Value};

/// The bytes are damaged, or valid in a way that is left to prost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unusual;

pub(super) type Scanned<T> = Result<T, Unusual>;

/// Levels of values inside values that are scanned.
const DEPTH: u8 = 16;

/// A field's value by its form on the wire.
#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    #[inline]
    fn bytes(self) -> Scanned<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Unusual) }
    }

    fn text(self) -> Scanned<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unusual)
    }

    fn varint(self) -> Scanned<u64> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(Unusual) }
    }

    #[allow(clippy::cast_possible_truncation, reason = "protobuf cuts a longer number to the field's width")]
    fn int32(self) -> Scanned<i32> {
        Ok(self.varint()? as i32)
    }

    #[allow(clippy::cast_possible_truncation, reason = "protobuf cuts a longer number to the field's width")]
    fn uint32(self) -> Scanned<u32> {
        Ok(self.varint()? as u32)
    }

    fn fixed64(self) -> Scanned<u64> {
        if let Self::Fixed64(value) = self { Ok(value) } else { Err(Unusual) }
    }

    fn fixed32(self) -> Scanned<u32> {
        if let Self::Fixed32(value) = self { Ok(value) } else { Err(Unusual) }
    }
}

/// Fields of a message, one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Nearly all numbers of a span take one byte: these are read where they are asked for.
    #[inline(always)]
    fn varint(&mut self) -> Scanned<u64> {
        match self.0 {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Scanned<u64> {
        decode_varint(&mut self.0).map_err(|_| Unusual)
    }

    fn take<const N: usize>(&mut self) -> Scanned<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Unusual)?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next field, none at the end.
    #[inline(always)]
    fn next(&mut self) -> Scanned<Option<(u32, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| Unusual)?;
        let tag = key >> 3;
        if tag == 0 {
            return Err(Unusual);
        }
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Unusual)?;
                let (value, rest) = self.0.split_at_checked(length).ok_or(Unusual)?;
                self.0 = rest;
                Field::Bytes(value)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take()?)),
            _ => return Err(Unusual),
        };
        Ok(Some((tag, field)))
    }
}

/// Reads a span into an empty view.
pub(super) fn span<'a>(encoded: &'a [u8], view: &mut SpanView<'a>) -> Scanned<()> {
    let mut fields = Fields(encoded);
    let mut has_status = false;
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => view.trace_id = field.bytes()?,
            2 => view.span_id = field.bytes()?,
            3 => view.trace_state = field.text()?,
            4 => view.parent_span_id = field.bytes()?,
            5 => {
                let name = field.bytes()?;
                if name != view.last_name.as_bytes() {
                    view.last_name = field.text()?;
                }
                view.name = view.last_name;
            }
            6 => view.kind = field.int32()?,
            7 => view.start_time_unix_nano = field.fixed64()?,
            8 => view.end_time_unix_nano = field.fixed64()?,
            9 => {
                let attribute = view.seen.attribute(view.attributes.len(), field.bytes()?, DEPTH)?;
                view.attributes.push(attribute);
            }
            10 => view.dropped_attributes_count = field.uint32()?,
            11 => {
                let event = event(field.bytes()?, &mut view.inner, &mut view.seen_of_events)?;
                view.events.push(event);
            }
            12 => view.dropped_events_count = field.uint32()?,
            13 => {
                let link = link(field.bytes()?, &mut view.inner)?;
                view.links.push(link);
            }
            14 => view.dropped_links_count = field.uint32()?,
            15 if has_status => return Err(Unusual),
            15 => {
                has_status = true;
                (view.status_code, view.status_message) = status(field.bytes()?)?;
            }
            16 => view.flags = field.fixed32()?,
            _ => {}
        }
    }
    Ok(())
}

/// Reads a log record into an empty view.
pub(super) fn log<'a>(encoded: &'a [u8], view: &mut LogView<'a>) -> Scanned<()> {
    let mut fields = Fields(encoded);
    let mut has_body = false;
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => view.time_unix_nano = field.fixed64()?,
            2 => view.severity_number = field.int32()?,
            3 => view.severity_text = field.text()?,
            5 if has_body => return Err(Unusual),
            5 => {
                has_body = true;
                view.body = value(field.bytes()?, DEPTH)?;
            }
            6 => {
                let attribute = view.seen.attribute(view.attributes.len(), field.bytes()?, DEPTH)?;
                view.attributes.push(attribute);
            }
            7 => view.dropped_attributes_count = field.uint32()?,
            8 => {
                field.fixed32()?;
            }
            9 => view.trace_id = field.bytes()?,
            10 => view.span_id = field.bytes()?,
            11 => view.observed_time_unix_nano = field.fixed64()?,
            12 => view.event_name = field.text()?,
            _ => {}
        }
    }
    Ok(())
}

fn status(encoded: &[u8]) -> Scanned<(i32, &str)> {
    let mut status = (0, "");
    let mut fields = Fields(encoded);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            2 => status.1 = field.text()?,
            3 => status.0 = field.int32()?,
            _ => {}
        }
    }
    Ok(status)
}

fn event<'a>(encoded: &'a [u8], inner: &mut Vec<Attribute<'a>>, seen: &mut Seen<'a>) -> Scanned<EventView<'a>> {
    let mut event = EventView { attributes: inner.len()..inner.len(), ..EventView::default() };
    let mut fields = Fields(encoded);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => event.time_unix_nano = field.fixed64()?,
            2 => event.name = field.text()?,
            3 => inner.push(seen.attribute(inner.len() - event.attributes.start, field.bytes()?, DEPTH)?),
            4 => event.dropped_attributes_count = field.uint32()?,
            _ => {}
        }
    }
    event.attributes.end = inner.len();
    Ok(event)
}

fn link<'a>(encoded: &'a [u8], inner: &mut Vec<Attribute<'a>>) -> Scanned<LinkView<'a>> {
    let mut link = LinkView { attributes: inner.len()..inner.len(), ..LinkView::default() };
    let mut fields = Fields(encoded);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => link.trace_id = field.bytes()?,
            2 => link.span_id = field.bytes()?,
            3 => link.trace_state = field.text()?,
            4 => inner.push(attribute(field.bytes()?, DEPTH)?),
            5 => link.dropped_attributes_count = field.uint32()?,
            6 => {
                field.fixed32()?;
            }
            _ => {}
        }
    }
    link.attributes.end = inner.len();
    Ok(link)
}

/// The key of an attribute that begins with one of less than 128 bytes, as nearly all do, and where it ends.
pub(super) fn short_key(encoded: &[u8]) -> Option<(&[u8], usize)> {
    let [0x0a, length @ ..0x80, rest @ ..] = encoded else { return None };
    rest.get(..usize::from(*length)).map(|key| (key, 2 + key.len()))
}

/// Reads an attribute.
pub(super) fn attribute(encoded: &[u8], depth: u8) -> Scanned<Attribute<'_>> {
    let mut attribute = Attribute::new("", Value::Absent);
    fields_of_attribute(encoded, depth, &mut attribute)?;
    Ok(attribute)
}

/// Reads the fields of an attribute into one that has none yet but for its key.
pub(super) fn fields_of_attribute<'a>(encoded: &'a [u8], depth: u8, attribute: &mut Attribute<'a>) -> Scanned<()> {
    let mut fields = Fields(encoded);
    let mut has_value = false;
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => attribute.key = field.text()?,
            2 if has_value => return Err(Unusual),
            2 => {
                has_value = true;
                attribute.value = value(field.bytes()?, depth)?;
            }
            // An index into a table that only profiles have.
            3 => return Err(Unusual),
            _ => {}
        }
    }
    Ok(())
}

/// A value, whose parts are scanned too.
fn value(encoded: &[u8], depth: u8) -> Scanned<Value<'_>> {
    let mut fields = Fields(encoded);
    let mut found = None;
    while let Some((tag, field)) = fields.next()? {
        let value = match tag {
            1 => Value::Text(field.text()?),
            2 => Value::Bool(field.varint()? != 0),
            3 => Value::Int(field.varint()?.cast_signed()),
            4 => Value::Double(f64::from_bits(field.fixed64()?)),
            5 | 6 => nested(tag, field.bytes()?, depth.checked_sub(1).ok_or(Unusual)?)?,
            7 => Value::Bytes(field.bytes()?),
            8 => return Err(Unusual),
            _ => continue,
        };
        if found.replace(value).is_some() {
            return Err(Unusual);
        }
    }
    Ok(found.unwrap_or(Value::Absent))
}

fn nested(tag: u32, encoded: &[u8], depth: u8) -> Scanned<Value<'_>> {
    let mut fields = Fields(encoded);
    while let Some((part, field)) = fields.next()? {
        if part == 1 {
            if tag == 5 {
                value(field.bytes()?, depth)?;
            } else {
                attribute(field.bytes()?, depth)?;
            }
        }
    }
    Ok(Value::Nested(if tag == 5 { Nested::Array(encoded) } else { Nested::Map(encoded) }))
}

/// Calls `on` with each element of a scanned array until it returns `None`.
pub(super) fn elements<'a>(array: &'a [u8], mut on: impl FnMut(Value<'a>) -> Option<()>) -> Option<()> {
    let mut fields = Fields(array);
    while let Some((tag, field)) = fields.next().ok()? {
        if tag == 1 {
            on(value(field.bytes().ok()?, DEPTH).ok()?)?;
        }
    }
    Some(())
}
