//! What operators see and do on the proxy's port: the state of every channel, the proxy's own counters, and the few
//! actions that need a token. Without a configured token there are no actions, and the state is for loopback only.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use lariat_schema::vocabulary::{CircuitState, Transport};
use sha2::{Digest, Sha256};

use super::{Reply, Site, body, text};
use crate::core::Core;
use crate::health::{ChannelIndex, Health};
use crate::reload::{self, Changes, ReloadError};
use crate::upstream::Counts;

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
                "health": of_health(&snapshot.health[provider.instance], now_ms),
                "block_height_doubted": snapshot.is_doubted(provider.instance),
                "block_time_ms": snapshot.block_time_ms(chain.chain_id, chain.block_time_ms),
                "connected": (transport == Transport::Ws).then(|| snapshot.socket(provider.instance).connected),
            }));
        }
    }
    let answer =
        serde_json::json!({ "snapshot": snapshot.number, "policy_hash": &*core.catalog.policy_hash, "channels": list });
    body(StatusCode::OK, "application/json", Bytes::from(answer.to_string()))
}

/// The health of an instance for people and tests.
fn of_health(health: &Health, now_ms: u64) -> serde_json::Value {
    serde_json::json!({
        "status": health.status, "probes": health.probes, "reason": health.reason.as_deref(),
        "consecutive_failures": health.failures_in_a_row, "consecutive_successes": health.successes_in_a_row,
        "probed_ms_ago": health.probed_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
    })
}

/// The counters of what all requests share.
fn of_core(core: &Core, out: &mut String) {
    rate_limited(core, out);
    core.saving.write_metrics(out);
    sockets(&core.upstreams.counts, out);
}

/// What became of the sockets to providers.
fn sockets(counts: &Counts, out: &mut String) {
    for (name, help, counter) in [
        ("connected", "WebSockets to providers that were connected.", &counts.connected),
        ("lost", "WebSockets to providers that were lost.", &counts.lost),
        ("not_connected", "WebSockets to providers that could not be connected.", &counts.not_connected),
        ("requests_refused", "Requests that found as many pending on a socket as may be.", &counts.refused),
        (
            "frames_unclaimed",
            "Frames from providers that belonged to nobody, late replies among them.",
            &counts.strange,
        ),
        ("feeds_overflowed", "Subscriptions that ended since their reader was too slow.", &counts.overflowed),
    ] {
        let (name, value) = (format!("lariat_upstream_sockets_{name}_total"), counter.load(Ordering::Relaxed));
        // Writing to a String cannot fail.
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
    }
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
            "lariat_calls_in_flight",
            "gauge",
            "Calls accepted and not yet answered.",
            u64::try_from(counters.in_flight.load(Ordering::Relaxed)).unwrap_or(0),
        ),
        (
            "lariat_ws_connections",
            "gauge",
            "WebSocket connections that are open.",
            u64::try_from(site.sockets.open.load(Ordering::Relaxed)).unwrap_or(0),
        ),
        (
            "lariat_ws_frames_refused_total",
            "counter",
            "WebSocket frames refused since too much was under way.",
            load(&site.sockets.overloads),
        ),
        (
            "lariat_ws_ended_slow_total",
            "counter",
            "WebSocket connections ended since the client did not read its events.",
            load(&site.sockets.ended_slow),
        ),
        (
            "lariat_ws_ended_silent_total",
            "counter",
            "WebSocket connections ended since the client did not answer pings.",
            load(&site.sockets.ended_silent),
        ),
        ("lariat_filters", "gauge", "Filters of clients that are remembered.", core.filters.count() as u64),
        (
            "lariat_filters_evicted_total",
            "counter",
            "Filters that had to leave for newer ones.",
            load(&core.filters.evicted),
        ),
        ("lariat_snapshot_number", "gauge", "Number of the latest health snapshot.", core.book.snapshot().number),
    ] {
        // Writing to a String cannot fail.
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    reloads(&site.reloader.counters, &mut out);
    of_core(&core, &mut out);
    gate(site, &mut out);
    body(StatusCode::OK, "text/plain; version=0.0.4", Bytes::from(out))
}

fn gate(site: &Site, out: &mut String) {
    out.push_str("# HELP lariat_requests_refused_total Requests refused before they were calls.\n");
    out.push_str("# TYPE lariat_requests_refused_total counter\n");
    // Writing to a String cannot fail.
    let _infallible = writeln!(out, "lariat_requests_refused_total {}", site.gate.refused.load(Ordering::Relaxed));
    site.gate.replies.write_metrics(out);
}

fn reloads(counters: &reload::Counters, out: &mut String) {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    out.push_str("# HELP lariat_config_reloads_total Reloads of the profiles by outcome.\n");
    out.push_str("# TYPE lariat_config_reloads_total counter\n");
    for (outcome, counter) in
        [("applied", &counters.applied), ("unchanged", &counters.unchanged), ("failed", &counters.failed)]
    {
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "lariat_config_reloads_total{{outcome=\"{outcome}\"}} {}", load(counter));
    }
    for (name, help, counter) in [
        (
            "lariat_config_last_reload_successful",
            "Whether the latest reload found valid profiles.",
            &counters.latest_succeeded,
        ),
        (
            "lariat_config_last_reload_success_timestamp_seconds",
            "When valid profiles were last read.",
            &counters.latest_success_unix_s,
        ),
    ] {
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}\n", load(counter));
    }
}

fn rate_limited(core: &Core, out: &mut String) {
    out.push_str("# HELP lariat_calls_rate_limited_total Calls refused by the limit of their profile.\n");
    out.push_str("# TYPE lariat_calls_rate_limited_total counter\n");
    for (at, profile) in core.catalog.profiles.iter().enumerate() {
        let (slug, refused) = (&profile.slug, core.limits.refused(at));
        let _infallible = writeln!(out, "lariat_calls_rate_limited_total{{profile=\"{slug}\"}} {refused}");
    }
}

/// `POST /admin/…`.
pub(super) async fn act(site: &Arc<Site>, path: &str, request: &Request<Incoming>) -> Reply {
    if !is_authorised(site, request) {
        return text(StatusCode::UNAUTHORIZED, "this needs Authorization: Bearer <CLUSTER_TOKEN>\n");
    }
    let core = site.core();
    let segments: Vec<&str> = path.split('/').skip(2).collect();
    match segments[..] {
        ["reload"] => reloaded(reload::reload(site).await),
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
            // A reload in between would read the drained providers of the old core.
            let _changing = site.changing.lock();
            let core = site.core();
            let Some((place, _)) = core.find(profile, chain, provider) else {
                return text(StatusCode::NOT_FOUND, "no such provider\n");
            };
            core.book.drain(place, act == "drain");
            text(StatusCode::OK, "done\n")
        }
        _ => text(StatusCode::NOT_FOUND, "unknown admin path\n"),
    }
}

/// The answer to `POST /admin/reload`.
fn reloaded(outcome: Result<Changes, ReloadError>) -> Reply {
    let (status, answer) = match outcome {
        Ok(changes) => (StatusCode::OK, serde_json::json!(changes)),
        Err(error) => {
            let status = match error {
                ReloadError::NoFiles => StatusCode::CONFLICT,
                ReloadError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
                ReloadError::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let message = error.to_string();
            let errors: Vec<serde_json::Value> = match error {
                ReloadError::Invalid(errors) => errors
                    .iter()
                    .map(|it| {
                        serde_json::json!({
                            "file": it.file.display().to_string(), "path": it.path, "line": it.line, "problem": it.problem,
                        })
                    })
                    .collect(),
                ReloadError::NoFiles | ReloadError::Broken => Vec::new(),
            };
            (status, serde_json::json!({ "message": message, "errors": errors }))
        }
    };
    body(status, "application/json", Bytes::from(answer.to_string()))
}
