//! The scripts of `tests/sql`: statements and what they answer, in the form that SQLite made known. They are asked of a real
//! fleet of two nodes over HTTP, so that what a script shows is what a user sees, merged. This module makes the fleet and its
//! data, which `tests/sql/README.md` describes; it never knows what a script asks.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde_json::{Value, json};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

use super::harness::{Lariat, client, eventually, root, rows};

/// Calls of each node, and how long each took, in milliseconds: the rule of thumb of the design.
const NODES: [(&str, u64, u64); 2] = [("us-east", 1_000, 100), ("eu-west", 100, 200)];
const METHODS: [&str; 4] = ["eth_blockNumber", "eth_call", "eth_getLogs", "eth_getBalance"];

fn profile() -> String {
    "---\nname: Public\nslug: public\nsampling: { rate: 1.0 }\n---\nchains:\n  ethereum:\n    chain_id: 1\n    providers:\n      \
     - { id: nobody, priority: 1, url: \"http://127.0.0.1:9\" }\n"
        .to_owned()
}

fn start_node(dir: &Path, region: &str) -> Lariat {
    let (data, profiles) = (dir.join(region), dir.join(format!("{region}-profiles")));
    std::fs::create_dir_all(&profiles).unwrap();
    std::fs::write(profiles.join("public.yml"), profile()).unwrap();
    // A collector without a proxy has no profiles and so no sampling rates.
    Lariat::start_with(
        &["node", "--data-dir", &data.display().to_string(), "--profiles", &profiles.display().to_string()],
        &[
            ("CLUSTER_REGION", region),
            ("CLUSTER_TOKEN", "of-the-scripts"),
            ("LARIAT_PROXY__LISTEN", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_GRPC", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__OTLP_HTTP", "127.0.0.1:0"),
            ("LARIAT_COLLECTOR__NODE_API", "127.0.0.1:0"),
        ],
    )
}

fn attribute(key: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    let value = if value.is_i64() || value.is_u64() {
        json!({"intValue": value.to_string()})
    } else {
        json!({"stringValue": value})
    };
    json!({"key": key, "value": value})
}

/// The spans of call `i` of a node: the decision, and its attempts.
fn call_spans(node: usize, i: u64, from_unix_nanos: u64) -> Vec<Value> {
    let (_, _, milliseconds) = NODES[node];
    let failed = i % 50 == 49;
    let (id, method) = (format!("{:032x}", ((node as u128 + 1) << 64) + u128::from(i) + 1), METHODS[(i % 4) as usize]);
    let provider = if i % 5 < 3 { "alpha" } else { "beta" };
    let attempts = if i % 20 == 19 { 2 } else { 1 };
    let (start, duration) = (from_unix_nanos + i * 10_000_000, milliseconds * 1_000_000);
    let repeated = |provider: &str| {
        vec![
            attribute("rpc.system.name", "jsonrpc"),
            attribute("rpc.method", method),
            attribute("lariat.request_id", request_id(&id)),
            attribute("lariat.batch_index", 0),
            attribute("lariat.profile", "public"),
            attribute("lariat.chain", "ethereum"),
            attribute("lariat.chain_id", 1),
            attribute("lariat.provider_id", provider),
            attribute("lariat.transport", "http"),
            attribute("lariat.origin", "client"),
        ]
    };
    let mut attributes = repeated(provider);
    attributes.extend([
        attribute("lariat.strategy", "fastest"),
        attribute("lariat.answered_by", "provider"),
        attribute("lariat.result", if failed { "error" } else { "success" }),
        attribute("lariat.attempts", attempts),
        attribute("lariat.failovers", attempts - 1),
        attribute("lariat.bytes_in", 100 + i % 10),
        attribute("lariat.bytes_out", 1_000),
    ]);
    if failed {
        attributes.push(attribute("lariat.error_category", "timeout"));
    }
    let span = |number: u64, kind: u64, attributes: Vec<Value>| {
        json!({"traceId": id, "spanId": format!("{:016x}", i * 8 + number + 1), "name": method, "kind": kind,
            "parentSpanId": if number == 0 { String::new() } else { format!("{:016x}", i * 8 + 1) },
            "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + duration).to_string(), "attributes": attributes})
    };
    let mut spans = vec![span(0, 2, attributes)];
    for ordinal in 1..=attempts {
        let last = ordinal == attempts;
        let mut attributes = repeated(if last { provider } else { "gamma" });
        attributes.extend([
            attribute("lariat.ordinal", ordinal),
            attribute("lariat.kind", if ordinal == 1 { "primary" } else { "failover" }),
            attribute("lariat.outcome", if !last || failed { "timeout" } else { "success" }),
        ]);
        spans.push(span(ordinal, 3, attributes));
    }
    spans
}

fn request_id(id: &str) -> String {
    [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-")
}

/// Sends a node its calls, which ended two minutes ago.
async fn send(node: usize, url: &str) {
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let from = now - 120_000_000_000;
    let spans: Vec<Value> = (0..NODES[node].1).flat_map(|i| call_spans(node, i, from)).collect();
    for part in spans.chunks(500) {
        let resource = [attribute("service.name", "lariat-proxy"), attribute("cloud.region", NODES[node].0)];
        let body = json!({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [{"spans": part}]}]});
        let response = client().post(format!("{url}/v1/traces")).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }
}

/// A query service, as the scripts see it.
struct OverHttp {
    url: String,
}

/// The service's own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

#[async_trait]
impl AsyncDB for OverHttp {
    type Error = Refused;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Refused> {
        let response = client().post(format!("{}/api/v1/sql", self.url)).body(sql.to_owned()).send().await;
        let response = response.map_err(|error| Refused(error.to_string()))?;
        let answer: Value = response.json().await.map_err(|error| Refused(error.to_string()))?;
        if let Some(error) = answer.get("error") {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            return Err(Refused(format!("{}: {} ({})", text("code"), text("message"), text("hint"))));
        }
        let columns = answer["columns"].as_array().cloned().unwrap_or_default();
        let types = columns.iter().map(|column| kind(column["type"].as_str().unwrap_or_default())).collect();
        let names: Vec<&str> = columns.iter().filter_map(|column| column["name"].as_str()).collect();
        let rows = rows(&answer).iter().map(|row| names.iter().map(|name| cell(&row[*name])).collect()).collect();
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "lariat"
    }
}

/// Arrow's type as one of the letters of the scripts.
fn kind(arrow: &str) -> DefaultColumnType {
    match arrow {
        name if name.starts_with("Int") || name.starts_with("UInt") => DefaultColumnType::Integer,
        name if name.starts_with("Float") || name.starts_with("Decimal") => DefaultColumnType::FloatingPoint,
        name if name.starts_with("Utf8") || name.starts_with("LargeUtf8") => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) if text.is_empty() => "(empty)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_scripts_answers_as_written_over_two_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let fleet: Vec<Lariat> = NODES.iter().map(|(region, ..)| start_node(dir.path(), region)).collect();
    let mut apis = Vec::new();
    for (number, node) in fleet.iter().enumerate() {
        send(number, &node.url("otlp_http").await).await;
        apis.push(node.url("node_api").await.trim_start_matches("http://").to_owned());
    }
    let query = Lariat::start_with(
        &["query", "--data-dir", &dir.path().join("query").display().to_string()],
        &[
            ("CLUSTER_TOKEN", "of-the-scripts"),
            ("LARIAT_QUERY__HTTP", "127.0.0.1:0"),
            ("LARIAT_QUERY__FLIGHT_SQL", "127.0.0.1:0"),
            ("LARIAT_QUERY__POSTGRES", "127.0.0.1:0"),
            ("LARIAT_CLUSTER__NODES", &serde_json::to_string(&apis).unwrap()),
        ],
    );
    query.ready("query").await;
    let calls: u64 = NODES.iter().map(|(_, calls, _)| calls).sum();
    eventually("all calls of both nodes", async || {
        let found = query.sql("SELECT count(*) AS n FROM routing_decisions").await;
        (rows(&found)[0]["n"] == calls).then_some(())
    })
    .await;
    let url = query.url("query").await;
    let mut scripts: Vec<_> =
        std::fs::read_dir(root().join("tests/sql")).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut faults = Vec::new();
    for script in scripts {
        let mut runner = Runner::new(|| async { Ok(OverHttp { url: url.clone() }) });
        if let Err(error) = runner.run_file_async(&script).await {
            faults.push(format!("{}", error.display(false)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
