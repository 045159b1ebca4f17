//! Simulated providers, load generators, a faulty TCP relay and a bare forwarding proxy: one implementation for the
//! demo, the tests and the benchmarks. It knows nothing of the collector's or the query service's code, so that it
//! builds fast and cannot share their mistakes; what it knows of Lariat are the names in the schema.

pub mod calls;
pub mod chain;
pub mod fleet;
pub mod provider;
pub mod traffic;
