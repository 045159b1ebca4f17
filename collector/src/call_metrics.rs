//! Calls by their dimensions as cumulative counters for whoever scrapes a node: the cells of the family `ops`, added up since the
//! start of the process. An account never appears here, as on no metric.
//!
//! They are added up from the rows that the cells become and not beside the cells, so that the two cannot disagree.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::array::{Array, AsArray, ListArray, RecordBatch};
use arrow::datatypes::Int64Type;
use lariat_schema::vocabulary::{OVERFLOW, RollupFamily};

use crate::columns::{column, longs, text, texts};

/// Dimensions of a series.
const DIMENSIONS: [&str; 8] =
    ["profile", "chain", "method", "provider_id", "transport", "strategy", "result", "error_category"];
/// Place of the method among them.
const METHOD: usize = 2;
/// Place of the chain among them.
const CHAIN: usize = 1;
/// Series beyond which methods are counted together, then chains, then everything: a scrape stays below some megabytes.
const MAX_SERIES: usize = 5_000;

type Key = [String; DIMENSIONS.len()];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    calls: i64,
    attempts: i64,
    duration_ns: i64,
}

/// All series.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallMetrics {
    calls: BTreeMap<Key, Counts>,
    /// By profile, chain, provider, transport and reason.
    excluded: BTreeMap<[String; 5], i64>,
}

impl CallMetrics {
    /// Adds cells, as rows of the table `rollups`.
    pub(crate) fn add(&mut self, cells: &RecordBatch) {
        let families = texts(cells, "family");
        let dimensions = DIMENSIONS.map(|name| texts(cells, name));
        let [calls, attempts, durations] = ["calls", "attempts", "duration_sum_ns"].map(|name| longs(cells, name));
        let excluded: &ListArray = column(cells, "excluded");
        for row in (0..cells.num_rows()).filter(|row| families.value(*row) == RollupFamily::Ops.as_str()) {
            let key = dimensions.map(|texts| text(texts, row).unwrap_or_default().to_owned());
            if excluded.is_valid(row) && excluded.value_length(row) > 0 {
                self.add_excluded(&key, &excluded.value(row));
            }
            if calls.value(row) > 0 {
                let counts = self.series(key);
                counts.calls = counts.calls.saturating_add(calls.value(row));
                counts.attempts = counts.attempts.saturating_add(attempts.value(row));
                counts.duration_ns = counts.duration_ns.saturating_add(durations.value(row));
            }
        }
    }

    fn add_excluded(&mut self, key: &Key, list: &dyn Array) {
        let Some(list) = list.as_struct_opt() else { return };
        let (reasons, counts) = (list.column(0).as_string::<i32>(), list.column(1).as_primitive::<Int64Type>());
        let [profile, chain, _, provider, transport, ..] = key;
        for place in 0..list.len() {
            let mut key = [profile, chain, provider, transport, reasons.value(place)].map(|part: &str| part.to_owned());
            if self.excluded.len() >= MAX_SERIES && !self.excluded.contains_key(&key) {
                key = [(); 5].map(|()| OVERFLOW.to_owned());
            }
            let count = self.excluded.entry(key).or_default();
            *count = count.saturating_add(counts.value(place));
        }
    }

    fn series(&mut self, mut key: Key) -> &mut Counts {
        for (surplus, collapsed) in [(0, &[METHOD][..]), (MAX_SERIES / 2, &[CHAIN]), (MAX_SERIES, &[0, 3, 4, 5, 6, 7])]
        {
            if self.calls.len() < MAX_SERIES + surplus || self.calls.contains_key(&key) {
                break;
            }
            for place in collapsed {
                OVERFLOW.clone_into(&mut key[*place]);
            }
        }
        self.calls.entry(key).or_default()
    }

    /// The series in Prometheus' text format.
    pub(crate) fn expose(&self, text: &mut String) {
        type Of = fn(&Counts) -> f64;
        let counters: [(&str, &str, Of); 3] = [
            ("calls_total", "Calls routed, before sampling", |counts| counts.calls as f64),
            ("call_attempts_total", "Attempts of these calls", |counts| counts.attempts as f64),
            ("call_duration_seconds_total", "Time that these calls took", |counts| counts.duration_ns as f64 / 1e9),
        ];
        for (name, help, of) in counters {
            let _ = writeln!(text, "# HELP lariat_rpc_{name} {help}\n# TYPE lariat_rpc_{name} counter");
            for (key, counts) in &self.calls {
                let _ = writeln!(text, "lariat_rpc_{name}{{{}}} {}", labels(&DIMENSIONS, key), of(counts));
            }
        }
        let _ = writeln!(
            text,
            "# HELP lariat_rpc_exclusions_total Channels passed over by selections\n# TYPE lariat_rpc_exclusions_total counter"
        );
        for (key, count) in &self.excluded {
            let labels = labels(&["profile", "chain", "provider_id", "transport", "reason"], key);
            let _ = writeln!(text, "lariat_rpc_exclusions_total{{{labels}}} {count}");
        }
    }
}

fn labels(names: &[&str], values: &[String]) -> String {
    let pairs: Vec<_> = names.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    pairs.join(",")
}

/// A label's value as Prometheus' text format writes it.
pub(crate) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use lariat_schema::tables::Table;
    use serde_json::json;

    use super::*;
    use crate::fixtures::{batch, decision};
    use crate::rollup::Rollup;

    fn cells(decisions: &[serde_json::Value]) -> RecordBatch {
        let mut rollup = Rollup::default();
        rollup.fold(&batch(Table::Spans, decisions), 0);
        rollup.rows().unwrap().unwrap()
    }

    #[test]
    fn calls_add_up_by_dimension_and_name_no_account() {
        let mut metrics = CallMetrics::default();
        let excluded = json!([{"selection": 1, "provider_id": "p2", "transport": "ws", "reason": "lagging"}]);
        let fields =
            json!({"account_id": "secret", "method": "eth_\"call", "excluded": excluded, "duration_ns": 1_500_000_000});
        metrics.add(&cells(&[decision(1, fields.clone()), decision(2, json!({"result": "error"}))]));
        metrics.add(&cells(&[decision(3, fields)]));
        let mut text = String::new();
        metrics.expose(&mut text);
        for line in [
            r#"lariat_rpc_calls_total{profile="public",chain="ethereum",method="eth_\"call",provider_id="p1",transport="http",strategy="fastest",result="success",error_category=""} 2"#,
            r#"lariat_rpc_call_duration_seconds_total{profile="public",chain="ethereum",method="eth_\"call",provider_id="p1",transport="http",strategy="fastest",result="success",error_category=""} 3"#,
            r#"lariat_rpc_exclusions_total{profile="public",chain="ethereum",provider_id="p2",transport="ws",reason="lagging"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("secret"));
    }

    #[test]
    fn the_number_of_series_is_bounded_and_totals_stay_exact() {
        let mut metrics = CallMetrics::default();
        for nth in 0..4_u128 {
            let decisions: Vec<_> = (0..5_000_u128)
                .map(|call| {
                    decision(
                        nth * 5_000 + call,
                        json!({"method": format!("m{nth}-{call}"), "chain": format!("c{nth}-{call}")}),
                    )
                })
                .collect();
            metrics.add(&cells(&decisions));
        }
        assert!(metrics.calls.len() <= 2 * MAX_SERIES + 1, "{}", metrics.calls.len());
        assert_eq!(metrics.calls.values().map(|counts| counts.calls).sum::<i64>(), 20_000);
    }
}
