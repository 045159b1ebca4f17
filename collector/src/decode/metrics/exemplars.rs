//! Exemplars: the way from a point back to a trace.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, Float64Builder};
use lariat_schema::tables::exemplar_fields;
use opentelemetry_proto::tonic::metrics::v1::Exemplar;
use opentelemetry_proto::tonic::metrics::v1::exemplar::Value;

use super::super::attributes::Entries;
use super::super::lists::{Lists, Maps};
use super::super::rows::times;
use super::super::spans::{append_id, optional_id};

/// The column `exemplars`.
#[derive(Debug)]
pub(super) struct Exemplars {
    lists: Lists,
    time: Vec<i64>,
    value: Float64Builder,
    trace_id: FixedSizeBinaryBuilder,
    span_id: FixedSizeBinaryBuilder,
    attributes: Maps,
}

impl Exemplars {
    pub(super) fn new() -> Self {
        Self {
            lists: Lists::new(),
            time: Vec::new(),
            value: Float64Builder::new(),
            trace_id: FixedSizeBinaryBuilder::new(16),
            span_id: FixedSizeBinaryBuilder::new(8),
            attributes: Maps::new(),
        }
    }

    /// Appends a row. An exemplar without a value exemplifies nothing and is left out; one whose ids have the wrong
    /// length keeps its value.
    #[allow(clippy::cast_precision_loss, reason = "the column is a float: whole numbers are exact up to 2^53")]
    pub(super) fn append(&mut self, exemplars: &[Exemplar]) {
        let before = self.time.len();
        for exemplar in exemplars {
            let value = match exemplar.value {
                Some(Value::AsDouble(value)) => value,
                Some(Value::AsInt(value)) => value as f64,
                None => continue,
            };
            self.time.push(i64::try_from(exemplar.time_unix_nano).unwrap_or(i64::MAX));
            self.value.append_value(value);
            append_id::<16>(&mut self.trace_id, optional_id(&exemplar.trace_id, "trace id").unwrap_or(None));
            append_id::<8>(&mut self.span_id, optional_id(&exemplar.span_id, "span id").unwrap_or(None));
            self.attributes.append(&Entries::of(&exemplar.filtered_attributes));
        }
        self.lists.end_row(self.time.len(), self.time.len() > before);
    }

    /// The column.
    pub(super) fn finish(mut self) -> ArrayRef {
        let children = vec![
            times(self.time),
            Arc::new(self.value.finish()) as ArrayRef,
            Arc::new(self.trace_id.finish()),
            Arc::new(self.span_id.finish()),
            self.attributes.finish(),
        ];
        self.lists.finish(exemplar_fields(), children)
    }
}
