//! What the calls of a profile share so that less is asked of its providers: the budget of hedges, identical calls under
//! way, answers that cannot change. One value per profile, so that none spends, waits for or reads what is another's.
//! Calls under way are of one policy and end with it; a budget, a cache and the figures outlive a reload of profiles.

mod cache;
mod cacheability;
mod coalesce;
mod finality;
mod lineage;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lariat_schema::ids::ProfileName;

use crate::call::hedge::HedgeBudget;
use crate::call::sharing::Shared;
use crate::health::{HEIGHT_MAX_AGE_MS, Snapshot};
use crate::jsonrpc::Reply;
use crate::profiles::{Catalog, Chain, Profile};
pub(crate) use cache::Place;
use cache::{Cache, CachedChain, Figures};
use coalesce::Flights;
pub(crate) use coalesce::{Follower, Joined, Key, Parts};
pub(crate) use lineage::{BlockHash, Head};

/// What one profile's calls share.
#[derive(Debug)]
pub(crate) struct ProfileSaving {
    slug: ProfileName,
    pub(crate) hedges: Arc<HedgeBudget>,
    pub(crate) flights: Flights<Shared>,
    /// Calls that got an identical one's answer.
    pub(crate) coalesced: Arc<AtomicU64>,
    cache: Option<ProfileCache>,
}

/// A profile's cache, with its chains by their place in the profile.
#[derive(Debug)]
struct ProfileCache {
    cache: Arc<Cache>,
    chains: Vec<Arc<CachedChain>>,
}

/// What all calls share, by the place of their profile in the catalog.
#[derive(Debug)]
pub(crate) struct Saving {
    profiles: Vec<ProfileSaving>,
}

/// What the cache says to a call that it may know.
pub(crate) enum Looked {
    Hit(Reply),
    /// Where the answer may be put, and the newest height that was final when it was looked for.
    Miss(Place, Option<u64>),
}

impl Saving {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        Self { profiles: catalog.profiles.iter().map(|profile| ProfileSaving::new(profile, None)).collect() }
    }

    /// The same for another catalog: profiles of the same name keep what they had where their settings allow.
    pub(crate) fn succeed(&self, catalog: &Catalog) -> Self {
        let before = |profile: &Profile| self.profiles.iter().find(|before| before.slug == profile.slug);
        let profiles = catalog.profiles.iter().map(|profile| ProfileSaving::new(profile, before(profile))).collect();
        Self { profiles }
    }

    pub(crate) fn profile(&self, at: usize) -> &ProfileSaving {
        &self.profiles[at]
    }

    /// Lets the caches see what heights there are; to be called as often as they may change.
    pub(crate) fn observe(&self, catalog: &Catalog, snapshot: &Snapshot, now_ms: u64) {
        for (profile, saving) in catalog.profiles.iter().zip(&self.profiles) {
            let Some(ProfileCache { cache, chains }) = &saving.cache else { continue };
            for (chain, cached) in profile.chains.iter().zip(chains) {
                if let Some(highest) = fresh_heights(chain, snapshot, now_ms).max() {
                    cache.observe(cached, highest);
                }
            }
        }
    }

    /// Lets the caches see a head that an instance announced. Says which block is another one now that was final, if that
    /// is so: what was kept of its chain is forgotten.
    pub(crate) fn announce(&self, catalog: &Catalog, instance: usize, head: &Head) -> Option<u64> {
        let mut turned = None;
        for (profile, saving) in catalog.profiles.iter().zip(&self.profiles) {
            let Some(ProfileCache { cache, chains }) = &saving.cache else { continue };
            for (chain, cached) in profile.chains.iter().zip(chains) {
                if chain.providers.iter().any(|provider| provider.instance == instance) {
                    turned = cache.announce(cached, head).or(turned);
                }
            }
        }
        turned
    }

    /// The figures as Prometheus text.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        type Read = fn(&ProfileSaving) -> Option<u64>;
        fn figure(saving: &ProfileSaving, pick: fn(&Figures) -> &AtomicU64) -> Option<u64> {
            saving.cache.as_ref().map(|it| pick(it.cache.figures()).load(Ordering::Relaxed))
        }
        let figures: [(&str, &str, &str, Read); 6] = [
            ("lariat_coalesced_total", "counter", "Calls that got the answer of an identical one under way.", |it| {
                Some(it.coalesced.load(Ordering::Relaxed))
            }),
            ("lariat_cache_hits_total", "counter", "Calls answered from the cache.", |it| figure(it, |it| &it.hits)),
            ("lariat_cache_misses_total", "counter", "Calls that the cache could know and did not.", |it| {
                figure(it, |it| &it.misses)
            }),
            ("lariat_cache_evictions_total", "counter", "Entries that left for room or for age.", |it| {
                figure(it, |it| &it.evictions)
            }),
            ("lariat_cache_purges_total", "counter", "Chains forgotten since what was final was not.", |it| {
                figure(it, |it| &it.purges)
            }),
            ("lariat_cache_bytes", "gauge", "Bytes in use.", |it| it.cache.as_ref().map(|it| it.cache.bytes())),
        ];
        for (name, kind, help, read) in figures {
            // Writing to a String cannot fail.
            let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for saving in &self.profiles {
                if let Some(value) = read(saving) {
                    let profile = saving.slug.as_str().replace('\\', "\\\\").replace('"', "\\\"");
                    let _infallible = writeln!(out, "{name}{{profile=\"{profile}\"}} {value}");
                }
            }
        }
    }
}

impl ProfileSaving {
    fn new(profile: &Profile, before: Option<&Self>) -> Self {
        Self {
            slug: profile.slug.clone(),
            hedges: before.map(|before| before.hedges.clone()).unwrap_or_default(),
            flights: Flights::default(),
            coalesced: before.map(|before| before.coalesced.clone()).unwrap_or_default(),
            cache: profile
                .cache
                .enabled
                .then(|| ProfileCache::new(profile, before.and_then(|before| before.cache.as_ref()))),
        }
    }

    /// Asks the cache; none where it is off, or the call is of no kind that it keeps.
    pub(crate) fn look(
        &self,
        (chain_at, chain): (usize, &Chain),
        method: &'static str,
        params: Option<&Bytes>,
        (snapshot, now_ms): (&Snapshot, u64),
    ) -> Option<Looked> {
        let ProfileCache { cache, chains } = self.cache.as_ref()?;
        let final_height = finality::final_height(fresh_heights(chain, snapshot, now_ms), chain.chain_id);
        cacheability::of_call(method, params.map(|params| &**params), final_height)?;
        Some(match cache.find(&chains[chain_at], method, params) {
            Ok(reply) => Looked::Hit(reply),
            Err(place) => Looked::Miss(place, final_height),
        })
    }

    /// Keeps an answer if it cannot change; `final_height` is what was final when it was asked for.
    pub(crate) fn keep(&self, place: Place, reply: &Reply, final_height: Option<u64>) {
        let (Some(ProfileCache { cache, .. }), Some(result)) = (&self.cache, &reply.result) else { return };
        if reply.error.is_none() && place.is_worth(result, final_height) {
            cache.keep(place, reply);
        }
    }
}

impl ProfileCache {
    fn new(profile: &Profile, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.cache.max_bytes() == profile.cache.max_bytes);
        let cache = before.map_or_else(|| Arc::new(Cache::new(profile.cache.max_bytes)), |before| before.cache.clone());
        let chain = |chain: &Chain| {
            let known = before.and_then(|before| before.chains.iter().find(|cached| cached.is(chain)));
            known.cloned().unwrap_or_else(|| Arc::new(cache.chain(chain)))
        };
        let chains = profile.chains.iter().map(chain).collect();
        Self { cache, chains }
    }
}

/// The heights that a chain's providers have reported lately.
fn fresh_heights(chain: &Chain, snapshot: &Snapshot, now_ms: u64) -> impl Iterator<Item = u64> {
    chain
        .providers
        .iter()
        .filter_map(|provider| snapshot.heights[provider.instance])
        .filter(move |height| now_ms.saturating_sub(height.at_ms) <= HEIGHT_MAX_AGE_MS)
        .map(|height| height.height)
}

#[cfg(test)]
mod tests;
