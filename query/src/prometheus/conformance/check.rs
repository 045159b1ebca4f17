//! Compares what came with what was expected, with Prometheus' tolerances.

use regex::Regex;

use super::super::eval::Outcome;
use super::super::histogram::Native;
use super::super::histogram::classic::nearly_equal;
use super::super::notes::{Level, Notes};
use super::super::value::{Grid, Sample, Series};
use super::points::Point;
use super::script::Evaluation;

/// Source: Prometheus, `defaultEpsilon`.
const TOLERANCE: f64 = 0.000_001;

fn matches(how: &str, wanted: &str, got: &str) -> bool {
    match how {
        "" => true,
        "regex" => Regex::new(wanted).unwrap().is_match(got),
        _ => wanted == got,
    }
}

pub(super) fn failure(evaluation: &Evaluation, message: &str) -> Result<(), String> {
    let wanted = evaluation.expectations.iter().filter(|(kind, _, _)| kind == "fail");
    for (_, how, text) in wanted {
        // A parse error has a prefix that the engine's own errors have not.
        let bare = message.trim_start_matches("parse error: ");
        if !matches(how, text, message) && !matches(how, text, bare) {
            return Err(format!("fails with {message:?}, expected {text:?}"));
        }
    }
    Ok(())
}

pub(super) fn notes(evaluation: &Evaluation, notes: &Notes) -> Result<(), String> {
    for (level, word) in [(Level::Warning, "warn"), (Level::Info, "info")] {
        let got = notes.render(level, &evaluation.query);
        let of = |kind: &str| {
            let kind = kind.to_owned();
            evaluation.expectations.iter().filter(move |(other, _, _)| *other == kind)
        };
        if of(&format!("no_{word}")).next().is_some() && !got.is_empty() {
            return Err(format!("expected no {word}, got {got:?}"));
        }
        let mut wanted = of(word).peekable();
        if wanted.peek().is_none() {
            continue;
        }
        for (_, how, text) in wanted {
            if !got.iter().any(|got| matches(how, text, got)) {
                return Err(format!("expected {word} {text:?}, got {got:?}"));
            }
        }
        for got in &got {
            if !of(word).any(|(_, how, text)| matches(how, text, got)) {
                return Err(format!("unexpected {word} {got:?}"));
            }
        }
    }
    Ok(())
}

pub(super) fn outcome(evaluation: &Evaluation, outcome: &Outcome, grid: Grid) -> Result<(), String> {
    let expected = &evaluation.expected;
    match outcome {
        Outcome::Scalar(values) => match expected.scalar {
            Some(wanted) if nearly_equal(wanted, values[0], TOLERANCE) => Ok(()),
            wanted => Err(format!("expected {wanted:?}, got {}", values[0])),
        },
        Outcome::Text(text) if expected.text.as_deref() == Some(text) => Ok(()),
        Outcome::Text(text) => Err(format!("expected {:?}, got {text:?}", expected.text)),
        Outcome::Vector(tracks) => {
            if let Some(scalar) = expected.scalar {
                return Err(format!("expected scalar {scalar}, got a vector"));
            }
            let got: Vec<Series> = tracks
                .iter()
                .map(|track| {
                    let mut series = Series { labels: track.labels.clone(), ..Series::default() };
                    for (time, sample) in grid.times().zip(&track.samples) {
                        match sample {
                            Some(Sample::Float(value)) => series.floats.push((time, *value)),
                            Some(Sample::Histogram(value)) => series.histograms.push((time, value.clone())),
                            None => {}
                        }
                    }
                    series
                })
                .collect();
            compare(evaluation, &got, (grid.start, grid.step))?;
            let order: Vec<_> = tracks.iter().map(|track| &track.labels).collect();
            let wanted: Vec<_> = expected.series.iter().map(|(labels, _)| labels).collect();
            if evaluation.ordered && order != wanted { Err("wrong order".to_owned()) } else { Ok(()) }
        }
        Outcome::Matrix(series) => {
            let (start, _, step) = expected.window.unwrap_or((grid.start, 0, grid.step));
            compare(evaluation, series, (start, step))
        }
    }
}

fn compare(evaluation: &Evaluation, got: &[Series], times: (i64, i64)) -> Result<(), String> {
    for series in got {
        let wanted = evaluation.expected.series.iter().find(|(labels, _)| *labels == series.labels);
        let Some((labels, points)) = wanted else {
            return Err(format!("unexpected {} {}", series.labels, shown(series)));
        };
        let (mut floats, mut histograms) = (Vec::new(), Vec::new());
        for (time, point) in (0..).map(|at| times.0 + at * times.1).zip(points) {
            match point {
                Point::Float(value) => floats.push((time, *value)),
                Point::Histogram(value, hinted) => histograms.push((time, value, *hinted)),
                Point::None | Point::Stale => {}
            }
        }
        let fail = || Err(format!("{labels}: expected {points:?}, got {}", shown(series)));
        if floats.len() != series.floats.len() || histograms.len() != series.histograms.len() {
            return fail();
        }
        for (wanted, got) in floats.iter().zip(&series.floats) {
            if wanted.0 != got.0 || !nearly_equal(wanted.1, got.1, TOLERANCE) {
                return fail();
            }
        }
        for ((time, wanted, hinted), (at, got)) in histograms.iter().zip(&series.histograms) {
            if time != at || !alike(wanted, got, *hinted) {
                return fail();
            }
        }
    }
    for (labels, points) in &evaluation.expected.series {
        let empty = points.iter().all(|point| matches!(point, Point::None));
        if !empty && !got.iter().any(|series| series.labels == *labels) {
            return Err(format!("{labels} is missing"));
        }
    }
    Ok(())
}

fn shown(series: &Series) -> String {
    let histograms: Vec<_> = series
        .histograms
        .iter()
        .map(|(at, value)| format!("{at}: {value} s{} z{} {:?}", value.schema, value.zero_threshold, value.hint))
        .collect();
    format!("{:?} {histograms:?}", series.floats)
}

fn alike(wanted: &Native, got: &Native, hinted: bool) -> bool {
    let near = |left: f64, right: f64| nearly_equal(left, right, TOLERANCE);
    let buckets = |left: &[(i32, f64)], right: &[(i32, f64)]| {
        left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a.0 == b.0 && near(a.1, b.1))
    };
    let (wanted, got) = (wanted.clone().compact(), got.clone().compact());
    wanted.schema == got.schema
        && near(wanted.count, got.count)
        && near(wanted.sum, got.sum)
        && near(wanted.zero_count, got.zero_count)
        && near(wanted.zero_threshold, got.zero_threshold)
        && wanted.custom == got.custom
        && buckets(&wanted.positive, &got.positive)
        && buckets(&wanted.negative, &got.negative)
        && (!hinted || wanted.hint == got.hint)
}
