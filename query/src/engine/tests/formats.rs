//! The HTTP endpoint over a real fleet: shapes, formats and refusals.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::*;
use crate::topology::Secret;

pub(super) async fn get(address: SocketAddr, path: &str) -> (StatusCode, http::HeaderMap, Bytes) {
    send(Request::get(format!("http://{address}{path}")).body(Full::default()).unwrap()).await
}

pub(super) async fn ready(at: SocketAddr) {
    let until = Instant::now() + Duration::from_secs(30);
    while get(at, "/ready").await.0 != StatusCode::OK {
        assert!(Instant::now() < until, "never ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn send(request: Request<Full<Bytes>>) -> (StatusCode, http::HeaderMap, Bytes) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

async fn json(address: SocketAddr, path: &str) -> (StatusCode, serde_json::Value) {
    let (status, _, body) = get(address, path).await;
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_carries_the_same_rows_and_the_coverage() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let at = query.http_address();
    let path =
        "/api/v1/sql?q=SELECT%20chain,count(*)%20AS%20n%20FROM%20spans%20GROUP%20BY%20chain%20ORDER%20BY%20chain";

    let (status, answer) = json(at, path).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["columns"][1], serde_json::json!({"name": "n", "type": "Int64"}));
    assert_eq!(answer["rows"].as_array().unwrap().len(), 3);
    assert_eq!((&answer["coverage"]["complete"], &answer["coverage"]["expected"]), (&true.into(), &3.into()));
    assert!(answer["sampling"]["min_probability"].is_number() && answer["stats"]["elapsed_ms"].is_number());
    let total: i64 = answer["rows"].as_array().unwrap().iter().map(|row| row["n"].as_i64().unwrap()).sum();
    assert_eq!(total, 300);

    let (_, _, lines) = get(at, &format!("{path}&format=ndjson")).await;
    let lines: Vec<_> = std::str::from_utf8(&lines).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 4);
    let last: serde_json::Value = serde_json::from_str(&lines[3]).unwrap();
    assert_eq!((&last["coverage"]["answered"], &last["stats"]["rows"]), (&3.into(), &3.into()));

    let (_, headers, csv) = get(at, &format!("{path}&format=csv")).await;
    assert_eq!(std::str::from_utf8(&csv).unwrap().lines().next(), Some("chain,n"));
    // Of this one a parser of JSON loses the last bit.
    let (_, _, csv) = get(at, "/api/v1/sql?q=SELECT%200.38120423768821243%20AS%20x,%20'a'%20AS%20y&format=csv").await;
    assert_eq!(std::str::from_utf8(&csv).unwrap(), "x,y\r\n0.38120423768821243,a\r\n");
    assert!(headers.contains_key("x-lariat-coverage") && headers.contains_key("x-lariat-sampling"));

    let (_, headers, arrow) = get(at, &format!("{path}&format=arrow")).await;
    let reader = arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(arrow), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 3);
    let coverage: Coverage = serde_json::from_slice(headers["x-lariat-coverage"].as_bytes()).unwrap();
    assert!(coverage.complete);

    let (_, _, file) = get(at, &format!("{path}&format=parquet")).await;
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1024).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_the_right_status_and_one_clear_message() {
    let mut fleet = Fleet::start(2).await;
    let query = fleet.query().await;
    let at = query.http_address();
    for (path, status, code) in [
        ("/api/v1/sql", 400, "bad_request"),
        ("/api/v1/sql?q=SELECT%201&format=xml", 400, "bad_request"),
        ("/api/v1/sql?q=SELECT%201&fromat=csv", 400, "bad_request"),
        ("/api/v1/sql?q=SELECT%201&deadline=soon", 400, "bad_request"),
        ("/api/v1/sql?q=SELECT%201&min_coverage=7", 400, "bad_request"),
        ("/api/v1/sql?q=DROP%20TABLE%20spans", 400, "bad_question"),
        ("/api/v1/sql?q=SELECT%20a.name,b.name%20FROM%20spans%20a,spans%20b%20LIMIT%201", 400, "bad_question"),
    ] {
        let (found, body) = json(at, path).await;
        assert_eq!((found.as_u16(), body["error"]["code"].as_str()), (status, Some(code)), "{path}: {body}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    }
    let body = r#"{"q": "SELECT count(*) AS n FROM spans", "format": "json"}"#;
    let request = Request::post(format!("http://{at}/api/v1/sql")).header("content-type", "application/json");
    let (status, _, answer) = send(request.body(Full::from(body)).unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{answer:?}");
    fleet.kill(0);
    let (status, body) = json(at, "/api/v1/sql?q=SELECT%201&min_coverage=0.9").await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (503, Some("not_covered")), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_becomes_ready_and_lists_its_nodes() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let at = query.http_address();
    ready(at).await;
    let (_, nodes) = json(at, "/api/v1/nodes").await;
    let states: Vec<_> = nodes["rows"].as_array().unwrap().iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["ready", "ready", "ready"], "{nodes}");
    let (_, coverage) = json(at, "/api/v1/coverage?from=-5m").await;
    assert_eq!(coverage["coverage"]["answered"], 3, "{coverage}");
    assert_eq!(get(at, "/health").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_http_answers_whoever_gives_it_and_tells_browsers_to_ask() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query_with(|config| config.token = Some(Secret::new("sesame"))).await;
    let at = query.http_address();
    let with = |path: &str, given: &str| {
        let request = Request::get(format!("http://{at}{path}")).header("authorization", given);
        send(request.body(Full::default()).unwrap())
    };
    // `me:sesame` and `me:guessed`.
    for path in ["/", "/api/v1/sql?q=SELECT%201", "/api/v1/traffic", "/prometheus/api/v1/labels", "/metrics"] {
        for good in ["Bearer sesame", "Basic bWU6c2VzYW1l"] {
            assert_eq!(with(path, good).await.0, StatusCode::OK, "{path} {good}");
        }
        for bad in ["Bearer guessed", "Basic bWU6Z3Vlc3NlZA==", "sesame"] {
            assert_eq!(with(path, bad).await.0, StatusCode::UNAUTHORIZED, "{path} {bad}");
        }
        let (status, headers, body) = get(at, path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(headers["www-authenticate"].to_str().unwrap().starts_with("Basic "), "{path}");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["error"]["code"], body["error"]["hint"].is_string()), (&"unauthenticated".into(), true));
    }
    for path in ["/health", "/ready"] {
        assert_eq!(get(at, path).await.0, StatusCode::OK, "{path}");
    }
    let (_, _, figures) = with("/metrics", "Bearer sesame").await;
    let line = "lariat_query_turned_away_total{protocol=\"http\",reason=\"unauthenticated\"} 20\n";
    assert!(String::from_utf8_lossy(&figures).contains(line), "{figures:?}");
}
