//! What a stream may have missed, asked for as ordinary calls of the proxy's own: routed, failed over and recorded like a
//! client's, with `origin=system`. An answer that does not come, or not yet, is asked for again until the profile's time
//! for it is over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use lariat_schema::vocabulary::{Origin, Strategy, Transport};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::Key;
use super::notice::{self, Identity, Notice, quantity};
use super::stream::Input;
use super::subject::Kind;
use crate::call::{self, Position, Route};
use crate::core::Core;
use crate::jsonrpc::{self, Body};
use crate::server::Site;

/// Headers that are asked for at once.
const AT_ONCE: usize = 4;
/// Before something is asked for again.
const PAUSE: Duration = Duration::from_millis(250);
/// Members of a block that its header, as subscriptions give it, does not have.
const NOT_OF_A_HEADER: &[&str] = &["transactions", "uncles", "withdrawals", "size", "totalDifficulty"];

/// The route of a stream's own calls under the profiles in force; none where these have no such chain any more.
pub(super) fn route<'a>(core: &'a Core, key: &'a Key, strategy: Strategy) -> Option<Route<'a>> {
    let (profile_at, profile) = core.catalog.profile(key.profile.as_str())?;
    let (chain_at, chain) = profile.chain(key.chain.as_str())?;
    Some(Route {
        profile_at,
        profile,
        chain_at,
        chain,
        strategy,
        transport: None,
        pin: key.pin.as_deref(),
        excluded: &[],
        leave_out_limited: false,
        timeout: None,
        wants_meta: false,
    })
}

pub(super) fn position() -> Position {
    Position {
        request_id: Uuid::now_v7(),
        batch_index: 0,
        batch_size: 1,
        client_transport: Transport::Ws,
        origin: Origin::System,
        context: None,
    }
}

/// A call of the proxy's own, as a client would write it.
pub(super) fn call(method: &str, params: &str) -> Option<jsonrpc::Call> {
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    match jsonrpc::read(&text.into()) {
        Ok(Body::Single(Ok(call))) => Some(call),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// The result of a call, if it got one that is not null.
async fn ask(site: &Site, key: &Key, method: &str, params: &str) -> Option<Bytes> {
    let core = site.core();
    let route = route(&core, key, Strategy::Fastest)?;
    let done = call::answer(&core, &route, &call(method, params)?, position()).await;
    let body = Bytes::from(done.body?);
    let reply: Reply<'_> = serde_json::from_slice(&body).ok()?;
    let result = reply.result.filter(|result| result.get() != "null")?.get();
    Some(body.slice_ref(result.as_bytes()))
}

/// The time that the profile gives for it.
fn patience(site: &Site, key: &Key) -> Duration {
    let core = site.core();
    let ms = route(&core, key, Strategy::Fastest).map_or(0, |route| route.chain.websocket.backfill_timeout_ms);
    Duration::from_millis(ms)
}

/// Asks until there is something.
async fn insist<T, F: Future<Output = Option<T>>>(asking: impl Fn() -> F) -> T {
    loop {
        if let Some(found) = asking().await {
            return found;
        }
        sleep(PAUSE).await;
    }
}

/// The height of the chain.
pub(super) async fn height(site: Arc<Site>, key: Arc<Key>) -> Input {
    let asking = insist(|| async {
        let result = ask(&site, &key, "eth_blockNumber", "[]").await?;
        quantity(serde_json::from_slice::<&str>(&result).ok()?)
    });
    timeout(patience(&site, &key), asking).await.map_or(Input::NotFilled, Input::Height)
}

/// The events of these blocks, in order.
pub(super) async fn fill(site: Arc<Site>, key: Arc<Key>, from: u64, to: u64) -> Input {
    let patience = patience(&site, &key);
    let filling = async {
        if key.subject.kind == Kind::Logs {
            return insist(|| logs(&site, &key, from, to)).await;
        }
        let (site, key) = (&site, &key);
        let headers = (from..=to).map(|number| insist(move || header(site, key, number)));
        futures::stream::iter(headers).buffered(AT_ONCE).collect().await
    };
    match timeout(patience, filling).await {
        Ok(notices) => Input::Filled { to, notices },
        Err(_) => Input::NotFilled,
    }
}

async fn header(site: &Site, key: &Key, number: u64) -> Option<Notice> {
    let block = ask(site, key, "eth_getBlockByNumber", &format!(r#"["{number:#x}",false]"#)).await?;
    let notice = notice::read(Kind::NewHeads, without(&block, NOT_OF_A_HEADER)?)?;
    (notice.number == number).then_some(notice)
}

async fn logs(site: &Site, key: &Key, from: u64, to: u64) -> Option<Vec<Notice>> {
    let mut filter = key.subject.filter();
    filter.insert("fromBlock".to_owned(), Value::String(format!("{from:#x}")));
    filter.insert("toBlock".to_owned(), Value::String(format!("{to:#x}")));
    let result = ask(site, key, "eth_getLogs", &Value::Array(vec![Value::Object(filter)]).to_string()).await?;
    let list: Vec<&RawValue> = serde_json::from_slice(&result).ok()?;
    let read = |log: &RawValue| notice::read(Kind::Logs, result.slice_ref(log.get().as_bytes()));
    let mut notices: Vec<Notice> = list.into_iter().map(read).collect::<Option<_>>()?;
    notices.sort_by_key(|notice| match notice.identity {
        Identity::Log { index, .. } => (notice.number, index),
        _ => (notice.number, 0),
    });
    Some(notices)
}

/// An object without some of its members, the others as they were written.
fn without(object: &[u8], names: &[&str]) -> Option<Bytes> {
    let members: Members<'_> = serde_json::from_slice(object).ok()?;
    let mut out = vec![b'{'];
    for (name, value) in members.0.iter().filter(|(name, _)| !names.contains(&&**name)) {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(Value::from(&**name).to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    Some(out.into())
}

/// The members of an object in their order.
struct Members<'a>(Vec<(std::borrow::Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> serde::de::Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_its_block_without_what_only_blocks_have() {
        let block = br#"{"number":"0x1", "size":"0x2","transactions":[{"a":1}],"odd":1.0,"uncles":[]}"#;
        assert_eq!(without(block, NOT_OF_A_HEADER).unwrap(), br#"{"number":"0x1","odd":1.0}"#.as_slice());
        assert!(without(b"[]", &[]).is_none());
    }
}
