//! What operators do on the proxy's port: the few actions that need a token, and the proxy's own counters. Without a
//! configured token there are no actions. A name that does not exist is answered with those that do.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use lariat_schema::vocabulary::{CircuitState, Transport};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::state::answer;
use super::{Reply, Site, body, routes};
use crate::core::Core;
use crate::health::{ChannelIndex, Place};
use crate::profiles::Provider;
use crate::reload::{self, Changes, ReloadError};
use crate::upstream::Counts;

/// Every admin call.
const ACTIONS: &[&str] = &[
    "/admin/reload",
    "/admin/circuits/{profile}/{chain}/{provider_id}/{transport}/open",
    "/admin/circuits/{profile}/{chain}/{provider_id}/{transport}/close",
    "/admin/providers/{profile}/{chain}/{provider_id}/drain",
    "/admin/providers/{profile}/{chain}/{provider_id}/undrain",
];

pub(super) fn is_authorised(site: &Site, request: &Request<Incoming>) -> bool {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match (&site.admin_token, given) {
        // Hashes are compared, so that the time it takes tells nothing of the token.
        (Some(token), Some(given)) => Sha256::digest(token.as_bytes()) == Sha256::digest(given.as_bytes()),
        _ => false,
    }
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
    site.sockets.write_metrics(&mut out);
    site.subscriptions.counts.write_metrics(&mut out);
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

/// A label's value with what Prometheus' text format reserves escaped.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn rate_limited(core: &Core, out: &mut String) {
    out.push_str("# HELP lariat_calls_rate_limited_total Calls refused by the limit of their profile.\n");
    out.push_str("# TYPE lariat_calls_rate_limited_total counter\n");
    for (at, profile) in core.catalog.profiles.iter().enumerate() {
        let (slug, refused) = (label(profile.slug.as_str()), core.limits.refused(at));
        let _infallible = writeln!(out, "lariat_calls_rate_limited_total{{profile=\"{slug}\"}} {refused}");
    }
}

/// `POST /admin/…`.
pub(super) async fn act(site: &Arc<Site>, path: &str, request: &Request<Incoming>) -> Reply {
    if site.admin_token.is_none() {
        return refuse(StatusCode::FORBIDDEN, "admin calls are off, since no token is configured: set CLUSTER_TOKEN");
    }
    if !is_authorised(site, request) {
        return refuse(StatusCode::UNAUTHORIZED, "this needs Authorization: Bearer <CLUSTER_TOKEN>");
    }
    if request.method() != Method::POST {
        let mut reply = refuse(StatusCode::METHOD_NOT_ALLOWED, "admin calls are made with POST");
        reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return reply;
    }
    let segments: Vec<Cow<'_, str>> = path.split('/').skip(2).map(routes::decoded).collect();
    let segments: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    match segments[..] {
        ["reload"] => {
            // Each is read whatever the other is.
            let beside = reload::reload_beside(site).await;
            reloaded(reload::reload(site).await, beside)
        }
        ["circuits", profile, chain, provider, transport, act @ ("open" | "close")] => {
            let to = if act == "open" { CircuitState::Open } else { CircuitState::Closed };
            force(&site.core(), [profile, chain, provider, transport], to).unwrap_or_else(Unknown::reply)
        }
        ["providers", profile, chain, provider, act @ ("drain" | "undrain")] => {
            drain(site, [profile, chain, provider], act == "drain").unwrap_or_else(Unknown::reply)
        }
        _ => Unknown::new("admin call", path, ACTIONS.iter()).reply(),
    }
}

fn refuse(status: StatusCode, message: &str) -> Reply {
    answer(status, &json!({ "message": message }))
}

/// A name that does not exist, and what there is instead.
struct Unknown {
    kind: &'static str,
    name: String,
    known: Vec<String>,
}

impl Unknown {
    fn new(kind: &'static str, name: &str, known: impl Iterator<Item = impl Display>) -> Self {
        Self { kind, name: name.to_owned(), known: known.map(|name| name.to_string()).collect() }
    }

    fn reply(self) -> Reply {
        let Self { kind, name, known } = self;
        answer(StatusCode::NOT_FOUND, &json!({ "message": format!("no {kind} `{name}`"), "known": known }))
    }
}

/// A provider by its names, and its place; or the answer for the first name that does not exist.
fn find<'c>(core: &'c Core, [profile, chain, provider]: [&str; 3]) -> Result<(Place, &'c Provider), Unknown> {
    let profiles = &core.catalog.profiles;
    let Some((p, profile)) = core.catalog.profile(profile) else {
        return Err(Unknown::new("profile", profile, profiles.iter().map(|it| &it.slug)));
    };
    let Some((c, chain)) = profile.chain(chain) else {
        return Err(Unknown::new("chain", chain, profile.chains.iter().map(|it| &it.key)));
    };
    let Some(i) = chain.providers.iter().position(|it| it.id.as_str() == provider) else {
        return Err(Unknown::new("provider", provider, chain.providers.iter().map(|it| &it.id)));
    };
    Ok(((p, c, i), &chain.providers[i]))
}

fn force(core: &Core, [profile, chain, provider, transport]: [&str; 4], to: CircuitState) -> Result<Reply, Unknown> {
    let (_, provider) = find(core, [profile, chain, provider])?;
    let has = |transport: &Transport| match transport {
        Transport::Http => provider.has_http,
        Transport::Ws => provider.has_ws,
    };
    let known = [Transport::Http, Transport::Ws].into_iter().filter(has);
    let Some(transport) = known.clone().find(|known| known.as_str() == transport) else {
        return Err(Unknown::new("transport of this provider", transport, known));
    };
    let change = core.book.force(ChannelIndex::new(provider.instance, transport), to);
    if let Some(change) = change {
        core.tell_change(change);
    }
    Ok(answer(StatusCode::OK, &json!({ "circuit_state": to, "changed": change.is_some() })))
}

fn drain(site: &Site, names: [&str; 3], drained: bool) -> Result<Reply, Unknown> {
    // A reload in between would read the drained providers of the old core.
    let _changing = site.changing.lock();
    let core = site.core();
    let (place, _) = find(&core, names)?;
    core.book.drain(place, drained);
    Ok(answer(StatusCode::OK, &json!({ "draining": drained })))
}

/// The answer to `POST /admin/reload`: what changed of the profiles, and whether a mapping file was read again.
fn reloaded(outcome: Result<Changes, ReloadError>, beside: Result<bool, String>) -> Reply {
    let error = match (outcome, beside) {
        (Ok(changes), Ok(mapping)) => {
            let mut told = json!(changes);
            told["mapping"] = mapping.into();
            return answer(StatusCode::OK, &told);
        }
        (Ok(_), Err(problem)) => {
            let message = "the mapping is wrong and the old one stays in force; the profiles are those of now";
            let errors = json!([{ "file": null, "path": "collector.mapping", "line": null, "problem": problem }]);
            return answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "message": message, "errors": errors }));
        }
        (Err(error), Ok(_)) => error,
        (Err(error), Err(problem)) => {
            tracing::error!(problem, "the old mapping stays");
            error
        }
    };
    let status = match error {
        ReloadError::NoFiles => StatusCode::CONFLICT,
        ReloadError::Invalid(_) | ReloadError::CaFile(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ReloadError::Tls(_) | ReloadError::Broken => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let errors: Vec<serde_json::Value> = match &error {
        ReloadError::Invalid(errors) => errors
            .iter()
            .map(|it| {
                let file = it.file.display().to_string();
                json!({ "file": file, "path": it.path, "line": it.line, "problem": it.problem })
            })
            .collect(),
        ReloadError::CaFile(error) => {
            vec![
                json!({ "file": error.file.display().to_string(), "path": "", "line": null, "problem": error.problem }),
            ]
        }
        ReloadError::NoFiles | ReloadError::Tls(_) | ReloadError::Broken => Vec::new(),
    };
    answer(status, &json!({ "message": error.to_string(), "errors": errors }))
}
