//! What a simulated provider answers: Ethereum's methods as pure functions of the chain and of what the provider
//! sees of it. A call whose input begins with [`REVERTING_SELECTOR`] reverts at every provider, since a revert is the
//! call's own fault and not the provider's.

use serde_json::{Value, json};

use crate::chain::{Chain, Domain, derive_bytes, fingerprint, hex_data, hex_quantity, item_of_hash};

/// First four bytes of the input of an `eth_call` or `eth_estimateGas` that reverts.
pub const REVERTING_SELECTOR: &str = "0xdeadbeef";

/// ABI encoding of `Error("insufficient balance")`.
const REVERT_DATA: &str = "0x08c379a000000000000000000000000000000000000000000000000000000000000000200000000000000000000000000000000000000000000000000000000000000014696e73756666696369656e742062616c616e6365000000000000000000000000";
/// Blocks between the head and the block that is called safe.
const SAFE_DISTANCE: u64 = 32;
/// Blocks between the head and the block that is called final.
const FINAL_DISTANCE: u64 = 64;

/// A JSON-RPC error.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcError {
    /// Its code.
    pub code: i64,
    /// Its message.
    pub message: String,
    /// What goes with it, if anything.
    pub data: Option<Value>,
}

impl RpcError {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    fn params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    pub(crate) fn method_not_found(method: &str) -> Self {
        Self::new(-32601, format!("the method {method} does not exist/is not available"))
    }

    pub(crate) fn revert() -> Self {
        Self { code: 3, message: "execution reverted: insufficient balance".to_owned(), data: Some(json!(REVERT_DATA)) }
    }
}

/// What a provider sees of the chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) chain: &'a Chain,
    pub(crate) client: &'a str,
    pub(crate) height: u64,
    pub(crate) state_depth_blocks: Option<u64>,
    pub(crate) max_block_range: u64,
}

type Answer = Result<Value, RpcError>;

impl View<'_> {
    /// The answer to one call.
    pub(crate) fn answer(&self, method: &str, params: &Value) -> Answer {
        let chain_id = self.chain.settings().chain_id;
        match method {
            "eth_blockNumber" => Ok(json!(hex_quantity(self.height))),
            "eth_chainId" => Ok(json!(hex_quantity(chain_id))),
            "net_version" => Ok(json!(chain_id.to_string())),
            "net_listening" => Ok(json!(true)),
            "eth_syncing" => Ok(json!(false)),
            "web3_clientVersion" => Ok(json!(format!("Simulated/{}/v1.0.0", self.client))),
            "eth_gasPrice" => Ok(json!(hex_quantity(self.chain.base_fee_wei(self.height) + 1_000_000_000))),
            "eth_maxPriorityFeePerGas" => Ok(json!(hex_quantity(1_000_000_000))),
            "eth_feeHistory" => self.fee_history(params),
            "eth_getBlockByNumber" => self.block_by_number(params),
            "eth_getBlockByHash" => self.block_by_hash(params),
            "eth_getTransactionByHash" => self.by_transaction_hash(params, Chain::transaction),
            "eth_getTransactionReceipt" => self.by_transaction_hash(params, Chain::receipt),
            "eth_getBalance" => self.state(params, 1, |seed| json!(hex_quantity(seed))),
            "eth_getTransactionCount" => self.state(params, 1, |seed| json!(hex_quantity(seed % 4_096))),
            "eth_getCode" => self.state(params, 1, |seed| {
                json!(if seed % 2 == 0 { "0x" } else { "0x6080604052348015600e575f5ffd5b50" })
            }),
            "eth_getStorageAt" => self.state(params, 2, |seed| json!(format!("{seed:#066x}"))),
            "eth_call" => self.call(params, |seed| json!(format!("{seed:#066x}"))),
            "eth_estimateGas" => self.call(params, |seed| json!(hex_quantity(21_000 + seed % 200_000))),
            "eth_getLogs" => self.logs(params),
            "eth_sendRawTransaction" => self.send_raw(params),
            "debug_traceTransaction" => self.trace(params),
            _ => Err(RpcError::method_not_found(method)),
        }
    }

    fn tag(&self, value: Option<&Value>) -> Result<u64, RpcError> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(self.height) };
        match value.as_str().ok_or_else(|| RpcError::params("invalid argument: block must be a string"))? {
            "latest" | "pending" => Ok(self.height),
            "safe" => Ok(self.height.saturating_sub(SAFE_DISTANCE)),
            "finalized" => Ok(self.height.saturating_sub(FINAL_DISTANCE)),
            "earliest" => Ok(0),
            text => quantity(text),
        }
    }

    fn block_by_number(&self, params: &Value) -> Answer {
        let whole = params.get(1).and_then(Value::as_bool).unwrap_or(false);
        let tag = params.get(0).ok_or_else(|| RpcError::params("missing value for required argument 0"))?;
        let number = self.tag(Some(tag))?;
        Ok(if number > self.height { Value::Null } else { self.chain.block(number, whole) })
    }

    fn block_by_hash(&self, params: &Value) -> Answer {
        let whole = params.get(1).and_then(Value::as_bool).unwrap_or(false);
        let found = item_of_hash(self.chain.settings().seed, Domain::Block, &hash_param(params)?);
        Ok(match found {
            Some((number, _)) if number <= self.height => self.chain.block(number, whole),
            _ => Value::Null,
        })
    }

    fn by_transaction_hash(&self, params: &Value, make: fn(&Chain, u64, u32) -> Value) -> Answer {
        let found = item_of_hash(self.chain.settings().seed, Domain::Transaction, &hash_param(params)?);
        Ok(match found {
            Some((number, index)) if number <= self.height && index < self.chain.transaction_count(number) => {
                make(self.chain, number, index)
            }
            _ => Value::Null,
        })
    }

    /// Checks that the provider has state of the block that parameter `block_at` names.
    fn state_block(&self, params: &Value, block_at: usize) -> Result<u64, RpcError> {
        let number = self.tag(params.get(block_at))?;
        if number > self.height {
            return Err(RpcError::new(-32000, "header not found"));
        }
        match self.state_depth_blocks {
            Some(depth) if self.height - number > depth => Err(RpcError::new(
                -32000,
                format!("missing trie node {} (path ) state is not available", &self.chain.block_hash(number)[2..]),
            )),
            _ => Ok(number),
        }
    }

    fn state(&self, params: &Value, block_at: usize, make: fn(u64) -> Value) -> Answer {
        let address = params.get(0).and_then(Value::as_str).unwrap_or_default();
        if address.len() != 42 || !address.starts_with("0x") {
            return Err(RpcError::params("invalid argument 0: hex string has length other than 40"));
        }
        let number = self.state_block(params, block_at)?;
        Ok(make(self.seed_of(address.as_bytes(), number)))
    }

    fn call(&self, params: &Value, make: fn(u64) -> Value) -> Answer {
        let call = params.get(0).and_then(Value::as_object);
        let call = call.ok_or_else(|| RpcError::params("missing value for required argument 0"))?;
        let number = self.state_block(params, 1)?;
        let input = call.get("data").or_else(|| call.get("input")).and_then(Value::as_str).unwrap_or_default();
        if input.starts_with(REVERTING_SELECTOR) {
            return Err(RpcError::revert());
        }
        Ok(make(self.seed_of(input.as_bytes(), number)))
    }

    fn logs(&self, params: &Value) -> Answer {
        let filter = params.get(0).ok_or_else(|| RpcError::params("missing value for required argument 0"))?;
        let from = self.tag(filter.get("fromBlock"))?;
        let to = self.tag(filter.get("toBlock"))?.min(self.height);
        if to.saturating_sub(from) > self.max_block_range {
            return Err(RpcError::params(format!("block range too large: at most {} blocks", self.max_block_range)));
        }
        let address = filter.get("address").and_then(Value::as_str);
        Ok(Value::Array((from..to.saturating_add(1)).map(|number| self.chain.log(number, address)).collect()))
    }

    fn fee_history(&self, params: &Value) -> Answer {
        let count = match params.get(0) {
            Some(Value::String(text)) => quantity(text)?,
            Some(Value::Number(number)) => number.as_u64().unwrap_or(1),
            _ => return Err(RpcError::params("missing value for required argument 0")),
        };
        let newest = self.tag(params.get(1))?.min(self.height);
        let count = count.clamp(1, 1_024).min(newest + 1);
        let oldest = newest + 1 - count;
        let fees: Vec<String> = (oldest..=newest + 1).map(|n| hex_quantity(self.chain.base_fee_wei(n))).collect();
        Ok(
            json!({"oldestBlock": hex_quantity(oldest), "baseFeePerGas": fees, "gasUsedRatio": vec![0.5; usize::try_from(count).unwrap_or(0)]}),
        )
    }

    fn send_raw(&self, params: &Value) -> Answer {
        let raw = params.get(0).and_then(Value::as_str).unwrap_or_default();
        if raw.len() < 4 || !raw.starts_with("0x") {
            return Err(RpcError::params("rlp: value size exceeds available input length"));
        }
        let seed = self.chain.settings().seed;
        Ok(json!(hex_data(&derive_bytes(seed, Domain::Pending, fingerprint(raw.as_bytes()), 0))))
    }

    fn trace(&self, params: &Value) -> Answer {
        match self.by_transaction_hash(params, Chain::transaction)? {
            Value::Null => Err(RpcError::new(-32000, "transaction not found")),
            _ => Ok(json!({"gas": 21_000, "failed": false, "returnValue": "", "structLogs": []})),
        }
    }

    fn seed_of(&self, input: &[u8], number: u64) -> u64 {
        // Sixteen blocks share their state, so that two providers one block apart mostly agree.
        fingerprint(input) ^ fingerprint(&(number / 16).to_be_bytes()) ^ self.chain.settings().seed
    }
}

fn quantity(text: &str) -> Result<u64, RpcError> {
    text.strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| RpcError::params(format!("invalid argument: `{text}` is no hex quantity")))
}

fn hash_param(params: &Value) -> Result<[u8; 32], RpcError> {
    let mut hash = [0; 32];
    let text = params.get(0).and_then(Value::as_str).and_then(|text| text.strip_prefix("0x"));
    let text = text.ok_or_else(|| RpcError::params("missing value for required argument 0"))?;
    hex::decode_to_slice(text, &mut hash).map_err(|_| RpcError::params("invalid argument 0: want 64 hex digits"))?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainSettings;

    fn with_view(test: impl FnOnce(View<'_>)) {
        let chain = Chain::manual(ChainSettings { start_height: 1_000, ..ChainSettings::default() });
        test(View { chain: &chain, client: "t", height: 1_000, state_depth_blocks: Some(128), max_block_range: 100 });
    }

    #[test]
    fn a_block_by_number_is_the_block_by_its_hash_and_its_transactions_are_found() {
        with_view(|view| {
            let block = view.answer("eth_getBlockByNumber", &json!(["latest", false])).unwrap();
            assert_eq!(view.answer("eth_getBlockByHash", &json!([block["hash"], false])).unwrap(), block);
            let transaction = view.answer("eth_getTransactionByHash", &json!([block["transactions"][0]])).unwrap();
            assert_eq!(transaction["blockHash"], block["hash"]);
            assert_eq!(view.answer("eth_getBlockByNumber", &json!(["0x3e9", false])).unwrap(), Value::Null);
        });
    }

    #[test]
    fn old_state_needs_an_archive_and_a_marked_call_reverts() {
        with_view(|view| {
            let address = "0x00000000000000000000000000000000000000aa";
            assert!(view.answer("eth_getBalance", &json!([address, "latest"])).is_ok());
            let old = view.answer("eth_getBalance", &json!([address, "0x1"])).unwrap_err();
            assert!(old.message.contains("missing trie node"), "{}", old.message);
            let call = json!([{"to": address, "data": format!("{REVERTING_SELECTOR}00")}, "latest"]);
            assert_eq!(view.answer("eth_call", &call).unwrap_err().code, 3);
        });
    }

    #[test]
    fn logs_are_given_for_a_range_and_refused_beyond_the_limit() {
        with_view(|view| {
            let logs = view.answer("eth_getLogs", &json!([{"fromBlock": "0x3de", "toBlock": "0x3e8"}])).unwrap();
            assert_eq!(logs.as_array().unwrap().len(), 11);
            let wide = view.answer("eth_getLogs", &json!([{"fromBlock": "0x1", "toBlock": "latest"}])).unwrap_err();
            assert_eq!(wide.code, -32602);
        });
    }
}
