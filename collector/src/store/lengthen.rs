//! Cells of 10 s into longer ones, row by row, in bounded memory.
//!
//! Rows come in the table's order, so that all rows of one longer cell come between two changes of what stands in that
//! order before the time, or of the longer cell's own time: what is open at once is one such stretch, and rows go out in
//! the same order. Collecting an hour and sorting it would be shorter, and an hour of many accounts has no bound. Where one
//! stretch alone grows beyond [`OPEN_BYTES`], its cells go out in several rows, as those of `rollups` may.
//!
//! Counts are added as SQL's `sum` adds them, and sketches as `merged_sketch` does; rows whose sketch is of another scale,
//! or is none, stay rows of their own.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, Int64Builder, ListArray, ListBuilder, RecordBatch,
    StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use lariat_schema::cells::{CellWidth, KEY_COLUMNS};
use lariat_schema::tables::{SKETCH_SCALE, Table};

use super::order::SortKey;
use crate::columns::{column, double, doubles, ints, long, longs, moments};
use crate::rollup::exclusions;
use crate::rollup::rows::{in_order, moments as moments_column};
use crate::rollup::sketch::Sketch;

/// Memory of the cells that are open at once.
const OPEN_BYTES: usize = 16 << 20;
/// What a cell takes beside its key and its sketch.
const CELL_BYTES: usize = 512;

/// Columns of whole numbers that are added up.
const LONGS: [&str; 9] = [
    "calls",
    "attempts",
    "failovers",
    "duration_sum_ns",
    "provider_sum_ns",
    "overhead_sum_ns",
    "bytes_in",
    "bytes_out",
    "eligible_count",
];
/// Columns of doubles that are added up.
const DOUBLES: [&str; 2] = ["billable_units", "probability_sum"];

/// A longer cell.
#[derive(Debug, Default)]
struct Cell {
    longs: [i64; LONGS.len()],
    doubles: [f64; DOUBLES.len()],
    first_probability_sum: Option<f64>,
    first_attempts: Option<i64>,
    excluded: exclusions::Counts,
    observed_unix_nanos: i64,
    sketch: Sketch,
}

/// Rows into cells of one width.
pub(crate) struct Lengthen {
    width: CellWidth,
    /// What a cell is about.
    keys: RowConverter,
    /// What stands before the time in the table's order.
    before_time: SortKey,
    /// The stretch that is open, and the start of its cells.
    stretch: Option<(Box<[u8]>, i64)>,
    cells: BTreeMap<Box<[u8]>, Cell>,
    /// Rows of the stretch that stay as they are but for their time.
    apart: Vec<RecordBatch>,
    open_bytes: usize,
}

impl Lengthen {
    pub(crate) fn new(width: CellWidth) -> Result<Self, ArrowError> {
        let schema = Table::Rollups.schema();
        let field = |name: &&str| Ok(SortField::new(schema.field_with_name(name)?.data_type().clone()));
        Ok(Self {
            width,
            keys: RowConverter::new(KEY_COLUMNS.iter().map(field).collect::<Result<_, ArrowError>>()?)?,
            before_time: SortKey::before_time(Table::Rollups)?,
            stretch: None,
            cells: BTreeMap::new(),
            apart: Vec::new(),
            open_bytes: 0,
        })
    }

    /// Takes rows that come after those before in the table's order. Returns the cells that are whole.
    pub(crate) fn take(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>, ArrowError> {
        let key_columns: Vec<ArrayRef> =
            KEY_COLUMNS.iter().map(|name| column_of(batch, name)).collect::<Result<_, _>>()?;
        let (keys, stretches) = (self.keys.convert_columns(&key_columns)?, self.before_time.rows(batch)?);
        let times = moments(batch, "time");
        let rows = Rows::of(batch);
        let mut whole = Vec::new();
        for row in 0..batch.num_rows() {
            let time = times.value(row);
            let start = time.saturating_sub(time.rem_euclid(self.width.nanos()));
            let stretch = stretches.row(row);
            let same = self.stretch.as_ref().is_some_and(|(open, of)| *of == start && **open == *stretch.data());
            if !same || self.open_bytes > OPEN_BYTES {
                whole.extend(self.close()?);
                self.stretch = Some((stretch.data().into(), start));
            }
            if rows.sketch_is_of_scale(row) {
                self.add(keys.row(row).data(), &rows, row);
            } else {
                self.apart.push(at(&batch.slice(row, 1), start)?);
                self.open_bytes += CELL_BYTES;
            }
        }
        Ok(whole)
    }

    fn add(&mut self, key: &[u8], rows: &Rows<'_>, row: usize) {
        let cell = match self.cells.get_mut(key) {
            Some(cell) => cell,
            None => {
                self.open_bytes += key.len() + CELL_BYTES;
                self.cells.entry(key.into()).or_default()
            }
        };
        let before = cell.sketch.counts().len();
        rows.add_to(cell, row);
        self.open_bytes += (cell.sketch.counts().len() - before) * size_of::<i64>();
    }

    /// The cells that are open, at the end of the rows or of a stretch.
    pub(crate) fn close(&mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.open_bytes = 0;
        let mut closed = std::mem::take(&mut self.apart);
        let cells = std::mem::take(&mut self.cells);
        if let (Some((_, start)), false) = (&self.stretch, cells.is_empty()) {
            closed.push(rows_of(&self.keys, &cells, *start)?);
        }
        Ok(closed)
    }
}

/// The columns of a batch that are added up.
struct Rows<'a> {
    longs: [&'a Int64Array; LONGS.len()],
    doubles: [&'a Float64Array; DOUBLES.len()],
    first_probability_sum: &'a Float64Array,
    first_attempts: &'a Int64Array,
    observed: &'a TimestampNanosecondArray,
    excluded: &'a ListArray,
    reasons: &'a StringArray,
    exclusions: &'a Int64Array,
    scale: &'a Int32Array,
    zero_count: &'a Int64Array,
    offset: &'a Int32Array,
    counts: &'a ListArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        let excluded: &ListArray = column(batch, "excluded");
        let of_excluded = excluded.values().as_struct();
        Self {
            longs: LONGS.map(|name| longs(batch, name)),
            doubles: DOUBLES.map(|name| doubles(batch, name)),
            first_probability_sum: doubles(batch, "first_probability_sum"),
            first_attempts: longs(batch, "first_attempts"),
            observed: moments(batch, "observed_time"),
            excluded,
            reasons: of_excluded.column(0).as_string(),
            exclusions: of_excluded.column(1).as_primitive(),
            scale: ints(batch, "sketch_scale"),
            zero_count: longs(batch, "sketch_zero_count"),
            offset: ints(batch, "sketch_offset"),
            counts: column(batch, "sketch_counts"),
        }
    }

    fn buckets(&self, row: usize) -> &'a [i64] {
        let values = self.counts.values().as_primitive::<Int64Type>().values();
        values.get(places_of(self.counts, row)).unwrap_or_default()
    }

    fn sketch_is_of_scale(&self, row: usize) -> bool {
        self.scale.value(row) == SKETCH_SCALE && Sketch::takes(self.offset.value(row), self.buckets(row))
    }

    fn add_to(&self, cell: &mut Cell, row: usize) {
        for (sum, column) in cell.longs.iter_mut().zip(self.longs) {
            *sum = sum.wrapping_add(column.value(row));
        }
        for (sum, column) in cell.doubles.iter_mut().zip(self.doubles) {
            *sum += column.value(row);
        }
        if let Some(value) = double(self.first_probability_sum, row) {
            *cell.first_probability_sum.get_or_insert(0.0) += value;
        }
        if let Some(value) = long(self.first_attempts, row) {
            let sum = cell.first_attempts.get_or_insert(0);
            *sum = sum.wrapping_add(value);
        }
        cell.observed_unix_nanos = cell.observed_unix_nanos.max(self.observed.value(row));
        for index in places_of(self.excluded, row) {
            let (reason, count) = (self.reasons.value(index), self.exclusions.value(index));
            match cell.excluded.get_mut(reason) {
                Some(sum) => *sum = sum.wrapping_add(count),
                None => {
                    cell.excluded.insert(reason.to_owned(), count);
                }
            }
        }
        cell.sketch.add_zero(self.zero_count.value(row).max(0));
        // It was looked at before: it is of this scale.
        let _ = cell.sketch.add(self.offset.value(row), self.buckets(row));
    }
}

/// Where the elements of a row's list stand.
fn places_of(lists: &ListArray, row: usize) -> Range<usize> {
    if lists.is_null(row) {
        return 0..0;
    }
    let place = |row: usize| usize::try_from(lists.value_offsets()[row]).unwrap_or_default();
    place(row)..place(row + 1)
}

fn column_of(batch: &RecordBatch, name: &str) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::clone(batch.column(batch.schema_ref().index_of(name)?)))
}

/// The same rows at another time.
fn at(batch: &RecordBatch, unix_nanos: i64) -> Result<RecordBatch, ArrowError> {
    let mut columns = batch.columns().to_vec();
    columns[batch.schema_ref().index_of("time")?] = moments_column(vec![unix_nanos; batch.num_rows()]);
    RecordBatch::try_new(batch.schema(), columns)
}

/// Cells as rows of the table.
fn rows_of(keys: &RowConverter, cells: &BTreeMap<Box<[u8]>, Cell>, start: i64) -> Result<RecordBatch, ArrowError> {
    let parser = keys.parser();
    let key_columns = keys.convert_rows(cells.keys().map(|key| parser.parse(key)))?;
    let mut columns: HashMap<&str, ArrayRef> = KEY_COLUMNS.into_iter().zip(key_columns).collect();
    columns.insert("time", moments_column(vec![start; cells.len()]));
    columns.insert("observed_time", moments_column(cells.values().map(|cell| cell.observed_unix_nanos).collect()));
    for (at, name) in LONGS.into_iter().enumerate() {
        columns.insert(name, Arc::new(cells.values().map(|cell| cell.longs[at]).collect::<Int64Array>()));
    }
    for (at, name) in DOUBLES.into_iter().enumerate() {
        columns.insert(name, Arc::new(cells.values().map(|cell| cell.doubles[at]).collect::<Float64Array>()));
    }
    let first: Float64Array = cells.values().map(|cell| cell.first_probability_sum).collect();
    columns.insert("first_probability_sum", Arc::new(first));
    let first: Int64Array = cells.values().map(|cell| cell.first_attempts).collect();
    columns.insert("first_attempts", Arc::new(first));
    columns.insert("excluded", exclusions::column_of(cells.values().map(|cell| &cell.excluded))?);
    let zero: Int64Array = cells.values().map(|cell| cell.sketch.zero()).collect();
    columns.insert("sketch_zero_count", Arc::new(zero));
    let offsets: Int32Array = cells.values().map(|cell| cell.sketch.offset()).collect();
    columns.insert("sketch_offset", Arc::new(offsets));
    let mut counts = ListBuilder::new(Int64Builder::new()).with_field(Field::new("item", DataType::Int64, false));
    for cell in cells.values() {
        counts.values().append_slice(cell.sketch.counts());
        counts.append(true);
    }
    columns.insert("sketch_counts", Arc::new(counts.finish()));
    in_order(Table::Rollups, columns)
}
