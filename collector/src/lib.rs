//! OTLP in → dedup → commit → roll up → keep → Arrow → Parquet, and the node's side of a query.
//!
//! The modules stand in the order in which a record passes them.

pub mod receive;

pub mod forward;

pub mod decode;

mod columns;

mod hashed;

mod held;

mod dictionary;

pub mod ingest;

mod dedup;

mod log;

mod ledger;

mod rollup;

mod call_metrics;

mod span_metrics;

pub mod keep;

pub mod store;

mod live;

mod node_status;

mod sequences;

mod attendance;

mod node_api;

#[cfg(feature = "worker")]
pub mod worker;

pub mod pipeline;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod fixtures;

pub use decode::{BadMapping, Mapping, MappingFault};
pub use forward::Config as ForwardConfig;
pub use keep::{Policies, SamplingPolicy};
pub use pipeline::{Addresses, Collector, Config, Settings, StartError, Starting, start};
