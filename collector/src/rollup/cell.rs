//! One cell: what is counted, and for whom.

use std::collections::BTreeMap;

use lariat_schema::tables::SKETCH_SCALE;
use lariat_schema::vocabulary::RollupFamily;
use xxhash_rust::xxh3::xxh3_128;

/// Dimensions of a cell, in the order of the table's columns.
pub(crate) const DIMENSIONS: [&str; 12] = [
    "node_id",
    "region",
    "profile",
    "account_id",
    "chain",
    "method",
    "method_class",
    "provider_id",
    "transport",
    "strategy",
    "result",
    "error_category",
];
pub(crate) const NODE_ID: usize = 0;
pub(crate) const REGION: usize = 1;
pub(crate) const PROFILE: usize = 2;
pub(crate) const ACCOUNT_ID: usize = 3;
pub(crate) const CHAIN: usize = 4;
pub(crate) const METHOD: usize = 5;
pub(crate) const METHOD_CLASS: usize = 6;
pub(crate) const PROVIDER_ID: usize = 7;
pub(crate) const TRANSPORT: usize = 8;
pub(crate) const STRATEGY: usize = 9;
pub(crate) const RESULT: usize = 10;
pub(crate) const ERROR_CATEGORY: usize = 11;

/// What a cell is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CellKey {
    pub(crate) family: RollupFamily,
    pub(crate) slice_unix_nanos: i64,
    pub(crate) dimensions: [Option<String>; 12],
}

/// The same, of a row that is being counted.
#[derive(Debug, Clone)]
pub(crate) struct Key<'a> {
    pub(crate) family: RollupFamily,
    pub(crate) slice_unix_nanos: i64,
    pub(crate) dimensions: [Option<&'a str>; 12],
}

impl Key<'_> {
    /// A hash that is taken for the key: two keys share one of 128 bits less often than a disk errs.
    pub(crate) fn hash(&self, scratch: &mut Vec<u8>) -> u128 {
        scratch.clear();
        scratch.push(self.family as u8);
        scratch.extend_from_slice(&self.slice_unix_nanos.to_le_bytes());
        for dimension in self.dimensions {
            // Absent is another thing than empty.
            let length = dimension.map_or(usize::MAX, str::len);
            scratch.extend_from_slice(&length.to_le_bytes());
            scratch.extend_from_slice(dimension.unwrap_or_default().as_bytes());
        }
        xxh3_128(scratch)
    }
}

impl CellKey {
    pub(crate) fn of(key: &Key<'_>) -> Self {
        let dimensions = key.dimensions.map(|dimension| dimension.map(str::to_owned));
        Self { family: key.family, slice_unix_nanos: key.slice_unix_nanos, dimensions }
    }
}

/// What a cell counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Cell {
    pub(crate) calls: i64,
    pub(crate) attempts: i64,
    pub(crate) failovers: i64,
    pub(crate) duration_sum_ns: i64,
    pub(crate) provider_sum_ns: i64,
    pub(crate) overhead_sum_ns: i64,
    pub(crate) bytes_in: i64,
    pub(crate) bytes_out: i64,
    pub(crate) candidates: Candidates,
    pub(crate) billable_units: f64,
    pub(crate) sketch: Sketch,
}

/// What a cell counts of a channel as a candidate.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Candidates {
    pub(crate) eligible: i64,
    pub(crate) probability_sum: f64,
    /// Of first selections alone.
    pub(crate) first_probability_sum: f64,
    /// First attempts of decisions.
    pub(crate) first_attempts: i64,
    pub(crate) excluded: BTreeMap<String, i64>,
}

/// An exponential histogram of nanoseconds at the fixed scale [`SKETCH_SCALE`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sketch {
    pub(crate) zero_count: i64,
    pub(crate) buckets: BTreeMap<i32, i64>,
}

impl Sketch {
    /// Counts a duration.
    pub(crate) fn record(&mut self, nanos: i64) {
        match bucket(nanos) {
            Some(bucket) => *self.buckets.entry(bucket).or_insert(0) += 1,
            None => self.zero_count += 1,
        }
    }

    /// First bucket, and the counts from there on without holes.
    pub(crate) fn dense(&self) -> (i32, Vec<i64>) {
        let (Some((first, _)), Some((last, _))) = (self.buckets.first_key_value(), self.buckets.last_key_value())
        else {
            return (0, Vec::new());
        };
        (*first, (*first..=*last).map(|bucket| self.buckets.get(&bucket).copied().unwrap_or(0)).collect())
    }
}

/// The bucket `i` with base^i < nanos <= base^(i+1), base = 2^(2^-scale); none for what is not above zero.
#[allow(clippy::cast_possible_truncation, reason = "the logarithm of a positive i64 is below 63")]
fn bucket(nanos: i64) -> Option<i32> {
    (nanos > 0).then(|| ((nanos as f64).log2() * f64::from(1 << SKETCH_SCALE)).ceil() as i32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_upper_bound_and_not_its_lower() {
        // At scale 6 there are 64 buckets to a doubling: 2^k is the upper bound of bucket 64 k - 1.
        for power in 1..62_i32 {
            let value = 1_i64 << power;
            assert_eq!(bucket(value), Some(64 * power - 1));
            // One above it opens the next bucket as long as a double tells them apart.
            if power < 40 {
                assert_eq!(bucket(value + 1).map(|bucket| bucket >= 64 * power), Some(true));
            }
        }
        assert_eq!((bucket(1), bucket(0), bucket(-5)), (Some(-1), None, None));
    }

    #[test]
    fn the_middle_of_a_bucket_is_within_the_stated_error() {
        let base = 2_f64.powf(1.0 / 64.0);
        for nanos in [3_i64, 999, 1_234_567, 98_765_432_101] {
            let lower = base.powi(bucket(nanos).unwrap());
            let middle = 2.0 * lower * base / (1.0 + base);
            assert!((middle / nanos as f64 - 1.0).abs() <= 0.0055, "{nanos}");
        }
    }

    #[test]
    fn a_dense_sketch_has_a_place_for_each_bucket_between() {
        let mut sketch = Sketch::default();
        for nanos in [0, 2, 2, 4] {
            sketch.record(nanos);
        }
        let (offset, counts) = sketch.dense();
        assert_eq!((offset, counts.len(), sketch.zero_count), (63, 65, 1));
        assert_eq!((counts[0], counts[64], counts.iter().sum::<i64>()), (2, 1, 3));
    }
}
