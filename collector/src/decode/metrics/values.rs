//! What a point measured: one row shape for the five kinds, empty where a kind has nothing to say.
//!
//! Infinities and NaN are kept as they are: a gauge may be either, and what they mean is the query's business.

use std::sync::Arc;

use arrow::array::{Float64Builder, Int32Builder, Int64Builder, ListBuilder};
use arrow::datatypes::{DataType, Field};
use lariat_schema::tables::quantile_fields;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, SummaryDataPoint,
};

use super::super::lists::Lists;
use super::super::rows::Columns;

/// The values of one point, as its sender gave them.
#[derive(Debug, Default)]
pub(super) struct Values<'a> {
    value: Option<f64>,
    count: Option<u64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    exponential: Option<&'a ExponentialHistogramDataPoint>,
    explicit: Option<&'a HistogramDataPoint>,
    quantiles: Option<&'a [ValueAtQuantile]>,
}

impl<'a> Values<'a> {
    #[allow(clippy::cast_precision_loss, reason = "the column is a float: whole numbers are exact up to 2^53")]
    pub(super) fn of_number(point: &NumberDataPoint) -> Result<Self, String> {
        let value = match point.value {
            Some(Value::AsDouble(value)) => value,
            Some(Value::AsInt(value)) => value as f64,
            None => return Err("a point has no value, or one that is no number".to_owned()),
        };
        Ok(Self { value: Some(value), ..Self::default() })
    }

    pub(super) fn of_histogram(point: &'a HistogramDataPoint) -> Result<Self, String> {
        let (bounds, counts) = (point.explicit_bounds.len(), point.bucket_counts.len());
        if counts != bounds + 1 && (counts, bounds) != (0, 0) {
            return Err(format!("a histogram has {counts} buckets between {bounds} bounds"));
        }
        if !point.explicit_bounds.is_sorted_by(|a, b| a < b) {
            return Err("a histogram's bounds do not ascend".to_owned());
        }
        Ok(Self {
            count: Some(point.count),
            sum: point.sum,
            min: point.min,
            max: point.max,
            explicit: Some(point),
            ..Self::default()
        })
    }

    #[allow(clippy::unnecessary_wraps, reason = "one shape for all kinds")]
    pub(super) fn of_exponential(point: &'a ExponentialHistogramDataPoint) -> Result<Self, String> {
        Ok(Self {
            count: Some(point.count),
            sum: point.sum,
            min: point.min,
            max: point.max,
            exponential: Some(point),
            ..Self::default()
        })
    }

    #[allow(clippy::unnecessary_wraps, reason = "one shape for all kinds")]
    pub(super) fn of_summary(point: &'a SummaryDataPoint) -> Result<Self, String> {
        Ok(Self {
            count: Some(point.count),
            sum: Some(point.sum),
            quantiles: Some(&point.quantile_values),
            ..Self::default()
        })
    }

    /// The same, if every count fits the signed columns.
    pub(super) fn checked(self) -> Result<Self, String> {
        let exponential = self.exponential.into_iter().flat_map(|point| {
            let buckets = [&point.positive, &point.negative].into_iter().flatten();
            buckets.flat_map(|buckets| &buckets.bucket_counts).chain([&point.zero_count])
        });
        let explicit = self.explicit.into_iter().flat_map(|point| &point.bucket_counts);
        let beyond = |count: &&u64| i64::try_from(**count).is_err();
        let found = self.count.iter().chain(exponential).chain(explicit).find(beyond).copied();
        found.map_or(Ok(self), |count| Err(format!("the count {count} is beyond 2^63")))
    }
}

/// The columns of the values while they grow.
#[derive(Debug)]
pub(super) struct ValueColumns {
    value: Float64Builder,
    count: Int64Builder,
    sum: Float64Builder,
    min: Float64Builder,
    max: Float64Builder,
    exponential: ExponentialColumns,
    bounds: ListBuilder<Float64Builder>,
    bucket_counts: ListBuilder<Int64Builder>,
    quantiles: Lists,
    quantile: Float64Builder,
    quantile_value: Float64Builder,
    quantile_count: usize,
}

#[derive(Debug)]
struct ExponentialColumns {
    scale: Int32Builder,
    zero_count: Int64Builder,
    zero_threshold: Float64Builder,
    positive: BucketColumns,
    negative: BucketColumns,
}

#[derive(Debug)]
struct BucketColumns {
    offset: Int32Builder,
    counts: ListBuilder<Int64Builder>,
}

impl ValueColumns {
    pub(super) fn new() -> Self {
        Self {
            value: Float64Builder::new(),
            count: Int64Builder::new(),
            sum: Float64Builder::new(),
            min: Float64Builder::new(),
            max: Float64Builder::new(),
            exponential: ExponentialColumns {
                scale: Int32Builder::new(),
                zero_count: Int64Builder::new(),
                zero_threshold: Float64Builder::new(),
                positive: BucketColumns::new(),
                negative: BucketColumns::new(),
            },
            bounds: ListBuilder::new(Float64Builder::new()).with_field(Field::new("item", DataType::Float64, false)),
            bucket_counts: counts_builder(),
            quantiles: Lists::new(),
            quantile: Float64Builder::new(),
            quantile_value: Float64Builder::new(),
            quantile_count: 0,
        }
    }

    /// Appends the values of one point.
    pub(super) fn append(&mut self, values: &Values<'_>) {
        self.value.append_option(values.value);
        self.count.append_option(values.count.map(signed));
        self.sum.append_option(values.sum);
        self.min.append_option(values.min);
        self.max.append_option(values.max);
        self.exponential.append(values.exponential);
        if let Some(point) = values.explicit {
            self.bounds.values().append_slice(&point.explicit_bounds);
        }
        self.bounds.append(values.explicit.is_some());
        append_counts(&mut self.bucket_counts, values.explicit.map(|point| point.bucket_counts.as_slice()));
        for pair in values.quantiles.unwrap_or_default() {
            self.quantile.append_value(pair.quantile);
            self.quantile_value.append_value(pair.value);
            self.quantile_count += 1;
        }
        self.quantiles.end_row(self.quantile_count, values.quantiles.is_some());
    }

    /// Puts the columns in.
    pub(super) fn finish(mut self, columns: &mut Columns) {
        columns.insert("value", Arc::new(self.value.finish()));
        columns.insert("count", Arc::new(self.count.finish()));
        columns.insert("sum", Arc::new(self.sum.finish()));
        columns.insert("min", Arc::new(self.min.finish()));
        columns.insert("max", Arc::new(self.max.finish()));
        let mut exponential = self.exponential;
        columns.insert("scale", Arc::new(exponential.scale.finish()));
        columns.insert("zero_count", Arc::new(exponential.zero_count.finish()));
        columns.insert("zero_threshold", Arc::new(exponential.zero_threshold.finish()));
        columns.insert("positive_offset", Arc::new(exponential.positive.offset.finish()));
        columns.insert("positive_counts", Arc::new(exponential.positive.counts.finish()));
        columns.insert("negative_offset", Arc::new(exponential.negative.offset.finish()));
        columns.insert("negative_counts", Arc::new(exponential.negative.counts.finish()));
        columns.insert("bounds", Arc::new(self.bounds.finish()));
        columns.insert("bucket_counts", Arc::new(self.bucket_counts.finish()));
        let pairs: Vec<arrow::array::ArrayRef> =
            vec![Arc::new(self.quantile.finish()), Arc::new(self.quantile_value.finish())];
        columns.insert("quantiles", self.quantiles.finish(quantile_fields(), pairs));
    }
}

impl ExponentialColumns {
    fn append(&mut self, point: Option<&ExponentialHistogramDataPoint>) {
        self.scale.append_option(point.map(|point| point.scale));
        self.zero_count.append_option(point.map(|point| signed(point.zero_count)));
        self.zero_threshold.append_option(point.map(|point| point.zero_threshold));
        self.positive.append(point.and_then(|point| point.positive.as_ref()));
        self.negative.append(point.and_then(|point| point.negative.as_ref()));
    }
}

impl BucketColumns {
    fn new() -> Self {
        Self { offset: Int32Builder::new(), counts: counts_builder() }
    }

    fn append(&mut self, buckets: Option<&Buckets>) {
        self.offset.append_option(buckets.map(|buckets| buckets.offset));
        append_counts(&mut self.counts, buckets.map(|buckets| buckets.bucket_counts.as_slice()));
    }
}

fn counts_builder() -> ListBuilder<Int64Builder> {
    ListBuilder::new(Int64Builder::new()).with_field(Field::new("item", DataType::Int64, false))
}

fn append_counts(builder: &mut ListBuilder<Int64Builder>, counts: Option<&[u64]>) {
    for count in counts.unwrap_or_default() {
        builder.values().append_value(signed(*count));
    }
    builder.append(counts.is_some());
}

/// A count that was checked.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
