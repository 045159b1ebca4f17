//! Arrow to points, grouped by series: labels are decoded once per series and not once per point.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, MapArray, RecordBatch,
    StringArray, StructArray, TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampNanosecondType};
use arrow::error::ArrowError;
use lariat_schema::tables::Table;

use super::super::histogram::Native;
use super::super::names::{Sender, Shape};

/// The columns that [`read`] needs, as SQL.
pub(super) const COLUMNS: &str = "time, start_time, series_id, name, unit, instrument, temporality, monotonic, \
     service_name, node_id, region, labels, value, count, sum, scale, zero_count, zero_threshold, positive_offset, \
     positive_counts, negative_offset, negative_counts, bounds, bucket_counts, quantiles, no_recorded_value";

/// The columns that [`identities`] needs, as SQL.
pub(super) const IDENTITY: &str = "series_id, name, unit, instrument, temporality, monotonic, service_name, node_id, \
     region, labels";

/// What a series is, without its points.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Identity {
    pub(super) stored: String,
    pub(super) unit: String,
    pub(super) shape: Shape,
    pub(super) delta: bool,
    pub(super) sender: Sender,
    pub(super) attributes: Vec<(String, String)>,
}

/// One stored series.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) identity: Identity,
    pub(super) points: Vec<Point>,
}

/// One stored point, times in Unix milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub(super) time: i64,
    pub(super) start: Option<i64>,
    pub(super) data: Data,
}

/// What a point holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    /// Nothing: the series ended.
    Stale,
    /// A number.
    Number(f64),
    /// An exponential histogram.
    Exponential(Native),
    /// Counts by explicit bounds, the last one without.
    Explicit { count: f64, sum: f64, bounds: Vec<f64>, counts: Vec<f64> },
    /// Quantiles and their values.
    Summary { count: f64, sum: f64, quantiles: Vec<(f64, f64)> },
}

/// Columns by name, in the types that the table declares.
struct Columns<'a>(&'a RecordBatch);

impl Columns<'_> {
    fn get(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        let column = self.0.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))?;
        let schema = Table::Metrics.schema();
        let wanted = schema.field_with_name(name)?.data_type();
        if column.data_type() == wanted { Ok(Arc::clone(column)) } else { cast(column, wanted) }
    }

    fn texts(&self, name: &str) -> Result<StringArray, ArrowError> {
        Ok(self.get(name)?.as_string::<i32>().clone())
    }
    fn floats(&self, name: &str) -> Result<Float64Array, ArrowError> {
        Ok(self.get(name)?.as_primitive::<Float64Type>().clone())
    }
    fn integers(&self, name: &str) -> Result<Int64Array, ArrowError> {
        Ok(self.get(name)?.as_primitive::<Int64Type>().clone())
    }
    fn small(&self, name: &str) -> Result<Int32Array, ArrowError> {
        Ok(self.get(name)?.as_primitive::<Int32Type>().clone())
    }
    fn times(&self, name: &str) -> Result<TimestampNanosecondArray, ArrowError> {
        Ok(self.get(name)?.as_primitive::<TimestampNanosecondType>().clone())
    }
    fn flags(&self, name: &str) -> Result<BooleanArray, ArrowError> {
        Ok(self.get(name)?.as_boolean().clone())
    }
    fn lists(&self, name: &str) -> Result<ListArray, ArrowError> {
        Ok(self.get(name)?.as_list::<i32>().clone())
    }
}

struct Identities {
    series: ArrayRef,
    texts: [StringArray; 7],
    monotonic: BooleanArray,
    labels: MapArray,
}

impl Identities {
    fn of(columns: &Columns<'_>) -> Result<Self, ArrowError> {
        let text = |name| columns.texts(name);
        Ok(Self {
            series: columns.get("series_id")?,
            texts: [
                text("name")?,
                text("unit")?,
                text("instrument")?,
                text("temporality")?,
                text("service_name")?,
                text("node_id")?,
                text("region")?,
            ],
            monotonic: columns.flags("monotonic")?,
            labels: columns.get("labels")?.as_map().clone(),
        })
    }

    fn key(&self, row: usize) -> (Vec<u8>, String) {
        (self.series.as_fixed_size_binary().value(row).to_vec(), self.texts[5].value(row).to_owned())
    }

    fn identity(&self, row: usize) -> Option<Identity> {
        let text = |at: usize| {
            let array = &self.texts[at];
            if array.is_null(row) { String::new() } else { array.value(row).to_owned() }
        };
        let monotonic = self.monotonic.is_valid(row) && self.monotonic.value(row);
        let entries = self.labels.value(row);
        let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
        let attributes = (0..entries.len())
            .filter(|at| values.is_valid(*at))
            .map(|at| (keys.value(at).to_owned(), values.value(at).to_owned()));
        Some(Identity {
            stored: text(0),
            unit: text(1),
            shape: Shape::of(&text(2), monotonic)?,
            delta: text(3).eq_ignore_ascii_case("delta"),
            sender: Sender { service: text(4), node_id: text(5), region: text(6) },
            attributes: attributes.collect(),
        })
    }
}

/// The series of each row; `None` for a kind of metric that is not known.
pub(super) fn each(batch: &RecordBatch) -> Result<Vec<Option<Identity>>, ArrowError> {
    let identities = Identities::of(&Columns(batch))?;
    Ok((0..batch.num_rows()).map(|row| identities.identity(row)).collect())
}

/// The series of some batches, each once.
pub(super) fn identities(batches: &[RecordBatch]) -> Result<Vec<Identity>, ArrowError> {
    let mut seen = std::collections::HashSet::new();
    let mut found = Vec::new();
    for batch in batches {
        let identities = Identities::of(&Columns(batch))?;
        for row in 0..batch.num_rows() {
            if seen.insert(identities.key(row)) {
                found.extend(identities.identity(row));
            }
        }
    }
    Ok(found)
}

/// The series of some batches with their points in order of time, each moment once.
pub(super) fn read(batches: &[RecordBatch]) -> Result<Vec<Raw>, ArrowError> {
    let mut places: HashMap<(Vec<u8>, String), usize> = HashMap::new();
    let mut series: Vec<Raw> = Vec::new();
    for batch in batches {
        let columns = Columns(batch);
        let identities = Identities::of(&columns)?;
        let values = Values::of(&columns)?;
        for row in 0..batch.num_rows() {
            let key = identities.key(row);
            let place = match places.get(&key) {
                Some(place) => *place,
                None => {
                    let Some(identity) = identities.identity(row) else { continue };
                    places.insert(key, series.len());
                    series.push(Raw { identity, points: Vec::new() });
                    series.len() - 1
                }
            };
            let raw = &mut series[place];
            raw.points.push(values.point(row, raw.identity.shape));
        }
    }
    for raw in &mut series {
        raw.points.sort_by_key(|point| point.time);
        raw.points.dedup_by_key(|point| point.time);
    }
    Ok(series)
}

struct Values {
    times: [TimestampNanosecondArray; 2],
    absent: BooleanArray,
    value: Float64Array,
    sum: Float64Array,
    zero_threshold: Float64Array,
    counts: [Int64Array; 2],
    small: [Int32Array; 3],
    lists: [ListArray; 4],
    quantiles: ListArray,
}

impl Values {
    fn of(columns: &Columns<'_>) -> Result<Self, ArrowError> {
        let list = |name| columns.lists(name);
        Ok(Self {
            times: [columns.times("time")?, columns.times("start_time")?],
            absent: columns.flags("no_recorded_value")?,
            value: columns.floats("value")?,
            sum: columns.floats("sum")?,
            zero_threshold: columns.floats("zero_threshold")?,
            counts: [columns.integers("count")?, columns.integers("zero_count")?],
            small: [columns.small("scale")?, columns.small("positive_offset")?, columns.small("negative_offset")?],
            lists: [list("positive_counts")?, list("negative_counts")?, list("bounds")?, list("bucket_counts")?],
            quantiles: list("quantiles")?,
        })
    }

    fn point(&self, row: usize, shape: Shape) -> Point {
        let start = &self.times[1];
        let start = (start.is_valid(row) && start.value(row) > 0).then(|| start.value(row).div_euclid(1_000_000));
        let time = self.times[0].value(row).div_euclid(1_000_000);
        Point { time, start, data: if self.absent.value(row) { Data::Stale } else { self.data(row, shape) } }
    }

    fn data(&self, row: usize, shape: Shape) -> Data {
        let float = |array: &Float64Array| if array.is_valid(row) { array.value(row) } else { 0.0 };
        let integer = |array: &Int64Array| if array.is_valid(row) { array.value(row) as f64 } else { 0.0 };
        let small = |array: &Int32Array| if array.is_valid(row) { array.value(row) } else { 0 };
        let (count, sum) = (integer(&self.counts[0]), float(&self.sum));
        match shape {
            Shape::Gauge | Shape::Counter => Data::Number(float(&self.value)),
            Shape::Exponential => Data::Exponential(Native {
                schema: small(&self.small[0]),
                zero_threshold: float(&self.zero_threshold),
                zero_count: integer(&self.counts[1]),
                count,
                sum,
                positive: buckets(&self.lists[0], row, small(&self.small[1])),
                negative: buckets(&self.lists[1], row, small(&self.small[2])),
                ..Native::default()
            }),
            Shape::Histogram => {
                let bounds = self.list(2, row);
                let bounds = bounds.map_or_else(Vec::new, |list| list.as_primitive::<Float64Type>().values().to_vec());
                let counts = self.list(3, row).map_or_else(Vec::new, |list| integers(&list));
                Data::Explicit { count, sum, bounds, counts }
            }
            Shape::Summary => Data::Summary { count, sum, quantiles: self.quantiles(row) },
        }
    }

    fn list(&self, at: usize, row: usize) -> Option<ArrayRef> {
        self.lists[at].is_valid(row).then(|| self.lists[at].value(row))
    }

    fn quantiles(&self, row: usize) -> Vec<(f64, f64)> {
        if self.quantiles.is_null(row) {
            return Vec::new();
        }
        let entries: StructArray = self.quantiles.value(row).as_struct().clone();
        let column = |at: usize| entries.column(at).as_primitive::<Float64Type>().values().to_vec();
        column(0).into_iter().zip(column(1)).collect()
    }
}

fn integers(list: &ArrayRef) -> Vec<f64> {
    list.as_primitive::<Int64Type>().values().iter().map(|count| *count as f64).collect()
}

/// Buckets with Prometheus' indexes: OpenTelemetry names a bucket by its lower bound, Prometheus by its upper one.
fn buckets(list: &ListArray, row: usize, offset: i32) -> Vec<(i32, f64)> {
    if list.is_null(row) {
        return Vec::new();
    }
    let counts = integers(&list.value(row)).into_iter().zip(offset.saturating_add(1)..);
    counts.filter(|(count, _)| *count != 0.0).map(|(count, index)| (index, count)).collect()
}
