//! Walks a JSON request down to its records, each still text.
//!
//! Building the whole request first was rejected: an empty record takes three bytes of text and some hundred as an object,
//! so that a body within its limit could fill the memory. Members may come in any order: what lies inside a resource or
//! scope that is not described yet waits as text until its end. Nothing is said here of what a record means.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What the lists of one signal's requests are called.
pub(super) struct Names {
    pub(super) resources: &'static str,
    pub(super) scopes: &'static str,
    pub(super) records: &'static str,
}

/// How deep in a request something lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Request,
    Resource,
    Scope,
}

impl Level {
    /// The member that describes what lies here, and the one that holds what is inside.
    fn members(self, names: &Names) -> (Option<&'static str>, &'static str) {
        match self {
            Self::Request => (None, names.resources),
            Self::Resource => (Some("resource"), names.scopes),
            Self::Scope => (Some("scope"), names.records),
        }
    }

    fn below(self) -> Option<Self> {
        match self {
            Self::Request => Some(Self::Resource),
            Self::Resource => Some(Self::Scope),
            Self::Scope => None,
        }
    }
}

/// Who is told of what is found, in the order of protobuf: what describes, what is inside, the end.
pub(super) trait Visit {
    /// A resource or scope begins; its text, if there is any.
    fn begin(&mut self, level: Level, description: Option<&str>) -> Result<(), String>;
    /// A record's text.
    fn record(&mut self, text: &str) -> Result<(), String>;
    /// The resource or scope ends.
    fn end(&mut self, _level: Level, _schema_url: Option<&str>) {}
}

/// Tells the visitor of everything in the body, or says what is wrong with it.
pub(super) fn walk(body: &[u8], names: &Names, visit: &mut dyn Visit) -> Result<(), String> {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let request = Object { level: Level::Request, names, visit };
    request.deserialize(&mut parser).and_then(|()| parser.end()).map_err(|error| error.to_string())
}

struct Object<'v> {
    level: Level,
    names: &'v Names,
    visit: &'v mut dyn Visit,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { level, names, visit } = self;
        let (describes, contains) = level.members(names);
        let mut is_described = describes.is_none();
        let (mut is_read, mut waiting, mut schema_url) = (false, None, None);
        while let Some(member) = members.next_key_seed(Name { describes, contains })? {
            match member {
                Member::Describes if is_described => return Err(A::Error::duplicate_field("resource or scope")),
                Member::Describes => {
                    is_described = true;
                    let text: &RawValue = members.next_value()?;
                    visit.begin(level, (text.get() != "null").then_some(text.get())).map_err(A::Error::custom)?;
                }
                Member::Contains if is_read => return Err(A::Error::duplicate_field(contains)),
                Member::Contains => {
                    is_read = true;
                    if is_described {
                        members.next_value_seed(List { level, names, visit: &mut *visit })?;
                    } else {
                        waiting = Some(members.next_value::<&RawValue>()?);
                    }
                }
                Member::SchemaUrl => schema_url = members.next_value::<Option<String>>()?,
                Member::Unknown => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        if !is_described {
            visit.begin(level, None).map_err(A::Error::custom)?;
        }
        if let Some(text) = waiting {
            let mut parser = serde_json::Deserializer::from_str(text.get());
            List { level, names, visit: &mut *visit }.deserialize(&mut parser).map_err(A::Error::custom)?;
        }
        visit.end(level, schema_url.as_deref());
        Ok(())
    }
}

/// What lies inside a request, resource or scope.
struct List<'v> {
    level: Level,
    names: &'v Names,
    visit: &'v mut dyn Visit,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    /// Protobuf's JSON takes null for absent.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { level, names, visit } = self;
        if let Some(level) = level.below() {
            while items.next_element_seed(Object { level, names, visit: &mut *visit })?.is_some() {}
        } else {
            while let Some(record) = items.next_element::<&RawValue>()? {
                visit.record(record.get()).map_err(A::Error::custom)?;
            }
        }
        Ok(())
    }
}

/// A member by what it means here.
enum Member {
    Describes,
    Contains,
    SchemaUrl,
    Unknown,
}

struct Name {
    describes: Option<&'static str>,
    contains: &'static str,
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Member;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Member, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Member;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Member, E> {
        Ok(match name {
            _ if Some(name) == self.describes => Member::Describes,
            _ if name == self.contains => Member::Contains,
            "schemaUrl" if self.describes.is_some() => Member::SchemaUrl,
            _ => Member::Unknown,
        })
    }
}
