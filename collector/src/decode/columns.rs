//! Attributes that have a column of their own, found by the list in `lariat_schema::attributes`.
//!
//! An attribute whose value does not fit its column's type stays in the map of attributes: a wrong type must not lose
//! it, and a cast would invent a value. So does what an untrusted sender says about whose call it was.

use std::sync::LazyLock;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use lariat_schema::attributes::{self, Carrier};
use lariat_schema::ids::RequestId;
use lariat_schema::tables::Table;
use xxhash_rust::xxh3::xxh3_64;

use super::arrays::{Flags, Ids, Numbers, Texts};
use super::attributes::Entries;
use super::view::{Attribute, Value};

/// Attributes that are believed only from trusted senders.
const TRUSTED_ONLY: [&str; 3] = [attributes::ACCOUNT_ID, attributes::PROFILE, attributes::DECISION_SEQ];
/// Attributes of a record whose keys are remembered, and how long a key may be: what honest records have.
const KNOWN: usize = 64;
const KNOWN_BYTES: usize = 64;
/// Places of the table of keys: twice the keys and more, so that most are found at once.
const PLACES: usize = 256;

/// Which attribute fills which column of a table: the same for every request.
#[derive(Debug)]
struct Layout {
    columns: Vec<Place>,
    /// Index into `columns` by hash of the key; the next place is asked where two meet.
    by_key: [Option<u8>; PLACES],
}

#[derive(Debug)]
struct Place {
    key: &'static str,
    column: &'static str,
    data_type: DataType,
    trusted_only: bool,
}

impl Layout {
    fn new(table: Table) -> Self {
        let schema = table.schema();
        let mut layout = Self { columns: Vec::new(), by_key: [None; PLACES] };
        for attribute in attributes::ALL.iter().filter(|attribute| attribute.carrier != Carrier::Resource) {
            let Some(column) = attribute.column else { continue };
            let Ok(field) = schema.field_with_name(column) else { continue };
            let data_type = field.data_type().clone();
            if Column::new(&data_type).is_none() {
                continue;
            }
            let Ok(index) = u8::try_from(layout.columns.len()) else { continue };
            let free = places(attribute.key).find(|place| layout.by_key[*place].is_none());
            layout.by_key[free.expect("there are fewer attributes than places")] = Some(index);
            let trusted_only = TRUSTED_ONLY.contains(&attribute.key);
            layout.columns.push(Place { key: attribute.key, column, data_type, trusted_only });
        }
        layout
    }

    fn of(table: Table) -> &'static Self {
        static SPANS: LazyLock<Layout> = LazyLock::new(|| Layout::new(Table::Spans));
        static LOGS: LazyLock<Layout> = LazyLock::new(|| Layout::new(Table::Logs));
        if table == Table::Logs { &LOGS } else { &SPANS }
    }

    fn find(&self, key: &str) -> Option<usize> {
        for place in places(key) {
            let index = usize::from(self.by_key[place]?);
            if self.columns[index].key == key {
                return Some(index);
            }
        }
        None
    }
}

/// Where a key may stand, in the order in which places are asked.
#[allow(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
fn places(key: &str) -> impl Iterator<Item = usize> {
    let first = xxh3_64(key.as_bytes()) as usize;
    (0..PLACES).map(move |step| (first + step) % PLACES)
}

#[derive(Debug)]
enum Column {
    Text(Texts),
    Int32(Numbers<Int32Type>),
    Int64(Numbers<Int64Type>),
    Double(Numbers<Float64Type>),
    Bool(Flags),
    Id(Ids<16>),
}

impl Column {
    fn new(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8 => Self::Text(Texts::new()),
            DataType::Int32 => Self::Int32(Numbers::new()),
            DataType::Int64 => Self::Int64(Numbers::new()),
            DataType::Float64 => Self::Double(Numbers::new()),
            DataType::Boolean => Self::Bool(Flags::new()),
            DataType::FixedSizeBinary(16) => Self::Id(Ids::new()),
            _ => return None,
        })
    }

    fn reserve(&mut self, rows: usize) {
        match self {
            Self::Text(column) => column.reserve(rows),
            Self::Int32(column) => column.reserve(rows),
            Self::Int64(column) => column.reserve(rows),
            Self::Double(column) => column.reserve(rows),
            Self::Bool(_) => {}
            Self::Id(column) => column.reserve(rows),
        }
    }

    /// Gives the value to a row, if it fits. Whole numbers fit a column of floats, and any scalar one of texts.
    fn set(&mut self, row: usize, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Text(column), Value::Text(text)) => column.set(row, text),
            (Self::Text(column), Value::Int(_) | Value::Bool(_) | Value::Double(_)) => {
                column.set_with(row, |bytes| value.write(bytes));
            }
            (Self::Int32(column), Value::Int(number)) => match i32::try_from(number) {
                Ok(number) => column.set(row, number),
                Err(_) => return false,
            },
            (Self::Int64(column), Value::Int(number)) => column.set(row, number),
            (Self::Double(column), Value::Double(_) | Value::Int(_)) => {
                column.set(row, value.as_double().unwrap_or_default());
            }
            (Self::Bool(column), Value::Bool(flag)) => column.set(row, flag),
            (Self::Id(column), Value::Text(text)) => match text.parse::<RequestId>() {
                Ok(id) => column.set(row, *id.as_bytes()),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Text(column) => column.is_empty(),
            Self::Int32(column) => column.is_empty(),
            Self::Int64(column) => column.is_empty(),
            Self::Double(column) => column.is_empty(),
            Self::Bool(column) => column.is_empty(),
            Self::Id(column) => column.is_empty(),
        }
    }

    fn finish(self, rows: usize) -> ArrayRef {
        match self {
            Self::Text(column) => column.finish(rows),
            Self::Int32(column) => column.finish(rows),
            Self::Int64(column) => column.finish(rows),
            Self::Double(column) => column.finish(rows),
            Self::Bool(column) => column.finish(rows),
            Self::Id(column) => column.finish(rows),
        }
    }
}

/// The typed columns of one table.
#[derive(Debug)]
pub(super) struct TypedColumns {
    layout: &'static Layout,
    columns: Vec<Column>,
    trusted: bool,
    /// The column of each key that has a number, once it was looked up.
    numbered: Vec<Option<Option<usize>>>,
    /// Keys without one that records before had in the same place, and the column of each.
    known: Vec<[Known; 2]>,
}

/// A key and its column, if it has one. Comparing it with a key costs less than looking that up.
#[derive(Debug, Default)]
struct Known {
    key: String,
    column: Option<usize>,
}

impl TypedColumns {
    /// The columns of `table` that an attribute of a record fills.
    pub(super) fn new(table: Table, trusted: bool) -> Self {
        let layout = Layout::of(table);
        let columns = layout.columns.iter().filter_map(|place| Column::new(&place.data_type)).collect();
        Self { layout, columns, trusted, numbered: Vec::new(), known: Vec::new() }
    }

    /// Makes room for so many rows in every column that has a value.
    pub(super) fn reserve(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.reserve(rows);
        }
    }

    /// Fills a row from its attributes; what has no column, or does not fit it, goes to `rest`.
    pub(super) fn append<'a>(&mut self, row: usize, attributes: &[Attribute<'a>], rest: &mut Entries<'a>) {
        for (nth, attribute) in attributes.iter().enumerate() {
            if !self.set(row, nth, attribute) {
                rest.push(*attribute);
            }
        }
    }

    fn set(&mut self, row: usize, nth: usize, attribute: &Attribute<'_>) -> bool {
        let column = if attribute.number > 0 { self.find_numbered(attribute) } else { self.find(nth, attribute.key) };
        let Some(index) = column else { return false };
        let believed = self.trusted || !self.layout.columns[index].trusted_only;
        believed && self.columns[index].set(row, attribute.value)
    }

    /// The column of a key that has a number.
    #[inline]
    fn find_numbered(&mut self, attribute: &Attribute<'_>) -> Option<usize> {
        let number = usize::from(attribute.number);
        if let Some(Some(column)) = self.numbered.get(number) {
            return *column;
        }
        let column = self.layout.find(attribute.key);
        if self.numbered.len() <= number {
            self.numbered.resize(number + 1, None);
        }
        self.numbered[number] = Some(column);
        column
    }

    /// The column of the `nth` key of a record.
    fn find(&mut self, nth: usize, key: &str) -> Option<usize> {
        if let Some([last, before]) = self.known.get_mut(nth) {
            if last.key != key {
                std::mem::swap(last, before);
            }
            if last.key == key {
                return last.column;
            }
        }
        let column = self.layout.find(key);
        if nth < KNOWN && key.len() <= KNOWN_BYTES {
            if self.known.len() <= nth {
                self.known.resize_with(nth + 1, <[Known; 2]>::default);
            }
            let last = &mut self.known[nth][0];
            last.key.clear();
            last.key.push_str(key);
            last.column = column;
        }
        column
    }

    /// Gives an id to a row under a key that has a column of ids.
    pub(super) fn set_id(&mut self, row: usize, key: &str, id: [u8; 16]) {
        if let Some(Column::Id(column)) = self.layout.find(key).map(|index| &mut self.columns[index]) {
            column.set(row, id);
        }
    }

    /// The columns of so many rows by name, as far as they have any value.
    pub(super) fn finish(self, rows: usize) -> impl Iterator<Item = (&'static str, ArrayRef)> {
        let columns = self.layout.columns.iter().zip(self.columns).filter(|(_, column)| !column.is_empty());
        columns.map(move |(place, column)| (place.column, column.finish(rows)))
    }
}
