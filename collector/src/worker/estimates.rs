//! Estimates from sampled rows: `estimated_count()`, `estimated_sum(x)`, `estimated_avg(x)` and
//! `estimated_percentile(x, p)`, each with a value and the bounds of its 95 % interval.
//!
//! A kept row stands for `adjusted_count` rows (Horvitz-Thompson), so a sum of weights alone would hide how far it may be
//! off. What it may be off by depends on what was sampled together: all records of a trace are kept or dropped by the same
//! random bits, so that a trace is one unit whatever number of calls it has, and counting its rows as units of their own
//! would give bounds that are too narrow. The functions therefore read three things of a row: its value, its weight and its
//! unit. The query service adds the last two where the question does not name them (`query/src/scan/weights.rs`).
//!
//! Partial states are sums and merge in any order, so that nodes send a few kilobytes per group whatever they read. A row
//! without a weight is in no estimate: `unknown_rows` counts it, and nothing takes it for one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_datafusion_err, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::physical_expr::expressions::Literal;
use xxhash_rust::xxh3::xxh3_64;

mod interval;
mod percentile;
mod total;
mod units;

#[cfg(test)]
mod tests;

use percentile::Percentile;
use total::{Of, Total};

/// What is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Estimate {
    /// How many rows there were.
    Count,
    /// The sum of a value over all of them.
    Sum,
    /// Its mean.
    Avg,
    /// A percentile of it.
    Percentile,
}

impl Estimate {
    /// Every function.
    pub const ALL: [Self; 4] = [Self::Count, Self::Sum, Self::Avg, Self::Percentile];

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "estimated_count",
            Self::Sum => "estimated_sum",
            Self::Avg => "estimated_avg",
            Self::Percentile => "estimated_percentile",
        }
    }

    /// The function of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|estimate| estimate.name() == name)
    }

    /// Arguments before weight and unit.
    #[must_use]
    pub fn own_arguments(self) -> usize {
        match self {
            Self::Count => 0,
            Self::Sum | Self::Avg => 1,
            Self::Percentile => 2,
        }
    }

    /// How it is called.
    #[must_use]
    pub fn usage(self) -> &'static str {
        match self {
            Self::Count => "estimated_count() or estimated_count(weight, unit)",
            Self::Sum => "estimated_sum(x) or estimated_sum(x, weight, unit)",
            Self::Avg => "estimated_avg(x) or estimated_avg(x, weight, unit)",
            Self::Percentile => "estimated_percentile(x, 0.95) or estimated_percentile(x, 0.95, weight, unit)",
        }
    }
}

/// Adds the functions to a session: the query service's, and that of a node that executes a part.
///
/// # Errors
/// When the registry takes no functions.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for estimate in Estimate::ALL {
        registry.register_udaf(Arc::new(AggregateUDF::from(EstimateFunction::new(estimate))))?;
    }
    Ok(())
}

/// Value and bounds, as an estimate tells them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Told {
    value: Option<f64>,
    lower: Option<f64>,
    upper: Option<f64>,
    rows: u64,
    unknown_rows: u64,
}

fn told_fields() -> Fields {
    let number = |name: &str| Field::new(name, DataType::Float64, true);
    let rows = |name: &str| Field::new(name, DataType::Int64, false);
    Fields::from(vec![number("value"), number("lower"), number("upper"), rows("rows"), rows("unknown_rows")])
}

impl Told {
    fn scalar(self) -> Result<ScalarValue> {
        let number = |number: Option<f64>| -> ArrayRef { Arc::new(Float64Array::from(vec![number])) };
        let rows =
            |rows: u64| -> ArrayRef { Arc::new(Int64Array::from(vec![i64::try_from(rows).unwrap_or(i64::MAX)])) };
        let columns =
            vec![number(self.value), number(self.lower), number(self.upper), rows(self.rows), rows(self.unknown_rows)];
        Ok(ScalarValue::Struct(Arc::new(StructArray::try_new(told_fields(), columns, None)?)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct EstimateFunction {
    estimate: Estimate,
    signature: Signature,
}

impl EstimateFunction {
    fn new(estimate: Estimate) -> Self {
        Self { estimate, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for EstimateFunction {
    fn name(&self) -> &str {
        self.estimate.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Numbers become doubles; a unit is anything that has bytes. Without weight and unit the question is not complete yet.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let own = self.estimate.own_arguments();
        if types.len() != own && types.len() != own + 2 {
            return plan_err!("{}: write {}", self.name(), self.estimate.usage());
        }
        let unit = types.len().checked_sub(1).filter(|_| types.len() > own);
        types
            .iter()
            .enumerate()
            .map(|(index, of)| match of {
                DataType::FixedSizeBinary(_) | DataType::Binary if Some(index) == unit => Ok(of.clone()),
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if Some(index) == unit => Ok(DataType::Utf8),
                of if Some(index) != unit && (of.is_numeric() || of.is_null()) => Ok(DataType::Float64),
                of => plan_err!("{}: argument {} cannot be {of}", self.name(), index + 1),
            })
            .collect()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(told_fields()))
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if arguments.is_distinct || arguments.exprs.len() != self.estimate.own_arguments() + 2 {
            return plan_err!("{} stands in SELECT or HAVING, neither DISTINCT nor over a window", self.name());
        }
        Ok(match self.estimate {
            Estimate::Count => Box::new(Estimating::new(Total::new(Of::Count))),
            Estimate::Sum => Box::new(Estimating::new(Total::new(Of::Sum))),
            Estimate::Avg => Box::new(Estimating::new(Total::new(Of::Avg))),
            Estimate::Percentile => {
                let share = arguments.exprs[1].downcast_ref::<Literal>().map(Literal::value);
                Box::new(Estimating::new(Percentile::new(share_of(share)?)))
            }
        })
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(arguments.name, "state"), DataType::Binary, false))])
    }
}

/// The share that a percentile is asked for.
///
/// # Errors
/// When it is no constant from 0 to 1.
pub fn share_of(constant: Option<&ScalarValue>) -> Result<f64> {
    let number = constant.and_then(|constant| constant.cast_to(&DataType::Float64).ok());
    match number {
        Some(ScalarValue::Float64(Some(share))) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(plan_datafusion_err!("estimated_percentile: the percentile is a constant from 0 to 1, as 0.95")),
    }
}

/// A partial state that came from a node and cannot be one.
#[derive(Debug, thiserror::Error)]
enum BadState {
    /// It is no protobuf.
    #[error("a partial estimate cannot be read")]
    Form(#[from] prost::DecodeError),
    /// Keys and sums do not fit each other.
    #[error("the units of a partial estimate cannot be read")]
    Units,
}

/// A sum over rows that merges in any order.
trait Sums: Send + Sync + std::fmt::Debug + 'static {
    /// Takes one row in. `weight` is at least 1.
    fn add(&mut self, value: f64, weight: f64, unit: u64);
    /// Takes a row in whose weight is not known.
    fn add_unknown(&mut self);
    /// Takes in what another has summed, as [`Self::encode`] wrote it.
    fn merge(&mut self, bytes: &[u8]) -> std::result::Result<(), BadState>;
    fn encode(&self) -> Vec<u8>;
    fn told(&self) -> Told;
    fn size_bytes(&self) -> usize;
}

#[derive(Debug)]
struct Estimating<S>(S);

impl<S: Sums> Estimating<S> {
    fn new(sums: S) -> Self {
        Self(sums)
    }
}

impl<S: Sums> Accumulator for Estimating<S> {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let [own @ .., weights, units] = columns else { return exec_err!("an estimate lacks its weights") };
        let value = own.first().map(|value| value.as_primitive::<Float64Type>());
        let weights = weights.as_primitive::<Float64Type>();
        for row in 0..weights.len() {
            let value = match &value {
                Some(values) if !values.is_valid(row) => continue,
                Some(values) => values.value(row),
                None => 1.0,
            };
            let weight = weights.is_valid(row).then(|| weights.value(row));
            match weight.filter(|weight| weight.is_finite() && *weight >= 1.0) {
                Some(weight) => self.0.add(value, weight, unit(units, row)),
                None => self.0.add_unknown(),
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.told().scalar()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.0.encode()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states.iter().flat_map(|column| column.as_binary::<i32>().iter().flatten()) {
            let merged = self.0.merge(state);
            merged.map_err(|error| datafusion::common::DataFusionError::External(Box::new(error)))?;
        }
        Ok(())
    }
}

/// A unit as a number. Rows without one count as one unit together, which makes bounds wider and never narrower.
fn unit(units: &ArrayRef, row: usize) -> u64 {
    if units.is_null(row) {
        return 0;
    }
    match units.data_type() {
        DataType::FixedSizeBinary(_) => xxh3_64(units.as_fixed_size_binary().value(row)),
        DataType::Binary => xxh3_64(units.as_binary::<i32>().value(row)),
        DataType::Utf8 => xxh3_64(units.as_string::<i32>().value(row).as_bytes()),
        _ => 0,
    }
}
