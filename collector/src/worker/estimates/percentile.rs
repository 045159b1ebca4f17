//! A percentile of weighted rows: sums by bucket of an exponential histogram, and how the units spread.
//!
//! Buckets have the width of those in the rollups, so that percentiles of rows and of rollups agree, and each keeps the
//! least, the greatest and the mean of what fell into it: few distinct values come out as they went in. The bounds are the
//! values at those shares that the share asked for may really be (Woodruff); where that is beyond what was kept, there is
//! no bound. What rows of one trace have in common widens them as it widens a count.

use std::collections::BTreeMap;

use lariat_schema::tables::SKETCH_SCALE;
use prost::Message;

use super::interval::student;
use super::units::Units;
use super::{BadState, Sums, Told};

/// Distance of a positive value's key from zero: below the buckets of the smallest doubles.
const OFFSET: i32 = 1 << 17;

/// What rounding may take from a share of a sum.
const ROUNDING: f64 = 1e-9;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    weight: f64,
    /// Sum of squared spreads.
    spread: f64,
    /// Sum of weights times values.
    value: f64,
    least: f64,
    greatest: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Percentile {
    share: f64,
    rows: u64,
    unknown_rows: u64,
    weight: f64,
    buckets: BTreeMap<i32, Bucket>,
    units: Units,
}

#[derive(Clone, PartialEq, Message)]
struct PercentileProto {
    #[prost(uint64, tag = "1")]
    rows: u64,
    #[prost(uint64, tag = "2")]
    unknown_rows: u64,
    #[prost(sint32, repeated, tag = "3")]
    keys: Vec<i32>,
    /// Five numbers for each key.
    #[prost(double, repeated, tag = "4")]
    buckets: Vec<f64>,
    #[prost(fixed64, repeated, tag = "5")]
    units: Vec<u64>,
    #[prost(double, repeated, tag = "6")]
    spreads: Vec<f64>,
}

/// The bucket of a value: by its size, the negative ones before zero.
#[allow(clippy::cast_possible_truncation, reason = "64 times an exponent of a double is below 2^17")]
fn key(value: f64) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let bucket = (value.abs().log2() * f64::from(1 << SKETCH_SCALE)).ceil() as i32 + OFFSET;
    if value < 0.0 { -bucket } else { bucket }
}

impl Percentile {
    pub(super) fn new(share: f64) -> Self {
        Self { share, rows: 0, unknown_rows: 0, weight: 0.0, buckets: BTreeMap::new(), units: Units::default() }
    }

    fn take(&mut self, key: i32, bucket: Bucket) {
        self.weight += bucket.weight;
        let sum = self.buckets.entry(key).or_insert(Bucket { weight: 0.0, spread: 0.0, value: 0.0, ..bucket });
        sum.weight += bucket.weight;
        sum.spread += bucket.spread;
        sum.value += bucket.value;
        sum.least = sum.least.min(bucket.least);
        sum.greatest = sum.greatest.max(bucket.greatest);
    }

    /// The bucket in which this share of the rows is reached.
    fn at(&self, share: f64) -> Option<(i32, &Bucket)> {
        let wanted = share * self.weight - ROUNDING * self.weight;
        let mut sum = 0.0;
        let reached = self.buckets.iter().find(|(_, bucket)| {
            sum += bucket.weight;
            sum >= wanted
        });
        reached.or_else(|| self.buckets.last_key_value()).map(|(key, bucket)| (*key, bucket))
    }

    /// How far off the share of rows up to a bucket may be, to each side.
    fn reach(&self, key: i32) -> f64 {
        let spread: f64 = self.buckets.values().map(|bucket| bucket.spread).sum();
        if spread <= 0.0 {
            return 0.0;
        }
        // Rows of a unit come together: as much more variance as their count has.
        let together = (self.units.variance(|[one, _]| one) / spread).max(1.0);
        let variance: f64 = self
            .buckets
            .iter()
            .map(|(of, bucket)| bucket.spread * (f64::from(u8::from(*of <= key)) - self.share).powi(2))
            .sum();
        student(self.units.count()) * (together * variance).sqrt() / self.weight
    }
}

impl Sums for Percentile {
    fn add(&mut self, value: f64, weight: f64, unit: u64) {
        if !value.is_finite() {
            return;
        }
        self.rows += 1;
        let spread = weight * (weight - 1.0);
        self.take(key(value), Bucket { weight, spread, value: weight * value, least: value, greatest: value });
        self.units.add(unit, weight, 0.0);
    }

    fn add_unknown(&mut self) {
        self.unknown_rows += 1;
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<(), BadState> {
        let other = PercentileProto::decode(bytes)?;
        self.rows = self.rows.saturating_add(other.rows);
        self.unknown_rows = self.unknown_rows.saturating_add(other.unknown_rows);
        for (key, [weight, spread, value, least, greatest]) in other.keys.iter().zip(other.buckets.as_chunks::<5>().0) {
            self.take(
                *key,
                Bucket { weight: *weight, spread: *spread, value: *value, least: *least, greatest: *greatest },
            );
        }
        self.units.merge(&Units::of_parts(&other.units, &other.spreads).ok_or(BadState::Units)?);
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let (units, spreads) = self.units.parts();
        let numbers = |bucket: &Bucket| [bucket.weight, bucket.spread, bucket.value, bucket.least, bucket.greatest];
        let proto = PercentileProto {
            rows: self.rows,
            unknown_rows: self.unknown_rows,
            keys: self.buckets.keys().copied().collect(),
            buckets: self.buckets.values().flat_map(numbers).collect(),
            units,
            spreads,
        };
        proto.encode_to_vec()
    }

    fn told(&self) -> Told {
        let rows = Told { rows: self.rows, unknown_rows: self.unknown_rows, ..Told::default() };
        let Some((key, found)) = self.at(self.share) else { return rows };
        let reach = self.reach(key);
        let sampled = self.buckets.values().any(|bucket| bucket.spread > 0.0);
        // Beyond the least and the greatest that were kept there may be others; where all were kept there are none.
        let (low, high) = (self.share - reach, self.share + reach);
        let lower = (!sampled || low > 0.0).then(|| self.at(low)).flatten();
        let upper = (!sampled || high < 1.0).then(|| self.at(high)).flatten();
        Told {
            value: Some(found.value / found.weight),
            lower: lower.map(|(_, bucket)| bucket.least),
            upper: upper.map(|(_, bucket)| bucket.greatest),
            ..rows
        }
    }

    fn size_bytes(&self) -> usize {
        self.buckets.len() * size_of::<(i32, Bucket)>() + self.units.size_bytes()
    }
}
