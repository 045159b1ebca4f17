//! Columns that hold lists of structs and maps of texts, built from plain child builders.
//!
//! Arrow's own `ListBuilder<StructBuilder>` finds its children by index and downcast at every append; offsets beside
//! typed children are checked by the compiler and cost less.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ListArray, MapArray, MapBuilder, MapFieldNames, NullBufferBuilder, StringBuilder, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Fields};

use super::attributes::Entries;

/// Where each row's list ends, and which rows have one.
#[derive(Debug)]
pub(super) struct Lists {
    lengths: Vec<usize>,
    present: NullBufferBuilder,
    ended: usize,
}

impl Lists {
    pub(super) fn new() -> Self {
        Self { lengths: Vec::new(), present: NullBufferBuilder::new(0), ended: 0 }
    }

    /// Ends a row: its list is what the children got since the last row, `children` being their length now.
    pub(super) fn end_row(&mut self, children: usize, present: bool) {
        self.lengths.push(children - self.ended);
        self.ended = children;
        self.present.append(present);
    }

    /// The column.
    pub(super) fn finish(mut self, fields: Vec<Field>, children: Vec<ArrayRef>) -> ArrayRef {
        let fields = Fields::from(fields);
        let item = Arc::new(Field::new("item", arrow::datatypes::DataType::Struct(fields.clone()), false));
        let structs = StructArray::try_new(fields, children, None).expect("the children were built for these fields");
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let lists = ListArray::try_new(item, offsets, Arc::new(structs), self.present.finish());
        Arc::new(lists.expect("the offsets end with the children"))
    }
}

/// A column of attribute maps.
#[derive(Debug)]
pub(super) struct Maps(MapBuilder<StringBuilder, StringBuilder>);

impl Maps {
    pub(super) fn new() -> Self {
        let names = MapFieldNames { entry: "entries".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
        Self(MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new()))
    }

    /// Appends one row.
    pub(super) fn append(&mut self, entries: &Entries<'_>) {
        for (key, value) in entries.iter() {
            self.0.keys().append_value(key);
            self.0.values().append_option(value);
        }
        self.0.append(true).expect("every key got a value");
    }

    /// The column.
    pub(super) fn finish(mut self) -> ArrayRef {
        let maps: MapArray = self.0.finish();
        Arc::new(maps)
    }
}
