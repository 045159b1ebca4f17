//! Names of the reports: the same in the query API, the dashboard's panels, Grafana and the tests.

use crate::closed_enum::closed_enum;

closed_enum! {
    /// A report.
    pub enum Report ("report") {
        /// Calls, rates and success by time.
        Traffic = "traffic",
        /// Percentiles from the union of sketches.
        Latency = "latency",
        /// Errors by category.
        Errors = "errors",
        /// Intended against actual share of each provider, exclusions by reason.
        Routing = "routing",
        /// Each provider's calls, success and latency, by region.
        Providers = "providers",
        /// Circuit transitions and states.
        Circuits = "circuits",
        /// Heights and lags.
        Blocks = "blocks",
        /// What accounts used.
        Usage = "usage",
        /// Nodes, their states, watermarks and ledgers.
        Nodes = "nodes",
        /// Spans of one trace.
        Trace = "trace",
    }
}
