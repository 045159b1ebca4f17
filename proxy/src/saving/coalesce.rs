//! Identical calls that are under way at the same time share one. The first leads and asks a provider, those that come
//! while it is under way follow and get its answer; nothing is kept once it has ended, so that this is no cache. A leader
//! that ends without an answer to share (its client went away, its own time was shorter) leaves its followers as they
//! were, and they go on. One that takes too long can be displaced: a call is polled by its own client's connection, and no
//! client is to hold up another's. Calls are compared by all of their bytes: a hash only finds the place, since two calls of one
//! hash would otherwise get each other's answers. The table is in shards, and a call holds a shard for one lookup.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lariat_schema::vocabulary::{Strategy, Transport};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Shards; many more than threads, so that two calls seldom meet in one.
const SHARDS: usize = 64;
/// Leaders in a shard at most: all shards together hold more than the calls that a node serves at once.
const MAX_LEADERS_PER_SHARD: usize = 1_024;
/// Followers of one leader at most. They are woken together, and each copies its reply.
const MAX_FOLLOWERS: u32 = 1_024;

/// What makes two calls of one profile identical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    hash: u64,
    parts: Parts,
}

/// The parts that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Place of the chain in the profile.
    pub(crate) chain_at: usize,
    pub(crate) strategy: Strategy,
    pub(crate) transport: Option<Transport>,
    /// Place of the pinned provider in the chain.
    pub(crate) pin: Option<usize>,
    pub(crate) method: &'static str,
    /// The parameters as they were written.
    pub(crate) params: Option<Bytes>,
}

impl Key {
    /// `seed` keeps clients from choosing calls that meet in one place.
    pub(crate) fn new(parts: Parts, seed: u64) -> Self {
        let transport = parts.transport.map_or(0, |transport| 1 + transport as u64);
        let pin = parts.pin.map_or(0, |pin| 1 + pin as u64);
        // The odd constant spreads small numbers over all bits; what meets all the same is told apart by its parts.
        let spread = |hash: u64, part: u64| (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let place = [parts.chain_at as u64, parts.strategy as u64, transport, pin].into_iter().fold(seed, spread);
        let method = xxh3_64_with_seed(parts.method.as_bytes(), place);
        let hash = xxh3_64_with_seed(parts.params.as_deref().unwrap_or_default(), method);
        Self { hash, parts }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The key has been hashed already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A call that leads.
#[derive(Debug)]
struct Flight<T> {
    /// Set once: an answer to share, or none.
    outcome: OnceLock<Option<T>>,
    ended: Notify,
    followers: AtomicU32,
    started: Instant,
}

type Shard<T> = Mutex<HashMap<Key, Arc<Flight<T>>, BuildHasherDefault<AsItIs>>>;

/// The calls under way of one profile.
#[derive(Debug)]
pub(crate) struct Flights<T> {
    shards: Box<[Shard<T>]>,
}

/// The part that a call has.
pub(crate) enum Joined<'f, T> {
    /// It asks a provider, and others may follow.
    Leader(Leader<'f, T>),
    /// It waits for an identical one.
    Follower(Follower<T>),
    /// There was no room: it asks a provider by itself.
    Alone,
}

/// A leader; when dropped unfinished, its followers go on by themselves.
pub(crate) struct Leader<'f, T> {
    flights: &'f Flights<T>,
    key: Key,
    flight: Arc<Flight<T>>,
}

/// A follower; when dropped, its place is free for another.
pub(crate) struct Follower<T> {
    flight: Arc<Flight<T>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl<T> Flights<T> {
    fn shard(&self, key: &Key) -> &Shard<T> {
        #[allow(clippy::cast_possible_truncation, reason = "the low bits are all that is wanted")]
        let place = key.hash as usize % SHARDS;
        &self.shards[place]
    }

    /// Leads, or follows who leads.
    pub(crate) fn join(&self, key: Key) -> Joined<'_, T> {
        let mut shard = self.shard(&key).lock();
        let full = shard.len() >= MAX_LEADERS_PER_SHARD;
        match shard.entry(key) {
            Entry::Occupied(found) => {
                let flight = found.get();
                if flight.followers.load(Ordering::Relaxed) >= MAX_FOLLOWERS {
                    return Joined::Alone;
                }
                flight.followers.fetch_add(1, Ordering::Relaxed);
                Joined::Follower(Follower { flight: flight.clone() })
            }
            Entry::Vacant(_) if full => Joined::Alone,
            Entry::Vacant(place) => {
                let flight = Arc::new(Flight {
                    outcome: OnceLock::new(),
                    ended: Notify::new(),
                    followers: AtomicU32::new(0),
                    started: Instant::now(),
                });
                let key = place.key().clone();
                place.insert(flight.clone());
                Joined::Leader(Leader { flights: self, key, flight })
            }
        }
    }
}

impl<T> Flights<T> {
    /// Lets nobody follow the leader of this follower any more: the next identical call leads.
    pub(crate) fn displace(&self, key: &Key, follower: &Follower<T>) {
        self.vacate(key, &follower.flight);
    }

    /// Takes a flight off its place, where it is still there: another one may have it by now.
    fn vacate(&self, key: &Key, flight: &Arc<Flight<T>>) {
        let mut shard = self.shard(key).lock();
        if shard.get(key).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            shard.remove(key);
        }
    }
}

impl<T> Leader<'_, T> {
    /// Shares an answer; it is made only where somebody follows.
    pub(crate) fn finish(self, outcome: impl FnOnce() -> T) {
        self.flights.vacate(&self.key, &self.flight);
        if self.flight.followers.load(Ordering::Relaxed) > 0 {
            // Nobody else sets it: there is one leader, and it is used up here.
            let _once = self.flight.outcome.set(Some(outcome()));
        }
    }
}

impl<T> Drop for Leader<'_, T> {
    fn drop(&mut self) {
        self.flights.vacate(&self.key, &self.flight);
        // Where `finish` has set it, that stays.
        let _once = self.flight.outcome.set(None);
        self.flight.ended.notify_waiters();
    }
}

impl<T> Follower<T> {
    /// Since when its leader leads.
    pub(crate) fn since(&self) -> Instant {
        self.flight.started
    }
}

impl<T: Clone> Follower<T> {
    /// Waits for the leader's end; none where it had nothing to share.
    pub(crate) async fn outcome(&self) -> Option<T> {
        let mut ended = pin!(self.flight.ended.notified());
        // From here on an end is not missed.
        ended.as_mut().enable();
        if let Some(outcome) = self.flight.outcome.get() {
            return outcome.clone();
        }
        ended.await;
        self.flight.outcome.get().cloned().flatten()
    }
}

impl<T> Drop for Follower<T> {
    fn drop(&mut self) {
        self.flight.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
