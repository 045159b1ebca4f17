//! `POST /api/v1/nodes/{id}/retire`: an operator's word that a node will not come back. Until it is said, or `retire_after`
//! has passed, a node that vanished without farewell stays expected, and every answer lacks it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use super::ApiError;
use crate::coverage::rfc3339;
use crate::membership::{Member, Retirement};
use crate::topology::{RetireError, Topology};

/// The route.
pub(crate) fn router(topology: Arc<Topology>) -> Router {
    Router::new().route("/api/v1/nodes/{id}/retire", post(retire)).with_state(topology)
}

async fn retire(
    State(topology): State<Arc<Topology>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if !given.is_some_and(|given| topology.is_operator(given)) {
        return Err(error(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "the cluster token is missing or wrong".to_owned(),
            "send Authorization: Bearer <CLUSTER_TOKEN>; without a configured token nobody can retire a node",
        ));
    }
    let writing = tokio::task::spawn_blocking({
        let id = id.clone();
        move || topology.retire(&id)
    });
    match writing.await {
        Ok(Ok(Retirement::Done(member) | Retirement::Already(member))) => Ok(Json(told(&member)).into_response()),
        Ok(Ok(Retirement::Unknown)) => Err(error(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("no node is or was called `{id}`"),
            "`SELECT node_id, store_id FROM membership` lists them",
        )),
        Ok(Err(RetireError::Answers)) => Err(error(
            StatusCode::CONFLICT,
            "still_alive",
            format!("`{id}` answers"),
            "stop it first: a clean end is a farewell, and needs no retirement",
        )),
        Ok(Err(RetireError::Membership(source))) => {
            tracing::error!(error = %source, detail = ?source, "a retirement cannot be written down");
            Err(failed())
        }
        Err(_) => Err(failed()),
    }
}

fn told(member: &Member) -> serde_json::Value {
    let end = member.ended();
    json!({
        "node_id": member.node_id,
        "store_id": member.store_id,
        "retired_at": end.map(|end| rfc3339(end.at_unix_nanos)),
        "by": end.map(|end| end.by.as_str()),
    })
}

fn failed() -> ApiError {
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the retirement was not written down".to_owned(),
        "see the log",
    )
}

fn error(status: StatusCode, code: &'static str, message: String, hint: &str) -> ApiError {
    ApiError { status, code, message, hint: Some(hint.to_owned()), coverage: None }
}
