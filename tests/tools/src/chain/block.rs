//! What is in a block: header, transactions, receipts and logs, as JSON in the shape of Ethereum's execution API. All
//! of it is derived from the chain's seed and the block's number; fields that no router reads are constant.

use serde_json::{Value, json};

use super::{Chain, Domain, derive_bytes, hex_data, hex_quantity};

/// Least number of transactions in a block.
const TRANSACTIONS_MIN: u32 = 4;
/// How many more there can be: few, since a demo moves whole blocks about.
const TRANSACTIONS_SPREAD: u32 = 12;
/// Topic of an ERC-20 transfer, the commonest log there is.
pub(crate) const TRANSFER_TOPIC: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

impl Chain {
    /// Hash of block `number`.
    #[must_use]
    pub fn block_hash(&self, number: u64) -> String {
        hex_data(&derive_bytes(self.seed_of(number), Domain::Block, number, 0))
    }

    pub(crate) fn transaction_count(&self, number: u64) -> u32 {
        let bytes = derive_bytes(self.settings.seed, Domain::Content, number, u32::MAX);
        TRANSACTIONS_MIN + u32::from(bytes[0]) % TRANSACTIONS_SPREAD
    }

    /// Hash of transaction `index` of block `number`.
    #[must_use]
    pub fn transaction_hash(&self, number: u64, index: u32) -> String {
        hex_data(&derive_bytes(self.settings.seed, Domain::Transaction, number, index))
    }

    /// Base fee of block `number`, wei.
    pub(crate) fn base_fee_wei(&self, number: u64) -> u64 {
        let bytes = derive_bytes(self.settings.seed, Domain::Content, number / 8, 7);
        8_000_000_000 + u64::from(bytes[0]) * 50_000_000
    }

    fn content(&self, number: u64, index: u32) -> String {
        hex_data(&derive_bytes(self.settings.seed, Domain::Content, number, index))
    }

    fn address(&self, number: u64, index: u32) -> String {
        hex_data(&derive_bytes(self.settings.seed, Domain::Content, number, index)[..20])
    }

    /// The header of block `number`, as `newHeads` sends it.
    pub(crate) fn header(&self, number: u64) -> Value {
        let gas_used = 12_000_000 + self.base_fee_wei(number) % 6_000_000;
        json!({
            "number": hex_quantity(number),
            "hash": self.block_hash(number),
            "parentHash": if number == 0 { hex_data(&[0; 32]) } else { self.block_hash(number - 1) },
            "nonce": "0x0000000000000000",
            "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
            "logsBloom": hex_data(&[0; 256]),
            "transactionsRoot": self.content(number, 1),
            "stateRoot": self.content(number, 2),
            "receiptsRoot": self.content(number, 3),
            "miner": self.address(number / 4, 4),
            "difficulty": "0x0",
            "extraData": "0x",
            "gasLimit": "0x1c9c380",
            "gasUsed": hex_quantity(gas_used),
            "timestamp": hex_quantity(self.block_unix_s(number)),
            "baseFeePerGas": hex_quantity(self.base_fee_wei(number)),
            "mixHash": self.content(number, 5),
        })
    }

    /// Block `number` with its transactions, whole or as hashes.
    pub(crate) fn block(&self, number: u64, whole: bool) -> Value {
        let mut block = self.header(number);
        let transactions: Vec<Value> = (0..self.transaction_count(number))
            .map(|i| if whole { self.transaction(number, i) } else { Value::String(self.transaction_hash(number, i)) })
            .collect();
        if let Some(fields) = block.as_object_mut() {
            fields.insert("size".to_owned(), json!(hex_quantity(40_000 + number % 9_000)));
            fields.insert("uncles".to_owned(), json!([]));
            fields.insert("transactions".to_owned(), Value::Array(transactions));
        }
        block
    }

    /// Transaction `index` of block `number`.
    pub(crate) fn transaction(&self, number: u64, index: u32) -> Value {
        json!({
            "hash": self.transaction_hash(number, index),
            "blockHash": self.block_hash(number),
            "blockNumber": hex_quantity(number),
            "transactionIndex": hex_quantity(u64::from(index)),
            "from": self.address(number, 100 + index),
            "to": self.address(number, 300 + index),
            "nonce": hex_quantity(number % 512),
            "value": hex_quantity(1_000_000_000_000 * (u64::from(index) + 1)),
            "gas": "0x5208",
            "gasPrice": hex_quantity(self.base_fee_wei(number) + 1_000_000_000),
            "input": "0x",
            "type": "0x2",
            "chainId": hex_quantity(self.settings.chain_id),
        })
    }

    /// Receipt of transaction `index` of block `number`.
    pub(crate) fn receipt(&self, number: u64, index: u32) -> Value {
        json!({
            "transactionHash": self.transaction_hash(number, index),
            "transactionIndex": hex_quantity(u64::from(index)),
            "blockHash": self.block_hash(number),
            "blockNumber": hex_quantity(number),
            "from": self.address(number, 100 + index),
            "to": self.address(number, 300 + index),
            "cumulativeGasUsed": hex_quantity(21_000 * (u64::from(index) + 1)),
            "gasUsed": "0x5208",
            "contractAddress": null,
            "logs": if index == 0 { vec![self.log(number, None)] } else { Vec::new() },
            "logsBloom": hex_data(&[0; 256]),
            "status": "0x1",
            "effectiveGasPrice": hex_quantity(self.base_fee_wei(number)),
            "type": "0x2",
        })
    }

    /// The one log of block `number`, as of `address` where a filter names one.
    pub(crate) fn log(&self, number: u64, address: Option<&str>) -> Value {
        json!({
            "address": address.map_or_else(|| self.address(0, 9), str::to_owned),
            "topics": [TRANSFER_TOPIC, self.content(number, 10), self.content(number, 11)],
            "data": self.content(number, 12),
            "blockNumber": hex_quantity(number),
            "blockHash": self.block_hash(number),
            "transactionHash": self.transaction_hash(number, 0),
            "transactionIndex": "0x0",
            "logIndex": "0x0",
            "removed": false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainSettings;

    #[test]
    fn each_block_names_its_parent_and_the_same_seed_makes_the_same_blocks() {
        let chain = Chain::manual(ChainSettings::default());
        let twin = Chain::manual(ChainSettings::default());
        let other = Chain::manual(ChainSettings { seed: 2, ..ChainSettings::default() });
        assert_eq!(chain.block(51, false)["parentHash"], chain.block(50, false)["hash"]);
        assert_eq!(chain.block(51, true), twin.block(51, true));
        assert_ne!(chain.block_hash(51), other.block_hash(51));
    }
}
