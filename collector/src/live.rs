//! What a node tells its live subscribers: kept decisions, circuit and health changes, heights.
//!
//! Events are made only while somebody listens, but for the newest decisions, which a new subscriber gets first. A slow
//! subscriber loses events and is told how many; it never slows the log down.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, MapArray, RecordBatch, StringArray};
use lariat_schema::events;
use lariat_schema::layout::date_and_hour;
use lariat_schema::live::{LiveBlock, LiveDecision, LiveEvent, LiveTransition};
use lariat_schema::{attributes, ids};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::columns::{column, count, double, doubles, ids as id_column, int, ints, long, longs, moments, text, texts};
use crate::store::state::Shown;

/// Events held for a slow subscriber: some seconds of a busy node.
const BUFFER: usize = 4_096;
/// Newest decisions held for a new subscriber.
pub(crate) const RECENT: usize = 100;

/// The sending end.
#[derive(Debug)]
pub(crate) struct Live {
    sender: broadcast::Sender<Arc<LiveEvent>>,
    recent: Mutex<VecDeque<Arc<LiveEvent>>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BUFFER), recent: Mutex::new(VecDeque::with_capacity(RECENT)) }
    }
}

impl Live {
    /// Follows from now on; with the newest `recent` decisions of before, oldest first, none of which comes again.
    pub(crate) fn subscribe(&self, recent: usize) -> (Vec<Arc<LiveEvent>>, broadcast::Receiver<Arc<LiveEvent>>) {
        let held = self.recent.lock();
        let skip = held.len().saturating_sub(recent);
        (held.iter().skip(skip).cloned().collect(), self.sender.subscribe())
    }

    /// Tells of rows that were kept.
    pub(crate) fn show(&self, shown: &Shown) {
        for batch in &shown.spans {
            self.show_spans(batch);
        }
        if self.sender.receiver_count() > 0 {
            for event in shown.logs.iter().flat_map(events_of) {
                let _ = self.sender.send(Arc::new(event));
            }
        }
    }

    fn show_spans(&self, batch: &RecordBatch) {
        let mut rows = decisions(batch);
        // Held over the sending, so that a new subscriber finds each decision in exactly one place.
        let mut recent = self.recent.lock();
        if self.sender.receiver_count() == 0 {
            let skip = rows.len().saturating_sub(RECENT);
            rows.drain(..skip);
        }
        for row in rows {
            let event = Arc::new(LiveEvent::Decision(Box::new(decision(batch, row))));
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(Arc::clone(&event));
            let _ = self.sender.send(event);
        }
    }
}

fn decisions(batch: &RecordBatch) -> Vec<usize> {
    let (kinds, requests) = (texts(batch, "span_kind"), id_column(batch, "request_id"));
    (0..batch.num_rows()).filter(|row| kinds.value(*row) == "server" && requests.is_valid(*row)).collect()
}

fn decision(batch: &RecordBatch, row: usize) -> LiveDecision {
    let optional = |name: &str| text(texts(batch, name), row).map(str::to_owned);
    let required = |name: &str| optional(name).unwrap_or_default();
    let number = |name: &str| int(ints(batch, name), row).unwrap_or(0);
    let request: Option<[u8; 16]> = id_column(batch, "request_id").value(row).try_into().ok();
    LiveDecision {
        time: rfc3339(moments(batch, "time").value(row)),
        request_id: request.map(|bytes| ids::RequestId::from_bytes(bytes).to_string()).unwrap_or_default(),
        batch_index: number("batch_index"),
        trace_id: hex::encode(id_column(batch, "trace_id").value(row)),
        node_id: required("node_id"),
        region: required("region"),
        profile: required("profile"),
        account_id: optional("account_id"),
        chain: required("chain"),
        method: required("method"),
        strategy: optional("strategy"),
        provider_id: optional("provider_id"),
        transport: optional("transport"),
        client_transport: optional("client_transport"),
        origin: optional("origin"),
        answered_by: optional("answered_by"),
        result: required("result"),
        error_category: optional("error_category"),
        status_code: optional("status_code"),
        attempts: number("attempts"),
        failovers: number("failovers"),
        duration_ns: long(longs(batch, "duration_ns"), row).unwrap_or(0),
        adjusted_count: double(doubles(batch, "adjusted_count"), row),
        keep_reason: required("keep_reason"),
    }
}

fn events_of(batch: &RecordBatch) -> Vec<LiveEvent> {
    let names = texts(batch, "event_name");
    let event = |row: usize| match text(names, row)? {
        events::CIRCUIT_TRANSITION => Some(LiveEvent::Circuit(transition(
            batch,
            row,
            [attributes::CIRCUIT_FROM, attributes::CIRCUIT_TO, attributes::CIRCUIT_REASON],
        ))),
        events::PROVIDER_HEALTH => Some(LiveEvent::Health(transition(
            batch,
            row,
            [attributes::HEALTH_FROM, attributes::HEALTH_TO, attributes::HEALTH_REASON],
        ))),
        events::BLOCK_HEAD => Some(LiveEvent::Block(block(batch, row))),
        _ => None,
    };
    (0..batch.num_rows()).filter_map(event).collect()
}

fn transition(batch: &RecordBatch, row: usize, keys: [&str; 3]) -> LiveTransition {
    let required = |name: &str| text(texts(batch, name), row).unwrap_or_default().to_owned();
    let [from, to, reason] = keys.map(|key| attribute(batch, row, key).unwrap_or_default());
    LiveTransition {
        time: rfc3339(moments(batch, "time").value(row)),
        node_id: required("node_id"),
        region: required("region"),
        profile: required("profile"),
        chain: required("chain"),
        provider_id: required("provider_id"),
        transport: required("transport"),
        from,
        to,
        reason,
    }
}

fn block(batch: &RecordBatch, row: usize) -> LiveBlock {
    let required = |name: &str| text(texts(batch, name), row).unwrap_or_default().to_owned();
    let number = |key: &str| attribute(batch, row, key).and_then(|value| value.parse().ok());
    LiveBlock {
        time: rfc3339(moments(batch, "time").value(row)),
        node_id: required("node_id"),
        region: required("region"),
        profile: required("profile"),
        chain: required("chain"),
        provider_id: required("provider_id"),
        transport: required("transport"),
        height: number(attributes::BLOCK_HEIGHT).unwrap_or(0),
        lag: number(attributes::BLOCK_LAG),
    }
}

fn attribute(batch: &RecordBatch, row: usize, key: &str) -> Option<String> {
    let maps: &MapArray = column(batch, "attributes");
    if maps.is_null(row) {
        return None;
    }
    let entries = maps.value(row);
    let keys = entries.column(0).as_any().downcast_ref::<StringArray>()?;
    let values = entries.column(1).as_any().downcast_ref::<StringArray>()?;
    let at = (0..keys.len()).find(|at| keys.value(*at) == key)?;
    text(values, at).map(str::to_owned)
}

/// RFC 3339 UTC with nanoseconds.
pub(crate) fn rfc3339(unix_nanos: i64) -> String {
    let (date, _) = date_and_hour(unix_nanos);
    let of_day = unix_nanos.rem_euclid(86_400_000_000_000);
    let (seconds, nanos) = (of_day / 1_000_000_000, of_day % 1_000_000_000);
    format!("{date}T{:02}:{:02}:{:02}.{nanos:09}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A gap of so many events.
pub(crate) fn gap(missed: u64) -> LiveEvent {
    LiveEvent::Gap { missed }
}

/// Number of decisions among spans.
pub(crate) fn count_decisions(batch: &RecordBatch) -> u64 {
    count(decisions(batch).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_with_nine_digits_in_utc() {
        assert_eq!(rfc3339(1_763_683_200_000_000_001), "2025-11-21T00:00:00.000000001Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999999Z");
    }
}
