//! What may be kept for ever: results that name, or are named by, a block which is final. Pure: a call, its result and the
//! newest final height come in, a class comes out. A list of methods rather than a rule, since "looks immutable" is how a
//! balance at `latest` gets cached. Nothing that is null or an error, and nothing by a tag, is ever kept.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Why a result cannot change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A property of the chain, or of the parameters alone.
    Constant,
    /// A block or a transaction by its hash, in a final block.
    ByHash,
    /// A final block, or what is in it, by its number.
    ByNumber,
    /// Logs of final blocks.
    Logs,
    /// State at the end of a final block.
    State,
}

/// What a class still asks of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Not to be null.
    Any,
    /// To name this block as its own.
    Number(u64),
    /// To name a final block: in `number` of a block, in `blockNumber` of what is in one.
    FinalBlock,
    /// Logs, none of them removed, at least one, all in final blocks.
    LogsOfFinalBlocks,
    /// Logs, none of them removed.
    Logs,
}

/// The block that a result says it is, or is in.
#[derive(Deserialize)]
struct Placed<'a> {
    #[serde(borrow, default)]
    number: Option<&'a str>,
    #[serde(borrow, default, rename = "blockNumber")]
    block_number: Option<&'a str>,
    #[serde(default)]
    removed: bool,
}

#[derive(Deserialize)]
struct Filter<'a> {
    #[serde(borrow, default, rename = "fromBlock")]
    from: Option<&'a str>,
    #[serde(borrow, default, rename = "toBlock")]
    to: Option<&'a str>,
    #[serde(borrow, default, rename = "blockHash")]
    hash: Option<&'a str>,
}

fn quantity(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn is_hash(text: &str) -> bool {
    text.len() == 66 && text.starts_with("0x")
}

/// The class of a call whose result may be kept, before its result is known.
pub(crate) fn of_call(method: &str, params: Option<&[u8]>, final_height: Option<u64>) -> Option<Class> {
    claim(method, params, final_height).map(|(class, _)| class)
}

/// The class of a result that may be kept; none where it may not.
pub(crate) fn cacheability(
    method: &str,
    params: Option<&[u8]>,
    result: &[u8],
    final_height: Option<u64>,
) -> Option<Class> {
    let (class, proof) = claim(method, params, final_height)?;
    (result != b"null" && holds(proof, result, final_height)).then_some(class)
}

fn claim(method: &str, params: Option<&[u8]>, final_height: Option<u64>) -> Option<(Class, Proof)> {
    match method {
        "net_version" | "web3_sha3" => return Some((Class::Constant, Proof::Any)),
        _ => {}
    }
    let (at, class) = match method {
        "eth_getBlockByHash"
        | "eth_getTransactionByHash"
        | "eth_getTransactionReceipt"
        | "eth_getTransactionByBlockHashAndIndex" => (0, Class::ByHash),
        "eth_getBlockByNumber"
        | "eth_getBlockReceipts"
        | "eth_getBlockTransactionCountByNumber"
        | "eth_getTransactionByBlockNumberAndIndex"
        | "eth_getUncleCountByBlockNumber" => (0, Class::ByNumber),
        "eth_getLogs" => (0, Class::Logs),
        "eth_getBalance" | "eth_getCode" | "eth_getTransactionCount" | "eth_call" => (1, Class::State),
        "eth_getStorageAt" | "eth_getProof" => (2, Class::State),
        _ => return None,
    };
    let params: Vec<&RawValue> = serde_json::from_slice(params?).ok()?;
    let param = params.get(at)?.get();
    if class == Class::Logs {
        return logs(serde_json::from_str(param).ok()?, final_height?).map(|proof| (class, proof));
    }
    let text: &str = serde_json::from_str(param).ok()?;
    if class == Class::ByHash {
        return is_hash(text).then_some((class, Proof::FinalBlock));
    }
    let number = quantity(text).filter(|number| Some(*number) <= final_height)?;
    let proof = if method == "eth_getBlockByNumber" || method == "eth_getTransactionByBlockNumberAndIndex" {
        Proof::Number(number)
    } else {
        Proof::Any
    };
    Some((class, proof))
}

fn logs(filter: Filter<'_>, final_height: u64) -> Option<Proof> {
    match filter {
        Filter { from: None, to: None, hash: Some(hash) } => is_hash(hash).then_some(Proof::LogsOfFinalBlocks),
        Filter { from: Some(from), to: Some(to), hash: None } => {
            let (from, to) = (quantity(from)?, quantity(to)?);
            (from <= to && to <= final_height).then_some(Proof::Logs)
        }
        _ => None,
    }
}

fn holds(proof: Proof, result: &[u8], final_height: Option<u64>) -> bool {
    let place = |placed: &Placed<'_>| placed.block_number.or(placed.number).and_then(quantity);
    let is_final = |placed: &Placed<'_>| place(placed).is_some_and(|number| Some(number) <= final_height);
    match proof {
        Proof::Any => true,
        Proof::Number(wanted) => {
            serde_json::from_slice::<Placed<'_>>(result).is_ok_and(|placed| place(&placed) == Some(wanted))
        }
        Proof::FinalBlock => serde_json::from_slice::<Placed<'_>>(result).is_ok_and(|placed| is_final(&placed)),
        Proof::Logs => serde_json::from_slice::<Vec<Placed<'_>>>(result)
            .is_ok_and(|logs| logs.iter().all(|log| !log.removed && is_final(log))),
        Proof::LogsOfFinalBlocks => serde_json::from_slice::<Vec<Placed<'_>>>(result)
            .is_ok_and(|logs| !logs.is_empty() && logs.iter().all(|log| !log.removed && is_final(log))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FINAL: Option<u64> = Some(100);
    const HASH: &str = "0xabababababababababababababababababababababababababababababababab";

    fn class(method: &str, params: &str, result: &str) -> Option<Class> {
        cacheability(method, Some(params.as_bytes()), result.as_bytes(), FINAL)
    }

    #[test]
    fn what_is_final_is_kept_by_its_class() {
        let by_hash = format!("[\"{HASH}\",false]");
        let logs = r#"[{"blockNumber":"0x64","removed":false}]"#;
        let of_block = format!("[{{\"blockHash\":\"{HASH}\"}}]");
        for (method, params, result, expected) in [
            ("net_version", "[]", "\"1\"", Class::Constant),
            ("web3_sha3", "[\"0x00\"]", "\"0x11\"", Class::Constant),
            ("eth_getBlockByHash", by_hash.as_str(), r#"{"number":"0x64"}"#, Class::ByHash),
            ("eth_getTransactionByHash", &by_hash, r#"{"blockNumber":"0x1"}"#, Class::ByHash),
            ("eth_getTransactionReceipt", &by_hash, r#"{"blockNumber":"0x1"}"#, Class::ByHash),
            ("eth_getBlockByNumber", r#"["0x64",true]"#, r#"{"number":"0x64"}"#, Class::ByNumber),
            ("eth_getBlockReceipts", r#"["0x64"]"#, "[]", Class::ByNumber),
            ("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"0x64"}]"#, logs, Class::Logs),
            ("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"0x64"}]"#, "[]", Class::Logs),
            ("eth_getLogs", &of_block, logs, Class::Logs),
            ("eth_getBalance", r#"["0xaa","0x64"]"#, "\"0x0\"", Class::State),
            ("eth_getStorageAt", r#"["0xaa","0x0","0x64"]"#, "\"0x0\"", Class::State),
            ("eth_call", r#"[{},"0x64"]"#, "\"0x\"", Class::State),
        ] {
            assert_eq!(class(method, params, result), Some(expected), "{method} {params}");
        }
    }

    #[test]
    fn what_may_change_or_says_nothing_is_not_kept() {
        let by_hash = format!("[\"{HASH}\",false]");
        let young = r#"[{"blockNumber":"0x65"}]"#;
        let of_block = format!("[{{\"blockHash\":\"{HASH}\"}}]");
        for (method, params, result) in [
            ("eth_blockNumber", "[]", "\"0x64\""),
            ("eth_gasPrice", "[]", "\"0x64\""),
            ("eth_estimateGas", r#"[{},"0x1"]"#, "\"0x64\""),
            ("net_version", "[]", "null"),
            ("eth_getBlockByHash", by_hash.as_str(), "null"),
            ("eth_getBlockByHash", &by_hash, r#"{"number":"0x65"}"#),
            ("eth_getBlockByHash", &by_hash, r#"{"hash":"0x1"}"#),
            ("eth_getTransactionByHash", &by_hash, r#"{"blockNumber":null}"#),
            ("eth_getBlockByNumber", r#"["0x65",true]"#, r#"{"number":"0x65"}"#),
            ("eth_getBlockByNumber", r#"["0x64",true]"#, r#"{"number":"0x63"}"#),
            ("eth_getBlockByNumber", r#"["0x1",true]"#, "null"),
            ("eth_getBlockByNumber", r#"["latest",true]"#, r#"{"number":"0x1"}"#),
            ("eth_getBlockByNumber", r#"["finalized",true]"#, r#"{"number":"0x1"}"#),
            ("eth_getBlockByNumber", r#"["earliest",true]"#, r#"{"number":"0x0"}"#),
            ("eth_getBalance", r#"["0xaa","latest"]"#, "\"0x0\""),
            ("eth_getBalance", r#"["0xaa","pending"]"#, "\"0x0\""),
            ("eth_getBalance", r#"["0xaa"]"#, "\"0x0\""),
            ("eth_getBalance", r#"["0xaa","0x65"]"#, "\"0x0\""),
            ("eth_call", r#"{"block":"0x1"}"#, "\"0x0\""),
            ("eth_getLogs", r#"[{"fromBlock":"0x1"}]"#, "[]"),
            ("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"latest"}]"#, "[]"),
            ("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"0x65"}]"#, "[]"),
            ("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"0x2"}]"#, r#"[{"blockNumber":"0x1","removed":true}]"#),
            ("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"0x2"}]"#, young),
            ("eth_getLogs", &of_block, "[]"),
            ("eth_getLogs", &of_block, young),
            ("eth_getTransactionReceipt", r#"["0x1"]"#, r#"{"blockNumber":"0x1"}"#),
        ] {
            assert_eq!(class(method, params, result), None, "{method} {params} {result}");
        }
        let block = br#"["0x1",true]"#.as_slice();
        assert_eq!(cacheability("eth_getBlockByNumber", Some(block), br#"{"number":"0x1"}"#, None), None);
    }

    proptest! {
        #[test]
        fn nothing_above_the_final_height_is_kept_and_no_bytes_panic(
            number in 0u64..200, final_height in 0u64..200, noise in proptest::collection::vec(any::<u8>(), 0..40)
        ) {
            let params = format!("[\"0x{number:x}\",false]");
            let result = format!("{{\"number\":\"0x{number:x}\"}}");
            let kept = cacheability("eth_getBlockByNumber", Some(params.as_bytes()), result.as_bytes(), Some(final_height));
            prop_assert_eq!(kept.is_some(), number <= final_height);
            for method in ["eth_getLogs", "eth_getBlockByHash", "eth_call", "eth_getBlockByNumber"] {
                let _ = cacheability(method, Some(&noise), params.as_bytes(), Some(final_height));
                let _ = cacheability(method, Some(params.as_bytes()), &noise, Some(final_height));
            }
        }
    }
}
