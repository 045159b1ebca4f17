//! The coverage of an answer that is put together: of two parts of time, or of two sets of nodes. Slices are added, stretches
//! that are missing are listed one after another; nothing is averaged.

use std::collections::BTreeMap;

use lariat_schema::coverage::{Coverage, Missing, NodeCoverage, RegionCoverage, Slices, Window};
use lariat_schema::time_range::TimeRange;

use super::rfc3339;

/// Of a part of the time that was read before, and of the rest, which was read now and says who is there.
pub(crate) fn of_times(before: &Coverage, now: &Coverage, window: TimeRange) -> Coverage {
    let mut nodes: Vec<NodeCoverage> = now.nodes.clone();
    for node in &mut nodes {
        if let Some(earlier) = before.nodes.iter().find(|earlier| earlier.node_id == node.node_id) {
            add(node, earlier);
        }
    }
    let known = |node: &&NodeCoverage| now.nodes.iter().any(|of| of.node_id == node.node_id);
    // Who was there and is no longer expected has his part in the rows.
    nodes.extend(before.nodes.iter().filter(|node| !known(node)).cloned());
    let window = Window {
        from: Some(rfc3339(window.from_unix_nanos)),
        to: Some(rfc3339(window.to_unix_nanos)),
        open_from: now.window.open_from.clone(),
    };
    let sound = is_sound(before) && is_sound(now);
    assembled(Coverage { window, ..now.clone() }, nodes, sound)
}

/// Of an answer, and of what further nodes added to it.
pub(crate) fn of_stores(before: &Coverage, added: &Coverage) -> Coverage {
    let nodes = added.nodes.iter().map(|node| {
        let earlier = before.nodes.iter().find(|earlier| earlier.node_id == node.node_id && earlier.answered);
        if node.answered { node } else { earlier.unwrap_or(node) }.clone()
    });
    let mut nodes: Vec<NodeCoverage> = nodes.collect();
    let known = |node: &&NodeCoverage| added.nodes.iter().any(|of| of.node_id == node.node_id);
    nodes.extend(before.nodes.iter().filter(|node| !known(node)).cloned());
    let sound = is_sound(before) && is_sound(added);
    assembled(Coverage { query_id: before.query_id.clone(), ..added.clone() }, nodes, sound)
}

/// Whether the nodes and slices of a part show why it is incomplete, if it is: a clock that is off does not.
fn is_sound(part: &Coverage) -> bool {
    let slices = part.nodes.iter().map(|node| node.slices).fold(Slices::default(), plus);
    part.complete || part.answered < part.expected || slices.covered < slices.expected
}

fn plus(a: Slices, b: Slices) -> Slices {
    Slices { expected: a.expected + b.expected, covered: a.covered + b.covered }
}

fn add(node: &mut NodeCoverage, earlier: &NodeCoverage) {
    node.slices = plus(node.slices, earlier.slices);
    node.rows += earlier.rows;
    node.missing.extend(earlier.missing.iter().cloned());
    // RFC 3339 in UTC with all its digits sorts as time does.
    node.missing.sort_by(|a, b| a.from.cmp(&b.from));
    let joined = node.missing.drain(..).fold(Vec::<Missing>::new(), |mut so_far, next| {
        match so_far.last_mut() {
            Some(last) if last.why == next.why && last.to == next.from => last.to = next.to,
            _ => so_far.push(next),
        }
        so_far
    });
    node.missing = joined;
    node.ratio = ratio(node.slices, u32::from(node.answered), 1);
}

#[allow(clippy::cast_precision_loss, reason = "counts of slices of at most some years")]
fn ratio(slices: Slices, answered: u32, nodes: u32) -> f64 {
    match (slices.expected, nodes) {
        (0, 0) => 0.0,
        (0, nodes) => f64::from(answered) / f64::from(nodes),
        (expected, _) => slices.covered as f64 / expected as f64,
    }
}

/// The whole, from its nodes. `sound`: no part has a reason to be incomplete that its nodes do not show.
fn assembled(whole: Coverage, nodes: Vec<NodeCoverage>, sound: bool) -> Coverage {
    #[derive(Default)]
    struct Sum {
        slices: Slices,
        answered: u32,
    }
    let mut total = Sum::default();
    let mut regions: BTreeMap<String, Sum> = BTreeMap::new();
    for node in &nodes {
        for sum in [&mut total, regions.entry(node.region.clone()).or_default()] {
            sum.slices = plus(sum.slices, node.slices);
            sum.answered += u32::from(node.answered);
        }
    }
    let regions = whole.regions.iter().map(|region| match regions.get(&region.region) {
        Some(sum) => RegionCoverage {
            answered: sum.answered.min(region.expected),
            ratio: ratio(sum.slices, sum.answered, region.expected),
            ..region.clone()
        },
        None => region.clone(),
    });
    let answered = total.answered.min(whole.expected);
    Coverage {
        complete: sound
            && whole.expected > 0
            && answered == whole.expected
            && total.slices.expected == total.slices.covered,
        ratio: ratio(total.slices, answered, whole.expected),
        answered,
        regions: regions.collect(),
        nodes,
        ..whole
    }
}
