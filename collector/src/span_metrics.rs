//! What spans say as metrics: calls, latency and size by service, name, kind and status, and the edges of the service
//! graph, under the names that Grafana's views ask for. Counted from every span that was received, before any is sampled,
//! and written into the table `metrics` as cumulative series of this node.
//!
//! Answering such queries from kept spans by their weights was rejected: it would make exact counts into estimates, and read
//! a day's spans for a panel. Latencies are counted by the bounds that Tempo uses, since those views ask for `_bucket` series.
//!
//! The fold is a function of the entries of the log, and a replayed entry that holds written series begins the counts
//! anew, as does a checkpoint, which holds what was counted since the series were last written: a crash loses nothing and
//! counts nothing twice, it only gives the series a new start.

use arrow::array::{Array, ArrayRef, AsArray, MapArray, RecordBatch, StringArray};
use arrow::error::ArrowError;
use lariat_schema::node_api::NodeIdentity;
use lariat_schema::time_range::NANOS_PER_SECOND;
use lariat_schema::vocabulary::OVERFLOW;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

mod graph;
pub(crate) mod memory;
mod rows;

use crate::columns::{column, count, ids, longs, text, texts};
use crate::hashed::HashedMap;
use graph::{Graph, Half, Side};

/// Nanoseconds between two writings of what has changed.
pub(crate) const INTERVAL_NANOS: i64 = 10 * NANOS_PER_SECOND;
/// What has not changed is written again after this, so that an instant query, which looks five minutes back, finds it.
const REPEAT_NANOS: i64 = 120 * NANOS_PER_SECOND;
/// Series of spans beyond which names are counted together as `_OTHER`; half as many more, and services are too.
const MAX_SERIES: usize = 2_000;
/// What a span takes besides its texts: ids, times, kind and status.
const SPAN_BYTES: u64 = 64;

/// Upper bounds of latencies, nanoseconds. Source: Tempo's default, 2 ms doubled thirteen times.
const BOUNDS_NANOS: [i64; 14] = {
    let mut bounds = [2_000_000; 14];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 2;
        at += 1;
    }
    bounds
};

/// A cumulative histogram of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Latency {
    count: u64,
    sum_nanos: i64,
    buckets: [u64; BOUNDS_NANOS.len() + 1],
}

impl Latency {
    fn record(&mut self, nanos: i64) {
        self.count += 1;
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
        self.buckets[BOUNDS_NANOS.partition_point(|bound| *bound < nanos)] += 1;
    }

    /// What was counted since it was as `before`.
    fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        since.count = since.count.saturating_sub(before.count);
        since.sum_nanos = since.sum_nanos.saturating_sub(before.sum_nanos);
        for (now, before) in since.buckets.iter_mut().zip(before.buckets) {
            *now = now.saturating_sub(before);
        }
        since
    }
}

/// Whose spans a series counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whose {
    service: Box<str>,
    name: Box<str>,
    kind: &'static str,
    status: &'static str,
}

/// One series of spans.
#[derive(Debug, Clone)]
struct Spans {
    whose: Whose,
    start_unix_nanos: i64,
    latency: Latency,
    bytes: u64,
    /// Latencies and bytes when it was last written.
    written: (Latency, u64),
}

/// All of it.
#[derive(Debug)]
pub(crate) struct SpanMetrics {
    spans: Vec<Spans>,
    /// Places in `spans` by a hash of whose they are.
    places: HashedMap<Vec<usize>>,
    /// Place of the series that was counted last: neighbours mostly are of one.
    last: usize,
    graph: Graph,
    max_series: usize,
    written_unix_nanos: i64,
    all_written_unix_nanos: i64,
}

impl Default for SpanMetrics {
    fn default() -> Self {
        Self {
            spans: Vec::new(),
            places: HashedMap::default(),
            last: 0,
            graph: Graph::default(),
            max_series: MAX_SERIES,
            written_unix_nanos: i64::MIN,
            all_written_unix_nanos: i64::MIN,
        }
    }
}

/// What of a batch is looked at.
struct Columns<'a> {
    service: &'a StringArray,
    name: &'a StringArray,
    kind: &'a StringArray,
    status: &'a StringArray,
    provider: &'a StringArray,
    server_address: &'a StringArray,
    attributes: &'a MapArray,
    /// Where the attributes of a row end, and the texts of their keys and of their values.
    attribute_offsets: &'a [i32],
    text_offsets: [&'a [i32]; 2],
}

impl SpanMetrics {
    /// Counts these spans.
    pub(crate) fn fold(&mut self, batch: &RecordBatch, commit_unix_nanos: i64) {
        self.graph.expire(commit_unix_nanos);
        let attributes: &MapArray = column(batch, "attributes");
        let columns = Columns {
            service: texts(batch, "service_name"),
            name: texts(batch, "name"),
            kind: texts(batch, "span_kind"),
            status: texts(batch, "status"),
            provider: texts(batch, "provider_id"),
            server_address: texts(batch, "server_address"),
            attributes,
            attribute_offsets: attributes.value_offsets(),
            text_offsets: [offsets_of(attributes.keys()), offsets_of(attributes.values())],
        };
        let durations = longs(batch, "duration_ns");
        let (traces, ids_of, parents) = (ids(batch, "trace_id"), ids(batch, "span_id"), ids(batch, "parent_span_id"));
        for row in 0..batch.num_rows() {
            let nanos = durations.value(row).max(0);
            let service = text(columns.service, row).unwrap_or_default();
            let kind = kind(columns.kind.value(row));
            let status = status(columns.status.value(row));
            let spans = self.series(service, columns.name.value(row), kind, status, commit_unix_nanos);
            spans.latency.record(nanos);
            spans.bytes += SPAN_BYTES + columns.bytes(row);
            let Some((side, connection)) = Side::of(kind) else { continue };
            if service.is_empty() {
                continue;
            }
            let parent = parents.is_valid(row).then(|| parents.value(row));
            let id = match side {
                Side::Client => Some(ids_of.value(row)),
                Side::Server => parent,
            };
            let half = Half {
                side,
                service: service.into(),
                connection,
                peer: if side == Side::Client { columns.peer(row) } else { None },
                nanos,
                failed: status == ERROR,
            };
            self.graph.take(traces.value(row), id, half, commit_unix_nanos);
        }
    }

    fn series(
        &mut self,
        service: &str,
        name: &str,
        kind: &'static str,
        status: &'static str,
        commit: i64,
    ) -> &mut Spans {
        let place = match self.find(service, name, kind, status) {
            Some(place) => {
                self.last = place;
                place
            }
            None if self.spans.len() < self.max_series => self.add(service, name, kind, status, commit),
            None => match self.find(service, OVERFLOW, kind, status) {
                Some(place) => place,
                None if self.spans.len() < self.max_series + self.max_series / 2 => {
                    self.add(service, OVERFLOW, kind, status, commit)
                }
                None => match self.find(OVERFLOW, OVERFLOW, kind, status) {
                    Some(place) => place,
                    None => self.add(OVERFLOW, OVERFLOW, kind, status, commit),
                },
            },
        };
        &mut self.spans[place]
    }

    fn find(&self, service: &str, name: &str, kind: &str, status: &str) -> Option<usize> {
        let is_it = |place: &usize| {
            let whose = self.spans.get(*place).map(|spans| &spans.whose);
            whose.is_some_and(|whose| {
                let same = |one: &'static str, other: &str| std::ptr::eq(one, other) || one == other;
                same(whose.kind, kind)
                    && same(whose.status, status)
                    && *whose.name == *name
                    && *whose.service == *service
            })
        };
        if is_it(&self.last) {
            return Some(self.last);
        }
        self.places.get(&hash(service, name, kind, status))?.iter().copied().find(is_it)
    }

    fn add(&mut self, service: &str, name: &str, kind: &'static str, status: &'static str, commit: i64) -> usize {
        let place = self.spans.len();
        self.places.entry(hash(service, name, kind, status)).or_default().push(place);
        self.spans.push(Spans {
            whose: Whose { service: service.into(), name: name.into(), kind, status },
            start_unix_nanos: commit,
            latency: Latency::default(),
            bytes: 0,
            written: (Latency::default(), 0),
        });
        place
    }

    /// Begins to count anew: everything counted so far stands in the table, as was written at `commit_unix_nanos`.
    pub(crate) fn begin_anew(&mut self, commit_unix_nanos: i64) {
        // As before it was written.
        self.graph.expire(commit_unix_nanos);
        self.written_unix_nanos = commit_unix_nanos;
        self.spans.clear();
        self.places.clear();
        self.graph.begin_anew();
        self.all_written_unix_nanos = i64::MIN;
    }

    /// The series that have changed since they were last written, and now and then all of them.
    pub(crate) fn rows(&mut self, now: i64, identity: &NodeIdentity) -> Result<Option<RecordBatch>, ArrowError> {
        self.graph.expire(now);
        let all = now.saturating_sub(self.all_written_unix_nanos) >= REPEAT_NANOS;
        let spans: Vec<_> =
            self.spans.iter().filter(|spans| all || spans.latency.count > spans.written.0.count).collect();
        let edges: Vec<_> =
            self.graph.edges().filter(|edge| all || edge.counts.requests > edge.written.requests).collect();
        if spans.is_empty() && edges.is_empty() {
            return Ok(None);
        }
        let rows = rows::rows(&spans, &edges, now, identity)?;
        if all {
            self.all_written_unix_nanos = now;
        }
        self.written_unix_nanos = now;
        for spans in &mut self.spans {
            spans.written = (spans.latency, spans.bytes);
        }
        self.graph.written();
        Ok(Some(rows))
    }

    /// Open series, and halves of edges that found no room to wait in.
    pub(crate) fn figures(&self) -> (usize, u64) {
        (self.spans.len() + self.graph.edges().count(), self.graph.unpaired())
    }
}

/// Text of the status of a span that failed.
const ERROR: &str = "STATUS_CODE_ERROR";

fn status(status: &str) -> &'static str {
    match status {
        "ok" => "STATUS_CODE_OK",
        "error" => ERROR,
        _ => "STATUS_CODE_UNSET",
    }
}

fn kind(kind: &str) -> &'static str {
    match kind {
        "internal" => "SPAN_KIND_INTERNAL",
        "server" => "SPAN_KIND_SERVER",
        "client" => "SPAN_KIND_CLIENT",
        "producer" => "SPAN_KIND_PRODUCER",
        "consumer" => "SPAN_KIND_CONSUMER",
        _ => "SPAN_KIND_UNSPECIFIED",
    }
}

fn hash(service: &str, name: &str, kind: &str, status: &str) -> u128 {
    let seed = count(kind.len() * 32 + status.len());
    let service = xxh3_64_with_seed(service.as_bytes(), seed);
    u128::from(service) << 64 | u128::from(xxh3_64_with_seed(name.as_bytes(), service))
}

fn offsets_of(texts: &ArrayRef) -> &[i32] {
    texts.as_string_opt::<i32>().map_or(&[], StringArray::value_offsets)
}

impl Columns<'_> {
    /// Bytes of the name and the attributes, by where they end.
    fn bytes(&self, row: usize) -> u64 {
        let length = |offsets: &[i32], from: i32, to: i32| {
            let at =
                |place: i32| usize::try_from(place).ok().and_then(|place| offsets.get(place)).copied().unwrap_or(0);
            u64::try_from(at(to) - at(from)).unwrap_or(0)
        };
        let name = u64::try_from(self.name.value_length(row)).unwrap_or(0);
        let (from, to) = (self.attribute_offsets[row], self.attribute_offsets[row + 1]);
        self.text_offsets.iter().fold(name, |bytes, offsets| bytes + length(offsets, from, to))
    }

    /// An attribute that has no column.
    fn attribute(&self, row: usize, wanted: &str) -> Option<String> {
        if self.attributes.is_null(row) {
            return None;
        }
        let entries = self.attributes.value(row);
        let keys: &StringArray = entries.column(0).as_any().downcast_ref()?;
        let values: &StringArray = entries.column(1).as_any().downcast_ref()?;
        let place = (0..keys.len()).find(|place| keys.value(*place) == wanted)?;
        text(values, place).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Who is called, as far as the calling span says.
    fn peer(&self, row: usize) -> Option<graph::Peer<'_>> {
        if let Some(provider) = text(self.provider, row) {
            return Some(graph::Peer::Provider(provider.into()));
        }
        let attribute = |key: &str| self.attribute(row, key);
        let named = attribute("service.peer.name").or_else(|| attribute("peer.service"));
        let namespace = attribute("db.namespace").or_else(|| attribute("db.name"));
        let is_database =
            namespace.is_some() || attribute("db.system.name").is_some() || attribute("db.system").is_some();
        if is_database {
            let address = || text(self.server_address, row).map(str::to_owned);
            return named.or_else(address).or(namespace).map(|name| graph::Peer::Database(name.into()));
        }
        named.map(|name| graph::Peer::Named(name.into()))
    }
}

#[cfg(test)]
mod tests;
