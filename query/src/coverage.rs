//! Which of the expected node-time an answer includes: a pure function of what the topology knows, what the pins showed
//! and what the query met. It never asks anybody, so that coverage is about the same moment as the rows.

use std::collections::BTreeMap;

use lariat_schema::coverage::{Coverage, Missing, NodeCoverage, NodeState, RegionCoverage, Why, Window};
use lariat_schema::time_range::{OPEN_NANOS, SLICE_NANOS, TimeRange, slice_start};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Region of a node that never told one.
const UNKNOWN_REGION: &str = "unknown";

/// A clock that is off by more than this makes a node's times unusable for coverage, in nanoseconds.
const MAX_CLOCK_OFFSET_NANOS: i64 = lariat_schema::time_range::NANOS_PER_SECOND;

/// What is known of one expected node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeFacts {
    /// Its name, or its address.
    pub(crate) node_id: String,
    /// Its region, if it ever told.
    pub(crate) region: Option<String>,
    /// What the topology says.
    pub(crate) state: NodeState,
    /// Since when it is expected, Unix nanoseconds; `None`: for all of the window.
    pub(crate) since_unix_nanos: Option<i64>,
    /// Its clock minus ours.
    pub(crate) clock_offset_nanos: i64,
    /// Its part in the answer, if its rows are in.
    pub(crate) answered: Option<Part>,
    /// Why its rows are not in.
    pub(crate) error: Option<String>,
}

/// A node's part in an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Commit time up to which its rows are in, Unix nanoseconds.
    pub(crate) watermark_unix_nanos: i64,
    /// Rows read from it.
    pub(crate) rows: u64,
    /// Time until it had answered, in milliseconds.
    pub(crate) elapsed_ms: f64,
}

/// Expected and covered slices.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    expected: u64,
    covered: u64,
    nodes: u32,
    answered: u32,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.expected += other.expected;
        self.covered += other.covered;
        self.nodes += other.nodes;
        self.answered += other.answered;
    }

    /// Of node-time; of nodes where the window has no closed slice yet.
    fn ratio(self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "counts of slices of at most some years")]
        match (self.expected, self.nodes) {
            (0, 0) => 0.0,
            (0, nodes) => f64::from(self.answered) / f64::from(nodes),
            (expected, _) => self.covered as f64 / expected as f64,
        }
    }
}

/// The coverage of an answer. `window` is what was asked for, with the bounds that data gave where the question left
/// them open; `None` if there is no data at all.
pub(crate) fn coverage(
    query_id: String,
    window: Option<TimeRange>,
    now_unix_nanos: i64,
    nodes: &[NodeFacts],
    expected_nodes: u32,
) -> Coverage {
    let open_from = slice_start(now_unix_nanos.saturating_sub(OPEN_NANOS));
    let closed = window.map_or(TimeRange::new(0, 0), |window| {
        TimeRange::new(slice_start(window.from_unix_nanos), window.to_unix_nanos.min(open_from))
    });
    let mut total = Tally::default();
    let mut regions: BTreeMap<String, Tally> = BTreeMap::new();
    let mut shown = Vec::with_capacity(nodes.len());
    let unseen = expected_nodes.saturating_sub(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
    let unseen: Vec<_> = (1..=unseen).map(never_seen).collect();
    for node in nodes.iter().chain(&unseen) {
        let (tally, missing) = judged(node, &closed);
        total.add(tally);
        let region = node.region.clone().unwrap_or_else(|| UNKNOWN_REGION.to_owned());
        regions.entry(region.clone()).or_default().add(tally);
        shown.push(node_coverage(node, region, tally, missing));
    }
    let state = |wanted: &[NodeState]| {
        u32::try_from(nodes.iter().filter(|node| wanted.contains(&node.state)).count()).unwrap_or(u32::MAX)
    };
    let responding = state(&[NodeState::Responding, NodeState::Ready]);
    let suspect = nodes.iter().any(|node| node.answered.is_some() && clock_suspect(node));
    let ratio = total.ratio();
    Coverage {
        complete: total.answered == total.nodes && total.nodes > 0 && total.expected == total.covered && !suspect,
        ratio,
        expected: total.nodes,
        connected: responding + state(&[NodeState::Discovering]),
        responding,
        answered: total.answered,
        window: Window {
            from: window.map(|window| rfc3339(window.from_unix_nanos)),
            to: window.map(|window| rfc3339(window.to_unix_nanos)),
            open_from: window.map(|_| rfc3339(open_from)),
        },
        query_id,
        regions: regions
            .into_iter()
            .map(|(region, tally)| RegionCoverage {
                region,
                expected: tally.nodes,
                answered: tally.answered,
                ratio: tally.ratio(),
            })
            .collect(),
        nodes: shown,
    }
}

/// A node that the fleet's size says should be there, and that nobody has met.
fn never_seen(number: u32) -> NodeFacts {
    NodeFacts {
        node_id: format!("never-seen-{number}"),
        region: None,
        state: NodeState::NeverSeen,
        since_unix_nanos: None,
        clock_offset_nanos: 0,
        answered: None,
        error: Some("expected, and never came".to_owned()),
    }
}

fn clock_suspect(node: &NodeFacts) -> bool {
    node.clock_offset_nanos.abs() > MAX_CLOCK_OFFSET_NANOS
}

/// Expected and covered slices of one node in the closed part of the window, and what is missing.
fn judged(node: &NodeFacts, closed: &TimeRange) -> (Tally, Vec<Missing>) {
    let since = node.since_unix_nanos.map_or(closed.from_unix_nanos, slice_start);
    let expected = TimeRange::new(closed.from_unix_nanos.max(since), closed.to_unix_nanos);
    let slices =
        |range: &TimeRange| u64::try_from(range.nanos().saturating_add(SLICE_NANOS - 1) / SLICE_NANOS).unwrap_or(0);
    let gap = match (&node.answered, node.state) {
        (Some(part), _) => {
            // A slice is in once the watermark has passed its end.
            let behind = slice_start(part.watermark_unix_nanos).max(expected.from_unix_nanos);
            (TimeRange::new(behind, expected.to_unix_nanos), Why::Late)
        }
        (None, NodeState::NeverSeen) => (expected, Why::Unknown),
        (None, _) => (expected, Why::Unreachable),
    };
    let (range, why) = gap;
    let missing = if range.is_empty() {
        Vec::new()
    } else {
        vec![Missing { from: rfc3339(range.from_unix_nanos), to: rfc3339(range.to_unix_nanos), why }]
    };
    let tally = Tally {
        expected: slices(&expected),
        covered: slices(&expected).saturating_sub(slices(&range)),
        nodes: 1,
        answered: u32::from(node.answered.is_some()),
    };
    (tally, missing)
}

fn node_coverage(node: &NodeFacts, region: String, tally: Tally, missing: Vec<Missing>) -> NodeCoverage {
    let error = node.error.clone().or_else(|| {
        clock_suspect(node)
            .then(|| format!("clock_suspect: its clock is off by {} ms", node.clock_offset_nanos / 1_000_000))
    });
    NodeCoverage {
        node_id: node.node_id.clone(),
        region,
        state: node.state,
        answered: node.answered.is_some(),
        source: node.answered.as_ref().map(|_| "live".to_owned()),
        ratio: tally.ratio(),
        missing,
        watermark: node.answered.as_ref().map(|part| rfc3339(part.watermark_unix_nanos)),
        rows: node.answered.as_ref().map_or(0, |part| part.rows),
        elapsed_ms: node.answered.as_ref().map_or(0.0, |part| part.elapsed_ms),
        error,
    }
}

/// RFC 3339 in UTC with nanoseconds, as every time leaves this service.
pub(crate) fn rfc3339(unix_nanos: i64) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_nanos))
        .ok()
        .and_then(|moment| moment.format(FORMAT).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
