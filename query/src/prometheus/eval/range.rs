//! Range vectors: a window of samples per series and step, out of the store or out of a subquery.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use super::super::functions::over_time::RangeFunction;
use super::super::histogram::Native;
use super::super::labels::Labels;
use super::super::notes::{Level, Notes};
use super::super::syntax::{Expr, Node, Selector, Subquery};
use super::super::value::{Grid, Sample, Series, Track};
use super::{EvalError, Evaluator, LOOKBACK_MS, Outcome, SUBQUERY_STEP_MS};

/// The window of one series at one step.
pub(crate) struct Window<'a> {
    /// Floats inside, ascending; with anchored or smoothed ends also those around it.
    pub(crate) floats: &'a [(i64, f64)],
    /// Histograms inside, ascending.
    pub(crate) histograms: &'a [(i64, Arc<Native>)],
    /// Start in Unix milliseconds, not included.
    pub(crate) start: i64,
    /// End in Unix milliseconds, included.
    pub(crate) end: i64,
    /// The moment of evaluation in Unix milliseconds.
    pub(crate) time: i64,
    /// Ends are the samples before them.
    pub(crate) anchored: bool,
    /// Ends are interpolated.
    pub(crate) smoothed: bool,
    /// Scalar arguments of the function.
    pub(crate) parameters: [f64; 2],
    /// The metric's name, for notes.
    pub(crate) metric: &'a str,
    /// Where the range stands in the query.
    pub(crate) position: usize,
    /// Where notes go.
    pub(crate) notes: &'a RefCell<Notes>,
}

impl Window<'_> {
    /// Length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        (self.end - self.start) as f64 / 1_000.0
    }

    /// Makes a note about the range.
    pub(crate) fn remark(&self, level: Level, message: impl Into<String>) {
        self.notes.borrow_mut().add(level, self.position, message);
    }
}

/// The series of a range expression and the windows over them.
pub(super) struct Ranges<'a> {
    pub(super) series: Vec<(Cow<'a, Series>, bool)>,
    fixed: Option<i64>,
    offset: i64,
    range: i64,
    anchored: bool,
    smoothed: bool,
}

impl Ranges<'_> {
    fn bounds(&self, time: i64) -> (i64, i64) {
        let end = self.fixed.unwrap_or(time).saturating_sub(self.offset);
        (end.saturating_sub(self.range), end)
    }
}

impl<'a> Evaluator<'a> {
    pub(super) fn ranges(&self, expr: &Expr, grid: Grid) -> Result<Ranges<'a>, EvalError> {
        match &expr.bare().node {
            Node::Range(selector, range) => self.selected(selector, self.positive_duration(range)?),
            Node::Subquery(subquery) => self.subquery(subquery, grid),
            _ => Self::fail("expected a range vector"),
        }
    }

    fn selected(&self, selector: &Selector, range: i64) -> Result<Ranges<'a>, EvalError> {
        let offset = self.offset(selector.offset.as_deref())?;
        let matches =
            |series: &Series| selector.matchers.iter().all(|matcher| matcher.accepts(series.labels.get(&matcher.name)));
        let series = self.store.all().iter().filter(|series| matches(series));
        Ok(Ranges {
            series: series.map(|series| (Cow::Borrowed(series), false)).collect(),
            fixed: self.fixed(selector.at),
            offset,
            range,
            anchored: selector.anchored,
            smoothed: selector.smoothed,
        })
    }

    /// Evaluates the inner expression once over all windows, at multiples of its step.
    fn subquery(&self, subquery: &Subquery, grid: Grid) -> Result<Ranges<'a>, EvalError> {
        let range = self.positive_duration(&subquery.range)?;
        let step = match &subquery.step {
            Some(step) => self.positive_duration(step)?,
            None => SUBQUERY_STEP_MS,
        };
        let offset = self.offset(subquery.offset.as_deref())?;
        let fixed = self.fixed(subquery.at);
        let first = fixed.unwrap_or(grid.start).saturating_sub(offset);
        let last = fixed.unwrap_or_else(|| grid.time(grid.count.saturating_sub(1))).saturating_sub(offset);
        let from = first.saturating_sub(range);
        let start = (from.div_euclid(step) + 1).saturating_mul(step);
        let inner_grid = Grid::new(start, last, step);
        self.spend(inner_grid.count)?;
        let tracks = if inner_grid.count == 0 { Vec::new() } else { self.vector(&subquery.inner, inner_grid)? };
        let series = tracks.into_iter().map(|track| (Cow::Owned(as_series(&track, inner_grid)), track.drop_name));
        Ok(Ranges { series: series.collect(), fixed, offset, range, anchored: false, smoothed: false })
    }

    /// Applies a function to every window.
    pub(super) fn over_windows(
        &self,
        function: RangeFunction,
        range: (&Expr, bool),
        parameters: &[Vec<f64>],
        grid: Grid,
    ) -> Result<Vec<Track>, EvalError> {
        let (expr, keeps_name) = range;
        let ranges = self.ranges(expr, grid)?;
        let mut tracks = Vec::new();
        for (series, name_dropped) in &ranges.series {
            self.spend(grid.count)?;
            let metric = if *name_dropped { "" } else { series.labels.name() };
            let samples: Vec<Option<Sample>> = (0..grid.count)
                .map(|at| {
                    let time = grid.time(at);
                    let (start, end) = ranges.bounds(time);
                    let wider = |is: bool| if is { LOOKBACK_MS } else { 0 };
                    let from = start.saturating_sub(wider(ranges.anchored || ranges.smoothed));
                    let until = end.saturating_add(wider(ranges.smoothed));
                    let window = Window {
                        floats: series.floats_within(from, until),
                        histograms: series.histograms_within(from, until),
                        start,
                        end,
                        time,
                        anchored: ranges.anchored,
                        smoothed: ranges.smoothed,
                        parameters: [0, 1].map(|which| parameters.get(which).map_or(f64::NAN, |values| values[at])),
                        metric,
                        position: expr.start,
                        notes: &self.notes,
                    };
                    if window.floats.is_empty() && window.histograms.is_empty() { None } else { function(&window) }
                })
                .collect();
            if samples.iter().any(Option::is_some) {
                let drop_name = *name_dropped || !keeps_name;
                tracks.push(Track { labels: series.labels.clone(), drop_name, samples });
            }
        }
        Ok(tracks)
    }

    /// 1 at each step at which no series has a sample in its window.
    pub(super) fn absent_over(&self, expr: &Expr, labels: Labels, grid: Grid) -> Result<Vec<Track>, EvalError> {
        let ranges = self.ranges(expr, grid)?;
        self.spend(grid.count)?;
        let samples = grid
            .times()
            .map(|time| {
                let (start, end) = ranges.bounds(time);
                let present = ranges.series.iter().any(|(series, _)| {
                    !series.floats_within(start, end).is_empty() || !series.histograms_within(start, end).is_empty()
                });
                (!present).then_some(Sample::Float(1.0))
            })
            .collect();
        Ok(vec![Track { labels, drop_name: false, samples }])
    }

    /// A range expression as a whole query: the samples of its window.
    pub(super) fn matrix(&self, expr: &Expr) -> Result<Outcome, EvalError> {
        let ranges = self.ranges(expr, self.query)?;
        let (start, end) = ranges.bounds(self.query.start);
        let mut series = Vec::new();
        for (whole, drop_name) in &ranges.series {
            let floats = whole.floats_within(start, end).to_vec();
            let histograms = whole.histograms_within(start, end).to_vec();
            self.spend(floats.len() + histograms.len())?;
            if !floats.is_empty() || !histograms.is_empty() {
                let labels = if *drop_name { whole.labels.without_name() } else { whole.labels.clone() };
                series.push(Series { labels, floats, histograms, stale: Vec::new() });
            }
        }
        series.sort_by(|left, right| left.labels.cmp(&right.labels));
        Ok(Outcome::Matrix(series))
    }
}

fn as_series(track: &Track, grid: Grid) -> Series {
    let mut series = Series { labels: track.labels.clone(), ..Series::default() };
    for (time, sample) in grid.times().zip(&track.samples) {
        match sample {
            Some(Sample::Float(value)) => series.floats.push((time, *value)),
            Some(Sample::Histogram(histogram)) => series.histograms.push((time, Arc::clone(histogram))),
            None => {}
        }
    }
    series
}
