//! Attributes as the records before had them, by their place in a record.
//!
//! A sender's records have the same keys in the same order, and most values are those of the record before. Comparing the bytes
//! of an attribute with those of the one that stood in its place costs less than to take them apart, and what was text there
//! is text here. The last two are remembered, since a decision and its attempts take turns. Looking further was rejected: it
//! would be a search, which costs what it saves.

use super::scan::{Scanned, attribute, fields_of_attribute, short_key};
use super::view::{Attribute, Value};

/// Attributes of a record that are remembered: what honest records have.
const PLACES: usize = 64;

/// An attribute as it was scanned.
#[derive(Debug, Clone, Copy)]
struct Known<'a> {
    encoded: &'a [u8],
    /// How many of its bytes are the key, from the first on; none where the key does not stand first.
    key_bytes: usize,
    attribute: Attribute<'a>,
}

impl Default for Known<'_> {
    fn default() -> Self {
        Self { encoded: &[], key_bytes: 0, attribute: Attribute::new("", Value::Absent) }
    }
}

impl Known<'_> {
    fn has_key_of(&self, encoded: &[u8]) -> bool {
        self.key_bytes > 0
            && encoded.get(..self.key_bytes).is_some_and(|key| self.encoded.get(..self.key_bytes) == Some(key))
    }
}

/// The attributes of the records before.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    places: Vec<[Known<'a>; 2]>,
    /// Keys that were given a number.
    numbered: u16,
}

impl<'a> Seen<'a> {
    /// Reads the `nth` attribute of a record.
    #[inline]
    pub(super) fn attribute(&mut self, nth: usize, encoded: &'a [u8], depth: u8) -> Scanned<Attribute<'a>> {
        match self.places.get_mut(nth) {
            Some([last, _]) if last.encoded == encoded && last.key_bytes > 0 => Ok(last.attribute),
            Some(known) => Self::with_known_key(known, &mut self.numbered, encoded, depth),
            None => self.first(nth, encoded, depth),
        }
    }

    fn with_known_key(
        [last, before]: &mut [Known<'a>; 2],
        numbered: &mut u16,
        encoded: &'a [u8],
        depth: u8,
    ) -> Scanned<Attribute<'a>> {
        if !last.has_key_of(encoded) {
            std::mem::swap(last, before);
            if !last.has_key_of(encoded) {
                *last = known(encoded, numbered, depth)?;
                return Ok(last.attribute);
            }
            if last.encoded == encoded {
                return Ok(last.attribute);
            }
        }
        let mut attribute = Attribute { value: Value::Absent, ..last.attribute };
        fields_of_attribute(encoded.get(last.key_bytes..).unwrap_or_default(), depth, &mut attribute)?;
        // The key may stand twice, and the last one counts.
        if !std::ptr::eq(attribute.key, last.attribute.key) {
            attribute.number = 0;
            return Ok(attribute);
        }
        (last.encoded, last.attribute) = (encoded, attribute);
        Ok(attribute)
    }

    fn first(&mut self, nth: usize, encoded: &'a [u8], depth: u8) -> Scanned<Attribute<'a>> {
        if nth >= PLACES {
            return attribute(encoded, depth);
        }
        let first = known(encoded, &mut self.numbered, depth)?;
        self.places.resize_with(nth, <[Known<'_>; 2]>::default);
        self.places.push([first, Known::default()]);
        Ok(first.attribute)
    }
}

/// Reads an attribute, and gives its key a number if it stands first.
fn known<'a>(encoded: &'a [u8], numbered: &mut u16, depth: u8) -> Scanned<Known<'a>> {
    let mut attribute = attribute(encoded, depth)?;
    let key_bytes =
        short_key(encoded).filter(|(key, _)| *key == attribute.key.as_bytes()).map_or(0, |(_, bytes)| bytes);
    if let Some(number) = numbered.checked_add(1).filter(|_| key_bytes > 0) {
        *numbered = number;
        attribute.number = number;
    }
    Ok(Known { encoded, key_bytes, attribute })
}
