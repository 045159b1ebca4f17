//! Functions that change or order labels.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::super::labels::{Labels, NAME, anchored};
use super::super::value::Track;

/// `label_replace(v, destination, replacement, source, regex)`.
pub(crate) fn replace(mut tracks: Vec<Track>, texts: &[String]) -> Result<Vec<Track>, String> {
    let [destination, replacement, source, pattern] = texts else {
        return Err("label_replace takes four strings".to_owned());
    };
    let regex = anchored(pattern).map_err(|_| format!("invalid regular expression in label_replace(): {pattern}"))?;
    if destination.is_empty() {
        return Err(format!("invalid destination label name in label_replace(): {destination}"));
    }
    for track in &mut tracks {
        if let Some(found) = regex.captures(track.labels.get(source)) {
            let mut value = String::new();
            found.expand(replacement, &mut value);
            set(track, destination, &value);
        }
    }
    unique(tracks)
}

/// `label_join(v, destination, separator, sources...)`.
pub(crate) fn join(mut tracks: Vec<Track>, texts: &[String]) -> Result<Vec<Track>, String> {
    let [destination, separator, sources @ ..] = texts else {
        return Err("label_join takes at least two strings".to_owned());
    };
    if destination.is_empty() {
        return Err(format!("invalid destination label name in label_join(): {destination}"));
    }
    for track in &mut tracks {
        let values: Vec<&str> = sources.iter().map(|source| track.labels.get(source)).collect();
        let value = values.join(separator);
        set(track, destination, &value);
    }
    unique(tracks)
}

fn set(track: &mut Track, name: &str, value: &str) {
    track.labels = track.labels.with(name, value);
    if name == NAME {
        // A name that was given explicitly stays.
        track.drop_name = false;
    }
}

/// The tracks, unless two of the same labels have a sample at the same step.
fn unique(tracks: Vec<Track>) -> Result<Vec<Track>, String> {
    let mut taken: HashMap<&Labels, Vec<bool>> = HashMap::new();
    for track in &tracks {
        let steps = taken.entry(&track.labels).or_insert_with(|| vec![false; track.samples.len()]);
        for (taken, sample) in steps.iter_mut().zip(&track.samples) {
            if std::mem::replace(taken, *taken || sample.is_some()) && sample.is_some() {
                return Err("vector cannot contain metrics with the same labelset".to_owned());
            }
        }
    }
    Ok(tracks)
}

/// By the values of some labels, numbers inside them by magnitude; then by all labels.
pub(crate) fn sort(tracks: &mut [Track], names: &[String], descending: bool) {
    tracks.sort_by(|left, right| {
        let by_names = names
            .iter()
            .map(|name| natural(left.labels.get(name), right.labels.get(name)))
            .find(|order| *order != Ordering::Equal);
        let order = by_names.unwrap_or_else(|| left.labels.cmp(&right.labels));
        if descending { order.reverse() } else { order }
    });
}

/// Text order, but runs of digits by their value.
fn natural(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    loop {
        let (a, b) = (run(left), run(right));
        if a.is_empty() || b.is_empty() {
            return left.len().cmp(&right.len());
        }
        let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let order = if digits(a) && digits(b) {
            let (x, y) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            a.cmp(b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[a.len()..], &right[b.len()..]);
    }
}

/// The digits, or the one other character, that a text begins with.
fn run(text: &str) -> &str {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if digits > 0 {
        return &text[..digits];
    }
    &text[..text.chars().next().map_or(0, char::len_utf8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_inside_labels_are_ordered_by_magnitude() {
        assert_eq!(natural("node9", "node10"), Ordering::Less);
        assert_eq!(natural("a", "a1"), Ordering::Less);
        assert_eq!(natural("b2", "a10"), Ordering::Greater);
    }
}
