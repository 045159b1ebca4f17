//! Cells of the `ops` rollups, summed where they lie and folded here into one tally per group and region.
//!
//! One question brings counts and sketches together. Two questions would read two snapshots, and a percentile would then
//! speak of other calls than the count beside it. What comes back is a row per group, region and result, whatever the range;
//! the result is part of the key, since a sum for each of its values would look at every cell three times.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use lariat_collector::worker::sketches::Sketch;
use lariat_schema::tables::SKETCH_SCALE;
use lariat_schema::time_range::TimeRange;

use super::columns::{BadAnswer, count_at, integers, structs, text_at, texts};
use super::sql_text;

/// Region of rows whose sender told none.
pub(crate) const UNKNOWN_REGION: &str = "unknown";

/// Sums over some cells.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) calls: i64,
    pub(crate) errors: i64,
    pub(crate) application_errors: i64,
    pub(crate) duration_sum_ns: i64,
    pub(crate) sketch: Sketch,
}

impl Tally {
    /// Calls that ended with a result.
    pub(crate) fn success(&self) -> i64 {
        self.calls - self.errors - self.application_errors
    }

    /// Share of calls that did not end in an error of the system, 0 to 1; a fault of the call itself does not lower it.
    pub(crate) fn success_rate(&self) -> Option<f64> {
        share(self.calls - self.errors, self.calls)
    }

    /// Mean duration in milliseconds, from exact sums.
    #[allow(clippy::cast_precision_loss, reason = "a mean needs no more than 53 bits")]
    pub(crate) fn mean_ms(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.duration_sum_ns as f64 / self.calls as f64 / 1_000_000.0)
    }

    /// The duration in milliseconds that a share `q` of the calls does not exceed, within the sketch's error.
    pub(crate) fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.sketch.quantile_ns(q).map(|nanos| nanos / 1_000_000.0)
    }

    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.application_errors += other.application_errors;
        self.duration_sum_ns = self.duration_sum_ns.saturating_add(other.duration_sum_ns);
        self.sketch.merge(&other.sketch);
    }
}

/// `part / whole`, none where there is nothing.
#[allow(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
pub(crate) fn share(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// What one group is: the start of its step (0 where there are no steps) and its key columns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) step_unix_nanos: i64,
    pub(crate) keys: Vec<Option<String>>,
}

/// A group over all regions and in each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ByRegion {
    regions: BTreeMap<String, Tally>,
    all: Tally,
}

impl ByRegion {
    /// The sum over all regions.
    pub(crate) fn all(&self) -> &Tally {
        &self.all
    }

    /// The sum over all regions under `None`, then each region.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Option<&str>, &Tally)> {
        std::iter::once((None, &self.all))
            .chain(self.regions.iter().map(|(region, tally)| (Some(region.as_str()), tally)))
    }
}

/// Groups by key.
pub(crate) type Groups = BTreeMap<GroupKey, ByRegion>;

/// The question for cells grouped by `keys` and region, in steps where `step_nanos` is given. `conditions` is empty or
/// begins with ` AND `.
pub(crate) fn question(
    keys: &[&'static str],
    step_nanos: Option<i64>,
    times: &[TimeRange],
    conditions: &str,
) -> String {
    let step = step_nanos.map_or_else(|| "0".to_owned(), |step| format!("CAST(time AS BIGINT) / {step} * {step}"));
    let keys: String = keys.iter().map(|key| format!("{key}, ")).collect();
    format!(
        "SELECT step, {keys}region, result, sum(calls) AS calls, sum(duration_sum_ns) AS duration_sum_ns, \
         merged_sketch(sketch_zero_count, sketch_offset, sketch_counts) AS sketch \
         FROM (SELECT {step} AS step, {keys}region, result, calls, duration_sum_ns, sketch_zero_count, sketch_offset, \
               sketch_counts FROM {cells} \
               WHERE family = 'ops' AND sketch_scale = {SKETCH_SCALE} AND calls > 0 AND {window}{conditions}) \
         GROUP BY step, {keys}region, result",
        cells = sql_text::cells(step_nanos),
        window = sql_text::within_any(times),
    )
}

/// Folds the answer to [`question`].
pub(crate) fn fold(batches: &[RecordBatch], keys: &[&'static str]) -> Result<Groups, BadAnswer> {
    let mut groups = Groups::new();
    for batch in batches {
        let steps = integers(batch, "step")?;
        let key_columns = keys.iter().map(|key| texts(batch, key)).collect::<Result<Vec<_>, _>>()?;
        let (regions, results) = (texts(batch, "region")?, texts(batch, "result")?);
        let (calls, durations) = (integers(batch, "calls")?, integers(batch, "duration_sum_ns")?);
        let sketches = structs(batch, "sketch")?;
        for row in 0..batch.num_rows() {
            let key = GroupKey {
                step_unix_nanos: count_at(&steps, row),
                keys: key_columns.iter().map(|column| text_at(column, row)).collect(),
            };
            let region = text_at(&regions, row).unwrap_or_else(|| UNKNOWN_REGION.to_owned());
            let tally = groups.entry(key).or_default().regions.entry(region).or_default();
            let of_row = count_at(&calls, row);
            tally.calls += of_row;
            match text_at(&results, row).as_deref() {
                Some("error") => tally.errors += of_row,
                Some("application_error") => tally.application_errors += of_row,
                _ => {}
            }
            tally.duration_sum_ns = tally.duration_sum_ns.saturating_add(count_at(&durations, row));
            add_sketch(&mut tally.sketch, &sketches, row)?;
        }
    }
    for group in groups.values_mut() {
        for tally in group.regions.values() {
            group.all.add(tally);
        }
    }
    Ok(groups)
}

/// Adds a row of `merged_sketch`.
fn add_sketch(sum: &mut Sketch, sketches: &StructArray, row: usize) -> Result<(), BadAnswer> {
    let part = |name: &'static str, is: &DataType| -> Result<&ArrayRef, BadAnswer> {
        sketches.column_by_name(name).filter(|column| column.data_type() == is).ok_or(BadAnswer::Missing("sketch"))
    };
    sum.add_zero(part("zero_count", &DataType::Int64)?.as_primitive::<Int64Type>().value(row));
    let offset = part("offset", &DataType::Int32)?.as_primitive::<Int32Type>().value(row);
    let lists = sketches.column_by_name("counts").and_then(|column| column.as_list_opt::<i32>());
    let counts = lists.ok_or(BadAnswer::Missing("sketch"))?.value(row);
    let counts = counts.as_primitive_opt::<Int64Type>().ok_or(BadAnswer::Missing("sketch"))?;
    sum.add(offset, counts.values()).map_err(BadAnswer::Sketch)
}

/// The groups with the most calls first, so that a limit cuts off the least.
pub(crate) fn busiest_first(groups: &Groups) -> Vec<(&GroupKey, &ByRegion)> {
    let mut sorted: Vec<_> = groups.iter().collect();
    sorted.sort_by_key(|(key, group)| (std::cmp::Reverse(group.all.calls), *key));
    sorted
}
