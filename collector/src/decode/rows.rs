//! What rows of every signal have in common: their keys, the count of those refused, their size, and the batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampNanosecondArray};
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::KeepReason;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use super::MAX_DECODED_BYTES;
use super::attributes::Entries;
use super::origin::{Context, Origins};
use super::senders::Senders;
use super::wire::MAX_PARTS;
use crate::columns::Nulls;
use crate::hashed::TextMap;

/// What a row costs beside its texts: offsets, validity, numbers and ids of its columns, rounded up.
const ROW_BYTES: usize = 512;

/// Columns by name.
pub(super) type Columns = TextMap<&'static str, ArrayRef>;

/// All rows of a request.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) batch: RecordBatch,
    pub(super) keys: Vec<u128>,
    pub(super) contents: Vec<u64>,
    pub(super) rejected: u64,
    pub(super) reason: Option<String>,
    pub(super) malformed_selections: u64,
}

/// The common columns while they grow.
#[derive(Debug)]
pub(super) struct Rows {
    table: Table,
    pub(super) trusted: bool,
    pub(super) now_unix_nanos: i64,
    /// The resource and scope that records come from at the moment.
    context: Context,
    /// What a row from there costs beside its own values.
    context_bytes: usize,
    origins: Origins,
    keys: Vec<u128>,
    contents: Vec<u64>,
    bytes: usize,
    rejected: u64,
    reason: Option<String>,
}

impl Rows {
    pub(super) fn new(table: Table, trusted: bool, now_unix_nanos: i64) -> Self {
        Self {
            table,
            trusted,
            now_unix_nanos,
            context: Context::default(),
            context_bytes: ROW_BYTES,
            origins: Origins::new(),
            keys: Vec::new(),
            contents: Vec::new(),
            bytes: 0,
            rejected: 0,
            reason: None,
        }
    }

    /// See [`super::Sink::resource`].
    pub(super) fn resource(&mut self, resource: &Resource) {
        self.origins.fill(&self.context, self.keys.len());
        self.context = Context::of(resource);
    }

    /// See [`super::Sink::scope`].
    pub(super) fn scope(&mut self, scope: &InstrumentationScope) {
        self.origins.fill(&self.context, self.keys.len());
        self.context.enter(scope, self.table);
        self.context_bytes = ROW_BYTES + self.context.bytes();
    }

    /// How many rows there will be when all records of the scope, of which there are `records`, are accepted: none takes
    /// less than [`ROW_BYTES`].
    pub(super) fn expected(&self, records: usize) -> usize {
        (self.keys.len() + records).min(MAX_DECODED_BYTES / ROW_BYTES)
    }

    /// Hash of who sends, without the boot, and of the scope: what a series has beside its metric and labels.
    pub(super) fn series_identity(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.context.series_parts().for_each(|part| push_part(&mut bytes, part));
        bytes
    }

    /// Hash of a record's content, its resource and scope included.
    pub(super) fn content(&self, encoded: &[u8]) -> u64 {
        xxh3_64_with_seed(encoded, self.context.hash)
    }

    /// Key of a record that is its own content.
    pub(super) fn content_key(&self, encoded: &[u8]) -> u128 {
        let mut bytes = self.context.hash.to_le_bytes().to_vec();
        bytes.extend_from_slice(encoded);
        xxh3_128(&bytes)
    }

    /// Whether there is room for one more row of `bytes` of its own; if not, it is rejected here.
    pub(super) fn admit(&mut self, bytes: usize) -> bool {
        let total = self.bytes + self.context_bytes + bytes;
        if total > MAX_DECODED_BYTES {
            self.reject(|| {
                format!("the request's rows take more than {MAX_DECODED_BYTES} bytes: send fewer records at once")
            });
            return false;
        }
        self.bytes = total;
        true
    }

    /// Counts a record that was refused for the memory it would take as an object.
    pub(super) fn reject_outsized(&mut self) {
        self.reject(|| format!("a record has more than {MAX_PARTS} parts"));
    }

    /// Counts a refused record; the reason of the first is kept.
    pub(super) fn reject(&mut self, reason: impl FnOnce() -> String) {
        self.rejected += 1;
        self.reason.get_or_insert_with(reason);
    }

    /// Names of the scope and the service that records come from at the moment.
    pub(super) fn origin(&self) -> (&str, &str) {
        self.context.names()
    }

    /// Accepted records so far.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Appends an accepted record; its common columns follow with all that come from the same scope.
    pub(super) fn append(&mut self, key: u128, content: u64) {
        self.keys.push(key);
        self.contents.push(content);
    }

    /// The batch: the signal's own columns and the common ones, in the table's order. A column that is none of them has no
    /// values.
    pub(super) fn finish(
        mut self,
        mut columns: Columns,
        kept: KeepReason,
        malformed_selections: u64,
        senders: Option<&Senders>,
    ) -> Finished {
        let rows = self.keys.len();
        columns.extend(self.origins.finish((&self.context, rows), (self.table, kept), senders));
        columns.insert("observed_time", times(vec![self.now_unix_nanos; rows]));
        let schema = self.table.schema();
        let nulls = Nulls::default();
        let ordered = schema.fields().iter().enumerate().map(|(place, field)| {
            let column = columns.remove(field.name().as_str()).map(fitting);
            column.unwrap_or_else(|| nulls.of_column(self.table, place, rows))
        });
        let ordered = ordered.collect();
        let batch = RecordBatch::try_new(schema, ordered).expect("every column has the table's type and length");
        if self.rejected == 0 && malformed_selections > 0 {
            self.reason = Some(format!(
                "{malformed_selections} decision events have parallel arrays of unequal length: kept as plain events"
            ));
        }
        Finished {
            batch,
            keys: self.keys,
            contents: self.contents,
            rejected: self.rejected,
            reason: self.reason,
            malformed_selections,
        }
    }
}

/// The column, with no more room than its values take: a batch lives long.
pub(super) fn fitting(mut column: ArrayRef) -> ArrayRef {
    if let Some(column) = Arc::get_mut(&mut column) {
        column.shrink_to_fit();
    }
    column
}

/// A column of moments.
pub(super) fn times(unix_nanos: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from(unix_nanos).with_timezone("UTC"))
}

/// A column of moments, some missing.
pub(super) fn optional_times(unix_nanos: Vec<Option<i64>>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from(unix_nanos).with_timezone("UTC"))
}

/// The text, if there is one.
pub(super) fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Appends a text so that two lists of texts are equal in bytes only if they are equal.
pub(super) fn push_part(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&text.len().to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// Says how many attributes (or events, or links) the sender had to drop, if any.
pub(super) fn dropped(entries: &mut Entries<'_>, key: &'static str, count: u32) {
    if count > 0 {
        entries.put(key, count.to_string());
    }
}
