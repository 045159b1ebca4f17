//! Durations as people write them: a number and `ms`, `s`, `m`, `h` or `d`. A bare number is refused, since nobody can
//! tell whether it means seconds or milliseconds.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no duration: write a number and ms, s, m, h or d, such as 500ms or 30s")]
pub struct BadDuration {
    /// What was found.
    pub found: String,
}

/// Reads `500ms`, `1.5s`, `5m`, `1h`, `7d`.
///
/// # Errors
/// For anything else, a bare number included.
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    let bad = || BadDuration { found: text.to_owned() };
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = trimmed.split_at(unit_at);
    let seconds_per_unit = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| bad())
}

/// Reads a duration in a configuration; for `#[serde(deserialize_with)]`.
///
/// # Errors
/// If the value is no text, or none that [`parse`] takes.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read_and_a_bare_number_is_not() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["5", "", "s", "-1s", "1e400s", "5 parsecs", "..s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
