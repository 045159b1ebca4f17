//! Spans as bytes of OTLP, written once from the record. Values of the generated types would be built, measured at each
//! level of nesting and freed for every decision, which takes most of a recorder's time (docs/decisions/0010). Here the
//! length of a message is put in front of it once it is written. What is written is compared with the generated types in
//! the tests; other signals, which are few, use those.

use std::fmt::{self, Write as _};

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::spans::Sink;

/// Field numbers of `KeyValue` and `AnyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING: u32 = 1;
const BOOL: u32 = 2;
const INT: u32 = 3;
const DOUBLE: u32 = 4;
const ARRAY: u32 = 5;

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Wire(Vec<u8>);

impl Wire {
    /// Empties it and keeps its memory.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Appends fields that are written already.
    pub(super) fn append(&mut self, fields: &[u8]) {
        self.0.extend_from_slice(fields);
    }

    /// A number as a varint; zero is what an absent one means.
    pub(super) fn varint(&mut self, field: u32, value: u64) {
        if value != 0 {
            encode_key(field, WireType::Varint, &mut self.0);
            encode_varint(value, &mut self.0);
        }
    }

    pub(super) fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            encode_key(field, WireType::SixtyFourBit, &mut self.0);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    pub(super) fn fixed32(&mut self, field: u32, value: u32) {
        if value != 0 {
            encode_key(field, WireType::ThirtyTwoBit, &mut self.0);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.head(field, value.len());
            self.0.extend_from_slice(value);
        }
    }

    fn head(&mut self, field: u32, length: usize) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => self.0.push(short),
            _ => encode_varint(length as u64, &mut self.0),
        }
    }

    /// A message inside this one, whose length is not known before.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let end = self.0.len();
        let length = end - at - 1;
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => self.0[at] = short,
            _ => {
                let more = encoded_len_varint(length as u64) - 1;
                self.0.resize(end + more, 0);
                self.0.copy_within(at + 1..end, at + 1 + more);
                encode_varint(length as u64, &mut &mut self.0[at..]);
            }
        }
    }

    /// The attributes of a message, as its repeated field of that number.
    pub(super) const fn attributes(&mut self, field: u32) -> AttributesOf<'_> {
        AttributesOf { wire: self, field }
    }
}

/// Text goes in as it is.
impl fmt::Write for Wire {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The attributes of a message under construction.
pub(super) struct AttributesOf<'w> {
    wire: &'w mut Wire,
    field: u32,
}

/// Bytes that a field takes whose number is below 16.
const fn field_bytes(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

impl AttributesOf<'_> {
    /// Key and head of a value of that length.
    fn key(&mut self, key: &str, value_bytes: usize) {
        self.wire.head(self.field, field_bytes(key.len()) + field_bytes(value_bytes));
        self.wire.head(KEY, key.len());
        self.wire.0.extend_from_slice(key.as_bytes());
        self.wire.head(VALUE, value_bytes);
    }

    fn list<T>(&mut self, key: &str, values: impl Iterator<Item = T>, one: impl Fn(&mut Wire, T)) {
        self.wire.message(self.field, |wire| {
            wire.bytes(KEY, key.as_bytes());
            wire.message(VALUE, |wire| wire.message(ARRAY, |wire| values.for_each(|value| one(wire, value))));
        });
    }
}

/// Of an attribute's values the default is written, too: it is there.
impl Sink for AttributesOf<'_> {
    fn text(&mut self, key: &str, value: &str) {
        self.key(key, field_bytes(value.len()));
        self.wire.head(STRING, value.len());
        self.wire.0.extend_from_slice(value.as_bytes());
    }

    fn int(&mut self, key: &str, value: i64) {
        // As protobuf has it, a negative one takes ten bytes.
        let bits = u64::from_ne_bytes(value.to_ne_bytes());
        self.key(key, 1 + encoded_len_varint(bits));
        encode_key(INT, WireType::Varint, &mut self.wire.0);
        encode_varint(bits, &mut self.wire.0);
    }

    fn double(&mut self, key: &str, value: f64) {
        self.key(key, 1 + size_of::<f64>());
        double(self.wire, value);
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key, 2);
        encode_key(BOOL, WireType::Varint, &mut self.wire.0);
        self.wire.0.push(u8::from(value));
    }

    fn texts<T: fmt::Display>(&mut self, key: &str, values: impl Iterator<Item = T>) {
        self.list(key, values, |wire, value| {
            wire.message(KEY, |wire| {
                wire.message(STRING, |wire| {
                    // Writing to memory cannot fail.
                    let _infallible = write!(wire, "{value}");
                });
            });
        });
    }

    fn doubles(&mut self, key: &str, values: impl Iterator<Item = f64>) {
        self.list(key, values, |wire, value| wire.message(1, |wire| double(wire, value)));
    }
}

fn double(wire: &mut Wire, value: f64) {
    encode_key(DOUBLE, WireType::SixtyFourBit, &mut wire.0);
    wire.0.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use proptest::prelude::*;
    use prost::Message;

    use super::super::spans::Attributes;
    use super::*;

    #[derive(Debug, Clone)]
    enum Given {
        Text(String),
        Int(i64),
        Double(f64),
        Bool(bool),
        Texts(Vec<String>),
        Doubles(Vec<f64>),
    }

    fn given() -> impl Strategy<Value = Given> {
        prop_oneof![
            any::<String>().prop_map(Given::Text),
            (100usize..20_000).prop_map(|length| Given::Text("x".repeat(length))),
            any::<i64>().prop_map(Given::Int),
            any::<f64>().prop_map(Given::Double),
            any::<bool>().prop_map(Given::Bool),
            proptest::collection::vec(any::<String>(), 0..6).prop_map(Given::Texts),
            proptest::collection::vec(-1e9..1e9, 0..40).prop_map(Given::Doubles),
        ]
    }

    fn put(sink: &mut impl Sink, key: &str, value: &Given) {
        match value {
            Given::Text(text) => sink.text(key, text),
            Given::Int(int) => sink.int(key, *int),
            Given::Double(double) => sink.double(key, *double),
            Given::Bool(bool) => sink.bool(key, *bool),
            Given::Texts(texts) => sink.texts(key, texts.iter()),
            Given::Doubles(doubles) => sink.doubles(key, doubles.iter().copied()),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_byte_for_byte_what_the_generated_types_write(
            all in proptest::collection::vec(("[a-z.]{1,40}", given()), 0..8),
            (name, start, flags) in (".{0,150}", any::<u64>(), any::<u32>()),
        ) {
            let (mut wire, mut attributes) = (Wire::default(), Attributes::default());
            wire.bytes(5, name.as_bytes());
            wire.fixed64(7, start);
            for (key, value) in &all {
                put(&mut wire.attributes(9), key, value);
                put(&mut attributes, key, value);
            }
            wire.fixed32(16, flags);
            let made = Span { name, start_time_unix_nano: start, attributes: attributes.0, flags, ..Default::default() };
            prop_assert_eq!(wire.into_bytes(), made.encode_to_vec());
        }

        #[test]
        fn a_message_of_any_length_has_it_in_front(length in 0usize..70_000) {
            let mut wire = Wire::default();
            wire.varint(10, 7);
            wire.message(2, |wire| wire.bytes(1, &vec![b'x'; length]));
            wire.varint(3, 1 << 60);
            let text = Some(AnyValue { value: Some(Value::StringValue("x".repeat(length))) });
            let expected = KeyValue { value: text.filter(|_| length > 0).or(Some(AnyValue::default())), ..Default::default() };
            let read = KeyValue::decode(wire.as_bytes());
            prop_assert_eq!(read.map(|it| it.value), Ok(expected.value));
        }
    }
}
