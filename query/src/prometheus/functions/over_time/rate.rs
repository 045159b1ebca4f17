//! Rates: how counters and gauges change over a window. The samples seldom lie on the window's ends, so the change
//! between the first and the last is extrapolated to them, by Prometheus' rules to the letter: dashboards of both have
//! to show the same curve.

use std::sync::Arc;

use super::super::super::eval::Window;
use super::super::super::histogram::{Hint, Native};
use super::super::super::notes::Level;
use super::super::super::value::Sample;
use super::extended;

/// A gap of more than this many average distances is no gap between samples, but the end of the series.
const EXTRAPOLATION_THRESHOLD: f64 = 1.1;

pub(super) const MIXED: &str = "encountered a mix of histograms and floats for";
pub(super) const NOT_COUNTER: &str = "this native histogram metric is not a counter:";
pub(super) const NOT_GAUGE: &str = "this native histogram metric is not a gauge:";
pub(super) const MIXED_SCHEMAS: &str =
    "vector contains a mix of histograms with exponential and custom buckets schemas for metric name";

/// A note that ends with the metric's name.
pub(super) fn about(window: &Window<'_>, level: Level, message: &str) {
    let message = if message == MIXED { format!("{MIXED} metric name") } else { message.to_owned() };
    window.remark(level, format!("{message} {:?}", window.metric));
}

/// `rate`, `increase` and `delta`.
pub(super) fn extrapolated(window: &Window<'_>, counter: bool, per_second: bool) -> Option<Sample> {
    if !window.floats.is_empty() && !window.histograms.is_empty() {
        about(window, Level::Warning, MIXED);
        return None;
    }
    if window.anchored || window.smoothed {
        return extended::change(window, counter, per_second);
    }
    if let ([first, .., last], []) = (window.floats, window.histograms) {
        let change = if counter { increase(window.floats) } else { last.1 - first.1 };
        let to_zero = (counter && change > 0.0 && first.1 >= 0.0).then(|| first.1 / change);
        let factor = factor(window, first.0, last.0, window.floats.len(), to_zero, per_second);
        return Some(Sample::Float(change * factor));
    }
    let ([first, .., last], []) = (window.histograms, window.floats) else { return None };
    let change = histogram_change(window, counter)?;
    let to_zero = (counter && change.count > 0.0 && first.1.count >= 0.0).then(|| first.1.count / change.count);
    let factor = factor(window, first.0, last.0, window.histograms.len(), to_zero, per_second);
    Some(Sample::Histogram(Arc::new(change.scaled(factor))))
}

/// What the change between the samples is multiplied with. `to_zero` is the distance to the counter's zero, in
/// distances between the first and the last sample.
fn factor(window: &Window<'_>, first: i64, last: i64, samples: usize, to_zero: Option<f64>, per_second: bool) -> f64 {
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1_000.0;
    let sampled = seconds(first, last);
    let average = sampled / (samples - 1) as f64;
    let threshold = average * EXTRAPOLATION_THRESHOLD;
    let mut before = seconds(window.start, first);
    if before >= threshold {
        before = average / 2.0;
    }
    if let Some(to_zero) = to_zero {
        before = before.min(sampled * to_zero);
    }
    let mut after = seconds(last, window.end);
    if after >= threshold {
        after = average / 2.0;
    }
    let factor = if sampled == 0.0 { 1.0 } else { (sampled + before + after) / sampled };
    if per_second { factor / window.seconds() } else { factor }
}

/// Change of a counter, resets made up for.
fn increase(floats: &[(i64, f64)]) -> f64 {
    let (Some(first), Some(last)) = (floats.first(), floats.last()) else { return 0.0 };
    let mut change = last.1 - first.1;
    for pair in floats.windows(2) {
        if pair[1].1 < pair[0].1 {
            change += pair[0].1;
        }
    }
    change
}

fn histogram_change(window: &Window<'_>, counter: bool) -> Option<Native> {
    let histograms = window.histograms;
    let (first, last) = (&histograms.first()?.1, &histograms.last()?.1);
    let gauge = |histogram: &Native| histogram.hint == Hint::Gauge;
    let any_gauge = histograms.iter().any(|(_, histogram)| gauge(histogram));
    if counter && any_gauge {
        about(window, Level::Warning, NOT_COUNTER);
    }
    let both_gauges = gauge(first) && gauge(last);
    if !counter && !both_gauges {
        about(window, Level::Warning, NOT_GAUGE);
    }
    // Nothing of the first sample is needed if the counter starts anew right after it.
    let second = &histograms[1].1;
    let restarted = counter && second.is_reset_after(first);
    let mut previous = if restarted {
        Native { schema: second.schema, custom: Arc::clone(&second.custom), ..Native::default() }
    } else {
        first.as_ref().clone()
    };
    let between = if counter { &histograms[1..] } else { &histograms[histograms.len() - 1..] };
    if between.iter().any(|(_, histogram)| histogram.is_custom() != previous.is_custom()) {
        about(window, Level::Warning, MIXED_SCHEMAS);
        return None;
    }
    let lowest = between.iter().map(|(_, histogram)| histogram.schema).min()?.min(previous.schema);
    let mut change = last.at_schema(lowest);
    combine(window, change.subtract(&previous), "subtraction")?;
    if counter {
        for (_, current) in &histograms[1..] {
            if current.is_reset_after(&previous) {
                combine(window, change.add(&previous), "addition")?;
            }
            previous = current.as_ref().clone();
        }
    }
    change.hint = Hint::Gauge;
    Some(change.compact())
}

/// Notes what happened when two histograms met; `None` if they could not.
pub(super) fn combine(
    window: &Window<'_>,
    change: Result<super::super::super::histogram::Change, super::super::super::histogram::Incompatible>,
    word: &str,
) -> Option<()> {
    match change {
        Err(_) => {
            about(window, Level::Warning, MIXED_SCHEMAS);
            None
        }
        Ok(change) => {
            if change.bounds_reconciled {
                window.remark(Level::Info, format!("mismatched custom buckets were reconciled during {word}"));
            }
            Some(())
        }
    }
}

/// All samples of a window in order of time.
pub(super) fn in_order(window: &Window<'_>) -> Vec<(i64, Sample)> {
    let floats = window.floats.iter().map(|(at, value)| (*at, Sample::Float(*value)));
    let histograms = window.histograms.iter().map(|(at, value)| (*at, Sample::Histogram(Arc::clone(value))));
    let mut all: Vec<_> = floats.chain(histograms).collect();
    all.sort_by_key(|(at, _)| *at);
    all
}

/// `irate` and `idelta`: the change between the last two samples.
pub(super) fn instant(window: &Window<'_>, rate: bool) -> Option<Sample> {
    let all = in_order(window);
    let [.., (before, previous), (after, last)] = all.as_slice() else { return None };
    let seconds = (after - before) as f64 / 1_000.0;
    if seconds == 0.0 {
        return None;
    }
    match (previous, last) {
        (Sample::Float(previous), Sample::Float(last)) => {
            let change = if rate && last < previous { *last } else { last - previous };
            Some(Sample::Float(if rate { change / seconds } else { change }))
        }
        (Sample::Histogram(previous), Sample::Histogram(last)) => {
            let gauges = [previous, last].map(|histogram| histogram.hint == Hint::Gauge);
            if rate && gauges.contains(&true) {
                about(window, Level::Warning, NOT_COUNTER);
            }
            if !rate && gauges.contains(&false) {
                about(window, Level::Warning, NOT_GAUGE);
            }
            let mut change = last.as_ref().clone();
            if !rate || !last.is_reset_after(previous) {
                combine(window, change.subtract(previous), "subtraction")?;
            }
            change.hint = Hint::Gauge;
            let change = change.compact();
            Some(Sample::Histogram(Arc::new(if rate { change.divided(seconds) } else { change })))
        }
        _ => {
            about(window, Level::Warning, MIXED);
            None
        }
    }
}

/// Samples of a window, and with anchored ends the one before it.
fn counted(window: &Window<'_>) -> Option<Vec<(i64, Sample)>> {
    let all = in_order(window);
    if !window.anchored {
        return Some(all);
    }
    let inside = all.partition_point(|(at, _)| *at <= window.start);
    (inside < all.len()).then(|| all[inside.saturating_sub(1)..].to_vec())
}

/// `resets`: how often a counter started anew.
pub(super) fn resets(window: &Window<'_>) -> Option<Sample> {
    let all = counted(window)?;
    let resets = all.windows(2).filter(|pair| match (&pair[0].1, &pair[1].1) {
        (Sample::Float(before), Sample::Float(after)) => after < before,
        (Sample::Histogram(before), Sample::Histogram(after)) => after.is_reset_after(before),
        _ => true,
    });
    Some(Sample::Float(resets.count() as f64))
}

/// `changes`: how often a value changed.
pub(super) fn changes(window: &Window<'_>) -> Option<Sample> {
    let all = counted(window)?;
    let changes = all.windows(2).filter(|pair| match (&pair[0].1, &pair[1].1) {
        (Sample::Float(before), Sample::Float(after)) => before != after && !(before.is_nan() && after.is_nan()),
        (Sample::Histogram(before), Sample::Histogram(after)) => !before.equals(after),
        _ => true,
    });
    Some(Sample::Float(changes.count() as f64))
}
