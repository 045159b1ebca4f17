//! Doubles as protobuf's JSON lets senders write them: numbers, numbers in quotes, `"NaN"`, `"Infinity"`, `"-Infinity"`.
//!
//! The generated types read numbers only, and some of them take a value that they cannot read for an absent one, so that
//! nobody would hear of it. This stands between them and the parser, and hands on a number where the text under a
//! member that holds doubles is one. Rewriting the body was rejected: JSON has no way to write a NaN.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

/// The members of OTLP's JSON that hold doubles.
pub(super) const DOUBLES: [&str; 9] =
    ["asDouble", "doubleValue", "sum", "min", "max", "zeroThreshold", "quantile", "value", "explicitBounds"];

/// What a text stands for where a double is wanted.
fn double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        // What is beyond a double's range is none, and Rust's own names are no JSON.
        _ if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
            text.parse().ok().filter(|number: &f64| number.is_finite())
        }
        _ => None,
    }
}

/// A source of values, or a visitor of them, that knows whether doubles are wanted here.
pub(super) struct Doubles<T> {
    inner: T,
    wanted: bool,
}

impl<T> Doubles<T> {
    /// The whole of a body.
    pub(super) fn of(inner: T) -> Self {
        Self { inner, wanted: false }
    }
}

macro_rules! forward {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let wanted = self.wanted;
            self.inner.$method(Doubles { inner: visitor, wanted })
        })+
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Doubles<D> {
    type Error = D::Error;

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, wanted } = self;
        let visitor = Doubles { inner: visitor, wanted };
        // Asked for a number, the parser would refuse a text before anybody sees it.
        if wanted { inner.deserialize_any(visitor) } else { inner.deserialize_f64(visitor) }
    }

    forward! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit
        deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        let wanted = self.wanted;
        self.inner.deserialize_unit_struct(name, Doubles { inner: visitor, wanted })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        let wanted = self.wanted;
        self.inner.deserialize_newtype_struct(name, Doubles { inner: visitor, wanted })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        let wanted = self.wanted;
        self.inner.deserialize_tuple(len, Doubles { inner: visitor, wanted })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let wanted = self.wanted;
        self.inner.deserialize_tuple_struct(name, len, Doubles { inner: visitor, wanted })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let wanted = self.wanted;
        self.inner.deserialize_struct(name, fields, Doubles { inner: visitor, wanted })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let wanted = self.wanted;
        self.inner.deserialize_enum(name, variants, Doubles { inner: visitor, wanted })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($kind:ty))+) => {
        $(fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.inner.$method(value)
        })+
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Doubles<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    visit! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        match double(text).filter(|_| self.wanted) {
            Some(number) => self.inner.visit_f64(number),
            None => self.inner.visit_str(text),
        }
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<V::Value, E> {
        match double(text).filter(|_| self.wanted) {
            Some(number) => self.inner.visit_f64(number),
            None => self.inner.visit_borrowed_str(text),
        }
    }

    fn visit_string<E: Error>(self, text: String) -> Result<V::Value, E> {
        match double(&text).filter(|_| self.wanted) {
            Some(number) => self.inner.visit_f64(number),
            None => self.inner.visit_string(text),
        }
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Doubles { inner: deserializer, wanted: self.wanted })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Doubles { inner: deserializer, wanted: self.wanted })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Doubles { inner: items, wanted: self.wanted })
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Members { inner: members, doubles: Cell::new(false) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(data)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Doubles<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Doubles { inner: deserializer, wanted: self.wanted })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Doubles<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Doubles { inner: seed, wanted: self.wanted })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The members of an object, the last of whose names says whether its value is a double.
struct Members<A> {
    inner: A,
    doubles: Cell<bool>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.doubles.set(false);
        self.inner.next_key_seed(Name { inner: seed, doubles: &self.doubles })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Doubles { inner: seed, wanted: self.doubles.get() })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// Whoever reads a member's name, with a look over the shoulder.
struct Name<'c, T> {
    inner: T,
    doubles: &'c Cell<bool>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Name { inner: deserializer, doubles: self.doubles })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Name<'_, D> {
    type Error = D::Error;

    /// A name is a text, whatever it is asked for as.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Name { inner: visitor, doubles: self.doubles })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Name<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        self.doubles.set(DOUBLES.contains(&name));
        self.inner.visit_str(name)
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<V::Value, E> {
        self.doubles.set(DOUBLES.contains(&name));
        self.inner.visit_borrowed_str(name)
    }

    fn visit_string<E: Error>(self, name: String) -> Result<V::Value, E> {
        self.doubles.set(DOUBLES.contains(&name.as_str()));
        self.inner.visit_string(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_double_as_protobuf_reads_it_and_no_other() {
        for (text, number) in [("1.5", 1.5), ("-2e3", -2_000.0), ("0", 0.0), ("Infinity", f64::INFINITY)] {
            assert_eq!(double(text), Some(number), "{text}");
        }
        assert!(double("NaN").is_some_and(f64::is_nan));
        for text in ["", "nan", "inf", "infinity", "+1", "1e999", "0x1", " 1", "1,5", "-"] {
            assert_eq!(double(text), None, "{text}");
        }
    }
}
