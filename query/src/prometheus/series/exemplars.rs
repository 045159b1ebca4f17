//! Exemplars: single observations with the trace that they came from.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampNanosecondType};
use arrow::error::ArrowError;
use serde_json::{Value, json};

use super::super::format::{json_float, seconds};
use super::super::labels::{Labels, Matcher};
use super::{points, rows};

/// Labels of a series and its exemplars, as the API shows them.
pub(crate) type OfSeries = (Labels, Vec<Value>);

/// Reads them; a histogram's stand with the first of its series that a selector accepts.
pub(super) fn read(batches: &[RecordBatch], selectors: &[Vec<Matcher>]) -> Result<Vec<OfSeries>, ArrowError> {
    let accepted = |labels: &Labels| {
        selectors.iter().any(|selector| {
            selector.iter().filter(|m| m.name != "le").all(|matcher| matcher.accepts(labels.get(&matcher.name)))
        })
    };
    let mut found: Vec<OfSeries> = Vec::new();
    for batch in batches {
        let identities = rows::each(batch)?;
        let column = batch.column_by_name("exemplars");
        let lists = column.and_then(|column| column.as_list_opt::<i32>());
        let Some(lists) = lists else { continue };
        for (row, identity) in identities.iter().enumerate() {
            let labels = identity.as_ref().and_then(|identity| points::labels_of(identity).into_iter().find(accepted));
            let Some(labels) = labels.filter(|_| lists.is_valid(row)) else { continue };
            let entries = lists.value(row);
            let entries = entries.as_struct();
            let times = entries.column(0).as_primitive::<TimestampNanosecondType>();
            let values = entries.column(1).as_primitive::<Float64Type>();
            let traces = entries.column(2).as_fixed_size_binary();
            let spans = entries.column(3).as_fixed_size_binary();
            let exemplars = (0..entries.len()).map(|at| {
                let mut own = Vec::new();
                for (name, ids) in [("trace_id", traces), ("span_id", spans)] {
                    if ids.is_valid(at) {
                        own.push((name.to_owned(), hex::encode(ids.value(at))));
                    }
                }
                json!({
                    "labels": Labels::new(own),
                    "value": json_float(values.value(at)),
                    "timestamp": seconds(times.value(at).div_euclid(1_000_000)),
                })
            });
            match found.iter_mut().find(|(of, _)| *of == labels) {
                Some((_, list)) => list.extend(exemplars),
                None => found.push((labels, exemplars.collect())),
            }
        }
    }
    Ok(found)
}
