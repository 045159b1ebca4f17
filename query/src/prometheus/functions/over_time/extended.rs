//! Changes over a window whose ends are anchored at the samples before them, or interpolated between the samples
//! around them, instead of extrapolated.

use std::sync::Arc;

use super::super::super::eval::Window;
use super::super::super::histogram::{Hint, Native};
use super::super::super::notes::Level;
use super::super::super::value::Sample;
use super::rate::{NOT_COUNTER, NOT_GAUGE, about, combine};

/// Indexes of the first and last sample that matter; `None` if there is no change to tell.
fn bounds(times: &[i64], window: &Window<'_>) -> Option<(usize, usize)> {
    let last = times.len().checked_sub(1)?;
    let first = times[..last].partition_point(|at| *at <= window.start).saturating_sub(1);
    let last = if window.smoothed { times[..last].partition_point(|at| *at < window.end) } else { last };
    if times[last] <= window.start || (window.smoothed && times[first] > window.end) {
        return None;
    }
    Some((first, last))
}

pub(super) fn change(window: &Window<'_>, counter: bool, per_second: bool) -> Option<Sample> {
    if window.histograms.is_empty() {
        let change = of_floats(window, counter)?;
        return Some(Sample::Float(if per_second { change / window.seconds() } else { change }));
    }
    let change = of_histograms(window, counter)?;
    let change = if per_second { change.divided(window.seconds()) } else { change };
    Some(Sample::Histogram(Arc::new(change.compact())))
}

fn of_floats(window: &Window<'_>, counter: bool) -> Option<f64> {
    let floats = window.floats;
    let times: Vec<i64> = floats.iter().map(|(at, _)| *at).collect();
    let (mut first, mut last) = bounds(&times, window)?;
    let between = |before: (i64, f64), after: (i64, f64), at: i64| {
        let start = if counter && after.1 < before.1 { 0.0 } else { before.1 };
        start + (after.1 - start) * (at - before.0) as f64 / (after.0 - before.0) as f64
    };
    let left = match floats.get(first + 1) {
        Some(next) if window.smoothed && floats[first].0 < window.start => between(floats[first], *next, window.start),
        _ => floats[first].1,
    };
    let right = if window.smoothed && last > 0 && floats[last].0 > window.end {
        between(floats[last - 1], floats[last], window.end)
    } else {
        floats[last].1
    };
    let mut change = right - left;
    if counter {
        first += usize::from(floats[first].0 <= window.start);
        let beyond = floats[last].0 >= window.end;
        last = if beyond { last } else { last + 1 };
        let mut previous = left;
        for (_, value) in floats.get(first..last).unwrap_or_default() {
            if *value < previous {
                change += previous;
            }
            previous = *value;
        }
        if right < previous {
            change += previous;
        }
    }
    Some(change)
}

fn of_histograms(window: &Window<'_>, counter: bool) -> Option<Native> {
    let histograms = window.histograms;
    let times: Vec<i64> = histograms.iter().map(|(at, _)| *at).collect();
    let (first, last) = bounds(&times, window)?;
    let used = &histograms[first..=last];
    let gauges = used.iter().filter(|(_, histogram)| histogram.hint == Hint::Gauge).count();
    if counter && gauges > 0 {
        about(window, Level::Warning, NOT_COUNTER);
    }
    if !counter && gauges < used.len() {
        about(window, Level::Warning, NOT_GAUGE);
    }
    let left = match histograms.get(first + 1) {
        Some(next) if window.smoothed && histograms[first].0 < window.start => {
            between(window, &histograms[first], next, window.start, counter)?
        }
        _ => histograms[first].1.as_ref().clone(),
    };
    let right = if window.smoothed && last > 0 && histograms[last].0 > window.end {
        between(window, &histograms[last - 1], &histograms[last], window.end, counter)?
    } else {
        histograms[last].1.as_ref().clone()
    };
    let mut change = right.clone();
    combine(window, change.subtract(&left), "subtraction")?;
    if counter {
        let from = first + usize::from(histograms[first].0 <= window.start);
        let to = if histograms[last].0 >= window.end { last } else { last + 1 };
        let mut previous = &left;
        let inside = histograms.get(from..to).unwrap_or_default();
        for current in inside.iter().map(|(_, histogram)| histogram.as_ref()).chain([&right]) {
            if current.is_reset_after(previous) {
                combine(window, change.add(previous), "addition")?;
            }
            previous = current;
        }
    }
    change.hint = Hint::Gauge;
    Some(change)
}

/// The histogram at a moment between two samples.
fn between(
    window: &Window<'_>,
    before: &(i64, Arc<Native>),
    after: &(i64, Arc<Native>),
    at: i64,
    counter: bool,
) -> Option<Native> {
    let share = (at - before.0) as f64 / (after.0 - before.0) as f64;
    let mut result = after.1.as_ref().clone();
    if counter && after.1.is_reset_after(&before.1) {
        return Some(result.scaled(share));
    }
    combine(window, result.subtract(&before.1), "subtraction")?;
    result = result.scaled(share);
    combine(window, result.add(&before.1), "addition")?;
    Some(result)
}
