//! Names of metrics, never sampled.

/// Instrument of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instrument {
    /// An exponential histogram.
    ExponentialHistogram,
    /// Counts by explicit bounds.
    Histogram,
    /// A monotonic sum.
    Counter,
    /// A last value.
    Gauge,
}

/// One declared metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its OpenTelemetry name; the Prometheus name follows from it, the unit and the instrument.
    pub name: &'static str,
    /// Its instrument.
    pub instrument: Instrument,
    /// UCUM unit.
    pub unit: &'static str,
    /// What it counts.
    pub doc: &'static str,
}

macro_rules! metrics {
    ($($konst:ident = $name:literal, $instrument:ident, $unit:literal, $doc:literal;)+) => {
        $(#[doc = $doc] pub const $konst: &str = $name;)+
        /// Every metric that Lariat itself writes.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, instrument: Instrument::$instrument, unit: $unit, doc: $doc }),+];
    };
}

metrics! {
    SERVER_CALL_DURATION = "rpc.server.call.duration", ExponentialHistogram, "s", "Duration of each decision, by profile, chain, method, strategy, provider, transport and result.";
    CLIENT_CALL_DURATION = "rpc.client.call.duration", ExponentialHistogram, "s", "Duration of each attempt, by profile, chain, method, provider, transport and outcome.";
    CIRCUIT_STATE = "lariat.circuit.state", Gauge, "{state}", "0 closed, 1 half open, 2 open, by profile, chain, provider and transport.";
    BLOCK_HEIGHT = "lariat.block.height", Gauge, "{block}", "Latest height of each provider.";
    BLOCK_LAG = "lariat.block.lag", Gauge, "{block}", "Blocks behind the consensus height, at most 0.";
    CALLS_IN_FLIGHT = "lariat.calls.in_flight", Gauge, "{call}", "Calls accepted and not yet answered.";
    CANDIDATES_EXCLUDED = "lariat.candidates.excluded", Counter, "{candidate}", "Channels passed over by selections, by profile, chain, provider, transport and reason.";
    RETRIES = "lariat.retries", Counter, "{attempt}", "Attempts made after another one failed, by profile, chain, provider and transport.";
    HEDGES = "lariat.hedges", Counter, "{call}", "Calls that waited long enough for a hedge, by what became of it.";
    RECORDER_DROPPED = "lariat.recorder.dropped", Counter, "{decision}", "Decisions that the recorder refused or dropped, by reason.";
    SPAN_CALLS = "traces_spanmetrics_calls", Counter, "", "Spans received, sampled or not, by service, span name, kind and status.";
    SPAN_LATENCY = "traces_spanmetrics_latency", Histogram, "", "Their durations in seconds.";
    SPAN_SIZE = "traces_spanmetrics_size", Counter, "", "Bytes of their names and attributes, and 64 for the rest of each.";
    GRAPH_REQUESTS = "traces_service_graph_request", Counter, "", "Calls between two services, by client, server and connection type.";
    GRAPH_FAILED = "traces_service_graph_request_failed", Counter, "", "Those that either end called failed.";
    GRAPH_SERVER_SECONDS = "traces_service_graph_request_server_seconds", Histogram, "s", "Their durations as servers saw them; none of a server that sends no spans.";
    GRAPH_CLIENT_SECONDS = "traces_service_graph_request_client_seconds", Histogram, "s", "Their durations as clients saw them; none of a client that sends no spans.";
}

/// Boundaries of the classic histogram derived from a duration histogram, in seconds.
/// Source: OpenTelemetry semantic conventions, `rpc.server.call.duration`.
pub const DURATION_BOUNDARIES_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Highest scale of an exponential histogram that Prometheus' native histograms can hold.
pub const MAX_NATIVE_SCALE: i32 = 8;
