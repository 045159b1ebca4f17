//! New heads as providers announce them, for whoever keeps what a reorganisation can undo: the cache, and subscriptions.
//! A listener that is too slow is told how many it did not get, and has to look for itself.

use std::collections::HashMap;

use lariat_schema::ids::InstanceId;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Heads that wait for a listener.
const WAITING: usize = 256;
/// Chains at most; the catalogs of a node name far fewer.
const MAX_CHAINS: usize = 1_024;

/// The head of a chain as one provider sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) hash: [u8; 32],
    pub(crate) parent_hash: [u8; 32],
}

/// A head, and who announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) instance: InstanceId,
    pub(crate) head: Head,
}

/// The heads of all chains.
#[derive(Debug, Default)]
pub(crate) struct Heads(Mutex<HashMap<u64, broadcast::Sender<Announced>>>);

impl Heads {
    /// Every head of that chain from now on.
    pub(crate) fn listen(&self, chain_id: u64) -> broadcast::Receiver<Announced> {
        let mut chains = self.0.lock();
        if chains.len() >= MAX_CHAINS {
            chains.retain(|_, sender| sender.receiver_count() > 0);
        }
        chains.entry(chain_id).or_insert_with(|| broadcast::channel(WAITING).0).subscribe()
    }

    pub(super) fn announce(&self, chain_id: u64, announced: Announced) {
        if let Some(sender) = self.0.lock().get(&chain_id) {
            // It fails only where nobody listens.
            let _heard = sender.send(announced).is_ok();
        }
    }
}
