//! Which row of several batches comes where in a file, and the columns in that order.
//!
//! Rows are arranged by their places, and a column is put together only when it is written. Joining the batches first
//! and sorting them as a whole was rejected: it holds every row three times. Each table's order ends with the time, and
//! rows come in runs that are equal in what stands before it: texts are compared once for a run, all else is numbers.

use std::borrow::Cow;

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, MutableArrayData, RecordBatch, StringArray, UInt32Array, make_array,
};
use arrow::compute::{interleave, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use lariat_schema::tables::Table;

use super::write::NANOS_PER_HOUR;
use crate::columns::{Nulls, moments};

/// A row: which batch, and where in it.
pub(crate) type Place = (usize, usize);

/// Rows that follow each other in their batch, as one stretch to copy. With shorter ones on average, rows are copied one
/// by one, which costs less than stretches of one row.
const STRETCH_ROWS: usize = 4;

/// Converts a table's sort columns, or the first of them, into bytes that compare as the rows do.
pub(crate) struct SortKey {
    columns: &'static [&'static str],
    converter: RowConverter,
}

impl SortKey {
    /// By all sort columns of the table.
    pub(crate) fn of(table: Table) -> Result<Self, ArrowError> {
        Self::by(table, table.sort_columns())
    }

    /// By those that stand before the time.
    pub(crate) fn before_time(table: Table) -> Result<Self, ArrowError> {
        Self::by(table, columns_before_time(table))
    }

    fn by(table: Table, columns: &'static [&'static str]) -> Result<Self, ArrowError> {
        let schema = table.schema();
        let fields = columns
            .iter()
            .map(|name| Ok(SortField::new(schema.field_with_name(name)?.data_type().clone())))
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self { columns, converter: RowConverter::new(fields)? })
    }

    pub(crate) fn rows(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        let columns = self.columns(batch)?.into_iter().map(ArrayRef::clone).collect::<Vec<_>>();
        self.converter.convert_columns(&columns)
    }

    fn columns<'b>(&self, batch: &'b RecordBatch) -> Result<Vec<&'b ArrayRef>, ArrowError> {
        let schema = batch.schema_ref();
        self.columns.iter().map(|name| Ok(batch.column(schema.index_of(name)?))).collect()
    }

    /// Where runs of rows begin that are equal in all columns, and the bytes of each run.
    fn runs(&self, batch: &RecordBatch) -> Result<(Vec<u32>, Rows), ArrowError> {
        let columns = self.columns(batch)?;
        let mut begins = vec![false; batch.num_rows()];
        if let Some(first) = begins.first_mut() {
            *first = true;
        }
        for column in &columns {
            mark_changes(column, &mut begins);
        }
        let begins: Vec<u32> = (0..).zip(begins).filter_map(|(row, begins)| begins.then_some(row)).collect();
        let rows = UInt32Array::from(begins.clone());
        let firsts = columns.into_iter().map(|column| take(column, &rows, None)).collect::<Result<Vec<_>, _>>()?;
        Ok((begins, self.converter.convert_columns(&firsts)?))
    }
}

fn columns_before_time(table: Table) -> &'static [&'static str] {
    table.sort_columns().split_last().map_or(&[][..], |(_, before)| before)
}

/// Marks the rows whose cell is another than that of the row before.
fn mark_changes(column: &ArrayRef, changes: &mut [bool]) {
    if column.null_count() == column.len() {
        return;
    }
    let any = column.as_any();
    let nulls = column.nulls();
    let differ_in_nulls = |row: usize| nulls.is_some_and(|nulls| nulls.is_null(row) != nulls.is_null(row - 1));
    let mut mark = |differ: &dyn Fn(usize) -> bool| {
        for (row, change) in changes.iter_mut().enumerate().skip(1) {
            *change = *change || differ_in_nulls(row) || differ(row);
        }
    };
    if let Some(texts) = any.downcast_ref::<StringArray>() {
        mark(&|row| texts.value(row) != texts.value(row - 1));
    } else if let Some(ids) = any.downcast_ref::<FixedSizeBinaryArray>() {
        mark(&|row| ids.value(row) != ids.value(row - 1));
    } else {
        mark(&|_| true);
    }
}

/// The rows in the table's order, with the hour of their time. Equal rows stay in the order of their batches.
pub(crate) fn arranged(table: Table, batches: &[RecordBatch]) -> Result<Vec<(i64, Place)>, ArrowError> {
    let starts: Vec<usize> =
        batches.iter().scan(0, |rows, batch| Some(std::mem::replace(rows, *rows + batch.num_rows()))).collect();
    let place = |Sorted { time, row, .. }: Sorted| {
        let row = usize::try_from(row).unwrap_or_default();
        // The last batch that begins at or before the row; empty batches before it begin there too.
        let batch = starts.partition_point(|start| *start <= row).saturating_sub(1);
        (time.div_euclid(NANOS_PER_HOUR), (batch, row - starts[batch]))
    };
    Ok(sorted(table, batches)?.into_iter().map(place).collect())
}

/// A row as it is sorted: by the rank of its run, then by time, then as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sorted {
    rank: u32,
    time: i64,
    row: u32,
}

fn sorted(table: Table, batches: &[RecordBatch]) -> Result<Vec<Sorted>, ArrowError> {
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    u32::try_from(rows).map_err(|_| ArrowError::ComputeError("too many rows".to_owned()))?;
    let mut sorted = Vec::with_capacity(rows);
    let mut runs: Vec<Box<[u8]>> = Vec::new();
    let before_time = columns_before_time(table);
    let key = (!before_time.is_empty()).then(|| SortKey::by(table, before_time)).transpose()?;
    let mut row = 0;
    for batch in batches {
        let (begins, keys) = key.as_ref().map(|key| key.runs(batch)).transpose()?.unzip();
        let mut begins = begins.unwrap_or_default().into_iter().enumerate().peekable();
        if keys.is_none() && runs.is_empty() {
            runs.push(Box::default());
        }
        for (at, time) in (0..).zip(moments(batch, "time").values()) {
            if let (Some((run, _)), Some(keys)) = (begins.next_if(|(_, begin)| *begin == at), &keys) {
                let bytes = keys.row(run).data();
                if runs.last().is_none_or(|run| **run != *bytes) {
                    runs.push(bytes.into());
                }
            }
            let rank = u32::try_from(runs.len() - 1).unwrap_or(u32::MAX);
            sorted.push(Sorted { rank, time: *time, row });
            row += 1;
        }
    }
    let ranks = ranks(&runs);
    for one in &mut sorted {
        one.rank = ranks[usize::try_from(one.rank).unwrap_or_default()];
    }
    sorted.sort_unstable();
    Ok(sorted)
}

/// The place of each run among all; equal runs have the same.
fn ranks(runs: &[Box<[u8]>]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_unstable_by(|left, right| runs[*left].cmp(&runs[*right]));
    let mut ranks = vec![0; runs.len()];
    let mut rank = 0;
    for (at, run) in order.iter().enumerate() {
        if at > 0 && runs[order[at - 1]] != runs[*run] {
            rank += 1;
        }
        ranks[*run] = rank;
    }
    ranks
}

/// Copies columns of batches into an order.
pub(crate) struct Gather<'a> {
    /// Those that have a row among them: a file's rows come in the order of time, as batches do.
    batches: Vec<&'a RecordBatch>,
    places: Cow<'a, [Place]>,
    /// Batch, first row and the row after the last, of each stretch.
    stretches: Vec<(usize, usize, usize)>,
    nulls: Nulls,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(batches: &'a [RecordBatch], places: &'a [Place]) -> Self {
        let mut used = vec![false; batches.len()];
        places.iter().for_each(|(batch, _)| used[*batch] = true);
        let (batches, places) = if used.iter().all(|used| *used) {
            (batches.iter().collect(), Cow::Borrowed(places))
        } else {
            let mut place_of = vec![0; batches.len()];
            let mut own = Vec::new();
            for (at, batch) in batches.iter().enumerate().filter(|(at, _)| used[*at]) {
                place_of[at] = own.len();
                own.push(batch);
            }
            (own, places.iter().map(|(batch, row)| (place_of[*batch], *row)).collect())
        };
        let mut stretches: Vec<(usize, usize, usize)> = Vec::new();
        for (batch, row) in places.iter() {
            match stretches.last_mut() {
                Some((of, _, end)) if of == batch && end == row => *end += 1,
                _ => stretches.push((*batch, *row, row + 1)),
            }
        }
        Self { batches, places, stretches, nulls: Nulls::default() }
    }

    /// Rows that are copied.
    pub(crate) fn rows(&self) -> usize {
        self.places.len()
    }

    /// Where the rows are, in their order.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// A column of the batches as it lies there.
    pub(crate) fn sources(&self, at: usize) -> Vec<&'a ArrayRef> {
        self.batches.iter().map(|batch| batch.column(at)).collect()
    }

    /// A column of the batches in the order of the places.
    pub(crate) fn column(&self, at: usize, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let columns = self.sources(at);
        if columns.iter().all(|column| column.null_count() == column.len()) {
            return Ok(self.nulls.of(data_type, self.rows()));
        }
        if self.stretches.len() * STRETCH_ROWS > self.rows() {
            let columns: Vec<&dyn Array> = columns.into_iter().map(AsRef::as_ref).collect();
            return interleave(&columns, &self.places);
        }
        let data: Vec<_> = columns.into_iter().map(|column| column.to_data()).collect();
        let mut copied = MutableArrayData::new(data.iter().collect(), false, self.rows());
        for (batch, from, to) in &self.stretches {
            copied.try_extend(*batch, *from, *to)?;
        }
        Ok(make_array(copied.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use arrow::compute::{concat_batches, take_record_batch};
    use serde_json::json;

    use super::*;
    use crate::fixtures::{START, batch, decision};

    /// Batches of decisions whose profiles, services and times are anything but in order, an empty one between.
    fn batches() -> Vec<RecordBatch> {
        let rows = |range: std::ops::Range<u128>, step: u128| {
            let rows: Vec<_> = range
                .map(|n| {
                    let time = START + i64::try_from(n * step % 97).unwrap() * 61_000_000_000;
                    let profile = ["public", "premium", "free"][usize::try_from(n / 5 % 3).unwrap()];
                    let mut row = decision(n, json!({"time": time, "profile": profile}));
                    if n % 4 == 0 {
                        row.as_object_mut().unwrap().remove("chain");
                    }
                    row
                })
                .collect();
            batch(Table::Spans, &rows)
        };
        vec![rows(1..40, 13), rows(40..40, 1), rows(40..170, 1), rows(170..200, 29)]
    }

    #[test]
    fn rows_are_arranged_as_sorting_all_of_them_by_every_sort_column_does() {
        let batches = batches();
        let all = concat_batches(&Table::Spans.schema(), &batches).unwrap();
        let keys = SortKey::of(Table::Spans).unwrap().rows(&all).unwrap();
        let mut expected: Vec<u32> = (0..u32::try_from(all.num_rows()).unwrap()).collect();
        expected.sort_by(|left, right| keys.row(*left as usize).cmp(&keys.row(*right as usize)));
        let expected = take_record_batch(&all, &UInt32Array::from(expected)).unwrap();
        let rows = arranged(Table::Spans, &batches).unwrap();
        let hours: Vec<i64> =
            moments(&expected, "time").values().iter().map(|at| at.div_euclid(NANOS_PER_HOUR)).collect();
        assert_eq!(rows.iter().map(|(hour, _)| *hour).collect::<Vec<_>>(), hours);
        let places: Vec<Place> = rows.into_iter().map(|(_, place)| place).collect();
        let gather = Gather::new(&batches, &places);
        for (at, field) in Table::Spans.schema().fields().iter().enumerate() {
            assert_eq!(&gather.column(at, field.data_type()).unwrap(), expected.column(at), "{}", field.name());
        }
    }

    #[test]
    fn stretches_and_single_rows_give_the_same_columns() {
        let batches = batches();
        let places: Vec<Place> = (0..130).map(|row| (2, row)).chain((0..30).map(|row| (3, row))).collect();
        let stretches = Gather::new(&batches, &places);
        assert_eq!(stretches.stretches.len(), 2);
        let mut single = Gather::new(&batches, &places);
        single.stretches = places.iter().map(|(batch, row)| (*batch, *row, row + 1)).collect();
        for (at, field) in Table::Spans.schema().fields().iter().enumerate() {
            let (one, other) = (stretches.column(at, field.data_type()), single.column(at, field.data_type()));
            assert_eq!(&one.unwrap(), &other.unwrap(), "{}", field.name());
        }
    }
}
