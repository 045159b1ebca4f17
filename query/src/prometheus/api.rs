//! HTTP: Prometheus' paths under `/prometheus/api/v1`, its parameters by GET and by form, its JSON and its errors, so
//! that Grafana and every other client of Prometheus works unchanged.

mod answer;
mod discover;
mod parameters;
mod query;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::series::Loader;
use super::syntax;
use crate::ask::Ask;
use answer::{ApiError, Reply};
use parameters::Parameters;

/// The version of Prometheus whose behaviour is served. Clients choose features by it.
const PROMETHEUS_VERSION: &str = "3.5.0";

/// What handlers share.
struct Service {
    loader: Loader,
}

type Shared = State<Arc<Service>>;

/// The Prometheus API over the engine, with absolute paths.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    let service = Arc::new(Service { loader: Loader::new(ask) });
    Router::new()
        .route("/prometheus/api/v1/query", get(instant).post(instant))
        .route("/prometheus/api/v1/query_range", get(range).post(range))
        .route("/prometheus/api/v1/query_exemplars", get(exemplars).post(exemplars))
        .route("/prometheus/api/v1/labels", get(labels).post(labels))
        .route("/prometheus/api/v1/label/{name}/values", get(label_values))
        .route("/prometheus/api/v1/series", get(series).post(series))
        .route("/prometheus/api/v1/metadata", get(metadata))
        .route("/prometheus/api/v1/format_query", get(format_query).post(format_query))
        .route("/prometheus/api/v1/status/buildinfo", get(buildinfo))
        .route("/prometheus/api/v1/rules", get(rules))
        .route("/prometheus/api/v1/alerts", get(alerts))
        .with_state(service)
}

type Answered = Result<Reply, ApiError>;

async fn instant(State(service): Shared, headers: HeaderMap, RawQuery(raw): RawQuery, body: Bytes) -> Response {
    let run = async || query::instant(&service, &Parameters::read(&headers, raw.as_deref(), &body)?).await;
    answer::respond(run().await)
}

async fn range(State(service): Shared, headers: HeaderMap, RawQuery(raw): RawQuery, body: Bytes) -> Response {
    let run = async || query::range(&service, &Parameters::read(&headers, raw.as_deref(), &body)?).await;
    answer::respond(run().await)
}

async fn exemplars(State(service): Shared, headers: HeaderMap, RawQuery(raw): RawQuery, body: Bytes) -> Response {
    let run = async || discover::exemplars(&service, &Parameters::read(&headers, raw.as_deref(), &body)?).await;
    answer::respond(run().await)
}

async fn labels(State(service): Shared, headers: HeaderMap, RawQuery(raw): RawQuery, body: Bytes) -> Response {
    let run = async || discover::labels(&service, &Parameters::read(&headers, raw.as_deref(), &body)?).await;
    answer::respond(run().await)
}

async fn series(State(service): Shared, headers: HeaderMap, RawQuery(raw): RawQuery, body: Bytes) -> Response {
    let run = async || discover::series(&service, &Parameters::read(&headers, raw.as_deref(), &body)?).await;
    answer::respond(run().await)
}

async fn label_values(State(service): Shared, Path(name): Path<String>, RawQuery(raw): RawQuery) -> Response {
    let run = async || {
        let parameters = Parameters::read(&HeaderMap::new(), raw.as_deref(), &[])?;
        discover::label_values(&service, &parameters::unescaped(&name), &parameters).await
    };
    answer::respond(run().await)
}

async fn metadata(State(service): Shared, RawQuery(raw): RawQuery) -> Response {
    let run = async || {
        let parameters = Parameters::read(&HeaderMap::new(), raw.as_deref(), &[])?;
        discover::metadata(&service, &parameters).await
    };
    answer::respond(run().await)
}

async fn format_query(headers: HeaderMap, RawQuery(raw): RawQuery, body: Bytes) -> Response {
    let format = || -> Answered {
        let parameters = Parameters::read(&headers, raw.as_deref(), &body)?;
        let text = parameters.required("query")?;
        let expr = syntax::parse(text).map_err(|error| ApiError::syntax("query", text, &error))?;
        Ok(Reply::new(json!(expr.to_string())))
    };
    answer::respond(format())
}

async fn buildinfo() -> Response {
    let data = json!({
        "version": PROMETHEUS_VERSION,
        "revision": "",
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
        "features": {},
    });
    answer::respond(Ok(Reply::new(data)))
}

async fn rules() -> Response {
    answer::respond(Ok(Reply::new(json!({"groups": []}))))
}

async fn alerts() -> Response {
    answer::respond(Ok(Reply::new(json!({"alerts": []}))))
}

#[cfg(test)]
mod tests;
