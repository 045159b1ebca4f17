//! Aggregations: series to groups by their labels, then one result per group and step.

pub(crate) mod fold;
mod pick;

use std::collections::HashMap;

use super::super::format::float;
use super::super::labels::Labels;
use super::super::notes::Level;
use super::super::syntax::Aggregate;
use super::super::value::{Grid, Sample, Track, Value};
use super::{EvalError, Evaluator};

/// A group and the series in it.
struct Group {
    labels: Labels,
    members: Vec<usize>,
}

fn group_labels(labels: &Labels, aggregate: &Aggregate) -> Labels {
    if aggregate.without {
        labels.without_name().without(&aggregate.grouping)
    } else {
        labels.only(&aggregate.grouping)
    }
}

fn groups(tracks: &[Track], aggregate: &Aggregate) -> Vec<Group> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (at, track) in tracks.iter().enumerate() {
        let labels = group_labels(&track.labels, aggregate);
        let place = *places.entry(labels.clone()).or_insert_with(|| {
            groups.push(Group { labels, members: Vec::new() });
            groups.len() - 1
        });
        groups[place].members.push(at);
    }
    groups
}

impl Evaluator<'_> {
    pub(super) fn aggregate(&self, aggregate: &Aggregate, start: usize, grid: Grid) -> Result<Vec<Track>, EvalError> {
        let parameter = match &aggregate.parameter {
            Some(parameter) => Some((self.eval(parameter, grid)?, parameter.start)),
            None => None,
        };
        let tracks = self.vector(&aggregate.inner, grid)?;
        if let (Some((Value::Text(label), _)), "count_values") = (&parameter, aggregate.op) {
            return self.count_values(aggregate, label, &tracks, grid);
        }
        let parameters = match parameter {
            Some((Value::Scalar(values), position)) => Some((values, position)),
            _ => None,
        };
        let groups = groups(&tracks, aggregate);
        if let ("topk" | "bottomk" | "limitk" | "limit_ratio", Some((parameters, position))) =
            (aggregate.op, &parameters)
        {
            let picked = pick::Pick { op: aggregate.op, parameters, position: *position, start, grid };
            return self.pick(&picked, tracks, &groups);
        }
        let mut results = Vec::with_capacity(groups.len());
        for group in groups {
            self.spend(grid.count)?;
            let position = aggregate.inner.start;
            let samples: Vec<Option<Sample>> = (0..grid.count)
                .map(|at| {
                    let members: Vec<(&Sample, &str)> = group
                        .members
                        .iter()
                        .filter_map(|member| {
                            let track = &tracks[*member];
                            track.samples[at].as_ref().map(|sample| (sample, track.labels.name()))
                        })
                        .collect();
                    let quantile = parameters.as_ref().map_or(f64::NAN, |(values, _)| values[at]);
                    if members.is_empty() { None } else { self.fold(aggregate.op, &members, quantile, position) }
                })
                .collect();
            if samples.iter().any(Option::is_some) {
                let drop_name = group.members.iter().any(|member| tracks[*member].drop_name);
                results.push(Track { labels: group.labels, drop_name, samples });
            }
        }
        if let ("quantile", Some((values, position))) = (aggregate.op, &parameters) {
            self.check_quantiles(values, *position);
        }
        Ok(results)
    }

    /// Notes quantiles that are none.
    pub(super) fn check_quantiles(&self, values: &[f64], position: usize) {
        for q in values.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
            let message = format!("quantile value should be between 0 and 1, got {}", float(*q));
            self.note(Level::Warning, position, message);
        }
    }

    fn count_values(
        &self,
        aggregate: &Aggregate,
        label: &str,
        tracks: &[Track],
        grid: Grid,
    ) -> Result<Vec<Track>, EvalError> {
        if label.is_empty() {
            return Self::fail(format!("invalid label name {label:?}"));
        }
        // A grouping by labels keeps the new label too.
        let mut grouping = aggregate.clone();
        if !grouping.without {
            grouping.grouping.push(label.to_owned());
        }
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut results: Vec<Track> = Vec::new();
        for at in 0..grid.count {
            for track in tracks {
                let Some(sample) = &track.samples[at] else { continue };
                let text = match sample {
                    Sample::Float(value) => float(*value),
                    Sample::Histogram(histogram) => histogram.to_string(),
                };
                let labels = group_labels(&track.labels.with(label, &text), &grouping);
                let place = match places.get(&labels) {
                    Some(place) => *place,
                    None => {
                        self.spend(grid.count)?;
                        places.insert(labels.clone(), results.len());
                        results.push(Track { labels, drop_name: track.drop_name, samples: vec![None; grid.count] });
                        results.len() - 1
                    }
                };
                let so_far = results[place].samples[at].as_ref().and_then(Sample::float).unwrap_or(0.0);
                results[place].samples[at] = Some(Sample::Float(so_far + 1.0));
            }
        }
        Ok(results)
    }
}
