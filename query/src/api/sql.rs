//! `GET` and `POST /api/v1/sql`: one question, one of five formats. Four of them are complete before their first byte, so
//! that status and coverage are true of all of it; NDJSON is for answers of any size and tells both in its last line.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lariat_schema::duration_text;
use parquet::arrow::ArrowWriter;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{ApiError, headers_beside};
use crate::answer::{json_text, rows_as_json};
use crate::ask::{Answer, Ask, AskError, Beside, Question};

mod ndjson;

/// Longest request, in bytes: a question, and what JSON adds to it.
const MAX_REQUEST_BYTES: usize = 512 * 1024;

/// The routes.
pub fn router(ask: Arc<dyn Ask>) -> Router {
    Router::new()
        .route("/api/v1/sql", get(by_get).post(by_post))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(ask)
}

/// The parameters, the same in the URL and in a JSON body.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    q: Option<String>,
    format: Option<String>,
    min_coverage: Option<serde_json::Value>,
    deadline: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Ndjson,
    Csv,
    Arrow,
    Parquet,
}

async fn by_get(
    State(ask): State<Arc<dyn Ask>>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Response, ApiError> {
    answer(ask, from_map(parameters)?).await
}

async fn by_post(
    State(ask): State<Arc<dyn Ask>>,
    Query(parameters): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let mut parameters = from_map(parameters)?;
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json"));
    // No SQL begins with a brace, and curl calls every body a form.
    if is_json || body.trim_ascii_start().starts_with(b"{") {
        let of_body: Parameters = serde_json::from_slice(&body).map_err(|error| {
            ApiError::bad_request(format!("the body is not the expected JSON: {error}"), Some(KEYS))
        })?;
        parameters = Parameters {
            q: of_body.q.or(parameters.q),
            format: of_body.format.or(parameters.format),
            min_coverage: of_body.min_coverage.or(parameters.min_coverage),
            deadline: of_body.deadline.or(parameters.deadline),
        };
    } else if !body.is_empty() {
        let text = std::str::from_utf8(&body).map_err(|_| ApiError::bad_request("the question is not UTF-8", None))?;
        parameters.q = Some(text.to_owned());
    }
    answer(ask, parameters).await
}

const KEYS: &str =
    "keys: q, format (json, ndjson, csv, arrow, parquet), min_coverage (0 to 1), deadline (as 500ms or 2s)";

fn from_map(mut map: HashMap<String, String>) -> Result<Parameters, ApiError> {
    let parameters = Parameters {
        q: map.remove("q"),
        format: map.remove("format"),
        min_coverage: map.remove("min_coverage").map(serde_json::Value::String),
        deadline: map.remove("deadline"),
    };
    match map.into_keys().next() {
        Some(unknown) => Err(ApiError::bad_request(format!("there is no parameter `{unknown}`"), Some(KEYS))),
        None => Ok(parameters),
    }
}

async fn answer(ask: Arc<dyn Ask>, parameters: Parameters) -> Result<Response, ApiError> {
    let sql = parameters.q.filter(|q| !q.trim().is_empty());
    let sql = sql.ok_or_else(|| ApiError::bad_request("there is no question", Some(KEYS)))?;
    let format = format(parameters.format.as_deref())?;
    let min_coverage = parameters.min_coverage.as_ref().map(parse_min_coverage).transpose()?;
    let deadline = parameters.deadline.as_deref().map(parse_duration).transpose()?;
    let question = Question { min_coverage, deadline, ..Question::new(sql) };
    if format == Format::Ndjson {
        let rows = ask.stream(question).await?;
        unique_names(&rows.schema)?;
        return Ok(ndjson::response(rows));
    }
    let answer = ask.ask(question).await?;
    unique_names(&answer.schema)?;
    encoded(&answer, format)
}

fn format(name: Option<&str>) -> Result<Format, ApiError> {
    Ok(match name.unwrap_or("json") {
        "json" => Format::Json,
        "ndjson" => Format::Ndjson,
        "csv" => Format::Csv,
        "arrow" => Format::Arrow,
        "parquet" => Format::Parquet,
        other => return Err(ApiError::bad_request(format!("there is no format `{other}`"), Some(KEYS))),
    })
}

/// A share from 0 to 1, as a number or its text.
fn parse_min_coverage(value: &serde_json::Value) -> Result<f64, ApiError> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| ApiError::bad_request("min_coverage is a number from 0 to 1", None))
}

/// A duration as `500ms`, `2s` or `1m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, ApiError> {
    duration_text::parse(text).map_err(|error| ApiError::bad_request(error.to_string(), None))
}

fn unique_names(schema: &Schema) -> Result<(), AskError> {
    let mut seen = std::collections::HashSet::new();
    match schema.fields().iter().find(|field| !seen.insert(field.name())) {
        Some(field) => Err(AskError::BadQuestion {
            message: format!("two columns are called `{}`", field.name()),
            hint: Some("give one of them another name with AS".to_owned()),
        }),
        None => Ok(()),
    }
}

fn encoded(answer: &Answer, format: Format) -> Result<Response, ApiError> {
    let internal = |error: ArrowError| AskError::Internal { source: Box::new(error) };
    let (kind, body) = match format {
        // NDJSON is written as its rows come.
        Format::Json | Format::Ndjson => ("application/json", as_json(answer).map_err(internal)?),
        Format::Csv => ("text/csv; charset=utf-8", as_csv(answer).map_err(internal)?),
        Format::Arrow => ("application/vnd.apache.arrow.stream", as_arrow(answer).map_err(internal)?),
        Format::Parquet => {
            let body = as_parquet(answer).map_err(|error| AskError::Internal { source: Box::new(error) })?;
            ("application/vnd.apache.parquet", body)
        }
    };
    let mut headers = headers_beside(answer);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok((headers, body).into_response())
}

/// What stands beside the rows.
fn members(of: &Beside) -> serde_json::Map<String, serde_json::Value> {
    let mut members = serde_json::Map::new();
    members.insert("coverage".to_owned(), json!(of.coverage));
    members.insert("sampling".to_owned(), json!(of.sampling));
    members.insert("stats".to_owned(), json!(of.stats));
    if let Some(hint) = &of.hint {
        members.insert("hint".to_owned(), json!(hint));
    }
    members
}

/// An answer in SQL's shape, for every endpoint that has it.
///
/// # Errors
/// When a value of a rare type cannot be shown.
pub(crate) fn as_json(answer: &Answer) -> Result<Vec<u8>, ArrowError> {
    let columns: Vec<_> = answer
        .schema
        .fields()
        .iter()
        .map(|field| json!({"name": field.name(), "type": field.data_type().to_string()}))
        .collect();
    let mut out = format!("{{\"columns\":{},\"rows\":[", json!(columns)).into_bytes();
    let start = out.len();
    for batch in &answer.batches {
        rows_as_json(batch, |out| out.push(b','), &mut out)?;
    }
    if out.len() > start {
        out.pop();
    }
    out.push(b']');
    for (name, value) in members(&answer.beside()) {
        out.extend_from_slice(format!(",{}:{value}", json_text(&name)).as_bytes());
    }
    out.push(b'}');
    Ok(out)
}

/// CSV with the texts of the JSON format: nested values are JSON, nulls are empty.
fn as_csv(answer: &Answer) -> Result<Vec<u8>, ArrowError> {
    let mut out = Vec::new();
    let names: Vec<_> = answer.schema.fields().iter().map(|field| csv_field(field.name())).collect();
    out.extend_from_slice(names.join(",").as_bytes());
    out.extend_from_slice(b"\r\n");
    for batch in &answer.batches {
        let mut lines = Vec::new();
        rows_as_json(batch, |out| out.push(b'\n'), &mut lines)?;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let row: Texts<'_> =
                serde_json::from_slice(line).map_err(|error| ArrowError::JsonError(error.to_string()))?;
            let fields: Vec<_> = row.0.into_iter().map(csv_value).collect();
            out.extend_from_slice(fields.join(",").as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(out)
}

/// The values of a row as they are written: a parser of JSON would read some numbers a little off.
struct Texts<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Texts<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a row")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some((serde::de::IgnoredAny, value)) = members.next_entry()? {
                    values.push(value);
                }
                Ok(values)
            }
        }

        deserializer.deserialize_map(Members).map(Self)
    }
}

fn csv_value(value: &RawValue) -> String {
    match value.get() {
        "null" => String::new(),
        text if text.starts_with('"') => csv_field(&serde_json::from_str::<String>(text).unwrap_or_default()),
        text => csv_field(text),
    }
}

/// Quoted where RFC 4180 asks for it.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn as_arrow(answer: &Answer) -> Result<Vec<u8>, ArrowError> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &answer.schema)?;
    for batch in &answer.batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()
}

fn as_parquet(answer: &Answer) -> Result<Vec<u8>, parquet::errors::ParquetError> {
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, Arc::clone(&answer.schema), None)?;
    for batch in &answer.batches {
        writer.write(batch as &RecordBatch)?;
    }
    writer.close()?;
    Ok(out)
}
