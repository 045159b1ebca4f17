//! What rows of every signal have in common: who sent them, their keys, the count of those refused, and their size.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use lariat_schema::attributes;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::KeepReason;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use super::MAX_DECODED_BYTES;
use super::arrays::Texts;
use super::attributes::Entries;
use super::lists::Maps;
use super::view::{Attribute, Value};
use super::wire::MAX_PARTS;
use crate::columns::Nulls;
use crate::hashed::TextMap;

/// Resource attributes that are columns of every table, and the columns.
const SENDER: [(&str, &str); 4] = [
    (attributes::SERVICE_NAME, "service_name"),
    (attributes::SERVICE_INSTANCE_ID, "node_id"),
    (attributes::CLOUD_REGION, "region"),
    (attributes::BOOT_ID, "boot_id"),
];
/// Attributes of the sender that name a series: all but the boot, so that a restart continues it.
const SERIES_SENDER: usize = 3;
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

/// The resource and scope that records come from at the moment.
#[derive(Debug, Default)]
struct Context {
    sender: [Option<String>; 4],
    scope_name: Option<String>,
    scope_version: Option<String>,
    resource: Entries<'static>,
    /// The resource's attributes and the scope's, the latter as `otel.scope.<key>`.
    merged: Entries<'static>,
    resource_hash: u64,
    hash: u64,
    bytes: usize,
}

/// The common columns while they grow.
#[derive(Debug)]
pub(super) struct Rows {
    table: Table,
    pub(super) trusted: bool,
    pub(super) now_unix_nanos: i64,
    context: Context,
    sender: [Texts; 4],
    scope: [Texts; 2],
    resource_attributes: Maps,
    /// Rows whose common columns are filled.
    described: usize,
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
            sender: std::array::from_fn(|_| Texts::new()),
            scope: std::array::from_fn(|_| Texts::new()),
            resource_attributes: Maps::new(),
            described: 0,
            keys: Vec::new(),
            contents: Vec::new(),
            bytes: 0,
            rejected: 0,
            reason: None,
        }
    }

    /// See [`super::Sink::resource`].
    pub(super) fn resource(&mut self, resource: &Resource) {
        self.end_context();
        let mut context = Context { resource_hash: hash(resource, 0), ..Context::default() };
        let mut rest = Entries::default();
        for attribute in &resource.attributes {
            match (SENDER.iter().position(|(key, _)| *key == attribute.key), text_of(attribute)) {
                (Some(place), Some(text)) => context.sender[place] = Some(text.to_owned()),
                _ => rest.push(Attribute::of(attribute)),
            }
        }
        dropped(&mut rest, "otel.resource.dropped_attributes_count", resource.dropped_attributes_count);
        context.resource = rest.into_owned();
        self.context = context;
    }

    /// See [`super::Sink::scope`].
    pub(super) fn scope(&mut self, scope: &InstrumentationScope) {
        self.end_context();
        let mut merged = self.context.resource.clone();
        for attribute in &scope.attributes {
            merged.push_as(format!("otel.scope.{}", attribute.key), Value::of(attribute.value.as_ref()));
        }
        dropped(&mut merged, "otel.scope.dropped_attributes_count", scope.dropped_attributes_count);
        let has_version = self.table == Table::Spans;
        if !has_version && !scope.version.is_empty() {
            merged.put("otel.scope.version", scope.version.as_str());
        }
        merged.sort();
        let context = &mut self.context;
        context.merged = merged.into_owned();
        context.scope_name = some(&scope.name);
        context.scope_version = some(&scope.version);
        context.hash = hash(scope, context.resource_hash);
        context.bytes = ROW_BYTES
            + context.merged.bytes()
            + context.sender.iter().flatten().map(String::len).sum::<usize>()
            + scope.name.len()
            + scope.version.len();
    }

    /// How many rows there will be when all records of the scope, of which there are `records`, are accepted: none takes
    /// less than [`ROW_BYTES`].
    pub(super) fn expected(&self, records: usize) -> usize {
        (self.keys.len() + records).min(MAX_DECODED_BYTES / ROW_BYTES)
    }

    /// Hash of who sends, without the boot, and of the scope: what a series has beside its metric and labels.
    pub(super) fn series_identity(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.context.sender[..SERIES_SENDER].iter().chain([&self.context.scope_name]) {
            push_part(&mut bytes, part.as_deref().unwrap_or_default());
        }
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
        let total = self.bytes + self.context.bytes + bytes;
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
        let [service, ..] = &self.context.sender;
        (self.context.scope_name.as_deref().unwrap_or_default(), service.as_deref().unwrap_or_default())
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

    /// Fills the common columns of the rows that came from the resource and scope of the moment.
    fn end_context(&mut self) {
        let (from, to) = (self.described, self.keys.len());
        let scope = [&self.context.scope_name, &self.context.scope_version];
        let columns = self.sender.iter_mut().chain(&mut self.scope);
        for (column, value) in columns.zip(self.context.sender.iter().chain(scope)) {
            if let Some(value) = value {
                column.repeat(from, to, value);
            }
        }
        self.resource_attributes.append_times(&self.context.merged, to - from);
        self.described = to;
    }

    /// The batch: the signal's own columns and the common ones, in the table's order. A column that is none of them has no
    /// values.
    pub(super) fn finish(mut self, mut columns: Columns, kept: KeepReason, malformed_selections: u64) -> Finished {
        self.end_context();
        let rows = self.keys.len();
        let scope = ["scope_name", "scope_version"].into_iter().zip(self.scope);
        for (name, column) in SENDER.into_iter().map(|(_, name)| name).zip(self.sender).chain(scope) {
            if !column.is_empty() {
                columns.insert(name, column.finish(rows));
            }
        }
        columns.insert("resource_attributes", self.resource_attributes.finish());
        columns.insert("observed_time", times(vec![self.now_unix_nanos; rows]));
        columns.insert("adjusted_count", Arc::new(Float64Array::from(vec![1.0; rows])));
        columns.insert("keep_reason", Arc::new(StringArray::from(vec![kept.as_str(); rows])));
        let schema = self.table.schema();
        let nulls = Nulls::default();
        let ordered = schema.fields().iter().enumerate().map(|(place, field)| {
            let Some(mut column) = columns.remove(field.name().as_str()) else {
                return nulls.of_column(self.table, place, rows);
            };
            // A batch lives long, so what it takes is what its rows take.
            if let Some(column) = Arc::get_mut(&mut column) {
                column.shrink_to_fit();
            }
            column
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

fn text_of(attribute: &KeyValue) -> Option<&str> {
    Value::of(attribute.value.as_ref()).as_text()
}

fn hash(message: &impl Message, seed: u64) -> u64 {
    xxh3_64_with_seed(&message.encode_to_vec(), seed)
}
