//! Why a decision is not there. `unknown` where part of the time it could lie in is not covered; `sampled_out`
//! where calls were counted around its time that no record was kept of; `not_found` only when neither is so. The
//! rate is read from the records that were kept, since rates change and the configuration of today says nothing of then.

use arrow::array::RecordBatch;
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange, slice_start};
use serde_json::json;

use super::{Lookup, WantedId};
use crate::ask::Answer;
use crate::reports::columns::{count_at, floats, integers, text_at, texts};
use crate::reports::failure::Failure;
use crate::reports::sql_text;

/// How far around its time calls are counted: a call ends, and is counted, within it.
const COUNTED_NANOS: i64 = 60 * NANOS_PER_SECOND;

/// What was counted and kept around the id's time.
#[derive(Debug, Default, PartialEq)]
struct Around {
    counted_calls: i64,
    stored_decisions: i64,
    /// The greatest number of calls that one kept record stands for, by profile.
    heaviest: Vec<(String, f64)>,
}

pub(super) async fn explain(lookup: &Lookup<'_>, searched: Answer) -> Failure {
    let id = lookup.id;
    let text = uuid::Uuid::from_bytes(id.0).hyphenated().to_string();
    if !searched.coverage.complete {
        let message = format!("{text} was not found, and part of the fleet's time is not in the answer");
        return Failure::not_found("unknown", message)
            .with_hint("`coverage` names the nodes and times that are missing; ask again when they are back")
            .with_coverage(searched.coverage);
    }
    let around = match id.made_unix_nanos() {
        Some(made) => match around(lookup, made).await {
            Ok(around) => around,
            Err(failure) => return failure,
        },
        None => Around::default(),
    };
    verdict(id, &around).with_coverage(searched.coverage)
}

fn verdict(id: WantedId, around: &Around) -> Failure {
    let text = uuid::Uuid::from_bytes(id.0).hyphenated().to_string();
    let heaviest = around.heaviest.iter().map(|(_, weight)| *weight).fold(1.0, f64::max);
    // Counted and stored differ by the calls under way at the ends of the window, so a small difference proves nothing.
    let sampled = heaviest > 1.0 || around.stored_decisions == 0;
    if around.counted_calls == 0 || !sampled {
        return Failure::not_found("not_found", format!("no decision {text} was recorded"))
            .with_hint("a record can be read within about a second of its acknowledgement");
    }
    let rates: serde_json::Map<_, _> =
        around.heaviest.iter().map(|(profile, weight)| (profile.clone(), json!(1.0 / weight))).collect();
    let rate = (heaviest > 1.0).then(|| 1.0 / heaviest);
    let at = rate.map_or_else(String::new, |rate| format!(" at a rate of {rate}"));
    Failure::not_found("sampled_out", format!("{text} was not kept: calls of its time were sampled{at}"))
        .with_hint("errors, failovers and slow calls are kept whole; rollups count every call")
        .with_detail("rate", json!(rate))
        .with_detail("rates", json!(rates))
}

async fn around(lookup: &Lookup<'_>, made_unix_nanos: i64) -> Result<Around, Failure> {
    let from = slice_start(made_unix_nanos.saturating_sub(COUNTED_NANOS));
    let window = TimeRange::new(from, made_unix_nanos.saturating_add(COUNTED_NANOS));
    let time = sql_text::within(window);
    let counted = format!("SELECT sum(calls) AS calls FROM rollups WHERE family = 'ops' AND {time}");
    // A decision is counted in the cell in which it ends, and stored at the time at which it starts.
    let stored = format!(
        "SELECT profile, count(*) AS n, max(adjusted_count) AS heaviest FROM routing_decisions WHERE {time} GROUP BY profile"
    );
    let (counted, stored) = tokio::try_join!(lookup.ask(counted, Some(window)), lookup.ask(stored, Some(window)))?;
    fold(&counted.batches, &stored.batches)
}

fn fold(counted: &[RecordBatch], stored: &[RecordBatch]) -> Result<Around, Failure> {
    let mut around = Around::default();
    for batch in counted {
        let calls = integers(batch, "calls")?;
        around.counted_calls += (0..batch.num_rows()).map(|row| count_at(&calls, row)).sum::<i64>();
    }
    for batch in stored {
        let (profiles, n, heaviest) = (texts(batch, "profile")?, integers(batch, "n")?, floats(batch, "heaviest")?);
        for row in 0..batch.num_rows() {
            around.stored_decisions += count_at(&n, row);
            let weight = heaviest.value(row);
            if weight > 1.0 {
                around.heaviest.push((text_at(&profiles, row).unwrap_or_default(), weight));
            }
        }
    }
    Ok(around)
}
