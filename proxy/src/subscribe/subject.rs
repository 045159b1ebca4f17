//! What a subscription is about. Two clients who mean the same must share one stream, so parameters are brought into one
//! form before they are compared: addresses and topics in lower case, sorted where their order says nothing.

use bytes::Bytes;
use serde_json::Value;

use crate::refusal::Refusal;

/// Addresses of a filter at most, and alternatives of a topic at most; what providers commonly allow.
const MAX_ALTERNATIVES: usize = 1_000;
/// Topics of a log at most.
const MAX_TOPICS: usize = 4;
const ADDRESS_DIGITS: usize = 40;
const HASH_DIGITS: usize = 64;

/// The kinds of subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    NewHeads,
    Logs,
    PendingTransactions,
}

impl Kind {
    /// Its name in the record.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NewHeads => "new_heads",
            Self::Logs => "logs",
            Self::PendingTransactions => "new_pending_transactions",
        }
    }
}

/// What is subscribed to, in its one form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    /// The parameters of `eth_subscribe` as they are sent to providers.
    pub(crate) params: Bytes,
}

impl Subject {
    /// The heads of a chain, by which other streams know that their provider is alive.
    pub(crate) fn heads() -> Self {
        Self { kind: Kind::NewHeads, params: Bytes::from_static(br#"["newHeads"]"#) }
    }

    /// Reads the parameters of `eth_subscribe`.
    ///
    /// # Errors
    /// They are no subscription that is served.
    pub(crate) fn read(params: Option<&[u8]>) -> Result<Self, Refusal> {
        let list: Vec<Value> = params.and_then(|params| serde_json::from_slice(params).ok()).unwrap_or_default();
        let bad = |problem: &str| Refusal::BadSubscription(problem.to_owned());
        match (list.first().and_then(Value::as_str), &list[1.min(list.len())..]) {
            (Some("newHeads"), []) => Ok(Self::heads()),
            (Some("newHeads"), _) => Err(bad("newHeads takes no further parameter")),
            (Some("logs"), rest @ ([] | [_])) => {
                let filter = filter(rest.first())?;
                let params = serde_json::json!(["logs", filter]).to_string().into();
                Ok(Self { kind: Kind::Logs, params })
            }
            (Some("newPendingTransactions"), rest @ ([] | [Value::Bool(_)])) => {
                let whole = rest.first() == Some(&Value::Bool(true));
                let params: &[u8] =
                    if whole { br#"["newPendingTransactions",true]"# } else { br#"["newPendingTransactions"]"# };
                Ok(Self { kind: Kind::PendingTransactions, params: Bytes::from_static(params) })
            }
            (Some("logs" | "newPendingTransactions"), _) => Err(bad("too many or wrong parameters")),
            _ => Err(bad("the subscriptions are newHeads, logs and newPendingTransactions")),
        }
    }

    /// The filter of logs as an object for `eth_getLogs`.
    pub(crate) fn filter(&self) -> serde_json::Map<String, Value> {
        let list: Vec<Value> = serde_json::from_slice(&self.params).unwrap_or_default();
        list.into_iter()
            .nth(1)
            .and_then(|filter| if let Value::Object(map) = filter { Some(map) } else { None })
            .unwrap_or_default()
    }
}

fn filter(given: Option<&Value>) -> Result<Value, Refusal> {
    let bad = |problem: &str| Refusal::BadSubscription(problem.to_owned());
    let empty = serde_json::Map::new();
    let given = match given {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(given)) => given,
        Some(_) => return Err(bad("the filter of logs is an object")),
    };
    if given.contains_key("blockHash") {
        return Err(bad("a subscription is to new logs: the filter has no blockHash"));
    }
    for bound in ["fromBlock", "toBlock"] {
        // Every new log is after "latest": these bounds say nothing, any other one asks for old logs.
        if !matches!(given.get(bound).map(Value::as_str), None | Some(Some("latest" | "pending"))) {
            return Err(bad("a subscription is to new logs: fromBlock and toBlock have no place in its filter"));
        }
    }
    let mut out = serde_json::Map::new();
    if let Some(address) = one_or_many(given.get("address"), ADDRESS_DIGITS)? {
        out.insert("address".to_owned(), address);
    }
    match given.get("topics") {
        None | Some(Value::Null) => {}
        Some(Value::Array(topics)) if topics.len() <= MAX_TOPICS => {
            let topics: Result<Vec<Value>, Refusal> =
                topics.iter().map(|topic| Ok(one_or_many(Some(topic), HASH_DIGITS)?.unwrap_or(Value::Null))).collect();
            let topics = topics?;
            if !topics.is_empty() {
                out.insert("topics".to_owned(), Value::Array(topics));
            }
        }
        Some(_) => return Err(bad("topics are an array of at most four")),
    }
    Ok(Value::Object(out))
}

/// One value, or a sorted array of several; none where anything is meant.
fn one_or_many(given: Option<&Value>, digits: usize) -> Result<Option<Value>, Refusal> {
    let bad = || {
        Refusal::BadSubscription(format!(
            "addresses have 40 and topics 64 hexadecimal digits after 0x, at most {MAX_ALTERNATIVES} of them"
        ))
    };
    let given = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    // An empty list, and a list with a null in it, mean anything.
    if given.is_empty() || given.iter().any(Value::is_null) {
        return Ok(None);
    }
    if given.len() > MAX_ALTERNATIVES {
        return Err(bad());
    }
    let mut list = Vec::with_capacity(given.len());
    for value in given {
        let text = value.as_str().ok_or_else(bad)?.to_ascii_lowercase();
        let hex = text.strip_prefix("0x").ok_or_else(bad)?;
        if hex.len() != digits || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(bad());
        }
        list.push(text);
    }
    list.sort_unstable();
    list.dedup();
    Ok(Some(if list.len() == 1 { Value::String(list.remove(0)) } else { list.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(params: &str) -> Result<Subject, Refusal> {
        Subject::read(Some(params.as_bytes()))
    }

    #[test]
    fn filters_that_mean_the_same_are_the_same() {
        let (a, b) = ("0xABcdefabcdefabcdefabcdefabcdefabcdefABCD", "0x00000000000000000000000000000000000000aa");
        let topic = format!("0x{}", "Dd".repeat(32));
        let first =
            read(&format!(r#"["logs",{{"address":["{a}","{b}","{b}"],"topics":["{topic}",null,[]]}}]"#)).unwrap();
        let second = read(&format!(
            r#"["logs",{{"topics":[["{}"],[null],null],"fromBlock":"latest","address":["{b}","{}"],"x":1}}]"#,
            topic.to_lowercase(),
            a.to_lowercase().replace("0X", "0x"),
        ));
        assert_eq!(first, second.unwrap());
        assert_eq!(first.filter()["address"].as_array().unwrap().len(), 2);
        assert_eq!(first.filter()["topics"].as_array().unwrap().len(), 3, "trailing places ask for that many topics");
        let one = |filter: &str| read(&format!(r#"["logs",{filter}]"#)).unwrap();
        assert_eq!(one(&format!(r#"{{"address":["{b}"]}}"#)), one(&format!(r#"{{"address":"{b}"}}"#)));
        assert_eq!(one("{}"), read(r#"["logs"]"#).unwrap());
        assert_ne!(one("{}"), one(&format!(r#"{{"address":"{b}"}}"#)));
    }

    #[test]
    fn what_is_no_subscription_of_ours_is_refused() {
        for params in [
            "[]",
            "{}",
            "null",
            r#"["syncing"]"#,
            r#"["newHeads",{}]"#,
            r#"["logs",1]"#,
            r#"["logs",{},{}]"#,
            r#"["logs",{"address":"0x1"}]"#,
            r#"["logs",{"address":[1]}]"#,
            r#"["logs",{"topics":"0x"}]"#,
            r#"["logs",{"topics":[null,null,null,null,null]}]"#,
            r#"["logs",{"fromBlock":"0x1"}]"#,
            r#"["logs",{"blockHash":"0x1"}]"#,
            r#"["newPendingTransactions",1]"#,
        ] {
            assert!(matches!(read(params), Err(Refusal::BadSubscription(_))), "{params}");
        }
        assert!(Subject::read(None).is_err());
        assert_eq!(read(r#"["newPendingTransactions",false]"#), read(r#"["newPendingTransactions"]"#));
        assert_ne!(read(r#"["newPendingTransactions",true]"#), read(r#"["newPendingTransactions"]"#));
    }
}
