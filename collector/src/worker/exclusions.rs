//! Sums of the exclusions of `rollups` in SQL: `merged_exclusions(excluded)`.
//!
//! Plain SQL unnests the lists, and a row then stands as often as it has reasons, so that nothing else of it can be added up
//! beside them. Whoever wants both would ask twice, open every file twice and get sums of two moments. Here the counts of a
//! row are added where they lie, and a node sends one list per group, by reason.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use lariat_schema::tables::Table;

use crate::rollup::exclusions::{Counts, column_of};

const NAME: &str = "merged_exclusions";
/// Column of the table whose lists these are.
const COLUMN: &str = "excluded";
/// What an entry takes beside its text.
const ENTRY_BYTES: usize = 48;

/// Adds the function to a session: the query service's, and that of a node that executes a part.
///
/// # Errors
/// When the registry takes no functions.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    let signature = Signature::user_defined(Volatility::Immutable);
    registry.register_udaf(Arc::new(AggregateUDF::from(MergedExclusions { signature }))).map(|_| ())
}

/// The column's type, which is that of the sum as well.
fn listed() -> Result<DataType> {
    Ok(Table::Rollups.schema().field_with_name(COLUMN)?.data_type().clone())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MergedExclusions {
    signature: Signature,
}

impl MergedExclusions {
    fn sums(&self, arguments: &AccumulatorArgs<'_>) -> Result<Sums> {
        if arguments.is_distinct {
            return plan_err!("{NAME}: DISTINCT has no meaning here");
        }
        Ok(Sums::default())
    }
}

impl AggregateUDFImpl for MergedExclusions {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let listed = listed()?;
        if types != [listed.clone()] {
            return plan_err!("{NAME}: write {NAME}({COLUMN})");
        }
        Ok(vec![listed])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        listed()
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
        Ok(vec![Arc::new(Field::new(format_state_name(arguments.name, COLUMN), listed()?, true))])
    }
}

/// Counts per group.
#[derive(Debug, Default)]
struct Sums {
    groups: Vec<Counts>,
    heap_bytes: usize,
}

impl Sums {
    /// Takes rows in, each into its group.
    fn add(&mut self, columns: &[ArrayRef], group_of: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let lists = columns.first().and_then(|column| column.as_list_opt::<i32>());
        let elements = lists.and_then(|lists| lists.values().as_struct_opt()).map(|elements| elements.columns());
        let (Some(lists), Some([reasons, counts])) = (lists, elements) else {
            return exec_err!("{NAME}: these are no exclusions");
        };
        let (reasons, counts) = (reasons.as_string::<i32>(), counts.as_primitive::<Int64Type>());
        for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
            let Some(sum) = group_of(row).and_then(|group| self.groups.get_mut(group)) else { continue };
            let place = |row: usize| usize::try_from(lists.value_offsets()[row]).unwrap_or_default();
            for index in place(row)..place(row + 1) {
                let (reason, count) = (reasons.value(index), counts.value(index));
                match sum.get_mut(reason) {
                    Some(sum) => *sum = sum.wrapping_add(count),
                    None => {
                        self.heap_bytes += ENTRY_BYTES + reason.len();
                        sum.insert(reason.to_owned(), count);
                    }
                }
            }
        }
        Ok(())
    }

    fn grow(&mut self, groups: usize) {
        self.groups.resize_with(groups, Counts::default);
    }

    fn take(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let taken = emit_to.take_needed(&mut self.groups);
        let bytes = |counts: &Counts| counts.keys().map(|reason| ENTRY_BYTES + reason.len()).sum::<usize>();
        self.heap_bytes = self.groups.iter().map(bytes).sum();
        Ok(column_of(taken.iter())?)
    }
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
        self.update_batch(values, group_indices, None, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.take(emit_to)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.take(emit_to)?])
    }

    /// A row's list is its state; where a filter leaves it out, there is none.
    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let Some(lists) = values.first().and_then(|column| column.as_list_opt::<i32>()) else {
            return exec_err!("{NAME}: these are no exclusions");
        };
        let valid: NullBuffer = (0..lists.len()).map(|row| lists.is_valid(row) && passes(opt_filter, row)).collect();
        let (field, offsets, elements, _) = lists.clone().into_parts();
        Ok(vec![Arc::new(arrow::array::ListArray::try_new(field, offsets, elements, Some(valid))?)])
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.groups.capacity() * size_of::<Counts>() + self.heap_bytes
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
        ScalarValue::try_from_array(&column_of(self.0.groups.iter())?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{RecordBatch, StringArray};
    use datafusion::datasource::MemTable;
    use datafusion::prelude::{SessionConfig, SessionContext};
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Rows of a key and counts by reason, in several partitions.
    fn context(rows: &[(&str, Option<Counts>)], partitions: usize) -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(7);
        let context = SessionContext::new_with_config(config);
        register(&mut *context.state_ref().write()).unwrap();
        let batch = |rows: &[(&str, Option<Counts>)]| {
            let none = Counts::new();
            let lists = column_of(rows.iter().map(|row| row.1.as_ref().unwrap_or(&none))).unwrap();
            let (field, offsets, elements, _) = lists.as_list::<i32>().clone().into_parts();
            let valid: NullBuffer = rows.iter().map(|row| row.1.is_some()).collect();
            let lists = arrow::array::ListArray::new(field, offsets, elements, Some(valid));
            let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
            RecordBatch::try_from_iter([("key", keys), ("excluded", Arc::new(lists) as _)]).unwrap()
        };
        let parts = rows.chunks(rows.len().div_ceil(partitions).max(1)).map(|part| vec![batch(part)]).collect();
        let table = MemTable::try_new(batch(rows).schema(), parts).unwrap();
        context.register_table("cells", Arc::new(table)).unwrap();
        context
    }

    /// Key, reason and count of each row.
    async fn counts(context: &SessionContext, sql: &str) -> BTreeMap<(String, String), i64> {
        let mut all = BTreeMap::new();
        for batch in context.sql(sql).await.unwrap().collect().await.unwrap() {
            let (keys, reasons) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
            let counts = batch.column(2).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let key = (keys.value(row).to_owned(), reasons.value(row).to_owned());
                assert_eq!(all.insert(key, counts.value(row)), None, "a reason stands once");
            }
        }
        all
    }

    #[tokio::test]
    async fn sums_by_reason_are_those_that_unnested_rows_give() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for partitions in [1, 3] {
            let mut row = || {
                let reasons =
                    (0..random.random_range(0..4)).map(|_| ["lagging", "tried", "budget"][random.random_range(0..3)]);
                let reasons: Vec<String> = reasons.map(str::to_owned).collect();
                let counts: Counts = reasons.into_iter().map(|reason| (reason, random.random_range(1..9))).collect();
                (["a", "b", "c"][random.random_range(0..3)], random.random_bool(0.9).then_some(counts))
            };
            let rows: Vec<_> = (0..200).map(|_| row()).collect();
            let context = context(&rows, partitions);
            let merged = "SELECT key, e['reason'], e['count'] FROM (SELECT key, unnest(m) AS e FROM \
                          (SELECT key, merged_exclusions(excluded) AS m FROM cells GROUP BY key))";
            let plain = "SELECT key, e['reason'], sum(e['count']) FROM (SELECT key, unnest(excluded) AS e FROM cells) GROUP BY 1, 2";
            let plain = counts(&context, plain).await;
            assert_eq!((counts(&context, merged).await, plain.len()), (plain, 9));
            let some = "SELECT key, e['reason'], e['count'] FROM (SELECT key, unnest(m) AS e FROM (SELECT 'all' AS key, \
                        merged_exclusions(excluded) FILTER (WHERE key <> 'b') AS m FROM cells))";
            let plain = "SELECT 'all', e['reason'], sum(e['count']) FROM (SELECT unnest(excluded) AS e FROM cells WHERE key <> 'b') GROUP BY 2";
            assert_eq!(counts(&context, some).await, counts(&context, plain).await);
        }
    }

    #[tokio::test]
    async fn a_group_without_any_has_an_empty_list_and_another_column_is_refused_in_words() {
        let context = context(&[("a", None), ("a", Some(Counts::new()))], 1);
        let batches = context.sql("SELECT merged_exclusions(excluded) FROM cells GROUP BY key").await.unwrap();
        let batches = batches.collect().await.unwrap();
        let lists = batches[0].column(0).as_list::<i32>();
        assert!(lists.is_valid(0) && lists.value(0).is_empty());
        let refused = context.sql("SELECT merged_exclusions(key) FROM cells").await.unwrap_err().to_string();
        assert!(refused.contains("write merged_exclusions(excluded)"), "{refused}");
    }
}
