//! Functions of histograms, native and classic. A classic histogram is a set of series that differ in `le` only; where
//! both kinds have the same labels at one step, neither is right and both are left out.

use std::collections::HashMap;

use super::super::format::float;
use super::super::histogram::classic;
use super::super::histogram::quantile::Doubt;
use super::super::labels::Labels;
use super::super::notes::{Level, named};
use super::super::syntax::lexer::parse_float;
use super::super::value::{Grid, Sample, Track};

/// The label of a bucket's upper bound.
const LE: &str = "le";

/// Takes a note about an expression.
pub(crate) type Note<'a> = dyn Fn(Level, usize, String) + 'a;

/// Series with the same labels but `le`.
struct Family {
    labels: Labels,
    drop_name: bool,
    native: Option<usize>,
    buckets: Vec<(f64, usize)>,
}

fn families(tracks: &[Track], start: usize, note: &Note<'_>) -> Vec<Family> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut families: Vec<Family> = Vec::new();
    for (at, track) in tracks.iter().enumerate() {
        let is_native = |sample: &Option<Sample>| matches!(sample, Some(Sample::Histogram(_)));
        let native = track.samples.iter().any(is_native);
        let le = track.labels.get(LE);
        let bound = parse_float(le);
        let floats = track.samples.iter().any(|sample| matches!(sample, Some(Sample::Float(_))));
        if floats && bound.is_none() {
            let message = format!("bucket label \"le\" is missing or has a malformed value of {le:?}");
            note(Level::Warning, start, named(&message, track.labels.name()));
        }
        let mut add = |labels: Labels, bucket: Option<f64>| {
            let place = *places.entry(labels.clone()).or_insert_with(|| {
                families.push(Family { labels, drop_name: true, native: None, buckets: Vec::new() });
                families.len() - 1
            });
            match bucket {
                Some(bound) => families[place].buckets.push((bound, at)),
                None => families[place].native = Some(at),
            }
        };
        if native {
            add(track.labels.clone(), None);
        }
        if let (true, Some(bound)) = (floats, bound) {
            add(track.labels.without(&[LE]), Some(bound));
        }
    }
    families
}

/// Evaluates every family at every step: native ones by the first function, classic ones by the second.
fn each(
    tracks: &[Track],
    grid: Grid,
    start: usize,
    note: &Note<'_>,
    value: impl Fn(usize, &Family, Result<&super::super::histogram::Native, Vec<classic::Bucket>>) -> f64,
) -> Vec<Track> {
    let mut results = Vec::new();
    for family in families(tracks, start, note) {
        let samples: Vec<Option<Sample>> = (0..grid.count)
            .map(|at| {
                let native = family.native.and_then(|index| match &tracks[index].samples[at] {
                    Some(Sample::Histogram(histogram)) => Some(histogram),
                    _ => None,
                });
                let buckets: Vec<classic::Bucket> = family
                    .buckets
                    .iter()
                    .filter_map(|(bound, index)| Some((*bound, tracks[*index].samples[at].as_ref()?.float()?)))
                    .collect();
                match (native, buckets.is_empty()) {
                    (Some(_), false) => {
                        let message = "vector contains a mix of classic and native histograms";
                        note(Level::Warning, start, named(message, family.labels.name()));
                        None
                    }
                    (Some(histogram), true) => Some(Sample::Float(value(at, &family, Ok(histogram)))),
                    (None, false) => Some(Sample::Float(value(at, &family, Err(buckets)))),
                    (None, true) => None,
                }
            })
            .collect();
        if samples.iter().any(Option::is_some) {
            results.push(Track { labels: family.labels, drop_name: family.drop_name, samples });
        }
    }
    results
}

/// `histogram_quantile`.
pub(crate) fn quantile(tracks: &[Track], quantiles: &[f64], grid: Grid, start: usize, note: &Note<'_>) -> Vec<Track> {
    each(tracks, grid, start, note, |at, family, histogram| {
        let metric = family.labels.name();
        match histogram {
            Ok(native) => {
                let (value, doubt) = native.quantile(quantiles[at]);
                let message = match doubt {
                    Some(Doubt::AmongNan) => "input to histogram_quantile has NaN observations, result is NaN",
                    Some(Doubt::Skewed) => "input to histogram_quantile has NaN observations, result is skewed higher",
                    None => return value,
                };
                note(Level::Info, start, named(message, metric));
                value
            }
            Err(buckets) => {
                let (value, forced) = classic::quantile(quantiles[at], buckets);
                if let Some(forced) = forced {
                    let message = "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)";
                    let message = format!(
                        "{}, from buckets {} to {}, with a max diff of {}",
                        named(message, metric),
                        float(forced.lowest),
                        float(forced.highest),
                        float(forced.largest)
                    );
                    note(Level::Info, start, message);
                }
                value
            }
        }
    })
}

/// The results of one quantile, told apart from others by a label.
pub(crate) fn labelled(tracks: Vec<Track>, label: &str, quantiles: &[f64]) -> Result<Vec<Track>, String> {
    if label.is_empty() {
        return Err("histogram_quantiles needs the name of a label".to_owned());
    }
    // As OpenMetrics writes floats: `1.0` and not `1`.
    let written = |q: f64| {
        let text = float(q);
        if text.contains('.') || !q.is_finite() { text } else { text + ".0" }
    };
    let text = quantiles.first().map_or_else(String::new, |q| written(*q));
    if quantiles.iter().any(|q| written(*q) != text) {
        return Err("quantiles of histogram_quantiles have to be the same at all steps".to_owned());
    }
    Ok(tracks.into_iter().map(|track| Track { labels: track.labels.with(label, &text), ..track }).collect())
}

/// `histogram_fraction`.
pub(crate) fn fraction(
    tracks: &[Track],
    bounds: (&[f64], &[f64]),
    grid: Grid,
    start: usize,
    note: &Note<'_>,
) -> Vec<Track> {
    each(tracks, grid, start, note, |at, family, histogram| match histogram {
        Ok(native) => {
            let (value, without_nan) = native.fraction(bounds.0[at], bounds.1[at]);
            if without_nan {
                let message = "input to histogram_fraction has NaN observations, which are excluded from all fractions";
                note(Level::Info, start, named(message, family.labels.name()));
            }
            value
        }
        Err(buckets) => classic::fraction(bounds.0[at], bounds.1[at], buckets),
    })
}

/// `histogram_count` and the other functions of one native histogram; floats vanish.
pub(crate) fn statistic(mut tracks: Vec<Track>, name: &str) -> Vec<Track> {
    for track in &mut tracks {
        track.drop_name = true;
        for place in &mut track.samples {
            *place = match place.take() {
                Some(Sample::Histogram(histogram)) => Some(Sample::Float(match name {
                    "histogram_count" => histogram.count,
                    "histogram_sum" => histogram.sum,
                    "histogram_avg" => histogram.sum / histogram.count,
                    "histogram_stdvar" => histogram.variance(),
                    _ => histogram.variance().sqrt(),
                })),
                _ => None,
            };
        }
    }
    tracks.retain(|track| track.samples.iter().any(Option::is_some));
    tracks
}
