//! Conversions that PromQL asks for and that lose nothing silently: a float out of range saturates, as in Go on the
//! machines that Prometheus runs on.

/// Nearest integer towards zero; out of range the closest one, 0 for NaN.
#[allow(clippy::cast_possible_truncation, reason = "a float saturates")]
pub(crate) const fn to_i64(value: f64) -> i64 {
    value as i64
}

/// Nearest count towards zero; 0 for negative values and NaN.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
pub(crate) const fn to_usize(value: f64) -> usize {
    value as usize
}

/// Milliseconds of a number of seconds, rounded.
pub(crate) fn milliseconds(seconds: f64) -> i64 {
    to_i64((seconds * 1_000.0).round())
}

/// Kahan's summation as Neumaier improved it: returns the new sum and its compensation.
pub(crate) fn kahan(increment: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + increment;
    let lost = if total.is_infinite() {
        return (total, 0.0);
    } else if sum.abs() >= increment.abs() {
        (sum - total) + increment
    } else {
        (increment - total) + sum
    };
    (total, compensation + lost)
}
