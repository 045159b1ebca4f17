//! What is known of each method before any provider is asked: its category, how long an attempt may take, whether it may
//! be sent twice, and where its parameters name a block. One sorted table instead of settings: a wrong answer to "may
//! this be sent twice" loses money, so it is not left to configuration. A method that is not in the table passes
//! through with the most careful policy.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Every category that a provider can be said to lack.
pub(crate) const CATEGORIES: &[&str] = &[
    "core",
    "state",
    "network",
    "node_admin",
    "eip1559",
    "eip4844",
    "mempool",
    "filters",
    "subscriptions",
    "batch",
    "debug",
    "trace",
    "local_only",
    "txpool",
    "other",
];

/// Whether a call may be sent again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safety {
    /// A read: any provider, any number of times.
    ReplaySafe,
    /// A signed transaction: once, unless it surely was not sent.
    Broadcast,
    /// Bound to the provider that holds the filter.
    Affine,
    /// Needs a connection that stays.
    Subscription,
    /// Needs keys, which no provider of ours holds.
    Keystore,
    /// Not known: once.
    Unknown,
}

/// What is known of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MethodPolicy {
    /// The name under which it is recorded.
    pub(crate) name: &'static str,
    /// One of [`CATEGORIES`].
    pub(crate) category: &'static str,
    /// Bound on the whole call, in milliseconds.
    pub(crate) timeout_ms: u64,
    /// Whether it may be sent again.
    pub(crate) safety: Safety,
    /// Place of the block among the parameters.
    pub(crate) block_param: Option<usize>,
}

impl MethodPolicy {
    /// True where it reads state, which only some providers keep of old blocks; blocks, receipts and logs all of them do.
    pub(crate) fn reads_state(&self) -> bool {
        self.block_param.is_some() && matches!(self.category, "state" | "debug" | "trace")
    }

    /// True where it may be sent again, whatever became of it.
    pub(crate) fn is_replay_safe(&self) -> bool {
        self.safety == Safety::ReplaySafe
    }
}

use Safety::{Affine, Broadcast, Keystore, ReplaySafe, Subscription};

const fn method(
    name: &'static str,
    category: &'static str,
    timeout_ms: u64,
    safety: Safety,
    block_param: Option<usize>,
) -> MethodPolicy {
    MethodPolicy { name, category, timeout_ms, safety, block_param }
}

/// The policy of methods that are not in the table.
const OTHER: MethodPolicy = method(lariat_schema::vocabulary::OVERFLOW, "other", 10_000, Safety::Unknown, None);

/// Sorted by name.
#[rustfmt::skip]
static METHODS: &[MethodPolicy] = &[
    method("debug_getRawBlock", "debug", 10_000, ReplaySafe, Some(0)),
    method("debug_getRawHeader", "debug", 10_000, ReplaySafe, Some(0)),
    method("debug_getRawReceipts", "debug", 10_000, ReplaySafe, Some(0)),
    method("debug_getRawTransaction", "debug", 10_000, ReplaySafe, None),
    method("debug_storageRangeAt", "debug", 10_000, ReplaySafe, None),
    method("debug_traceBlockByHash", "debug", 45_000, ReplaySafe, None),
    method("debug_traceBlockByNumber", "debug", 45_000, ReplaySafe, Some(0)),
    method("debug_traceCall", "debug", 30_000, ReplaySafe, Some(1)),
    method("debug_traceTransaction", "debug", 30_000, ReplaySafe, None),
    method("eth_accounts", "local_only", 1_000, Keystore, None),
    method("eth_blobBaseFee", "eip4844", 2_000, ReplaySafe, None),
    method("eth_blockNumber", "core", 1_000, ReplaySafe, None),
    method("eth_call", "state", 5_000, ReplaySafe, Some(1)),
    method("eth_chainId", "core", 1_000, ReplaySafe, None),
    method("eth_coinbase", "node_admin", 2_000, ReplaySafe, None),
    method("eth_createAccessList", "state", 5_000, ReplaySafe, Some(1)),
    method("eth_estimateGas", "state", 5_000, ReplaySafe, Some(1)),
    method("eth_feeHistory", "eip1559", 2_000, ReplaySafe, Some(1)),
    method("eth_gasPrice", "core", 2_000, ReplaySafe, None),
    method("eth_getBalance", "state", 2_000, ReplaySafe, Some(1)),
    method("eth_getBlockByHash", "core", 2_000, ReplaySafe, None),
    method("eth_getBlockByNumber", "core", 2_000, ReplaySafe, Some(0)),
    method("eth_getBlockReceipts", "core", 5_000, ReplaySafe, Some(0)),
    method("eth_getBlockTransactionCountByHash", "core", 2_000, ReplaySafe, None),
    method("eth_getBlockTransactionCountByNumber", "core", 2_000, ReplaySafe, Some(0)),
    method("eth_getCode", "state", 2_000, ReplaySafe, Some(1)),
    method("eth_getFilterChanges", "filters", 2_000, Affine, None),
    method("eth_getFilterLogs", "filters", 5_000, Affine, None),
    method("eth_getLogs", "filters", 5_000, ReplaySafe, None),
    method("eth_getProof", "state", 10_000, ReplaySafe, Some(2)),
    method("eth_getStorageAt", "state", 2_000, ReplaySafe, Some(2)),
    method("eth_getTransactionByBlockHashAndIndex", "core", 2_000, ReplaySafe, None),
    method("eth_getTransactionByBlockNumberAndIndex", "core", 2_000, ReplaySafe, Some(0)),
    method("eth_getTransactionByHash", "core", 2_000, ReplaySafe, None),
    method("eth_getTransactionCount", "state", 2_000, ReplaySafe, Some(1)),
    method("eth_getTransactionReceipt", "core", 3_000, ReplaySafe, None),
    method("eth_getUncleCountByBlockHash", "core", 2_000, ReplaySafe, None),
    method("eth_getUncleCountByBlockNumber", "core", 2_000, ReplaySafe, Some(0)),
    method("eth_hashrate", "node_admin", 2_000, ReplaySafe, None),
    method("eth_maxPriorityFeePerGas", "eip1559", 2_000, ReplaySafe, None),
    method("eth_mining", "node_admin", 2_000, ReplaySafe, None),
    method("eth_newBlockFilter", "filters", 2_000, Affine, None),
    method("eth_newFilter", "filters", 2_000, Affine, None),
    method("eth_newPendingTransactionFilter", "filters", 2_000, Affine, None),
    method("eth_protocolVersion", "node_admin", 2_000, ReplaySafe, None),
    method("eth_sendRawTransaction", "mempool", 10_000, Broadcast, None),
    method("eth_sendTransaction", "local_only", 1_000, Keystore, None),
    method("eth_sign", "local_only", 1_000, Keystore, None),
    method("eth_signTransaction", "local_only", 1_000, Keystore, None),
    method("eth_signTypedData_v4", "local_only", 1_000, Keystore, None),
    method("eth_simulateV1", "state", 10_000, ReplaySafe, Some(1)),
    method("eth_subscribe", "subscriptions", 10_000, Subscription, None),
    method("eth_syncing", "node_admin", 2_000, ReplaySafe, None),
    method("eth_uninstallFilter", "filters", 2_000, Affine, None),
    method("eth_unsubscribe", "subscriptions", 10_000, Subscription, None),
    method("net_listening", "network", 1_000, ReplaySafe, None),
    method("net_peerCount", "network", 1_000, ReplaySafe, None),
    method("net_version", "network", 1_000, ReplaySafe, None),
    method("personal_sign", "local_only", 1_000, Keystore, None),
    method("trace_block", "trace", 10_000, ReplaySafe, Some(0)),
    method("trace_call", "trace", 10_000, ReplaySafe, Some(2)),
    method("trace_callMany", "trace", 10_000, ReplaySafe, Some(1)),
    method("trace_filter", "trace", 10_000, ReplaySafe, None),
    method("trace_get", "trace", 10_000, ReplaySafe, None),
    method("trace_rawTransaction", "trace", 10_000, ReplaySafe, None),
    method("trace_replayBlockTransactions", "trace", 10_000, ReplaySafe, Some(0)),
    method("trace_replayTransaction", "trace", 10_000, ReplaySafe, None),
    method("trace_transaction", "trace", 10_000, ReplaySafe, None),
    method("txpool_content", "txpool", 10_000, ReplaySafe, None),
    method("txpool_contentFrom", "txpool", 10_000, ReplaySafe, None),
    method("txpool_inspect", "txpool", 10_000, ReplaySafe, None),
    method("txpool_status", "txpool", 10_000, ReplaySafe, None),
    method("web3_clientVersion", "network", 1_000, ReplaySafe, None),
    method("web3_sha3", "network", 1_000, ReplaySafe, None),
];

/// The policy of a method; that of an unknown one has the name `_OTHER`.
pub(crate) fn of(name: &str) -> &'static MethodPolicy {
    static UNKNOWN: MethodPolicy = OTHER;
    METHODS.binary_search_by(|policy| policy.name.cmp(name)).map_or(&UNKNOWN, |at| &METHODS[at])
}

/// Which state a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum BlockNeed {
    /// The head, or nothing that depends on a block.
    #[default]
    Recent,
    /// The first block.
    Earliest,
    /// The state at a height.
    At(u64),
    /// Logs of a range of heights, both included.
    Range(u64, u64),
}

/// The blocks of a log filter; the rest of it, which may be long, is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blocks<'a> {
    #[serde(borrow, default)]
    from_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    to_block: Option<&'a RawValue>,
}

/// A block by its number, in an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbered<'a> {
    #[serde(borrow)]
    block_number: &'a RawValue,
}

/// Reads the block out of the raw parameters; anything unusual counts as recent, and the provider judges.
pub(crate) fn block_need(policy: &MethodPolicy, params: Option<&[u8]>) -> BlockNeed {
    let is_logs = policy.name == "eth_getLogs";
    let Some(at) = policy.block_param.or(is_logs.then_some(0)) else { return BlockNeed::Recent };
    let list = params.and_then(|params| serde_json::from_slice::<Vec<&RawValue>>(params).ok());
    let Some(block) = list.as_ref().and_then(|list| list.get(at)).map(|raw| raw.get()) else {
        return BlockNeed::Recent;
    };
    if is_logs {
        let Ok(Blocks { from_block, to_block }) = serde_json::from_str(block) else { return BlockNeed::Recent };
        return match (from_block.and_then(height), to_block.and_then(height)) {
            (Some(from), Some(to)) => BlockNeed::Range(from, to),
            (Some(from), None) => BlockNeed::At(from),
            _ => BlockNeed::Recent,
        };
    }
    if block == "\"earliest\"" {
        return BlockNeed::Earliest;
    }
    let named = || serde_json::from_str(block).ok().and_then(|Numbered { block_number }| height(block_number));
    quantity(block).or_else(named).map_or(BlockNeed::Recent, BlockNeed::At)
}

fn height(value: &RawValue) -> Option<u64> {
    quantity(value.get())
}

/// A quantity as it stands in JSON.
fn quantity(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("\"0x")?.strip_suffix('"')?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_categories_are_known() {
        assert!(METHODS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(METHODS.iter().all(|method| CATEGORIES.contains(&method.category)));
    }

    #[test]
    fn an_unknown_method_is_never_sent_twice() {
        assert_eq!((of("eth_bogus").name, of("eth_bogus").safety), ("_OTHER", Safety::Unknown));
        assert_eq!(of("eth_sendRawTransaction").safety, Broadcast);
    }

    #[test]
    fn the_block_of_a_call_is_read_from_its_parameters() {
        let need = |name: &str, params: &str| block_need(of(name), Some(params.as_bytes()));
        assert_eq!(need("eth_getBalance", r#"["0xab","0x10"]"#), BlockNeed::At(16));
        assert_eq!(need("eth_getBalance", r#"["0xab","latest"]"#), BlockNeed::Recent);
        assert_eq!(need("eth_call", r#"[{},"earliest"]"#), BlockNeed::Earliest);
        assert_eq!(need("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"0x3"}]"#), BlockNeed::Range(1, 3));
        assert_eq!(need("eth_getLogs", r#"[{"address":[{"deep":[1]}],"fromBlock":"0x1"}]"#), BlockNeed::At(1));
        assert_eq!(need("eth_getLogs", r#"[{"fromBlock":"latest","toBlock":"0x3"}]"#), BlockNeed::Recent);
        assert_eq!(need("eth_call", r#"[{},{"blockNumber":"0x12"}]"#), BlockNeed::At(18));
        assert_eq!(need("eth_call", r#"[{},{"blockHash":"0x12"}]"#), BlockNeed::Recent);
        assert_eq!(need("eth_getBalance", "{}"), BlockNeed::Recent);
        assert_eq!(need("eth_getBlockByNumber", r#"["0x11",false]"#), BlockNeed::At(17));
        let hash = format!(r#"["0x{}"]"#, "1".repeat(64));
        assert_eq!(need("eth_getBlockReceipts", &hash), BlockNeed::Recent);
        assert!(of("eth_call").reads_state() && !of("eth_getBlockByNumber").reads_state());
    }
}
