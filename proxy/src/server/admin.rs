//! What operators see and do on the proxy's port: the state of every channel, the proxy's own counters, and the few
//! actions that need a token. Without a configured token there are no actions, and the state is for loopback only.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use lariat_schema::vocabulary::{CircuitState, Transport};
use sha2::{Digest, Sha256};

use super::{Reply, Site, body, text};
use crate::health::ChannelIndex;

fn is_authorised(site: &Site, request: &Request<Incoming>) -> bool {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match (&site.admin_token, given) {
        // Hashes are compared, so that the time it takes tells nothing of the token.
        (Some(token), Some(given)) => Sha256::digest(token.as_bytes()) == Sha256::digest(given.as_bytes()),
        _ => false,
    }
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
    let mut list = Vec::new();
    for (place, profile, chain, provider) in core.providers() {
        let consensus = snapshot.consensus(chain.providers.iter().map(|provider| provider.instance), now_ms);
        for (transport, has) in [(Transport::Http, provider.has_http), (Transport::Ws, provider.has_ws)] {
            if !has {
                continue;
            }
            let view = snapshot.channel(ChannelIndex::new(provider.instance, transport));
            list.push(serde_json::json!({
                "profile": profile, "chain": chain.key, "provider_id": provider.id, "transport": transport,
                "instance_id": core.catalog.instances[provider.instance].id,
                "circuit_state": view.circuit, "circuit_epoch": view.epoch,
                "limited_for_ms": view.limited_until_ms.saturating_sub(now_ms),
                "probe_latency_ms": view.prior_ms,
                "block_height": snapshot.heights[provider.instance].map(|height| height.height),
                "block_lag": consensus.and_then(|consensus| snapshot.lag(provider.instance, consensus)),
                "draining": snapshot.drained.contains(&place),
            }));
        }
    }
    let answer =
        serde_json::json!({ "snapshot": snapshot.number, "policy_hash": &*core.catalog.policy_hash, "channels": list });
    body(StatusCode::OK, "application/json", Bytes::from(answer.to_string()))
}

/// `GET /metrics`: the proxy's own counters as Prometheus text.
pub(super) fn metrics(site: &Site) -> Reply {
    let core = site.core();
    let counters = &core.recorder.counters;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut out = String::new();
    for (name, kind, help, value) in [
        ("lariat_decisions_total", "counter", "Decisions numbered in this boot.", load(&counters.seq)),
        (
            "lariat_recorder_refused_total",
            "counter",
            "Decisions that found the recorder's queue full.",
            load(&counters.refused),
        ),
        ("lariat_recorder_lost_total", "counter", "Decisions that the collector did not take.", load(&counters.lost)),
        (
            "lariat_recorder_events_refused_total",
            "counter",
            "Events that found no room.",
            load(&counters.events_refused),
        ),
        (
            "lariat_requests_refused_total",
            "counter",
            "Requests refused before they were calls.",
            load(&site.gate.refused),
        ),
        (
            "lariat_calls_in_flight",
            "gauge",
            "Calls accepted and not yet answered.",
            u64::try_from(counters.in_flight.load(Ordering::Relaxed)).unwrap_or(0),
        ),
        ("lariat_snapshot_number", "gauge", "Number of the latest health snapshot.", core.book.snapshot().number),
    ] {
        // Writing to a String cannot fail.
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    body(StatusCode::OK, "text/plain; version=0.0.4", Bytes::from(out))
}

/// `POST /admin/…`.
pub(super) fn act(site: &Site, path: &str, request: &Request<Incoming>) -> Reply {
    if !is_authorised(site, request) {
        return text(StatusCode::UNAUTHORIZED, "this needs Authorization: Bearer <CLUSTER_TOKEN>\n");
    }
    let core = site.core();
    let segments: Vec<&str> = path.split('/').skip(2).collect();
    match segments[..] {
        ["circuits", profile, chain, provider, transport, act @ ("open" | "close")] => {
            let (Some((_, provider)), Ok(transport)) = (core.find(profile, chain, provider), transport.parse()) else {
                return text(StatusCode::NOT_FOUND, "no such channel\n");
            };
            let to = if act == "open" { CircuitState::Open } else { CircuitState::Closed };
            if let Some(change) = core.book.force(ChannelIndex::new(provider.instance, transport), to) {
                core.tell_change(change);
            }
            text(StatusCode::OK, "done\n")
        }
        ["providers", profile, chain, provider, act @ ("drain" | "undrain")] => {
            let Some((place, _)) = core.find(profile, chain, provider) else {
                return text(StatusCode::NOT_FOUND, "no such provider\n");
            };
            core.book.drain(place, act == "drain");
            text(StatusCode::OK, "done\n")
        }
        _ => text(StatusCode::NOT_FOUND, "unknown admin path\n"),
    }
}
