//! Attributes as text: what stands in the map columns.
//!
//! A map has one type for all values, so what is no text is written as JSON; a text stays as it is, without quotes,
//! since that is what people compare with. Bytes are base64, as OpenTelemetry's mapping to non-OTLP formats has them.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use serde_json::Value as Json;

/// Attributes of one row, to be sorted by key before they are stored.
#[derive(Debug, Default, Clone)]
pub(super) struct Entries<'a>(Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>);

impl<'a> Entries<'a> {
    /// The attributes of a list, sorted.
    pub(super) fn of(attributes: &'a [KeyValue]) -> Self {
        let mut entries = Self(Vec::with_capacity(attributes.len()));
        for attribute in attributes {
            entries.push(attribute);
        }
        entries.sort();
        entries
    }

    /// Adds an attribute.
    pub(super) fn push(&mut self, attribute: &'a KeyValue) {
        self.0.push((Cow::Borrowed(&attribute.key), text(attribute.value.as_ref())));
    }

    /// Adds a text under a key.
    pub(super) fn put(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.0.push((key.into(), Some(value.into())));
    }

    /// Adds the attribute under another key.
    pub(super) fn push_as(&mut self, key: String, value: Option<&'a AnyValue>) {
        self.0.push((Cow::Owned(key), text(value)));
    }

    /// Sorts by key. Of a key that stands more than once, which OTLP forbids, the last one counts.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        self.0.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1.take();
            }
            same
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_deref()))
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.map_or(0, str::len)).sum()
    }

    /// The same, owning its texts.
    pub(super) fn into_owned(self) -> Entries<'static> {
        Entries(
            self.0
                .into_iter()
                .map(|(key, value)| (Cow::Owned(key.into_owned()), value.map(|value| Cow::Owned(value.into_owned()))))
                .collect(),
        )
    }
}

/// A value as text; none for an empty value.
pub(super) fn text(value: Option<&AnyValue>) -> Option<Cow<'_, str>> {
    Some(match value?.value.as_ref()? {
        Value::StringValue(text) => Cow::Borrowed(text),
        Value::BoolValue(true) => Cow::Borrowed("true"),
        Value::BoolValue(false) => Cow::Borrowed("false"),
        Value::IntValue(number) => Cow::Owned(number.to_string()),
        Value::DoubleValue(number) => Cow::Owned(double(*number)),
        Value::BytesValue(bytes) => Cow::Owned(BASE64.encode(bytes)),
        nested @ (Value::ArrayValue(_) | Value::KvlistValue(_)) => Cow::Owned(json(nested).to_string()),
        Value::StringValueStrindex(_) => return None,
    })
}

/// The number in JSON; `NaN`, `Infinity` and `-Infinity`, which JSON lacks, by the names that protobuf's JSON has.
fn double(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else {
        Json::from(number).to_string()
    }
}

/// Depth is bounded by the decoders: 100 levels of protobuf, 128 of JSON.
fn json(value: &Value) -> Json {
    let any = |value: Option<&AnyValue>| value.and_then(|any| any.value.as_ref()).map_or(Json::Null, json);
    match value {
        Value::StringValue(text) => Json::from(text.as_str()),
        Value::BoolValue(flag) => Json::from(*flag),
        Value::IntValue(number) => Json::from(*number),
        Value::DoubleValue(number) if number.is_finite() => Json::from(*number),
        Value::DoubleValue(number) => Json::from(double(*number)),
        Value::BytesValue(bytes) => Json::from(BASE64.encode(bytes)),
        Value::ArrayValue(array) => array.values.iter().map(|value| any(Some(value))).collect(),
        Value::KvlistValue(list) => {
            Json::Object(list.values.iter().map(|pair| (pair.key.clone(), any(pair.value.as_ref()))).collect())
        }
        Value::StringValueStrindex(_) => Json::Null,
    }
}
