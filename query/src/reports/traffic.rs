//! The report `traffic`: calls, rates and success by step and region. A step without calls has no row: a zero would claim
//! that somebody looked and saw nothing, which only the coverage can say.

use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use serde::Serialize;

use super::cells::Groups;
use super::parameters::rfc3339;
use super::sheet::{Column, MOMENT, Sheet};

pub(super) const COLUMNS: &[Column] = &[
    ("time", MOMENT),
    ("region", "Utf8"),
    ("calls", "Int64"),
    ("success", "Int64"),
    ("application_errors", "Int64"),
    ("errors", "Int64"),
    ("calls_per_second", "Float64"),
    ("success_rate", "Float64"),
    ("p50_ms", "Float64"),
    ("p95_ms", "Float64"),
];

#[derive(Serialize)]
struct Row<'a> {
    time: String,
    region: Option<&'a str>,
    calls: i64,
    success: i64,
    application_errors: i64,
    errors: i64,
    calls_per_second: f64,
    success_rate: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

/// Rows by time, over all regions first.
pub(super) fn sheet(groups: &Groups, window: TimeRange, step_nanos: i64, limit: usize) -> Sheet {
    let rows = groups.iter().flat_map(|(key, group)| {
        let start = key.step_unix_nanos;
        let seconds = seconds_inside(window, start, step_nanos);
        group.rows().map(move |(region, tally)| Row {
            time: rfc3339(start),
            region,
            calls: tally.calls,
            success: tally.success(),
            application_errors: tally.application_errors,
            errors: tally.errors,
            calls_per_second: per_second(tally.calls, seconds),
            success_rate: tally.success_rate(),
            p50_ms: tally.quantile_ms(0.5),
            p95_ms: tally.quantile_ms(0.95),
        })
    });
    Sheet::new(COLUMNS.to_vec(), rows, limit)
}

#[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
fn per_second(calls: i64, seconds: f64) -> f64 {
    calls as f64 / seconds
}

/// Length of the part of a step that lies in the window, at least one second: the first and the last step may be cut, and
/// a rate over less than a second says nothing.
#[allow(clippy::cast_precision_loss, reason = "a step is below 2^53 ns times a hundred days")]
fn seconds_inside(window: TimeRange, start: i64, step_nanos: i64) -> f64 {
    let inside = window.intersection(&TimeRange::new(start, start.saturating_add(step_nanos))).nanos();
    inside.max(NANOS_PER_SECOND) as f64 / NANOS_PER_SECOND as f64
}
