//! The closed vocabularies of the record. Each is the full set of values that its column can have, so that a panel
//! can list them and a test can say that none is missing.

pub use crate::closed_enum::UnknownName;
use crate::closed_enum::closed_enum;

closed_enum! {
    /// How a provider or a client is spoken to.
    pub enum Transport ("transport") {
        /// JSON-RPC over HTTP POST.
        Http = "http",
        /// JSON-RPC over a WebSocket.
        Ws = "ws",
    }
}

closed_enum! {
    /// The rule that ranks a decision's eligible candidates.
    pub enum Strategy ("strategy") {
        /// A uniformly random order.
        LoadBalanced = "load_balanced",
        /// The lowest expected latency first.
        Fastest = "fastest",
        /// A random order weighted by expected latency.
        LatencyWeighted = "latency_weighted",
        /// The configured priority, ascending.
        Priority = "priority",
    }
}

closed_enum! {
    /// Who caused a call.
    pub enum Origin ("origin") {
        /// A client of the proxy.
        Client = "client",
        /// The proxy itself: probes, block polling, backfill.
        System = "system",
    }
}

closed_enum! {
    /// How a decision ended. Only `error` lowers the success rate and is kept whole.
    pub enum CallResult ("result") {
        /// A result was returned.
        Success = "success",
        /// The call's own fault: a revert, bad parameters.
        ApplicationError = "application_error",
        /// The system's fault: no provider could answer.
        Error = "error",
    }
}

closed_enum! {
    /// Where a decision's answer came from.
    pub enum AnsweredBy ("answered_by") {
        /// A provider's reply.
        Provider = "provider",
        /// The cache.
        Cache = "cache",
        /// An identical call in flight.
        Coalesced = "coalesced",
        /// The proxy itself, as for `eth_chainId`.
        Local = "local",
        /// Nobody: the call was refused or every attempt failed without an answer.
        None = "none",
    }
}

closed_enum! {
    /// Class of an error, as the reference system's section C.9 has them.
    pub enum ErrorCategory ("error category") {
        /// The provider limits the rate of calls.
        RateLimit = "rate_limit",
        /// Connection refused, reset, closed, or not resolvable.
        NetworkError = "network_error",
        /// No answer in time.
        Timeout = "timeout",
        /// The provider failed: HTTP 5xx or a server error code.
        ServerError = "server_error",
        /// The provider refuses the credentials.
        AuthError = "auth_error",
        /// The provider cannot serve this: size of result, range, missing module.
        CapabilityViolation = "capability_violation",
        /// State older than the provider keeps.
        RequiresArchival = "requires_archival",
        /// The provider does not know the method.
        MethodNotFound = "method_not_found",
        /// The provider has not seen the block yet.
        BlockNotAvailable = "block_not_available",
        /// The contract reverted.
        ExecutionRevert = "execution_revert",
        /// The parameters are wrong.
        InvalidParams = "invalid_params",
        /// The request is no valid call.
        InvalidRequest = "invalid_request",
        /// Not JSON.
        ParseError = "parse_error",
        /// A JSON-RPC internal error of the provider.
        InternalError = "internal_error",
        /// A reply that is no JSON-RPC reply to this call.
        InvalidResponse = "invalid_response",
        /// Another fault of the client, HTTP 4xx.
        ClientError = "client_error",
        /// Refused by the wallet's user.
        UserError = "user_error",
        /// The provider is connected to no chain, or to another.
        ChainError = "chain_error",
        /// A provider's error code that says nothing of whose fault it is.
        UnclassifiedServerError = "unclassified_server_error",
        /// The proxy's own limit: in-flight calls, client rate limit.
        LocalCapacity = "local_capacity",
        /// No candidate could be tried.
        NoProviders = "no_providers",
    }
}

closed_enum! {
    /// Why an attempt was made.
    pub enum AttemptKind ("kind of attempt") {
        /// The first attempt of a decision.
        Primary = "primary",
        /// After another attempt failed.
        Failover = "failover",
        /// Beside an attempt that is slow.
        Hedge = "hedge",
        /// A health probe.
        Probe = "probe",
    }
}

closed_enum! {
    /// What became of a call whose first attempt was slow enough for a hedge.
    pub enum HedgeOutcome ("outcome of a hedge") {
        /// The hedge's answer was returned.
        Won = "won",
        /// The first attempt answered before it, and the hedge was cancelled.
        Lost = "lost",
        /// The hedge failed.
        Failed = "failed",
        /// The profile's budget was spent, and none was sent.
        OverBudget = "over_budget",
        /// No other channel could be tried, and none was sent.
        NoCandidate = "no_candidate",
    }
}

closed_enum! {
    /// How an attempt ended.
    pub enum Outcome ("outcome") {
        /// A result.
        Success = "success",
        /// An answer that is the call's own fault.
        ApplicationError = "application_error",
        /// The provider refused for its rate limit.
        CapacityRejection = "capacity_rejection",
        /// The provider failed.
        ServiceFailure = "service_failure",
        /// No answer in time: the true latency is at least the one recorded (censored).
        Timeout = "timeout",
        /// Given up by the proxy or its client.
        Cancelled = "cancelled",
    }
}

closed_enum! {
    /// State of a circuit breaker.
    pub enum CircuitState ("circuit state") {
        /// Calls pass.
        Closed = "closed",
        /// Calls are kept away.
        Open = "open",
        /// One call is let through to see.
        HalfOpen = "half_open",
    }
}

closed_enum! {
    /// Whether an attempt's request surely reached, or surely did not reach, its provider.
    pub enum Dispatched ("dispatch certainty") {
        /// Not a byte was sent.
        NotDispatched = "not_dispatched",
        /// It may have been sent.
        Indeterminate = "indeterminate",
        /// It was sent.
        Dispatched = "dispatched",
    }
}

closed_enum! {
    /// What went wrong on the way to a provider or back, where its reply says nothing because there is none.
    pub enum TransportFailure ("transport failure") {
        /// No connection could be made: refused, unreachable, or the host has no address.
        Connection = "connection",
        /// The provider's certificate comes from no authority that is trusted.
        TlsAuthority = "tls_authority",
        /// Its certificate is for another host.
        TlsName = "tls_name",
        /// Its certificate is not valid yet, or not any more.
        TlsExpired = "tls_expired",
        /// TLS failed otherwise.
        Tls = "tls",
        /// The connection ended before the reply.
        Closed = "closed",
        /// The provider broke the rules of HTTP.
        Protocol = "protocol",
        /// The provider said over HTTP/2 that it did not begin with the request.
        Unprocessed = "unprocessed",
    }
}

closed_enum! {
    /// Why a channel was not eligible in a decision.
    pub enum ExclusionReason ("exclusion reason") {
        /// The transport was not asked for, or the provider has none of it.
        Transport = "transport",
        /// The WebSocket is not connected.
        NotConnected = "not_connected",
        /// The circuit is open.
        CircuitOpen = "circuit_open",
        /// The circuit is half open and its one trial call is under way.
        HalfOpenBusy = "half_open_busy",
        /// The provider limits us, and the caller asked to leave such out.
        RateLimited = "rate_limited",
        /// Too many blocks behind.
        Lagging = "lagging",
        /// Does not have the wanted block.
        MinBlock = "min_block",
        /// Keeps no old state.
        Archival = "archival",
        /// Gives no new heads.
        NoNewHeads = "no_new_heads",
        /// Does not serve the method.
        Method = "method",
        /// Cannot serve these parameters.
        Params = "params",
        /// The caller pinned another provider.
        PinnedElsewhere = "pinned_elsewhere",
        /// The caller excluded it.
        ExcludedByClient = "excluded_by_client",
        /// An operator drains it.
        Draining = "draining",
        /// Its queue or connection pool is full.
        Capacity = "capacity",
        /// Its budget is spent.
        Budget = "budget",
        /// Tried before in this decision.
        Tried = "tried",
        /// Marks that the filters were waived since they left nobody.
        FailOpen = "fail_open",
    }
}

closed_enum! {
    /// What the cache did for a decision.
    pub enum CacheOutcome ("cache outcome") {
        /// Answered from it.
        Hit = "hit",
        /// Asked and not found.
        Miss = "miss",
        /// Joined to an identical call in flight.
        Coalesced = "coalesced",
    }
}

closed_enum! {
    /// Why a record was kept, which says what its adjusted count means.
    pub enum KeepReason ("keep reason") {
        /// The call failed.
        Error = "error",
        /// More than one attempt was made.
        Failover = "failover",
        /// A hedge was sent.
        Hedge = "hedge",
        /// Slower than the profile's `slow_ms`.
        Slow = "slow",
        /// A state transition, always kept.
        Transition = "transition",
        /// By the profile's rate.
        Rate = "rate",
        /// Of a class kept whole, but above the profile's budget for it.
        Budget = "budget",
        /// By a trusted sender's own threshold.
        Upstream = "upstream",
        /// Its root never came: decided alone.
        Orphan = "orphan",
        /// Not decided yet: stands for itself.
        Undecided = "undecided",
        /// Of a signal that is never sampled.
        Always = "always",
    }
}

closed_enum! {
    /// The three OTLP signals.
    pub enum Signal ("signal") {
        /// Spans.
        Traces = "traces",
        /// Points.
        Metrics = "metrics",
        /// Log records and events.
        Logs = "logs",
    }
}

closed_enum! {
    /// Why a receiver did not take a request in.
    pub enum RefusalReason ("reason of a refusal") {
        /// Its bytes are no OTLP.
        Malformed = "malformed",
        /// It is larger than one request may be, as sent or after decompression.
        TooLarge = "too_large",
        /// Its path, method, content type or compression is none of OTLP's.
        Form = "form",
        /// Its sender did not say who it is.
        Unauthenticated = "unauthenticated",
        /// Too much is waiting.
        Overloaded = "overloaded",
        /// The disk did not take it, or has no room.
        NotDurable = "not_durable",
        /// The collector is ending.
        ShuttingDown = "shutting_down",
        /// It did not arrive whole.
        Interrupted = "interrupted",
        /// The collector's own fault.
        Failed = "failed",
    }
}

closed_enum! {
    /// Two families of rollups, kept apart so that no bound on one can blur the other.
    pub enum RollupFamily ("rollup family") {
        /// What operators watch: provider, method, strategy; no account.
        Ops = "ops",
        /// What accounts are shown: account, method class; no provider.
        Usage = "usage",
    }
}

closed_enum! {
    /// Class of a JSON-RPC method: what it costs and whether it may be sent twice.
    pub enum MethodClass ("method class") {
        /// Chain head, gas price, identity.
        Core = "core",
        /// Reads of state.
        State = "state",
        /// Filters and logs.
        Filters = "filters",
        /// Transactions into the network.
        Submit = "submit",
        /// `debug_*`.
        Debug = "debug",
        /// `trace_*`.
        Trace = "trace",
        /// `txpool_*`.
        Txpool = "txpool",
        /// Subscriptions.
        Subscriptions = "subscriptions",
        /// Anything else.
        Other = "other",
    }
}

/// What stands in a column in place of a name beyond its bound.
pub const OVERFLOW: &str = "_OTHER";

/// What stands in the ledger for "no account" or "no profile".
pub const NONE: &str = "-";

impl MethodClass {
    /// The class of a JSON-RPC method by its name.
    #[must_use]
    pub fn of(method: &str) -> Self {
        match method {
            "eth_subscribe" | "eth_unsubscribe" => Self::Subscriptions,
            "eth_sendRawTransaction" | "eth_sendTransaction" => Self::Submit,
            "eth_getLogs"
            | "eth_newFilter"
            | "eth_newBlockFilter"
            | "eth_newPendingTransactionFilter"
            | "eth_getFilterChanges"
            | "eth_getFilterLogs"
            | "eth_uninstallFilter" => Self::Filters,
            "eth_blockNumber"
            | "eth_chainId"
            | "eth_gasPrice"
            | "eth_maxPriorityFeePerGas"
            | "eth_feeHistory"
            | "eth_blobBaseFee"
            | "eth_syncing"
            | "net_version"
            | "net_listening"
            | "net_peerCount"
            | "web3_clientVersion"
            | "web3_sha3" => Self::Core,
            _ if method.starts_with("debug_") => Self::Debug,
            _ if method.starts_with("trace_") => Self::Trace,
            _ if method.starts_with("txpool_") => Self::Txpool,
            _ if method.starts_with("eth_") => Self::State,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_vocabulary_parses_back_to_its_value() {
        for reason in ExclusionReason::ALL {
            assert_eq!(reason.as_str().parse::<ExclusionReason>(), Ok(*reason));
        }
        for category in ErrorCategory::ALL {
            assert_eq!(category.as_str().parse::<ErrorCategory>(), Ok(*category));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_allowed_ones() {
        let error = "carrier_pigeon".parse::<Transport>().unwrap_err();
        assert_eq!(error.to_string(), "`carrier_pigeon` is no transport; one of: http, ws");
    }
}
