//! Cells of the `ops` rollups, summed where they lie and folded here into one tally per group and region.
//!
//! One question brings counts and sketch buckets together: each cell's bucket list is unnested with one further element in
//! front, [`HEAD`], whose rows carry the sums. Two questions would read two snapshots, and a percentile would then speak
//! of other calls than the count beside it. What comes back is as large as groups times buckets, whatever the range.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::tables::SKETCH_SCALE;
use lariat_schema::time_range::TimeRange;

use super::columns::{BadAnswer, count_at, integers, text_at, texts};
use super::sketch::Sketch;
use super::sql_text;

/// The bucket index that marks a cell's sums. A duration of one nanosecond is in bucket -1, so no bucket is below that.
const HEAD: i64 = -1_000_000;
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
    let sum = |what: &str| format!("sum(CASE WHEN bucket = {HEAD} THEN {what} ELSE 0 END)");
    let calls_of = |result: &str| sum(&format!("CASE WHEN result = '{result}' THEN calls ELSE 0 END"));
    format!(
        "SELECT step, {keys}region, bucket, sum(n) AS n, {calls} AS calls, {errors} AS errors, \
         {application_errors} AS application_errors, {duration} AS duration_sum_ns \
         FROM (SELECT {step} AS step, {keys}region, result, calls, duration_sum_ns, \
               unnest(array_concat(make_array(CAST({HEAD} AS BIGINT)), range(CAST(sketch_offset AS BIGINT), \
                      CAST(sketch_offset AS BIGINT) + CAST(cardinality(sketch_counts) AS BIGINT)))) AS bucket, \
               unnest(array_concat(make_array(sketch_zero_count), sketch_counts)) AS n \
               FROM rollups WHERE family = 'ops' AND sketch_scale = {SKETCH_SCALE} AND calls > 0 AND {window}{conditions}) \
         WHERE bucket = {HEAD} OR n > 0 GROUP BY step, {keys}region, bucket",
        calls = sum("calls"),
        errors = calls_of("error"),
        application_errors = calls_of("application_error"),
        duration = sum("duration_sum_ns"),
        window = sql_text::within_any(times),
    )
}

/// Folds the answer to [`question`].
pub(crate) fn fold(batches: &[RecordBatch], keys: &[&'static str]) -> Result<Groups, BadAnswer> {
    let mut groups = Groups::new();
    for batch in batches {
        let steps = integers(batch, "step")?;
        let key_columns = keys.iter().map(|key| texts(batch, key)).collect::<Result<Vec<_>, _>>()?;
        let regions = texts(batch, "region")?;
        let (buckets, n) = (integers(batch, "bucket")?, integers(batch, "n")?);
        let sums = ["calls", "errors", "application_errors", "duration_sum_ns"];
        let [calls, errors, application_errors, durations] = sums.map(|name| integers(batch, name));
        let (calls, errors, application_errors, durations) = (calls?, errors?, application_errors?, durations?);
        for row in 0..batch.num_rows() {
            let key = GroupKey {
                step_unix_nanos: count_at(&steps, row),
                keys: key_columns.iter().map(|column| text_at(column, row)).collect(),
            };
            let region = text_at(&regions, row).unwrap_or_else(|| UNKNOWN_REGION.to_owned());
            let tally = groups.entry(key).or_default().regions.entry(region).or_default();
            let (bucket, n) = (count_at(&buckets, row), count_at(&n, row));
            if bucket == HEAD {
                tally.sketch.add_zero(n);
            } else {
                tally.sketch.add(bucket, n);
            }
            tally.calls += count_at(&calls, row);
            tally.errors += count_at(&errors, row);
            tally.application_errors += count_at(&application_errors, row);
            tally.duration_sum_ns = tally.duration_sum_ns.saturating_add(count_at(&durations, row));
        }
    }
    for group in groups.values_mut() {
        for tally in group.regions.values() {
            group.all.add(tally);
        }
    }
    Ok(groups)
}

/// The groups with the most calls first, so that a limit cuts off the least.
pub(crate) fn busiest_first(groups: &Groups) -> Vec<(&GroupKey, &ByRegion)> {
    let mut sorted: Vec<_> = groups.iter().collect();
    sorted.sort_by_key(|(key, group)| (std::cmp::Reverse(group.all.calls), *key));
    sorted
}
