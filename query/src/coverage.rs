//! Which of the expected node-time an answer includes: a pure function of the membership, of what the pins showed and of
//! what the query met. It never asks anybody, so that coverage is about the same moment as the rows.
//!
//! What a slice is, is judged in [`slices`]; here slices are added up by node and region, and by step where somebody asks
//! for them over time ([`steps`]).

use std::collections::BTreeMap;

use lariat_schema::coverage::{Coverage, Missing, NodeCoverage, NodeState, RegionCoverage, Slices, Window};
use lariat_schema::node_api::TableRange;
use lariat_schema::tables::Table;
use lariat_schema::time_range::{OPEN_NANOS, SLICE_NANOS, TimeRange, slice_start};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

pub(crate) mod merge;
pub(crate) mod recent;
pub(crate) mod slices;
pub(crate) mod steps;

use slices::{Depends, Life, Reason, Source, Stretch, Told, Verdict, pieces};

/// Region of a node that never told one.
const UNKNOWN_REGION: &str = "unknown";

/// A clock that is off by more than this makes a node's times unusable for coverage, in nanoseconds.
const MAX_CLOCK_OFFSET_NANOS: i64 = lariat_schema::time_range::NANOS_PER_SECOND;

/// What is known of one node that is expected, or was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeFacts {
    /// Its name, or its address.
    pub(crate) node_id: String,
    /// Its region, if it ever told.
    pub(crate) region: Option<String>,
    /// What the topology says.
    pub(crate) state: NodeState,
    /// When it was expected; `None`: always.
    pub(crate) expected: Option<Vec<TimeRange>>,
    /// When it left, if it is not expected now.
    pub(crate) left_unix_nanos: Option<i64>,
    /// Its clock minus ours, less what the measurement may be wrong by.
    pub(crate) clock_offset_nanos: i64,
    /// Its part in the answer, if its rows are in.
    pub(crate) answered: Option<Part>,
    /// Why its rows are not in.
    pub(crate) error: Option<String>,
}

/// Where a part comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum PartSource {
    /// The node itself.
    #[default]
    Live,
    /// The bucket, in place of the node.
    Bucket {
        /// Commit times before which everything of a table is there.
        cuts: Vec<(Table, i64)>,
    },
}

/// A node's part in an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Part {
    pub(crate) source: PartSource,
    /// What it told of its life.
    pub(crate) told: Told,
    /// What each of its tables holds and held.
    pub(crate) ranges: Vec<TableRange>,
    /// Rows read from it.
    pub(crate) rows: u64,
    /// Time until it had answered, in milliseconds.
    pub(crate) elapsed_ms: f64,
}

impl PartSource {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Bucket { .. } => "bucket",
        }
    }
}

impl Part {
    /// Commit time up to which the rows of a table are in, and what later ones are. In the bucket the cut lies between rows
    /// of one moment, so what was committed shortly before it may have come later than its time: slices are left open as
    /// long there as they are now.
    fn reach(&self, table: Option<Table>) -> (i64, Reason) {
        match &self.source {
            PartSource::Live => (self.told.watermark_unix_nanos, Reason::Late),
            PartSource::Bucket { cuts } => {
                let of_table = cuts.iter().find(|(of, _)| Some(*of) == table).map(|(_, cut)| *cut);
                let cut = of_table.unwrap_or(self.told.watermark_unix_nanos);
                (cut.saturating_sub(OPEN_NANOS), Reason::Unreachable)
            }
        }
    }
}

/// A table as it stands in a question, and the time that is asked for. `window` has the bounds that data gave where the
/// question left them open; `None` if there is no data at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Input {
    /// `None`: no table in particular, what the spans of decisions are judged by.
    pub(crate) table: Option<Table>,
    pub(crate) window: Option<TimeRange>,
    /// Time inside the window that is not asked about.
    pub(crate) without: Option<TimeRange>,
}

impl NodeFacts {
    /// A node that the fleet's size says should be there, and that nobody has met.
    fn never_seen(number: u32) -> Self {
        Self {
            node_id: format!("never-seen-{number}"),
            region: None,
            state: NodeState::NeverSeen,
            expected: None,
            left_unix_nanos: None,
            clock_offset_nanos: 0,
            answered: None,
            error: Some("expected, and never came".to_owned()),
        }
    }

    fn region(&self) -> String {
        self.region.clone().unwrap_or_else(|| UNKNOWN_REGION.to_owned())
    }

    fn clock_suspect(&self) -> bool {
        self.clock_offset_nanos.abs() > MAX_CLOCK_OFFSET_NANOS
    }

    /// Whether the node itself answered.
    pub(crate) fn is_live(&self) -> bool {
        self.answered.as_ref().is_some_and(|part| part.source == PartSource::Live)
    }

    /// Whether it counts among the nodes of now.
    fn counts_now(&self) -> bool {
        self.left_unix_nanos.is_none() || self.is_live()
    }

    /// Whether everything that is asked for of it is in the answer. The node itself gives all that there is; the bucket
    /// stands for it where it reaches to the end of what is asked for.
    fn is_whole(&self, input: Input) -> bool {
        let Some(part) = &self.answered else { return false };
        if part.source == PartSource::Live {
            return true;
        }
        let Some(window) = input.window else { return false };
        let everywhere = [TimeRange::new(i64::MIN, i64::MAX)];
        let expected = self.expected.as_deref().unwrap_or(&everywhere);
        let wanted = expected.iter().map(|range| range.intersection(&window)).filter(|part| !part.is_empty());
        wanted.map(|part| part.to_unix_nanos).max().is_none_or(|end| end <= part.reach(input.table).0)
    }

    /// Its time, for a table.
    pub(crate) fn life(&self, table: Option<Table>) -> Life {
        let expected = self.expected.clone().unwrap_or_else(|| vec![TimeRange::new(i64::MIN, i64::MAX)]);
        let source = match &self.answered {
            Some(part) => {
                let (watermark_unix_nanos, later) = part.reach(table);
                Source::Told {
                    pieces: pieces(&part.told, depends(table)),
                    watermark_unix_nanos,
                    later,
                    gone: gone(&part.ranges, table),
                    left_unix_nanos: self.left_unix_nanos.filter(|_| !self.is_live()),
                }
            }
            None => Source::Absent {
                why: if self.state == NodeState::NeverSeen { Reason::Unknown } else { Reason::Unreachable },
                left_unix_nanos: self.left_unix_nanos,
            },
        };
        Life { expected, source }
    }
}

fn depends(table: Option<Table>) -> Depends {
    match table {
        None | Some(Table::Spans | Table::Rollups) => Depends::Decisions,
        Some(Table::Metrics | Table::Logs) => Depends::Heartbeats,
        Some(Table::NodeStatus) => Depends::Statuses,
    }
}

/// What a table had and has no longer.
fn gone(ranges: &[TableRange], table: Option<Table>) -> Vec<slices::Gone> {
    let of_table = ranges.iter().filter(|range| Some(range.table) == table).flat_map(|range| &range.gone);
    of_table.map(|gone| (TimeRange::new(gone.from_unix_nanos, gone.to_unix_nanos), gone.why)).collect()
}

/// The nodes that a coverage is about: those that were met, and as many more as the fleet's size says. Whoever left last
/// is named in the place of one that never came.
pub(crate) fn roll_call(mut nodes: Vec<NodeFacts>, expected_nodes: u32) -> Vec<NodeFacts> {
    let count = nodes.iter().filter(|node| node.counts_now()).count();
    let mut lacking = expected_nodes.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
    let mut left: Vec<&mut NodeFacts> = nodes.iter_mut().filter(|node| !node.counts_now()).collect();
    left.sort_by_key(|node| std::cmp::Reverse(node.left_unix_nanos));
    for node in left.into_iter().take(usize::try_from(lacking).unwrap_or(usize::MAX)) {
        // It is expected again from its end on: the operator's number says that somebody should be there.
        if let (Some(expected), Some(left)) = (&mut node.expected, node.left_unix_nanos) {
            expected.push(TimeRange::new(left, i64::MAX));
        }
        node.error.get_or_insert_with(|| "it ended, and the fleet's size says that it should be there".to_owned());
        lacking -= 1;
    }
    nodes.extend((1..=lacking).map(NodeFacts::never_seen));
    nodes
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

/// The coverage of an answer over several inputs is the lowest of theirs.
pub(crate) fn lowest(
    query_id: &str,
    inputs: &[Input],
    now_unix_nanos: i64,
    nodes: &[NodeFacts],
    expected_nodes: u32,
) -> Coverage {
    let none = [Input { table: None, window: None, without: None }];
    let inputs = if inputs.is_empty() { &none } else { inputs };
    let of_input = |input: &Input| coverage(query_id, *input, now_unix_nanos, nodes, expected_nodes);
    let mut lowest = of_input(&inputs[0]);
    let mut complete = lowest.complete;
    for input in &inputs[1..] {
        let other = of_input(input);
        complete &= other.complete;
        if other.ratio < lowest.ratio {
            lowest = other;
        }
    }
    lowest.complete = complete;
    lowest
}

/// First moment whose slices are open.
pub(crate) fn open_from(now_unix_nanos: i64) -> i64 {
    slice_start(now_unix_nanos.saturating_sub(OPEN_NANOS))
}

/// The closed slices of a window.
pub(crate) fn closed(window: TimeRange, now_unix_nanos: i64) -> TimeRange {
    let end = slice_start(window.to_unix_nanos.saturating_add(SLICE_NANOS - 1));
    TimeRange::new(slice_start(window.from_unix_nanos), end.min(open_from(now_unix_nanos)))
}

/// The closed slices that are asked about.
fn parts(closed: TimeRange, without: Option<TimeRange>) -> Vec<TimeRange> {
    let parts = match without {
        Some(gap) => vec![
            TimeRange::new(closed.from_unix_nanos, gap.from_unix_nanos.min(closed.to_unix_nanos)),
            TimeRange::new(gap.to_unix_nanos.max(closed.from_unix_nanos), closed.to_unix_nanos),
        ],
        None => vec![closed],
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// The coverage of one input.
pub(crate) fn coverage(
    query_id: &str,
    input: Input,
    now_unix_nanos: i64,
    nodes: &[NodeFacts],
    expected_nodes: u32,
) -> Coverage {
    let Input { window, without, .. } = input;
    let closed = window.map_or(TimeRange::new(0, 0), |window| closed(window, now_unix_nanos));
    let parts = parts(closed, without);
    let mut total = Tally::default();
    let mut regions: BTreeMap<String, Tally> = BTreeMap::new();
    let mut shown = Vec::with_capacity(nodes.len());
    let nodes = roll_call(nodes.to_vec(), expected_nodes);
    for node in &nodes {
        let whole = node.is_whole(input);
        let (tally, missing) = judged(node, input.table, &parts, expected_now(node), whole);
        // Who has left and was not expected in the window is no part of it.
        if tally.nodes == 0 && tally.expected == 0 {
            continue;
        }
        total.add(tally);
        regions.entry(node.region()).or_default().add(tally);
        shown.push(node_coverage(node, tally, missing, input.table, whole));
    }
    let state = |wanted: &[NodeState]| {
        u32::try_from(nodes.iter().filter(|node| wanted.contains(&node.state)).count()).unwrap_or(u32::MAX)
    };
    let responding = state(&[NodeState::Responding, NodeState::Ready]);
    let suspect = nodes.iter().any(|node| node.is_live() && node.clock_suspect());
    Coverage {
        complete: total.answered == total.nodes && total.nodes > 0 && total.expected == total.covered && !suspect,
        ratio: total.ratio(),
        expected: total.nodes,
        connected: responding + state(&[NodeState::Discovering]),
        responding,
        answered: total.answered,
        window: Window {
            from: window.map(|window| rfc3339(window.from_unix_nanos)),
            to: window.map(|window| rfc3339(window.to_unix_nanos)),
            open_from: window.map(|_| rfc3339(open_from(now_unix_nanos))),
        },
        query_id: query_id.to_owned(),
        regions: regions.into_iter().map(region_coverage).collect(),
        nodes: shown,
    }
}

/// Whether a node of the roll call is expected now.
fn expected_now(node: &NodeFacts) -> bool {
    node.counts_now()
        || node.expected.as_ref().is_none_or(|expected| expected.iter().any(|range| range.to_unix_nanos == i64::MAX))
}

fn region_coverage((region, tally): (String, Tally)) -> RegionCoverage {
    RegionCoverage { region, expected: tally.nodes, answered: tally.answered, ratio: tally.ratio() }
}

/// Expected and covered slices of one node in the closed part of the window, and what is missing.
fn judged(
    node: &NodeFacts,
    table: Option<Table>,
    parts: &[TimeRange],
    now: bool,
    whole: bool,
) -> (Tally, Vec<Missing>) {
    let life = node.life(table);
    let stretches: Vec<Stretch> = parts.iter().flat_map(|part| life.judge(*part)).collect();
    let count = |wanted: &dyn Fn(&Verdict) -> bool| -> u64 {
        stretches.iter().filter(|stretch| wanted(&stretch.verdict)).map(Stretch::slices).sum()
    };
    let tally = Tally {
        expected: count(&|verdict| *verdict != Verdict::NotExpected),
        covered: count(&|verdict| *verdict == Verdict::Covered),
        nodes: u32::from(now),
        answered: u32::from(now && whole),
    };
    let missing = |stretch: &Stretch| match stretch.verdict {
        Verdict::Missing(reason) => Some(Missing {
            from: rfc3339(stretch.times.from_unix_nanos),
            to: rfc3339(stretch.times.to_unix_nanos),
            why: reason.into(),
        }),
        Verdict::NotExpected | Verdict::Covered => None,
    };
    (tally, stretches.iter().filter_map(missing).collect())
}

fn node_coverage(
    node: &NodeFacts,
    tally: Tally,
    missing: Vec<Missing>,
    table: Option<Table>,
    whole: bool,
) -> NodeCoverage {
    let error = node.error.clone().or_else(|| {
        node.clock_suspect()
            .then(|| format!("clock_suspect: its clock is off by {} ms", node.clock_offset_nanos / 1_000_000))
    });
    let part = node.answered.as_ref();
    NodeCoverage {
        node_id: node.node_id.clone(),
        region: node.region(),
        state: node.state,
        answered: whole,
        source: part.map(|part| part.source.as_str().to_owned()),
        ratio: tally.ratio(),
        missing,
        watermark: part.map(|part| rfc3339(part.reach(table).0)),
        rows: part.map_or(0, |part| part.rows),
        elapsed_ms: part.map_or(0.0, |part| part.elapsed_ms),
        error,
        slices: Slices { expected: tally.expected, covered: tally.covered },
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
