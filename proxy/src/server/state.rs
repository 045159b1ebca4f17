//! What can be read of a running proxy: whether it serves, whether it can route, what it routes, and the state of every
//! channel. Each is made of one snapshot, so that its parts agree; nothing is kept for it beside what routing keeps.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use lariat_schema::vocabulary::{CircuitState, Transport};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::admin::is_authorised;
use super::{Reply, Site, body, text};
use crate::core::Core;
use crate::health::{ChannelIndex, ChannelView, Health, Place, Snapshot};
use crate::profiles::{Chain, Profile, ProfileKey, Provider};

pub(super) fn answer(status: StatusCode, value: &Value) -> Reply {
    body(status, "application/json", Bytes::from(value.to_string()))
}

/// `GET /v1/providers`.
pub(super) fn providers(site: &Site, peer: SocketAddr, request: &Request<Incoming>) -> Reply {
    if !peer.ip().is_loopback() && !is_authorised(site, request) {
        return text(
            StatusCode::UNAUTHORIZED,
            "from beyond loopback this needs Authorization: Bearer <CLUSTER_TOKEN>\n",
        );
    }
    let core = site.core();
    let (snapshot, now_ms) = (core.book.snapshot(), core.book.now_ms());
    let mut channels = Vec::new();
    for (p, profile) in core.catalog.profiles.iter().enumerate() {
        for (c, chain) in profile.chains.iter().enumerate() {
            let consensus = snapshot.consensus(chain.providers.iter().map(|provider| provider.instance), now_ms);
            let look = Look { core: &core, snapshot: &snapshot, now_ms, consensus };
            for (i, provider) in chain.providers.iter().enumerate() {
                for (transport, has) in [(Transport::Http, provider.has_http), (Transport::Ws, provider.has_ws)] {
                    if has {
                        channels.push(look.channel((p, c, i), profile, chain, provider, transport));
                    }
                }
            }
        }
    }
    answer(
        StatusCode::OK,
        &json!({ "snapshot": snapshot.number, "policy_hash": &*core.catalog.policy_hash, "channels": channels }),
    )
}

/// One moment of one chain.
struct Look<'a> {
    core: &'a Core,
    snapshot: &'a Snapshot,
    now_ms: u64,
    consensus: Option<u64>,
}

impl Look<'_> {
    fn channel(
        &self,
        place: Place,
        profile: &Profile,
        chain: &Chain,
        provider: &Provider,
        transport: Transport,
    ) -> Value {
        let (instance, channel) = (provider.instance, ChannelIndex::new(provider.instance, transport));
        let view = self.snapshot.channel(channel);
        let open = view.circuit == CircuitState::Open;
        json!({
            "profile": profile.slug, "chain": chain.key, "chain_id": chain.chain_id,
            "provider_id": provider.id, "transport": transport,
            "instance_id": self.core.catalog.instances[instance].id,
            "priority": provider.priority, "archival": provider.archival,
            "circuit_state": view.circuit, "circuit_epoch": view.epoch,
            "open_for_ms": open.then(|| view.open_until_ms.saturating_sub(self.now_ms)),
            "trial_under_way": view.trial_under_way,
            "limited_for_ms": view.limited_until_ms.saturating_sub(self.now_ms),
            "draining": self.snapshot.drained.contains(&place),
            "health": health(&self.snapshot.health[instance], self.now_ms),
            "probe_latency_ms": view.prior_ms,
            "block_height": self.snapshot.heights[instance].map(|height| height.height),
            "block_height_age_ms": self.snapshot.heights[instance].map(|it| self.now_ms.saturating_sub(it.at_ms)),
            "block_lag": self.consensus.and_then(|consensus| self.snapshot.lag(instance, consensus)),
            "block_height_doubted": self.snapshot.is_doubted(instance),
            "block_time_ms": self.snapshot.block_time_ms(chain.chain_id, chain.block_time_ms),
            "in_flight": self.core.book.in_flight(channel),
            "connected": (transport == Transport::Ws).then(|| self.snapshot.socket(instance).connected),
            "evidence": evidence(view, profile.key, self.now_ms),
        })
    }
}

/// The health of an instance.
fn health(health: &Health, now_ms: u64) -> Value {
    json!({
        "status": health.status, "probes": health.probes, "reason": health.reason.as_deref(),
        "consecutive_failures": health.failures_in_a_row, "consecutive_successes": health.successes_in_a_row,
        "probed_ms_ago": health.probed_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
    })
}

/// What is known of the channel's latency in that profile, by method.
fn evidence(view: &ChannelView, profile: ProfileKey, now_ms: u64) -> BTreeMap<&'static str, Value> {
    let known = view.evidence.iter().filter(|((of, _), _)| *of == profile);
    known
        .map(|((_, method), it)| {
            (*method, json!({ "latency_ms": it.latency_ms, "qualified": it.is_qualified(now_ms) }))
        })
        .collect()
}

/// `GET /ready`: whether a call would find a provider.
pub(super) fn ready(site: &Site) -> Reply {
    let core = site.core();
    match obstacle(site, &core) {
        None => answer(StatusCode::OK, &json!({ "ready": true })),
        Some((reason, chains)) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "reason": reason, "chains": chains }))
        }
    }
}

/// Why nothing can be routed, and the chains or instances that it is about.
fn obstacle(site: &Site, core: &Core) -> Option<(&'static str, Vec<String>)> {
    let snapshot = core.book.snapshot();
    // Once is enough: a reload that adds a provider does not make a proxy that routes unready.
    if !site.probed.load(Ordering::Relaxed) {
        let waiting: Vec<String> = core
            .catalog
            .instances
            .iter()
            .enumerate()
            .filter(|(at, instance)| {
                let channel = snapshot.channel(ChannelIndex::new(*at, Transport::Http));
                instance.http.is_some() && snapshot.health[*at].probes == 0 && channel.circuit == CircuitState::Closed
            })
            .map(|(_, instance)| instance.id.to_string())
            .collect();
        if !waiting.is_empty() {
            return Some(("the first probes have not ended yet", waiting));
        }
        site.probed.store(true, Ordering::Relaxed);
    }
    let usable = |provider: &Provider, transport: Transport| {
        let can = match transport {
            Transport::Http => provider.has_http,
            Transport::Ws => {
                core.upstreams.socket(&core.catalog.instances[provider.instance].id).is_some_and(|it| it.is_connected())
            }
        };
        can && snapshot.channel(ChannelIndex::new(provider.instance, transport)).circuit != CircuitState::Open
    };
    let is_usable = |place: Place, provider: &Provider| {
        !snapshot.drained.contains(&place)
            && [Transport::Http, Transport::Ws].into_iter().any(|transport| usable(provider, transport))
    };
    if core.providers().any(|(place, _, _, provider)| is_usable(place, provider)) {
        return None;
    }
    let chains = core
        .catalog
        .profiles
        .iter()
        .flat_map(|profile| profile.chains.iter().map(move |chain| format!("{}/{}", profile.slug, chain.key)));
    Some(("no chain has a provider whose circuit is not open and that is not drained", chains.collect()))
}

/// `GET /api/chains`: every chain once, whatever the number of profiles that have it.
pub(super) fn chains(site: &Site) -> Reply {
    let core = site.core();
    let mut chains: BTreeMap<u64, Value> = BTreeMap::new();
    for chain in core.catalog.profiles.iter().filter(|profile| !profile.unlisted).flat_map(|profile| &profile.chains) {
        chains.entry(chain.chain_id).or_insert_with(
            || json!({ "chain_id": chain.chain_id, "name": chain.key, "chain_name": chain.name, "supported": true }),
        );
    }
    answer(StatusCode::OK, &json!({ "chains": chains.into_values().collect::<Vec<_>>() }))
}

/// `GET /api/health`. A proxy knows of no other node, so what it says of the cluster is about itself; the query service
/// knows the fleet.
pub(super) fn api_health(site: &Site) -> Reply {
    let routes = obstacle(site, &site.core()).is_none();
    answer(
        StatusCode::OK,
        &json!({
            "status": if routes { "healthy" } else { "degraded" },
            "timestamp": OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            "uptime_seconds": site.started.elapsed().as_secs(),
            "version": env!("CARGO_PKG_VERSION"),
            "node_id": site.identity.node_id,
            "cluster": {
                "enabled": false, "status": "standalone", "nodes_connected": 1, "nodes_responding": 1, "nodes_total": 1,
                "regions": [site.identity.region],
            },
        }),
    )
}
