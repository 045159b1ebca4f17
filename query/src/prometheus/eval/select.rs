//! Selectors: the latest sample of each matching series at each step.

use super::super::syntax::Selector;
use super::super::value::{Grid, Sample, Track};
use super::{EvalError, Evaluator, LOOKBACK_MS};

impl Evaluator<'_> {
    /// The latest samples.
    pub(super) fn instant(&self, selector: &Selector, grid: Grid) -> Result<Vec<Track>, EvalError> {
        self.looked_up(selector, grid, |_, sample| sample)
    }

    /// The times of the latest samples, in seconds.
    pub(super) fn timestamps(&self, selector: &Selector, grid: Grid) -> Result<Vec<Track>, EvalError> {
        self.looked_up(selector, grid, |at, _| Sample::Float(at as f64 / 1_000.0))
    }

    fn looked_up(
        &self,
        selector: &Selector,
        grid: Grid,
        value: impl Fn(i64, Sample) -> Sample,
    ) -> Result<Vec<Track>, EvalError> {
        let offset = self.offset(selector.offset.as_deref())?;
        let fixed = self.fixed(selector.at);
        let mut tracks = Vec::new();
        for series in self.store.select(&selector.matchers) {
            self.spend(grid.count)?;
            let samples: Vec<Option<Sample>> = grid
                .times()
                .map(|time| {
                    let until = fixed.unwrap_or(time).saturating_sub(offset);
                    let (at, sample) = series.latest(until.saturating_sub(LOOKBACK_MS), until)?;
                    Some(value(at, sample))
                })
                .collect();
            if samples.iter().any(Option::is_some) {
                tracks.push(Track { labels: series.labels.clone(), drop_name: false, samples });
            }
        }
        Ok(tracks)
    }
}
