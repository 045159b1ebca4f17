//! Functions that make much of little, bounded: `repeat('x', 2000000000)` is nine bytes of question and two gigabytes of
//! answer. Memory pools count what operators hold and not what a function makes in one step, so that such a call would take
//! the process with it before anybody could refuse. Each of them is asked what it would make before it makes it.
//!
//! The others make at most as much as they are given. Sessions of the query service and of nodes have the same
//! functions, since a filter may run on either.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Most bytes, elements of eight bytes, or steps that one call makes of a batch of rows.
const MAX_MADE: i64 = 64 * 1024 * 1024;
/// Bytes of a list's element, at least.
const ELEMENT_BYTES: i64 = 8;
/// Comparisons of two characters that cost as much as a byte.
const COMPARISONS_PER_BYTE: i64 = 16;
/// Shortest month, in days.
const MONTH_DAYS: i64 = 28;

/// What a call makes of its arguments in a row; `None`: nothing, or what the function itself refuses.
type Made = fn(&Arguments<'_>, usize) -> Option<i64>;

const BOUNDED: [(&str, Made); 9] = [
    ("repeat", |of, row| Some(of.length(0, row)?.saturating_mul(of.number(1, row)?))),
    ("lpad", |of, row| of.number(1, row)),
    ("rpad", |of, row| of.number(1, row)),
    ("replace", replaced),
    ("range", elements),
    ("generate_series", elements),
    ("array_repeat", |of, row| Some(of.number(1, row)?.saturating_mul(ELEMENT_BYTES))),
    ("array_resize", |of, row| Some(of.number(1, row)?.saturating_mul(ELEMENT_BYTES))),
    ("levenshtein", |of, row| Some(of.length(0, row)?.saturating_mul(of.length(1, row)?) / COMPARISONS_PER_BYTE)),
];

/// Puts the bounded functions in the place of those of their names.
///
/// # Errors
/// When the registry takes no functions.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, made) in BOUNDED {
        if let Ok(inner) = registry.udf(name) {
            registry.register_udf(Arc::new(ScalarUDF::from(Bounded { inner, name, made })))?;
        }
    }
    Ok(())
}

fn replaced(of: &Arguments<'_>, row: usize) -> Option<i64> {
    let (text, from, to) = (of.length(0, row)?, of.length(1, row)?, of.length(2, row)?);
    Some((text / from.max(1) + 1).saturating_mul(to).saturating_add(text))
}

fn elements(of: &Arguments<'_>, row: usize) -> Option<i64> {
    let (start, stop) =
        if of.values.len() == 1 { (0, of.number(0, row)?) } else { (of.number(0, row)?, of.number(1, row)?) };
    let step = if of.values.len() < 3 { 1 } else { of.step(2, row)? };
    let span = i128::from(stop) - i128::from(start);
    let count = span.abs() / i128::from(step.unsigned_abs().max(1));
    Some(i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(ELEMENT_BYTES))
}

/// The arguments of a call, read without making arrays of constants.
struct Arguments<'a> {
    values: &'a [ColumnarValue],
    numbers: Vec<Option<ColumnarValue>>,
}

impl<'a> Arguments<'a> {
    fn of(values: &'a [ColumnarValue]) -> Self {
        let numbers = values.iter().map(|value| match value.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => None,
            _ => value.cast_to(&DataType::Int64, None).ok(),
        });
        Self { values, numbers: numbers.collect() }
    }

    /// Rows that differ.
    fn rows(&self, rows: usize) -> usize {
        let constant = self.values.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        if constant { 1 } else { rows }
    }

    fn number(&self, argument: usize, row: usize) -> Option<i64> {
        match self.numbers.get(argument)?.as_ref()? {
            ColumnarValue::Scalar(ScalarValue::Int64(number)) => *number,
            ColumnarValue::Scalar(_) => None,
            ColumnarValue::Array(array) => {
                let numbers = array.as_primitive_opt::<Int64Type>()?;
                numbers.is_valid(row).then(|| numbers.value(row))
            }
        }
    }

    /// Bytes of a text.
    fn length(&self, argument: usize, row: usize) -> Option<i64> {
        let length = match self.values.get(argument)? {
            ColumnarValue::Scalar(text) => text.try_as_str()??.len(),
            ColumnarValue::Array(array) if array.is_null(row) => return None,
            ColumnarValue::Array(array) => match array.data_type() {
                DataType::Utf8 => array.as_string::<i32>().value(row).len(),
                DataType::LargeUtf8 => array.as_string::<i64>().value(row).len(),
                DataType::Utf8View => array.as_string_view().value(row).len(),
                _ => return None,
            },
        };
        i64::try_from(length).ok()
    }

    /// A step in the unit of the first argument: a number, or an interval.
    fn step(&self, argument: usize, row: usize) -> Option<i64> {
        let interval = match self.values.get(argument)? {
            ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(interval)) => (*interval)?,
            ColumnarValue::Array(array) if matches!(array.data_type(), DataType::Interval(_)) => {
                let ScalarValue::IntervalMonthDayNano(interval) = ScalarValue::try_from_array(array, row).ok()? else {
                    return None;
                };
                interval?
            }
            _ => return self.number(argument, row),
        };
        let days = i64::from(interval.months) * MONTH_DAYS + i64::from(interval.days);
        let nanos_per_day = 86_400_000_000_000_i64;
        let nanos = days.saturating_mul(nanos_per_day).saturating_add(interval.nanoseconds);
        Some(match self.values.first()?.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => nanos,
            DataType::Timestamp(TimeUnit::Microsecond, _) => nanos / 1_000,
            DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => nanos / 1_000_000,
            DataType::Timestamp(TimeUnit::Second, _) => nanos / 1_000_000_000,
            _ => nanos / nanos_per_day,
        })
    }
}

#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    name: &'static str,
    made: Made,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<arrow::datatypes::FieldRef> {
        self.inner.return_field_from_args(arguments)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let of = Arguments::of(&arguments.args);
        let mut made = 0_i64;
        for row in 0..of.rows(arguments.number_rows) {
            made = made.saturating_add((self.made)(&of, row).unwrap_or(0).max(0));
        }
        if made > MAX_MADE {
            return exec_err!(
                "{} would make {made} bytes of its arguments; at most {MAX_MADE} are possible",
                self.name
            );
        }
        self.inner.invoke_with_args(arguments)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn ask(sql: &str) -> Result<usize> {
        let context = SessionContext::new();
        register(&mut *context.state_ref().write())?;
        let rows = context.sql(sql).await?.collect().await?;
        Ok(rows.iter().map(arrow::array::RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn calls_that_make_much_of_little_are_refused_before_they_make_it() {
        for sql in [
            "SELECT repeat('x', 2000000000)",
            "SELECT repeat('xx', 9223372036854775807)",
            "SELECT repeat(CAST(value AS VARCHAR), 100000000) FROM generate_series(1, 3)",
            "SELECT lpad('x', 2000000000, 'y'), rpad('x', 2000000000)",
            "SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1000000))",
            "SELECT range(0, 100000000000)",
            "SELECT range(0, 100000000000, 3)",
            "SELECT generate_series(TIMESTAMP '1970-01-01', TIMESTAMP '2200-01-01', INTERVAL '1 second')",
            "SELECT array_repeat(1, 10000000000)",
            "SELECT array_resize([1], 10000000000, 0)",
            "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
        ] {
            let refused = ask(sql).await.map_err(|error| error.strip_backtrace());
            assert!(refused.as_ref().is_err_and(|error| error.contains("would make")), "{sql}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn calls_of_an_ordinary_size_are_what_they_were() {
        for sql in [
            "SELECT repeat('x', 1000000), lpad('x', 5, 'y'), replace('aba', 'a', 'c'), levenshtein('kitten', 'sitting')",
            "SELECT unnest(range(0, 10, 3))",
            "SELECT unnest(generate_series(DATE '2026-01-01', DATE '2026-02-01', INTERVAL '1 day'))",
            "SELECT repeat(CAST(value AS VARCHAR), value), array_repeat(value, 3) FROM generate_series(1, 100)",
            "SELECT repeat(NULL, 3), range(0, NULL), array_resize(make_array(1), 3, 0)",
        ] {
            assert!(ask(sql).await.unwrap() > 0, "{sql}");
        }
    }
}
