//! An answer without asking a provider: one that is kept since it cannot change, or the one that an identical call under way
//! will get. What is shared is a reply, put under each caller's own id; deadlines and records are each call's own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lariat_schema::vocabulary::CacheOutcome;
use tokio::time::Instant;
use uuid::Uuid;

use super::affinity::FilterCall;
use super::attempts::Aim;
use super::{Answered, Ended, Run};
use crate::classify;
use crate::refusal::Refusal;
use crate::saving::{Follower, Joined, Key, Looked, Parts, Place};

/// Times that a call joins another one. Those whose leader has ended without an answer lead and follow anew, rather than
/// that a thousand of them ask at once; each such end takes time, so after some of them a call goes alone.
const MAX_JOINS: usize = 3;

/// Share of a method's time after which a leader is taken to be held up: its first attempt has ended by then, or its own
/// client does not let it run.
const PATIENCE_SHARE: f64 = 0.6;

/// An answer that several calls get.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(super) answered: Answered,
    /// The request whose call asked for it.
    pub(super) from: Uuid,
}

impl Run<'_> {
    /// The answer of a provider, of the cache, or of an identical call under way.
    pub(super) async fn answered(&mut self) -> Ended {
        let aim = match self.aim() {
            Ok(aim) => aim,
            Err(refusal) => return Ended::Refused(refusal),
        };
        if let Some(what) = FilterCall::of(self.call.policy.name) {
            return self.about_filter(what, aim).await;
        }
        match self.look_into_cache(&aim) {
            Some(Looked::Hit(reply)) => Ended::Cached(reply),
            Some(Looked::Miss(place, final_height)) => {
                self.record().ending.cache = Some(CacheOutcome::Miss);
                self.shared(aim, Some((place, final_height))).await
            }
            None => self.shared(aim, None).await,
        }
    }

    /// A client that names providers wants to hear of them, so its calls pass the cache by.
    fn look_into_cache(&self, aim: &Aim) -> Option<Looked> {
        if aim.pin.is_some() || !self.route.excluded.is_empty() {
            return None;
        }
        let (route, call, book) = (self.route, self.call, &self.core.book);
        let chain = (route.chain_at, route.chain);
        let saving = self.core.saving.profile(route.profile_at);
        saving.look(chain, call.policy.name, call.params.as_ref(), (&book.snapshot(), book.now_ms()))
    }

    /// The answer of a provider, or of an identical call under way. What a leader gets is kept before it is shared, so that
    /// no call finds it in neither place.
    async fn shared(&mut self, aim: Aim, place: Option<(Place, Option<u64>)>) -> Ended {
        let saving = self.core.saving.profile(self.route.profile_at);
        let Some(key) = self.sharing_key(&aim) else { return self.alone(aim, place).await };
        for _ in 0..MAX_JOINS {
            match saving.flights.join(key.clone()) {
                Joined::Alone => break,
                Joined::Leader(leader) => {
                    let ended = self.over_providers(aim).await;
                    if let Ended::Replied(answered) = &ended {
                        self.keep(answered, place);
                        if self.may_be_shared(answered) {
                            let from = self.look().scope.request_id;
                            leader.finish(|| Shared { answered: (**answered).clone(), from });
                        }
                    }
                    return ended;
                }
                Joined::Follower(follower) => {
                    if let Some(ended) = self.follow(&key, follower).await {
                        if matches!(ended, Ended::Coalesced(_)) {
                            saving.coalesced.fetch_add(1, Ordering::Relaxed);
                        }
                        return ended;
                    }
                }
            }
        }
        self.alone(aim, place).await
    }

    async fn alone(&mut self, aim: Aim, place: Option<(Place, Option<u64>)>) -> Ended {
        let ended = self.over_providers(aim).await;
        if let Ended::Replied(answered) = &ended {
            self.keep(answered, place);
        }
        ended
    }

    /// Keeps an answer that cannot change, unless its provider is not known to be past the block itself.
    fn keep(&self, answered: &Answered, place: Option<(Place, Option<u64>)>) {
        let Some((place, final_height)) = place else { return };
        let snapshot = self.core.book.snapshot();
        let provider = self.route.chain.providers.iter().find(|provider| provider.id == answered.chosen.provider_id);
        let reached = provider.and_then(|provider| snapshot.heights[provider.instance]).map(|height| height.height);
        let saving = self.core.saving.profile(self.route.profile_at);
        saving.keep(place, &answered.reply, final_height.min(reached));
    }

    /// What other calls must equal; none where the call is not to share an answer. A nonce must count what its own client
    /// has sent before, which an answer that is on its way may not, and the same holds for what is in the pool.
    fn sharing_key(&self, aim: &Aim) -> Option<Key> {
        let (route, policy) = (self.route, self.call.policy);
        let own = policy.name == "eth_getTransactionCount" || policy.category == "txpool";
        if !policy.is_replay_safe() || own || !route.excluded.is_empty() || route.leave_out_limited {
            return None;
        }
        let parts = Parts {
            chain_at: route.chain_at,
            strategy: route.strategy,
            transport: aim.transport,
            pin: aim.pin,
            method: policy.name,
            params: self.call.params.clone(),
        };
        Some(Key::new(parts, self.core.hash_seed))
    }

    /// An error may come of a time that was shorter than the followers' own.
    fn may_be_shared(&self, answered: &Answered) -> bool {
        self.route.timeout.is_none() || answered.end.category.is_none_or(classify::is_the_calls_own)
    }

    /// Waits for another call's answer, as long as that one may take and until this call's own deadline; none where this call
    /// is to go on by itself.
    async fn follow(&mut self, key: &Key, follower: Follower<Shared>) -> Option<Ended> {
        let (began, deadline) = (Instant::now(), self.deadline());
        let patience = Duration::from_millis(self.call.policy.timeout_ms).mul_f64(PATIENCE_SHARE);
        let until = deadline.min(follower.since() + patience);
        let waited = tokio::time::timeout_at(until, follower.outcome()).await;
        // Waiting for another call's provider is waiting for a provider.
        self.record().timing.provider_ns += super::recording::nanos(began.elapsed());
        match waited {
            Ok(shared) => shared.map(|shared| Ended::Coalesced(Box::new(shared))),
            Err(_) if until < deadline => {
                self.core.saving.profile(self.route.profile_at).flights.displace(key, &follower);
                None
            }
            Err(_) => Some(Ended::Refused(Refusal::TooLate)),
        }
    }
}
