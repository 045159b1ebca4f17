//! The commands that ask a running query service: what they print, and how they fail.

pub(crate) mod explain;
pub(crate) mod fleet;
mod progress;
mod session;
pub(crate) mod sql;
mod table;

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};

use crate::cli::{Failure, Service};

/// Longest time that a client waits for an answer; the service's own deadline is shorter.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);

/// Sends a GET and turns everything but success into a sentence. `also` is a further status to be handed back.
async fn get(
    service: &Service,
    path: &str,
    query: &[(&str, String)],
    also: Option<StatusCode>,
) -> Result<Response, Failure> {
    let base = service.url.as_str();
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let client = Client::builder()
        .timeout(CLIENT_TIMEOUT)
        .build()
        .map_err(|error| Failure::Failed(format!("cannot make an HTTP client: {error}")))?;
    let request = client.get(&url).query(query);
    let request = match &service.token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let response = request.send().await.map_err(|error| unreachable_service(base, &error))?;
    if response.status().is_success() || Some(response.status()) == also {
        return Ok(response);
    }
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    Err(Failure::Failed(service_error(status, &text)))
}

/// The service's error as one text: message, then hint on a line of its own.
fn service_error(status: StatusCode, body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let error = parsed.as_ref().and_then(|value| value.get("error"));
    let field = |name: &str| error.and_then(|error| error.get(name)).and_then(serde_json::Value::as_str);
    match (field("message"), field("hint")) {
        (Some(message), Some(hint)) => format!("{message}\nhint: {hint}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => format!("the query service answered {status}: {}", body.trim()),
    }
}

fn unreachable_service(base: &str, error: &reqwest::Error) -> Failure {
    if error.is_builder() {
        return Failure::Usage(format!("`{base}` is no URL: give one such as http://127.0.0.1:4040 with --url"));
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Failure::Failed(format!(
        "no query service answers at {base} ({cause}): start one with `lariat demo` or `lariat query`, or name another with --url"
    ))
}

/// One line about an answer's coverage, as printed below every table.
fn coverage_line(coverage: &serde_json::Value) -> String {
    let number = |name: &str| coverage.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let ratio = coverage.get("ratio").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    let complete = coverage.get("complete").and_then(serde_json::Value::as_bool).unwrap_or(false);
    let head = format!(
        "coverage: {} of {} nodes, {:.1} % of the expected time{}",
        number("answered"),
        number("expected"),
        ratio * 100.0,
        if complete { "" } else { ", INCOMPLETE" }
    );
    let missing: Vec<String> = coverage
        .get("nodes")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .filter(|node| node.get("answered").and_then(serde_json::Value::as_bool) == Some(false))
        .map(|node| {
            let text = |name: &str| node.get(name).and_then(serde_json::Value::as_str).unwrap_or("?").to_owned();
            format!("{} ({}, {})", text("node_id"), text("region"), text("state"))
        })
        .collect();
    if missing.is_empty() { head } else { format!("{head}; without {}", missing.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_node_is_named_with_its_region_in_the_coverage_line() {
        let coverage = serde_json::json!({"complete": false, "ratio": 0.667, "expected": 3, "answered": 2,
            "nodes": [{"node_id": "lariat@a", "region": "eu-west", "state": "disconnected", "answered": false}]});
        let line = coverage_line(&coverage);
        assert!(line.contains("2 of 3"), "{line}");
        assert!(line.contains("INCOMPLETE; without lariat@a (eu-west, disconnected)"), "{line}");
    }

    #[test]
    fn an_error_of_the_service_keeps_its_hint() {
        let text =
            service_error(StatusCode::BAD_REQUEST, r#"{"error":{"code":"bad","message":"no column x","hint":"y"}}"#);
        assert_eq!(text, "no column x\nhint: y");
    }
}
