//! Tells of what decisions could know: the facts of the health snapshot, with its number, when they change, and each rate
//! limit that begins. A decision says which snapshot it read; its facts are those of the last event of the boot whose
//! number is not above. Latencies are left out, since each decision carries those that it ranked by, and they change
//! with every call.
//!
//! The recorder looks at the latest snapshot by itself, so that publishing one costs nothing more than it does. Facts that
//! came and went between two looks are not seen here; transitions of circuits are told apart from this, each one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lariat_schema::ids::{ChainName, ProfileName};
use lariat_schema::vocabulary::{CircuitState, Transport};
use lariat_schema::{attributes as key, events};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use serde_json::{Map, json};

use super::events::{log, of_channel};
use super::spans::Attributes;
use super::{ChannelEvent, Happened, now_unix_nanos};
use crate::health::{ChannelIndex, Place, Snapshot};
use crate::profiles::{Catalog, Chain, Provider};
use crate::upstream::LinkView;

/// Time between two events of facts at least: heights of a fast chain change several times a second.
const FACTS_EVERY: Duration = Duration::from_secs(1);
/// A limit that is prolonged by less than this is the same one: a provider that refuses a hundred calls prolongs it a
/// hundred times.
const PROLONGED_MS: u64 = 1_000;

/// What is told of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fact {
    circuit: CircuitState,
    epoch: u64,
    open_until_ms: u64,
    limited_until_ms: u64,
}

/// The facts that were told last.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    policy_hash: Arc<str>,
    channels: Vec<Fact>,
    heights: Vec<Option<u64>>,
    sockets: Vec<LinkView>,
    drained: Vec<Place>,
}

/// What was told so far.
pub(super) struct Watch {
    number: u64,
    facts: Option<Facts>,
    next: Instant,
    /// By channel, until when the limit that was told last holds.
    limited_until_ms: Vec<u64>,
    policy_hash: Arc<str>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self { number: 0, facts: None, next: now, limited_until_ms: Vec::new(), policy_hash: "".into() }
    }

    /// What is to be told of that snapshot at `now`; `now_ms` is the same moment by the book's clock.
    pub(super) fn look(&mut self, catalog: &Catalog, snapshot: &Snapshot, now_ms: u64, now: Instant) -> Vec<LogRecord> {
        if snapshot.number == self.number && self.facts.is_some() {
            return Vec::new();
        }
        let mut out = self.limits(catalog, snapshot, now_ms);
        if now < self.next {
            return out;
        }
        self.number = snapshot.number;
        let facts = facts(catalog, snapshot);
        if self.facts.as_ref() != Some(&facts) {
            out.push(event(catalog, snapshot, now_ms));
            self.facts = Some(facts);
            self.next = now + FACTS_EVERY;
        }
        out
    }

    fn limits(&mut self, catalog: &Catalog, snapshot: &Snapshot, now_ms: u64) -> Vec<LogRecord> {
        if self.policy_hash != catalog.policy_hash {
            // Channels have other places after a reload; what holds then is told again.
            self.policy_hash = catalog.policy_hash.clone();
            self.limited_until_ms = vec![0; snapshot.channels.len()];
        }
        let mut out = Vec::new();
        for (at, (view, told)) in snapshot.channels.iter().zip(&mut self.limited_until_ms).enumerate() {
            let until_ms = view.limited_until_ms;
            if until_ms > now_ms && until_ms >= told.saturating_add(PROLONGED_MS) {
                *told = until_ms;
                let channel = ChannelIndex(at);
                let behind = providers(catalog).filter(|(_, _, provider)| provider.instance == channel.instance());
                out.extend(behind.map(|(profile, chain, provider)| {
                    of_channel(&ChannelEvent {
                        profile: profile.clone(),
                        chain: chain.key.clone(),
                        chain_id: chain.chain_id,
                        provider_id: provider.id.clone(),
                        instance_id: catalog.instances[provider.instance].id.clone(),
                        transport: channel.transport(),
                        at_unix_nanos: now_unix_nanos(),
                        what: Happened::RateLimit { for_ms: until_ms - now_ms },
                    })
                }));
            }
        }
        out
    }
}

fn providers(catalog: &Catalog) -> impl Iterator<Item = (&ProfileName, &Chain, &Provider)> {
    let chains = catalog.profiles.iter().flat_map(|profile| profile.chains.iter().map(move |chain| (profile, chain)));
    chains.flat_map(|(profile, chain)| chain.providers.iter().map(move |provider| (&profile.slug, chain, provider)))
}

fn facts(catalog: &Catalog, snapshot: &Snapshot) -> Facts {
    let channels = snapshot.channels.iter().map(|view| Fact {
        circuit: view.circuit,
        epoch: view.epoch,
        open_until_ms: view.open_until_ms,
        limited_until_ms: view.limited_until_ms,
    });
    let mut drained: Vec<Place> = snapshot.drained.iter().copied().collect();
    drained.sort_unstable();
    Facts {
        policy_hash: catalog.policy_hash.clone(),
        channels: channels.collect(),
        heights: snapshot.heights.iter().map(|height| height.map(|height| height.height)).collect(),
        sockets: snapshot.sockets.clone(),
        drained,
    }
}

/// The facts as an event. A channel that is closed and not limited is not listed; times are what is left of them.
fn event(catalog: &Catalog, snapshot: &Snapshot, now_ms: u64) -> LogRecord {
    let (mut channels, mut heights, mut sockets) = (Map::new(), Map::new(), Map::new());
    for (at, instance) in catalog.instances.iter().enumerate() {
        for transport in [Transport::Http, Transport::Ws] {
            let Some(view) = snapshot.channels.get(ChannelIndex::new(at, transport).0) else { continue };
            let (limited_ms, open_ms) =
                (view.limited_until_ms.saturating_sub(now_ms), view.open_until_ms.saturating_sub(now_ms));
            if view.circuit != CircuitState::Closed || limited_ms > 0 {
                let told = json!({ "circuit": view.circuit, "epoch": view.epoch, "open_ms": open_ms, "limited_ms": limited_ms });
                channels.insert(format!("{}:{transport}", instance.id), told);
            }
        }
        if instance.ws.is_some() {
            let socket = snapshot.socket(at);
            let told = json!({ "connected": socket.connected, "full": socket.full });
            sockets.insert(instance.id.as_str().to_owned(), told);
        }
        if let Some(Some(height)) = snapshot.heights.get(at) {
            let told = json!({ "height": height.height, "age_ms": now_ms.saturating_sub(height.at_ms) });
            heights.insert(instance.id.as_str().to_owned(), told);
        }
    }
    let mut drained: Vec<String> = snapshot
        .drained
        .iter()
        .filter_map(|place| named(catalog, *place))
        .map(|(p, c, id)| format!("{p}/{c}/{id}"))
        .collect();
    drained.sort();
    let mut out = Attributes::default();
    out.int(key::SNAPSHOT, snapshot.number);
    out.text(key::POLICY_HASH, &*catalog.policy_hash);
    let mut record = log(events::HEALTH_SNAPSHOT, now_unix_nanos(), SeverityNumber::Info, out);
    let block_times_ms: BTreeMap<_, _> = snapshot.block_times_ms.iter().collect();
    let body = json!({
        "channels": channels, "heights": heights, "sockets": sockets, "block_times_ms": block_times_ms,
        "drained": drained,
    });
    record.body = Some(AnyValue { value: Some(Value::StringValue(body.to_string())) });
    record
}

fn named(catalog: &Catalog, (profile, chain, provider): Place) -> Option<(&ProfileName, &ChainName, &str)> {
    let profile = catalog.profiles.get(profile)?;
    let chain = profile.chains.get(chain)?;
    Some((&profile.slug, &chain.key, chain.providers.get(provider)?.id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Book;
    use crate::profiles;
    use lariat_schema::vocabulary::ErrorCategory;

    const PROFILE: &str = "
chains:
  e: { chain_id: 1, providers: [ { id: a, priority: 1, url: 'http://a' }, { id: b, priority: 2, url: 'http://b' } ] }
";

    struct Bench {
        catalog: Catalog,
        book: Book,
        watch: Watch,
        started: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let started = Instant::now();
            let catalog = profiles::parse("public", PROFILE, &|_| None).unwrap();
            Self { catalog, book: Book::new(vec![false; 2], 30_000), watch: Watch::new(started), started }
        }

        /// Names and bodies of what is told so many milliseconds after the start.
        fn told(&mut self, at_ms: u64) -> Vec<(String, String)> {
            self.book.tick();
            let now = self.started + Duration::from_millis(at_ms);
            let logs = self.watch.look(&self.catalog, &self.book.snapshot(), self.book.now_ms(), now);
            let body = |log: &LogRecord| match log.body.as_ref().and_then(|body| body.value.clone()) {
                Some(Value::StringValue(text)) => text,
                _ => String::new(),
            };
            logs.iter().map(|log| (log.event_name.clone(), body(log))).collect()
        }
    }

    const A: ChannelIndex = ChannelIndex::new(0, Transport::Http);

    #[test]
    fn facts_are_told_when_they_change_and_latencies_do_not_count() {
        let mut bench = Bench::new();
        let told = bench.told(0);
        assert_eq!((told.len(), told[0].0.as_str()), (1, events::HEALTH_SNAPSHOT));
        assert_eq!(told[0].1, r#"{"channels":{},"heights":{},"sockets":{},"block_times_ms":{},"drained":[]}"#);
        bench.book.note_prior(A, 3.0);
        assert!(bench.told(2_000).is_empty());
        bench.book.note_height(1, 40);
        bench.book.drain((0, 0, 1), true);
        let told = bench.told(4_000);
        assert!(told[0].1.contains(r#""height":40"#) && told[0].1.contains(r#""drained":["public/e/b"]"#), "{told:?}");
        assert!(bench.told(6_000).is_empty());
    }

    #[test]
    fn facts_that_change_often_are_told_once_a_second_and_the_last_ones_always() {
        let mut bench = Bench::new();
        bench.told(0);
        let mut told = Vec::new();
        for height in 0..20 {
            bench.book.note_height(0, height);
            told.extend(bench.told(height * 100));
        }
        assert_eq!(told.len(), 1, "after a second: {told:?}");
        let last = bench.told(2_500);
        assert!(last[0].1.contains(r#""height":19"#), "{last:?}");
    }

    #[test]
    fn a_limit_is_told_at_once_and_again_only_where_it_grows() {
        let mut bench = Bench::new();
        bench.told(0);
        let limit = |bench: &Bench, ms| bench.book.admit(A).unwrap().fail(ErrorCategory::RateLimit, None, Some(ms));
        limit(&bench, 20_000);
        let names = |told: Vec<(String, String)>| told.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(bench.told(10)), [events::PROVIDER_RATE_LIMIT]);
        limit(&bench, 20_200);
        assert!(bench.told(20).is_empty());
        limit(&bench, 60_000);
        assert_eq!(names(bench.told(1_000)), [events::PROVIDER_RATE_LIMIT, events::HEALTH_SNAPSHOT]);
    }
}
