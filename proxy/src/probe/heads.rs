//! New heads of an instance over its socket: subscribed to where a profile wants them, and again after each end, ever
//! later where nothing comes. While they come, heights need not be asked for as often.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lariat_schema::ids::InstanceId;
use lariat_schema::vocabulary::Transport;
use serde::Deserialize;

use super::tell_height;
use crate::core::Core;
use crate::record::Happened;
use crate::saving::{BlockHash, Head};
use crate::server::Site;
use crate::upstream::{Feed, State};

const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a subscription that ended, doubled with each one that gave nothing, up to the longest.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often it is looked whether heads are wanted, where they are not.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// When the latest head came and until when the next is due, on the book's clock.
#[derive(Debug, Default)]
pub(super) struct Freshness(AtomicU64);

impl Freshness {
    /// Whether heads are coming.
    pub(super) fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms < self.0.load(Ordering::Relaxed)
    }
}

/// Follows the heads of an instance until it is in no catalog any more.
pub(super) async fn follow(site: &Site, id: &InstanceId, freshness: &Freshness) {
    let mut barren = 0;
    loop {
        let core = site.core();
        let Some(at) = core.catalog.instance_at(id) else { return };
        let (wanted, socket) = (wanted(&core, at), core.upstreams.socket(id));
        drop(core);
        let (Some(timeout), Some(socket)) = (wanted, socket) else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let mut states = socket.link().states();
        let connected = states.wait_for(|state| matches!(state, State::Connected(_))).await.is_ok();
        let subscribed = if connected { socket.heads(SUBSCRIBE_TIMEOUT).await } else { return };
        drop(socket);
        let came = match subscribed {
            Ok(feed) => read(site, id, feed, timeout, freshness).await,
            Err(error) => {
                let category = error.end(&[]).category;
                tracing::debug!(instance = %id, category = category.map(|it| it.as_str()), "no new heads");
                false
            }
        };
        freshness.0.store(0, Ordering::Relaxed);
        barren = if came { 0 } else { barren + 1 };
        tokio::time::sleep(pause(barren)).await;
    }
}

fn pause(barren: u32) -> Duration {
    PAUSE.saturating_mul(1 << barren.saturating_sub(1).min(4)).min(LONGEST_PAUSE)
}

/// How long a head may take, where any provider that stands for the instance wants heads at all.
fn wanted(core: &Core, at: usize) -> Option<Duration> {
    core.providers()
        .filter(|(_, _, _, provider)| provider.instance == at)
        .filter(|(_, _, chain, it)| it.subscribe_new_heads.unwrap_or(chain.websocket.subscribe_new_heads))
        .map(|(_, _, chain, _)| Duration::from_millis(chain.websocket.new_heads_timeout_ms))
        .min()
}

/// Reads heads until there is none for too long; true if there was any.
async fn read(site: &Site, id: &InstanceId, mut feed: Feed, timeout: Duration, freshness: &Freshness) -> bool {
    let mut came = false;
    while let Ok(Some(event)) = tokio::time::timeout(timeout, feed.next()).await {
        let core = site.core();
        let Some(at) = core.catalog.instance_at(id) else { return came };
        let Some(head) = Announced::read(&event) else { continue };
        came = true;
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        freshness.0.store(core.book.now_ms().saturating_add(timeout_ms), Ordering::Relaxed);
        tell_height(&core, at, Transport::Ws, head.number);
        let turned = head.block().and_then(|head| core.saving.announce(&core.catalog, at, &head));
        if let Some(height) = turned {
            tracing::warn!(instance = %id, height, "a block that was final is another one now");
            core.tell(at, Transport::Ws, &Happened::Reorganised { height });
        }
    }
    came
}

/// A head as it comes, as far as it is read here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    #[serde(borrow)]
    number: Cow<'a, str>,
    #[serde(borrow, default)]
    hash: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    parent_hash: Option<Cow<'a, str>>,
}

/// What a head says: its number at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Announced {
    number: u64,
    hash: Option<BlockHash>,
    parent: Option<BlockHash>,
}

impl Announced {
    fn read(event: &[u8]) -> Option<Self> {
        let raw: Raw<'_> = serde_json::from_slice(event).ok()?;
        let number = u64::from_str_radix(raw.number.strip_prefix("0x")?, 16).ok()?;
        Some(Self { number, hash: hash(raw.hash), parent: hash(raw.parent_hash) })
    }

    fn block(self) -> Option<Head> {
        Some(Head { number: self.number, hash: self.hash?, parent: self.parent })
    }
}

fn hash(text: Option<Cow<'_, str>>) -> Option<BlockHash> {
    let mut hash = BlockHash::default();
    hex::decode_to_slice(text?.strip_prefix("0x")?, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_from_what_providers_send_and_nothing_else_is() {
        let number = |text: &[u8]| Announced::read(text).map(|head| head.number);
        let short = br#"{"hash":"0x01","number":"0x10","gasUsed":"0x1"}"#;
        assert_eq!(number(short), Some(16));
        assert_eq!(Announced::read(short).unwrap().block(), None);
        let (hash, parent) = ("0a".repeat(32), "0b".repeat(32));
        let whole = format!(r#"{{"parentHash":"0x{parent}","hash":"0x{hash}","number":"0x10"}}"#);
        let head = Head { number: 16, hash: [10; 32], parent: Some([11; 32]) };
        assert_eq!(Announced::read(whole.as_bytes()).unwrap().block(), Some(head));
        for text in ["{}", "null", "[]", r#"{"number":"16"}"#, "\"0x10\""] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn subscriptions_that_give_nothing_are_made_ever_later() {
        let pauses: Vec<_> = (0..8).map(|barren| pause(barren).as_secs()).collect();
        assert_eq!(pauses, [5, 5, 10, 20, 40, 60, 60, 60]);
    }
}
