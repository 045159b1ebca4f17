//! A tree and series to a value. Evaluation is pure: it reads loaded series and nothing else, so it is tested without a
//! fleet, runs on a thread that may block, and cannot wait for a node.

mod aggregate;
mod binary;
mod call;
mod matching;
mod operators;
mod range;
mod reach;
mod select;

use std::cell::{Cell, RefCell};
use std::time::Instant;

use super::labels::NAME;
use super::notes::{Level, Notes};
use super::number::milliseconds;
use super::syntax::{At, Expr, Node, ValueType};
use super::value::{Grid, Sample, Series, Store, Track, Value};

pub(crate) use aggregate::fold;
pub(crate) use range::Window;
pub(crate) use reach::instant;

/// How far back an instant selector looks, in milliseconds. Source: Prometheus' default.
pub(crate) const LOOKBACK_MS: i64 = 5 * 60 * 1_000;

/// Most samples that one query may hold at once, counted as they are made: 5 million of 24 bytes are 120 MB.
pub(crate) const MAX_SAMPLES: usize = 5_000_000;

/// Distance of a subquery's evaluations where it names none, in milliseconds. Source: Prometheus' evaluation interval.
const SUBQUERY_STEP_MS: i64 = 60 * 1_000;

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EvalError {
    /// The data do not allow it; another query may.
    #[error("{0}")]
    Execution(String),
    /// The query would hold too many samples.
    #[error("query processing would load more than {MAX_SAMPLES} samples into memory in query execution")]
    TooManySamples,
    /// The time allowed is over.
    #[error("query timed out in expression evaluation")]
    Timeout,
}

/// The result of a query.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// A float per step.
    Scalar(Vec<f64>),
    /// A text.
    Text(String),
    /// Series with a sample per step; only an instant query's order means something.
    Vector(Vec<Track>),
    /// Series with the samples of a window; an instant query's only.
    Matrix(Vec<Series>),
}

/// One query being evaluated.
pub(crate) struct Evaluator<'a> {
    store: &'a Store,
    query: Grid,
    is_range: bool,
    deadline: Option<Instant>,
    notes: RefCell<Notes>,
    samples: Cell<usize>,
}

impl<'a> Evaluator<'a> {
    /// Of an instant query if the grid is one moment and `is_range` is false.
    pub(crate) fn new(store: &'a Store, query: Grid, is_range: bool, deadline: Option<Instant>) -> Self {
        Self { store, query, is_range, deadline, notes: RefCell::default(), samples: Cell::new(0) }
    }

    /// The notes made so far.
    pub(crate) fn into_notes(self) -> Notes {
        self.notes.into_inner()
    }

    /// The value of a whole query, with names dropped and series ordered.
    pub(crate) fn run(&self, expr: &Expr) -> Result<Outcome, EvalError> {
        if expr.value_type() == ValueType::Matrix {
            return self.matrix(expr);
        }
        Ok(match self.eval(expr, self.query)? {
            Value::Scalar(values) => Outcome::Scalar(values),
            Value::Text(text) => Outcome::Text(text),
            Value::Vector(tracks) => {
                let mut tracks = named_at_last(tracks)?;
                if self.is_range {
                    tracks.sort_by(|left, right| left.labels.cmp(&right.labels));
                }
                Outcome::Vector(tracks)
            }
        })
    }

    fn note(&self, level: Level, start: usize, message: impl Into<String>) {
        self.notes.borrow_mut().add(level, start, message);
    }

    fn fail<T>(message: impl Into<String>) -> Result<T, EvalError> {
        Err(EvalError::Execution(message.into()))
    }

    /// Counts samples that are about to be made.
    fn spend(&self, samples: usize) -> Result<(), EvalError> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(EvalError::Timeout);
        }
        let total = self.samples.get().saturating_add(samples);
        self.samples.set(total);
        if total > MAX_SAMPLES { Err(EvalError::TooManySamples) } else { Ok(()) }
    }

    fn eval(&self, expr: &Expr, grid: Grid) -> Result<Value, EvalError> {
        self.spend(0)?;
        Ok(match &expr.node {
            Node::Number(number) => Value::Scalar(vec![*number; grid.count]),
            Node::Text(text) => Value::Text(text.clone()),
            Node::Paren(inner) => self.eval(inner, grid)?,
            Node::Selector(selector) => Value::Vector(self.instant(selector, grid)?),
            Node::Negate(inner) => self.negate(inner, grid)?,
            Node::Call(signature, arguments) => self.call(signature.name, arguments, expr.start, grid)?,
            Node::Aggregate(aggregate) => Value::Vector(self.aggregate(aggregate, expr.start, grid)?),
            Node::Binary(binary) => self.binary(binary, expr.start, grid)?,
            Node::Range(..) | Node::Subquery(_) => {
                return Self::fail("a range vector has no value by itself inside an expression");
            }
        })
    }

    fn vector(&self, expr: &Expr, grid: Grid) -> Result<Vec<Track>, EvalError> {
        match self.eval(expr, grid)? {
            Value::Vector(tracks) => Ok(tracks),
            Value::Scalar(values) => {
                let samples = values.into_iter().map(|value| Some(Sample::Float(value))).collect();
                Ok(vec![Track { labels: super::labels::Labels::default(), drop_name: false, samples }])
            }
            Value::Text(_) => Self::fail("expected an instant vector, got a string"),
        }
    }

    fn scalar(&self, expr: &Expr, grid: Grid) -> Result<Vec<f64>, EvalError> {
        match self.eval(expr, grid)? {
            Value::Scalar(values) => Ok(values),
            _ => Self::fail("expected a scalar"),
        }
    }

    fn negate(&self, inner: &Expr, grid: Grid) -> Result<Value, EvalError> {
        Ok(match self.eval(inner, grid)? {
            Value::Scalar(values) => Value::Scalar(values.into_iter().map(|value| -value).collect()),
            Value::Vector(mut tracks) => {
                for track in &mut tracks {
                    track.drop_name = true;
                    for sample in track.samples.iter_mut().flatten() {
                        *sample = match sample {
                            Sample::Float(value) => Sample::Float(-*value),
                            Sample::Histogram(histogram) => {
                                Sample::Histogram(std::sync::Arc::new(histogram.as_ref().clone().scaled(-1.0)))
                            }
                        };
                    }
                }
                Value::Vector(tracks)
            }
            text => text,
        })
    }

    /// A duration in milliseconds: an expression of numbers and of the query's own times.
    fn duration(&self, expr: &Expr) -> Result<i64, EvalError> {
        let grid = Grid { start: self.query.start, step: self.query.step, count: 1 };
        let seconds = self.scalar(expr, grid)?.first().copied().unwrap_or(f64::NAN);
        if !seconds.is_finite() {
            return Self::fail("duration is not a finite number");
        }
        Ok(milliseconds(seconds))
    }

    fn positive_duration(&self, expr: &Expr) -> Result<i64, EvalError> {
        let duration = self.duration(expr)?;
        if duration > 0 { Ok(duration) } else { Self::fail("duration must be greater than 0") }
    }

    fn offset(&self, offset: Option<&Expr>) -> Result<i64, EvalError> {
        offset.map_or(Ok(0), |offset| self.duration(offset))
    }

    fn fixed(&self, at: Option<At>) -> Option<i64> {
        at.map(|at| match at {
            At::Moment(milliseconds) => milliseconds,
            At::Start => self.query.start,
            At::End => self.query.time(self.query.count.saturating_sub(1)),
        })
    }
}

/// Drops the names that were to be dropped and joins the series that then are one.
fn named_at_last(tracks: Vec<Track>) -> Result<Vec<Track>, EvalError> {
    let mut places = std::collections::HashMap::new();
    let mut joined: Vec<Track> = Vec::with_capacity(tracks.len());
    for mut track in tracks {
        if track.drop_name && !track.labels.get(NAME).is_empty() {
            track.labels = track.labels.without_name();
        }
        if track.samples.iter().all(Option::is_none) {
            continue;
        }
        match places.get(&track.labels) {
            None => {
                places.insert(track.labels.clone(), joined.len());
                joined.push(track);
            }
            Some(place) => {
                let into: &mut Track = &mut joined[*place];
                for (here, sample) in into.samples.iter_mut().zip(track.samples) {
                    if sample.is_some() && here.is_some() {
                        return Evaluator::fail("vector cannot contain metrics with the same labelset");
                    }
                    if sample.is_some() {
                        *here = sample;
                    }
                }
            }
        }
    }
    Ok(joined)
}
