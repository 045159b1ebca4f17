//! Coverage over time: the same slices as an answer's, added up by node and step.

use lariat_schema::tables::Table;
use lariat_schema::time_range::{SLICE_NANOS, TimeRange};

use super::slices::{Reason, Verdict};
use super::{NodeFacts, closed, roll_call};

/// Rows of one question: a month of hours for sixty nodes. Beyond it the step is too short for anybody to look at.
pub(crate) const MAX_ROWS: usize = 50_000;

/// One node in one step; all counts are of slices.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) times: TimeRange,
    pub(crate) node_id: String,
    pub(crate) region: String,
    pub(crate) covered: u64,
    pub(crate) down: u64,
    pub(crate) unreachable: u64,
    pub(crate) late: u64,
    pub(crate) lost: u64,
    pub(crate) expired: u64,
    pub(crate) unknown: u64,
}

impl Step {
    fn new(times: TimeRange, node: &NodeFacts) -> Self {
        Self {
            times,
            node_id: node.node_id.clone(),
            region: node.region(),
            covered: 0,
            down: 0,
            unreachable: 0,
            late: 0,
            lost: 0,
            expired: 0,
            unknown: 0,
        }
    }

    /// All slices in which the node was expected.
    pub(crate) fn expected(&self) -> u64 {
        self.covered + self.down + self.unreachable + self.late + self.lost + self.expired + self.unknown
    }

    fn count(&mut self, verdict: Verdict, slices: u64) {
        let place = match verdict {
            Verdict::NotExpected => return,
            Verdict::Covered => &mut self.covered,
            Verdict::Missing(Reason::Down) => &mut self.down,
            Verdict::Missing(Reason::Unreachable) => &mut self.unreachable,
            Verdict::Missing(Reason::Late) => &mut self.late,
            Verdict::Missing(Reason::Lost) => &mut self.lost,
            Verdict::Missing(Reason::Expired) => &mut self.expired,
            Verdict::Missing(Reason::Unknown) => &mut self.unknown,
        };
        *place += slices;
    }
}

/// More rows than anybody looks at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rows} rows of coverage are more than {MAX_ROWS}: take a longer step or a shorter window")]
pub(crate) struct TooManySteps {
    rows: u64,
}

/// The steps of a window that have a closed slice, for every node that is expected in them. Steps begin at the start of
/// the window's first slice and are whole slices.
pub(crate) fn steps(
    table: Option<Table>,
    window: TimeRange,
    step_nanos: i64,
    now_unix_nanos: i64,
    nodes: &[NodeFacts],
    expected_nodes: u32,
) -> Result<Vec<Step>, TooManySteps> {
    let closed = closed(window, now_unix_nanos);
    let step_slices = (step_nanos.saturating_add(SLICE_NANOS - 1) / SLICE_NANOS).max(1);
    let step_nanos = step_slices.saturating_mul(SLICE_NANOS);
    let nodes = roll_call(nodes.to_vec(), expected_nodes);
    if closed.is_empty() {
        return Ok(Vec::new());
    }
    let count = u64::try_from(closed.nanos() / step_nanos + i64::from(closed.nanos() % step_nanos != 0)).unwrap_or(0);
    let rows = count.saturating_mul(nodes.len() as u64);
    if rows > MAX_ROWS as u64 {
        return Err(TooManySteps { rows });
    }
    let mut all = Vec::new();
    for node in &nodes {
        let mut step: Option<Step> = None;
        for stretch in node.life(table).judge(closed) {
            let mut from = stretch.times.from_unix_nanos;
            while from < stretch.times.to_unix_nanos {
                // Three centuries and more lie between the first and the last moment that can be asked about.
                let since = i128::from(from) - i128::from(closed.from_unix_nanos);
                let into_step = i64::try_from(since.rem_euclid(i128::from(step_nanos))).unwrap_or(0);
                let begin = from.saturating_sub(into_step);
                let end = begin.saturating_add(step_nanos).min(closed.to_unix_nanos);
                let to = end.min(stretch.times.to_unix_nanos);
                if step.as_ref().is_none_or(|open| open.times.from_unix_nanos != begin) {
                    all.extend(step.replace(Step::new(TimeRange::new(begin, end), node)));
                }
                if let Some(open) = &mut step {
                    open.count(
                        stretch.verdict,
                        u64::try_from(TimeRange::new(from, to).nanos() / SLICE_NANOS).unwrap_or(0),
                    );
                }
                from = to;
            }
        }
        all.extend(step);
    }
    all.retain(|step| step.expected() > 0);
    all.sort_by(|left, right| {
        (left.times.from_unix_nanos, &left.region, &left.node_id).cmp(&(
            right.times.from_unix_nanos,
            &right.region,
            &right.node_id,
        ))
    });
    Ok(all)
}
