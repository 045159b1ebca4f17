//! The Prometheus API: PromQL over the `metrics` table. A query is parsed, the series it can touch are read with one SQL
//! question that every node answers, and the rest is pure evaluation here: what Prometheus computes from neighbouring
//! samples (rates, staleness, resets) cannot be split between nodes by SQL, and one evaluator tested against
//! Prometheus' own files is worth more than a faster one that differs.
//!
//! Coverage travels in `data.stats.coverage`, which Grafana hands to panels unread, and as one line of `warnings` only
//! when something is missing: a warning on every panel is soon not read at all.
//!
//! The modules stand in the order of the data: text, names, series, values, answer.

mod format;
mod number;

mod labels;

mod syntax;

mod names;

mod histogram;

mod value;

mod notes;

mod series;

mod functions;

mod eval;

mod api;

#[cfg(test)]
mod conformance;

pub use api::router;
