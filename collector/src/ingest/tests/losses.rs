//! What was lost before the collector, and what the receivers refused: told by the store, after restarts too.

use lariat_schema::tables::Table;
use lariat_schema::vocabulary::RefusalReason;
use serde_json::{Value, json};

use super::clocks::eventually;
use super::*;
use crate::fixtures::as_json;
use crate::sequences::{LOST_AFTER_NANOS, Lost};

fn lost(spine: &Spine) -> Vec<Lost> {
    spine.core.state.lock().lost()
}

/// The newest row of `node_status`.
fn status(spine: &Spine) -> Value {
    let rows: Vec<Value> = visible(&*spine.core, Table::NodeStatus).iter().flat_map(as_json).collect();
    rows.into_iter().max_by_key(|row| row["observed_time"].to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_hole_in_the_numbers_of_a_boot_is_lost_before_the_collector_until_a_retry_fills_it() {
    let place = Place::new();
    let spine = place.open();
    let boot = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab";
    let numbered =
        |seq: u128| spans(&[decision(seq, json!({"boot_id": boot, "decision_seq": i64::try_from(seq).unwrap()}))]);
    for seq in [1, 2, 5, 6, 9] {
        spine.ingest(numbered(seq)).await.unwrap();
    }
    assert_eq!(lost(&spine), [], "calls under way are no losses");
    place.advance(LOST_AFTER_NANOS + SECOND);
    let hole = [Lost { boot_id: boot.to_owned(), decisions: 4 }];
    eventually(&spine, "the loss", |spine| lost(spine) == hole);
    eventually(&spine, "a row that says so", |spine| {
        status(spine)["missing"] == json!([{"boot_id": boot, "decisions": 4}])
    });
    spine.core.seal(false).unwrap();
    spine.kill();
    drop(spine);
    let spine = place.open();
    assert_eq!(lost(&spine), hole);
    spine.ingest(numbered(3)).await.unwrap();
    assert_eq!(lost(&spine)[0].decisions, 3);
    total(&spine);
}

#[tokio::test]
async fn what_the_receivers_refused_stands_in_the_account_of_the_node_by_reason() {
    let place = Place::new();
    let spine = place.open();
    spine.core.counters.received.refused(70, RefusalReason::TooLarge);
    spine.core.counters.received.refused(0, RefusalReason::Unauthenticated);
    spine.core.counters.received.refused(7, RefusalReason::TooLarge);
    place.advance(11 * SECOND);
    eventually(&spine, "a row that says so", |spine| {
        status(spine)["refusals"]
            == json!([{"reason": "too_large", "requests": 2, "bytes": 77},
                {"reason": "unauthenticated", "requests": 1, "bytes": 0}])
    });
}
