//! Trends of a window: a line through its samples, or their exponentially weighted mean.

use super::super::super::eval::Window;
use super::super::super::number::kahan;
use super::super::super::value::Sample;
use super::summary::floats;

/// Slope per second, and value at `moment`, of the line that is nearest to the samples.
fn line(samples: &[(i64, f64)], moment: i64) -> (f64, f64) {
    let first = samples[0].1;
    if samples.iter().all(|(_, value)| *value == first) {
        return if first.is_finite() { (0.0, first) } else { (f64::NAN, f64::NAN) };
    }
    let mut sums = [(0.0, 0.0); 4];
    for (at, value) in samples {
        let x = (at - moment) as f64 / 1_000.0;
        for (sum, term) in sums.iter_mut().zip([x, *value, x * value, x * x]) {
            *sum = kahan(term, sum.0, sum.1);
        }
    }
    let [x, y, xy, xx] = sums.map(|(sum, compensation)| sum + compensation);
    let n = samples.len() as f64;
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

pub(super) fn deriv(window: &Window<'_>) -> Option<Sample> {
    floats(window)?;
    let (first, _) = window.floats.first().filter(|_| window.floats.len() >= 2)?;
    Some(Sample::Float(line(window.floats, *first).0))
}

pub(super) fn predict(window: &Window<'_>) -> Option<Sample> {
    floats(window)?;
    if window.floats.len() < 2 {
        return None;
    }
    let (slope, value) = line(window.floats, window.time);
    Some(Sample::Float(slope * window.parameters[0] + value))
}

pub(super) fn smooth(window: &Window<'_>) -> Option<Sample> {
    let [smoothing, trend_factor] = window.parameters;
    let floats = floats(window)?;
    let [first, second, ..] = floats.as_slice() else { return None };
    let (mut before, mut value, mut trend) = (0.0, *first, second - first);
    for (at, next) in floats.iter().enumerate().skip(1) {
        if at > 1 {
            trend = trend_factor * (value - before) + (1.0 - trend_factor) * trend;
        }
        (before, value) = (value, smoothing * next + (1.0 - smoothing) * (value + trend));
    }
    Some(Sample::Float(value))
}
