//! OTLP in → dedup → commit → roll up → keep → Arrow → Parquet, and the node's side of a query.
//!
//! The modules stand in the order in which a record passes them.

pub mod receive;

pub mod decode;

pub mod ingest;

pub mod store;

pub mod worker;
