//! The report `providers`: each channel's calls, success and latency by region, beside its height and the state of its
//! circuits. The three come from three questions and meet here and not in a join, which would have to be as late
//! as the slowest of them and would lose channels that only one of them knows.

use std::collections::{BTreeMap, BTreeSet};

use lariat_schema::coverage::Coverage;
use lariat_schema::vocabulary::CircuitState;
use serde::Serialize;

use super::blocks::{Span, Spans};
use super::cells::{ByRegion, Groups, Tally, share};
use super::circuits::{Channel, States};
use super::sheet::{Column, Sheet};

/// What the cells are grouped by.
pub(super) const KEYS: &[&str] = &["profile", "chain", "provider_id", "transport"];

pub(super) const COLUMNS: &[Column] = &[
    ("profile", "Utf8"),
    ("chain", "Utf8"),
    ("provider_id", "Utf8"),
    ("transport", "Utf8"),
    ("region", "Utf8"),
    ("calls", "Int64"),
    ("share", "Float64"),
    ("success_rate", "Float64"),
    ("mean_ms", "Float64"),
    ("p50_ms", "Float64"),
    ("p95_ms", "Float64"),
    ("p99_ms", "Float64"),
    ("errors", "Int64"),
    ("height", "Int64"),
    ("lag", "Int64"),
    ("circuit", "Struct(closed: Int64, half_open: Int64, open: Int64)"),
];

/// Nodes by the state of their circuit of one channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct CircuitCounts {
    pub(super) closed: usize,
    pub(super) half_open: usize,
    pub(super) open: usize,
}

#[derive(Serialize)]
struct Row {
    profile: String,
    chain: String,
    provider_id: String,
    transport: String,
    region: Option<String>,
    calls: i64,
    share: Option<f64>,
    success_rate: Option<f64>,
    mean_ms: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    errors: i64,
    height: Option<i64>,
    lag: Option<i64>,
    circuit: CircuitCounts,
}

/// What is known besides calls.
pub(super) struct Surroundings<'a> {
    pub(super) states: &'a States,
    pub(super) spans: &'a Spans,
    pub(super) coverage: &'a Coverage,
}

/// Rows, the busiest channel first, each over all regions first. A channel that took no call but has a circuit event is
/// listed too: it is the one that an operator looks for. A share is of the calls of the same profile, chain and region.
pub(super) fn sheet(groups: &Groups, around: &Surroundings<'_>, limit: usize) -> Sheet {
    let mut channels: BTreeMap<Channel, ByRegion> =
        around.states.keys().map(|channel| (channel.clone(), ByRegion::default())).collect();
    for (key, group) in groups {
        // Calls that no provider answered are in `traffic`, they are no provider's.
        if let [Some(profile), Some(chain), Some(provider_id), transport] = key.keys.as_slice() {
            let channel = Channel {
                profile: profile.clone(),
                chain: chain.clone(),
                provider_id: provider_id.clone(),
                transport: transport.clone().unwrap_or_default(),
            };
            channels.insert(channel, group.clone());
        }
    }
    let totals = totals(&channels);
    let mut sorted: Vec<_> = channels.iter().collect();
    sorted.sort_by_key(|(channel, group)| (std::cmp::Reverse(group.all().calls), *channel));
    let rows = sorted.into_iter().flat_map(|(channel, group)| {
        let totals = &totals;
        group.rows().map(move |(region, tally)| row(channel, region, tally, totals, around)).collect::<Vec<_>>()
    });
    Sheet::new(COLUMNS.to_vec(), rows, limit)
}

type Totals = BTreeMap<(String, String, Option<String>), i64>;

fn totals(channels: &BTreeMap<Channel, ByRegion>) -> Totals {
    let mut totals = Totals::new();
    for (channel, group) in channels {
        for (region, tally) in group.rows() {
            let key = (channel.profile.clone(), channel.chain.clone(), region.map(str::to_owned));
            *totals.entry(key).or_default() += tally.calls;
        }
    }
    totals
}

fn row(channel: &Channel, region: Option<&str>, tally: &Tally, totals: &Totals, around: &Surroundings<'_>) -> Row {
    let region = region.map(str::to_owned);
    let total = totals.get(&(channel.profile.clone(), channel.chain.clone(), region.clone())).copied().unwrap_or(0);
    let provider = (channel.profile.clone(), channel.chain.clone(), channel.provider_id.clone());
    let span = around.spans.get(&provider).and_then(|spans| spans.get(&region)).copied().unwrap_or_default();
    let Span { height, lag } = span;
    Row {
        profile: channel.profile.clone(),
        chain: channel.chain.clone(),
        provider_id: channel.provider_id.clone(),
        transport: channel.transport.clone(),
        calls: tally.calls,
        share: share(tally.calls, total),
        success_rate: tally.success_rate(),
        mean_ms: tally.mean_ms(),
        p50_ms: tally.quantile_ms(0.5),
        p95_ms: tally.quantile_ms(0.95),
        p99_ms: tally.quantile_ms(0.99),
        errors: tally.errors,
        height,
        lag,
        circuit: circuit(channel, region.as_deref(), around),
        region,
    }
}

/// Counts the nodes of a region (`None`: all) by state. Nodes in the answer that recorded no transition of the channel
/// count as closed, since a circuit is born closed and says so only when it changes.
fn circuit(channel: &Channel, region: Option<&str>, around: &Surroundings<'_>) -> CircuitCounts {
    let in_region = |of: &str| region.is_none_or(|wanted| wanted == of);
    let mut nodes: BTreeSet<&str> = around
        .coverage
        .nodes
        .iter()
        .filter(|node| node.answered && in_region(&node.region))
        .map(|node| node.node_id.as_str())
        .collect();
    let mut counts = CircuitCounts::default();
    for ((of, node_id), state) in around.states.get(channel).into_iter().flatten() {
        if !in_region(of) {
            continue;
        }
        nodes.insert(node_id);
        match state {
            CircuitState::Closed => {}
            CircuitState::HalfOpen => counts.half_open += 1,
            CircuitState::Open => counts.open += 1,
        }
    }
    counts.closed = nodes.len().saturating_sub(counts.half_open + counts.open);
    counts
}
