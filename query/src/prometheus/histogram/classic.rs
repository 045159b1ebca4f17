//! Classic histograms: cumulative counts by upper bound, each a series of its own. Counts that fall with a rising bound
//! are possible (series are scraped and summed apart) and are forced upwards, with a note.

/// Relative difference of counts that is taken for rounding. Source: Prometheus, `smallDeltaTolerance`.
const SMALL_DELTA: f64 = 1e-12;

/// Upper bound and cumulative count.
pub(crate) type Bucket = (f64, f64);

/// What had to be forced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forced {
    /// Lowest bound that was changed.
    pub(crate) lowest: f64,
    /// Highest bound that was changed.
    pub(crate) highest: f64,
    /// Largest change.
    pub(crate) largest: f64,
}

/// The value below which a share `q` of the observations lies.
pub(crate) fn quantile(q: f64, mut buckets: Vec<Bucket>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    sort(&mut buckets);
    if buckets.last().is_none_or(|last| last.0 != f64::INFINITY) {
        return (f64::NAN, None);
    }
    let forced = force_monotonic(&mut buckets);
    let observations = buckets[buckets.len() - 1].1;
    if buckets.len() < 2 || observations == 0.0 || observations.is_nan() {
        return (f64::NAN, forced);
    }
    let rank = q * observations;
    let last = buckets.len() - 1;
    let at = buckets[..last].partition_point(|bucket| bucket.1 < rank);
    if at == last {
        return (buckets[last - 1].0, forced);
    }
    if at == 0 && buckets[0].0 <= 0.0 {
        return (buckets[0].0, forced);
    }
    let (lower, below) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (upper, count) = buckets[at];
    (lower + (upper - lower) * ((rank - below) / (count - below)), forced)
}

/// The share of observations between two values.
pub(crate) fn fraction(lower: f64, upper: f64, mut buckets: Vec<Bucket>) -> f64 {
    sort(&mut buckets);
    if buckets.last().is_none_or(|last| last.0 != f64::INFINITY) {
        return f64::NAN;
    }
    let count = buckets[buckets.len() - 1].1;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut rank = 0.0;
    let mut start = if buckets[0].0 <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    let (mut low, mut high) = (None, None);
    for (end, cumulative) in buckets {
        for (bound, at) in [(lower, &mut low), (upper, &mut high)] {
            if at.is_none() {
                if start >= bound {
                    *at = Some(rank);
                } else if end > bound {
                    let inside = rank + (cumulative - rank) * (bound - start) / (end - start);
                    *at = Some(if start == f64::NEG_INFINITY { cumulative } else { inside });
                }
            }
        }
        (rank, start) = (cumulative, end);
    }
    let ranked = |at: Option<f64>| at.map_or(count, |at| if at > count { count } else { at });
    (ranked(high) - ranked(low)) / count
}

/// Ascending, with one entry per bound.
fn sort(buckets: &mut Vec<Bucket>) {
    buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
    buckets.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 += later.1;
        }
        same
    });
}

fn force_monotonic(buckets: &mut [Bucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut previous = buckets[0].1;
    for bucket in &mut buckets[1..] {
        let current = bucket.1;
        if current == previous {
            continue;
        }
        if nearly_equal(previous, current, SMALL_DELTA) {
            bucket.1 = previous;
        } else if current < previous {
            bucket.1 = previous;
            let fall = previous - current;
            let so_far = forced.unwrap_or(Forced { lowest: f64::INFINITY, highest: f64::NEG_INFINITY, largest: 0.0 });
            forced = Some(Forced {
                lowest: so_far.lowest.min(bucket.0),
                highest: so_far.highest.max(bucket.0),
                largest: so_far.largest.max(fall),
            });
        } else {
            previous = current;
        }
    }
    forced
}

/// True if two floats differ by no more than a relative tolerance.
pub(crate) fn nearly_equal(left: f64, right: f64, tolerance: f64) -> bool {
    if left == right || (left.is_nan() && right.is_nan()) {
        return true;
    }
    let difference = (left - right).abs();
    let magnitude = left.abs() + right.abs();
    if left == 0.0 || right == 0.0 || magnitude < f64::MIN_POSITIVE {
        return difference < tolerance * f64::MIN_POSITIVE;
    }
    difference / magnitude.min(f64::MAX) < tolerance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_interpolated_inside_its_bucket() {
        let buckets = vec![(0.1, 50.0), (f64::INFINITY, 100.0), (0.2, 100.0)];
        assert_eq!(quantile(0.75, buckets.clone()).0, 0.15000000000000002);
        assert_eq!(quantile(0.25, buckets.clone()).0, 0.05);
        assert_eq!(fraction(0.0, 0.1, buckets), 0.5);
        assert!(quantile(0.5, vec![(1.0, 2.0)]).0.is_nan());
    }

    #[test]
    fn counts_that_fall_are_forced_upwards_with_a_note() {
        let (value, forced) = quantile(1.0, vec![(1.0, 10.0), (2.0, 8.0), (f64::INFINITY, 10.0)]);
        assert_eq!(value, 1.0);
        assert_eq!(forced, Some(Forced { lowest: 2.0, highest: 2.0, largest: 2.0 }));
    }
}
