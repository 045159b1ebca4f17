//! What a provider received and did, so that a test can check how many upstream calls one client call became.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::behaviour::Fault;
use lariat_schema::vocabulary::{OVERFLOW, Transport};

/// Bodies kept for inspection; the counts go on beyond it.
pub const BODIES_KEPT: usize = 1_024;

/// Methods that are counted by name; the rest of them share [`OVERFLOW`].
const METHODS_MAX: usize = 256;

/// One call as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// How it came.
    pub transport: Transport,
    /// Its method; empty where the body was no call.
    pub method: String,
    /// The HTTP body or WebSocket frame that it came in.
    pub body: Bytes,
    /// What was done instead of answering, if so.
    pub fault: Option<Fault>,
}

/// Counts since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderStats {
    /// JSON-RPC calls received, each item of a batch for itself.
    pub calls: u64,
    /// HTTP requests and WebSocket frames received.
    pub messages: u64,
    /// TCP connections accepted.
    pub connections: u64,
    /// HTTP requests that came over HTTP/2.
    pub over_http2: u64,
    /// TLS handshakes that failed: mostly since the client does not trust the certificate.
    pub untrusted: u64,
    /// Connections refused or cut while down.
    pub refused: u64,
    /// Calls by method.
    pub by_method: BTreeMap<String, u64>,
    /// Calls that were not answered as asked, by fault.
    pub by_fault: BTreeMap<String, u64>,
}

/// The account that a provider keeps.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) stats: ProviderStats,
    pub(crate) kept: VecDeque<Received>,
    /// Headers of the newest HTTP requests that named a trace.
    pub(crate) traced: VecDeque<HeaderMap>,
}

impl Account {
    pub(crate) fn add(&mut self, received: Received) {
        self.stats.calls += 1;
        count(&mut self.stats.by_method, &received.method);
        if let Some(fault) = received.fault {
            count(&mut self.stats.by_fault, fault.as_str());
        }
        if self.kept.len() == BODIES_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(received);
    }

    /// Keeps a request's headers if they name a trace.
    pub(crate) fn trace(&mut self, headers: &HeaderMap) {
        if headers.contains_key("traceparent") {
            if self.traced.len() == BODIES_KEPT {
                self.traced.pop_front();
            }
            self.traced.push_back(headers.clone());
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    let name = if counts.len() < METHODS_MAX || counts.contains_key(name) { name } else { OVERFLOW };
    *counts.entry(name.to_owned()).or_default() += 1;
}
