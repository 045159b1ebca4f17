//! Points of metrics as rows, all five kinds.
//!
//! Instruments are named as OTLP names its kinds of data: `gauge`, `sum`, `histogram`, `exponential_histogram`,
//! `summary`. A series is what stays the same between two points that a query may subtract: the metric, who sends it,
//! its scope and its labels, but not the boot, since a restart resets a counter without making another one of it.
//!
//! The JSON reader drops what it does not know without a word: a metric of unknown kind comes as one without data, a
//! number spelt as text as a point without a value. Both are refused and counted here.

use std::sync::Arc;

use arrow::array::{BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder};
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::KeepReason;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
    HistogramDataPoint, Metric, NumberDataPoint, Sum, Summary, SummaryDataPoint,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use super::Sink;
use super::attributes::Entries;
use super::lists::Maps;
use super::rows::{Columns, Finished, Rows, optional_times, push_part, times};
use super::senders::Senders;
use super::spans::{append_id, moment};
use super::wire::{Split, object, split};

mod exemplars;
mod values;

use exemplars::Exemplars;
use values::{ValueColumns, Values};

/// Rows of `metrics` while they grow.
#[derive(Debug)]
pub(super) struct Metrics {
    rows: Rows,
    head: Head,
    labels: Maps,
    values: ValueColumns,
    exemplars: Exemplars,
    no_recorded_value: BooleanBuilder,
}

/// The columns that say when and which metric.
#[derive(Debug)]
struct Head {
    time: Vec<i64>,
    start_time: Vec<Option<i64>>,
    series_id: FixedSizeBinaryBuilder,
    name: StringBuilder,
    description: StringBuilder,
    unit: StringBuilder,
    instrument: StringBuilder,
    temporality: StringBuilder,
    monotonic: BooleanBuilder,
}

/// What all points of a metric share.
#[derive(Clone, Copy)]
struct Family<'a> {
    metric: &'a Metric,
    instrument: &'static str,
    temporality: Option<&'static str>,
    monotonic: Option<bool>,
}

/// One point of any kind.
struct Point<'a> {
    start_time_unix_nano: u64,
    time_unix_nano: u64,
    attributes: &'a [KeyValue],
    exemplars: &'a [Exemplar],
    flags: u32,
    values: Result<Values<'a>, String>,
    encoded: Vec<u8>,
}

/// Fields of a metric that hold its data: gauge, sum, histogram, exponential histogram, summary.
const DATA_FIELDS: [u32; 5] = [5, 7, 9, 10, 11];
/// Field of each of them that holds its points.
const POINTS_FIELD: u32 = 1;
/// Flag of a point that says that its series has ended.
const NO_RECORDED_VALUE: u32 = 1;

impl Metrics {
    pub(super) fn new(trusted: bool, now_unix_nanos: i64) -> Self {
        Self {
            rows: Rows::new(Table::Metrics, trusted, now_unix_nanos),
            head: Head::new(),
            labels: Maps::new(),
            values: ValueColumns::new(),
            exemplars: Exemplars::new(),
            no_recorded_value: BooleanBuilder::new(),
        }
    }

    pub(super) fn finish(mut self, senders: Option<&Senders>) -> Finished {
        let mut columns = Columns::default();
        self.head.finish(&mut columns);
        self.values.finish(&mut columns);
        columns.insert("labels", self.labels.finish());
        columns.insert("exemplars", self.exemplars.finish());
        columns.insert("no_recorded_value", Arc::new(self.no_recorded_value.finish()));
        self.rows.finish(columns, KeepReason::Always, 0, senders)
    }

    fn point(&mut self, family: Family<'_>, point: Point<'_>) {
        let metric = family.metric;
        let refuse = |reason: String| format!("metric {:?}: {reason}", metric.name);
        let no_recorded_value = point.flags & NO_RECORDED_VALUE != 0;
        let checked = moment(point.time_unix_nano, "time_unix_nano").and_then(|time| {
            let values = if no_recorded_value { Values::default() } else { point.values? };
            Ok((time, values.checked()?))
        });
        if metric.name.is_empty() {
            return self.rows.reject(|| "a metric has no name".to_owned());
        }
        let (time, values) = match checked {
            Ok(checked) => checked,
            Err(reason) => return self.rows.reject(|| refuse(reason)),
        };
        let names = metric.name.len() + metric.description.len() + metric.unit.len();
        if !self.rows.admit(point.encoded.len() + names) {
            return;
        }
        let labels = Entries::of(point.attributes);
        let series_id = self.series_id(family, &labels);
        self.head.append(family, time, point.start_time_unix_nano, series_id);
        self.labels.append(&labels);
        self.values.append(&values);
        self.exemplars.append(point.exemplars);
        self.no_recorded_value.append_value(no_recorded_value);
        let mut key = [0; 24];
        key[..16].copy_from_slice(&series_id);
        key[16..].copy_from_slice(&time.to_le_bytes());
        self.rows.append(xxh3_128(&key), self.rows.content(&point.encoded));
    }

    fn encoded_point(&mut self, family: Family<'_>, kind: u32, encoded: &[u8]) -> Result<(), String> {
        match kind {
            5 | 7 => self.decoded_point(family, encoded, of_number),
            9 => self.decoded_point(family, encoded, of_histogram),
            10 => self.decoded_point(family, encoded, of_exponential),
            _ => self.decoded_point(family, encoded, of_summary),
        }
    }

    fn decoded_point<P: Message + Default>(
        &mut self,
        family: Family<'_>,
        encoded: &[u8],
        of: impl for<'p> Fn(&'p P) -> Point<'p>,
    ) -> Result<(), String> {
        match object::<P>(encoded)? {
            Some(point) => self.point(family, of(&point)),
            None => self.rows.reject_outsized(),
        }
        Ok(())
    }

    fn series_id(&self, family: Family<'_>, labels: &Entries<'_>) -> [u8; 16] {
        let mut bytes = self.rows.series_identity();
        for part in [&family.metric.name, &family.metric.unit, family.instrument] {
            push_part(&mut bytes, part);
        }
        for (key, value) in labels.iter() {
            push_part(&mut bytes, key);
            push_part(&mut bytes, &value.text().unwrap_or_default());
        }
        xxh3_128(&bytes).to_be_bytes()
    }
}

impl Sink<'_> for Metrics {
    type Record = Metric;

    fn resource(&mut self, resource: &Resource) {
        self.rows.resource(resource);
    }

    fn scope(&mut self, scope: &InstrumentationScope) {
        self.rows.scope(scope);
    }

    fn refuse_outsized(&mut self) {
        self.rows.reject_outsized();
    }

    /// A metric may hold a hundred thousand points, so it is walked down to them instead of becoming one object.
    fn encoded(&mut self, encoded: &[u8]) -> Result<(), String> {
        let Split { rest, taken } = split(encoded, &DATA_FIELDS)?;
        let metric = Metric::decode(&rest[..]).map_err(|error| error.to_string())?;
        let Some((kind, _)) = taken.last() else {
            self.record(&metric, encoded);
            return Ok(());
        };
        if taken.iter().any(|(other, _)| other != kind) {
            // Two kinds in one metric, of which the last counts: no sender means it, and protobuf's reader decides.
            match object(encoded)? {
                Some(metric) => self.record(&metric, encoded),
                None => self.refuse_outsized(),
            }
            return Ok(());
        }
        for (kind, data) in &taken {
            let Split { rest, taken: points } = split(data, &[POINTS_FIELD])?;
            let family = encoded_family(&metric, *kind, &rest).map_err(|error| error.to_string())?;
            for (_, point) in points {
                self.encoded_point(family, *kind, point)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, metric: &Metric, _encoded: &[u8]) {
        let Some(data) = &metric.data else {
            return self.rows.reject(|| format!("metric {:?} has no data, or data of an unknown kind", metric.name));
        };
        let family = |instrument, temporality, monotonic| Family { metric, instrument, temporality, monotonic };
        match data {
            Data::Gauge(gauge) => {
                for point in &gauge.data_points {
                    self.point(family("gauge", None, None), of_number(point));
                }
            }
            Data::Sum(sum) => {
                let family = family("sum", temporality(sum.aggregation_temporality), Some(sum.is_monotonic));
                for point in &sum.data_points {
                    self.point(family, of_number(point));
                }
            }
            Data::Histogram(histogram) => {
                let family = family("histogram", temporality(histogram.aggregation_temporality), None);
                for point in &histogram.data_points {
                    self.point(family, of_histogram(point));
                }
            }
            Data::ExponentialHistogram(histogram) => {
                let family = family("exponential_histogram", temporality(histogram.aggregation_temporality), None);
                for point in &histogram.data_points {
                    self.point(family, of_exponential(point));
                }
            }
            Data::Summary(summary) => {
                for point in &summary.data_points {
                    self.point(family("summary", None, None), of_summary(point));
                }
            }
        }
    }
}

/// The family by the field that holds its data, and the data without its points.
fn encoded_family<'a>(metric: &'a Metric, kind: u32, data: &[u8]) -> Result<Family<'a>, prost::DecodeError> {
    let family = |instrument, temporality, monotonic| Family { metric, instrument, temporality, monotonic };
    Ok(match kind {
        5 => {
            Gauge::decode(data)?;
            family("gauge", None, None)
        }
        7 => {
            let sum = Sum::decode(data)?;
            family("sum", temporality(sum.aggregation_temporality), Some(sum.is_monotonic))
        }
        9 => family("histogram", temporality(Histogram::decode(data)?.aggregation_temporality), None),
        10 => {
            let histogram = ExponentialHistogram::decode(data)?;
            family("exponential_histogram", temporality(histogram.aggregation_temporality), None)
        }
        _ => {
            Summary::decode(data)?;
            family("summary", None, None)
        }
    })
}

fn temporality(temporality: i32) -> Option<&'static str> {
    match AggregationTemporality::try_from(temporality) {
        Ok(AggregationTemporality::Delta) => Some("delta"),
        Ok(AggregationTemporality::Cumulative) => Some("cumulative"),
        Ok(AggregationTemporality::Unspecified) | Err(_) => None,
    }
}

macro_rules! point {
    ($point:expr, $exemplars:expr, $values:expr) => {
        Point {
            start_time_unix_nano: $point.start_time_unix_nano,
            time_unix_nano: $point.time_unix_nano,
            attributes: &$point.attributes,
            exemplars: $exemplars,
            flags: $point.flags,
            values: $values,
            encoded: $point.encode_to_vec(),
        }
    };
}

fn of_number(point: &NumberDataPoint) -> Point<'_> {
    point!(point, &point.exemplars, Values::of_number(point))
}

fn of_histogram(point: &HistogramDataPoint) -> Point<'_> {
    point!(point, &point.exemplars, Values::of_histogram(point))
}

fn of_exponential(point: &ExponentialHistogramDataPoint) -> Point<'_> {
    point!(point, &point.exemplars, Values::of_exponential(point))
}

fn of_summary(point: &SummaryDataPoint) -> Point<'_> {
    point!(point, &[], Values::of_summary(point))
}

impl Head {
    fn new() -> Self {
        Self {
            time: Vec::new(),
            start_time: Vec::new(),
            series_id: FixedSizeBinaryBuilder::new(16),
            name: StringBuilder::new(),
            description: StringBuilder::new(),
            unit: StringBuilder::new(),
            instrument: StringBuilder::new(),
            temporality: StringBuilder::new(),
            monotonic: BooleanBuilder::new(),
        }
    }

    fn append(&mut self, family: Family<'_>, time: i64, start_time: u64, series_id: [u8; 16]) {
        let metric = family.metric;
        self.time.push(time);
        self.start_time.push(i64::try_from(start_time).ok().filter(|start| *start != 0));
        append_id(&mut self.series_id, Some(series_id));
        self.name.append_value(&metric.name);
        self.description.append_option((!metric.description.is_empty()).then_some(&metric.description));
        self.unit.append_option((!metric.unit.is_empty()).then_some(&metric.unit));
        self.instrument.append_value(family.instrument);
        self.temporality.append_option(family.temporality);
        self.monotonic.append_option(family.monotonic);
    }

    fn finish(mut self, columns: &mut Columns) {
        columns.insert("time", times(self.time));
        columns.insert("start_time", optional_times(self.start_time));
        columns.insert("series_id", Arc::new(self.series_id.finish()));
        columns.insert("name", Arc::new(self.name.finish()));
        columns.insert("description", Arc::new(self.description.finish()));
        columns.insert("unit", Arc::new(self.unit.finish()));
        columns.insert("instrument", Arc::new(self.instrument.finish()));
        columns.insert("temporality", Arc::new(self.temporality.finish()));
        columns.insert("monotonic", Arc::new(self.monotonic.finish()));
    }
}
