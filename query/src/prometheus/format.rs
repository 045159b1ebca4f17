//! Floats as Prometheus writes them. JSON has no infinities and Grafana compares texts, so values travel as text in
//! exactly this form.

/// Shortest text that reads back as the same float; never an exponent.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format!("{value}")
}

/// The same as a value in an answer: very large and very small magnitudes have an exponent.
pub(crate) fn json_float(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() || magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
        return float(value);
    }
    let text = format!("{value:e}");
    if magnitude >= 1e21 { text.replace('e', "e+") } else { text }
}

/// A moment in seconds with up to three decimals, as a JSON number.
pub(crate) fn seconds(milliseconds: i64) -> serde_json::Number {
    if milliseconds % 1_000 == 0 {
        return (milliseconds / 1_000).into();
    }
    serde_json::Number::from_f64(milliseconds as f64 / 1_000.0).unwrap_or_else(|| 0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_prometheus_does() {
        let written = [0.1, 1e21, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-7, 100.0].map(float);
        let wanted = ["0.1", "1000000000000000000000", "-0", "+Inf", "-Inf", "NaN", "0.0000005", "100"];
        assert_eq!(written, wanted.map(str::to_owned));
    }

    #[test]
    fn values_in_answers_have_an_exponent_where_go_writes_one() {
        let written = [1e21, 1.5e-7, 1e20, -2e-9, 0.0].map(json_float);
        assert_eq!(written, ["1e+21", "1.5e-7", "100000000000000000000", "-2e-9", "0"].map(str::to_owned));
    }

    #[test]
    fn moments_have_no_more_decimals_than_they_need() {
        assert_eq!([4_000, 1_500, 0].map(|at| seconds(at).to_string()), ["4", "1.5", "0"].map(str::to_owned));
    }
}
