//! The ways to the providers: a pool of HTTP connections, and one kept WebSocket for each instance that has one. An
//! attempt is a request to one of them under a deadline, and what came of it as a value. It touches no circuit and
//! records nothing: those belong to whoever asked for it. What a provider sends is bounded in bytes and in time, and read
//! as JSON-RPC only far enough to know whether it answers this call.

mod failure;
mod http;
mod retry_after;
mod socket;
mod trust;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lariat_schema::ids::InstanceId;
use lariat_schema::vocabulary::{Dispatched, ErrorCategory, Outcome, Transport, TransportFailure};
use tokio_util::sync::CancellationToken;

use crate::classify;
use crate::jsonrpc::Reply;
use crate::profiles::{Catalog, ErrorRule, Instance};
use crate::record::AttemptEnd;
use crate::reply_budget::ReplyBudget;
use crate::trace_context;
pub(crate) use retry_after::retry_after_ms;
pub(crate) use socket::{Counts, DialError, Feed, Link, LinkView, Socket, State, SubscribeError};
pub use trust::CaFileError;
pub(crate) use trust::Trust;

/// Time in which a TCP connection must stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections to all providers of a catalog; a clone shares them.
#[derive(Clone)]
pub(crate) struct Upstreams {
    http: http::Pool,
    dialler: socket::Dialler,
    sockets: HashMap<InstanceId, Socket>,
    trust: Trust,
    /// Room for replies.
    pub(crate) replies: ReplyBudget,
    pub(crate) counts: Arc<Counts>,
    /// Ends the sockets where they stand.
    stop: CancellationToken,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// The whole call.
    pub(crate) payload: Bytes,
    /// The id inside it.
    pub(crate) id: u64,
    /// What the provider is told of the trace, if it wants to know; over a WebSocket there is no place for it.
    pub(crate) trace: Option<trace_context::Outgoing>,
}

impl Upstreams {
    /// Makes the pool and starts a socket for each instance that has one; `stop` ends them. Replies are held within
    /// `replies`.
    ///
    /// # Errors
    /// The TLS library refuses its own settings.
    pub(crate) fn new(
        catalog: &Catalog,
        trust: Trust,
        replies: ReplyBudget,
        stop: CancellationToken,
    ) -> Result<Self, rustls::Error> {
        let settings = trust.settings()?;
        let first = Self {
            http: http::Pool::new(settings.clone()),
            dialler: socket::Dialler::new(settings),
            sockets: HashMap::new(),
            trust,
            replies,
            counts: Arc::default(),
            stop,
        };
        Ok(first.succeed(catalog))
    }

    /// The same where other authorities are trusted: every connection over TLS is made anew, since one that was made
    /// under the old ones proves nothing under these.
    ///
    /// # Errors
    /// The TLS library refuses its own settings.
    pub(crate) fn trusting(&self, trust: Trust) -> Result<Self, rustls::Error> {
        if trust == self.trust {
            return Ok(self.clone());
        }
        let settings = trust.settings()?;
        let (http, dialler) = (http::Pool::new(settings.clone()), socket::Dialler::new(settings));
        let plain = self.sockets.iter().filter(|(_, socket)| !socket.is_over_tls());
        let sockets = plain.map(|(id, socket)| (id.clone(), socket.clone())).collect();
        Ok(Self { http, dialler, sockets, trust, ..self.clone() })
    }

    /// Whether these authorities are the ones that are trusted.
    pub(crate) fn trusts(&self, trust: &Trust) -> bool {
        self.trust == *trust
    }

    /// The connections for another catalog. Those of instances that stay are kept; a socket that no catalog has any
    /// more ends with the last call that still holds the old one.
    pub(crate) fn succeed(&self, catalog: &Catalog) -> Self {
        let mut sockets = HashMap::new();
        for instance in &catalog.instances {
            let Some(endpoint) = &instance.ws else { continue };
            let kept = self.sockets.get(&instance.id).cloned();
            let socket = kept.unwrap_or_else(|| {
                let door = self.dialler.door(endpoint, &instance.headers);
                let spread = Duration::from_millis(instance.probe_interval_ms / 4);
                Socket::start(door, spread, self.counts.clone(), self.stop.clone())
            });
            sockets.insert(instance.id.clone(), socket);
        }
        Self { http: self.http.succeed(catalog), sockets, ..self.clone() }
    }

    /// The kept WebSocket of an instance; none if it has no address for one.
    pub(crate) fn socket(&self, instance: &InstanceId) -> Option<Socket> {
        self.sockets.get(instance).cloned()
    }

    /// What is known of each instance's socket, in the catalog's order.
    pub(crate) fn links(&self, catalog: &Catalog) -> Vec<Option<Arc<Link>>> {
        let link = |instance: &Instance| self.sockets.get(&instance.id).map(Socket::link);
        catalog.instances.iter().map(link).collect()
    }
}

/// What came of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) end: AttemptEnd,
    /// The provider's reply, a result or an error.
    pub(crate) reply: Option<Reply>,
    /// How long the provider wants to be left alone.
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) took: Duration,
    /// True where another attempt already told of the very event that ended this one, the loss of a connection: it is no
    /// failure of its own.
    pub(crate) is_echo: bool,
}

impl Answer {
    fn failed(category: ErrorCategory, dispatched: Dispatched, http_status: Option<u16>) -> Self {
        let outcome = classify::outcome_of(category);
        let end = AttemptEnd { outcome, category: Some(category), code: None, http_status, dispatched, failure: None };
        Self { end, reply: None, retry_after_ms: None, took: Duration::ZERO, is_echo: false }
    }

    /// The answer, with what went wrong on the way.
    const fn because(mut self, failure: TransportFailure) -> Self {
        self.end.failure = Some(failure);
        self
    }

    /// The answer, its reply charged; where there is no room for that, none.
    fn charged(mut self, replies: &ReplyBudget) -> Self {
        let Some(reply) = &mut self.reply else { return self };
        match replies.charge(reply.bytes()) {
            Some(charge) => reply.charge = Some(charge),
            None => return Self::failed(ErrorCategory::LocalCapacity, Dispatched::Dispatched, self.end.http_status),
        }
        self
    }

    /// Reads what a provider sent as the reply to the call of that id.
    fn read(body: &Bytes, status: Option<u16>, rules: &[ErrorRule], id: u64) -> Self {
        let Some(reply) = Reply::read(body, id) else {
            let category = status.map_or(ErrorCategory::InvalidResponse, classify::of_status);
            return Self::failed(category, Dispatched::Dispatched, status);
        };
        let end = end_of(&reply, status, rules);
        Self { end, reply: Some(reply), retry_after_ms: None, took: Duration::ZERO, is_echo: false }
    }
}

/// How an attempt ended that got this reply.
fn end_of(reply: &Reply, status: Option<u16>, rules: &[ErrorRule]) -> AttemptEnd {
    let (category, code) = match &reply.error {
        Some(error) => (Some(classify::of_error(rules, status.unwrap_or(200), error)), Some(error.code)),
        None => (None, None),
    };
    let outcome = category.map_or(Outcome::Success, classify::outcome_of);
    AttemptEnd { outcome, category, code, http_status: status, dispatched: Dispatched::Dispatched, failure: None }
}

/// Sends a call over that channel of the instance, which is at that place of the catalog, and waits at most `timeout` for
/// the whole reply.
pub(crate) async fn attempt(
    upstreams: &Upstreams,
    (at, instance): (usize, &Instance),
    transport: Transport,
    rules: &[ErrorRule],
    outgoing: Outgoing,
    timeout: Duration,
) -> Answer {
    let started = Instant::now();
    let nowhere = || Answer::failed(ErrorCategory::NetworkError, Dispatched::NotDispatched, None);
    let mut answer = match transport {
        Transport::Http => {
            let exchange = upstreams.http.exchange(at, rules, outgoing, &upstreams.replies);
            match tokio::time::timeout(timeout, exchange).await {
                Ok(answer) => answer.unwrap_or_else(nowhere),
                Err(_) => Answer::failed(ErrorCategory::Timeout, Dispatched::Indeterminate, None),
            }
        }
        Transport::Ws => match upstreams.sockets.get(&instance.id) {
            Some(socket) => socket.attempt(rules, outgoing, timeout).await.charged(&upstreams.replies),
            None => nowhere(),
        },
    };
    answer.took = started.elapsed();
    answer
}
