//! Where the filters of clients are: a filter lives at the provider that made it, so everything that is asked of it goes
//! there. Clients get ids of ours, random and long: a provider's own are small numbers that two providers both give out,
//! and that another client could guess. The table is bounded and in shards; a filter that nobody asked about for five
//! minutes is gone, as it is at the provider.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lariat_schema::ids::{ChainName, InstanceId, ProfileName};
use lariat_schema::vocabulary::Transport;
use parking_lot::Mutex;

/// Providers drop a filter that was not polled for as long.
const IDLE: Duration = Duration::from_secs(5 * 60);
const SHARDS: usize = 16;
/// Filters in a shard at most, 16,384 in all, some 4 MB; past it the one that was left alone longest goes.
const MAX_PER_SHARD: usize = 1_024;
/// Longest id of a provider, in bytes; the usual ones have 34.
const MAX_PROVIDER_ID_BYTES: usize = 256;

/// Where a filter is. The instance is named, not numbered: its number may be another one after a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) profile: ProfileName,
    pub(crate) chain: ChainName,
    pub(crate) instance: InstanceId,
    pub(crate) transport: Transport,
    /// The provider's id of it, as it was written.
    pub(crate) id: Bytes,
}

struct Kept {
    home: Arc<Home>,
    used: Instant,
}

/// All filters of this node's clients.
pub(crate) struct Filters {
    shards: Box<[Mutex<HashMap<u128, Kept>>]>,
    /// Filters that had to leave for others.
    pub(crate) evicted: AtomicU64,
}

impl Default for Filters {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), evicted: AtomicU64::new(0) }
    }
}

/// Reads an id of ours.
fn number(id: &str) -> Option<u128> {
    let is_hex = |digits: &&str| digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let digits = id.strip_prefix("0x").filter(is_hex)?;
    u128::from_str_radix(digits, 16).ok()
}

impl Filters {
    fn shard(&self, number: u128) -> &Mutex<HashMap<u128, Kept>> {
        #[allow(clippy::cast_possible_truncation, reason = "the low bits are all that is wanted")]
        let place = number as usize % SHARDS;
        &self.shards[place]
    }

    /// Remembers where a filter is, and returns its id for the client; none where the provider's id is no sensible one.
    pub(crate) fn keep(&self, home: Home, now: Instant) -> Option<String> {
        if home.id.len() > MAX_PROVIDER_ID_BYTES {
            return None;
        }
        // In memory of its own: what it came in is larger.
        let home = Home { id: Bytes::copy_from_slice(&home.id), ..home };
        let number = rand::random::<u128>();
        let mut shard = self.shard(number).lock();
        if shard.len() >= MAX_PER_SHARD {
            shard.retain(|_, kept| now.duration_since(kept.used) < IDLE);
        }
        if shard.len() >= MAX_PER_SHARD
            && let Some(oldest) = shard.iter().min_by_key(|(_, kept)| kept.used).map(|(number, _)| *number)
        {
            shard.remove(&oldest);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        shard.insert(number, Kept { home: Arc::new(home), used: now });
        Some(format!("0x{number:032x}"))
    }

    /// Where the filter of that id is, if it belongs to this profile and chain.
    pub(crate) fn find(&self, id: &str, profile: &ProfileName, chain: &ChainName, now: Instant) -> Option<Arc<Home>> {
        let number = number(id)?;
        let mut shard = self.shard(number).lock();
        let kept = shard.get_mut(&number)?;
        if now.duration_since(kept.used) >= IDLE {
            shard.remove(&number);
            return None;
        }
        if kept.home.profile != *profile || kept.home.chain != *chain {
            return None;
        }
        kept.used = now;
        Some(kept.home.clone())
    }

    /// Forgets a filter that is gone.
    pub(crate) fn forget(&self, id: &str) {
        if let Some(number) = number(id) {
            self.shard(number).lock().remove(&number);
        }
    }

    /// Filters kept, those included that have been idle for too long.
    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(id: &'static str) -> Home {
        Home {
            profile: "public".into(),
            chain: "ethereum".into(),
            instance: "1:a:0".into(),
            transport: Transport::Http,
            id: Bytes::from_static(id.as_bytes()),
        }
    }

    fn find(filters: &Filters, id: &str, now: Instant) -> Option<Arc<Home>> {
        filters.find(id, &"public".into(), &"ethereum".into(), now)
    }

    #[test]
    fn a_filter_is_found_until_it_was_left_alone_for_five_minutes() {
        let (filters, mut now) = (Filters::default(), Instant::now());
        let id = filters.keep(home("\"0x1\""), now).unwrap();
        assert_eq!(id.len(), 34);
        for _ in 0..3 {
            now += IDLE - Duration::from_millis(1);
            assert_eq!(*find(&filters, &id, now).unwrap(), home("\"0x1\""));
        }
        assert_eq!(find(&filters, &id, now + IDLE), None);
        assert_eq!(filters.count(), 0);
    }

    #[test]
    fn an_id_that_is_not_ours_or_of_another_profile_or_chain_finds_nothing() {
        let (filters, now) = (Filters::default(), Instant::now());
        let id = filters.keep(home("\"0x1\""), now).unwrap();
        let foreign = format!("0x{}", "0".repeat(32));
        let signed = format!("0x+{}", &id[3..]);
        for other in ["0x1", "", "0x", &id[2..], &foreign, &signed] {
            assert_eq!(find(&filters, other, now), None, "{other}");
        }
        assert_eq!(filters.find(&id, &"desk".into(), &"ethereum".into(), now), None);
        assert_eq!(filters.find(&id, &"public".into(), &"base".into(), now), None);
        assert!(find(&filters, &id, now).is_some());
        filters.forget(&id);
        assert_eq!(find(&filters, &id, now), None);
    }

    #[test]
    fn past_the_bound_the_filters_that_were_left_alone_longest_go() {
        let (filters, start) = (Filters::default(), Instant::now());
        let (mut ids, mut now) = (Vec::new(), start);
        for _ in 0..2 * SHARDS * MAX_PER_SHARD {
            now += Duration::from_micros(1);
            ids.push(filters.keep(home("\"0x1\""), now).unwrap());
        }
        assert_eq!(filters.count(), SHARDS * MAX_PER_SHARD);
        assert_eq!(filters.evicted.load(Ordering::Relaxed), (SHARDS * MAX_PER_SHARD) as u64);
        assert!(find(&filters, &ids[0], now).is_none() && find(&filters, ids.last().unwrap(), now).is_some());
        filters.keep(home("\"0x2\""), now + IDLE).unwrap();
        assert_eq!(filters.count(), (SHARDS - 1) * MAX_PER_SHARD + 1, "a full shard drops what was idle first");
    }

    #[test]
    fn an_id_that_is_absurdly_long_is_not_kept() {
        let long = Home { id: Bytes::from(vec![b'1'; MAX_PROVIDER_ID_BYTES + 1]), ..home("") };
        assert_eq!(Filters::default().keep(long, Instant::now()), None);
    }
}
