//! A log-linear histogram of nanoseconds: 128 steps per power of two, so that a quantile is off by at most 0.8 %, in
//! fixed memory whatever comes. Keeping every sample was rejected, since a long run would measure its own memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Binary digits of a value that are told apart.
const STEP_BITS: u32 = 7;
/// Steps per power of two.
const STEPS: usize = 1 << STEP_BITS;
/// Buckets for all values of 64 bits.
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS;

/// The histogram.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

/// Quantiles of a histogram, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Number of values.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Greatest value.
    pub max_us: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Adds one value.
    pub fn record(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns)] += 1;
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The value that a share `quantile` of all values does not exceed, nanoseconds; 0 where there are none.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let mut below = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if *count > 0 && below as f64 >= quantile * self.count as f64 {
                return middle_of(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The usual quantiles.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let us = |quantile| self.quantile_ns(quantile) as f64 / 1e3;
        Quantiles {
            count: self.count,
            mean_us: if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 / 1e3 },
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.max_ns as f64 / 1e3,
        }
    }
}

fn bucket_of(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(STEP_BITS + 1);
    // Below 2 * STEPS after the shift, and the shift is below 64: both fit.
    shift as usize * STEPS + usize::try_from(ns >> shift).unwrap_or(usize::MAX)
}

fn middle_of(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    let low = ((bucket - shift * STEPS) as u64) << shift;
    low + (1_u64 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_a_bucket_whose_middle_is_within_one_percent() {
        for bits in 0..64 {
            for value in [1_u64 << bits, (1 << bits) + (1 << bits) / 3, u64::MAX >> bits] {
                let middle = middle_of(bucket_of(value));
                assert!(middle.abs_diff(value) as f64 <= value as f64 * 0.01, "{value} is told as {middle}");
            }
        }
        assert!(bucket_of(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_of_a_uniform_spread_are_where_they_should_be() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        for us in 1..=500 {
            low.record(Duration::from_micros(us));
            high.record(Duration::from_micros(us + 500));
        }
        low.merge(&high);
        let quantiles = low.quantiles();
        assert!((495.0..505.0).contains(&quantiles.p50_us), "{quantiles:?}");
        assert!((980.0..1_000.0).contains(&quantiles.p99_us), "{quantiles:?}");
        assert!((quantiles.mean_us - 500.5).abs() < 0.01 && quantiles.max_us == 1_000.0, "{quantiles:?}");
    }
}
