//! The report `latency`: mean and percentiles by one chosen dimension and by region, percentiles from the union of
//! sketches and never from an average of percentiles. The largest error stands beside them.

use lariat_collector::worker::sketches::ERROR_BOUND;
use serde_json::{Map, Value, json};

use super::cells::{Groups, Tally, busiest_first};
use super::parameters::{BadParameter, Parameters};
use super::sheet::{Column, Sheet};

/// The dimensions that calls can be grouped by.
const DIMENSIONS: &[&str] = &["provider_id", "method", "chain", "region"];

const MEASURES: &[Column] = &[
    ("region", "Utf8"),
    ("calls", "Int64"),
    ("mean_ms", "Float64"),
    ("p50_ms", "Float64"),
    ("p90_ms", "Float64"),
    ("p95_ms", "Float64"),
    ("p99_ms", "Float64"),
    ("error_bound", "Float64"),
];

/// The key columns that `by` asks for; by region there is none besides the region itself.
pub(super) fn keys(parameters: &Parameters) -> Result<Vec<&'static str>, BadParameter> {
    let by = parameters.own("by").unwrap_or("provider_id");
    match DIMENSIONS.iter().find(|dimension| **dimension == by) {
        Some(&"region") => Ok(Vec::new()),
        Some(dimension) => Ok(vec![dimension]),
        None => Err(BadParameter::Value {
            name: "by".to_owned(),
            value: by.to_owned(),
            expected: "one of provider_id, method, chain, region",
        }),
    }
}

/// Rows, the busiest key first, each over all regions first.
pub(super) fn sheet(groups: &Groups, keys: &[&'static str], limit: usize) -> Sheet {
    let columns: Vec<Column> = keys.iter().map(|key| (*key, "Utf8")).chain(MEASURES.iter().copied()).collect();
    let rows = busiest_first(groups).into_iter().flat_map(|(key, group)| {
        let named: Vec<_> = keys.iter().copied().zip(key.keys.clone()).collect();
        group.rows().map(move |(region, tally)| row(&named, region, tally)).collect::<Vec<_>>()
    });
    Sheet::new(columns, rows, limit)
}

fn row(keys: &[(&'static str, Option<String>)], region: Option<&str>, tally: &Tally) -> Map<String, Value> {
    let mut row = Map::new();
    for (name, value) in keys {
        row.insert((*name).to_owned(), json!(value));
    }
    row.insert("region".to_owned(), json!(region));
    row.insert("calls".to_owned(), json!(tally.calls));
    row.insert("mean_ms".to_owned(), json!(tally.mean_ms()));
    for (name, q) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p95_ms", 0.95), ("p99_ms", 0.99)] {
        row.insert(name.to_owned(), json!(tally.quantile_ms(q)));
    }
    row.insert("error_bound".to_owned(), json!(ERROR_BOUND));
    row
}
