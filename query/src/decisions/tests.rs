//! Decisions looked up over rows in memory.

use axum::http::StatusCode;
use lariat_schema::coverage::Coverage;
use lariat_schema::tables::Table;
use lariat_schema::time_range::NANOS_PER_SECOND;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::{NoContext, Timestamp, Uuid};

use super::router;
use crate::ask::{Answer, Ask, AskError, Question};
use crate::reports::fixture::{NOON, batch, cell, engine, get};
use crate::reports::parameters::rfc3339;

/// A request id made at noon.
fn made_at_noon() -> Uuid {
    let seconds = u64::try_from(NOON / NANOS_PER_SECOND).unwrap();
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, 0))
}

fn decision(id: Uuid, batch_index: i32, trace_id: &str) -> Value {
    json!({
        "time": rfc3339(NOON), "span_kind": "server", "name": "eth_call", "request_id": id.simple().to_string(),
        "batch_index": batch_index, "trace_id": trace_id, "span_id": format!("{:016x}", batch_index + 1),
        "profile": "public", "chain": "ethereum", "result": "success", "attempts": 2, "adjusted_count": 1.0,
        "keep_reason": "failover",
        "attributes": { "lariat.seed": "00000000000000ff", "lariat.snapshot": "7", "lariat.seed.2": "0000000000000100" },
        "eligible": [
            { "selection": 1, "rank": 1, "provider_id": "a", "transport": "http", "score": 12.5, "probability": 0.8, "inputs": "latency_ms=12.5,priority=1" },
            { "selection": 1, "rank": 2, "provider_id": "b", "transport": "ws", "score": 20.0, "probability": 0.2 },
            { "selection": 2, "rank": 1, "provider_id": "b", "transport": "ws", "probability": 1.0 },
        ],
        "excluded": [
            { "selection": 1, "provider_id": "c", "transport": "http", "reason": "circuit_open" },
            { "selection": 2, "provider_id": "a", "transport": "http", "reason": "tried" },
        ],
    })
}

fn attempt(id: Uuid, batch_index: i32, trace_id: &str, ordinal: i32, outcome: &str) -> Value {
    json!({
        "time": rfc3339(NOON), "span_kind": "client", "request_id": id.simple().to_string(), "batch_index": batch_index,
        "trace_id": trace_id, "span_id": format!("{:08x}{:08x}", batch_index + 1, ordinal), "ordinal": ordinal,
        "outcome": outcome, "keep_reason": "failover",
    })
}

#[tokio::test]
async fn a_decision_is_rebuilt_with_its_selections_and_attempts_by_either_form_of_its_id() {
    let id = made_at_noon();
    let trace_id = id.simple().to_string();
    let spans = batch(
        Table::Spans,
        &[
            decision(id, 0, &trace_id),
            attempt(id, 0, &trace_id, 2, "success"),
            attempt(id, 0, &trace_id, 1, "timeout"),
            decision(Uuid::now_v7(), 0, &"ab".repeat(16)),
        ],
    );
    let engine = engine(vec![spans]).await;
    for form in [id.hyphenated().to_string(), trace_id.clone()] {
        let (status, body) = get(router(Arc::clone(&engine)), &format!("/api/v1/decisions/{form}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body["decisions"].as_array().unwrap().len(), 1);
        let found = &body["decisions"][0];
        assert_eq!(found["request_id"], id.hyphenated().to_string());
        assert_eq!(found["trace_id"], trace_id);
        assert_eq!(
            found["selections"][0],
            json!({
                "selection": 1, "chosen": "a:http", "seed": "00000000000000ff", "snapshot": 7,
                "eligible": [
                    { "rank": 1, "channel": "a:http", "score": 12.5, "probability": 0.8, "inputs": { "latency_ms": 12.5, "priority": 1 } },
                    { "rank": 2, "channel": "b:ws", "score": 20.0, "probability": 0.2, "inputs": null },
                ],
                "excluded": [{ "channel": "c:http", "reason": "circuit_open" }],
            })
        );
        assert_eq!(found["selections"][1]["chosen"], "b:ws");
        assert_eq!(
            (&found["selections"][1]["seed"], &found["selections"][1]["snapshot"]),
            (&json!("0000000000000100"), &Value::Null)
        );
        let outcomes: Vec<_> =
            found["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
        assert_eq!(outcomes, ["timeout", "success"]);
        assert_eq!((&found["attempt_count"], &found["attempts_complete"]), (&json!(2), &json!(true)));
        assert!(found.get("eligible").is_none() && body["coverage"]["complete"] == json!(true));
    }
}

#[tokio::test]
async fn a_batch_is_found_by_its_trace_with_each_calls_own_attempts() {
    let id = made_at_noon();
    let trace_id = "5b8aa5a2d2c872e8321cf37308d69df2";
    let spans = batch(
        Table::Spans,
        &[decision(id, 1, trace_id), decision(id, 0, trace_id), attempt(id, 1, trace_id, 1, "success")],
    );
    let (_, body) = get(router(engine(vec![spans]).await), &format!("/api/v1/decisions/{trace_id}")).await;
    let decisions = body["decisions"].as_array().unwrap();
    assert_eq!(decisions.iter().map(|of| of["batch_index"].clone()).collect::<Vec<_>>(), [json!(0), json!(1)]);
    assert_eq!(decisions[0]["attempts"], json!([]));
    assert_eq!(decisions[0]["attempts_complete"], json!(false));
    assert_eq!(decisions[1]["attempts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_decision_that_was_never_made_is_not_found() {
    for id in [made_at_noon().to_string(), "5b8aa5a2d2c872e8321cf37308d69df2".to_owned()] {
        let (status, body) = get(router(engine(Vec::new()).await), &format!("/api/v1/decisions/{id}")).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("not_found")), "{body}");
    }
}

#[tokio::test]
async fn a_decision_of_a_time_in_which_calls_were_sampled_is_sampled_out_at_the_rate_of_then() {
    let mut kept = decision(Uuid::now_v7(), 0, &"ab".repeat(16));
    kept["adjusted_count"] = json!(20.0);
    let tables = vec![batch(Table::Spans, &[kept]), batch(Table::Rollups, &[cell(json!({}), 20, 1_000_000)])];
    let (status, body) = get(router(engine(tables).await), &format!("/api/v1/decisions/{}", made_at_noon())).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("sampled_out")), "{body}");
    assert_eq!((&body["error"]["rate"], &body["error"]["rates"]), (&json!(0.05), &json!({ "public": 0.05 })));
}

#[tokio::test]
async fn where_every_call_is_kept_an_absent_one_is_not_called_sampled_out() {
    let kept = decision(Uuid::now_v7(), 0, &"ab".repeat(16));
    let tables = vec![batch(Table::Spans, &[kept]), batch(Table::Rollups, &[cell(json!({}), 2, 1_000_000)])];
    let (_, body) = get(router(engine(tables).await), &format!("/api/v1/decisions/{}", made_at_noon())).await;
    assert_eq!(body["error"]["code"], "not_found");
}

/// An engine of which a node did not answer.
struct Partial(Arc<dyn Ask>);

#[async_trait::async_trait]
impl Ask for Partial {
    async fn ask(&self, question: Question) -> Result<Answer, AskError> {
        let mut answer = self.0.ask(question).await?;
        answer.coverage = Coverage { complete: false, ratio: 0.667, expected: 3, answered: 2, ..answer.coverage };
        Ok(answer)
    }
}

#[tokio::test]
async fn absence_proves_nothing_while_part_of_the_fleet_is_missing() {
    let partial: Arc<dyn Ask> = Arc::new(Partial(engine(Vec::new()).await));
    let (status, body) = get(router(partial), &format!("/api/v1/decisions/{}", made_at_noon())).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("unknown")));
    assert_eq!(body["coverage"]["answered"], 2);
}

#[tokio::test]
async fn what_is_no_id_is_a_400_that_says_what_one_is() {
    let (status, body) = get(router(engine(Vec::new()).await), "/api/v1/decisions/latest").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"]["hint"], "a request id is a UUID, a trace id 32 hexadecimal digits");
}
