//! Summaries of a window: sums, means, extremes, quantiles.

use std::sync::Arc;

use super::super::super::eval::Window;
use super::super::super::eval::fold;
use super::super::super::histogram::{Hint, Native};
use super::super::super::notes::Level;
use super::super::super::value::Sample;
use super::rate::{MIXED, MIXED_SCHEMAS, about, in_order};

const IGNORED: &str = "ignored histograms in a range containing both floats and histograms for metric name";

/// The floats of a window; `None` without any. Histograms beside them are noted.
pub(super) fn floats(window: &Window<'_>) -> Option<Vec<f64>> {
    if window.floats.is_empty() {
        return None;
    }
    if !window.histograms.is_empty() {
        about(window, Level::Info, IGNORED);
    }
    Some(window.floats.iter().map(|(_, value)| *value).collect())
}

fn float(window: &Window<'_>, function: impl Fn(&[f64]) -> f64) -> Option<Sample> {
    Some(Sample::Float(function(&floats(window)?)))
}

pub(super) fn first(window: &Window<'_>) -> Option<Sample> {
    in_order(window).into_iter().next().map(|(_, sample)| sample)
}

pub(super) fn last(window: &Window<'_>) -> Option<Sample> {
    in_order(window).pop().map(|(_, sample)| sample)
}

pub(super) fn count(window: &Window<'_>) -> Option<Sample> {
    Some(Sample::Float((window.floats.len() + window.histograms.len()) as f64))
}

pub(super) fn sum(window: &Window<'_>) -> Option<Sample> {
    total(window, |floats| fold::sum(floats.iter().copied()), 1.0)
}

pub(super) fn avg(window: &Window<'_>) -> Option<Sample> {
    total(window, |floats| fold::mean(floats.iter().copied()), window.histograms.len() as f64)
}

fn total(window: &Window<'_>, of_floats: fn(&[f64]) -> f64, divisor: f64) -> Option<Sample> {
    match (window.floats.is_empty(), window.histograms.is_empty()) {
        (false, false) => {
            about(window, Level::Warning, MIXED);
            None
        }
        (false, true) => float(window, of_floats),
        _ => {
            let total = histogram_sum(window)?;
            let total = if divisor == 1.0 { total } else { total.divided(divisor) };
            Some(Sample::Histogram(Arc::new(total.compact())))
        }
    }
}

fn histogram_sum(window: &Window<'_>) -> Option<Native> {
    let has = |hint: Hint| window.histograms.iter().any(|(_, histogram)| histogram.hint == hint);
    let collision = has(Hint::Reset) && has(Hint::NotReset);
    let (_, first) = window.histograms.first()?;
    let mut total = first.as_ref().clone();
    for (_, histogram) in &window.histograms[1..] {
        match total.add(histogram) {
            Err(_) => {
                about(window, Level::Warning, MIXED_SCHEMAS);
                return None;
            }
            Ok(change) if change.bounds_reconciled => {
                window.remark(Level::Info, "mismatched custom buckets were reconciled during aggregation");
            }
            Ok(_) => {}
        }
    }
    if collision {
        window.remark(Level::Warning, "conflicting counter resets during histogram aggregation");
    }
    Some(total)
}

/// The extreme among floats, with its place: a later one replaces it if it is better, or if it is NaN itself.
fn extreme(window: &Window<'_>, better: fn(f64, f64) -> bool) -> Option<(i64, f64)> {
    floats(window)?;
    window.floats.iter().copied().reduce(
        |best, next| {
            if better(next.1, best.1) || best.1.is_nan() { next } else { best }
        },
    )
}

pub(super) fn min(window: &Window<'_>) -> Option<Sample> {
    extreme(window, |next, best| next < best).map(|(_, value)| Sample::Float(value))
}

pub(super) fn max(window: &Window<'_>) -> Option<Sample> {
    extreme(window, |next, best| next > best).map(|(_, value)| Sample::Float(value))
}

fn seconds(milliseconds: i64) -> Sample {
    Sample::Float(milliseconds as f64 / 1_000.0)
}

pub(super) fn time_of_first(window: &Window<'_>) -> Option<Sample> {
    in_order(window).first().map(|(at, _)| seconds(*at))
}

pub(super) fn time_of_last(window: &Window<'_>) -> Option<Sample> {
    in_order(window).last().map(|(at, _)| seconds(*at))
}

pub(super) fn time_of_min(window: &Window<'_>) -> Option<Sample> {
    extreme(window, |next, best| next <= best).map(|(at, _)| seconds(at))
}

pub(super) fn time_of_max(window: &Window<'_>) -> Option<Sample> {
    extreme(window, |next, best| next >= best).map(|(at, _)| seconds(at))
}

pub(super) fn stdvar(window: &Window<'_>) -> Option<Sample> {
    float(window, fold::variance)
}

pub(super) fn stddev(window: &Window<'_>) -> Option<Sample> {
    float(window, |floats| fold::variance(floats).sqrt())
}

pub(super) fn quantile(window: &Window<'_>) -> Option<Sample> {
    float(window, |floats| fold::quantile(window.parameters[0], floats.to_vec()))
}

/// Median of the distances from the median.
pub(super) fn mad(window: &Window<'_>) -> Option<Sample> {
    float(window, |floats| {
        let median = fold::quantile(0.5, floats.to_vec());
        fold::quantile(0.5, floats.iter().map(|value| (value - median).abs()).collect())
    })
}
