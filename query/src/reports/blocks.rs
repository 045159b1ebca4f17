//! The report `blocks`: the latest height of each provider as each node saw it. Two nodes may see one provider at two
//! heights at the same moment, and that difference is what the report is for.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::time_range::TimeRange;
use serde::Serialize;

use super::columns::{BadAnswer, text_at, texts};
use super::parameters::{Parameters, rfc3339};
use super::sheet::{Column, MOMENT, Sheet};
use super::sql_text;

pub(super) const COLUMNS: &[Column] = &[
    ("profile", "Utf8"),
    ("chain", "Utf8"),
    ("provider_id", "Utf8"),
    ("transport", "Utf8"),
    ("node_id", "Utf8"),
    ("region", "Utf8"),
    ("height", "Int64"),
    ("lag", "Int64"),
    ("time", MOMENT),
];

/// The latest height of one provider on one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Head {
    pub(super) profile: String,
    pub(super) chain: String,
    pub(super) provider_id: String,
    pub(super) transport: Option<String>,
    pub(super) node_id: String,
    pub(super) region: String,
    pub(super) height: i64,
    /// Blocks behind the consensus height as the node saw it, at most 0.
    pub(super) lag: Option<i64>,
    time: String,
}

/// The question for the latest height, by the greatest text of moment, height and lag.
pub(super) fn question(parameters: &Parameters, times: &[TimeRange]) -> String {
    format!(
        "SELECT profile, chain, provider_id, transport, node_id, region, \
         max(CAST(CAST(time AS BIGINT) AS VARCHAR) || ' ' || CAST(height AS VARCHAR) || ' ' || \
             coalesce(CAST(lag AS VARCHAR), '-')) AS latest FROM block_events \
         WHERE {}{} GROUP BY profile, chain, provider_id, transport, node_id, region",
        sql_text::within_any(times),
        parameters.conditions(),
    )
}

/// Folds the answer to [`question`], in the order of the columns. Each part of the window has a latest height of its own; the
/// latest of them counts.
pub(super) fn heads(batches: &[RecordBatch]) -> Result<Vec<Head>, BadAnswer> {
    let mut latest: BTreeMap<[Option<String>; 6], (i64, String)> = BTreeMap::new();
    for batch in batches {
        let names = ["profile", "chain", "provider_id", "transport", "node_id", "region", "latest"];
        let columns = names.iter().map(|name| texts(batch, name)).collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let value = |column: usize| text_at(&columns[column], row);
            let found = value(6).unwrap_or_default();
            let Some((time, rest)) = found.split_once(' ').and_then(|(time, rest)| Some((time.parse().ok()?, rest)))
            else {
                continue;
            };
            let found = (time, rest.to_owned());
            let kept = latest.entry(std::array::from_fn(value)).or_insert_with(|| found.clone());
            if *kept < found {
                *kept = found;
            }
        }
    }
    let head = |(key, (time, rest)): ([Option<String>; 6], (i64, String))| {
        let (height, lag) = rest.split_once(' ')?;
        let [profile, chain, provider_id, transport, node_id, region] = key;
        Some(Head {
            profile: profile.unwrap_or_default(),
            chain: chain.unwrap_or_default(),
            provider_id: provider_id.unwrap_or_default(),
            transport,
            node_id: node_id.unwrap_or_default(),
            region: region.unwrap_or_default(),
            height: height.parse().ok()?,
            lag: lag.parse().ok(),
            time: rfc3339(time),
        })
    };
    let mut heads: Vec<Head> = latest.into_iter().filter_map(head).collect();
    heads.sort();
    Ok(heads)
}

/// One row per provider and node.
pub(super) fn sheet(batches: &[RecordBatch], limit: usize) -> Result<Sheet, BadAnswer> {
    Ok(Sheet::new(COLUMNS.to_vec(), heads(batches)?, limit))
}

/// Greatest height and worst lag of a provider over some nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) height: Option<i64>,
    pub(super) lag: Option<i64>,
}

/// Heads by (profile, chain, provider) and region; `None` is all regions.
pub(super) type Spans = BTreeMap<(String, String, String), BTreeMap<Option<String>, Span>>;

/// Greatest height and worst lag per provider and region.
pub(super) fn spans(heads: Vec<Head>) -> Spans {
    let mut spans = Spans::new();
    for head in heads {
        let of_provider = spans.entry((head.profile, head.chain, head.provider_id)).or_default();
        for region in [None, Some(head.region)] {
            let span = of_provider.entry(region).or_default();
            span.height = span.height.max(Some(head.height));
            span.lag = match (span.lag, head.lag) {
                (Some(left), Some(right)) => Some(left.min(right)),
                (left, right) => left.or(right),
            };
        }
    }
    spans
}
