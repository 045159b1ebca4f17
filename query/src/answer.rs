//! Arrow as JSON, by the contract: integers in full digits, times RFC 3339 with nanoseconds, request ids as hyphenated
//! UUIDs, other fixed-size ids as hexadecimal, other binary as base64, NaN and infinities as null.
//!
//! Arrow's own JSON writer knows neither the ids nor the times; and building a tree of `serde_json` values would cost
//! several times the text. So values are written straight into the text.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::coverage::rfc3339;

/// Columns that hold request ids, which are written as UUIDs.
const UUID_COLUMNS: &[&str] = &["request_id"];

/// Whether a column of this name holds UUIDs.
pub(crate) fn is_uuid(column: &str) -> bool {
    UUID_COLUMNS.contains(&column)
}

/// Appends the rows of a batch as JSON objects, each followed by `separator` except where `last` says otherwise.
///
/// # Errors
/// When a value of a rare type cannot be shown.
pub(crate) fn rows_as_json(
    batch: &RecordBatch,
    mut row_end: impl FnMut(&mut Vec<u8>),
    out: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    let schema = batch.schema();
    let names: Vec<String> = schema.fields().iter().map(|field| json_text(field.name())).collect();
    for row in 0..batch.num_rows() {
        out.push(b'{');
        for (index, column) in batch.columns().iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(names[index].as_bytes());
            out.push(b':');
            value(column, row, schema.field(index).name(), out)?;
        }
        out.push(b'}');
        row_end(out);
    }
    Ok(())
}

/// A text as a JSON string.
pub(crate) fn json_text(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

macro_rules! number {
    ($array:expr, $row:expr, $out:expr, $type:ty) => {{
        let value = $array.as_primitive::<$type>().value($row);
        write!($out, "{value}").map_err(ArrowError::from)
    }};
}

/// One value.
///
/// # Errors
/// When a value of a rare type cannot be shown.
pub(crate) fn value(array: &ArrayRef, row: usize, name: &str, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match array.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
        DataType::Int8 => number!(array, row, out, Int8Type)?,
        DataType::Int16 => number!(array, row, out, Int16Type)?,
        DataType::Int32 => number!(array, row, out, Int32Type)?,
        DataType::Int64 => number!(array, row, out, Int64Type)?,
        DataType::UInt8 => number!(array, row, out, UInt8Type)?,
        DataType::UInt16 => number!(array, row, out, UInt16Type)?,
        DataType::UInt32 => number!(array, row, out, UInt32Type)?,
        DataType::UInt64 => number!(array, row, out, UInt64Type)?,
        DataType::Float16 => float(f64::from(array.as_primitive::<Float16Type>().value(row).to_f32()), out)?,
        DataType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row)), out)?,
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row), out)?,
        DataType::Utf8 => text(array.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row), out),
        DataType::Utf8View => text(array.as_string_view().value(row), out),
        DataType::FixedSizeBinary(_) => text(&id(array.as_fixed_size_binary().value(row), name), out),
        DataType::Binary => text(&STANDARD.encode(array.as_binary::<i32>().value(row)), out),
        DataType::LargeBinary => text(&STANDARD.encode(array.as_binary::<i64>().value(row)), out),
        DataType::BinaryView => text(&STANDARD.encode(array.as_binary_view().value(row)), out),
        DataType::Timestamp(unit, _) => text(&moment(array, row, *unit), out),
        DataType::List(_) => list(&array.as_list::<i32>().value(row), name, out)?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row), name, out)?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), name, out)?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            object(
                fields.iter().map(|field| field.name().as_str()).zip(columns.iter().map(|column| (column, row))),
                out,
            )?;
        }
        DataType::Map(..) => map(array, row, out)?,
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            value(dictionary.values(), key, name, out)?;
        }
        DataType::Date32 | DataType::Date64 => text(&date(array, row)?, out),
        _ => text(&array_value_to_string(array, row)?, out),
    }
    Ok(())
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(json_text(text).as_bytes());
}

fn float(value: f64, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    match serde_json::Number::from_f64(value) {
        Some(number) => write!(out, "{number}").map_err(ArrowError::from),
        None => {
            out.extend_from_slice(b"null");
            Ok(())
        }
    }
}

fn id(bytes: &[u8], name: &str) -> String {
    match uuid::Uuid::from_slice(bytes) {
        Ok(uuid) if is_uuid(name) => uuid.hyphenated().to_string(),
        _ => hex::encode(bytes),
    }
}

fn moment(array: &ArrayRef, row: usize, unit: TimeUnit) -> String {
    let (value, nanos) = match unit {
        TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().value(row), 1_000_000_000),
        TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().value(row), 1_000_000),
        TimeUnit::Microsecond => (array.as_primitive::<TimestampMicrosecondType>().value(row), 1_000),
        TimeUnit::Nanosecond => (array.as_primitive::<TimestampNanosecondType>().value(row), 1),
    };
    rfc3339(value.saturating_mul(nanos))
}

fn date(array: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    match array.data_type() {
        DataType::Date32 => {
            let days = i64::from(array.as_primitive::<Date32Type>().value(row));
            Ok(lariat_schema::layout::date_and_hour(days.saturating_mul(86_400_000_000_000)).0)
        }
        DataType::Date64 => {
            let millis = array.as_primitive::<Date64Type>().value(row);
            Ok(lariat_schema::layout::date_and_hour(millis.saturating_mul(1_000_000)).0)
        }
        _ => array_value_to_string(array, row),
    }
}

fn list(items: &ArrayRef, name: &str, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    out.push(b'[');
    for item in 0..items.len() {
        if item > 0 {
            out.push(b',');
        }
        value(items, item, name, out)?;
    }
    out.push(b']');
    Ok(())
}

fn object<'a>(
    entries: impl Iterator<Item = (&'a str, (&'a ArrayRef, usize))>,
    out: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    out.push(b'{');
    for (index, (name, (column, row))) in entries.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        text(name, out);
        out.push(b':');
        value(column, row, name, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// A map is an object; keys that are no texts are written as their text.
fn map(array: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let entries = array.as_map().value(row);
    let (keys, values) = (entries.column(0), entries.column(1));
    out.push(b'{');
    for entry in 0..entries.len() {
        if entry > 0 {
            out.push(b',');
        }
        text(&array_value_to_string(keys, entry)?, out);
        out.push(b':');
        value(values, entry, "", out)?;
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests;
