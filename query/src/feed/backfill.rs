//! What a snapshot shows of the time before this process listened: the newest kept decisions and the latest transitions,
//! asked of the fleet. A feed that starts empty after every restart of the query service would look like an outage. It is
//! help, not truth: if the fleet does not answer within a second, the snapshot is what was heard.

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use lariat_schema::live::{LiveDecision, LiveEvent, LiveTransition};
use lariat_schema::time_range::{NANOS_PER_SECOND, TimeRange};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::hub::{CircuitKey, Joined, SNAPSHOT_DECISIONS, circuit_key};
use super::topic::Subscription;
use crate::ask::{Answer, Ask, Question};
use crate::reports::{encode, now_unix_nanos, sql_text};

/// How long a new subscriber waits for the past.
const DEADLINE: Duration = Duration::from_secs(1);
/// How far back decisions are looked for.
const DECISIONS_FOR_NANOS: i64 = 15 * 60 * NANOS_PER_SECOND;
/// How far back transitions are looked for.
const TRANSITIONS_FOR_NANOS: i64 = 24 * 3_600 * NANOS_PER_SECOND;
/// Most transitions read: many flappings of every channel of a demo's fleet.
const MAX_TRANSITIONS: usize = 1_000;

/// Adds to a snapshot what was recorded before this process listened. Topics of an account get no transitions they would
/// not get live, since the same subscription judges both.
pub(super) async fn backfill(ask: &dyn Ask, subscription: &Subscription, joined: &mut Joined) {
    if joined.resumed || joined.decisions.len() >= SNAPSHOT_DECISIONS {
        return;
    }
    let profiles = subscription.profiles();
    if profiles.is_empty() {
        return;
    }
    let profile = sql_text::any_of("profile", &profiles);
    let now = now_unix_nanos();
    let newest = |view: &str, nanos: i64, limit: usize| {
        let window = TimeRange::new(now.saturating_sub(nanos), now.saturating_add(NANOS_PER_SECOND));
        let sql = format!(
            "SELECT * FROM {view} WHERE {profile}{} AND {} ORDER BY time DESC LIMIT {limit}",
            subscription.conditions(view == DECISIONS),
            sql_text::within(window),
        );
        Question { window: Some(window), deadline: Some(DEADLINE), ..Question::new(sql) }
    };
    let answers = tokio::time::timeout(DEADLINE, async {
        tokio::join!(
            ask.ask(newest(DECISIONS, DECISIONS_FOR_NANOS, SNAPSHOT_DECISIONS)),
            ask.ask(newest("circuit_events", TRANSITIONS_FOR_NANOS, MAX_TRANSITIONS)),
        )
    });
    let Ok((decisions, transitions)) = answers.await else {
        return;
    };
    add_decisions(subscription, joined, rows(decisions.as_ref().ok()));
    add_transitions(subscription, joined, rows(transitions.as_ref().ok()));
}

const DECISIONS: &str = "routing_decisions";

/// Rows as the values that the live stream has; its fields are a subset of the columns.
fn rows<T: DeserializeOwned>(answer: Option<&Answer>) -> Vec<T> {
    let batches: &[RecordBatch] = answer.map_or(&[], |answer| &answer.batches);
    let objects = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| encode::object(batch, row)));
    objects.filter_map(|object| serde_json::from_value(Value::Object(object)).ok()).collect()
}

fn add_decisions(subscription: &Subscription, joined: &mut Joined, recorded: Vec<LiveDecision>) {
    let heard: Vec<_> = joined.decisions.iter().map(|of| (of.request_id.clone(), of.batch_index)).collect();
    for decision in recorded {
        let name = (decision.request_id.clone(), decision.batch_index);
        let event = LiveEvent::Decision(Box::new(decision));
        if !heard.contains(&name)
            && !subscription.topics_of(&event).is_empty()
            && let LiveEvent::Decision(decision) = event
        {
            joined.decisions.push(*decision);
        }
    }
    joined.decisions.sort_by(|left, right| right.time.cmp(&left.time));
    joined.decisions.truncate(SNAPSHOT_DECISIONS);
}

fn add_transitions(subscription: &Subscription, joined: &mut Joined, recorded: Vec<LiveTransition>) {
    let mut latest: HashMap<CircuitKey, LiveTransition> = HashMap::new();
    for transition in joined.circuits.drain(..).chain(recorded) {
        let profile = transition.profile.clone();
        let event = LiveEvent::Circuit(transition);
        if subscription.concerns(&event, &profile)
            && let LiveEvent::Circuit(transition) = event
        {
            let held = latest.entry(circuit_key(&transition)).or_insert_with(|| transition.clone());
            if held.time < transition.time {
                *held = transition;
            }
        }
    }
    joined.circuits = latest.into_values().collect();
    joined.circuits.sort_by(|left, right| right.time.cmp(&left.time));
}
