//! The identities of the record, as types that carry their role: four string-like ids travel together through every
//! stage, and a `ProviderId` handed over where a `ChainName` belongs should not compile.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

/// A text that is no id of the wanted form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no {what}: expected {expected}")]
pub struct BadId {
    /// The kind of id, in words.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// The form it should have.
    pub expected: &'static str,
}

macro_rules! names {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self { Self(text.into()) }
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:?}", &*self.0) }
        }
        impl From<&str> for $name { fn from(text: &str) -> Self { Self::new(text) } }
        impl From<String> for $name { fn from(text: String) -> Self { Self::new(text) } }
        impl AsRef<str> for $name { fn as_ref(&self) -> &str { &self.0 } }
        impl std::borrow::Borrow<str> for $name { fn borrow(&self) -> &str { &self.0 } }
    )+};
}

names! {
    /// Current name of a node, `basename@address`, with `:port` of its node API when that is not 4319.
    NodeId,
    /// Region of a node.
    Region,
    /// Slug of a profile.
    ProfileName,
    /// Key of a chain in a profile.
    ChainName,
    /// Configured id of a provider, unique in its chain and profile.
    ProviderId,
    /// The physical upstream behind providers of several profiles.
    InstanceId,
    /// A tenant.
    AccountId,
}

impl ProfileName {
    /// The slug of the profile that is used where none is named.
    pub const DEFAULT: &'static str = "public";
}

macro_rules! uuids {
    ($($(#[$meta:meta])* $name:ident, $what:literal);+ $(;)?) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The sixteen bytes, as stored in tables.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] { self.0.as_bytes() }
            /// From the sixteen bytes of a table.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self { Self(Uuid::from_bytes(bytes)) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0.hyphenated(), f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Uuid::try_parse(text).map(Self).map_err(|_| BadId { what: $what, found: text.to_owned(), expected: "a UUID, with or without hyphens" })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> { serializer.collect_str(self) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}

uuids! {
    /// Made by the proxy per HTTP request or WebSocket frame (UUIDv7); where it starts the trace it is the trace id.
    RequestId, "request id";
    /// Owner of a data directory, made once and durable: it owns files, sequences, membership and coverage.
    StoreId, "store id";
    /// New at every start of a node.
    BootId, "boot id";
}

macro_rules! hex_ids {
    ($($(#[$meta:meta])* $name:ident, $len:literal, $what:literal, $expected:literal);+ $(;)?) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// True for the all-zero id, which OpenTelemetry calls invalid.
            #[must_use]
            pub fn is_zero(&self) -> bool { self.0 == [0; $len] }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&hex::encode(self.0)) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| BadId { what: $what, found: text.to_owned(), expected: $expected })?;
                Ok(Self(bytes))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> { serializer.collect_str(self) }
        }
    )+};
}

hex_ids! {
    /// Identity of a trace.
    TraceId, 16, "trace id", "32 hexadecimal digits";
    /// Identity of a span within its trace.
    SpanId, 8, "span id", "16 hexadecimal digits";
}

impl From<RequestId> for TraceId {
    fn from(id: RequestId) -> Self {
        Self(*id.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_read_with_and_without_hyphens_and_written_with_them() {
        let hyphenated = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab";
        let plain = hyphenated.replace('-', "");
        assert_eq!(hyphenated.parse::<RequestId>(), plain.parse::<RequestId>());
        assert_eq!(plain.parse::<RequestId>().unwrap().to_string(), hyphenated);
    }

    #[test]
    fn a_trace_id_of_the_wrong_length_is_refused() {
        assert!("abcd".parse::<TraceId>().is_err());
    }
}
