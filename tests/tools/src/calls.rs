//! JSON-RPC calls to send: a weighted mix of methods, each call with a body of its own. Identical bodies were
//! rejected: a cache or a coalescing proxy would answer them without a provider, and the figures would be of that.

use std::str::FromStr;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::chain::{Chain, hex_quantity};
use crate::provider::REVERTING_SELECTOR;

/// Number of blocks below the head within which calls ask for history.
const RECENT_BLOCKS: u64 = 64;
/// Height that calls assume where they know no chain.
const ASSUMED_HEIGHT: u64 = 21_000_000;

/// A mix that is no list of `method=weight`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no part of a method mix; expected method=weight, as in eth_call=3,eth_blockNumber=1")]
pub struct BadMix {
    /// The part that was not understood.
    pub found: String,
}

/// What kind of call: a method, or one of the calls that are meant to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Method(String),
    Revert,
    BadParams,
}

/// A weighted mix of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix {
    kinds: Vec<(Kind, u32)>,
    total: u32,
}

impl Mix {
    fn new(kinds: Vec<(Kind, u32)>) -> Self {
        let total = kinds.iter().map(|(_, weight)| weight).sum();
        Self { kinds, total }
    }

    /// What a wallet, an explorer and an indexer send together, with some calls that fail by their own fault.
    #[must_use]
    pub fn realistic() -> Self {
        let methods = [
            ("eth_blockNumber", 180),
            ("eth_call", 220),
            ("eth_getBlockByNumber", 110),
            ("eth_getBalance", 100),
            ("eth_getLogs", 70),
            ("eth_getTransactionReceipt", 70),
            ("eth_getTransactionByHash", 50),
            ("eth_gasPrice", 50),
            ("eth_getTransactionCount", 40),
            ("eth_getBlockByHash", 20),
            ("eth_getCode", 20),
            ("eth_estimateGas", 20),
            ("eth_feeHistory", 15),
            ("eth_chainId", 15),
            ("debug_traceTransaction", 8),
            ("eth_sendRawTransaction", 5),
            ("parity_nextNonce", 2),
        ];
        let mut kinds: Vec<_> =
            methods.into_iter().map(|(name, weight)| (Kind::Method(name.to_owned()), weight)).collect();
        kinds.push((Kind::Revert, 18));
        kinds.push((Kind::BadParams, 6));
        Self::new(kinds)
    }

    /// Only this method.
    #[must_use]
    pub fn only(method: &str) -> Self {
        Self::new(vec![(Kind::Method(method.to_owned()), 1)])
    }

    /// Call number `n` of a run: the same for the same seed and number, and unlike any other of the run.
    #[must_use]
    pub fn call(&self, seed: u64, n: u64, chain: Option<&Chain>) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(n.wrapping_mul(0xa076_1d64_78bd_642f)));
        let mut lot = rng.random_range(0..self.total.max(1));
        let kind = self.kinds.iter().find(|(_, weight)| {
            let found = lot < *weight;
            lot = lot.saturating_sub(*weight);
            found
        });
        let (method, params) = match kind.map(|(kind, _)| kind) {
            Some(Kind::Method(method)) => (method.as_str(), params_of(method, &mut rng, chain)),
            Some(Kind::Revert) => {
                let to = address(&mut rng);
                ("eth_call", format!(r#"[{{"to":"{to}","data":"{REVERTING_SELECTOR}{n:064x}"}},"latest"]"#))
            }
            Some(Kind::BadParams) => ("eth_getBalance", format!(r#"["0x{n:x}","latest"]"#)),
            None => ("eth_blockNumber", "[]".to_owned()),
        };
        format!(r#"{{"jsonrpc":"2.0","id":{n},"method":"{method}","params":{params}}}"#)
    }
}

impl FromStr for Mix {
    type Err = BadMix;

    /// Reads `method=weight,…`, or `realistic`.
    fn from_str(text: &str) -> Result<Self, BadMix> {
        if text == "realistic" {
            return Ok(Self::realistic());
        }
        let part = |part: &str| {
            let (method, weight) = part.split_once('=').unwrap_or((part, "1"));
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let weight = weight.trim().parse::<u16>().ok().filter(|weight| *weight > 0);
            match weight {
                Some(weight) if !method.trim().is_empty() && method.trim().chars().all(allowed) => {
                    Ok((Kind::Method(method.trim().to_owned()), u32::from(weight)))
                }
                _ => Err(BadMix { found: part.to_owned() }),
            }
        };
        Ok(Self::new(text.split(',').map(part).collect::<Result<_, _>>()?))
    }
}

fn address(rng: &mut ChaCha8Rng) -> String {
    format!("0x{}", hex::encode(rng.random::<[u8; 20]>()))
}

fn word(rng: &mut ChaCha8Rng) -> String {
    format!("0x{}", hex::encode(rng.random::<[u8; 32]>()))
}

fn params_of(method: &str, rng: &mut ChaCha8Rng, chain: Option<&Chain>) -> String {
    let height = chain.map_or(ASSUMED_HEIGHT, Chain::height);
    let recent = height.saturating_sub(rng.random_range(8..RECENT_BLOCKS));
    match method {
        "eth_getBlockByNumber" if rng.random_bool(0.5) => r#"["latest",false]"#.to_owned(),
        "eth_getBlockByNumber" => format!(r#"["{}",false]"#, hex_quantity(recent)),
        "eth_getBlockByHash" => {
            format!(r#"["{}",false]"#, chain.map_or_else(|| word(rng), |chain| chain.block_hash(recent)))
        }
        "eth_getTransactionByHash" | "eth_getTransactionReceipt" | "debug_traceTransaction" => {
            let index = rng.random_range(0..4);
            let hash = chain.map_or_else(|| word(rng), |chain| chain.transaction_hash(recent, index));
            format!(r#"["{hash}"]"#)
        }
        "eth_getBalance" | "eth_getTransactionCount" | "eth_getCode" => format!(r#"["{}","latest"]"#, address(rng)),
        "eth_getStorageAt" => format!(r#"["{}","0x0","latest"]"#, address(rng)),
        "eth_call" | "eth_estimateGas" => {
            let owner = hex::encode(rng.random::<[u8; 20]>());
            format!(r#"[{{"to":"{}","data":"0x70a08231000000000000000000000000{owner}"}},"latest"]"#, address(rng))
        }
        "eth_getLogs" => {
            let to = recent + rng.random_range(0..6);
            let (from, to) = (hex_quantity(recent), hex_quantity(to));
            format!(r#"[{{"fromBlock":"{from}","toBlock":"{to}","address":"{}"}}]"#, address(rng))
        }
        "eth_feeHistory" => r#"["0x5","latest",[]]"#.to_owned(),
        "eth_sendRawTransaction" => format!(r#"["0x02f8{}"]"#, hex::encode(rng.random::<[u8; 32]>())),
        _ => "[]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_run_is_valid_json_and_unlike_the_others() {
        let mix = Mix::realistic();
        let calls: Vec<String> = (0..500).map(|n| mix.call(3, n, None)).collect();
        let distinct: std::collections::HashSet<&String> = calls.iter().collect();
        assert_eq!(distinct.len(), 500);
        assert_eq!(calls[7], mix.call(3, 7, None));
        for call in &calls {
            let value: serde_json::Value = serde_json::from_str(call).unwrap();
            assert!(value["params"].is_array(), "{call}");
        }
    }

    #[test]
    fn a_mix_is_read_by_weight_and_a_bad_part_is_named() {
        let mix: Mix = "eth_call=1,eth_chainId=3".parse().unwrap();
        let chain_ids = (0..1_000).filter(|n| mix.call(1, *n, None).contains("eth_chainId")).count();
        assert!((680..820).contains(&chain_ids), "{chain_ids}");
        assert_eq!("eth_call=x".parse::<Mix>(), Err(BadMix { found: "eth_call=x".to_owned() }));
    }
}
