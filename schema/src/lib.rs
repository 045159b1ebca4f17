//! What a record is called and what it looks like: names on the wire, closed vocabularies, tables, views, layout of
//! files, reports, coverage and invariants. Everything here is declared once; the proxy that writes a record, the
//! collector that stores it, the SQL views that read it and the documentation are checked against these lists.
//!
//! This crate does no IO, knows no runtime and cannot fail except at parsing a name. It never decides anything:
//! routing lives in the proxy, keeping in the collector, merging in the query service.
//!
//! The modules stand from the smallest word to the largest shape.

mod closed_enum;

pub mod attributes;
pub mod bucket;
pub mod cells;
pub mod coverage;
pub mod double_text;
pub mod duration_text;
pub mod events;
pub mod ids;
pub mod invariants;
pub mod layout;
pub mod live;
pub mod metrics;
pub mod node_api;
pub mod reports;
pub mod seeds;
pub mod tables;
pub mod time_range;
pub mod views;
pub mod vocabulary;

/// Version of the schema, written into the metadata of every file under [`layout::SCHEMA_VERSION_KEY`].
/// Columns are only ever added: a reader of version `n` reads every file of a lower version.
pub const SCHEMA_VERSION: u32 = 1;

/// The schema URL of the OpenTelemetry conventions whose names are used.
/// Source: <https://opentelemetry.io/docs/specs/semconv/> 1.45.0.
pub const SEMCONV_SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.45.0";
