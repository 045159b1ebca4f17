//! The task of one stream: it hands everything that happens to the stream's state machine and does what that says. It
//! waits for the feed, for one question at a time, for the clock and for its last member to leave, and for nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lariat_schema::vocabulary::{Strategy, Transport};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::members::Members;
use super::notice;
use super::stream::{Action, Ending, Input, Limits, Stream, Told};
use super::subject::{Kind, Subject};
use super::{Key, Slot, gap};
use crate::call::Route;
use crate::call::subscribing::{Opened, Subscribing, Wanted};
use crate::core::Core;
use crate::health::ChannelIndex;
use crate::profiles::{Catalog, Provider};
use crate::record::{ChannelEvent, Chosen, Happened, Item, SubscriptionEvent, now_unix_nanos};
use crate::server::Site;

/// How long a stream goes on without a member: clients that reconnect find it running.
const LINGER: Duration = Duration::from_secs(60);
/// How long after the failure of all providers they are tried again at the latest.
const RETRY_MS: u64 = 60_000;
/// How often it is looked whether a provider is connected again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rounds over the providers, before a stream is degraded, at most.
const MAX_ROUNDS: usize = 11;
/// Pause after a round, doubled with each up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

fn limits_of(route: &Route<'_>) -> Limits {
    let settings = route.chain.websocket;
    let (stale_ms, max_fill_blocks) = (settings.new_heads_timeout_ms, settings.max_backfill_blocks);
    Limits { stale_ms, max_fill_blocks, retry_ms: RETRY_MS }
}

/// What is asked of a provider for a subject.
pub(super) fn wanted(subject: &Subject, not: Option<ChannelIndex>) -> Wanted<'_> {
    Wanted { params: &subject.params, heads: subject.kind != Kind::NewHeads, not }
}

/// What a question came to.
enum Came {
    Input(Input),
    Opened(Box<Opened>),
    /// The profiles in force do not have what the stream is about any more.
    Gone(&'static str),
}

const NO_CHAIN: &str = "the chain is not served any more";
const NO_PROVIDER: &str = "the provider is not served any more";

/// What the feed gives.
enum Heard {
    Event(Bytes),
    Head(Bytes),
    Nothing,
}

pub(super) struct Keeper {
    site: Arc<Site>,
    key: Arc<Key>,
    slot: Arc<Slot>,
    members: Arc<Members>,
    stream: Stream,
    started: Instant,
    feed: Option<Box<Opened>>,
    asking: Option<BoxFuture<'static, Came>>,
    /// The provider of the last feed, and its channel while the profiles in force have it.
    last: (Chosen, Option<ChannelIndex>),
}

impl Keeper {
    /// Starts the task of a stream whose first subscription stands.
    pub(super) fn start(site: Arc<Site>, key: Key, slot: Arc<Slot>, members: Arc<Members>, opened: Opened) {
        let core = site.core();
        let catalogs = site.reloader.catalogs();
        let (mut limits, mut baseline) = (Limits { stale_ms: RETRY_MS, max_fill_blocks: 0, retry_ms: RETRY_MS }, None);
        if let Some(route) = gap::route(&core, &key, Strategy::Fastest) {
            limits = limits_of(&route);
            let instances = route.chain.providers.iter().map(|provider| provider.instance);
            baseline = core.book.snapshot().consensus(instances, core.book.now_ms());
        }
        let keeper = Self {
            stream: Stream::new(key.subject.kind, limits, baseline, 0),
            key: Arc::new(key),
            slot,
            members,
            started: Instant::now(),
            last: (opened.chosen.clone(), Some(opened.channel)),
            feed: Some(Box::new(opened)),
            asking: None,
            site: site.clone(),
        };
        keeper.record(&core, SubscriptionEvent::Established);
        let life = site.life.clone();
        let keeping = async move {
            tokio::select! {
                () = keeper.keep(catalogs) => {}
                () = life.draining.cancelled() => {}
                () = life.kill.cancelled() => {}
            }
        };
        site.life.tasks.spawn(keeping);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn keep(mut self, mut catalogs: watch::Receiver<Arc<Catalog>>) {
        let _counted = Running::begin(&self.site);
        // Whatever was reloaded since the stream was opened.
        catalogs.mark_changed();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut empty_since: Option<Instant> = None;
        loop {
            let wake = self.stream.wake_ms().map(|ms| self.started + Duration::from_millis(ms));
            let came = tokio::select! {
                heard = hear(&mut self.feed) => self.read(heard),
                came = asked(&mut self.asking) => {
                    self.asking = None;
                    Some(came)
                }
                Ok(()) = catalogs.changed() => self.reloaded(),
                () = until(wake) => Some(Came::Input(Input::Time)),
                () = self.members.emptied.notified() => {
                    empty_since = Some(Instant::now());
                    None
                }
                () = until(empty_since.map(|since| since + LINGER)) => {
                    empty_since = None;
                    if self.is_over().await {
                        return;
                    }
                    None
                }
                _ = look.tick(), if self.stream.is_degraded() => {
                    self.is_any_connected().then_some(Came::Input(Input::Chance))
                }
            };
            if !self.members.is_empty() {
                empty_since = None;
            }
            if let Some(came) = came
                && let Some(reason) = self.take(came)
            {
                return self.end(&reason).await;
            }
        }
    }

    /// Takes what came; returns why the stream is at its end, if it is.
    fn take(&mut self, came: Came) -> Option<String> {
        let input = match came {
            Came::Input(input) => input,
            Came::Opened(opened) => {
                self.site.subscriptions.counts.failovers.fetch_add(1, Ordering::Relaxed);
                let from = std::mem::replace(&mut self.last, (opened.chosen.clone(), Some(opened.channel)));
                let from = from.0.provider_id;
                self.record(&self.site.core(), SubscriptionEvent::Failover { from });
                self.feed = Some(opened);
                Input::Opened
            }
            Came::Gone(reason) => return Some(reason.to_owned()),
        };
        if matches!(input, Input::NoFeed) {
            self.record(&self.site.core(), SubscriptionEvent::Failed { reason: "no provider gives the events".into() });
        }
        let known = self.stream.duplicates;
        let actions = self.stream.step(self.now_ms(), input);
        let counts = &self.site.subscriptions.counts;
        counts.duplicates.fetch_add(self.stream.duplicates - known, Ordering::Relaxed);
        for action in actions {
            match action {
                Action::Deliver(raw) => self.members.deliver(&raw),
                Action::Open { stale_ms } => {
                    if let Some(stale_ms) = stale_ms {
                        self.record(&self.site.core(), SubscriptionEvent::Stale { stale_ms });
                    }
                    self.feed = None;
                    self.asking = Some(open(self.site.clone(), self.key.clone(), self.last.1).boxed());
                }
                Action::Measure => self.asking = Some(question(gap::height(self.site.clone(), self.key.clone()))),
                Action::Fill { from, to } => {
                    counts.filled.fetch_add(to - from + 1, Ordering::Relaxed);
                    self.asking = Some(question(gap::fill(self.site.clone(), self.key.clone(), from, to)));
                }
                Action::Tell(Told::Degraded) => self.members.tell("degraded", "no provider gives the events for now"),
                Action::Tell(Told::Resumed) => self.members.tell("active", "a provider gives the events, none is lost"),
                Action::Tell(Told::Gap) => {
                    self.members.tell("gap", "the provider changed; what was missed is not known")
                }
                Action::End(Ending::TooFar { blocks }) => {
                    return Some(format!("{blocks} blocks were missed, more than are asked for"));
                }
                Action::End(Ending::NotFilled) => return Some("what was missed could not be had".to_owned()),
            }
        }
        None
    }

    /// Takes what a reload changes: the bounds of the stream, the place of its provider, or that there is none any more. A
    /// socket that other profiles use stands on, so that its feed would not end by itself.
    fn reloaded(&mut self) -> Option<Came> {
        let core = self.site.core();
        let Some(route) = gap::route(&core, &self.key, Strategy::Fastest) else { return Some(Came::Gone(NO_CHAIN)) };
        let providers = &route.chain.providers;
        if self.key.pin.as_deref().is_some_and(|pin| providers.iter().all(|provider| provider.id.as_str() != pin)) {
            return Some(Came::Gone(NO_PROVIDER));
        }
        self.stream.set_limits(limits_of(&route));
        let Chosen { provider_id, instance_id, .. } = &self.last.0;
        let is_it = |it: &&Provider| it.id == *provider_id && core.catalog.instances[it.instance].id == *instance_id;
        let stays = providers.iter().find(is_it).filter(|provider| provider.has_ws);
        self.last.1 = stays.map(|provider| ChannelIndex::new(provider.instance, Transport::Ws));
        // Without it in the profile, a feed of it is one that has ended.
        stays.is_none().then_some(Came::Input(Input::Lost))
    }

    /// Reads what the feed gave.
    fn read(&self, heard: Heard) -> Option<Came> {
        let input = match heard {
            Heard::Event(raw) => notice::read(self.key.subject.kind, raw).map(Input::Event),
            Heard::Head(raw) => notice::read(Kind::NewHeads, raw).map(|head| Input::Head(head.number)),
            Heard::Nothing => Some(Input::Lost),
        };
        if input.is_none() {
            self.site.subscriptions.counts.unreadable.fetch_add(1, Ordering::Relaxed);
        }
        input.map(Came::Input)
    }

    /// Ends the stream if it still has no member.
    async fn is_over(&mut self) -> bool {
        let mut running = self.slot.running.lock().await;
        let is_over = self.members.is_empty();
        if is_over {
            *running = None;
            self.site.subscriptions.forget(&self.key, &self.slot);
        }
        is_over
    }

    /// Ends the stream with its members' subscriptions: something is lost for good.
    async fn end(&mut self, reason: &str) {
        let mut running = self.slot.running.lock().await;
        *running = None;
        self.site.subscriptions.forget(&self.key, &self.slot);
        let lost = self.members.end(reason);
        self.site.subscriptions.counts.lost.fetch_add(lost as u64, Ordering::Relaxed);
        tracing::warn!(profile = %self.key.profile, chain = %self.key.chain, kind = self.key.subject.kind.as_str(), clients = lost, reason, "a subscription ended");
        self.record(&self.site.core(), SubscriptionEvent::Failed { reason: reason.into() });
    }

    fn is_any_connected(&self) -> bool {
        let core = self.site.core();
        gap::route(&core, &self.key, Strategy::Fastest).is_some_and(|route| {
            let mut providers = route
                .chain
                .providers
                .iter()
                .filter(|provider| self.key.pin.as_deref().is_none_or(|pin| provider.id.as_str() == pin));
            providers.any(|provider| {
                let socket = core.upstreams.socket(&core.catalog.instances[provider.instance].id);
                socket.is_some_and(|socket| socket.is_connected())
            })
        })
    }

    fn record(&self, core: &Core, event: SubscriptionEvent) {
        let chain_id = gap::route(core, &self.key, Strategy::Fastest).map_or(0, |route| route.chain.chain_id);
        core.recorder.hand_over(Item::Event(Box::new(ChannelEvent {
            profile: self.key.profile.clone(),
            chain: self.key.chain.clone(),
            chain_id,
            provider_id: self.last.0.provider_id.clone(),
            instance_id: self.last.0.instance_id.clone(),
            transport: Transport::Ws,
            at_unix_nanos: now_unix_nanos(),
            what: Happened::Subscription { kind: self.key.subject.kind.as_str(), event },
        })));
    }
}

/// A stream in the counts.
struct Running(Arc<Site>);

impl Running {
    fn begin(site: &Arc<Site>) -> Self {
        site.subscriptions.counts.streams.fetch_add(1, Ordering::Relaxed);
        Self(site.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.subscriptions.counts.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn hear(feed: &mut Option<Box<Opened>>) -> Heard {
    let Some(opened) = feed else { return std::future::pending().await };
    match &mut opened.heads {
        None => opened.feed.next().await.map_or(Heard::Nothing, Heard::Event),
        Some(heads) => tokio::select! {
            // A head says that what came before it is complete, so that it is heard after that.
            biased;
            event = opened.feed.next() => event.map_or(Heard::Nothing, Heard::Event),
            head = heads.next() => head.map_or(Heard::Nothing, Heard::Head),
        },
    }
}

async fn asked(asking: &mut Option<BoxFuture<'static, Came>>) -> Came {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn question(asking: impl Future<Output = Input> + Send + 'static) -> BoxFuture<'static, Came> {
    asking.map(Came::Input).boxed()
}

/// Chooses another provider, some rounds long. The one that failed is left out of the first.
async fn open(site: Arc<Site>, key: Arc<Key>, failed: Option<ChannelIndex>) -> Came {
    let mut pause = PAUSE;
    let mut round = 0;
    loop {
        let core = site.core();
        let Some(mut route) = gap::route(&core, &key, Strategy::Fastest) else { return Came::Gone(NO_CHAIN) };
        route.strategy = route.profile.default_strategy;
        let with_ws = route.chain.providers.iter().filter(|provider| provider.has_ws).count();
        let rounds = (2 * with_ws + 1).min(MAX_ROUNDS);
        let params = String::from_utf8_lossy(&key.subject.params);
        let Some(call) = gap::call("eth_subscribe", &params) else { return Came::Input(Input::NoFeed) };
        if let Ok(mut deciding) = Subscribing::begin(&core, &route, &call, gap::position()) {
            let not = failed.filter(|_| round == 0);
            match deciding.open(&wanted(&key.subject, not)).await {
                Ok(opened) => {
                    let _recorded = deciding.opened("0x", opened.chosen.clone());
                    return Came::Opened(Box::new(opened));
                }
                Err(not_opened) => {
                    let _recorded = deciding.failed(not_opened);
                }
            }
        }
        round += 1;
        if round >= rounds {
            return Came::Input(Input::NoFeed);
        }
        drop(core);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
