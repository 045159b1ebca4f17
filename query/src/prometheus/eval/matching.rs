//! Vectors against vectors: which series of one side belongs to which of the other, at each step. Signatures and result
//! labels are worked out once per series or pair; only presence differs from step to step.

use std::collections::{HashMap, HashSet};

use super::super::labels::{Labels, NAME};
use super::super::syntax::{Binary, BinaryOp, Cardinality};
use super::super::value::{Grid, Sample, Track};
use super::binary::changes_meaning;
use super::operators::Elementwise;
use super::{EvalError, Evaluator};

/// The labels that have to agree.
fn signature(labels: &Labels, binary: &Binary) -> Labels {
    if binary.on { labels.only(&binary.labels) } else { labels.without_name().without(&binary.labels) }
}

/// Numbers for signatures, and those of each track of both sides.
fn ordinals(binary: &Binary, sides: [&[Track]; 2]) -> ([Vec<usize>; 2], usize) {
    let mut known: HashMap<Labels, usize> = HashMap::new();
    let ordinals = sides.map(|side| {
        side.iter()
            .map(|track| {
                let next = known.len();
                *known.entry(signature(&track.labels, binary)).or_insert(next)
            })
            .collect()
    });
    (ordinals, known.len())
}

/// Results so far.
struct Results {
    tracks: Vec<Track>,
    places: HashMap<Labels, usize>,
    pairs: HashMap<(Option<usize>, Option<usize>), usize>,
}

/// The two sides, the "many" one first, with the number of each track's signature.
struct Sides<'a> {
    many: &'a [Track],
    one: &'a [Track],
    manies: Vec<usize>,
    ones: Vec<usize>,
    many_fill: Option<f64>,
    one_fill: Option<f64>,
    swapped: bool,
}

/// A track of each side; where one is absent, its value is filled in.
struct Pair {
    many: Option<usize>,
    one: Option<usize>,
    ordinal: usize,
}

/// What has been matched at a step.
struct Matched {
    signatures: Vec<bool>,
    inserted: HashSet<(usize, usize)>,
}

impl Evaluator<'_> {
    pub(super) fn set_operation(
        &self,
        binary: &Binary,
        left: Vec<Track>,
        right: Vec<Track>,
        grid: Grid,
    ) -> Result<Vec<Track>, EvalError> {
        let ([lefts, rights], signatures) = ordinals(binary, [&left, &right]);
        self.spend(signatures.saturating_mul(grid.count) / 8)?;
        let presence = |tracks: &[Track], ordinals: &[usize]| {
            let mut present = vec![vec![false; grid.count]; signatures];
            for (track, ordinal) in tracks.iter().zip(ordinals) {
                for (place, sample) in present[*ordinal].iter_mut().zip(&track.samples) {
                    *place |= sample.is_some();
                }
            }
            present
        };
        let masked = |mut track: Track, other: &[bool], wanted: bool| {
            for (sample, present) in track.samples.iter_mut().zip(other) {
                if *present != wanted {
                    *sample = None;
                }
            }
            track.samples.iter().any(Option::is_some).then_some(track)
        };
        if binary.op == BinaryOp::Or {
            let taken = presence(&left, &lefts);
            let others =
                right.into_iter().zip(rights).filter_map(|(track, ordinal)| masked(track, &taken[ordinal], false));
            let others: Vec<Track> = others.collect();
            return Ok(joined(left.into_iter().chain(others)));
        }
        let present = presence(&right, &rights);
        let wanted = binary.op == BinaryOp::And;
        let kept = left.into_iter().zip(lefts).filter_map(|(track, at)| masked(track, &present[at], wanted));
        Ok(kept.collect())
    }

    pub(super) fn matched(
        &self,
        binary: &Binary,
        left: &[Track],
        right: &[Track],
        start: usize,
        grid: Grid,
    ) -> Result<Vec<Track>, EvalError> {
        // The "one" side is on the right from here on; values are swapped back where they are computed.
        let swapped = binary.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let (one_fill, many_fill) =
            if swapped { (binary.fill_left, binary.fill_right) } else { (binary.fill_right, binary.fill_left) };
        let ([manies, ones], signatures) = ordinals(binary, [many, one]);
        let sides = Sides { many, one, manies, ones, many_fill, one_fill, swapped };
        let mut results = Results { tracks: Vec::new(), places: HashMap::new(), pairs: HashMap::new() };
        let mut by_signature: Vec<Option<usize>> = vec![None; signatures];
        for at in 0..grid.count {
            by_signature.fill(None);
            for (index, track) in one.iter().enumerate() {
                if track.samples[at].is_some()
                    && let Some(other) = by_signature[sides.ones[index]].replace(index)
                {
                    return duplicate(binary, &one[other].labels, &track.labels, swapped);
                }
            }
            let mut matched = Matched { signatures: vec![false; signatures], inserted: HashSet::new() };
            for (index, _) in many.iter().enumerate().filter(|(_, track)| track.samples[at].is_some()) {
                let ordinal = sides.manies[index];
                let pair = Pair { many: Some(index), one: by_signature[ordinal], ordinal };
                self.match_pair(binary, &sides, pair, (at, start, grid), &mut results, &mut matched)?;
            }
            for (index, _) in one.iter().enumerate().filter(|(_, track)| track.samples[at].is_some()) {
                let ordinal = sides.ones[index];
                if many_fill.is_some() && !matched.signatures[ordinal] {
                    let pair = Pair { many: None, one: Some(index), ordinal };
                    self.match_pair(binary, &sides, pair, (at, start, grid), &mut results, &mut matched)?;
                }
            }
        }
        results.tracks.retain(|track| track.samples.iter().any(Option::is_some));
        Ok(results.tracks)
    }

    fn match_pair(
        &self,
        binary: &Binary,
        sides: &Sides<'_>,
        pair: Pair,
        (at, start, grid): (usize, usize, Grid),
        results: &mut Results,
        matched: &mut Matched,
    ) -> Result<(), EvalError> {
        let sample = |tracks: &[Track], index: Option<usize>, fill: Option<f64>| match index {
            Some(index) => tracks[index].samples[at].clone(),
            None => fill.map(Sample::Float),
        };
        let many = sample(sides.many, pair.many, sides.many_fill);
        let (Some(many), Some(one)) = (many, sample(sides.one, pair.one, sides.one_fill)) else {
            return Ok(());
        };
        let (left, right) = if sides.swapped { (&one, &many) } else { (&many, &one) };
        let result = self.elementwise(binary.op, left, right, start);
        if matches!(result, Elementwise::Undefined) {
            return Ok(());
        }
        let place = self.place(results, binary, &pair, sides, grid)?;
        let seen = std::mem::replace(&mut matched.signatures[pair.ordinal], true);
        if binary.cardinality == Cardinality::OneToOne {
            if seen {
                let message =
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                return Self::fail(message);
            }
        } else if !matched.inserted.insert((pair.ordinal, place)) {
            return Self::fail("multiple matches for labels: grouping labels must ensure unique matches");
        }
        let value = match (result, binary.returns_bool) {
            (Elementwise::Kept(_), true) => Some(Sample::Float(1.0)),
            (_, true) => Some(Sample::Float(0.0)),
            (Elementwise::Kept(value), false) => Some(value),
            _ => None,
        };
        let slot = &mut results.tracks[place].samples[at];
        if value.is_some() && slot.is_some() {
            return Self::fail("vector cannot contain metrics with the same labelset");
        }
        if value.is_some() {
            *slot = value;
        }
        Ok(())
    }

    /// The track of a pair's results.
    fn place(
        &self,
        results: &mut Results,
        binary: &Binary,
        pair: &Pair,
        sides: &Sides<'_>,
        grid: Grid,
    ) -> Result<usize, EvalError> {
        let key = (pair.many, pair.one);
        if let Some(place) = results.pairs.get(&key) {
            return Ok(*place);
        }
        // A side that is filled in has the labels that would have matched.
        let side = |own: Option<&Track>, other: Option<&Track>| {
            own.map(|track| track.labels.clone())
                .or_else(|| other.map(|track| signature(&track.labels, binary)))
                .unwrap_or_default()
        };
        let many_track = pair.many.map(|index| &sides.many[index]);
        let one_track = pair.one.map(|index| &sides.one[index]);
        let many = side(many_track, one_track);
        let one = side(one_track, many_track);
        let labels = result_labels(&many, &one, binary);
        let place = match results.places.get(&labels) {
            Some(place) => *place,
            None => {
                self.spend(grid.count)?;
                let drop_name = binary.returns_bool;
                results.tracks.push(Track { labels: labels.clone(), drop_name, samples: vec![None; grid.count] });
                results.places.insert(labels, results.tracks.len() - 1);
                results.tracks.len() - 1
            }
        };
        results.pairs.insert(key, place);
        Ok(place)
    }
}

fn result_labels(many: &Labels, one: &Labels, binary: &Binary) -> Labels {
    let mut labels = if changes_meaning(binary.op) { many.without_name() } else { many.clone() };
    if binary.cardinality == Cardinality::OneToOne {
        labels = if binary.on { labels.only(&binary.labels) } else { labels.without(&binary.labels) };
    }
    for name in &binary.include {
        labels = labels.with(name, one.get(name));
    }
    labels
}

fn duplicate<T>(binary: &Binary, left: &Labels, right: &Labels, swapped: bool) -> Result<T, EvalError> {
    let side = if swapped { "left" } else { "right" };
    let group = if binary.on { left.only(&binary.labels) } else { left.without(&binary.labels).without(&[NAME]) };
    let mut both = [left.to_string(), right.to_string()];
    both.sort();
    Evaluator::fail(format!(
        "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{}, {}];\
         many-to-many matching not allowed: matching labels must be unique on one side",
        both[0], both[1]
    ))
}

/// Tracks of equal labels as one, where they have no step in common.
fn joined(tracks: impl Iterator<Item = Track>) -> Vec<Track> {
    let mut places: HashMap<(Labels, bool), usize> = HashMap::new();
    let mut joined: Vec<Track> = Vec::new();
    for track in tracks {
        let key = (track.labels.clone(), track.drop_name);
        match places.get(&key) {
            Some(place)
                if joined[*place].samples.iter().zip(&track.samples).all(|(a, b)| a.is_none() || b.is_none()) =>
            {
                for (here, sample) in joined[*place].samples.iter_mut().zip(track.samples) {
                    *here = here.take().or(sample);
                }
            }
            _ => {
                places.insert(key, joined.len());
                joined.push(track);
            }
        }
    }
    joined
}
