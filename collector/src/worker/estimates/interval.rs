//! Bounds of an estimate: arithmetic on sums, apart from what collects them.
//!
//! The textbook's `value ± 1.96 standard errors` is too narrow where few rows were kept, which at 1 % is the usual case, and
//! it goes below what was surely there. For what cannot be negative the variance grows with the total itself, so the bounds
//! are those totals from which the one found is 1.96 of *their* standard errors away (a score interval).

/// Standard errors to each side, for 95 %.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// Standard errors to each side, for 95 %, by degrees of freedom from 1: few units also leave the variance uncertain.
const STUDENT: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// As [`Z`], with the variance estimated from so many units; `None`: very many.
pub(super) fn student(units: Option<usize>) -> f64 {
    let Some(freedom) = units.map(|units| units.saturating_sub(1).max(1)) else { return Z };
    if let Some(quantile) = STUDENT.get(freedom - 1) {
        return *quantile;
    }
    #[allow(clippy::cast_precision_loss, reason = "at most some hundreds")]
    let freedom = freedom as f64;
    Z + (Z.powi(3) + Z) / (4.0 * freedom) + (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / (96.0 * freedom.powi(2))
}

/// Bounds of a total of what is never negative: `certain` was surely kept, `sampled` is estimated with this variance, and
/// `seen` is what the kept rows have without any weight.
pub(super) fn of_total(certain: f64, sampled: f64, variance: f64, seen: f64) -> (f64, f64) {
    if variance <= 0.0 || sampled <= 0.0 {
        return (certain + sampled, certain + sampled);
    }
    let shift = Z * Z * variance / sampled / 2.0;
    let reach = Z * (variance + (shift / Z).powi(2)).sqrt();
    ((certain + sampled + shift - reach).max(seen), certain + sampled + shift + reach)
}

/// Bounds around a value of any sign.
pub(super) fn around(value: f64, variance: f64, errors: f64) -> (f64, f64) {
    let reach = errors * variance.max(0.0).sqrt();
    (value - reach, value + reach)
}
