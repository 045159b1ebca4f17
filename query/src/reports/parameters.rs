//! The parameters of a report, taken apart once at the edge. An unknown name is an error that lists the known ones: a
//! filter that is silently ignored would answer for all chains where one was meant.

use std::time::Duration;

use lariat_schema::duration_text;
use lariat_schema::time_range::{NANOS_PER_SECOND, SLICE_NANOS, TimeRange};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded;

use super::sql_text;

/// Window where none is given.
const DEFAULT_WINDOW_NANOS: i64 = 15 * 60 * NANOS_PER_SECOND;
/// Rows where no limit is given: an hour of steps in three regions, several times over.
pub(crate) const DEFAULT_LIMIT: usize = 1_000;
/// Most rows of a report: beyond it SQL with its streaming formats is the better question.
pub(crate) const MAX_LIMIT: usize = 10_000;
/// Steps in a window where no step is given: what a chart's width shows.
const DEFAULT_STEPS: i64 = 60;
/// Most steps of a window: as many points as Prometheus gives for one series.
const MAX_STEPS: i64 = 11_000;
/// Most values of one filter, so that a URL cannot become a plan of any size.
const MAX_FILTER_VALUES: usize = 64;

/// What a report can be asked besides the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepts {
    /// Columns that it can be filtered by.
    pub(crate) filters: &'static [&'static str],
    /// Its own parameters, as `step`, `by` or `trace_id`.
    pub(crate) own: &'static [&'static str],
}

/// The parameters of one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameters {
    /// What time the report is about.
    pub(crate) window: TimeRange,
    /// Values of the report's own parameters except `step`.
    pub(crate) own: Vec<(&'static str, String)>,
    /// Column and the values it may have.
    pub(crate) filters: Vec<(&'static str, Vec<String>)>,
    /// Most rows of the answer.
    pub(crate) limit: usize,
    /// Below this ratio the answer is an error.
    pub(crate) min_coverage: Option<f64>,
    /// How long to wait for nodes.
    pub(crate) deadline: Option<Duration>,
    step_nanos: Option<i64>,
}

/// A parameter that cannot be what it is: the client's fault, no retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadParameter {
    /// The report has none of that name.
    #[error("`{name}` is no parameter of this report; one of: {}", .allowed.join(", "))]
    Unknown {
        /// What was found.
        name: String,
        /// What there is.
        allowed: Vec<&'static str>,
    },
    /// Its value is no such thing.
    #[error("`{name}={value}`: expected {expected}")]
    Value {
        /// The parameter.
        name: String,
        /// What was found.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// What every report takes.
pub(crate) const GENERAL: &[&str] = &["from", "to", "limit", "min_coverage", "deadline"];

impl Parameters {
    /// Takes a query string apart; `now_unix_nanos` is what relative times are relative to.
    pub(crate) fn parse(query: &str, accepts: Accepts, now_unix_nanos: i64) -> Result<Self, BadParameter> {
        let mut parsed = Self {
            window: TimeRange::new(now_unix_nanos, now_unix_nanos),
            own: Vec::new(),
            filters: Vec::new(),
            limit: DEFAULT_LIMIT,
            min_coverage: None,
            deadline: None,
            step_nanos: None,
        };
        let (mut from, mut to) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "from" => from = Some(parse_moment("from", &value, now_unix_nanos)?),
                "to" => to = Some(parse_moment("to", &value, now_unix_nanos)?),
                _ => parsed.take(&name, &value, accepts)?,
            }
        }
        let to = to.unwrap_or(now_unix_nanos);
        let from = from.unwrap_or(to.saturating_sub(DEFAULT_WINDOW_NANOS));
        if from >= to {
            let value = rfc3339(from);
            return Err(BadParameter::Value { name: "from".to_owned(), value, expected: "a moment before `to`" });
        }
        parsed.window = TimeRange::new(from, to);
        if parsed.step_nanos.is_some_and(|step| parsed.window.nanos() / step > MAX_STEPS) {
            let value = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "step");
            let value = value.map_or_else(String::new, |(_, value)| value.into_owned());
            return Err(BadParameter::Value {
                name: "step".to_owned(),
                value,
                expected: "a step that gives at most 11000 steps",
            });
        }
        Ok(parsed)
    }

    fn take(&mut self, name: &str, value: &str, accepts: Accepts) -> Result<(), BadParameter> {
        let bad = |expected| BadParameter::Value { name: name.to_owned(), value: value.to_owned(), expected };
        if let Some(own) = accepts.own.iter().find(|own| **own == name) {
            if name == "step" {
                let step = parse_duration_nanos(value).filter(|step| *step > 0);
                self.step_nanos = Some(round_up_to_slice(step.ok_or_else(|| bad("a duration, as 10s or 5m"))?));
            } else {
                self.own.push((own, value.to_owned()));
            }
            return Ok(());
        }
        if let Some(column) = accepts.filters.iter().find(|column| **column == name) {
            let at = self.filters.iter().position(|(of, _)| of == column).unwrap_or_else(|| {
                self.filters.push((column, Vec::new()));
                self.filters.len() - 1
            });
            let values = &mut self.filters[at].1;
            if values.len() >= MAX_FILTER_VALUES {
                return Err(bad("at most 64 values of one filter"));
            }
            values.push(value.to_owned());
            return Ok(());
        }
        match name {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                self.limit = limit.ok_or_else(|| bad("a whole number from 1 to 10000"))?;
            }
            "min_coverage" => {
                let ratio = value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                self.min_coverage = Some(ratio.ok_or_else(|| bad("a number from 0 to 1"))?);
            }
            "deadline" => {
                let nanos = parse_duration_nanos(value).and_then(|nanos| u64::try_from(nanos).ok()).filter(|n| *n > 0);
                self.deadline = Some(Duration::from_nanos(nanos.ok_or_else(|| bad("a duration, as 500ms or 2s"))?));
            }
            _ => {
                let allowed = [GENERAL, accepts.own, accepts.filters].concat();
                return Err(BadParameter::Unknown { name: name.to_owned(), allowed });
            }
        }
        Ok(())
    }

    /// Length of a step in nanoseconds, a whole number of 10 s cells.
    pub(crate) fn step_nanos(&self) -> i64 {
        self.step_nanos.unwrap_or_else(|| round_step(self.window.nanos() / DEFAULT_STEPS))
    }

    /// The step as it was asked for, if it was.
    pub(crate) fn given_step_nanos(&self) -> Option<i64> {
        self.step_nanos
    }

    /// The value of one of the report's own parameters; the last one given wins.
    pub(crate) fn own(&self, name: &str) -> Option<&str> {
        self.own.iter().rev().find(|(of, _)| *of == name).map(|(_, value)| value.as_str())
    }

    /// The filters as conditions, each beginning with ` AND `.
    pub(crate) fn conditions(&self) -> String {
        self.filters.iter().map(|(column, values)| format!(" AND {}", sql_text::any_of(column, values))).collect()
    }

    /// The window whose start is moved down to a whole cell: a cell belongs to the time at which it starts.
    pub(crate) fn cell_window(&self) -> TimeRange {
        let from = self.window.from_unix_nanos;
        TimeRange::new(from - from.rem_euclid(SLICE_NANOS), self.window.to_unix_nanos)
    }
}

fn round_up_to_slice(nanos: i64) -> i64 {
    round_up(nanos, SLICE_NANOS).max(SLICE_NANOS)
}

/// The least round step that is no shorter: beyond a minute a part or a multiple of an hour, so that it is made of whole cells of
/// the longest kind.
fn round_step(nanos: i64) -> i64 {
    const MINUTE: i64 = 60 * NANOS_PER_SECOND;
    const ROUND_MINUTES: [i64; 11] = [2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440];
    if nanos <= MINUTE {
        return round_up_to_slice(nanos);
    }
    let longest = ROUND_MINUTES[ROUND_MINUTES.len() - 1] * MINUTE;
    let round = ROUND_MINUTES.iter().map(|minutes| minutes * MINUTE).find(|step| nanos <= *step);
    round.unwrap_or_else(|| round_up(nanos, longest))
}

fn round_up(nanos: i64, to: i64) -> i64 {
    let rest = nanos.rem_euclid(to);
    if rest == 0 { nanos } else { nanos.saturating_add(to - rest) }
}

/// A moment as RFC 3339 UTC with nanoseconds; one beyond the calendar is shown as its count of nanoseconds.
pub(crate) fn rfc3339(unix_nanos: i64) -> String {
    let Ok(moment) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_nanos)) else {
        return unix_nanos.to_string();
    };
    let (date, clock) = (moment.date(), moment.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.nanosecond()
    )
}

fn parse_moment(name: &str, value: &str, now_unix_nanos: i64) -> Result<i64, BadParameter> {
    moment_of(value, now_unix_nanos).ok_or_else(|| BadParameter::Value {
        name: name.to_owned(),
        value: value.to_owned(),
        expected: "RFC 3339, Unix seconds, or a time ago as -15m",
    })
}

/// A moment: RFC 3339, a date, Unix seconds, a time ago, or `now`.
pub(crate) fn moment_of(value: &str, now_unix_nanos: i64) -> Option<i64> {
    let relative = || {
        let ago = parse_duration_nanos(value.strip_prefix('-')?)?;
        Some(now_unix_nanos.saturating_sub(ago))
    };
    let seconds = || value.parse::<f64>().ok().and_then(seconds_to_nanos);
    let calendar = || {
        let date = value.len() == "2026-11-20".len();
        let value = if date { format!("{value}T00:00:00Z") } else { value.to_owned() };
        let moment = OffsetDateTime::parse(&value, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos()).ok()
    };
    let now = (value == "now").then_some(now_unix_nanos);
    // A negative number without a unit is seconds before 1970; with a unit it is relative.
    now.or_else(relative).or_else(seconds).or_else(calendar)
}

fn seconds_to_nanos(seconds: f64) -> Option<i64> {
    let millis = (seconds * 1_000.0).round();
    if !millis.is_finite() || millis.abs() > 9.0e12 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "checked to lie within 9e12")]
    Some((millis as i64) * 1_000_000)
}

/// `500ms`, `10s`, `15m`, `24h` or `7d` in nanoseconds.
pub(crate) fn parse_duration_nanos(text: &str) -> Option<i64> {
    i64::try_from(duration_text::parse(text).ok()?.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_763_683_200_000_000_000;
    const ACCEPTS: Accepts = Accepts { filters: &["profile", "chain"], own: &["step"] };

    fn parse(query: &str) -> Result<Parameters, BadParameter> {
        Parameters::parse(query, ACCEPTS, NOW)
    }

    #[test]
    fn without_parameters_a_report_is_about_the_last_15_minutes_in_60_steps_of_whole_cells() {
        let parameters = parse("").unwrap();
        assert_eq!(parameters.window, TimeRange::new(NOW - 900 * NANOS_PER_SECOND, NOW));
        assert_eq!(parameters.step_nanos(), 20 * NANOS_PER_SECOND);
        assert_eq!(parse("from=-1h").unwrap().step_nanos(), 60 * NANOS_PER_SECOND);
    }

    #[test]
    fn over_long_ranges_the_step_is_a_round_one_that_long_cells_add_up_to() {
        let minutes = |query: &str| parse(query).unwrap().step_nanos() / (60 * NANOS_PER_SECOND);
        let found = ["-2h", "-6h", "-24h", "-7d", "-30d", "-365d"].map(|from| minutes(&format!("from={from}")));
        assert_eq!(found, [2, 10, 30, 180, 720, 7 * 1_440]);
    }

    #[test]
    fn moments_are_calendar_times_unix_seconds_or_times_ago() {
        let expected = TimeRange::new(NOW - 60 * NANOS_PER_SECOND, NOW);
        for query in [
            "from=2025-11-20T23:59:00Z&to=2025-11-21T00:00:00Z",
            "from=1763683140&to=1763683200",
            "from=-60s&to=now",
            "from=2025-11-21T01:59:00%2B02:00",
        ] {
            assert_eq!(parse(query).unwrap().window, expected, "{query}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_the_allowed_ones() {
        let error = parse("provider=a").unwrap_err().to_string();
        assert!(error.starts_with("`provider` is no parameter of this report; one of: from, to,"), "{error}");
        assert!(error.contains("profile"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for query in [
            "limit=0",
            "limit=10001",
            "min_coverage=1.5",
            "deadline=soon",
            "from=now",
            "step=0s",
            "from=-365d&step=10s",
        ] {
            assert!(matches!(parse(query), Err(BadParameter::Value { .. })), "{query}");
        }
    }

    #[test]
    fn a_filter_given_twice_allows_either_value() {
        assert_eq!(parse("chain=a&chain=b").unwrap().conditions(), " AND chain IN ('a', 'b')");
    }

    #[test]
    fn a_moment_is_written_with_nine_digits_below_the_second() {
        assert_eq!(rfc3339(NOW + 1), "2025-11-21T00:00:00.000000001Z");
    }
}
