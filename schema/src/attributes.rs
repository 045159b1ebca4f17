//! The attributes of the record: their keys on the wire, types, units, meanings, and the columns that hold them.
//!
//! One list, because a key that the proxy writes and the collector does not read is a column that stays empty without
//! anybody noticing. Whoever writes or reads an attribute uses the constant; the list is what the documentation and
//! the tables are tested against.

/// Type of an attribute's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Text.
    String,
    /// A 64-bit signed integer.
    Int,
    /// A 64-bit float.
    Double,
    /// True or false.
    Bool,
    /// An array of texts, without nulls.
    StringArray,
    /// An array of floats, without nulls.
    DoubleArray,
}

/// Where an attribute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// On the resource of everything that a process sends.
    Resource,
    /// On the SERVER span of a decision.
    Decision,
    /// On the CLIENT span of an attempt.
    Attempt,
    /// On both kinds of span.
    DecisionAndAttempt,
    /// On the event [`crate::events::DECISION`] inside the SERVER span.
    Selection,
    /// On an OTLP log record with an event name.
    Event,
}

/// One declared attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute {
    /// Key on the wire.
    pub key: &'static str,
    /// Type of its value.
    pub value: ValueType,
    /// UCUM unit, `1` for none.
    pub unit: &'static str,
    /// Where it stands.
    pub carrier: Carrier,
    /// The column of its own that it has in its table, if any.
    pub column: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
}

macro_rules! attributes {
    ($($konst:ident = $key:literal, $value:ident, $unit:literal, $carrier:ident, $column:expr, $doc:literal;)+) => {
        $(#[doc = $doc] pub const $konst: &str = $key;)+

        /// Every attribute that Lariat itself writes.
        pub const ALL: &[Attribute] = &[
            $(Attribute { key: $key, value: ValueType::$value, unit: $unit, carrier: Carrier::$carrier, column: $column, doc: $doc }),+
        ];
    };
}

attributes! {
    SERVICE_NAME = "service.name", String, "1", Resource, Some("service_name"), "Which program sent it.";
    SERVICE_VERSION = "service.version", String, "1", Resource, None, "Its version.";
    SERVICE_INSTANCE_ID = "service.instance.id", String, "1", Resource, Some("node_id"), "The node id.";
    CLOUD_REGION = "cloud.region", String, "1", Resource, Some("region"), "The node's region.";
    BOOT_ID = "lariat.boot_id", String, "1", Resource, Some("boot_id"), "UUID that is new at every start of the node.";

    RPC_SYSTEM_NAME = "rpc.system.name", String, "1", DecisionAndAttempt, None, "Always `jsonrpc`.";
    RPC_METHOD = "rpc.method", String, "1", DecisionAndAttempt, Some("method"), "JSON-RPC method if recognised, else `_OTHER`.";
    RPC_METHOD_ORIGINAL = "rpc.method_original", String, "1", DecisionAndAttempt, Some("method_original"), "The method as called, where `rpc.method` is `_OTHER`.";
    RPC_STATUS_CODE = "rpc.status_code", String, "1", DecisionAndAttempt, Some("status_code"), "JSON-RPC `error.code`, absent on success.";
    ERROR_TYPE = "error.type", String, "1", DecisionAndAttempt, Some("error_type"), "Error code, or the error category where there is none; absent on success.";
    JSONRPC_PROTOCOL_VERSION = "jsonrpc.protocol.version", String, "1", DecisionAndAttempt, None, "Always `2.0`.";
    JSONRPC_REQUEST_ID = "jsonrpc.request.id", String, "1", Decision, Some("jsonrpc_id"), "The call's own id as text; absent for a notification or null.";

    REQUEST_ID = "lariat.request_id", String, "1", DecisionAndAttempt, Some("request_id"), "UUIDv7 of the HTTP request or WebSocket frame, made by the proxy.";
    BATCH_INDEX = "lariat.batch_index", Int, "1", DecisionAndAttempt, Some("batch_index"), "Place in the batch, 0 for a single call.";
    BATCH_SIZE = "lariat.batch_size", Int, "1", Decision, Some("batch_size"), "Number of calls in the batch, 1 for a single call.";
    DECISION_SEQ = "lariat.decision_seq", Int, "1", Decision, Some("decision_seq"), "Counted up by one per decision within a boot, from 1; a gap is loss.";
    PROFILE = "lariat.profile", String, "1", DecisionAndAttempt, Some("profile"), "Slug of the profile.";
    ACCOUNT_ID = "lariat.account_id", String, "1", DecisionAndAttempt, Some("account_id"), "The tenant; absent when nobody asked for keys.";
    CHAIN = "lariat.chain", String, "1", DecisionAndAttempt, Some("chain"), "Key of the chain in its profile.";
    CHAIN_ID = "lariat.chain_id", Int, "1", DecisionAndAttempt, Some("chain_id"), "EIP-155 chain id.";
    STRATEGY = "lariat.strategy", String, "1", DecisionAndAttempt, Some("strategy"), "The rule that ranked the candidates.";
    PROVIDER_ID = "lariat.provider_id", String, "1", DecisionAndAttempt, Some("provider_id"), "Provider whose answer was returned, or that was tried; absent if none.";
    INSTANCE_ID = "lariat.instance_id", String, "1", DecisionAndAttempt, Some("instance_id"), "The physical upstream behind the provider.";
    TRANSPORT = "lariat.transport", String, "1", DecisionAndAttempt, Some("transport"), "Transport to the provider.";
    CLIENT_TRANSPORT = "lariat.client_transport", String, "1", Decision, Some("client_transport"), "Transport of the client.";
    ORIGIN = "lariat.origin", String, "1", DecisionAndAttempt, Some("origin"), "Who caused the call.";
    ANSWERED_BY = "lariat.answered_by", String, "1", Decision, Some("answered_by"), "Where the answer came from.";
    RESULT = "lariat.result", String, "1", Decision, Some("result"), "How the decision ended.";
    ERROR_CATEGORY = "lariat.error_category", String, "1", DecisionAndAttempt, Some("error_category"), "Class of the error, absent on success.";
    ATTEMPTS = "lariat.attempts", Int, "{attempt}", Decision, Some("attempts"), "Attempts made.";
    FAILOVERS = "lariat.failovers", Int, "{attempt}", Decision, Some("failovers"), "Attempts made after another one failed.";
    CACHE = "lariat.cache", String, "1", Decision, Some("cache"), "What the cache or an identical call did; absent where neither was asked.";
    COALESCED_WITH = "lariat.coalesced_with", String, "1", Decision, None, "Request id of the call whose answer a coalesced one shares.";
    SELECTION_NS = "lariat.selection_ns", Int, "ns", Decision, Some("selection_ns"), "Time spent on choosing.";
    PROVIDER_NS = "lariat.provider_ns", Int, "ns", Decision, Some("provider_ns"), "Time spent on waiting for providers.";
    OVERHEAD_NS = "lariat.overhead_ns", Int, "ns", Decision, Some("overhead_ns"), "The rest of the duration: the proxy's own.";
    BYTES_IN = "lariat.bytes_in", Int, "By", Decision, Some("bytes_in"), "Bytes of the call's request.";
    BYTES_OUT = "lariat.bytes_out", Int, "By", Decision, Some("bytes_out"), "Bytes of the call's reply.";
    HEAD_LAG_BLOCKS = "lariat.head_lag_blocks", Int, "{block}", Decision, Some("head_lag_blocks"), "Chosen provider's height less the consensus height, at most 0; absent if unknown.";
    BILLABLE_UNITS = "lariat.billable_units", Double, "1", Decision, Some("billable_units"), "What the call costs.";
    PARAMS_DIGEST = "lariat.params_digest", String, "1", Decision, Some("params_digest"), "Keyed digest of the parameters.";
    RESPONSE_DIGEST = "lariat.response_digest", String, "1", Decision, Some("response_digest"), "Keyed digest of the result.";
    POLICY_HASH = "lariat.policy_hash", String, "1", Decision, Some("policy_hash"), "Hash of the redacted policy in force.";

    ORDINAL = "lariat.ordinal", Int, "1", Attempt, Some("ordinal"), "Place among the decision's attempts, from 1.";
    KIND = "lariat.kind", String, "1", Attempt, Some("kind"), "Why the attempt was made.";
    OUTCOME = "lariat.outcome", String, "1", Attempt, Some("outcome"), "How the attempt ended.";
    CENSORED = "lariat.censored", Bool, "1", Attempt, Some("censored"), "True where the latency is only a lower bound.";
    CIRCUIT_STATE = "lariat.circuit_state", String, "1", Attempt, Some("circuit_state"), "State of the channel's circuit when it was tried.";
    CIRCUIT_EPOCH = "lariat.circuit_epoch", Int, "1", Attempt, Some("circuit_epoch"), "Generation of that state.";
    DISPATCHED = "lariat.dispatched", String, "1", Attempt, Some("dispatched"), "Whether the request surely was sent.";
    TRANSPORT_FAILURE = "lariat.transport_failure", String, "1", Attempt, None, "What went wrong on the way, where no reply came.";
    HTTP_STATUS = "http.response.status_code", Int, "1", Attempt, Some("http_status"), "HTTP status of the provider's reply.";
    HTTP_RESEND_COUNT = "http.request.resend_count", Int, "1", Attempt, None, "Ordinal less one; absent on the first attempt.";
    SERVER_ADDRESS = "server.address", String, "1", Attempt, Some("server_address"), "Host of the provider's URL, never its path or query.";
    SERVER_PORT = "server.port", Int, "1", Attempt, None, "Port of the provider's URL.";

    SELECTION = "lariat.selection", Int, "1", Selection, None, "Ordinal of the selection within the decision, from 1.";
    ELIGIBLE_CHANNELS = "lariat.eligible.channels", StringArray, "1", Selection, None, "`provider_id:transport` of each eligible candidate, in rank order; the first is the choice.";
    ELIGIBLE_SCORES = "lariat.eligible.scores", DoubleArray, "1", Selection, None, "Score of each, lower first.";
    ELIGIBLE_INPUTS = "lariat.eligible.inputs", StringArray, "1", Selection, None, "What the score was made of, `name=value` pairs joined by commas.";
    ELIGIBLE_PROBABILITIES = "lariat.eligible.probabilities", DoubleArray, "1", Selection, None, "Probability with which the strategy puts each first.";
    EXCLUDED_CHANNELS = "lariat.excluded.channels", StringArray, "1", Selection, None, "`provider_id:transport` of each excluded candidate.";
    EXCLUDED_REASONS = "lariat.excluded.reasons", StringArray, "1", Selection, None, "Why each was passed over.";
    FAIL_OPEN = "lariat.fail_open", Bool, "1", Selection, None, "True where the filters were waived since they left nobody.";
    SNAPSHOT = "lariat.snapshot", Int, "1", Selection, None, "Number of the health and evidence snapshot that was read.";
    SEED = "lariat.seed", String, "1", Selection, None, "Seed of the selection's draws, in hexadecimal, of a sender whose seeds do not follow from boot and number.";

    CIRCUIT_FROM = "lariat.circuit.from", String, "1", Event, None, "State before a transition.";
    CIRCUIT_TO = "lariat.circuit.to", String, "1", Event, None, "State after it.";
    CIRCUIT_REASON = "lariat.circuit.reason", String, "1", Event, None, "What caused it.";
    HEALTH_FROM = "lariat.health.from", String, "1", Event, None, "Health status before.";
    HEALTH_TO = "lariat.health.to", String, "1", Event, None, "Health status after.";
    HEALTH_REASON = "lariat.health.reason", String, "1", Event, None, "What caused the change.";
    BLOCK_HEIGHT = "lariat.block.height", Int, "{block}", Event, None, "Height reported by the provider.";
    BLOCK_LAG = "lariat.block.lag", Int, "{block}", Event, None, "Height less the consensus height, at most 0.";
    RATE_LIMIT_MS = "lariat.rate_limit.for_ms", Int, "ms", Event, None, "How long the provider is taken to limit us from now on.";
    SUBSCRIPTION_KIND = "lariat.subscription.kind", String, "1", Event, None, "What a stream is about: `new_heads`, `logs`, `new_pending_transactions`.";
    SUBSCRIPTION_FROM = "lariat.subscription.from", String, "1", Event, None, "Provider that gave the events before a failover.";
    SUBSCRIPTION_REASON = "lariat.subscription.reason", String, "1", Event, None, "Why a stream failed.";
    SUBSCRIPTION_STALE_MS = "lariat.subscription.stale_ms", Int, "ms", Event, None, "Time since the last head.";
    HEARTBEAT_SEQ = "lariat.heartbeat.decision_seq", Int, "1", Event, None, "Highest decision_seq handed out so far.";
    HEARTBEAT_DROPPED = "lariat.heartbeat.dropped", Int, "1", Event, None, "Decisions refused or dropped after their number was given, in this boot.";
    HEARTBEAT_FAREWELL = "lariat.heartbeat.farewell", Bool, "1", Event, None, "True in the last heartbeat of a clean end.";
}

/// The declaration of `key`, if it is one of ours.
#[must_use]
pub fn by_key(key: &str) -> Option<&'static Attribute> {
    ALL.iter().find(|attribute| attribute.key == key)
}

/// A channel's name on the wire, `provider_id:transport`, taken apart; the transport follows the last colon.
#[must_use]
pub fn split_channel(channel: &str) -> Option<(&str, &str)> {
    channel.rsplit_once(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_declared_twice_and_each_has_a_meaning() {
        for (i, attribute) in ALL.iter().enumerate() {
            assert!(!attribute.doc.is_empty(), "{} has no meaning", attribute.key);
            assert!(ALL[i + 1..].iter().all(|other| other.key != attribute.key), "{} stands twice", attribute.key);
        }
    }

    #[test]
    fn every_column_of_an_attribute_stands_in_the_table_of_spans() {
        let spans = crate::tables::Table::Spans.schema();
        for attribute in ALL {
            if let Some(column) = attribute.column {
                assert!(
                    spans.field_with_name(column).is_ok(),
                    "{} names the column {column}, which spans lacks",
                    attribute.key
                );
            }
        }
    }
}
