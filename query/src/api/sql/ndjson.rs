//! NDJSON as its rows come: a line per row, and a last one with what stands beside them, or with the error that ended them.
//! Whoever finds neither `coverage` nor `error` in the last line has not got the whole answer.
//!
//! The body is made when it is asked for, a few hundred rows at a time: a reader who does not read makes nothing, and one
//! who has gone ends the question.

use std::convert::Infallible;

use arrow::array::RecordBatch;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream;
use serde_json::Value;

use super::members;
use crate::answer::rows_as_json;
use crate::api::ApiError;
use crate::ask::{AskError, Part, Rows};

/// Rows written at a time: some hundred kilobytes of the widest table.
const ROWS_PER_CHUNK: usize = 256;

/// The rows, as a body.
pub(super) fn response(rows: Rows) -> Response {
    let chunks = rows.parts.flat_map(|part| {
        let chunks: Vec<Bytes> = match part {
            Ok(Part::Rows(batch)) => return stream::iter(slices(batch)).map(|slice| Ok(lines(&slice))).boxed(),
            Ok(Part::End(beside)) => vec![line(&Value::Object(members(&beside)))],
            Err(error) => vec![line(&ApiError::from(error).body())],
        };
        stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)).boxed()
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(chunks)).into_response()
}

fn slices(batch: RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let rows = batch.num_rows();
    (0..rows).step_by(ROWS_PER_CHUNK).map(move |from| batch.slice(from, ROWS_PER_CHUNK.min(rows - from)))
}

fn lines(batch: &RecordBatch) -> Bytes {
    let mut out = Vec::new();
    match rows_as_json(batch, |out| out.push(b'\n'), &mut out) {
        Ok(()) => out.into(),
        Err(error) => line(&ApiError::from(AskError::Internal { source: Box::new(error) }).body()),
    }
}

fn line(value: &Value) -> Bytes {
    (value.to_string() + "\n").into()
}
