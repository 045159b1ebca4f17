//! Parameters from outside to typed ones: times, durations, selectors and bounds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::number::milliseconds;
use super::super::syntax::lexer::{duration_seconds, parse_float};
use super::answer::ApiError;

/// How long a query may take where nobody says. Source: Prometheus' `query.timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// Parameters of a request, from its address and its form.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads both places; the form comes first, as in Go.
    pub(super) fn read(headers: &HeaderMap, query: Option<&str>, body: &[u8]) -> Result<Self, ApiError> {
        let mut pairs = Vec::new();
        let form = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if form {
            pairs.extend(url::form_urlencoded::parse(body).into_owned());
        }
        pairs.extend(url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned());
        Ok(Self(pairs))
    }

    /// First value of a parameter that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| ApiError::BadData(format!("invalid parameter {name:?}: it is missing")))
    }

    /// A moment in Unix milliseconds.
    pub(super) fn moment(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad =
            || ApiError::BadData(format!("invalid parameter {name:?}: cannot parse {text:?} to a valid timestamp"));
        moment(text).ok_or_else(bad).map(Some)
    }

    /// A duration in milliseconds.
    pub(super) fn duration(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad =
            || ApiError::BadData(format!("invalid parameter {name:?}: cannot parse {text:?} to a valid duration"));
        let seconds = parse_float(text).or_else(|| duration_seconds(text)).filter(|seconds| seconds.is_finite());
        seconds.map(milliseconds).ok_or_else(bad).map(Some)
    }

    /// How long to wait for nodes, if the client says so: the shorter of `deadline` and `timeout`.
    pub(super) fn deadline(&self) -> Result<Option<Duration>, ApiError> {
        let positive = |milliseconds: i64| u64::try_from(milliseconds).ok().map(Duration::from_millis);
        let deadline = self.duration("deadline")?.and_then(positive);
        let timeout = self.duration("timeout")?.and_then(positive);
        Ok(deadline.into_iter().chain(timeout).min())
    }

    /// How long evaluation may take.
    pub(super) fn timeout(&self) -> Result<Duration, ApiError> {
        Ok(self.deadline()?.map_or(DEFAULT_TIMEOUT, |deadline| deadline.min(DEFAULT_TIMEOUT)))
    }

    /// Below this ratio the answer is an error.
    pub(super) fn min_coverage(&self) -> Result<Option<f64>, ApiError> {
        let Some(text) = self.get("min_coverage") else { return Ok(None) };
        let ratio = parse_float(text).filter(|ratio| (0.0..=1.0).contains(ratio));
        let bad = || ApiError::BadData(format!("invalid parameter \"min_coverage\": {text:?} is no ratio from 0 to 1"));
        ratio.ok_or_else(bad).map(Some)
    }

    /// Most results; 0 is no limit.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.get("limit") else { return Ok(0) };
        text.parse().map_err(|_| ApiError::BadData(format!("invalid parameter \"limit\": {text:?} is no count")))
    }
}

fn moment(text: &str) -> Option<i64> {
    if let Some(seconds) = parse_float(text) {
        return (seconds.is_finite() && seconds.abs() < 9e15).then(|| milliseconds(seconds));
    }
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// The present in Unix milliseconds.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A label's name as it stands in an address: `U__` begins an escaped one, `_2e_` is a dot and `__` an underscore.
pub(super) fn unescaped(name: &str) -> String {
    let Some(mut rest) = name.strip_prefix("U__") else { return name.to_owned() };
    let mut plain = String::new();
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != '_' {
            plain.push(character);
            continue;
        }
        let Some(end) = rest.find('_') else { return name.to_owned() };
        if end == 0 {
            plain.push('_');
        } else {
            let code = u32::from_str_radix(&rest[..end], 16).ok().and_then(char::from_u32);
            let Some(code) = code else { return name.to_owned() };
            plain.push(code);
        }
        rest = &rest[end + 1..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(query: &str) -> Parameters {
        Parameters::read(&HeaderMap::new(), Some(query), &[]).unwrap_or_default()
    }

    #[test]
    fn moments_are_seconds_or_rfc_3339() {
        let read = |query: &str| parameters(query).moment("t").ok().flatten();
        assert_eq!(read("t=4"), Some(4_000));
        assert_eq!(read("t=1.5"), Some(1_500));
        assert_eq!(read("t=1970-01-01T00:00:02Z"), Some(2_000));
        assert!(parameters("t=NaN").moment("t").is_err());
        assert!(parameters("t=soon").moment("t").is_err());
    }

    #[test]
    fn escaped_label_names_are_read() {
        assert_eq!(unescaped("U__rpc_2e_method__x"), "rpc.method_x");
        assert_eq!(unescaped("method"), "method");
        assert_eq!(unescaped("U__broken_zz_"), "U__broken_zz_");
    }

    #[test]
    fn the_shorter_of_two_deadlines_holds() {
        let parameters = parameters("deadline=500ms&timeout=2");
        assert_eq!(parameters.deadline().ok().flatten(), Some(Duration::from_millis(500)));
    }
}
