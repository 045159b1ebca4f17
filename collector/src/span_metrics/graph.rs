//! Edges of the service graph: a call as its client saw it, with the same call as its server saw it.
//!
//! The two halves come in any order, in requests of their own; a half waits for the other up to ten seconds of commit
//! time, and only so many wait at once. A client's half whose server never comes still names an edge if it says whom it called; a
//! server's half without parent is called by `user`, as Tempo has it. An attempt of our own proxy names its provider,
//! whose spans nobody sends here, so that it waits for nothing.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use lariat_schema::time_range::NANOS_PER_SECOND;
use lariat_schema::vocabulary::OVERFLOW;
use serde::{Deserialize, Serialize};

use super::Latency;

/// How long a half waits for the other, in commit time. Source: Tempo's default.
const WAIT_NANOS: i64 = 10 * NANOS_PER_SECOND;
/// Halves that wait at once: some 2 MB. Source: Tempo's default.
const MAX_WAITING: usize = 10_000;
/// Edges beyond which servers are counted together as `_OTHER`; half as many more, and clients are too.
const MAX_EDGES: usize = 500;
/// Who calls a server that says nothing of its caller.
const USER: &str = "user";

/// Which end of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    /// By the kind of the span, with the connection that it speaks of.
    pub(super) fn of(kind: &str) -> Option<(Self, &'static str)> {
        match kind {
            "SPAN_KIND_CLIENT" => Some((Self::Client, "")),
            "SPAN_KIND_SERVER" => Some((Self::Server, "")),
            "SPAN_KIND_PRODUCER" => Some((Self::Client, MESSAGING)),
            "SPAN_KIND_CONSUMER" => Some((Self::Server, MESSAGING)),
            _ => None,
        }
    }
}

const MESSAGING: &str = "messaging_system";
const VIRTUAL: &str = "virtual_node";
const DATABASE: &str = "database";
/// What a connection can be; nothing, where the spans do not say.
pub(super) const CONNECTIONS: [&str; 4] = ["", MESSAGING, VIRTUAL, DATABASE];

/// Whom a client's span says that it called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Peer<'a> {
    /// A provider of ours.
    Provider(Cow<'a, str>),
    /// A database, which sends no spans.
    Database(Cow<'a, str>),
    /// A service that may send its own.
    Named(Cow<'a, str>),
}

impl Peer<'_> {
    fn into_owned(self) -> Peer<'static> {
        let owned = |name: Cow<'_, str>| Cow::Owned(name.into_owned());
        match self {
            Self::Provider(name) => Peer::Provider(owned(name)),
            Self::Database(name) => Peer::Database(owned(name)),
            Self::Named(name) => Peer::Named(owned(name)),
        }
    }
}

/// One end of a call. Its names are borrowed from its row until it has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Half<'a> {
    pub(super) side: Side,
    pub(super) service: Cow<'a, str>,
    pub(super) connection: &'static str,
    pub(super) peer: Option<Peer<'a>>,
    pub(super) nanos: i64,
    pub(super) failed: bool,
}

impl Half<'_> {
    fn into_owned(self) -> Half<'static> {
        let Self { side, service, connection, peer, nanos, failed } = self;
        let service = Cow::Owned(service.into_owned());
        Half { side, service, connection, peer: peer.map(Peer::into_owned), nanos, failed }
    }
}

/// Who calls whom over what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ends {
    client: Box<str>,
    server: Box<str>,
    connection: &'static str,
}

/// One edge.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) client: Box<str>,
    pub(super) server: Box<str>,
    pub(super) connection: &'static str,
    pub(super) start_unix_nanos: i64,
    pub(super) counts: Counts,
    /// The counts when it was last written.
    pub(super) written: Counts,
}

/// What is counted of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// As far as the server told.
    pub(super) server_latency: Latency,
    /// As far as the client told.
    pub(super) client_latency: Latency,
}

impl Counts {
    /// What was counted since it was as `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failed: self.failed.saturating_sub(before.failed),
            server_latency: self.server_latency.since(&before.server_latency),
            client_latency: self.client_latency.since(&before.client_latency),
        }
    }
}

/// A call, by its trace and its client's span.
pub(super) type Call = ([u8; 16], [u8; 8]);

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: Vec<Edge>,
    places: HashMap<Ends, usize>,
    /// Place of the edge that was counted last: neighbours mostly are of one.
    last: usize,
    waiting: HashMap<Call, Half<'static>>,
    order: VecDeque<(i64, Call)>,
    unpaired: u64,
}

impl Graph {
    /// Takes in one half; `id` is the span of the client.
    pub(super) fn take(&mut self, trace: &[u8], id: Option<&[u8]>, half: Half<'_>, commit: i64) {
        let call = trace.try_into().ok().zip(id.and_then(|id| id.try_into().ok()));
        let call: Call = match (call, &half) {
            (Some(call), Half { peer: None | Some(Peer::Named(_)), .. }) => call,
            _ => return self.alone(half, commit),
        };
        match self.waiting.remove(&call) {
            Some(other) if other.side != half.side => {
                let (client, server) = if half.side == Side::Client { (half, other) } else { (other, half) };
                self.pair(&client, &server, commit);
            }
            // A second half of the same side: a server that was called twice by one span, say.
            Some(other) => {
                self.waiting.insert(call, half.into_owned());
                self.unmatched(other, commit);
            }
            None if self.waiting.len() < MAX_WAITING => {
                self.waiting.insert(call, half.into_owned());
                self.order.push_back((commit, call));
            }
            None => {
                self.unpaired += 1;
                self.unmatched(half, commit);
            }
        }
    }

    fn pair(&mut self, client: &Half<'_>, server: &Half<'_>, commit: i64) {
        let connection = if client.connection.is_empty() { server.connection } else { client.connection };
        let counts = &mut self.edge(&client.service, &server.service, connection, commit).counts;
        counts.requests += 1;
        counts.failed += u64::from(client.failed || server.failed);
        counts.client_latency.record(client.nanos);
        counts.server_latency.record(server.nanos);
    }

    /// A half whose other end never came. A server that names a parent was called by somebody whose span is missing, not
    /// by a user, so it makes no edge.
    fn unmatched(&mut self, half: Half<'_>, commit: i64) {
        if half.side == Side::Client {
            self.alone(half, commit);
        }
    }

    /// A half whose other end sends no spans.
    fn alone(&mut self, half: Half<'_>, commit: i64) {
        let Half { side, service, peer, nanos, failed, .. } = half;
        let edge = match (side, peer) {
            (Side::Client, Some(Peer::Provider(peer) | Peer::Named(peer))) => {
                self.edge(&service, &peer, VIRTUAL, commit)
            }
            (Side::Client, Some(Peer::Database(peer))) => self.edge(&service, &peer, DATABASE, commit),
            (Side::Server, _) => self.edge(USER, &service, VIRTUAL, commit),
            (Side::Client, None) => return,
        };
        let counts = &mut edge.counts;
        counts.requests += 1;
        counts.failed += u64::from(failed);
        match side {
            Side::Client => counts.client_latency.record(nanos),
            Side::Server => counts.server_latency.record(nanos),
        }
    }

    fn edge(&mut self, client: &str, server: &str, connection: &'static str, commit: i64) -> &mut Edge {
        let is_it = |edge: &Edge| *edge.client == *client && *edge.server == *server && edge.connection == connection;
        if !self.edges.get(self.last).is_some_and(is_it) {
            self.last = self.place(client, server, connection, commit);
        }
        &mut self.edges[self.last]
    }

    /// The place of an edge, which is made if it is new.
    fn place(&mut self, client: &str, server: &str, connection: &'static str, commit: i64) -> usize {
        let mut ends = Ends { client: client.into(), server: server.into(), connection };
        if self.edges.len() >= MAX_EDGES && !self.places.contains_key(&ends) {
            ends.server = OVERFLOW.into();
            if self.edges.len() >= MAX_EDGES + MAX_EDGES / 2 && !self.places.contains_key(&ends) {
                ends.client = OVERFLOW.into();
            }
        }
        if let Some(place) = self.places.get(&ends) {
            return *place;
        }
        let place = self.edges.len();
        self.edges.push(Edge {
            client: ends.client.clone(),
            server: ends.server.clone(),
            connection,
            start_unix_nanos: commit,
            counts: Counts::default(),
            written: Counts::default(),
        });
        self.places.insert(ends, place);
        place
    }

    /// Decides about halves that have waited long enough.
    pub(super) fn expire(&mut self, now: i64) {
        while let Some((since, call)) = self.order.front().copied() {
            if now.saturating_sub(since) < WAIT_NANOS {
                return;
            }
            self.order.pop_front();
            if let Some(half) = self.waiting.remove(&call) {
                self.unmatched(half, now);
            }
        }
    }

    pub(super) fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter()
    }

    pub(super) fn written(&mut self) {
        for edge in &mut self.edges {
            edge.written = edge.counts;
        }
    }

    /// Halves that found no room to wait in.
    pub(super) fn unpaired(&self) -> u64 {
        self.unpaired
    }

    /// The halves that wait, oldest first, with the commit since which they do.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (i64, Call, &Half<'static>)> {
        self.order.iter().filter_map(|(since, call)| self.waiting.get(call).map(|half| (*since, *call, half)))
    }

    /// Goes on with an edge that was counted before.
    pub(super) fn recall_edge(&mut self, ends: (&str, &str, &'static str), start_unix_nanos: i64, counts: Counts) {
        let edge = self.edge(ends.0, ends.1, ends.2, start_unix_nanos);
        edge.counts = counts;
    }

    /// A half waits again.
    pub(super) fn recall_half(&mut self, since: i64, call: Call, half: Half<'static>) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(call, half);
            self.order.push_back((since, call));
        }
    }

    /// Begins to count anew; what waits goes on waiting.
    pub(super) fn begin_anew(&mut self) {
        self.edges.clear();
        self.places.clear();
    }
}
