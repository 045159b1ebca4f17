//! `</` and `>/`: a histogram without the observations above a value, or below it. The bucket that the value cuts keeps
//! its share; a bucket without an end is kept or dropped whole, because nothing is known about its inside.

use super::Native;
use super::buckets::Bucket;
use super::quantile::share_below;

/// What is kept of a bucket: observations, and the value they are taken to have.
type Kept = (f64, f64);

impl Native {
    /// Without the observations above `value` if `upper`, else without those below it.
    pub(crate) fn trimmed(&self, value: f64, upper: bool) -> Self {
        let mut result = self.clone();
        let filled = |buckets: &[(i32, f64)]| buckets.iter().any(|(_, count)| *count != 0.0);
        let (has_positive, has_negative) = (filled(&self.positive), filled(&self.negative));
        let (mut count, mut sum, mut changed) = (0.0, 0.0, false);
        let mut keep = |entry: &mut f64, (kept, middle): Kept| {
            changed |= *entry != kept;
            *entry = kept;
            count += kept;
            sum += middle * kept;
        };
        for (index, entry) in result.positive.iter_mut().filter(|(_, entry)| *entry != 0.0) {
            let bucket = self.positive_bucket((*index, *entry));
            keep(entry, kept(&bucket, value, upper, true, self.is_custom()));
        }
        for (index, entry) in result.negative.iter_mut().filter(|(_, entry)| *entry != 0.0) {
            let bucket = self.negative_bucket((*index, *entry));
            keep(entry, kept(&bucket, value, upper, false, self.is_custom()));
        }
        if self.zero_count > 0.0 {
            let ends = (
                if has_positive && !has_negative { 0.0 } else { -self.zero_threshold },
                if has_negative && !has_positive { 0.0 } else { self.zero_threshold },
            );
            keep(&mut result.zero_count, kept_of_zero(self.zero_count, ends, value, upper));
        }
        if !changed {
            return self.clone();
        }
        (result.count, result.sum) = (count, sum);
        result.compact()
    }
}

fn kept(bucket: &Bucket, value: f64, upper: bool, positive: bool, linear: bool) -> Kept {
    let whole = if upper { bucket.upper <= value } else { bucket.lower >= value };
    let nothing = if upper { bucket.lower >= value } else { bucket.upper <= value };
    if whole {
        return (bucket.count, middle(bucket.lower, bucket.upper, positive, linear));
    }
    if nothing {
        return (0.0, 0.0);
    }
    if bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
        return kept_of_endless(bucket, value, upper);
    }
    let below = bucket.count * share_below(bucket, value, linear).unwrap_or(0.0);
    if upper {
        return (below, middle(bucket.lower, value, positive, linear));
    }
    (bucket.count - below, middle(value, bucket.upper, positive, linear))
}

fn kept_of_endless(bucket: &Bucket, value: f64, upper: bool) -> Kept {
    let starts_at_zero = bucket.lower == f64::NEG_INFINITY && bucket.upper > 0.0 && bucket.upper.is_finite();
    if bucket.lower == f64::NEG_INFINITY {
        return match upper {
            true if value > 0.0 && starts_at_zero => (bucket.count * value / bucket.upper, value / 2.0),
            true if bucket.upper <= 0.0 => (bucket.count, value),
            false if value >= 0.0 && starts_at_zero => {
                (bucket.count * (1.0 - value / bucket.upper), (value + bucket.upper) / 2.0)
            }
            _ => (0.0, 0.0),
        };
    }
    if !upper && value >= bucket.lower { (bucket.count, value) } else { (0.0, 0.0) }
}

fn kept_of_zero(count: f64, (lower, upper): (f64, f64), value: f64, trims_upper: bool) -> Kept {
    if (trims_upper && value <= lower) || (!trims_upper && value >= upper) {
        return (0.0, 0.0);
    }
    if (trims_upper && value >= upper) || (!trims_upper && value <= lower) {
        return (count, f64::midpoint(lower, upper));
    }
    if trims_upper {
        return (count * (value - lower) / (upper - lower), f64::midpoint(lower, value));
    }
    (count * (upper - value) / (upper - lower), f64::midpoint(value, upper))
}

/// The value that observations between two others are taken to have.
fn middle(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        _ if linear => f64::midpoint(lower, upper),
        _ => {
            let mean = (lower * upper).abs().sqrt();
            if positive { mean } else { -mean }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_a_bound_goes_and_what_is_cut_keeps_its_share() {
        let histogram =
            Native { count: 4.0, sum: 5.0, positive: vec![(0, 1.0), (1, 2.0), (2, 1.0)], ..Native::default() };
        let trimmed = histogram.trimmed(2.0_f64.sqrt(), true);
        assert!((trimmed.count - 2.0).abs() < 1e-12, "{trimmed}");
        assert_eq!(histogram.trimmed(9.0, true), histogram);
        assert_eq!(histogram.trimmed(1.0, false).positive, vec![(1, 2.0), (2, 1.0)]);
    }
}
