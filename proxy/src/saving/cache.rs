//! The answers of a profile that cannot change, in memory and bounded in bytes. What may be kept is decided elsewhere
//! ([`super::cacheability`]); here it is kept, counted and forgotten. Admission and eviction are `moka`'s (TinyLFU), which
//! needs no lock around the whole and no thread. Entries of a chain carry its generation, so that forgetting a chain is
//! one addition: what carries an older one is never found again and leaves when room is needed. There is no refresh and
//! nothing is kept on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lariat_schema::ids::ChainName;
use parking_lot::Mutex;

use super::lineage::{Head, Lineage};
use super::{cacheability, finality};
use crate::jsonrpc::Reply;
use crate::profiles::Chain;

/// No entry lives longer, so that what a provider has told wrong does not stay for ever.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// What an entry takes besides its bytes: key, reply, and the cache's own nodes.
const ENTRY_OVERHEAD_BYTES: usize = 512;
/// An entry takes at most this part of the cache; a larger one would push out too many others.
const MAX_SHARE: u64 = 8;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Number of the chain in this cache, and its generation.
    chain: (u64, u64),
    method: &'static str,
    params: Bytes,
}

/// Figures of one cache.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) purges: AtomicU64,
}

/// The answers kept.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: moka::sync::Cache<Key, Reply>,
    max_bytes: u64,
    figures: Arc<Figures>,
    chains: AtomicU64,
}

/// A chain as its entries know it.
#[derive(Debug)]
pub(crate) struct CachedChain {
    name: ChainName,
    chain_id: u64,
    number: u64,
    generation: AtomicU64,
    /// A short lock that heads and snapshots take, some times a second.
    lineage: Mutex<Lineage>,
}

/// Where an answer to a call is, or may be put: valid for the generation in which it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    key: Key,
}

impl Cache {
    pub(crate) fn new(max_bytes: u64) -> Self {
        let figures = Arc::new(Figures::default());
        let listener = figures.clone();
        let entries = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|key: &Key, reply: &Reply| u32::try_from(weight(key, reply)).unwrap_or(u32::MAX))
            .time_to_live(LIFETIME)
            .eviction_listener(move |_, _, cause| {
                if cause.was_evicted() {
                    listener.evictions.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self { entries, max_bytes, figures, chains: AtomicU64::new(0) }
    }

    pub(crate) const fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Bytes in use, as far as the cache has kept its own books.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }

    /// A chain that has entries here.
    pub(crate) fn chain(&self, chain: &Chain) -> CachedChain {
        CachedChain {
            name: chain.key.clone(),
            chain_id: chain.chain_id,
            number: self.chains.fetch_add(1, Ordering::Relaxed),
            generation: AtomicU64::new(0),
            lineage: Mutex::default(),
        }
    }

    /// Looks for the answer to a call.
    pub(crate) fn find(
        &self,
        chain: &CachedChain,
        method: &'static str,
        params: Option<&Bytes>,
    ) -> Result<Reply, Place> {
        let generation = chain.generation.load(Ordering::Acquire);
        let key = Key { chain: (chain.number, generation), method, params: params.cloned().unwrap_or_default() };
        let found = self.entries.get(&key);
        let counter = if found.is_some() { &self.figures.hits } else { &self.figures.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found.ok_or(Place { key })
    }

    /// Keeps an answer where it was looked for, in memory of its own: what it came in is much larger.
    pub(crate) fn keep(&self, place: Place, reply: &Reply) {
        if weight(&place.key, reply) as u64 > self.max_bytes / MAX_SHARE {
            return;
        }
        let params = Bytes::copy_from_slice(&place.key.params);
        self.entries.insert(Key { params, ..place.key }, reply.compact());
    }

    /// Takes note of the heights that a chain's providers report, as often as they do. Where the highest has fallen by what
    /// lies above the final one, what was final is not: another chain stands behind the name.
    pub(crate) fn observe(&self, chain: &CachedChain, highest: u64) {
        if chain.lineage.lock().observe(highest, finality::depth(chain.chain_id)) {
            self.forget(chain);
        }
    }

    /// Takes note of a head that a provider announces. Where it shows that a block that was final is another one now, the
    /// chain is forgotten, and the number of that block is returned.
    pub(crate) fn announce(&self, chain: &CachedChain, head: &Head) -> Option<u64> {
        let turned = chain.lineage.lock().note(head, finality::depth(chain.chain_id))?;
        self.forget(chain);
        Some(turned)
    }

    /// Forgets a chain's answers, and those to calls that are under way.
    pub(crate) fn forget(&self, chain: &CachedChain) {
        chain.generation.fetch_add(1, Ordering::AcqRel);
        self.figures.purges.fetch_add(1, Ordering::Relaxed);
    }
}

impl Place {
    /// True where this result of the call cannot change.
    pub(crate) fn is_worth(&self, result: &[u8], final_height: Option<u64>) -> bool {
        // Calls without parameters have none of the kinds that are told by them.
        let params = Some(&*self.key.params).filter(|params| !params.is_empty());
        cacheability::cacheability(self.key.method, params, result, final_height).is_some()
    }
}

impl CachedChain {
    /// True where it is the same chain under another policy.
    pub(crate) fn is(&self, chain: &Chain) -> bool {
        self.name == chain.key && self.chain_id == chain.chain_id
    }
}

fn weight(key: &Key, reply: &Reply) -> usize {
    ENTRY_OVERHEAD_BYTES + key.params.len() + reply.bytes()
}

#[cfg(test)]
mod tests;
