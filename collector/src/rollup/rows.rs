//! Cells as rows of the table `rollups`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ListBuilder;
use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, Int64Builder, ListArray, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;
use lariat_schema::tables::{SKETCH_SCALE, Table, exclusion_count_fields};

use super::cell::{Cell, CellKey, DIMENSIONS};

/// The rows of these cells; `observed_unix_nanos` is the newest commit that they count.
pub(crate) fn rows(cells: &[(&CellKey, &Cell)], observed_unix_nanos: i64) -> Result<RecordBatch, ArrowError> {
    let longs = |of: &dyn Fn(&Cell) -> i64| -> ArrayRef {
        Arc::new(cells.iter().map(|(_, cell)| of(cell)).collect::<Int64Array>())
    };
    let doubles = |of: &dyn Fn(&Cell) -> f64| -> ArrayRef {
        Arc::new(cells.iter().map(|(_, cell)| of(cell)).collect::<Float64Array>())
    };
    let times: Vec<i64> = cells.iter().map(|(key, _)| key.slice_unix_nanos).collect();
    let mut columns: HashMap<&str, ArrayRef> = HashMap::from([
        ("time", moments(times)),
        ("observed_time", moments(vec![observed_unix_nanos; cells.len()])),
        (
            "family",
            Arc::new(cells.iter().map(|(key, _)| Some(key.family.as_str())).collect::<StringArray>()) as ArrayRef,
        ),
        ("calls", longs(&|cell| cell.calls)),
        ("attempts", longs(&|cell| cell.attempts)),
        ("failovers", longs(&|cell| cell.failovers)),
        ("duration_sum_ns", longs(&|cell| cell.duration_sum_ns)),
        ("provider_sum_ns", longs(&|cell| cell.provider_sum_ns)),
        ("overhead_sum_ns", longs(&|cell| cell.overhead_sum_ns)),
        ("bytes_in", longs(&|cell| cell.bytes_in)),
        ("bytes_out", longs(&|cell| cell.bytes_out)),
        ("eligible_count", longs(&|cell| cell.candidates.eligible)),
        ("billable_units", doubles(&|cell| cell.billable_units)),
        ("probability_sum", doubles(&|cell| cell.candidates.probability_sum)),
        ("first_probability_sum", doubles(&|cell| cell.candidates.first_probability_sum)),
        ("first_attempts", longs(&|cell| cell.candidates.first_attempts)),
        ("excluded", excluded(cells)?),
        ("sketch_scale", Arc::new(Int32Array::from(vec![SKETCH_SCALE; cells.len()]))),
        ("sketch_zero_count", longs(&|cell| cell.sketch.zero_count)),
    ]);
    for (index, name) in DIMENSIONS.iter().enumerate() {
        let texts: StringArray = cells.iter().map(|(key, _)| key.dimensions[index].as_deref()).collect();
        columns.insert(name, Arc::new(texts));
    }
    let (offsets, counts) = sketches(cells);
    columns.insert("sketch_offset", offsets);
    columns.insert("sketch_counts", counts);
    in_order(Table::Rollups, columns)
}

/// A batch of a table from its columns by name.
pub(crate) fn in_order(table: Table, mut columns: HashMap<&str, ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let schema = table.schema();
    let ordered = schema
        .fields()
        .iter()
        .map(|field| {
            columns
                .remove(field.name().as_str())
                .ok_or_else(|| ArrowError::SchemaError(format!("no column {} for {table}", field.name())))
        })
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema, ordered)
}

/// A column of moments.
pub(crate) fn moments(unix_nanos: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from(unix_nanos).with_timezone("UTC"))
}

/// A column of lists of structs, from the structs' columns in one piece and the length of each list.
pub(crate) fn lists(fields: Vec<Field>, columns: Vec<ArrayRef>, lengths: Vec<usize>) -> Result<ArrayRef, ArrowError> {
    let fields = Fields::from(fields);
    let item = Arc::new(Field::new("item", DataType::Struct(fields.clone()), false));
    let rows = columns.first().map_or(0, |column| column.len());
    let values = StructArray::try_new_with_length(fields, columns, None, rows)?;
    Ok(Arc::new(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(values), None)?))
}

fn excluded(cells: &[(&CellKey, &Cell)]) -> Result<ArrayRef, ArrowError> {
    let all = || cells.iter().flat_map(|(_, cell)| &cell.candidates.excluded);
    let reasons: StringArray = all().map(|(reason, _)| Some(reason.as_str())).collect();
    let counts: Int64Array = all().map(|(_, count)| *count).collect();
    let lengths = cells.iter().map(|(_, cell)| cell.candidates.excluded.len()).collect();
    lists(exclusion_count_fields(), vec![Arc::new(reasons), Arc::new(counts)], lengths)
}

fn sketches(cells: &[(&CellKey, &Cell)]) -> (ArrayRef, ArrayRef) {
    let item = Field::new("item", DataType::Int64, false);
    let mut counts = ListBuilder::new(Int64Builder::new()).with_field(item);
    let mut offsets = Vec::with_capacity(cells.len());
    for (_, cell) in cells {
        let (offset, dense) = cell.sketch.dense();
        offsets.push(offset);
        counts.values().append_slice(&dense);
        counts.append(true);
    }
    (Arc::new(Int32Array::from(offsets)), Arc::new(counts.finish()))
}
