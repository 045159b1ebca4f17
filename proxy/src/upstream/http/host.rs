//! What is kept for one provider's HTTP: what every request to it begins with, whether it speaks HTTP/2, and the idle
//! connections over HTTP/1.1. The lock is the provider's own and held for one push or pop.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::lane::Lane;
use crate::profiles::Endpoint;
use crate::trace_context;

/// Idle connections kept.
pub(super) const MAX_IDLE: usize = 256;
/// How long a connection may be idle; the probes' own requests make sure that this is looked at.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// One provider.
pub(super) struct Host {
    /// The whole URL, which may hold a secret.
    pub(super) uri: Uri,
    /// The same without scheme and authority, as HTTP/1.1 sends it.
    target: Uri,
    /// Headers of each request, credentials included.
    headers: HeaderMap,
    /// Whether the profile itself names the host.
    names_host: bool,
    is_shared: AtomicBool,
    idle: Mutex<VecDeque<Box<Lane>>>,
}

impl Host {
    pub(super) fn new(endpoint: &Endpoint, headers: &HeaderMap) -> Self {
        let mut headers = headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let authority = endpoint.uri.authority().map_or("", http::uri::Authority::as_str);
        // A name and a password before the host are no part of it.
        let host = authority.rsplit('@').next().unwrap_or_default();
        let usual = match endpoint.uri.scheme_str() {
            Some("https") => ":443",
            _ => ":80",
        };
        let names_host = headers.contains_key(header::HOST);
        if !names_host && let Ok(host) = HeaderValue::from_str(host.strip_suffix(usual).unwrap_or(host)) {
            headers.insert(header::HOST, host);
        }
        let target = endpoint.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
        Self {
            uri: endpoint.uri.clone(),
            target,
            headers,
            names_host,
            is_shared: AtomicBool::new(false),
            idle: Mutex::default(),
        }
    }

    /// True where that is the same provider, asked in the same way.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.uri == other.uri && self.headers == other.headers
    }

    /// A call as a request over a connection of its own.
    pub(super) fn request(&self, payload: Bytes, trace: Option<trace_context::Outgoing>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(payload));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(trace) = trace {
            trace.write(request.headers_mut());
        }
        request
    }

    /// The same request for the common client, which takes connection and host from the whole URL.
    pub(super) fn for_common(&self, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
        *request.uri_mut() = self.uri.clone();
        if !self.names_host {
            request.headers_mut().remove(header::HOST);
        }
        request
    }

    /// Remembers that its connections carry many calls at once.
    pub(super) fn share(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    /// True where its connections carry many calls at once.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// The connection that was used last, since the others are the likelier to be closed, or to be too many.
    pub(super) fn take(&self) -> Option<Box<Lane>> {
        self.idle.lock().pop_back()
    }

    /// Keeps a connection for the next call, and lets go those that have been idle for too long.
    pub(super) fn keep(&self, mut lane: Box<Lane>) {
        let now = Instant::now();
        lane.idle_since = now;
        let mut gone = None;
        let mut idle = self.idle.lock();
        if idle.len() >= MAX_IDLE || idle.front().is_some_and(|lane| now.duration_since(lane.idle_since) >= IDLE) {
            gone = idle.pop_front();
        }
        idle.push_back(lane);
        drop(idle);
        // Closing is a system call, so it waits until nobody waits for the lock.
        drop(gone);
    }
}
