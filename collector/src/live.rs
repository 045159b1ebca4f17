//! What a node tells its live subscribers: kept decisions, circuit and health changes, heights.
//!
//! Events are made only while somebody listens, but for the newest decisions, which a new subscriber gets first. A slow
//! subscriber loses events and is told how many; it never slows the log down.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, Int32Array, MapArray, RecordBatch, StringArray};
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

    /// Tells of rows that were kept, of several entries in their order.
    pub(crate) fn show_all(&self, shown: &[Shown]) {
        // Held over the sending, so that a new subscriber finds each decision in exactly one place.
        let mut recent = self.recent.lock();
        let listening = self.sender.receiver_count() > 0;
        let first = if listening { 0 } else { newest(shown) };
        for shown in &shown[first..] {
            for batch in &shown.spans {
                self.show_spans(batch, &mut recent);
            }
        }
        if listening {
            for event in shown.iter().flat_map(|shown| &shown.logs).flat_map(events_of) {
                let _ = self.sender.send(Arc::new(event));
            }
        }
    }

    /// Tells of rows that were kept.
    pub(crate) fn show(&self, shown: &Shown) {
        self.show_all(std::slice::from_ref(shown));
    }

    fn show_spans(&self, batch: &RecordBatch, recent: &mut VecDeque<Arc<LiveEvent>>) {
        let mut rows = decisions(batch);
        if self.sender.receiver_count() == 0 {
            let skip = rows.len().saturating_sub(RECENT);
            rows.drain(..skip);
        }
        if rows.is_empty() {
            return;
        }
        let columns = DecisionColumns::of(batch);
        for row in rows {
            let event = Arc::new(LiveEvent::Decision(Box::new(columns.decision(row))));
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(Arc::clone(&event));
            let _ = self.sender.send(event);
        }
    }
}

/// The entry from which on the newest decisions are: those before it would be forgotten at once.
fn newest(shown: &[Shown]) -> usize {
    let mut found = 0;
    let newest = shown.iter().rposition(|shown| {
        found += shown.spans.iter().map(|batch| decisions(batch).len()).sum::<usize>();
        found >= RECENT
    });
    newest.unwrap_or(0)
}

fn decisions(batch: &RecordBatch) -> Vec<usize> {
    let (kinds, requests) = (texts(batch, "span_kind"), id_column(batch, "request_id"));
    if requests.null_count() == requests.len() {
        return Vec::new();
    }
    (0..batch.num_rows()).filter(|row| requests.is_valid(*row) && kinds.value(*row) == "server").collect()
}

/// The columns that an event tells of, found once for a batch.
struct DecisionColumns<'a> {
    batch: &'a RecordBatch,
    texts: [&'a StringArray; TEXTS.len()],
    batch_index: &'a Int32Array,
    attempts: &'a Int32Array,
    failovers: &'a Int32Array,
}

/// Columns of texts, in the order of the event's fields.
const TEXTS: [&str; 16] = [
    "node_id",
    "region",
    "profile",
    "account_id",
    "chain",
    "method",
    "strategy",
    "provider_id",
    "transport",
    "client_transport",
    "origin",
    "answered_by",
    "result",
    "error_category",
    "status_code",
    "keep_reason",
];

impl<'a> DecisionColumns<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self {
            batch,
            texts: TEXTS.map(|name| texts(batch, name)),
            batch_index: ints(batch, "batch_index"),
            attempts: ints(batch, "attempts"),
            failovers: ints(batch, "failovers"),
        }
    }

    fn decision(&self, row: usize) -> LiveDecision {
        let batch = self.batch;
        let [node_id, region, profile, account_id, chain, method, strategy, provider_id, rest @ ..] =
            self.texts.map(|column| text(column, row).map(str::to_owned));
        let [transport, client_transport, origin, answered_by, result, error_category, status_code, keep_reason] = rest;
        let number = |column: &Int32Array| int(column, row).unwrap_or(0);
        let request: Option<[u8; 16]> = id_column(batch, "request_id").value(row).try_into().ok();
        LiveDecision {
            time: rfc3339(moments(batch, "time").value(row)),
            request_id: request.map(|bytes| ids::RequestId::from_bytes(bytes).to_string()).unwrap_or_default(),
            batch_index: number(self.batch_index),
            trace_id: hex::encode(id_column(batch, "trace_id").value(row)),
            node_id: node_id.unwrap_or_default(),
            region: region.unwrap_or_default(),
            profile: profile.unwrap_or_default(),
            account_id,
            chain: chain.unwrap_or_default(),
            method: method.unwrap_or_default(),
            strategy,
            provider_id,
            transport,
            client_transport,
            origin,
            answered_by,
            result: result.unwrap_or_default(),
            error_category,
            status_code,
            attempts: number(self.attempts),
            failovers: number(self.failovers),
            duration_ns: long(longs(batch, "duration_ns"), row).unwrap_or(0),
            adjusted_count: double(doubles(batch, "adjusted_count"), row),
            keep_reason: keep_reason.unwrap_or_default(),
        }
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

/// A value of the map `attributes`.
pub(crate) fn attribute(batch: &RecordBatch, row: usize, key: &str) -> Option<String> {
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
