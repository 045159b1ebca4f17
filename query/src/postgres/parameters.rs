//! Values of parameters as a client sends them: in text or in binary, with a type or without.
//!
//! A value without a type is text to its sender, as a constant in quotes is to Postgres; what it stands for is told by the
//! plan. Without that, `duration_ns > '5'` could compare texts.

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::datatypes::DataType;
use lariat_schema::layout::date_and_hour;
use pgwire::api::Type;
use pgwire::api::results::FieldFormat;
use uuid::Uuid;

use super::failure::Problem;
use super::numeric;
use super::types::of;
use crate::ask::Parameter;

/// Nanoseconds from 1970 to 2000, where Postgres begins to count.
const POSTGRES_EPOCH_NANOS: i64 = 946_684_800_000_000_000;
const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// One value. `given` is the client's type; `inferred` the plan's, for a value without one.
pub(crate) fn read(
    value: Option<&[u8]>,
    format: FieldFormat,
    given: Option<&Type>,
    inferred: Option<&DataType>,
) -> Result<Parameter, Problem> {
    let Some(value) = value else { return Ok(Parameter::Null) };
    let inferred = inferred.map(of);
    let declared = given.filter(|given| **given != Type::UNKNOWN).or(inferred.as_ref()).unwrap_or(&Type::TEXT);
    match format {
        FieldFormat::Binary => binary(value, declared),
        FieldFormat::Text => {
            let value = std::str::from_utf8(value).map_err(|_| Problem::value("a value is not UTF-8"))?;
            text(value, declared)
        }
    }
}

fn text(value: &str, declared: &Type) -> Result<Parameter, Problem> {
    let bad = || Problem::value(format!("`{value}` is no {declared}"));
    let trimmed = value.trim();
    Ok(match *declared {
        Type::BOOL => match trimmed.to_ascii_lowercase().as_str() {
            "t" | "true" | "yes" | "on" | "1" => Parameter::Boolean(true),
            "f" | "false" | "no" | "off" | "0" => Parameter::Boolean(false),
            _ => return Err(bad()),
        },
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Parameter::Integer(trimmed.parse().map_err(|_| bad())?),
        Type::FLOAT4 | Type::FLOAT8 => Parameter::Float(trimmed.parse().map_err(|_| bad())?),
        Type::NUMERIC => number(trimmed).ok_or_else(bad)?,
        Type::TIMESTAMPTZ | Type::TIMESTAMP => {
            Parameter::Moment(string_to_timestamp_nanos(trimmed).map_err(|_| bad())?)
        }
        Type::BYTEA => {
            let digits = trimmed.strip_prefix("\\x").ok_or_else(bad)?;
            Parameter::Bytes(hex::decode(digits).map_err(|_| bad())?)
        }
        _ if is_array(declared) => return Err(no_array()),
        _ => Parameter::Text(value.to_owned()),
    })
}

fn binary(value: &[u8], declared: &Type) -> Result<Parameter, Problem> {
    let bad = || Problem::value(format!("a binary value has not the form of {declared}"));
    let long = || value.try_into().map(i64::from_be_bytes).map_err(|_| bad());
    let short = || value.try_into().map(i32::from_be_bytes).map_err(|_| bad());
    Ok(match *declared {
        Type::BOOL => Parameter::Boolean(*value.first().ok_or_else(bad)? != 0),
        Type::INT2 => Parameter::Integer(value.try_into().map(i16::from_be_bytes).map_err(|_| bad())?.into()),
        Type::INT4 => Parameter::Integer(short()?.into()),
        Type::OID => Parameter::Integer(value.try_into().map(u32::from_be_bytes).map_err(|_| bad())?.into()),
        Type::INT8 => Parameter::Integer(long()?),
        Type::FLOAT4 => Parameter::Float(value.try_into().map(f32::from_be_bytes).map_err(|_| bad())?.into()),
        Type::FLOAT8 => Parameter::Float(value.try_into().map(f64::from_be_bytes).map_err(|_| bad())?),
        Type::NUMERIC => numeric::read(value).and_then(|digits| number(&digits)).ok_or_else(bad)?,
        Type::TIMESTAMPTZ | Type::TIMESTAMP => {
            let nanos = long()?.checked_mul(1_000).and_then(|nanos| nanos.checked_add(POSTGRES_EPOCH_NANOS));
            Parameter::Moment(nanos.ok_or_else(|| Problem::value("a moment is out of range"))?)
        }
        Type::DATE => {
            let since = i64::from(short()?).checked_mul(NANOS_PER_DAY);
            let nanos = since.and_then(|nanos| nanos.checked_add(POSTGRES_EPOCH_NANOS));
            Parameter::Text(date_and_hour(nanos.ok_or_else(|| Problem::value("a date is out of range"))?).0)
        }
        Type::BYTEA => Parameter::Bytes(value.to_vec()),
        Type::UUID => Parameter::Text(Uuid::from_slice(value).map_err(|_| bad())?.hyphenated().to_string()),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON | Type::UNKNOWN => {
            Parameter::Text(std::str::from_utf8(value).map_err(|_| bad())?.to_owned())
        }
        _ if is_array(declared) => return Err(no_array()),
        _ => return Err(Problem::unsupported(format!("values of type {declared} cannot be sent in binary"), None)),
    })
}

/// A number as a whole one where it is.
fn number(digits: &str) -> Option<Parameter> {
    if let Ok(whole) = digits.parse() {
        return Some(Parameter::Integer(whole));
    }
    digits.parse::<f64>().ok().map(|_| Parameter::Decimal(digits.to_owned()))
}

fn is_array(of: &Type) -> bool {
    of.name().starts_with('_')
}

fn no_array() -> Problem {
    Problem::unsupported("a value cannot be an array", Some("write the list into the question: IN ($1, $2)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(value: &str, given: Option<Type>, inferred: Option<DataType>) -> Result<Parameter, Problem> {
        read(Some(value.as_bytes()), FieldFormat::Text, given.as_ref(), inferred.as_ref())
    }

    #[test]
    fn a_value_without_a_type_takes_that_of_the_plan() {
        assert_eq!(of_text("5", None, Some(DataType::Int64)).unwrap(), Parameter::Integer(5));
        assert_eq!(of_text("5", None, None).unwrap(), Parameter::Text("5".to_owned()));
        assert_eq!(of_text("5", Some(Type::UNKNOWN), Some(DataType::Float64)).unwrap(), Parameter::Float(5.0));
        assert!(of_text("five", None, Some(DataType::Int64)).is_err());
        let moment = of_text("2026-11-20 10:00:00+00", Some(Type::TIMESTAMPTZ), None).unwrap();
        assert_eq!(moment, of_text("2026-11-20T10:00:00Z", Some(Type::TIMESTAMPTZ), None).unwrap());
    }

    #[test]
    fn binary_values_are_read_by_their_type_and_refused_where_they_do_not_fit() {
        let read = |value: &[u8], given: Type| read(Some(value), FieldFormat::Binary, Some(&given), None);
        assert_eq!(read(&7_i32.to_be_bytes(), Type::INT4).unwrap(), Parameter::Integer(7));
        assert_eq!(read(&1_i64.to_be_bytes(), Type::TIMESTAMPTZ).unwrap(), Parameter::Moment(946_684_800_000_001_000));
        assert_eq!(read(&1_i32.to_be_bytes(), Type::DATE).unwrap(), Parameter::Text("2000-01-02".to_owned()));
        assert_eq!(
            read(&[0xab; 16], Type::UUID).unwrap(),
            Parameter::Text("abababab-abab-abab-abab-abababababab".to_owned())
        );
        for (value, given) in [
            (&b"x"[..], Type::INT8),
            (b"x", Type::UUID),
            (b"", Type::BOOL),
            (b"x", Type::NUMERIC),
            (&i64::MAX.to_be_bytes(), Type::TIMESTAMPTZ),
            (b"", Type::INT8_ARRAY),
            (b"", Type::POINT),
        ] {
            assert!(read(value, given.clone()).is_err(), "{given}");
        }
    }
}
