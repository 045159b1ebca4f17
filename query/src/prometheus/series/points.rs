//! Points to the series that selectors ask for: numbers as they are, histograms as native ones and as the classic series
//! that follow from them. Classic buckets are derived at the lowest scale that a series has in the window: at a lower
//! scale the same observations give other estimates, and an estimate that falls would look like a reset.

use std::sync::Arc;

use lariat_schema::metrics::{DURATION_BOUNDARIES_SECONDS, MAX_NATIVE_SCALE};

use super::super::format::float;
use super::super::histogram::Native;
use super::super::labels::{Labels, Matcher};
use super::super::names::{self, Shape};
use super::super::value::Series;
use super::rows::{Data, Identity, Point, Raw};

/// All series that at least one selector accepts. Points before `from_ms` are not loaded, so nothing starts there.
pub(super) fn series(raws: Vec<Raw>, selectors: &[Vec<Matcher>], from_ms: i64) -> Vec<Series> {
    raws.into_iter().flat_map(|raw| one(raw, selectors, from_ms)).collect()
}

/// Labels of all series of a stored one; derived buckets and quantiles without `le` and `quantile`.
pub(super) fn labels_of(identity: &Identity) -> Vec<Labels> {
    let metric = names::metric(&identity.stored, &identity.unit, identity.shape);
    let labels = names::labels(&identity.attributes, &identity.sender);
    identity.shape.suffixes().iter().map(|suffix| names::series(&metric, suffix, &labels)).collect()
}

fn one(raw: Raw, selectors: &[Vec<Matcher>], from_ms: i64) -> Vec<Series> {
    let Identity { stored, unit, shape, .. } = &raw.identity;
    let metric = names::metric(stored, unit, *shape);
    let labels = names::labels(&raw.identity.attributes, &raw.identity.sender);
    // Labels that are added later (`le`, `quantile`) cannot be judged yet.
    let wanted = |labels: &Labels, added: &str| {
        selectors.iter().any(|selector| {
            selector.iter().filter(|m| m.name != added).all(|matcher| matcher.accepts(labels.get(&matcher.name)))
        })
    };
    let suffixes: Vec<&str> = shape
        .suffixes()
        .iter()
        .copied()
        .filter(|suffix| {
            let added = if *suffix == "_bucket" { "le" } else { "quantile" };
            let added = if *suffix == "_bucket" || *shape == Shape::Summary { added } else { "" };
            wanted(&names::series(&metric, suffix, &labels), added)
        })
        .collect();
    if suffixes.is_empty() {
        return Vec::new();
    }
    let points = cumulative(raw.points, raw.identity.delta, *shape);
    let points = if *shape == Shape::Gauge { points } else { with_starts(points, from_ms) };
    let mut found = Vec::new();
    for suffix in suffixes {
        let labels = names::series(&metric, suffix, &labels);
        found.extend(derived(&points, suffix, *shape, &labels));
    }
    found
}

/// Deltas added up since the window's start. A sum of deltas has no value of its own, but its rates are right.
fn cumulative(mut points: Vec<Point>, delta: bool, shape: Shape) -> Vec<Point> {
    if !delta || shape == Shape::Gauge {
        return points;
    }
    let start = points.first().and_then(|point| point.start);
    let mut total: Option<Data> = None;
    // A stale mark is shown, and the sum goes on after it.
    for point in points.iter_mut().filter(|point| point.data != Data::Stale) {
        point.start = start;
        if let Some(so_far) = total.take() {
            point.data = added(so_far, &point.data);
        }
        total = Some(point.data.clone());
    }
    points
}

fn added(so_far: Data, delta: &Data) -> Data {
    match (so_far, delta) {
        (Data::Number(so_far), Data::Number(delta)) => Data::Number(so_far + delta),
        (Data::Exponential(mut so_far), Data::Exponential(delta)) => {
            // Both are exponential, so they always meet.
            let _ = so_far.add(delta);
            Data::Exponential(so_far)
        }
        (
            Data::Explicit { count, sum, bounds, counts },
            Data::Explicit { count: more, sum: and, bounds: same, counts: each },
        ) if bounds == *same && counts.len() == each.len() => Data::Explicit {
            count: count + more,
            sum: sum + and,
            bounds,
            counts: counts.iter().zip(each).map(|(count, more)| count + more).collect(),
        },
        (_, delta) => delta.clone(),
    }
}

/// A zero wherever a new start time says that counting began anew.
fn with_starts(points: Vec<Point>, from_ms: i64) -> Vec<Point> {
    let mut result: Vec<Point> = Vec::with_capacity(points.len() + 1);
    let mut counting_since = None;
    for point in points {
        if let Some(start) = point.start.filter(|start| Some(*start) != counting_since) {
            counting_since = Some(start);
            let after_last = result.last().map_or(from_ms, |last| last.time.saturating_add(1));
            let moment = if result.is_empty() { start } else { start.max(after_last) };
            if moment >= after_last
                && moment < point.time
                && let Some(zero) = zero(&point.data)
            {
                result.push(Point { time: moment, start: Some(start), data: zero });
            }
        }
        result.push(point);
    }
    result
}

fn zero(data: &Data) -> Option<Data> {
    Some(match data {
        Data::Stale | Data::Summary { .. } => return None,
        Data::Number(_) => Data::Number(0.0),
        Data::Exponential(histogram) => Data::Exponential(Native {
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            ..Native::default()
        }),
        Data::Explicit { bounds, counts, .. } => {
            Data::Explicit { count: 0.0, sum: 0.0, bounds: bounds.clone(), counts: vec![0.0; counts.len()] }
        }
    })
}

fn derived(points: &[Point], suffix: &str, shape: Shape, labels: &Labels) -> Vec<Series> {
    match (suffix, shape) {
        ("_count", _) => vec![floats(points, labels, |data| match data {
            Data::Exponential(histogram) => Some(histogram.count),
            Data::Explicit { count, .. } | Data::Summary { count, .. } => Some(*count),
            _ => None,
        })],
        ("_sum", _) => vec![floats(points, labels, |data| match data {
            Data::Exponential(histogram) => Some(histogram.sum),
            Data::Explicit { sum, .. } | Data::Summary { sum, .. } => Some(*sum),
            _ => None,
        })],
        ("_bucket", Shape::Exponential) => exponential_buckets(points, labels),
        ("_bucket", _) => explicit_buckets(points, labels),
        (_, Shape::Exponential) => vec![native(points, labels)],
        (_, Shape::Summary) => quantiles(points, labels),
        _ => vec![floats(points, labels, |data| match data {
            Data::Number(value) => Some(*value),
            _ => None,
        })],
    }
}

fn floats(points: &[Point], labels: &Labels, value: impl Fn(&Data) -> Option<f64>) -> Series {
    let floats = points.iter().filter_map(|point| Some((point.time, value(&point.data)?))).collect();
    Series { labels: labels.clone(), floats, histograms: Vec::new(), stale: stale(points) }
}

fn stale(points: &[Point]) -> Vec<i64> {
    points.iter().filter(|point| point.data == Data::Stale).map(|point| point.time).collect()
}

fn native(points: &[Point], labels: &Labels) -> Series {
    let histograms = points.iter().filter_map(|point| match &point.data {
        Data::Exponential(histogram) => Some((point.time, Arc::new(histogram.at_schema(MAX_NATIVE_SCALE)))),
        _ => None,
    });
    Series { labels: labels.clone(), floats: Vec::new(), histograms: histograms.collect(), stale: stale(points) }
}

fn exponential_buckets(points: &[Point], labels: &Labels) -> Vec<Series> {
    let scales = points.iter().filter_map(|point| match &point.data {
        Data::Exponential(histogram) => Some(histogram.schema),
        _ => None,
    });
    let scale = scales.min().unwrap_or(MAX_NATIVE_SCALE).min(MAX_NATIVE_SCALE);
    let reduced: Vec<(i64, Native)> = points
        .iter()
        .filter_map(|point| match &point.data {
            Data::Exponential(histogram) => Some((point.time, histogram.at_schema(scale))),
            _ => None,
        })
        .collect();
    let infinite = std::iter::once(f64::INFINITY);
    DURATION_BOUNDARIES_SECONDS
        .iter()
        .copied()
        .chain(infinite)
        .map(|bound| {
            let below = |histogram: &Native| {
                if bound.is_infinite() || histogram.count == 0.0 {
                    return histogram.count;
                }
                histogram.fraction(f64::NEG_INFINITY, bound).0 * histogram.count
            };
            let floats = reduced.iter().map(|(time, histogram)| (*time, below(histogram))).collect();
            let labels = labels.with("le", &float(bound));
            Series { labels, floats, histograms: Vec::new(), stale: stale(points) }
        })
        .collect()
}

fn explicit_buckets(points: &[Point], labels: &Labels) -> Vec<Series> {
    let mut bounds: Vec<f64> = points
        .iter()
        .filter_map(|point| match &point.data {
            Data::Explicit { bounds, .. } => Some(bounds.iter().copied()),
            _ => None,
        })
        .flatten()
        .collect();
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    let infinite = std::iter::once(f64::INFINITY);
    bounds
        .into_iter()
        .chain(infinite)
        .map(|bound| {
            floats(points, &labels.with("le", &float(bound)), |data| match data {
                Data::Explicit { count, .. } if bound.is_infinite() => Some(*count),
                Data::Explicit { bounds, counts, .. } => {
                    let at = bounds.iter().position(|other| *other == bound)?;
                    Some(counts.iter().take(at + 1).sum())
                }
                _ => None,
            })
        })
        .collect()
}

fn quantiles(points: &[Point], labels: &Labels) -> Vec<Series> {
    let mut all: Vec<f64> = points
        .iter()
        .filter_map(|point| match &point.data {
            Data::Summary { quantiles, .. } => Some(quantiles.iter().map(|(quantile, _)| *quantile)),
            _ => None,
        })
        .flatten()
        .collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all.into_iter()
        .map(|wanted| {
            floats(points, &labels.with("quantile", &float(wanted)), |data| match data {
                Data::Summary { quantiles, .. } => {
                    quantiles.iter().find(|(quantile, _)| *quantile == wanted).map(|(_, value)| *value)
                }
                _ => None,
            })
        })
        .collect()
}
