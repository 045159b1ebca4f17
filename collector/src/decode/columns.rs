//! Attributes that have a column of their own, found by the list in `lariat_schema::attributes`.
//!
//! An attribute whose value does not fit its column's type stays in the map of attributes: a wrong type must not lose
//! it, and a cast would invent a value. So does what an untrusted sender says about whose call it was.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
};
use arrow::datatypes::DataType;
use lariat_schema::attributes::{self, Carrier};
use lariat_schema::ids::RequestId;
use lariat_schema::tables::Table;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::attributes::{Entries, text};

/// Attributes that are believed only from trusted senders.
const TRUSTED_ONLY: [&str; 3] = [attributes::ACCOUNT_ID, attributes::PROFILE, attributes::DECISION_SEQ];

#[derive(Debug)]
enum Builder {
    Text(StringBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Double(Float64Builder),
    Bool(BooleanBuilder),
    Id(FixedSizeBinaryBuilder),
}

/// What a row has for a column; a text is named by the place of its attribute.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Empty,
    TextOf(usize),
    Int32(i32),
    Int64(i64),
    Double(f64),
    Bool(bool),
    Id([u8; 16]),
}

/// The typed columns of one table.
#[derive(Debug)]
pub(super) struct TypedColumns {
    places: HashMap<&'static str, usize>,
    names: Vec<&'static str>,
    builders: Vec<Builder>,
    slots: Vec<Slot>,
    trusted: bool,
}

impl TypedColumns {
    /// The columns of `table` that an attribute of a record fills.
    pub(super) fn new(table: Table, trusted: bool) -> Self {
        let schema = table.schema();
        let mut this =
            Self { places: HashMap::new(), names: Vec::new(), builders: Vec::new(), slots: Vec::new(), trusted };
        for attribute in attributes::ALL {
            let Some(column) = attribute.column else { continue };
            if attribute.carrier == Carrier::Resource {
                continue;
            }
            let Ok(field) = schema.field_with_name(column) else { continue };
            let builder = match field.data_type() {
                DataType::Utf8 => Builder::Text(StringBuilder::new()),
                DataType::Int32 => Builder::Int32(Int32Builder::new()),
                DataType::Int64 => Builder::Int64(Int64Builder::new()),
                DataType::Float64 => Builder::Double(Float64Builder::new()),
                DataType::Boolean => Builder::Bool(BooleanBuilder::new()),
                DataType::FixedSizeBinary(16) => Builder::Id(FixedSizeBinaryBuilder::new(16)),
                _ => continue,
            };
            this.places.insert(attribute.key, this.names.len());
            this.names.push(column);
            this.builders.push(builder);
            this.slots.push(Slot::Empty);
        }
        this
    }

    /// Appends a row from its attributes; what has no column, or does not fit it, goes to `rest`.
    pub(super) fn append<'a>(&mut self, attributes: &'a [KeyValue], rest: &mut Entries<'a>) {
        self.slots.fill(Slot::Empty);
        for (index, attribute) in attributes.iter().enumerate() {
            let slot = self.place(&attribute.key).and_then(|place| {
                let value = attribute.value.as_ref()?.value.as_ref()?;
                Some((place, fit(&self.builders[place], value, index)?))
            });
            match slot {
                Some((place, slot)) => self.slots[place] = slot,
                None => rest.push(attribute),
            }
        }
        for (builder, slot) in self.builders.iter_mut().zip(&self.slots) {
            append(builder, *slot, attributes);
        }
    }

    fn place(&self, key: &str) -> Option<usize> {
        if !self.trusted && TRUSTED_ONLY.contains(&key) {
            return None;
        }
        self.places.get(key).copied()
    }

    /// The columns by name.
    pub(super) fn finish(self) -> impl Iterator<Item = (&'static str, ArrayRef)> {
        self.names.into_iter().zip(self.builders).map(|(name, builder)| {
            let column: ArrayRef = match builder {
                Builder::Text(mut builder) => Arc::new(builder.finish()),
                Builder::Int32(mut builder) => Arc::new(builder.finish()),
                Builder::Int64(mut builder) => Arc::new(builder.finish()),
                Builder::Double(mut builder) => Arc::new(builder.finish()),
                Builder::Bool(mut builder) => Arc::new(builder.finish()),
                Builder::Id(mut builder) => Arc::new(builder.finish()),
            };
            (name, column)
        })
    }
}

/// The value as its column holds it, if it fits. Whole numbers fit a column of floats, and any scalar one of texts.
#[allow(clippy::cast_precision_loss, reason = "a float column of counts is exact up to 2^53")]
fn fit(builder: &Builder, value: &Value, index: usize) -> Option<Slot> {
    match (builder, value) {
        (
            Builder::Text(_),
            Value::StringValue(_) | Value::IntValue(_) | Value::BoolValue(_) | Value::DoubleValue(_),
        ) => Some(Slot::TextOf(index)),
        (Builder::Int32(_), Value::IntValue(number)) => i32::try_from(*number).ok().map(Slot::Int32),
        (Builder::Int64(_), Value::IntValue(number)) => Some(Slot::Int64(*number)),
        (Builder::Double(_), Value::DoubleValue(number)) => Some(Slot::Double(*number)),
        (Builder::Double(_), Value::IntValue(number)) => Some(Slot::Double(*number as f64)),
        (Builder::Bool(_), Value::BoolValue(flag)) => Some(Slot::Bool(*flag)),
        (Builder::Id(_), Value::StringValue(text)) => text.parse::<RequestId>().ok().map(|id| Slot::Id(*id.as_bytes())),
        _ => None,
    }
}

fn append(builder: &mut Builder, slot: Slot, attributes: &[KeyValue]) {
    match (builder, slot) {
        (Builder::Text(builder), Slot::TextOf(index)) => {
            builder.append_option(text(attributes[index].value.as_ref()));
        }
        (Builder::Int32(builder), Slot::Int32(value)) => builder.append_value(value),
        (Builder::Int64(builder), Slot::Int64(value)) => builder.append_value(value),
        (Builder::Double(builder), Slot::Double(value)) => builder.append_value(value),
        (Builder::Bool(builder), Slot::Bool(value)) => builder.append_value(value),
        (Builder::Id(builder), Slot::Id(value)) => builder.append_value(value).expect("the id has the column's width"),
        (Builder::Text(builder), _) => builder.append_null(),
        (Builder::Int32(builder), _) => builder.append_null(),
        (Builder::Int64(builder), _) => builder.append_null(),
        (Builder::Double(builder), _) => builder.append_null(),
        (Builder::Bool(builder), _) => builder.append_null(),
        (Builder::Id(builder), _) => builder.append_null(),
    }
}
