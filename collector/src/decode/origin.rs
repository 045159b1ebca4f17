//! Who sent records: their resource and scope, as columns.
//!
//! All records of a scope have these columns alike, so that they are filled for all at once when the next scope begins.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use lariat_schema::attributes;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::KeepReason;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::arrays::Texts;
use super::attributes::Entries;
use super::lists::Maps;
use super::rows::{dropped, fitting, some};
use super::senders::{Named, Senders};
use super::view::{Attribute, Value};

/// Resource attributes that are columns of every table, and the columns.
const SENDER: [(&str, &str); 4] = [
    (attributes::SERVICE_NAME, "service_name"),
    (attributes::SERVICE_INSTANCE_ID, "node_id"),
    (attributes::CLOUD_REGION, "region"),
    (attributes::BOOT_ID, "boot_id"),
];
/// Attributes of the sender that name a series: all but the boot, so that a restart continues it.
const SERIES_SENDER: usize = 3;

/// A resource and a scope of it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Context {
    /// Of both as they came. It stands first, since contexts that differ nearly always differ in it.
    pub(super) hash: u64,
    sender: [Option<String>; 4],
    scope_name: Option<String>,
    scope_version: Option<String>,
    resource: Entries<'static>,
    /// The resource's attributes and the scope's, the latter as `otel.scope.<key>`.
    merged: Entries<'static>,
    resource_hash: u64,
}

impl Context {
    /// A resource, before it is known of which scope.
    pub(super) fn of(resource: &Resource) -> Self {
        let mut context = Self { resource_hash: hash(resource, 0), ..Self::default() };
        let mut rest = Entries::default();
        for attribute in &resource.attributes {
            match (SENDER.iter().position(|(key, _)| *key == attribute.key), text_of(attribute)) {
                (Some(place), Some(text)) => context.sender[place] = Some(text.to_owned()),
                _ => rest.push(Attribute::of(attribute)),
            }
        }
        dropped(&mut rest, "otel.resource.dropped_attributes_count", resource.dropped_attributes_count);
        context.resource = rest.into_owned();
        context
    }

    /// A scope of the resource from here on.
    pub(super) fn enter(&mut self, scope: &InstrumentationScope, table: Table) {
        let mut merged = self.resource.clone();
        for attribute in &scope.attributes {
            merged.push_as(format!("otel.scope.{}", attribute.key), Value::of(attribute.value.as_ref()));
        }
        dropped(&mut merged, "otel.scope.dropped_attributes_count", scope.dropped_attributes_count);
        let has_version = table == Table::Spans;
        if !has_version && !scope.version.is_empty() {
            merged.put("otel.scope.version", scope.version.as_str());
        }
        merged.sort();
        self.merged = merged.into_owned();
        self.scope_name = some(&scope.name);
        self.scope_version = some(&scope.version);
        self.hash = hash(scope, self.resource_hash);
    }

    /// Names of the scope and the service.
    pub(super) fn names(&self) -> (&str, &str) {
        let [service, ..] = &self.sender;
        (self.scope_name.as_deref().unwrap_or_default(), service.as_deref().unwrap_or_default())
    }

    /// What a series has beside its metric and labels: who sends it, without the boot, and the scope.
    pub(super) fn series_parts(&self) -> impl Iterator<Item = &str> {
        let parts = self.sender[..SERIES_SENDER].iter().chain([&self.scope_name]);
        parts.map(|part| part.as_deref().unwrap_or_default())
    }

    /// Bytes of all texts.
    pub(super) fn bytes(&self) -> usize {
        let texts = self.sender.iter().chain([&self.scope_name, &self.scope_version]).flatten();
        self.merged.bytes() + texts.map(String::len).sum::<usize>()
    }
}

/// The columns while they grow.
#[derive(Debug)]
pub(super) struct Origins {
    sender: [Texts; 4],
    scope: [Texts; 2],
    resource_attributes: Maps,
    /// Rows that are filled.
    rows: usize,
}

impl Origins {
    pub(super) fn new() -> Self {
        Self {
            sender: std::array::from_fn(|_| Texts::new()),
            scope: std::array::from_fn(|_| Texts::new()),
            resource_attributes: Maps::new(),
            rows: 0,
        }
    }

    /// Rows up to `rows` come from the context.
    pub(super) fn fill(&mut self, context: &Context, rows: usize) {
        let columns = self.sender.iter_mut().chain(&mut self.scope);
        for (column, value) in columns.zip(context.sender.iter().chain([&context.scope_name, &context.scope_version])) {
            if let Some(value) = value {
                column.repeat(self.rows, rows, value);
            }
        }
        self.resource_attributes.append_times(&context.merged, rows - self.rows);
        self.rows = rows;
    }

    /// The columns of so many rows, the last of which come from the context; those of the sender's last request if all do
    /// and it is the same. `kept` depends on the table alone.
    pub(super) fn finish(
        mut self,
        (context, rows): (&Context, usize),
        (table, kept): (Table, KeepReason),
        senders: Option<&Senders>,
    ) -> Named {
        let is_one = self.rows == 0;
        let make = || {
            self.fill(context, rows);
            self.named(kept)
        };
        match senders.filter(|_| is_one) {
            Some(senders) => senders.columns(table, context, rows, make),
            None => make(),
        }
    }

    fn named(self, kept: KeepReason) -> Named {
        let rows = self.rows;
        let names = SENDER.into_iter().map(|(_, name)| name).chain(["scope_name", "scope_version"]);
        let texts = names.zip(self.sender.into_iter().chain(self.scope)).filter(|(_, column)| !column.is_empty());
        let texts = texts.map(|(name, column)| (name, column.finish(rows)));
        let others: [(_, ArrayRef); 3] = [
            ("resource_attributes", self.resource_attributes.finish()),
            ("adjusted_count", Arc::new(Float64Array::from(vec![1.0; rows]))),
            ("keep_reason", Arc::new(StringArray::from(vec![kept.as_str(); rows]))),
        ];
        texts.chain(others).map(|(name, column)| (name, fitting(column))).collect()
    }
}

fn text_of(attribute: &KeyValue) -> Option<&str> {
    Value::of(attribute.value.as_ref()).as_text()
}

fn hash(message: &impl Message, seed: u64) -> u64 {
    xxh3_64_with_seed(&message.encode_to_vec(), seed)
}
