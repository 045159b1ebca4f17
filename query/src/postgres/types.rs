//! Which type of Postgres a column has. Nested values are `json`, as they are over HTTP; ids are `uuid` or text in
//! hexadecimal, as they are everywhere; durations are whole nanoseconds, as they are stored.

use arrow::datatypes::{DataType, Field};
use pgwire::api::Type;

use crate::answer::is_uuid;

/// The type of a column of an answer.
pub(crate) fn of_field(field: &Field) -> Type {
    match field.data_type() {
        DataType::FixedSizeBinary(16) if is_uuid(field.name()) => Type::UUID,
        other => of(other),
    }
}

/// The type for an Arrow type.
pub(crate) fn of(data_type: &DataType) -> Type {
    match data_type {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::INT2,
        DataType::Int32 | DataType::UInt16 => Type::INT4,
        DataType::Int64 | DataType::UInt32 | DataType::Duration(_) => Type::INT8,
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => Type::NUMERIC,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Type::BYTEA,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..)
        | DataType::Union(..) => Type::JSON,
        DataType::Dictionary(_, of_value) => of(of_value),
        _ => Type::TEXT,
    }
}

/// `pg_type.typlen`: bytes of a value, or −1 where that varies.
pub(crate) fn length(of: &Type) -> i16 {
    match *of {
        Type::BOOL => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
        Type::UUID => 16,
        Type::NAME => 64,
        _ => -1,
    }
}
