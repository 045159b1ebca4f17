//! Doubles in stored JSON, which come back as they were to the last bit; for `#[serde(with)]`.
//!
//! A parser of JSON may read a number of many digits a little off, and the one in use does: exactness costs it time that
//! other numbers are not worth. Whole numbers of few digits are exact in any parser and stay numbers; every other one is a text, whose
//! digits the language reads exactly. The bits as an integer were rejected: nobody could read them in a file.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

/// Whole numbers up to this are read exactly, also with the zero that is written behind their point.
const LARGEST_WHOLE: f64 = 100_000_000_000_000.0;

/// Writes a double so that it can be read exactly.
///
/// # Errors
/// The serializer's.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() <= LARGEST_WHOLE {
        serializer.serialize_f64(*value)
    } else {
        serializer.serialize_str(&value.to_string())
    }
}

/// Reads what [`serialize`] writes, and any number.
///
/// # Errors
/// It is neither a number nor the text of one.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserializer.deserialize_any(Double)
}

struct Double;

impl Visitor<'_> for Double {
    type Value = f64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    #[allow(clippy::cast_precision_loss, reason = "as a parser that reads a whole number for a double")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }

    #[allow(clippy::cast_precision_loss, reason = "as a parser that reads a whole number for a double")]
    fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}
