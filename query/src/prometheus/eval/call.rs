//! Function calls: which arguments are evaluated how, and what happens to the metric's name.

use super::super::functions::{dates, histograms, labels, math, over_time};
use super::super::labels::Labels;
use super::super::notes::Level;
use super::super::syntax::{Expr, Node, Selector};
use super::super::value::{Grid, Sample, Track, Value};
use super::{EvalError, Evaluator};

impl Evaluator<'_> {
    pub(super) fn call(&self, name: &str, arguments: &[Expr], start: usize, grid: Grid) -> Result<Value, EvalError> {
        if let Some(scalars) = self.scalar_call(name, arguments, grid)? {
            return Ok(Value::Scalar(scalars));
        }
        if let Some((function, keeps_name)) = over_time::find(name) {
            return self.range_call(function, keeps_name, arguments, grid).map(Value::Vector);
        }
        if let Some(function) = math::find(name) {
            return self.mapped(&arguments[0], grid, function).map(Value::Vector);
        }
        if let Some(function) = dates::find(name) {
            return self.date_call(function, arguments, grid).map(Value::Vector);
        }
        let tracks = match name {
            "vector" => self.vector(&arguments[0], grid)?,
            "absent" => self.absent(&arguments[0], grid)?,
            "absent_over_time" => self.absent_over(&arguments[0], absent_labels(&arguments[0]), grid)?,
            "timestamp" => self.timestamp(&arguments[0], grid)?,
            "clamp" | "clamp_min" | "clamp_max" => self.clamped(name, arguments, grid)?,
            "round" => self.rounded(arguments, grid)?,
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                self.sorted(name, arguments, start, grid)?
            }
            "label_replace" | "label_join" => {
                let texts = self.texts(&arguments[1..], grid)?;
                let tracks = self.vector(&arguments[0], grid)?;
                let change = if name == "label_join" { labels::join } else { labels::replace };
                change(tracks, &texts).map_err(EvalError::Execution)?
            }
            _ if name.starts_with("histogram_") => self.histogram_call(name, arguments, grid)?,
            _ => return Self::fail(format!("function {name:?} is not implemented")),
        };
        Ok(Value::Vector(tracks))
    }

    /// Functions whose value is a scalar.
    fn scalar_call(&self, name: &str, arguments: &[Expr], grid: Grid) -> Result<Option<Vec<f64>>, EvalError> {
        let all = |value: f64| vec![value; grid.count];
        let last = self.query.time(self.query.count.saturating_sub(1));
        let pair = |choose: fn(f64, f64) -> f64| -> Result<Vec<f64>, EvalError> {
            let (left, right) = (self.scalar(&arguments[0], grid)?, self.scalar(&arguments[1], grid)?);
            Ok(left.into_iter().zip(right).map(|(left, right)| choose(left, right)).collect())
        };
        let greater = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
        let lesser = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) };
        Ok(Some(match name {
            "time" => grid.times().map(|time| time as f64 / 1_000.0).collect(),
            "pi" => all(std::f64::consts::PI),
            "start" => all(self.query.start as f64 / 1_000.0),
            "end" => all(last as f64 / 1_000.0),
            "range" => all((last - self.query.start) as f64 / 1_000.0),
            "step" => all(if self.is_range { self.query.step as f64 / 1_000.0 } else { 0.0 }),
            "max_of" => pair(greater)?,
            "min_of" => pair(lesser)?,
            "scalar" => {
                let tracks = self.vector(&arguments[0], grid)?;
                (0..grid.count).map(|at| only_float(&tracks, at)).collect()
            }
            _ => return Ok(None),
        }))
    }

    fn range_call(
        &self,
        function: over_time::RangeFunction,
        keeps_name: bool,
        arguments: &[Expr],
        grid: Grid,
    ) -> Result<Vec<Track>, EvalError> {
        let mut range = &arguments[0];
        let mut parameters = Vec::new();
        for argument in arguments {
            if argument.value_type() == super::super::syntax::ValueType::Matrix {
                range = argument;
            } else {
                parameters.push(self.scalar(argument, grid)?);
            }
        }
        if arguments.len() == 2 && arguments[1].start == range.start {
            self.check_quantiles(&parameters[0], arguments[0].start);
        }
        if parameters.len() == 2 {
            for (word, values) in ["smoothing", "trend"].iter().zip(&parameters) {
                if let Some(value) = values.iter().find(|value| !(**value > 0.0 && **value < 1.0)) {
                    let letter = &word[..1];
                    let message = format!("invalid {word} factor. Expected: 0 < {letter}f < 1, got: {value:.6}");
                    return Self::fail(message);
                }
            }
        }
        self.over_windows(function, (range, keeps_name), &parameters, grid)
    }

    /// Every float of a vector through a function; histograms vanish.
    fn mapped(&self, argument: &Expr, grid: Grid, function: fn(f64) -> f64) -> Result<Vec<Track>, EvalError> {
        let tracks = self.vector(argument, grid)?;
        Ok(changed(tracks, |_, value| Some(function(value))))
    }

    fn date_call(&self, function: fn(i64) -> f64, arguments: &[Expr], grid: Grid) -> Result<Vec<Track>, EvalError> {
        let Some(argument) = arguments.first() else {
            let samples = grid.times().map(|time| Some(Sample::Float(function(time.div_euclid(1_000))))).collect();
            return Ok(vec![Track { labels: Labels::default(), drop_name: false, samples }]);
        };
        let tracks = self.vector(argument, grid)?;
        Ok(changed(tracks, |_, value| {
            Some(if value.is_finite() { function(super::super::number::to_i64(value)) } else { f64::NAN })
        }))
    }

    fn absent(&self, argument: &Expr, grid: Grid) -> Result<Vec<Track>, EvalError> {
        let tracks = self.vector(argument, grid)?;
        self.spend(grid.count)?;
        let samples = (0..grid.count)
            .map(|at| {
                let present = tracks.iter().any(|track| track.samples[at].is_some());
                (!present).then_some(Sample::Float(1.0))
            })
            .collect();
        Ok(vec![Track { labels: absent_labels(argument), drop_name: false, samples }])
    }

    fn timestamp(&self, argument: &Expr, grid: Grid) -> Result<Vec<Track>, EvalError> {
        let mut tracks = match &argument.bare().node {
            Node::Selector(selector) => self.timestamps(selector, grid)?,
            _ => {
                let mut tracks = self.vector(argument, grid)?;
                for track in &mut tracks {
                    for (sample, time) in track.samples.iter_mut().zip(grid.times()) {
                        *sample = sample.take().map(|_| Sample::Float(time as f64 / 1_000.0));
                    }
                }
                tracks
            }
        };
        for track in &mut tracks {
            track.drop_name = true;
        }
        Ok(tracks)
    }

    fn clamped(&self, name: &str, arguments: &[Expr], grid: Grid) -> Result<Vec<Track>, EvalError> {
        let tracks = self.vector(&arguments[0], grid)?;
        let all = |value: f64| vec![value; grid.count];
        let (low, high) = match name {
            "clamp" => (self.scalar(&arguments[1], grid)?, self.scalar(&arguments[2], grid)?),
            "clamp_min" => (self.scalar(&arguments[1], grid)?, all(f64::INFINITY)),
            _ => (all(f64::NEG_INFINITY), self.scalar(&arguments[1], grid)?),
        };
        Ok(changed(tracks, |at, value| {
            let (low, high) = (low[at], high[at]);
            if low > high {
                return None;
            }
            Some(if low.is_nan() || high.is_nan() {
                f64::NAN
            } else if value.is_nan() {
                value
            } else {
                value.max(low).min(high)
            })
        }))
    }

    fn rounded(&self, arguments: &[Expr], grid: Grid) -> Result<Vec<Track>, EvalError> {
        let tracks = self.vector(&arguments[0], grid)?;
        let nearest = match arguments.get(1) {
            Some(nearest) => self.scalar(nearest, grid)?,
            None => vec![1.0; grid.count],
        };
        Ok(changed(tracks, |at, value| {
            // The inverse avoids the error of a fraction like 0.1.
            let inverse = 1.0 / nearest[at];
            Some((value * inverse + 0.5).floor() / inverse)
        }))
    }

    fn sorted(&self, name: &str, arguments: &[Expr], start: usize, grid: Grid) -> Result<Vec<Track>, EvalError> {
        let names = self.texts(&arguments[1..], grid)?;
        let mut tracks = self.vector(&arguments[0], grid)?;
        if self.is_range {
            let message = "sort is ineffective for range queries since results are always ordered by labels";
            self.note(Level::Warning, start, message);
            return Ok(tracks);
        }
        if name.starts_with("sort_by_label") {
            labels::sort(&mut tracks, &names, name.ends_with("_desc"));
            return Ok(tracks);
        }
        let value = |track: &Track| track.samples.first().and_then(Option::as_ref).and_then(Sample::float);
        tracks.retain(|track| value(track).is_some());
        let descending = name == "sort_desc";
        tracks.sort_by(|left, right| {
            let (left, right) = (value(left).unwrap_or(f64::NAN), value(right).unwrap_or(f64::NAN));
            let order = left.partial_cmp(&right).map(|order| if descending { order.reverse() } else { order });
            order.unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
        });
        Ok(tracks)
    }

    fn texts(&self, arguments: &[Expr], grid: Grid) -> Result<Vec<String>, EvalError> {
        let text = |argument| match self.eval(argument, grid)? {
            Value::Text(text) => Ok(text),
            _ => Self::fail("expected a string"),
        };
        arguments.iter().map(text).collect()
    }

    fn histogram_call(&self, name: &str, arguments: &[Expr], grid: Grid) -> Result<Vec<Track>, EvalError> {
        let note = |level: Level, start: usize, message: String| self.note(level, start, message);
        match name {
            "histogram_quantile" => {
                let quantiles = self.scalar(&arguments[0], grid)?;
                self.check_quantiles(&quantiles, arguments[0].start);
                let tracks = self.vector(&arguments[1], grid)?;
                Ok(histograms::quantile(&tracks, &quantiles, grid, arguments[1].start, &note))
            }
            "histogram_quantiles" => {
                let tracks = self.vector(&arguments[0], grid)?;
                let label = self.texts(&arguments[1..2], grid)?.remove(0);
                let mut results = Vec::new();
                for argument in &arguments[2..] {
                    let quantiles = self.scalar(argument, grid)?;
                    self.check_quantiles(&quantiles, argument.start);
                    self.spend(tracks.len().saturating_mul(grid.count))?;
                    let found = histograms::quantile(&tracks, &quantiles, grid, arguments[0].start, &note);
                    results.extend(histograms::labelled(found, &label, &quantiles).map_err(EvalError::Execution)?);
                }
                Ok(results)
            }
            "histogram_fraction" => {
                let (lower, upper) = (self.scalar(&arguments[0], grid)?, self.scalar(&arguments[1], grid)?);
                let tracks = self.vector(&arguments[2], grid)?;
                Ok(histograms::fraction(&tracks, (&lower, &upper), grid, arguments[2].start, &note))
            }
            _ => {
                let tracks = self.vector(&arguments[0], grid)?;
                Ok(histograms::statistic(tracks, name))
            }
        }
    }
}

/// Every float through a function of its step and value; histograms vanish, and so does the name.
fn changed(mut tracks: Vec<Track>, function: impl Fn(usize, f64) -> Option<f64>) -> Vec<Track> {
    for track in &mut tracks {
        track.drop_name = true;
        for (at, place) in track.samples.iter_mut().enumerate() {
            let value = place.as_ref().and_then(Sample::float);
            *place = value.and_then(|value| function(at, value)).map(Sample::Float);
        }
    }
    tracks.retain(|track| track.samples.iter().any(Option::is_some));
    tracks
}

/// The value of a vector of one float at a step.
fn only_float(tracks: &[Track], at: usize) -> f64 {
    let mut floats = tracks.iter().filter_map(|track| track.samples[at].as_ref()).filter_map(Sample::float);
    match (floats.next(), floats.next()) {
        (Some(value), None) => value,
        _ => f64::NAN,
    }
}

/// Labels of something absent: those that its selector fixes.
fn absent_labels(argument: &Expr) -> Labels {
    let (Node::Selector(selector) | Node::Range(selector, _)) = &argument.node else {
        return Labels::default();
    };
    fixed_labels(selector)
}

fn fixed_labels(selector: &Selector) -> Labels {
    let named = selector.matchers.iter().filter(|matcher| matcher.name != super::super::labels::NAME);
    let once = named.filter(|matcher| {
        matcher.is_equal() && selector.matchers.iter().filter(|other| other.name == matcher.name).count() == 1
    });
    Labels::new(once.map(|matcher| (matcher.name.clone(), matcher.value.clone())).collect())
}
