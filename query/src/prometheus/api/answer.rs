//! Answers and errors as Prometheus writes them, with coverage and sampling in `data.stats`.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::Response;
use lariat_schema::coverage::{Coverage, Sampling};
use serde_json::{Map, Value, json};

use super::super::eval::{EvalError, Outcome};
use super::super::format::{float, json_float, seconds};
use super::super::histogram::Native;
use super::super::notes::place;
use super::super::syntax::SyntaxError;
use super::super::value::{Grid, Sample, Series, Track};
use crate::ask::{AskError, Stats};

/// Why there is no answer, by whose fault: the table of statuses is [`ApiError::parts`].
#[derive(Debug)]
pub(super) enum ApiError {
    /// The request is wrong.
    BadData(String),
    /// The query cannot be evaluated on these data.
    Execution(String),
    /// It took too long.
    Timeout(String),
    /// Less of the fleet answered than the client wants.
    NotCovered(String),
    /// Our fault.
    Internal,
}

impl ApiError {
    /// A parameter that is no expression.
    pub(super) fn syntax(parameter: &str, text: &str, error: &SyntaxError) -> Self {
        let (line, column) = place(text, error.at);
        Self::BadData(format!("invalid parameter {parameter:?}: {line}:{column}: {error}"))
    }

    fn parts(self) -> (StatusCode, &'static str, String) {
        match self {
            Self::BadData(message) => (StatusCode::BAD_REQUEST, "bad_data", message),
            Self::Execution(message) => (StatusCode::UNPROCESSABLE_ENTITY, "execution", message),
            Self::Timeout(message) => (StatusCode::SERVICE_UNAVAILABLE, "timeout", message),
            Self::NotCovered(message) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", message),
            Self::Internal => {
                let message = "the query failed inside the service".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
            }
        }
    }
}

impl From<EvalError> for ApiError {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::Timeout => Self::Timeout(error.to_string()),
            EvalError::Execution(_) | EvalError::TooManySamples => Self::Execution(error.to_string()),
        }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::TooLarge { message, hint } => {
                Self::Execution(hint.map_or_else(|| message.clone(), |hint| format!("{message}; {hint}")))
            }
            AskError::NotCovered { .. } => Self::NotCovered(error.to_string()),
            AskError::Deadline { .. } | AskError::Busy { .. } | AskError::TooMany { .. } | AskError::Gone => {
                Self::Timeout(error.to_string())
            }
            // The SQL is ours, so a bad one is our fault too.
            AskError::BadQuestion { message, .. } => {
                tracing::error!(%message, "a PromQL query became a question that the engine refuses");
                Self::Internal
            }
            AskError::Internal { source } => {
                tracing::error!(error = %source, "a PromQL query failed in the engine");
                Self::Internal
            }
        }
    }
}

/// A good answer.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// `data`.
    pub(super) data: Value,
    /// `warnings`.
    pub(super) warnings: Vec<String>,
    /// `infos`.
    pub(super) infos: Vec<String>,
}

impl Reply {
    pub(super) fn new(data: Value) -> Self {
        Self { data, ..Self::default() }
    }

    /// Says how much of the fleet the answer covers: a line only if something is missing, and the whole of it in the
    /// statistics where `data` is an object.
    pub(super) fn covered(mut self, coverage: Option<Coverage>, sampling: &Sampling) -> Self {
        if let Some(coverage) = coverage.as_ref().filter(|coverage| !coverage.complete) {
            let (answered, expected) = (coverage.answered, coverage.expected);
            let percent = (coverage.ratio * 1_000.0).floor() / 10.0;
            self.warnings.push(format!("incomplete: {answered} of {expected} nodes, {percent} % of node-time"));
        }
        if let Value::Object(data) = &mut self.data {
            let mut stats = Map::new();
            if let Some(coverage) = coverage {
                stats.insert("coverage".to_owned(), json!(coverage));
            }
            stats.insert("sampling".to_owned(), json!(sampling));
            data.insert("stats".to_owned(), Value::Object(stats));
        }
        self
    }

    /// Says whether a part of the answer was kept from before, and for how long.
    pub(super) fn aged(mut self, stats: &Stats) -> Self {
        if let Some(Value::Object(told)) = self.data.get_mut("stats") {
            told.insert("cached".to_owned(), json!(stats.cached));
            told.insert("age_ms".to_owned(), json!(stats.age_ms));
        }
        self
    }
}

/// The answer as HTTP.
pub(super) fn respond(answered: Result<Reply, ApiError>) -> Response {
    let (status, body) = match answered {
        Ok(reply) => {
            let mut body = Map::new();
            body.insert("status".to_owned(), json!("success"));
            body.insert("data".to_owned(), reply.data);
            for (key, lines) in [("warnings", reply.warnings), ("infos", reply.infos)] {
                if !lines.is_empty() {
                    body.insert(key.to_owned(), json!(lines));
                }
            }
            (StatusCode::OK, Value::Object(body))
        }
        Err(error) => {
            let (status, kind, message) = error.parts();
            (status, json!({"status": "error", "errorType": kind, "error": message}))
        }
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// `data` of an instant query.
pub(super) fn instant(outcome: Outcome, time: i64) -> Value {
    match outcome {
        Outcome::Scalar(values) => {
            let value = values.first().copied().unwrap_or(f64::NAN);
            json!({"resultType": "scalar", "result": [seconds(time), json_float(value)]})
        }
        Outcome::Text(text) => json!({"resultType": "string", "result": [seconds(time), text]}),
        Outcome::Vector(tracks) => {
            let result: Vec<Value> = tracks
                .into_iter()
                .filter_map(|track| {
                    let sample = track.samples.into_iter().next().flatten()?;
                    let (key, value) = sample_json(time, &sample);
                    Some(json!({"metric": track.labels, key: value}))
                })
                .collect();
            json!({"resultType": "vector", "result": result})
        }
        Outcome::Matrix(series) => matrix(series.into_iter()),
    }
}

/// `data` of a range query.
pub(super) fn range(outcome: Outcome, grid: Grid) -> Value {
    match outcome {
        Outcome::Scalar(values) => {
            let floats = grid.times().zip(values).collect();
            matrix(std::iter::once(Series { floats, ..Series::default() }))
        }
        Outcome::Vector(tracks) => matrix(tracks.into_iter().map(|track| as_series(track, grid))),
        Outcome::Matrix(series) => matrix(series.into_iter()),
        Outcome::Text(text) => json!({"resultType": "string", "result": [seconds(grid.start), text]}),
    }
}

fn as_series(track: Track, grid: Grid) -> Series {
    let mut series = Series { labels: track.labels, ..Series::default() };
    for (time, sample) in grid.times().zip(track.samples) {
        match sample {
            Some(Sample::Float(value)) => series.floats.push((time, value)),
            Some(Sample::Histogram(histogram)) => series.histograms.push((time, histogram)),
            None => {}
        }
    }
    series
}

fn matrix(series: impl Iterator<Item = Series>) -> Value {
    let result: Vec<Value> = series
        .map(|series| {
            let mut entry = Map::new();
            entry.insert("metric".to_owned(), json!(series.labels));
            if !series.floats.is_empty() {
                let values = series.floats.iter().map(|(time, value)| json!([seconds(*time), json_float(*value)]));
                entry.insert("values".to_owned(), values.collect());
            }
            if !series.histograms.is_empty() {
                let histograms =
                    series.histograms.iter().map(|(time, value)| json!([seconds(*time), histogram(value)]));
                entry.insert("histograms".to_owned(), histograms.collect());
            }
            Value::Object(entry)
        })
        .collect();
    json!({"resultType": "matrix", "result": result})
}

fn sample_json(time: i64, sample: &Sample) -> (&'static str, Value) {
    match sample {
        Sample::Float(value) => ("value", json!([seconds(time), json_float(*value)])),
        Sample::Histogram(value) => ("histogram", json!([seconds(time), histogram(value)])),
    }
}

/// A native histogram: each bucket as which of its bounds are inside (0 the upper, 1 the lower, 2 none, 3 both), its
/// bounds and its count.
fn histogram(histogram: &Native) -> Value {
    let mut object = Map::new();
    object.insert("count".to_owned(), json!(json_float(histogram.count)));
    object.insert("sum".to_owned(), json!(json_float(histogram.sum)));
    let buckets: Vec<Value> = histogram
        .buckets()
        .filter(|bucket| bucket.count != 0.0)
        .map(|bucket| {
            let rule = match (bucket.lower_inclusive, bucket.upper_inclusive) {
                (false, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
            };
            json!([rule, float(bucket.lower), float(bucket.upper), json_float(bucket.count)])
        })
        .collect();
    if !buckets.is_empty() {
        object.insert("buckets".to_owned(), Value::Array(buckets));
    }
    Value::Object(object)
}
