//! The notation of points: `1 2+3x2 _ stale {{schema:1 sum:3 count:22 buckets:[5 10 7]}}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::histogram::{CUSTOM_SCHEMA, Hint, Native};
use super::super::labels::{Labels, NAME};
use super::super::syntax::lexer::parse_float;
use super::super::value::Series;

/// One point of the notation.
#[derive(Debug, Clone)]
pub(super) enum Point {
    None,
    Stale,
    Float(f64),
    /// A histogram, and whether its hint was written.
    Histogram(Native, bool),
}

/// `metric{label="value"} points`.
pub(super) fn series(line: &str) -> Result<(Labels, Vec<Point>), String> {
    let line = line.trim();
    let mut depth = 0;
    let mut quote = None;
    let mut escaped = false;
    let mut end = line.len();
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) => {
                if escaped {
                    escaped = false;
                } else if c == '\\' {
                    escaped = true;
                } else if c == open {
                    quote = None;
                }
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '{' => depth += 1,
            None if c == '}' => depth -= 1,
            None if c.is_whitespace() && depth == 0 => {
                end = at;
                break;
            }
            None => {}
        }
    }
    Ok((labels(&line[..end])?, sequence(&line[end..])?))
}

fn labels(text: &str) -> Result<Labels, String> {
    if text == "{}" || text.is_empty() {
        return Ok(Labels::default());
    }
    let selector = super::super::syntax::parse_selector(text).map_err(|error| format!("{text}: {error}"))?;
    Ok(Labels::new(selector.matchers.into_iter().map(|matcher| (matcher.name, matcher.value)).collect()))
}

fn sequence(text: &str) -> Result<Vec<Point>, String> {
    let mut rest = text.trim();
    let mut points = Vec::new();
    while !rest.is_empty() {
        let mut end = 0;
        let mut inside = false;
        for (at, c) in rest.char_indices() {
            inside = if rest[at..].starts_with("{{") {
                true
            } else if rest[..at].ends_with("}}") {
                false
            } else {
                inside
            };
            if c.is_whitespace() && !inside {
                break;
            }
            end = at + c.len_utf8();
        }
        item(&rest[..end], &mut points)?;
        rest = rest[end..].trim_start();
    }
    Ok(points)
}

fn item(text: &str, points: &mut Vec<Point>) -> Result<(), String> {
    let bad = || format!("bad point {text:?}");
    let times = |text: &str| -> Result<usize, String> { text.parse().map_err(|_| bad()) };
    if let Some(rest) = text.strip_prefix("{{") {
        let (first, rest) = rest.split_once("}}").ok_or_else(bad)?;
        let (mut total, hinted) = histogram(first)?;
        if rest.is_empty() {
            points.push(Point::Histogram(total, hinted));
        } else if let Some(count) = rest.strip_prefix('x') {
            let count = times(count)?;
            points.extend((0..=count).map(|_| Point::Histogram(total.clone(), hinted)));
        } else {
            let (sign, rest) = rest.split_at(1);
            let (step, rest) = rest.strip_prefix("{{").and_then(|rest| rest.split_once("}}")).ok_or_else(bad)?;
            let (step, _) = histogram(step)?;
            let count = times(rest.strip_prefix('x').ok_or_else(bad)?)?;
            points.push(Point::Histogram(total.clone(), hinted));
            for _ in 0..count {
                let change = if sign == "+" { total.add(&step) } else { total.subtract(&step) };
                change.map_err(|_| bad())?;
                points.push(Point::Histogram(total.clone(), hinted));
            }
        }
        return Ok(());
    }
    let (value, count) = match text.rsplit_once('x') {
        Some((value, count)) => (value, Some(times(count)?)),
        None => (text, None),
    };
    let repeated = |point: Point, extra: usize| vec![point; extra];
    if value == "_" {
        points.extend(repeated(Point::None, count.unwrap_or(1)));
        return Ok(());
    }
    if value == "stale" {
        points.extend(repeated(Point::Stale, count.map_or(1, |count| count + 1)));
        return Ok(());
    }
    let number = |text: &str| parse_float(text).ok_or_else(bad);
    let split = value
        .char_indices()
        .skip(1)
        .filter(|(at, c)| matches!(c, '+' | '-') && !matches!(value.as_bytes()[at - 1], b'e' | b'E' | b'+' | b'-'));
    let split = if count.is_some() { split.last().map(|(at, _)| at) } else { None };
    let (start, step) = match split {
        Some(at) => {
            let step = value[at..].replace("--", "").replace("+-", "-").replace("-+", "-");
            (number(&value[..at])?, number(&step)?)
        }
        None => (number(value)?, 0.0),
    };
    let mut total = start;
    for _ in 0..=count.unwrap_or(0) {
        points.push(Point::Float(total));
        total += step;
    }
    Ok(())
}

fn histogram(text: &str) -> Result<(Native, bool), String> {
    let mut native = Native::default();
    let mut hinted = false;
    let mut offsets = [0; 2];
    let mut buckets: [Vec<f64>; 2] = Default::default();
    let mut rest = text.trim();
    let numbers = |text: &str| -> Result<Vec<f64>, String> {
        text.split_whitespace().map(|n| parse_float(n).ok_or_else(|| format!("bad number {n:?}"))).collect()
    };
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':').ok_or_else(|| format!("bad histogram {text:?}"))?;
        let (value, after) = if let Some(list) = after.strip_prefix('[') {
            list.split_once(']').ok_or_else(|| format!("bad list in {text:?}"))?
        } else {
            after.split_once(char::is_whitespace).unwrap_or((after, ""))
        };
        rest = after.trim_start();
        let number = || parse_float(value).ok_or_else(|| format!("bad number {value:?}"));
        let integer = || value.parse::<i32>().map_err(|_| format!("bad integer {value:?}"));
        match key {
            "schema" => native.schema = integer()?,
            "sum" => native.sum = number()?,
            "count" => native.count = number()?,
            "z_bucket" => native.zero_count = number()?,
            "z_bucket_w" => native.zero_threshold = number()?,
            "custom_values" => native.custom = Arc::new(numbers(value)?),
            "buckets" => buckets[0] = numbers(value)?,
            "n_buckets" => buckets[1] = numbers(value)?,
            "offset" => offsets[0] = integer()?,
            "n_offset" => offsets[1] = integer()?,
            "counter_reset_hint" => {
                hinted = true;
                native.hint = match value {
                    "gauge" => Hint::Gauge,
                    "reset" => Hint::Reset,
                    "not_reset" => Hint::NotReset,
                    _ => Hint::Unknown,
                };
            }
            _ => return Err(format!("bad key {key:?}")),
        }
    }
    let indexed = |which: usize| (offsets[which]..).zip(buckets[which].iter().copied()).collect();
    (native.positive, native.negative) = (indexed(0), indexed(1));
    Ok((native.compact(), hinted))
}

/// Adds loaded series to those that are there, and says what is known about resets, as a store would.
pub(super) fn merge(all: &mut Vec<Series>, loaded: Vec<Series>) {
    for new in loaded {
        match all.iter_mut().find(|series| series.labels == new.labels) {
            Some(series) => {
                series.floats.extend(new.floats);
                series.histograms.extend(new.histograms);
                series.stale.extend(new.stale);
                series.floats.sort_by_key(|(at, _)| *at);
                series.histograms.sort_by_key(|(at, _)| *at);
            }
            None => all.push(new),
        }
    }
}

/// Points at a distance as a series.
pub(super) fn as_series(labels: Labels, points: &[Point], step: i64) -> Series {
    let mut series = Series { labels, ..Series::default() };
    let mut previous: Option<Native> = None;
    for (time, point) in (0..).map(|at| at * step).zip(points) {
        match point {
            Point::None => {}
            Point::Stale => series.stale.push(time),
            Point::Float(value) => {
                previous = None;
                series.floats.push((time, *value));
            }
            Point::Histogram(histogram, _) => {
                let mut histogram = histogram.clone();
                if !matches!(histogram.hint, Hint::Gauge | Hint::Reset) {
                    histogram.hint = Hint::Unknown;
                    if let Some(previous) = &previous {
                        let reset = histogram.is_reset_after(previous);
                        histogram.hint = if reset { Hint::Reset } else { Hint::NotReset };
                    }
                }
                // A gauge is no predecessor of a counter.
                previous = (histogram.hint != Hint::Gauge).then(|| Native { hint: Hint::Unknown, ..histogram.clone() });
                series.histograms.push((time, Arc::new(histogram)));
            }
        }
    }
    series
}

/// Classic histograms as native ones with custom bounds.
pub(super) fn with_custom_bounds(series: &[Series]) -> Vec<Series> {
    type Moment = (BTreeMap<u64, (f64, f64)>, Option<f64>, f64);
    let mut found: BTreeMap<Labels, BTreeMap<i64, Moment>> = BTreeMap::new();
    for one in series {
        let name = one.labels.name();
        let le = parse_float(one.labels.get("le")).filter(|le| !le.is_nan());
        let Some((base, kind)) = name.rsplit_once('_') else { continue };
        if !matches!(kind, "bucket" | "count" | "sum") || (kind == "bucket" && le.is_none()) {
            continue;
        }
        let labels = one.labels.without(&["le"]).with(NAME, base);
        let moments = found.entry(labels).or_default();
        for (time, value) in &one.floats {
            let moment = moments.entry(*time).or_default();
            match (kind, le) {
                ("bucket", Some(le)) => {
                    moment.0.insert(le.to_bits(), (le, *value));
                }
                ("count", _) => moment.1 = Some(*value),
                _ => moment.2 = *value,
            }
        }
    }
    let convert = |(buckets, count, sum): Moment| {
        let mut sorted: Vec<(f64, f64)> = buckets.into_values().collect();
        sorted.sort_by(|left, right| left.0.total_cmp(&right.0));
        let count = count.or(sorted.last().map(|last| last.1)).unwrap_or(0.0);
        if sorted.last().is_none_or(|last| last.0.is_finite()) {
            sorted.push((f64::INFINITY, count));
        }
        let custom = sorted.iter().map(|bucket| bucket.0).filter(|bound| bound.is_finite()).collect();
        let mut below = 0.0;
        let positive = (0..).zip(&sorted).map(|(index, bucket)| {
            let inside = bucket.1 - below;
            below = bucket.1;
            (index, inside)
        });
        let positive = positive.collect();
        Native { schema: CUSTOM_SCHEMA, count, sum, positive, custom: Arc::new(custom), ..Native::default() }.compact()
    };
    found
        .into_iter()
        .map(|(labels, moments)| {
            let mut previous: Option<Native> = None;
            let histograms = moments.into_iter().map(|(time, moment)| {
                let mut native = convert(moment);
                if let Some(previous) = &previous {
                    let reset = native.is_reset_after(previous);
                    native.hint = if reset { Hint::Reset } else { Hint::NotReset };
                }
                previous = Some(Native { hint: Hint::Unknown, ..native.clone() });
                (time, Arc::new(native))
            });
            Series { labels, histograms: histograms.collect(), ..Series::default() }
        })
        .collect()
}
