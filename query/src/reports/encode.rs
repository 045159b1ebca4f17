//! Whole records as JSON, for answers that show a record as it is: a decision, a span. Times are RFC 3339, ids hex, and
//! `request_id` a hyphenated UUID, as everywhere. A type that no table has is null here.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampNanosecondType};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::parameters::rfc3339;

/// One row as an object, in the order of its columns.
pub(crate) fn object(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let schema = batch.schema_ref();
    let fields = schema.fields().iter().zip(batch.columns());
    fields.map(|(field, column)| (field.name().clone(), value(field.name(), column.as_ref(), row))).collect()
}

/// One value; the name decides how an id of 16 bytes is written.
pub(crate) fn value(name: &str, array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::from(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::from(array.as_string_view().value(row)),
        DataType::Boolean => Value::from(array.as_boolean().value(row)),
        DataType::Int32 => Value::from(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Value::from(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::from(array.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, _) => {
            Value::from(rfc3339(array.as_primitive::<TimestampNanosecondType>().value(row)))
        }
        DataType::FixedSizeBinary(_) => Value::from(id(name, array.as_fixed_size_binary().value(row))),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| value("", items.as_ref(), item)).collect()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let fields = fields.iter().zip(columns);
            Value::Object(
                fields.map(|(field, column)| (field.name().clone(), value(field.name(), column, row))).collect(),
            )
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1));
            (0..entries.len()).map(|entry| (keys.value(entry).to_owned(), value("", values, entry))).collect()
        }
        _ => Value::Null,
    }
}

fn id(name: &str, bytes: &[u8]) -> String {
    match Uuid::from_slice(bytes) {
        Ok(uuid) if name == "request_id" => uuid.hyphenated().to_string(),
        _ => hex::encode(bytes),
    }
}
