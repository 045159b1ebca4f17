//! Simulated providers, load generators, a faulty TCP relay and a bare forwarding proxy: one implementation for the
//! demo, the tests and the benchmarks. It knows nothing of the collector's or the query service's code, so that it
//! builds fast and cannot share their mistakes; what it knows of Lariat are the names in the schema.

pub mod bench_routing;
pub mod calls;
pub mod chain;
pub mod fleet;
pub mod floor;
pub mod histogram;
mod link;
pub mod load_otlp;
pub mod load_rpc;
mod pace;
pub mod provider;
pub mod relay;
pub mod traffic;
