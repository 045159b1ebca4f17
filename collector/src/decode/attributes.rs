//! Attributes as text: what stands in the map columns.
//!
//! A map has one type for all values, so what is no text is written as JSON; a text stays as it is, without quotes,
//! since that is what people compare with.

use std::borrow::Cow;

use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::view::{Attribute, Value};

/// Attributes of one row, to be sorted by key before they are stored.
#[derive(Debug, Default, Clone)]
pub(super) struct Entries<'a>(Vec<Entry<'a>>);

/// One of them.
#[derive(Debug, Clone)]
struct Entry<'a> {
    key: Cow<'a, str>,
    content: Content<'a>,
    /// The key's, see [`Attribute::number`].
    number: u16,
}

/// What stands under a key.
#[derive(Debug, Clone)]
pub(super) enum Content<'a> {
    /// A value as it came: it is written as text where the row is.
    Value(Value<'a>),
    Text(Cow<'a, str>),
}

impl<'a> Content<'a> {
    /// As text; none for an empty value.
    pub(super) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Value(value) => value.text(),
            Self::Text(text) => Some(Cow::Borrowed(text)),
        }
    }

    /// True for a value that is none.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Value(Value::Absent))
    }

    /// Writes the text behind `out`; nothing for an empty value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Value(value) => value.write(out),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
}

impl PartialEq for Entries<'_> {
    /// Equal as text, which is what a map has of them.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |one: &Entry<'_>, two: &Entry<'_>| one.key == two.key && one.content.text() == two.content.text();
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, two)| is_same(one, two))
    }
}

impl<'a> Entries<'a> {
    /// The attributes of a list, sorted.
    pub(super) fn of(attributes: &'a [KeyValue]) -> Self {
        let mut entries = Self(Vec::with_capacity(attributes.len()));
        for attribute in attributes {
            entries.push(Attribute::of(attribute));
        }
        entries.sort();
        entries
    }

    /// Empties it and keeps its room.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds an attribute.
    pub(super) fn push(&mut self, attribute: Attribute<'a>) {
        let Attribute { key, value, number } = attribute;
        self.0.push(Entry { key: Cow::Borrowed(key), content: Content::Value(value), number });
    }

    /// Adds a text under a key.
    pub(super) fn put(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.0.push(Entry { key: key.into(), content: Content::Text(value.into()), number: 0 });
    }

    /// Adds the value under another key.
    pub(super) fn push_as(&mut self, key: String, value: Value<'a>) {
        self.0.push(Entry { key: Cow::Owned(key), content: Content::Value(value), number: 0 });
    }

    /// Sorts by key. Of a key that stands more than once, which OTLP forbids, the last one counts.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|a, b| a.key.cmp(&b.key));
        self.0.dedup_by(|later, kept| {
            let same = later.key == kept.key;
            if same {
                std::mem::swap(kept, later);
            }
            same
        });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.key.as_ref())
    }

    /// The numbers of the keys.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|entry| entry.number)
    }

    /// True if a key has no value.
    pub(super) fn any_absent(&self) -> bool {
        self.0.iter().any(|entry| entry.content.is_absent())
    }

    /// What stands at a place.
    pub(super) fn content(&self, place: usize) -> &Content<'a> {
        &self.0[place].content
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Content<'a>)> {
        self.0.iter().map(|entry| (entry.key.as_ref(), &entry.content))
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.iter().map(|(key, content)| key.len() + content.text().map_or(0, |text| text.len())).sum()
    }

    /// The same, owning its texts.
    pub(super) fn into_owned(self) -> Entries<'static> {
        let owned = |content: Content<'_>| match content.text() {
            Some(text) => Content::Text(Cow::Owned(text.into_owned())),
            None => Content::Value(Value::Absent),
        };
        let owned = |Entry { key, content, .. }: Entry<'_>| Entry {
            key: Cow::Owned(key.into_owned()),
            content: owned(content),
            number: 0,
        };
        Entries(self.0.into_iter().map(owned).collect())
    }
}
