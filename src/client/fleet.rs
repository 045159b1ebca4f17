//! `lariat nodes` and `lariat retire`: the fleet as the query service knows it, and an operator's word that a node will not
//! come back.

use std::io::Write as _;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use super::{CLIENT_TIMEOUT, service_error, sql, unreachable_service};
use crate::cli::{Failure, Format, NodesArguments, RetireArguments, SqlArguments};

const NODES: &str =
    "SELECT node_id, region, state, address, watermark, clock_offset_ms, error FROM nodes ORDER BY region, node_id";

/// Prints the nodes with the coverage of now.
pub(crate) async fn nodes(arguments: NodesArguments) -> Result<(), Failure> {
    let question = SqlArguments {
        query: Some(NODES.to_owned()),
        service: arguments.service,
        format: Format::Table,
        min_coverage: None,
        deadline: None,
    };
    sql::run(question).await
}

/// Retires a node and says since when.
pub(crate) async fn retire(arguments: RetireArguments) -> Result<(), Failure> {
    let base = arguments.service.url.trim_end_matches('/');
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("`{base}` is no URL: {error}"));
    let mut url = reqwest::Url::parse(base).map_err(|error| unusable(&error))?;
    url.path_segments_mut().map_err(|()| unusable(&"it has no path"))?.pop_if_empty().extend([
        "api",
        "v1",
        "nodes",
        arguments.node.as_str(),
        "retire",
    ]);
    let client = Client::builder()
        .timeout(CLIENT_TIMEOUT)
        .build()
        .map_err(|error| Failure::Failed(format!("cannot make an HTTP client: {error}")))?;
    let mut request = client.request(Method::POST, url);
    if let Some(token) = &arguments.token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.map_err(|error| unreachable_service(base, &error))?;
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    if status != StatusCode::OK {
        return Err(Failure::Failed(service_error(status, &text)));
    }
    let told: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let part = |name: &str| told.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let line = format!("{} is not expected since {} ({})\n", part("node_id"), part("retired_at"), part("by"));
    std::io::stdout()
        .write_all(line.as_bytes())
        .map_err(|error| Failure::Failed(format!("cannot write the answer: {error}")))
}
