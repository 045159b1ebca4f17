//! Quantiles and fractions of native histograms: linear inside custom buckets and the zero bucket, on a logarithmic scale
//! inside exponential ones.

use super::Native;
use super::buckets::Bucket;

/// What a reader should know about a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Observations of NaN shift the result upwards.
    Skewed,
    /// The result lies among observations of NaN.
    AmongNan,
}

impl Native {
    /// The zero bucket of a histogram without values of one sign ends at zero.
    fn one_sided(&self, bucket: Bucket) -> Bucket {
        if self.negative.is_empty() && !self.positive.is_empty() {
            return Bucket { lower: 0.0, ..bucket };
        }
        if self.positive.is_empty() && !self.negative.is_empty() {
            return Bucket { upper: 0.0, ..bucket };
        }
        bucket
    }

    /// The value below which a share `q` of the observations lies.
    pub(crate) fn quantile(&self, q: f64) -> (f64, Option<Doubt>) {
        if q < 0.0 {
            return (f64::NEG_INFINITY, None);
        }
        if q > 1.0 {
            return (f64::INFINITY, None);
        }
        if self.count == 0.0 || q.is_nan() {
            return (f64::NAN, None);
        }
        let forward = self.sum.is_nan() || q < 0.5;
        let rank = if forward { q * self.count } else { (1.0 - q) * self.count };
        let filled = || self.buckets().filter(|bucket| bucket.count != 0.0);
        let found = if forward { reach(filled(), rank) } else { reach(filled().rev(), rank) };
        let Some((mut bucket, mut reached)) = found else {
            return (f64::NAN, None);
        };
        if self.is_custom() {
            if bucket.lower == f64::NEG_INFINITY {
                if bucket.upper <= 0.0 {
                    return (bucket.upper, None);
                }
                bucket.lower = 0.0;
            } else if bucket.upper == f64::INFINITY {
                return (bucket.lower, None);
            }
        } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
            bucket = self.one_sided(bucket);
        }
        reached = reached.min(self.count);
        if reached < rank {
            return if self.sum.is_nan() { (f64::NAN, Some(Doubt::AmongNan)) } else { (bucket.upper, None) };
        }
        let inside = if forward { rank - (reached - bucket.count) } else { reached - rank };
        let observed: f64 = self.buckets().map(|bucket| bucket.count).sum();
        let doubt = (self.sum.is_nan() && observed < self.count).then_some(Doubt::Skewed);
        (interpolate(&bucket, inside / bucket.count, self.is_custom()), doubt)
    }

    /// The share of observations between two values; true if observations of NaN are in no bucket.
    pub(crate) fn fraction(&self, lower: f64, upper: f64) -> (f64, bool) {
        if self.count == 0.0 || lower.is_nan() || upper.is_nan() {
            return (f64::NAN, false);
        }
        if lower >= upper {
            return (0.0, false);
        }
        let mut rank = 0.0;
        let (mut low, mut high) = (None, None);
        for mut bucket in self.buckets() {
            let zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
            if zero {
                bucket = self.one_sided(bucket);
            }
            let linear = self.is_custom() || zero;
            for (bound, at) in [(lower, &mut low), (upper, &mut high)] {
                if at.is_none() {
                    if bucket.lower >= bound {
                        *at = Some(rank);
                    } else if bucket.upper > bound {
                        let below = share_below(&bucket, bound, linear);
                        *at = Some(below.map_or(bucket.count, |share| rank + bucket.count * share));
                    }
                }
            }
            rank += bucket.count;
        }
        let mut total = self.count;
        let mut without_nan = false;
        if self.sum.is_nan() {
            without_nan = rank < self.count;
            total = rank;
        }
        let low = low.map_or(total, |at: f64| at.min(total));
        let high = high.map_or(total, |at: f64| at.min(total));
        ((high - low) / self.count, without_nan)
    }

    /// Variance of the observations, each taken to be in the middle of its bucket.
    pub(crate) fn variance(&self) -> f64 {
        let mean = self.sum / self.count;
        let (mut variance, mut compensation) = (0.0, 0.0);
        for bucket in self.buckets().filter(|bucket| bucket.count != 0.0) {
            let middle = if self.is_custom() {
                let lower = if bucket.lower == f64::NEG_INFINITY { bucket.upper.min(0.0) } else { bucket.lower };
                (lower + if bucket.upper.is_infinite() { lower } else { bucket.upper }) / 2.0
            } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
                0.0
            } else {
                (bucket.lower * bucket.upper).sqrt().copysign(bucket.upper)
            };
            let delta = middle - mean;
            (variance, compensation) =
                super::super::number::kahan(bucket.count * delta * delta, variance, compensation);
        }
        (variance + compensation) / self.count
    }
}

/// The bucket in which `rank` is reached, or the last one, with the count up to and including it.
fn reach(buckets: impl Iterator<Item = Bucket>, rank: f64) -> Option<(Bucket, f64)> {
    let mut count = 0.0;
    let mut last = None;
    for bucket in buckets {
        count += bucket.count;
        last = Some((bucket, count));
        if count >= rank {
            break;
        }
    }
    last
}

fn interpolate(bucket: &Bucket, share: f64, custom: bool) -> f64 {
    if custom || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return bucket.lower + (bucket.upper - bucket.lower) * share;
    }
    let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    if bucket.lower > 0.0 {
        return (lower + (upper - lower) * share).exp2();
    }
    -(upper + (lower - upper) * (1.0 - share)).exp2()
}

/// Share of a bucket below a value inside it; `None` for a bucket that has no lower end.
pub(super) fn share_below(bucket: &Bucket, value: f64, linear: bool) -> Option<f64> {
    if bucket.lower == f64::NEG_INFINITY {
        return None;
    }
    if linear {
        return Some((value - bucket.lower) / (bucket.upper - bucket.lower));
    }
    let (lower, upper, value) = (bucket.lower.abs().log2(), bucket.upper.abs().log2(), value.abs().log2());
    Some(if bucket.lower > 0.0 { (value - lower) / (upper - lower) } else { 1.0 - (value - upper) / (lower - upper) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_a_bucket_lies_in_its_logarithmic_middle() {
        let histogram =
            Native { count: 4.0, sum: 5.0, positive: vec![(0, 1.0), (1, 2.0), (2, 1.0)], ..Native::default() };
        assert!((histogram.quantile(0.5).0 - 2_f64.sqrt()).abs() < 1e-12);
        assert!((histogram.fraction(1.0, 2.0).0 - 0.5).abs() < 1e-12);
        assert!(Native::default().quantile(0.5).0.is_nan());
        assert_eq!(histogram.quantile(2.0).0, f64::INFINITY);
    }
}
