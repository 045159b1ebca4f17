//! One group at one step to one sample. Means are sums divided at the end, and become incremental only where the sum
//! would overflow: that is the more exact way, as Prometheus found.

use std::sync::Arc;

use super::super::super::histogram::Native;
use super::super::super::notes::{Level, named};
use super::super::super::number::kahan;
use super::super::super::value::Sample;
use super::super::Evaluator;

impl Evaluator<'_> {
    pub(super) fn fold(&self, op: &str, members: &[(&Sample, &str)], q: f64, position: usize) -> Option<Sample> {
        match op {
            "count" => return Some(Sample::Float(members.len() as f64)),
            "group" => return Some(Sample::Float(1.0)),
            "sum" | "avg" => return self.total(op, members, position),
            _ => {}
        }
        let floats: Vec<f64> = members.iter().filter_map(|(sample, _)| sample.float()).collect();
        if floats.len() < members.len() {
            self.note(Level::Info, position, format!("ignored histogram in {op} aggregation"));
        }
        if floats.is_empty() {
            return None;
        }
        let extreme = |better: fn(f64, f64) -> bool| {
            floats.iter().copied().reduce(|best, next| if better(next, best) || best.is_nan() { next } else { best })
        };
        Some(Sample::Float(match op {
            "min" => extreme(|next, best| next < best)?,
            "max" => extreme(|next, best| next > best)?,
            "stdvar" => variance(&floats),
            "stddev" => variance(&floats).sqrt(),
            _ => quantile(q, floats),
        }))
    }

    fn total(&self, op: &str, members: &[(&Sample, &str)], position: usize) -> Option<Sample> {
        let histograms = members.iter().filter(|(sample, _)| sample.float().is_none()).count();
        if histograms > 0 && histograms < members.len() {
            let message = "encountered a mix of histograms and floats for aggregation";
            self.note(Level::Warning, position, message);
            return None;
        }
        if histograms == 0 {
            let floats = members.iter().filter_map(|(sample, _)| sample.float());
            return Some(Sample::Float(if op == "sum" { sum(floats) } else { mean(floats) }));
        }
        let mut total: Option<Native> = None;
        let (mut reset, mut not_reset) = (false, false);
        for (sample, metric) in members {
            let Sample::Histogram(histogram) = sample else { continue };
            reset |= histogram.hint == super::super::super::histogram::Hint::Reset;
            not_reset |= histogram.hint == super::super::super::histogram::Hint::NotReset;
            let Some(total) = &mut total else {
                total = Some(histogram.as_ref().clone());
                continue;
            };
            match total.add(histogram) {
                Err(_) => {
                    let message = "vector contains a mix of histograms with exponential and custom buckets schemas";
                    self.note(Level::Warning, position, named(message, metric));
                    return None;
                }
                Ok(change) if change.bounds_reconciled => {
                    let message = "mismatched custom buckets were reconciled during aggregation";
                    self.note(Level::Info, position, message);
                }
                Ok(_) => {}
            }
        }
        if reset && not_reset {
            let message = "conflicting counter resets during histogram aggregation";
            self.note(Level::Warning, position, message);
        }
        let total = total?;
        let result = if op == "sum" { total } else { total.divided(members.len() as f64) };
        Some(Sample::Histogram(Arc::new(result.compact())))
    }
}

/// Their sum.
pub(crate) fn sum(floats: impl Iterator<Item = f64>) -> f64 {
    let (sum, compensation) = floats.fold((0.0, 0.0), |(sum, lost), float| kahan(float, sum, lost));
    if sum.is_infinite() { sum } else { sum + compensation }
}

/// Their mean.
pub(crate) fn mean(floats: impl Iterator<Item = f64>) -> f64 {
    let (mut total, mut compensation, mut count) = (0.0, 0.0, 0.0);
    let mut incremental = false;
    for float in floats {
        count += 1.0;
        if count == 1.0 {
            total = float;
            continue;
        }
        if !incremental {
            let (next, lost) = kahan(float, total, compensation);
            if !next.is_infinite() {
                (total, compensation) = (next, lost);
                continue;
            }
            incremental = true;
            total /= count - 1.0;
            compensation /= count - 1.0;
        }
        let share = (count - 1.0) / count;
        (total, compensation) = kahan(float / count, share * total, share * compensation);
    }
    if incremental { total + compensation } else { total / count + compensation / count }
}

/// Their variance, of the whole population.
pub(crate) fn variance(floats: &[f64]) -> f64 {
    if floats.iter().any(|float| !float.is_finite()) {
        return f64::NAN;
    }
    let (mut mean, mut squares) = (0.0, 0.0);
    for (seen, float) in floats.iter().enumerate() {
        let delta = float - mean;
        mean += delta / (seen as f64 + 1.0);
        squares += delta * (float - mean);
    }
    squares / floats.len() as f64
}

/// The value below which a share `q` of them lies, between the nearest two.
pub(crate) fn quantile(q: f64, mut floats: Vec<f64>) -> f64 {
    if floats.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    // NaN counts as the smallest, as in Prometheus.
    floats.sort_by(|left, right| right.is_nan().cmp(&left.is_nan()).then(left.total_cmp(right)));
    let rank = q * (floats.len() - 1) as f64;
    let lower = super::super::super::number::to_usize(rank.floor());
    let upper = (lower + 1).min(floats.len() - 1);
    let weight = rank - rank.floor();
    floats[lower] * (1.0 - weight) + floats[upper] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_does_not_overflow_where_its_sum_would() {
        assert_eq!(mean([f64::MAX, f64::MAX].into_iter()), f64::MAX);
        assert_eq!(mean([1.0, 2.0, 6.0].into_iter()), 3.0);
    }

    #[test]
    fn a_sum_keeps_what_is_small_beside_what_is_large() {
        assert_eq!(sum([1e100, 1.0, -1e100].into_iter()), 1.0);
    }

    #[test]
    fn a_quantile_lies_between_the_nearest_two() {
        assert_eq!(quantile(0.5, vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(variance(&[2.0, 4.0]), 1.0);
    }
}
