//! Metrics: durations as cumulative exponential histograms with exemplars, and gauges read from the latest snapshot.
//! They are made here, from every decision that reached the recorder, before anything is sampled. Only the recorder
//! thread touches them, so they need no lock.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use lariat_schema::ids::{ChainName, ProfileName, ProviderId};
use lariat_schema::vocabulary::{OVERFLOW, Transport};
use lariat_schema::{attributes as key, metrics};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
    NumberDataPoint, Sum, exemplar, exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::histogram::Histogram;
use super::spans::Attributes;
use super::{Attempt, DecisionRecord, Scope};

/// Series per metric; past it the method becomes `_OTHER`, and past twice as many the provider too.
const MAX_SERIES: usize = 4_096;

/// What tells one series from another; the same for both histograms, in which `ending` is the result or the outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    profile: ProfileName,
    chain: ChainName,
    method: &'static str,
    strategy: Option<&'static str>,
    provider: Option<ProviderId>,
    transport: Option<Transport>,
    ending: &'static str,
}

#[derive(Default)]
struct Series {
    histogram: Histogram,
    /// The slowest and the latest of this interval: one to look into, one to see what is usual.
    slowest: Option<Example>,
    latest: Option<Example>,
}

/// A call that is shown beside its histogram.
#[derive(Debug, Clone, Copy)]
struct Example {
    at_unix_nanos: u64,
    seconds: f64,
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

impl From<Example> for Exemplar {
    fn from(example: Example) -> Self {
        Self {
            filtered_attributes: Vec::new(),
            time_unix_nano: example.at_unix_nanos,
            span_id: example.span_id.to_vec(),
            trace_id: example.trace_id.to_vec(),
            value: Some(exemplar::Value::AsDouble(example.seconds)),
        }
    }
}

/// Hashes names, which are the profile's own and not a client's: nobody chooses them so that they meet in one place.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
    fn write_u8(&mut self, byte: u8) {
        self.0 = self.0.rotate_left(8) ^ u64::from(byte);
    }
}

type SeriesMap = HashMap<SeriesKey, Series, BuildHasherDefault<NameHasher>>;

/// All histograms of this boot.
pub(super) struct Points {
    start_unix_nanos: u64,
    server: SeriesMap,
    client: SeriesMap,
}

impl Points {
    pub(super) fn new(start_unix_nanos: u64) -> Self {
        Self { start_unix_nanos, server: SeriesMap::default(), client: SeriesMap::default() }
    }

    pub(super) fn note_decision(&mut self, record: &DecisionRecord) {
        let provider = record.ending.provider.as_ref();
        let series = SeriesKey {
            profile: record.scope.profile.clone(),
            chain: record.scope.chain.clone(),
            method: record.scope.method,
            strategy: Some(record.strategy.as_str()),
            provider: provider.map(|chosen| chosen.provider_id.clone()),
            transport: provider.map(|chosen| chosen.transport),
            ending: record.ending.result.as_str(),
        };
        let end = record.timing.start_unix_nanos + record.timing.duration_ns;
        note(&mut self.server, series, record.timing.duration_ns, end, &record.scope, record.span_id);
    }

    pub(super) fn note_attempt(&mut self, scope: &Scope, attempt: &Attempt) {
        let series = SeriesKey {
            profile: scope.profile.clone(),
            chain: scope.chain.clone(),
            method: scope.method,
            strategy: None,
            provider: Some(attempt.chosen.provider_id.clone()),
            transport: Some(attempt.chosen.transport),
            ending: attempt.end.outcome.as_str(),
        };
        let end = attempt.start_unix_nanos + attempt.duration_ns;
        note(&mut self.client, series, attempt.duration_ns, end, scope, attempt.span_id);
    }

    /// Both histograms as of now; their exemplars start anew.
    pub(super) fn collect(&mut self, now_unix_nanos: u64) -> Vec<Metric> {
        let start = self.start_unix_nanos;
        [
            (metrics::SERVER_CALL_DURATION, &mut self.server, key::RESULT),
            (metrics::CLIENT_CALL_DURATION, &mut self.client, key::OUTCOME),
        ]
        .into_iter()
        .filter(|(_, map, _)| !map.is_empty())
        .map(|(name, map, ending)| {
            let data_points =
                map.iter_mut().map(|(key, series)| point(key, series, ending, start, now_unix_nanos)).collect();
            let aggregation_temporality = AggregationTemporality::Cumulative.into();
            named(name, Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality }))
        })
        .collect()
    }
}

fn note(map: &mut SeriesMap, mut series: SeriesKey, duration_ns: u64, at: u64, scope: &Scope, span_id: [u8; 8]) {
    if map.len() >= MAX_SERIES && !map.contains_key(&series) {
        series.method = OVERFLOW;
        if map.len() >= 2 * MAX_SERIES {
            series.provider = Some(ProviderId::from(OVERFLOW));
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a duration")]
    let seconds = duration_ns as f64 / 1e9;
    let series = map.entry(series).or_default();
    series.histogram.add(seconds);
    let example = Example { at_unix_nanos: at, seconds, trace_id: scope.trace_id(), span_id };
    if series.slowest.is_none_or(|slowest| seconds > slowest.seconds) {
        series.slowest = Some(example);
    } else {
        series.latest = Some(example);
    }
}

fn point(key: &SeriesKey, series: &mut Series, ending: &str, start: u64, now: u64) -> ExponentialHistogramDataPoint {
    let mut attributes = labels(&key.profile, &key.chain, key.provider.as_ref(), key.transport);
    attributes.text(key::RPC_METHOD, key.method);
    attributes.text(key::RPC_SYSTEM_NAME, "jsonrpc");
    if let Some(strategy) = key.strategy {
        attributes.text(key::STRATEGY, strategy);
    }
    attributes.text(ending, key.ending);
    let histogram = &series.histogram;
    ExponentialHistogramDataPoint {
        attributes: attributes.0,
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: histogram.count,
        sum: Some(histogram.sum),
        scale: histogram.scale,
        zero_count: histogram.zero_count,
        positive: Some(Buckets { offset: histogram.offset, bucket_counts: histogram.counts.clone() }),
        negative: None,
        flags: 0,
        exemplars: series.slowest.take().into_iter().chain(series.latest.take()).map(Exemplar::from).collect(),
        min: Some(histogram.min),
        max: Some(histogram.max),
        zero_threshold: 0.0,
    }
}

/// The attributes that every metric of a channel has.
pub(super) fn labels(
    profile: &ProfileName,
    chain: &ChainName,
    provider: Option<&ProviderId>,
    transport: Option<Transport>,
) -> Attributes {
    let mut out = Attributes::default();
    out.text(key::PROFILE, profile.as_str());
    out.text(key::CHAIN, chain.as_str());
    if let Some(provider) = provider {
        out.text(key::PROVIDER_ID, provider.as_str());
    }
    if let Some(transport) = transport {
        out.text(key::TRANSPORT, transport.as_str());
    }
    out
}

fn named(name: &str, data: Data) -> Metric {
    let declared = metrics::ALL.iter().find(|metric| metric.name == name);
    Metric {
        name: name.to_owned(),
        description: declared.map_or("", |metric| metric.doc).to_owned(),
        unit: declared.map_or("1", |metric| metric.unit).to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    }
}

fn number(attributes: Vec<KeyValue>, start: u64, now: u64, value: i64) -> NumberDataPoint {
    let value = Some(number_data_point::Value::AsInt(value));
    NumberDataPoint { attributes, start_time_unix_nano: start, time_unix_nano: now, value, ..Default::default() }
}

/// A gauge of whole numbers.
pub(super) fn gauge(name: &str, values: Vec<(Attributes, i64)>, now: u64) -> Metric {
    let data_points = values.into_iter().map(|(attributes, value)| number(attributes.0, 0, now, value)).collect();
    named(name, Data::Gauge(Gauge { data_points }))
}

/// A cumulative counter.
pub(super) fn sum(name: &str, values: Vec<(Attributes, u64)>, start: u64, now: u64) -> Metric {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let data_points = values.into_iter().map(|(labels, n)| number(labels.0, start, now, count(n))).collect();
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    named(name, Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true }))
}

/// A cumulative counter by the label of that name.
pub(super) fn counter(name: &str, label: &str, values: &[(&str, u64)], start: u64, now: u64) -> Metric {
    let data_points = values
        .iter()
        .map(|(which, value)| {
            let mut attributes = Attributes::default();
            attributes.text(label, *which);
            number(attributes.0, start, now, i64::try_from(*value).unwrap_or(i64::MAX))
        })
        .collect();
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    named(name, Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true }))
}
