//! Texts of an entry's rows as numbers of distinct texts, which stand before the rows.
//!
//! Most texts of a request are the same in most of its rows, and each takes an offset besides. What is left when they are numbers
//! is a quarter, and the compressor has as much less to look at. Arrow's own dictionaries were rejected: each is a message of
//! its own of some hundred bytes, and an entry has dozens. A column whose texts hardly repeat stays as it is.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, StringArray, StructArray, UInt8Array, UInt16Array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, UInt8Type, UInt16Type};
use arrow::error::ArrowError;

use super::entry::{BadEntry, Cursor, MAX_ENTRY_BYTES, put_length};
use crate::dictionary::{Dictionary, NO_VALUE, Texts};

/// How a column of texts is written: as such, or as numbers of so many bytes.
const PLAIN: u8 = 0;
const BYTES: u8 = 1;
const SHORTS: u8 = 2;
/// Texts that are numbered before it is looked at whether they repeat.
const TRIAL_TEXTS: usize = 64;

/// Rows below which all texts stay as they are: of few rows hardly any text repeats.
const MIN_ROWS: usize = 32;

/// The batch with numbers for its texts where these repeat. The texts are written behind `out`.
pub(super) fn number(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<RecordBatch, BadEntry> {
    let worth_it = batch.num_rows() >= MIN_ROWS;
    out.push(u8::from(worth_it));
    if !worth_it {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    let mut texts = Dictionary::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let column = number_texts(column, &mut texts, 1, out)?;
        fields.push(retyped(field, column.data_type()));
        columns.push(column);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn retyped(field: &FieldRef, data_type: &DataType) -> FieldRef {
    if field.data_type() == data_type {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), data_type.clone(), field.is_nullable()))
}

/// `before` is how far ahead of a text the one stands that it mostly equals: that of the row before.
fn number_texts<'a>(
    column: &'a ArrayRef,
    texts: &mut Dictionary<'a>,
    before: usize,
    out: &mut Vec<u8>,
) -> Result<ArrayRef, BadEntry> {
    match column.data_type() {
        DataType::Utf8 => number_column(column, texts, before, out),
        DataType::Struct(_) => number_struct(column.as_struct(), texts, before, out),
        DataType::List(item) => {
            let lists: &ListArray = column.as_list();
            let values = number_texts(lists.values(), texts, first_length(lists.value_offsets()), out)?;
            let item = retyped(item, values.data_type());
            Ok(Arc::new(ListArray::try_new(item, lists.offsets().clone(), values, lists.nulls().cloned())?))
        }
        DataType::Map(entry, sorted) => {
            let maps = column.as_map();
            let entries = number_struct(maps.entries(), texts, first_length(maps.value_offsets()), out)?;
            let entry = retyped(entry, entries.data_type());
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(entry, offsets, entries.as_struct().clone(), nulls, *sorted)?))
        }
        _ => Ok(Arc::clone(column)),
    }
}

/// Elements of the first row that has any.
fn first_length(offsets: &[i32]) -> usize {
    let lengths = offsets.iter().zip(offsets.iter().skip(1)).map(|(from, to)| to - from);
    lengths.filter_map(|length| usize::try_from(length).ok()).find(|length| *length > 0).unwrap_or(1)
}

fn number_struct<'a>(
    structs: &'a StructArray,
    texts: &mut Dictionary<'a>,
    before: usize,
    out: &mut Vec<u8>,
) -> Result<ArrayRef, BadEntry> {
    let mut fields = Vec::with_capacity(structs.num_columns());
    let mut columns = Vec::with_capacity(structs.num_columns());
    for (field, column) in structs.fields().iter().zip(structs.columns()) {
        let column = number_texts(column, texts, before, out)?;
        fields.push(retyped(field, column.data_type()));
        columns.push(column);
    }
    Ok(Arc::new(StructArray::try_new(Fields::from(fields), columns, structs.nulls().cloned())?))
}

fn number_column<'a>(
    column: &'a ArrayRef,
    dictionary: &mut Dictionary<'a>,
    before: usize,
    out: &mut Vec<u8>,
) -> Result<ArrayRef, BadEntry> {
    let texts: &StringArray = column.as_string();
    let Some(numbers) = numbers_of(Texts::of(texts), dictionary, before) else {
        out.push(PLAIN);
        return Ok(Arc::clone(column));
    };
    let nulls = texts.nulls().cloned();
    let narrow = dictionary.values().len() <= 1 << u8::BITS;
    out.push(if narrow { BYTES } else { SHORTS });
    put_length(out, dictionary.values().len())?;
    for value in dictionary.values() {
        put_length(out, value.len())?;
    }
    for value in dictionary.values() {
        out.extend_from_slice(value);
    }
    let number = |number: u32| if number == NO_VALUE { 0 } else { number };
    Ok(if narrow {
        let bytes: Vec<u8> = numbers.into_iter().map(|one| number(one).to_le_bytes()[0]).collect();
        Arc::new(UInt8Array::try_new(bytes.into(), nulls)?)
    } else {
        let short = |one: u32| u16::try_from(number(one)).unwrap_or(u16::MAX);
        let shorts: Vec<u16> = numbers.into_iter().map(short).collect();
        Arc::new(UInt16Array::try_new(shorts.into(), nulls)?)
    })
}

/// The number of each text, none of a column whose texts hardly repeat, or of which there are too many.
fn numbers_of<'a>(texts: Texts<'a>, dictionary: &mut Dictionary<'a>, before: usize) -> Option<Vec<u32>> {
    dictionary.clear();
    let rows = texts.len();
    let mut numbers = Vec::with_capacity(rows);
    if let Some(period) = texts.period() {
        dictionary.number_repeated(texts, period, &mut numbers);
        return Some(numbers);
    }
    for from in (0..rows).step_by(TRIAL_TEXTS) {
        let to = rows.min(from + TRIAL_TEXTS);
        dictionary.number_rows(texts, from..to, before, &mut numbers);
        let distinct = dictionary.values().len();
        if distinct > 1 << u16::BITS || (to - from == TRIAL_TEXTS && distinct * 2 >= to) {
            return None;
        }
    }
    (dictionary.values().len() * 2 <= rows).then_some(numbers)
}

/// The texts of an entry, read from before its rows: of each column of texts, or none where it is no column of numbers.
pub(super) struct Numbered {
    texts: Vec<Option<Vec<String>>>,
    /// The schema of the rows as they are written.
    pub(super) schema: SchemaRef,
}

impl Numbered {
    /// Reads the texts of rows that had this schema before.
    pub(super) fn read(cursor: &mut Cursor<'_>, schema: &SchemaRef) -> Result<Self, BadEntry> {
        if cursor.take()? == [0] {
            return Ok(Self { texts: Vec::new(), schema: Arc::clone(schema) });
        }
        let mut texts = Vec::new();
        let fields = read_fields(cursor, schema.fields(), &mut texts)?;
        Ok(Self { texts, schema: Arc::new(Schema::new(fields)) })
    }

    /// The rows with their texts.
    pub(super) fn restore(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let mut texts = self.texts.iter();
        let columns = schema.fields().iter().zip(batch.columns());
        let columns = columns.map(|(field, column)| restore(column, field.data_type(), &mut texts));
        RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
    }
}

fn read_fields(
    cursor: &mut Cursor<'_>,
    fields: &Fields,
    texts: &mut Vec<Option<Vec<String>>>,
) -> Result<Vec<FieldRef>, BadEntry> {
    fields.iter().map(|field| Ok(retyped(field, &read_type(cursor, field.data_type(), texts)?))).collect()
}

fn read_type(
    cursor: &mut Cursor<'_>,
    data_type: &DataType,
    texts: &mut Vec<Option<Vec<String>>>,
) -> Result<DataType, BadEntry> {
    Ok(match data_type {
        DataType::Utf8 => {
            let [form] = cursor.take()?;
            let numbers = match form {
                PLAIN => DataType::Utf8,
                BYTES => DataType::UInt8,
                SHORTS => DataType::UInt16,
                _ => return Err(BadEntry::Short),
            };
            texts.push(if form == PLAIN { None } else { Some(read_texts(cursor)?) });
            numbers
        }
        DataType::Struct(fields) => DataType::Struct(Fields::from(read_fields(cursor, fields, texts)?)),
        DataType::List(item) => DataType::List(retyped(item, &read_type(cursor, item.data_type(), texts)?)),
        DataType::Map(entry, sorted) => {
            DataType::Map(retyped(entry, &read_type(cursor, entry.data_type(), texts)?), *sorted)
        }
        other => other.clone(),
    })
}

fn read_texts(cursor: &mut Cursor<'_>) -> Result<Vec<String>, BadEntry> {
    let count = cursor.length()?;
    let lengths = (0..count).map(|_| cursor.length()).collect::<Result<Vec<_>, _>>()?;
    let texts = lengths.into_iter().map(|length| {
        let text = std::str::from_utf8(cursor.slice(length)?);
        text.map(str::to_owned).map_err(|error| ArrowError::IpcError(error.to_string()).into())
    });
    texts.collect()
}

fn restore<'a>(
    column: &ArrayRef,
    wanted: &DataType,
    texts: &mut impl Iterator<Item = &'a Option<Vec<String>>>,
) -> Result<ArrayRef, ArrowError> {
    match wanted {
        DataType::Utf8 => match (texts.next(), column.data_type()) {
            (Some(Some(texts)), DataType::UInt8) => {
                let numbers = column.as_primitive::<UInt8Type>();
                texts_of(texts, numbers.values().iter().map(|number| usize::from(*number)), column.nulls())
            }
            (Some(Some(texts)), DataType::UInt16) => {
                let numbers = column.as_primitive::<UInt16Type>();
                texts_of(texts, numbers.values().iter().map(|number| usize::from(*number)), column.nulls())
            }
            _ => Ok(Arc::clone(column)),
        },
        DataType::Struct(fields) => restore_struct(column.as_struct(), fields, texts),
        DataType::List(item) => {
            let lists: &ListArray = column.as_list();
            let values = restore(lists.values(), item.data_type(), texts)?;
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, values, nulls)?))
        }
        DataType::Map(entry, sorted) => {
            let maps = column.as_map();
            let entries = restore(&(Arc::new(maps.entries().clone()) as ArrayRef), entry.data_type(), texts)?;
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            let entries = entries.as_struct().clone();
            Ok(Arc::new(MapArray::try_new(Arc::clone(entry), offsets, entries, nulls, *sorted)?))
        }
        _ => Ok(Arc::clone(column)),
    }
}

fn restore_struct<'a>(
    structs: &StructArray,
    fields: &Fields,
    texts: &mut impl Iterator<Item = &'a Option<Vec<String>>>,
) -> Result<ArrayRef, ArrowError> {
    let mut columns = Vec::with_capacity(fields.len());
    for (field, column) in fields.iter().zip(structs.columns()) {
        columns.push(restore(column, field.data_type(), &mut *texts)?);
    }
    Ok(Arc::new(StructArray::try_new(fields.clone(), columns, structs.nulls().cloned())?))
}

/// Texts by their numbers. What numbers stand for is bounded, since a few damaged bytes could name much.
fn texts_of(
    texts: &[String],
    numbers: impl ExactSizeIterator<Item = usize>,
    nulls: Option<&NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let mut offsets = Vec::with_capacity(numbers.len() + 1);
    let mut bytes: Vec<u8> = Vec::new();
    offsets.push(0);
    for (row, number) in numbers.enumerate() {
        if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
            let text = texts.get(number).ok_or_else(|| ArrowError::IpcError(format!("no text has number {number}")))?;
            if bytes.len() + text.len() > MAX_ENTRY_BYTES {
                return Err(ArrowError::IpcError("the texts of an entry are too long".to_owned()));
            }
            bytes.extend_from_slice(text.as_bytes());
        }
        offsets.push(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls.cloned())?))
}
