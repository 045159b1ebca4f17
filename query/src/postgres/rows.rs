//! Rows of an answer in the two formats of Postgres.
//!
//! Postgres knows microseconds and nothing finer: nanoseconds of a time are cut off, in text as in binary, so that a
//! value does not depend on the format that a driver happens to choose.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use bytes::{BufMut, BytesMut};
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::{FieldFormat, FieldInfo};
use pgwire::messages::data::DataRow;

use super::numeric;
use super::types::{length, of_field};
use crate::answer::{is_uuid, value as json_value};
use crate::coverage::rfc3339;

/// Microseconds from 1970 to 2000, where Postgres begins to count.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Days between the same.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;
const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// The columns of an answer, each with the format that was asked for; `None` if the formats do not fit the columns.
pub(crate) fn columns(schema: &Schema, format: &Format) -> Option<Arc<Vec<FieldInfo>>> {
    if let Format::Individual(formats) = format
        && formats.len() != schema.fields().len()
    {
        return None;
    }
    let column = |(index, field): (usize, &Arc<arrow::datatypes::Field>)| {
        let of = of_field(field);
        let size = length(&of);
        FieldInfo::new(field.name().clone(), None, None, of, format.format_for(index)).with_type_size(size)
    };
    Some(Arc::new(schema.fields().iter().enumerate().map(column).collect()))
}

/// One row.
pub(crate) fn row(batch: &RecordBatch, row: usize, columns: &[FieldInfo]) -> Result<DataRow, ArrowError> {
    let mut out = BytesMut::new();
    for (array, column) in batch.columns().iter().zip(columns) {
        if array.is_null(row) || *array.data_type() == DataType::Null {
            out.put_i32(-1);
            continue;
        }
        let start = out.len();
        out.put_i32(0);
        put(array, row, column, &mut out)?;
        let length = i32::try_from(out.len() - start - 4)
            .map_err(|_| ArrowError::InvalidArgumentError("a value is longer than the protocol allows".to_owned()))?;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    let count = i16::try_from(columns.len())
        .map_err(|_| ArrowError::InvalidArgumentError("more columns than the protocol allows".to_owned()))?;
    Ok(DataRow::new(out, count))
}

fn put(array: &ArrayRef, row: usize, column: &FieldInfo, out: &mut BytesMut) -> Result<(), ArrowError> {
    let binary = column.format() == FieldFormat::Binary;
    match array.data_type() {
        DataType::Boolean => match (array.as_boolean().value(row), binary) {
            (value, true) => out.put_u8(u8::from(value)),
            (value, false) => out.put_u8(if value { b't' } else { b'f' }),
        },
        DataType::Float16 | DataType::Float32 | DataType::Float64 => float(array, row, binary, out),
        DataType::Utf8 => out.put_slice(array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => out.put_slice(array.as_string::<i64>().value(row).as_bytes()),
        DataType::Utf8View => out.put_slice(array.as_string_view().value(row).as_bytes()),
        DataType::Binary => bytes(array.as_binary::<i32>().value(row), binary, out),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row), binary, out),
        DataType::BinaryView => bytes(array.as_binary_view().value(row), binary, out),
        DataType::FixedSizeBinary(_) => id(array.as_fixed_size_binary().value(row), column, out),
        DataType::Timestamp(unit, zone) => moment(array, row, *unit, zone.is_some(), binary, out),
        DataType::Date32 | DataType::Date64 => date(array, row, binary, out),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            put(dictionary.values(), dictionary.normalized_keys()[row], column, out)?;
        }
        _ if *column.datatype() == Type::JSON => {
            let mut json = Vec::new();
            json_value(array, row, column.name(), &mut json)?;
            out.put_slice(&json);
        }
        _ => match integer(array, row) {
            Some(value) => whole(value, column, binary, out),
            None => {
                let text = array_value_to_string(array, row)?;
                if binary && *column.datatype() == Type::NUMERIC {
                    numeric::put(&text, out)
                } else {
                    out.put_slice(text.as_bytes())
                }
            }
        },
    }
    Ok(())
}

/// Whole numbers, and durations in nanoseconds.
fn integer(array: &ArrayRef, row: usize) -> Option<i64> {
    Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => i64::try_from(array.as_primitive::<UInt64Type>().value(row)).ok()?,
        DataType::Duration(unit) => match unit {
            TimeUnit::Second => array.as_primitive::<DurationSecondType>().value(row).saturating_mul(1_000_000_000),
            TimeUnit::Millisecond => {
                array.as_primitive::<DurationMillisecondType>().value(row).saturating_mul(1_000_000)
            }
            TimeUnit::Microsecond => array.as_primitive::<DurationMicrosecondType>().value(row).saturating_mul(1_000),
            TimeUnit::Nanosecond => array.as_primitive::<DurationNanosecondType>().value(row),
        },
        _ => return None,
    })
}

fn whole(value: i64, column: &FieldInfo, binary: bool, out: &mut BytesMut) {
    let narrow = i32::try_from(value).unwrap_or_default();
    match *column.datatype() {
        _ if !binary => out.put_slice(value.to_string().as_bytes()),
        Type::INT2 => out.put_i16(i16::try_from(value).unwrap_or_default()),
        Type::INT4 => out.put_i32(narrow),
        Type::NUMERIC => numeric::put(&value.to_string(), out),
        _ => out.put_i64(value),
    }
}

fn float(array: &ArrayRef, row: usize, binary: bool, out: &mut BytesMut) {
    let (single, double) = match array.data_type() {
        DataType::Float16 => (Some(array.as_primitive::<Float16Type>().value(row).to_f32()), 0.0),
        DataType::Float32 => (Some(array.as_primitive::<Float32Type>().value(row)), 0.0),
        _ => (None, array.as_primitive::<Float64Type>().value(row)),
    };
    match (single, binary) {
        (Some(value), true) => out.put_f32(value),
        (None, true) => out.put_f64(double),
        (Some(value), false) => out.put_slice(float_text(value.into(), &format!("{value:?}")).as_bytes()),
        (None, false) => out.put_slice(float_text(double, &format!("{double:?}")).as_bytes()),
    }
}

/// The shortest text that reads back as the number, in the words of Postgres.
fn float_text(value: f64, shortest: &str) -> &str {
    if value.is_nan() {
        "NaN"
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }
    } else {
        shortest.strip_suffix(".0").unwrap_or(shortest)
    }
}

fn bytes(value: &[u8], binary: bool, out: &mut BytesMut) {
    if binary {
        out.put_slice(value);
    } else {
        out.put_slice(format!("\\x{}", hex::encode(value)).as_bytes());
    }
}

/// Sixteen bytes as such where the column is a `uuid` in binary, else text.
fn id(value: &[u8], column: &FieldInfo, out: &mut BytesMut) {
    match uuid::Uuid::from_slice(value) {
        Ok(_) if *column.datatype() == Type::UUID && column.format() == FieldFormat::Binary => out.put_slice(value),
        Ok(uuid) if is_uuid(column.name()) => out.put_slice(uuid.hyphenated().to_string().as_bytes()),
        _ => out.put_slice(hex::encode(value).as_bytes()),
    }
}

fn moment(array: &ArrayRef, row: usize, unit: TimeUnit, zoned: bool, binary: bool, out: &mut BytesMut) {
    let nanos = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1_000_000_000),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row).saturating_mul(1_000_000),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row).saturating_mul(1_000),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row),
    };
    let micros = nanos.div_euclid(1_000);
    if binary {
        out.put_i64(micros.saturating_sub(POSTGRES_EPOCH_MICROS));
        return;
    }
    let text = rfc3339(micros.saturating_mul(1_000)).replacen('T', " ", 1);
    let text = text.trim_end_matches('Z');
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    out.put_slice(text.as_bytes());
    if zoned {
        out.put_slice(b"+00");
    }
}

fn date(array: &ArrayRef, row: usize, binary: bool, out: &mut BytesMut) {
    let days = match array.data_type() {
        DataType::Date32 => i64::from(array.as_primitive::<Date32Type>().value(row)),
        _ => array.as_primitive::<Date64Type>().value(row).div_euclid(86_400_000),
    };
    if binary {
        out.put_i32(i32::try_from(days - POSTGRES_EPOCH_DAYS).unwrap_or_default());
    } else {
        let (text, _) = lariat_schema::layout::date_and_hour(days.saturating_mul(NANOS_PER_DAY));
        out.put_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Date32Array, FixedSizeBinaryArray, Float64Array, Int32Array, StringArray,
        TimestampNanosecondArray, UInt64Array,
    };

    use super::*;

    fn shown(name: &str, array: ArrayRef, format: &Format) -> Option<Vec<u8>> {
        let batch = RecordBatch::try_from_iter_with_nullable([(name, array, true)]).unwrap();
        let columns = columns(&batch.schema(), format).unwrap();
        let data = row(&batch, 0, &columns).unwrap().data;
        (data[..4] != [255; 4]).then(|| data[4..].to_vec())
    }

    #[test]
    fn values_are_shown_as_postgres_shows_them() {
        let time = || TimestampNanosecondArray::from(vec![1_700_000_000_123_456_789]).with_timezone("UTC");
        let id = FixedSizeBinaryArray::try_from_iter([[0xab; 16]].into_iter()).unwrap();
        let cases: Vec<(&str, ArrayRef, &str)> = vec![
            ("a", Arc::new(BooleanArray::from(vec![true])), "t"),
            ("a", Arc::new(Float64Array::from(vec![3.0])), "3"),
            ("a", Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])), "-Infinity"),
            ("a", Arc::new(UInt64Array::from(vec![u64::MAX])), "18446744073709551615"),
            ("a", Arc::new(time()), "2023-11-14 22:13:20.123456+00"),
            ("a", Arc::new(Date32Array::from(vec![19_000])), "2022-01-08"),
            ("trace_id", Arc::new(id.clone()), "abababababababababababababababab"),
            ("request_id", Arc::new(id), "abababab-abab-abab-abab-abababababab"),
        ];
        for (name, array, expected) in cases {
            let text = String::from_utf8(shown(name, array, &Format::UnifiedText).unwrap()).unwrap();
            assert_eq!(text, expected);
        }
        assert_eq!(shown("a", Arc::new(StringArray::from(vec![None::<&str>])), &Format::UnifiedText), None);
    }

    #[test]
    fn values_are_sent_in_binary_as_postgres_sends_them() {
        let time = TimestampNanosecondArray::from(vec![946_684_801_000_000_999]).with_timezone("UTC");
        let cases: Vec<(ArrayRef, Vec<u8>)> = vec![
            (Arc::new(Int32Array::from(vec![-2])), (-2_i32).to_be_bytes().to_vec()),
            (Arc::new(Float64Array::from(vec![0.5])), 0.5_f64.to_be_bytes().to_vec()),
            (Arc::new(time), 1_000_000_i64.to_be_bytes().to_vec()),
            (Arc::new(Date32Array::from(vec![10_958])), 1_i32.to_be_bytes().to_vec()),
            (Arc::new(StringArray::from(vec!["x"])), b"x".to_vec()),
        ];
        for (array, expected) in cases {
            assert_eq!(shown("a", array, &Format::UnifiedBinary).unwrap(), expected);
        }
    }

    #[test]
    fn formats_that_do_not_fit_the_columns_are_noticed() {
        let schema = Schema::new(vec![arrow::datatypes::Field::new("a", DataType::Int32, true)]);
        assert!(columns(&schema, &Format::Individual(vec![1])).is_some());
        assert!(columns(&schema, &Format::Individual(vec![1, 0])).is_none());
    }
}
