//! Sums of the sketches of `rollups` in SQL: `merged_sketch(sketch_zero_count, sketch_offset, sketch_counts)` and
//! `sketch_percentile(sketch_zero_count, sketch_offset, sketch_counts, 0.95)` in nanoseconds.
//!
//! Plain SQL can say the same by unnesting every bucket of every cell and grouping by bucket; a week of a fleet is then
//! hundreds of millions of rows that are made, hashed and thrown away. Here a cell's buckets are added where they lie, and
//! a node sends one list per group. The arguments stand in the order of the columns of the table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int32Type, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_datafusion_err, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;

#[cfg(test)]
mod tests;

pub use crate::rollup::sketch::{ERROR_BOUND, NoSketch, Sketch};

/// What is made of the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Made {
    Sketch,
    Percentile,
}

impl Made {
    const ALL: [Self; 2] = [Self::Sketch, Self::Percentile];

    fn usage(self) -> &'static str {
        match self {
            Self::Sketch => "merged_sketch(sketch_zero_count, sketch_offset, sketch_counts)",
            Self::Percentile => "sketch_percentile(sketch_zero_count, sketch_offset, sketch_counts, 0.95)",
        }
    }
}

/// Adds the functions to a session: the query service's, and that of a node that executes a part.
///
/// # Errors
/// When the registry takes no functions.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for made in Made::ALL {
        let signature = Signature::user_defined(Volatility::Immutable);
        registry.register_udaf(Arc::new(AggregateUDF::from(SketchFunction { made, signature })))?;
    }
    Ok(())
}

fn counts_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)))
}

/// Columns of a sketch, in the answer and on its way.
fn sketch_fields(name: impl Fn(&str) -> String) -> Fields {
    let field = |of: &str, is: DataType| Field::new(name(of), is, false);
    Fields::from(vec![
        field("zero_count", DataType::Int64),
        field("offset", DataType::Int32),
        field("counts", counts_type()),
    ])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchFunction {
    made: Made,
    signature: Signature,
}

impl SketchFunction {
    fn share(&self, arguments: &AccumulatorArgs<'_>) -> Result<Option<f64>> {
        if self.made == Made::Sketch {
            return Ok(None);
        }
        let constant = arguments.exprs.last().and_then(|last| last.downcast_ref::<Literal>()).map(Literal::value);
        match constant.and_then(|constant| constant.cast_to(&DataType::Float64).ok()) {
            Some(ScalarValue::Float64(Some(share))) if (0.0..=1.0).contains(&share) => Ok(Some(share)),
            _ => Err(plan_datafusion_err!("sketch_percentile: the percentile is a constant from 0 to 1, as 0.95")),
        }
    }
}

impl AggregateUDFImpl for SketchFunction {
    fn name(&self) -> &str {
        self.made.usage().split('(').next().unwrap_or_default()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (share, columns) = match (self.made, types) {
            (Made::Sketch, columns) => (None, columns),
            (Made::Percentile, [columns @ .., share]) => (Some(share), columns),
            (Made::Percentile, []) => (None, types),
        };
        let listed = match columns {
            [zero, offset, DataType::List(item)] => {
                zero.is_integer() && offset.is_integer() && item.data_type().is_integer()
            }
            _ => false,
        };
        if !listed || share.is_some_and(|share| !share.is_numeric()) {
            return plan_err!("{}: write {}", self.name(), self.made.usage());
        }
        let own = share.map(|_| DataType::Float64);
        Ok([DataType::Int64, DataType::Int32, counts_type()].into_iter().chain(own).collect())
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.made {
            Made::Sketch => DataType::Struct(sketch_fields(str::to_owned)),
            Made::Percentile => DataType::Float64,
        })
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Whole(self.sums(&arguments)?)))
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        !arguments.is_distinct
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.sums(&arguments)?))
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(sketch_fields(|of| format_state_name(arguments.name, of)).iter().cloned().collect())
    }
}

impl SketchFunction {
    fn sums(&self, arguments: &AccumulatorArgs<'_>) -> Result<Sums> {
        if arguments.is_distinct {
            return plan_err!("{}: DISTINCT has no meaning here", self.name());
        }
        Ok(Sums { made: self.made, share: self.share(arguments)?, groups: Vec::new(), heap_bytes: 0 })
    }
}

/// A sketch per group.
#[derive(Debug)]
struct Sums {
    made: Made,
    share: Option<f64>,
    groups: Vec<Sketch>,
    heap_bytes: usize,
}

impl Sums {
    /// Takes rows in, each into its group: zero counts, offsets and lists of counts stand first among the columns.
    fn add(&mut self, columns: &[ArrayRef], group_of: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let [zero, offset, counts, ..] = columns else { return exec_err!("a sketch lacks a column") };
        let (zero, offset) = (zero.as_primitive::<Int64Type>(), offset.as_primitive::<Int32Type>());
        let counts = counts.as_list::<i32>();
        let values = counts.values().as_primitive::<Int64Type>().values();
        for row in 0..zero.len() {
            let Some(sum) = group_of(row).and_then(|group| self.groups.get_mut(group)) else { continue };
            if zero.is_valid(row) {
                sum.add_zero(zero.value(row).max(0));
            }
            if offset.is_valid(row) && counts.is_valid(row) {
                let (from, to) = (counts.value_offsets()[row], counts.value_offsets()[row + 1]);
                let of_row = usize::try_from(from).ok().zip(usize::try_from(to).ok());
                let of_row = of_row.and_then(|(from, to)| values.get(from..to)).unwrap_or_default();
                let before = sum.heap_bytes();
                sum.add(offset.value(row), of_row).map_err(|error| DataFusionError::External(Box::new(error)))?;
                self.heap_bytes += sum.heap_bytes() - before;
            }
        }
        Ok(())
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Sketch> {
        let taken = emit_to.take_needed(&mut self.groups);
        self.heap_bytes = self.groups.iter().map(Sketch::heap_bytes).sum();
        taken
    }

    fn grow(&mut self, groups: usize) {
        self.groups.resize_with(groups, Sketch::default);
    }

    fn made_of(&self, sketches: &[Sketch]) -> Result<ArrayRef> {
        Ok(match self.share {
            Some(share) => Arc::new(sketches.iter().map(|sketch| sketch.quantile_ns(share)).collect::<Float64Array>()),
            None => Arc::new(StructArray::try_new(sketch_fields(str::to_owned), columns_of(sketches), None)?),
        })
    }
}

fn columns_of(sketches: &[Sketch]) -> Vec<ArrayRef> {
    let zero: Int64Array = sketches.iter().map(|sketch| Some(sketch.zero())).collect();
    let offset: Int32Array = sketches.iter().map(|sketch| Some(sketch.offset())).collect();
    let lengths = OffsetBuffer::from_lengths(sketches.iter().map(|sketch| sketch.counts().len()));
    let values: Int64Array = sketches.iter().flat_map(|sketch| sketch.counts().iter().copied().map(Some)).collect();
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let counts = ListArray::new(item, lengths, Arc::new(values), None);
    vec![Arc::new(zero), Arc::new(offset), Arc::new(counts)]
}

/// Whether the filter of an aggregate lets a row through.
fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl GroupsAccumulator for Sums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        self.add(values, |row| group_indices.get(row).copied().filter(|_| passes(opt_filter, row)))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.grow(total_num_groups);
        self.add(values, |row| group_indices.get(row).copied())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let taken = self.take(emit_to);
        self.made_of(&taken)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(columns_of(&self.take(emit_to)))
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |column| column.len());
        let mut each = Self { made: self.made, share: None, groups: vec![Sketch::default(); rows], heap_bytes: 0 };
        each.add(values, |row| Some(row).filter(|row| passes(opt_filter, *row)))?;
        Ok(columns_of(&each.groups))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.groups.capacity() * size_of::<Sketch>() + self.heap_bytes
    }
}

/// One group alone: an aggregate without GROUP BY.
#[derive(Debug)]
struct Whole(Sums);

impl Accumulator for Whole {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.grow(1);
        self.0.add(values, |_| Some(0))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.grow(1);
        ScalarValue::try_from_array(&self.0.made_of(&self.0.groups)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.grow(1);
        columns_of(&self.0.groups).iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
