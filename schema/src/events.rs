//! Names of events: OTLP log records with an event name, and the one event inside a span.

/// One declared event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Its name on the wire.
    pub name: &'static str,
    /// What it tells.
    pub doc: &'static str,
}

macro_rules! events {
    ($($konst:ident = $name:literal, $doc:literal;)+) => {
        $(#[doc = $doc] pub const $konst: &str = $name;)+
        /// Every event that Lariat itself writes.
        pub const ALL: &[Event] = &[$(Event { name: $name, doc: $doc }),+];
    };
}

events! {
    DECISION = "lariat.decision", "One selection: the candidates, why each was taken or passed over. Stands inside the SERVER span.";
    CIRCUIT_TRANSITION = "lariat.circuit.transition", "A circuit breaker changed its state.";
    PROVIDER_HEALTH = "lariat.provider.health", "A provider's health status changed.";
    PROVIDER_RATE_LIMIT = "lariat.provider.rate_limit", "A provider began to limit the rate of our calls, or prolonged its limit.";
    HEALTH_SNAPSHOT = "lariat.health.snapshot", "What decisions could know of circuits, limits, heights, sockets and drained providers, with the snapshot's number; at most one a second, when it changes.";
    BLOCK_HEAD = "lariat.block.head", "A provider reported a new height.";
    BLOCK_REORGANISED = "lariat.block.reorganised", "A provider announced another block where the cache had taken one to be final; what was kept of the chain is forgotten.";
    SUBSCRIPTION_ESTABLISHED = "lariat.subscription.established", "A stream of events was subscribed to at a provider, for its first client.";
    SUBSCRIPTION_FAILED = "lariat.subscription.failed", "A stream of events found no provider, or ended since something of it is lost for good.";
    SUBSCRIPTION_FAILOVER = "lariat.subscription.failover", "A stream of events goes on at another provider.";
    SUBSCRIPTION_STALE = "lariat.subscription.stale", "A provider gave no head for too long, so that the stream leaves it.";
    CONFIG_RELOAD = "lariat.config.reload", "Profiles were loaded; carries the redacted policy behind the policy hash.";
    HEARTBEAT = "lariat.heartbeat", "Every 5 s and at a clean end: highest decision_seq and drops.";
}
