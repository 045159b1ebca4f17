//! Aggregations that return some of their series: the largest, the smallest, any few, or a share. A share is taken by
//! a hash of the labels, so that the same series are in it at every step and in every query.

use xxhash_rust::xxh3::xxh3_64;

use super::super::super::format::float;
use super::super::super::notes::Level;
use super::super::super::number::to_usize;
use super::super::super::value::{Grid, Sample, Track};
use super::super::{EvalError, Evaluator};
use super::Group;

/// What to pick.
pub(super) struct Pick<'a> {
    pub(super) op: &'static str,
    pub(super) parameters: &'a [f64],
    pub(super) position: usize,
    pub(super) start: usize,
    pub(super) grid: Grid,
}

impl Evaluator<'_> {
    pub(super) fn pick(&self, pick: &Pick<'_>, tracks: Vec<Track>, groups: &[Group]) -> Result<Vec<Track>, EvalError> {
        self.check_parameters(pick)?;
        self.spend(tracks.len().saturating_mul(pick.grid.count))?;
        let mut kept: Vec<Vec<bool>> = tracks.iter().map(|_| vec![false; pick.grid.count]).collect();
        let steps = (0..pick.grid.count).flat_map(|at| groups.iter().map(move |group| (at, group)));
        let mut order = Vec::new();
        for (at, group) in steps {
            for member in self.picked(pick, &tracks, group, at) {
                kept[member][at] = true;
                order.push(member);
            }
        }
        if self.is_range || pick.grid.count != 1 {
            order = (0..tracks.len()).collect();
        }
        Ok(order
            .into_iter()
            .filter(|member| kept[*member].contains(&true))
            .map(|member| {
                let track = &tracks[member];
                let samples = track.samples.iter().zip(&kept[member]);
                let samples = samples.map(|(sample, kept)| if *kept { sample.clone() } else { None }).collect();
                Track { labels: track.labels.clone(), drop_name: track.drop_name, samples }
            })
            .collect())
    }

    fn check_parameters(&self, pick: &Pick<'_>) -> Result<(), EvalError> {
        let ratio = pick.op == "limit_ratio";
        if pick.parameters.iter().any(|value| value.is_nan()) {
            return Self::fail(if ratio { "Ratio value is NaN" } else { "Parameter value is NaN" });
        }
        if let Some(value) = pick.parameters.iter().find(|value| value.abs() >= 9.2e18 && !ratio) {
            return Self::fail(format!("Scalar value {} overflows int64", float(*value)));
        }
        for value in pick.parameters.iter().filter(|value| ratio && value.abs() > 1.0) {
            let to = value.signum();
            let message =
                format!("ratio value should be between -1 and 1, got {}, capping to {}", float(*value), float(to));
            self.note(Level::Warning, pick.position, message);
        }
        Ok(())
    }

    /// Members of a group that are kept at a step, in the order in which an instant query shows them.
    fn picked(&self, pick: &Pick<'_>, tracks: &[Track], group: &Group, at: usize) -> Vec<usize> {
        let present = group.members.iter().copied().filter(|member| tracks[*member].samples[at].is_some());
        let parameter = pick.parameters[at];
        match pick.op {
            "limit_ratio" => return present.filter(|member| in_share(parameter, &tracks[*member])).collect(),
            "limitk" => return present.take(to_usize(parameter)).collect(),
            _ => {}
        }
        let mut floats = Vec::new();
        for member in present {
            match &tracks[member].samples[at] {
                Some(Sample::Float(value)) => floats.push((member, *value)),
                _ => self.note(Level::Info, pick.start, format!("ignored histogram in {} aggregation", pick.op)),
            }
        }
        let descending = pick.op == "topk";
        // NaN is last either way: it is neither large nor small.
        floats.sort_by(|(_, left), (_, right)| {
            let order = left.partial_cmp(right).unwrap_or_else(|| right.is_nan().cmp(&left.is_nan()));
            let nan = left.is_nan() || right.is_nan();
            match (nan, descending) {
                (true, _) => left.is_nan().cmp(&right.is_nan()),
                (false, true) => order.reverse(),
                (false, false) => order,
            }
        });
        floats.into_iter().take(to_usize(parameter)).map(|(member, _)| member).collect()
    }
}

fn in_share(ratio: f64, track: &Track) -> bool {
    let hash = xxh3_64(track.labels.to_string().as_bytes());
    let place = hash as f64 / u64::MAX as f64;
    if ratio >= 0.0 { place < ratio } else { place >= 1.0 + ratio }
}
