//! Values of parameters as Arrow brings them: one row, a column per parameter.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType};
use arrow::util::display::array_value_to_string;
use tonic::Status;

use crate::ask::Parameter;

/// The values of the one row that there may be.
pub(crate) fn parameters(batches: &[RecordBatch]) -> Result<Vec<Parameter>, Status> {
    let mut rows = batches.iter().filter(|batch| batch.num_rows() > 0);
    let Some(batch) = rows.next() else { return Ok(Vec::new()) };
    if batch.num_rows() > 1 || rows.next().is_some() {
        return Err(Status::invalid_argument("a question is asked with one row of parameters (ask once for each row)"));
    }
    batch.columns().iter().map(value).collect()
}

fn value(column: &ArrayRef) -> Result<Parameter, Status> {
    if column.is_null(0) {
        return Ok(Parameter::Null);
    }
    let cannot =
        |error: arrow::error::ArrowError| Status::invalid_argument(format!("a parameter cannot be read: {error}"));
    let as_type = |data_type: &DataType| cast(column, data_type).map_err(cannot);
    Ok(match column.data_type() {
        DataType::Null => Parameter::Null,
        DataType::Boolean => Parameter::Boolean(column.as_boolean().value(0)),
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => Parameter::Integer(as_type(&DataType::Int64)?.as_primitive::<Int64Type>().value(0)),
        DataType::UInt64 | DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) => {
            let digits = array_value_to_string(column, 0).map_err(cannot)?;
            digits.parse().map_or(Parameter::Decimal(digits), Parameter::Integer)
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            Parameter::Float(as_type(&DataType::Float64)?.as_primitive::<Float64Type>().value(0))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Parameter::Text(as_type(&DataType::Utf8)?.as_string::<i32>().value(0).to_owned())
        }
        // Ids are the only bytes of a fixed length, and as text they are compared as such.
        DataType::FixedSizeBinary(_) => Parameter::Text(hex::encode(column.as_fixed_size_binary().value(0))),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            Parameter::Bytes(as_type(&DataType::Binary)?.as_binary::<i32>().value(0).to_vec())
        }
        DataType::Timestamp(_, zone) => {
            let nanos = as_type(&DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()))?;
            Parameter::Moment(nanos.as_primitive::<TimestampNanosecondType>().value(0))
        }
        DataType::Date32 | DataType::Date64 => Parameter::Text(array_value_to_string(column, 0).map_err(cannot)?),
        DataType::Dictionary(_, of) => value(&as_type(of)?)?,
        other => return Err(Status::invalid_argument(format!("a parameter cannot be a {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray, TimestampMicrosecondArray, UInt64Array};

    use super::*;

    #[test]
    fn one_row_becomes_values_and_two_are_refused() {
        let one: Vec<(&str, ArrayRef)> = vec![
            ("a", Arc::new(Int32Array::from(vec![-7]))),
            ("b", Arc::new(StringArray::from(vec!["x"]))),
            ("c", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("UTC"))),
            ("d", Arc::new(UInt64Array::from(vec![u64::MAX]))),
            ("e", Arc::new(StringArray::from(vec![None::<&str>]))),
        ];
        let batch = RecordBatch::try_from_iter(one).unwrap();
        let expected = [
            Parameter::Integer(-7),
            Parameter::Text("x".to_owned()),
            Parameter::Moment(1_500_000_000),
            Parameter::Decimal(u64::MAX.to_string()),
            Parameter::Null,
        ];
        assert_eq!(parameters(std::slice::from_ref(&batch)).unwrap(), expected);
        assert!(parameters(&[batch.clone(), batch]).is_err());
        assert!(parameters(&[]).unwrap().is_empty());
    }
}
