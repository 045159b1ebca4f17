//! `GET /openapi.json`: what the HTTP APIs take and give, for generators of clients and for contract testers. The reports'
//! parameters are written from the tables that the reports are parsed by, so that the document cannot promise a filter
//! that is not there; annotating every handler with a macro was rejected, since it would name each parameter twice.
//! Prometheus' API is Prometheus' own and described there.

mod shapes;

use axum::http::header;
use axum::routing::get;
use axum::{Json, Router};
use lariat_schema::reports::Report;
use serde_json::{Map, Value, json};

use crate::reports::parameters::{Accepts, GENERAL, MAX_LIMIT};
use crate::reports::{SERVED, accepts};

/// The route.
pub(crate) fn router() -> Router {
    Router::new().route("/openapi.json", get(|| async { ([(header::CACHE_CONTROL, "no-cache")], Json(document())) }))
}

/// The whole document, OpenAPI 3.1.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for report in SERVED {
        let path = format!("/api/v1/{report}");
        paths.insert(path, json!({"get": report_operation(&report.to_string(), accepts(*report), summary(*report))}));
    }
    let nodes = report_operation("nodes", super::nodes::ACCEPTS, "Nodes as the query service knows them now");
    paths.insert("/api/v1/nodes".to_owned(), json!({"get": nodes}));
    let coverage = report_operation("coverage", super::coverage::ACCEPTS, "Coverage by node and step");
    paths.insert("/api/v1/coverage".to_owned(), json!({"get": coverage}));
    paths.insert("/api/v1/trace/{trace_id}".to_owned(), trace_by_path());
    paths.insert("/api/v1/sql".to_owned(), sql());
    paths.insert("/api/v1/decisions/{id}".to_owned(), decision());
    paths.insert("/api/v1/nodes/{id}/retire".to_owned(), retire());
    paths.insert("/api/v1/stream".to_owned(), stream());
    for (path, summary) in [("/health", "Whether the service serves"), ("/metrics", "Its own figures, Prometheus text")]
    {
        paths.insert(path.to_owned(), json!({"get": {"summary": summary, "responses": {"200": text("As said")}}}));
    }
    let ready = json!({"200": text("Its known nodes are each ready or known to be down"), "503": text("Not yet")});
    paths.insert("/ready".to_owned(), json!({"get": {"summary": "Whether it can answer", "responses": ready}}));
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Lariat's query service", "version": env!("CARGO_PKG_VERSION"),
            "description": "Routing decisions of a whole fleet. Every answer says how much of the fleet it covers."},
        "externalDocs": {"description": "The API of Prometheus, served under /prometheus/api/v1",
            "url": "https://prometheus.io/docs/prometheus/latest/querying/api/"},
        "paths": paths,
        "components": {"schemas": shapes::all(), "securitySchemes": {"cluster_token": {"type": "http", "scheme": "bearer"}}},
    })
}

fn summary(report: Report) -> &'static str {
    match report {
        Report::Traffic => "Calls, rates and success by time",
        Report::Latency => "Percentiles from the union of all sketches",
        Report::Errors => "Errors by category",
        Report::Routing => "Intended against actual share of each provider, and exclusions by reason",
        Report::Providers => "Calls, success and latency of each provider, by region",
        Report::Circuits => "Transitions of circuit breakers",
        Report::Blocks => "Heights and lags",
        Report::Usage => "What accounts used",
        Report::Nodes => "Nodes, their states and watermarks",
        Report::Trace => "Spans of one trace",
    }
}

fn report_operation(id: &str, accepts: Accepts, summary: &str) -> Value {
    let mut parameters: Vec<Value> = GENERAL.iter().chain(accepts.own).map(|name| named(name)).collect();
    // Given twice, a filter allows either value.
    parameters.extend(accepts.filters.iter().map(|column| {
        let values = json!({"type": "array", "items": {"type": "string"}, "maxItems": 64});
        json!({"name": column, "in": "query", "schema": values, "style": "form", "explode": true})
    }));
    json!({"operationId": id, "summary": summary, "parameters": parameters, "responses": answers("Rows with their coverage")})
}

/// A parameter that means the same wherever it stands.
fn named(name: &str) -> Value {
    let (required, schema) = match name {
        "from" | "to" => (false, json!({"$ref": "#/components/schemas/Moment"})),
        "step" | "deadline" => (false, json!({"$ref": "#/components/schemas/Duration"})),
        "limit" => (false, json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT})),
        "min_coverage" => (false, json!({"type": "number", "minimum": 0, "maximum": 1})),
        "by" => (false, json!({"enum": ["provider_id", "method", "chain", "region"]})),
        "table" => (
            false,
            json!({"enum": lariat_schema::tables::Table::ALL.iter().map(ToString::to_string).collect::<Vec<_>>()}),
        ),
        "trace_id" => (true, json!({"$ref": "#/components/schemas/TraceId"})),
        _ => (false, json!({"type": "string"})),
    };
    json!({"name": name, "in": "query", "required": required, "schema": schema})
}

fn in_path(name: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": schema})
}

fn trace_by_path() -> Value {
    let mut parameters = vec![in_path("trace_id", &json!({"$ref": "#/components/schemas/TraceId"}))];
    parameters.extend(GENERAL.iter().map(|name| named(name)));
    let responses = answers("The spans of the trace");
    json!({"get": {"operationId": "trace_by_id", "summary": "Spans of one trace", "parameters": parameters, "responses": responses}})
}

fn decision() -> Value {
    let mut parameters = vec![in_path("id", &json!({"type": "string", "format": "uuid"}))];
    parameters.extend(GENERAL.iter().map(|name| named(name)));
    let mut responses = failures();
    responses["200"] = of_schema("The decisions of the id, with candidates and attempts", "Decisions");
    responses["404"] =
        of_schema("Not kept (`sampled_out`), not there (`not_found`), or not known (`unknown`)", "Error");
    json!({"get": {"operationId": "decision", "summary": "One decision, rebuilt: by request id or trace id", "parameters": parameters, "responses": responses}})
}

fn sql() -> Value {
    let formats =
        json!({"name": "format", "in": "query", "schema": {"enum": ["json", "ndjson", "csv", "arrow", "parquet"]}});
    let question = json!({"name": "q", "in": "query", "required": true, "schema": {"type": "string", "minLength": 1}});
    let shared = [formats, named("min_coverage"), named("deadline")];
    let mut responses = failures();
    let binary = json!({"schema": {"type": "string", "format": "binary"}});
    responses["200"] = json!({"description": "The answer in the wanted format", "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}},
        "application/x-ndjson": {"schema": {"type": "string"}},
        "text/csv": {"schema": {"type": "string"}},
        "application/vnd.apache.arrow.stream": binary, "application/vnd.apache.parquet": binary,
    }});
    let get: Vec<&Value> = std::iter::once(&question).chain(&shared).collect();
    let body = json!({"required": true, "content": {
        "application/sql": {"schema": {"type": "string", "minLength": 1}},
        "application/json": {"schema": {"$ref": "#/components/schemas/Question"}},
    }});
    json!({
        "get": {"operationId": "sql", "summary": "One reading statement", "parameters": get, "responses": responses},
        "post": {"operationId": "sql_by_post", "summary": "The same, with the statement as the body", "parameters": shared,
            "requestBody": body, "responses": responses},
    })
}

fn retire() -> Value {
    let error = |what: &str| of_schema(what, "Error");
    let responses = json!({"200": of_schema("Retired, now or before", "Retired"), "401": error("The cluster token is missing or wrong"),
        "404": error("No such node"), "409": error("The node answers"), "500": error("It was not written down")});
    json!({"post": {"operationId": "retire", "summary": "Say that a node will not come back", "security": [{"cluster_token": []}],
        "parameters": [in_path("id", &json!({"type": "string", "minLength": 1}))], "responses": responses}})
}

fn stream() -> Value {
    let list = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "array", "items": {"type": "string"}}, "style": "form", "explode": true});
    let parameters: Vec<Value> =
        ["topic", "profile", "chain", "provider_id", "result", "region"].into_iter().map(list).collect();
    let responses = json!({"200": {"description": "Server-sent events: snapshot, batch, topology, gap, heartbeat",
        "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        "400": of_schema("No such topic or filter", "Error"), "503": of_schema("Too many subscribers", "Error")});
    json!({"get": {"operationId": "stream", "summary": "The live feed", "parameters": parameters, "responses": responses}})
}

fn of_schema(description: &str, name: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{name}")});
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}

fn text(description: &str) -> Value {
    json!({"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}})
}

/// The replies of whatever asks the fleet, without the good one.
fn failures() -> Value {
    let mut all = Map::new();
    for (status, description) in [
        ("400", "The question is wrong"),
        ("422", "It is right and too large"),
        ("429", "The caller asks too much at once"),
        ("503", "Busy, or less of the fleet answered than `min_coverage` asks for"),
        ("504", "The deadline passed"),
    ] {
        all.insert(status.to_owned(), of_schema(description, "Error"));
    }
    Value::Object(all)
}

fn answers(description: &str) -> Value {
    let mut responses = failures();
    responses["200"] = of_schema(description, "Answer");
    responses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_a_shape_and_every_shape_is_referred_to() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            let path = reference.trim_start_matches('#');
            assert!(document.pointer(path).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name}");
        }
    }

    #[test]
    fn every_report_is_described_with_the_parameters_that_it_takes() {
        let document = document();
        for report in Report::ALL {
            let parameters = document["paths"][format!("/api/v1/{report}")]["get"]["parameters"].as_array().unwrap();
            let names: Vec<&str> = parameters.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
            assert!(GENERAL.iter().all(|name| names.contains(name)), "{report}: {names:?}");
            if *report != Report::Nodes {
                assert!(accepts(*report).filters.iter().all(|name| names.contains(name)), "{report}: {names:?}");
            }
        }
    }
}
