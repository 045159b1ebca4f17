//! The report `circuits`: transitions of circuit breakers, newest first; and, for other reports, the latest state of each
//! channel on each node. The latest row of a group is found as the greatest text of moment and state: `max` merges
//! over nodes in any order, where an ordered aggregate would have to be planned around.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use lariat_schema::vocabulary::CircuitState;
use serde::Serialize;

use super::columns::{BadAnswer, count_at, integers, text_at, texts};
use super::parameters::{Parameters, rfc3339};
use super::sheet::{Column, MOMENT, Sheet};
use super::sql_text;

/// How far back the latest state of a channel is looked for. A circuit that opened earlier has been tried since.
const STATE_LOOKBACK_NANOS: i64 = 24 * 3_600 * NANOS_PER_SECOND;

pub(super) const COLUMNS: &[Column] = &[
    ("time", MOMENT),
    ("node_id", "Utf8"),
    ("region", "Utf8"),
    ("profile", "Utf8"),
    ("chain", "Utf8"),
    ("provider_id", "Utf8"),
    ("transport", "Utf8"),
    ("from", "Utf8"),
    ("to", "Utf8"),
    ("reason", "Utf8"),
];

#[derive(Serialize)]
struct Row {
    time: String,
    node_id: Option<String>,
    region: Option<String>,
    profile: Option<String>,
    chain: Option<String>,
    provider_id: Option<String>,
    transport: Option<String>,
    from: Option<String>,
    to: Option<String>,
    reason: Option<String>,
}

/// One transition more than is shown, so that it is known whether there are more.
pub(super) fn question(parameters: &Parameters, times: &[TimeRange]) -> String {
    format!(
        "SELECT time, node_id, region, profile, chain, provider_id, transport, \"from\", \"to\", reason \
         FROM circuit_events WHERE {}{} ORDER BY time DESC LIMIT {}",
        sql_text::within_any(times),
        parameters.conditions(),
        parameters.limit.saturating_add(1),
    )
}

/// The newest rows of all parts of the window.
pub(super) fn sheet(batches: &[RecordBatch], limit: usize) -> Result<Sheet, BadAnswer> {
    let mut rows = Vec::new();
    for batch in batches {
        let times = integers(batch, "time")?;
        let names = ["node_id", "region", "profile", "chain", "provider_id", "transport", "from", "to", "reason"];
        let columns = names.iter().map(|name| texts(batch, name)).collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let mut values = columns.iter().map(|column| text_at(column, row));
            let mut next = || values.next().flatten();
            let nanos = count_at(&times, row);
            let shown = Row {
                time: rfc3339(nanos),
                node_id: next(),
                region: next(),
                profile: next(),
                chain: next(),
                provider_id: next(),
                transport: next(),
                from: next(),
                to: next(),
                reason: next(),
            };
            rows.push((nanos, shown));
        }
    }
    rows.sort_by_key(|(nanos, _)| Reverse(*nanos));
    let has_more = rows.len() > limit;
    let shown = rows.into_iter().map(|(_, row)| row).take(limit);
    let sheet = Sheet::new(COLUMNS.to_vec(), shown, limit);
    Ok(if has_more { sheet.with_more() } else { sheet })
}

/// A channel, as four texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Channel {
    pub(super) profile: String,
    pub(super) chain: String,
    pub(super) provider_id: String,
    pub(super) transport: String,
}

/// Latest state of a channel by region and node.
pub(super) type States = BTreeMap<Channel, BTreeMap<(String, String), CircuitState>>;

/// The question for the latest state of each channel on each node at the end of the window.
pub(super) fn states_question(parameters: &Parameters) -> String {
    let to = parameters.window.to_unix_nanos;
    format!(
        "SELECT node_id, region, profile, chain, provider_id, transport, \
         max(CAST(CAST(time AS BIGINT) AS VARCHAR) || ' ' || \"to\") AS latest FROM circuit_events \
         WHERE {}{} GROUP BY node_id, region, profile, chain, provider_id, transport",
        sql_text::within(TimeRange::new(to.saturating_sub(STATE_LOOKBACK_NANOS), to)),
        parameters.conditions(),
    )
}

/// Folds the answer to [`states_question`]; a state that is not in the vocabulary is left out.
pub(super) fn states(batches: &[RecordBatch]) -> Result<States, BadAnswer> {
    let mut states = States::new();
    for batch in batches {
        let names = ["node_id", "region", "profile", "chain", "provider_id", "transport", "latest"];
        let columns = names.iter().map(|name| texts(batch, name)).collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let mut values = columns.iter().map(|column| text_at(column, row).unwrap_or_default());
            let mut next = || values.next().unwrap_or_default();
            let (node_id, region) = (next(), next());
            let channel = Channel { profile: next(), chain: next(), provider_id: next(), transport: next() };
            let latest = next();
            let state = latest.split_once(' ').and_then(|(_, state)| state.parse().ok());
            if let Some(state) = state {
                states.entry(channel).or_default().insert((region, node_id), state);
            }
        }
    }
    Ok(states)
}
