//! The demo's own endpoints on the query service's port: `POST /api/v1/demo/nodes/{n}/kill|stop|start`, so that anyone can
//! see what an answer says when a node is gone.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use super::SHUTDOWN_DEADLINE;
use super::fleet::{Change, SharedFleet};
use crate::cli::Failure;

/// Routes over a fleet.
pub(crate) fn router(fleet: SharedFleet) -> Router {
    Router::new().route("/api/v1/demo/nodes/{number}/{action}", post(change)).with_state(fleet)
}

async fn change(State(fleet): State<SharedFleet>, Path((number, action)): Path<(String, String)>) -> Response {
    if fleet.get().is_none() {
        return refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting",
            "the fleet is still starting",
            "try again in a second",
        );
    }
    let Ok(index) = number.parse::<usize>() else {
        return unknown(&number);
    };
    if !["kill", "stop", "start"].contains(&action.as_str()) {
        let message = format!("no action `{action}`");
        return refusal(StatusCode::NOT_FOUND, "not_found", &message, "one of: kill, stop, start");
    }
    // In a task of its own: a client that goes away must not leave a node half ended.
    let what = action.clone();
    let change = tokio::spawn(async move {
        let Some(fleet) = fleet.get() else { return Ok(Change::Unknown) };
        match what.as_str() {
            "kill" => Ok(fleet.kill(index).await),
            "stop" => Ok(fleet.stop(index, SHUTDOWN_DEADLINE).await),
            _ => fleet.revive(index).await,
        }
    });
    match change.await.unwrap_or_else(|error| Err(Failure::Failed(error.to_string()))) {
        Ok(Change::Unknown) => unknown(&number),
        Ok(change) => Json(json!({"node": index, "action": action, "changed": change == Change::Done})).into_response(),
        Err(failure) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "failed", &failure.to_string(), "look at the demo's terminal")
        }
    }
}

fn unknown(number: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", &format!("no node {number} in this demo"), "nodes count from 0")
}

fn refusal(status: StatusCode, code: &str, message: &str, hint: &str) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message, "hint": hint}}))).into_response()
}
