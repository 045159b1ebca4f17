//! A report's answer, in the shape of SQL's: columns, rows, coverage, sampling, stats. Rows are typed values that
//! serialise themselves, so that a column cannot be named in one place and filled in another; a test compares both.

use arrow::datatypes::Schema;
use axum::Json;
use axum::response::{IntoResponse, Response};
use lariat_schema::coverage::{Coverage, Sampling};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::ask::{Answer, Stats};

/// Name and Arrow type of a column.
pub(crate) type Column = (&'static str, &'static str);

/// Arrow's name of the type of every moment.
pub(crate) const MOMENT: &str = "Timestamp(ns, \"UTC\")";

/// Rows of a report before they have a coverage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sheet {
    columns: Vec<(String, String)>,
    rows: Vec<Value>,
    hint: Option<String>,
}

impl Sheet {
    /// Rows, in the order in which they are shown, cut at `limit`.
    pub(crate) fn new<T: Serialize>(columns: Vec<Column>, rows: impl IntoIterator<Item = T>, limit: usize) -> Self {
        Self::cut(columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect(), rows, limit)
    }

    /// Rows with the columns of a table.
    pub(crate) fn of_schema<T: Serialize>(schema: &Schema, rows: impl IntoIterator<Item = T>, limit: usize) -> Self {
        let fields = schema.fields().iter();
        Self::cut(fields.map(|field| (field.name().clone(), field.data_type().to_string())).collect(), rows, limit)
    }

    /// With a word that there are further rows, of which nobody knows the number.
    pub(crate) fn with_more(mut self) -> Self {
        self.hint = Some("further rows are left out; narrow the filters or raise `limit`".to_owned());
        self
    }

    fn cut<T: Serialize>(columns: Vec<(String, String)>, rows: impl IntoIterator<Item = T>, limit: usize) -> Self {
        let mut rows = rows.into_iter();
        let kept = rows.by_ref().take(limit).filter_map(|row| serde_json::to_value(row).ok()).collect();
        let left = rows.count();
        let hint = (left > 0).then(|| format!("{left} further rows are left out; narrow the filters or raise `limit`"));
        Self { columns, rows: kept, hint }
    }
}

/// What came with the rows: the poorest coverage of all questions asked, the costs of all.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Provenance {
    coverage: Coverage,
    sampling: Sampling,
    stats: Stats,
}

impl Provenance {
    /// Of one answer.
    pub(crate) fn of(answer: &Answer) -> Self {
        Self { coverage: answer.coverage.clone(), sampling: answer.sampling.clone(), stats: answer.stats.clone() }
    }

    /// Of one more answer behind the same report. They are asked at the same time, so the longest wait counts.
    pub(crate) fn and(mut self, answer: &Answer) -> Self {
        if is_poorer(&answer.coverage, &self.coverage) {
            self.coverage = answer.coverage.clone();
        }
        self.sampling.weighted |= answer.sampling.weighted;
        self.sampling.min_probability = self.sampling.min_probability.min(answer.sampling.min_probability);
        self.sampling.unknown_weight_share =
            self.sampling.unknown_weight_share.max(answer.sampling.unknown_weight_share);
        self.stats.elapsed_ms = self.stats.elapsed_ms.max(answer.stats.elapsed_ms);
        self.stats.bytes_scanned += answer.stats.bytes_scanned;
        self.stats.files_scanned += answer.stats.files_scanned;
        self.stats.pruned = self.stats.pruned.and(answer.stats.pruned);
        self
    }

    /// Of rollups and events, which are counted before anything is sampled: no row stands for more than itself.
    pub(crate) fn unsampled(mut self) -> Self {
        self.sampling = Sampling::default();
        self
    }

    /// How much of the fleet is in the answer.
    pub(crate) fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Coverage and sampling as fields of an answer that has no rows.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("coverage".to_owned(), json!(self.coverage));
        fields.insert("sampling".to_owned(), json!(self.sampling));
        fields
    }
}

fn is_poorer(left: &Coverage, right: &Coverage) -> bool {
    (left.ratio, left.answered, left.complete) < (right.ratio, right.answered, right.complete)
}

/// The answer of a report.
pub(crate) fn respond(sheet: Sheet, mut provenance: Provenance) -> Response {
    provenance.stats.rows = u64::try_from(sheet.rows.len()).unwrap_or(u64::MAX);
    let columns: Vec<Value> =
        sheet.columns.iter().map(|(name, data_type)| json!({ "name": name, "type": data_type })).collect();
    let mut body = Map::new();
    body.insert("columns".to_owned(), Value::Array(columns));
    body.insert("rows".to_owned(), Value::Array(sheet.rows));
    body.append(&mut provenance.fields());
    body.insert("stats".to_owned(), json!(provenance.stats));
    if let Some(hint) = sheet.hint {
        body.insert("hint".to_owned(), Value::String(hint));
    }
    Json(Value::Object(body)).into_response()
}
