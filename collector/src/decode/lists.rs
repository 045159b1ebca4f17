//! Columns that hold lists of structs and maps of texts, built from plain child builders.
//!
//! Arrow's own `ListBuilder<StructBuilder>` finds its children by index and downcast at every append; offsets beside
//! typed children are checked by the compiler and cost less.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, MapArray, NullBufferBuilder, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use lariat_schema::tables::attribute_map;

use super::arrays::Texts;
use super::attributes::Entries;
use super::shapes::Shapes;
use crate::columns::Nulls;

/// Where each row's list ends, and which rows have one. Nothing is written down before the first row that has.
#[derive(Debug)]
pub(super) struct Lists {
    /// Rows without a list, before all others.
    absent: usize,
    lengths: Vec<usize>,
    present: NullBufferBuilder,
    ended: usize,
}

impl Lists {
    pub(super) fn new() -> Self {
        Self::after(0)
    }

    /// After so many rows without a list.
    pub(super) fn after(absent: usize) -> Self {
        Self { absent, lengths: Vec::new(), present: NullBufferBuilder::new(0), ended: 0 }
    }

    /// True if no row has a list.
    pub(super) fn is_absent(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Ends a row: its list is what the children got since the last row, `children` being their length now.
    pub(super) fn end_row(&mut self, children: usize, present: bool) {
        if self.lengths.is_empty() {
            if !present && children == self.ended {
                self.absent += 1;
                return;
            }
            self.lengths.resize(self.absent, 0);
            self.present.append_n_nulls(self.absent);
        }
        self.lengths.push(children - self.ended);
        self.ended = children;
        self.present.append(present);
    }

    /// The column.
    pub(super) fn finish(mut self, fields: Vec<Field>, children: Vec<ArrayRef>) -> ArrayRef {
        let fields = Fields::from(fields);
        let item = Arc::new(Field::new("item", DataType::Struct(fields.clone()), false));
        if self.lengths.is_empty() {
            return Nulls::default().of(&DataType::List(item), self.absent);
        }
        let structs = StructArray::try_new(fields, children, None).expect("the children were built for these fields");
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let lists = ListArray::try_new(item, offsets, Arc::new(structs), self.present.finish());
        Arc::new(lists.expect("the offsets end with the children"))
    }
}

/// A column of attribute maps.
#[derive(Debug)]
pub(super) struct Maps {
    offsets: Vec<i32>,
    keys: Texts,
    values: Texts,
    entries: usize,
    /// Rows that room is made for with the next.
    room: usize,
    shapes: Shapes,
}

impl Maps {
    pub(super) fn new() -> Self {
        Self {
            offsets: vec![0],
            keys: Texts::new(),
            values: Texts::new(),
            entries: 0,
            room: 0,
            shapes: Shapes::default(),
        }
    }

    /// Makes room for so many rows like the next one.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.room = rows;
    }

    /// Appends as many rows as `rows`, all the same.
    pub(super) fn append_times(&mut self, entries: &Entries<'_>, rows: usize) {
        if rows == 0 {
            return;
        }
        self.offsets.reserve(rows);
        self.append(entries);
        let more = rows - 1;
        if entries.any_absent() {
            return (0..more).for_each(|_| self.append(entries));
        }
        self.keys.repeat_last(entries.len(), more);
        self.values.repeat_last(entries.len(), more);
        for _ in 0..more {
            self.entries += entries.len();
            self.end_row();
        }
    }

    /// Appends one row, its keys sorted.
    pub(super) fn append(&mut self, entries: &Entries<'_>) {
        self.make_room(entries.len());
        for (key, content) in entries.iter() {
            self.keys.set(self.entries, key);
            if !content.is_absent() {
                self.values.set_with(self.entries, |bytes| content.write(bytes));
            }
            self.entries += 1;
        }
        self.end_row();
    }

    /// Appends one row, its keys in any order. Of a key that stands more than once the last one counts.
    pub(super) fn append_unsorted(&mut self, entries: &mut Entries<'_>) {
        self.make_room(entries.len());
        let Some(shape) = self.shapes.of(entries) else {
            entries.sort();
            return self.append(entries);
        };
        self.keys.extend(self.entries, &shape.keys, &shape.ends);
        if entries.any_absent() {
            for (place, row) in shape.sorted.iter().zip(self.entries..) {
                let content = entries.content(*place);
                if !content.is_absent() {
                    self.values.set_with(row, |bytes| content.write(bytes));
                }
            }
        } else {
            let write = |nth: usize, bytes: &mut Vec<u8>| entries.content(shape.sorted[nth]).write(bytes);
            self.values.extend_with(self.entries, shape.sorted.len(), write);
        }
        self.entries += shape.sorted.len();
        self.end_row();
    }

    fn make_room(&mut self, entries: usize) {
        if self.room > 0 {
            let entries = self.entries + entries * self.room;
            self.offsets.reserve_exact(std::mem::take(&mut self.room));
            self.keys.reserve(entries);
            self.values.reserve(entries);
        }
    }

    fn end_row(&mut self) {
        self.offsets.push(i32::try_from(self.entries).unwrap_or(i32::MAX));
    }

    /// The column.
    pub(super) fn finish(self) -> ArrayRef {
        let DataType::Map(field, sorted) = attribute_map() else { unreachable!("the schema says that it is a map") };
        let DataType::Struct(fields) = field.data_type() else { unreachable!("a map's entries are structs") };
        let columns = vec![self.keys.finish(self.entries), self.values.finish(self.entries)];
        let entries = StructArray::try_new(fields.clone(), columns, None).expect("every key got a value");
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let maps = MapArray::try_new(field, offsets, entries, None, sorted);
        Arc::new(maps.expect("the offsets end with the entries"))
    }
}
