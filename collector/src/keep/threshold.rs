//! Consistent probability sampling, as OpenTelemetry's tracestate handling specifies it: a record is kept if the 56
//! random bits of its trace are not below a threshold, so that every sampler of a trace agrees and thresholds nest.
//!
//! The random bits are the trace id's last 56, or the sender's explicit `rv` where the sender is trusted.
//! Source: OpenTelemetry specification, "TraceState: Probability Sampling".

/// Number of values of the random bits.
const RANGE: u64 = 1 << 56;
/// Hexadecimal digits of a whole threshold.
const DIGITS: usize = 14;

/// A rejection threshold: of the 2^56 random values those below it are dropped. At most 2^56, which keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Threshold(u64);

impl Threshold {
    /// Keeps everything.
    pub(crate) const ALL: Self = Self(0);

    /// The threshold that keeps the share `probability`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 to 2^56 before")]
    pub(crate) fn of(probability: f64) -> Self {
        let rejected = (1.0 - probability.clamp(0.0, 1.0)) * RANGE as f64;
        Self((rejected.round() as u64).min(RANGE))
    }

    /// True if a trace with these random bits is kept.
    pub(crate) fn keeps(self, random: u64) -> bool {
        random >= self.0
    }

    /// How many records a kept one stands for.
    pub(crate) fn adjusted_count(self) -> f64 {
        let kept = RANGE - self.0;
        if kept == 0 { 0.0 } else { RANGE as f64 / kept as f64 }
    }

    /// The threshold as a number.
    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The threshold that is this number, if there is one.
    pub(crate) fn from_value(value: u64) -> Option<Self> {
        (value <= RANGE).then_some(Self(value))
    }

    /// As `th` is written: trailing zeros are left out.
    pub(crate) fn text(self) -> String {
        let digits = format!("{:014x}", self.0.min(RANGE - 1));
        let short = digits.trim_end_matches('0');
        if short.is_empty() { "0".to_owned() } else { short.to_owned() }
    }

    fn parse(text: &str) -> Option<Self> {
        hexadecimal(text, 1..=DIGITS).map(|value| Self(value << (4 * (DIGITS - text.len()))))
    }
}

fn hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let valid = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// The last 56 bits of a trace id.
pub(crate) fn random_bits(trace_id: &[u8]) -> u64 {
    match trace_id.last_chunk() {
        Some(last) => u64::from_be_bytes(*last) % RANGE,
        None => trace_id.iter().fold(0, |bits, byte| (bits << 8) | u64::from(*byte)),
    }
}

/// What a sender says in the `ot` member of its tracestate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Incoming {
    pub(crate) threshold: Option<Threshold>,
    pub(crate) random: Option<u64>,
    /// There is a threshold, and it cannot be read.
    pub(crate) is_unreadable: bool,
}

/// By which threshold a trusted sender kept a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// By this one; a sender that names none kept everything.
    Known(Threshold),
    /// What it says cannot be, so what its record stands for is not known.
    Unknown,
}

impl Incoming {
    pub(crate) fn parse(trace_state: &str) -> Self {
        let mut incoming = Self::default();
        for (key, value) in ot_fields(trace_state) {
            match key {
                "th" => {
                    incoming.threshold = Threshold::parse(value);
                    incoming.is_unreadable = incoming.threshold.is_none();
                }
                "rv" => incoming.random = hexadecimal(value, DIGITS..=DIGITS),
                _ => {}
            }
        }
        incoming
    }

    /// The sender's threshold, if it would have kept a record with these random bits.
    pub(crate) fn upstream(self, random: u64) -> Upstream {
        match self.threshold.unwrap_or(Threshold::ALL) {
            threshold if !self.is_unreadable && threshold.keeps(random) => Upstream::Known(threshold),
            _ => Upstream::Unknown,
        }
    }
}

fn ot_fields(trace_state: &str) -> impl Iterator<Item = (&str, &str)> {
    trace_state
        .split(',')
        .filter_map(|member| member.trim().strip_prefix("ot="))
        .flat_map(|fields| fields.split(';'))
        .filter_map(|field| field.split_once(':'))
}

/// The tracestate with this threshold in its `ot` member, which moves to the front as the last one changed.
pub(crate) fn with_threshold(trace_state: Option<&str>, threshold: Threshold) -> String {
    let old = trace_state.unwrap_or("");
    let mut state = format!("ot=th:{}", threshold.text());
    for (key, value) in ot_fields(old).filter(|(key, _)| *key != "th") {
        state.push_str(&format!(";{key}:{value}"));
    }
    for member in old.split(',').map(str::trim).filter(|member| !member.is_empty() && !member.starts_with("ot=")) {
        state.push(',');
        state.push_str(member);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_written_and_read_as_the_specification_shows() {
        for (probability, text) in [(1.0, "0"), (0.5, "8"), (0.25, "c"), (0.1, "e6666666666668")] {
            let threshold = Threshold::of(probability);
            assert_eq!(threshold.text(), text);
            assert_eq!(Threshold::parse(text), Some(threshold));
            assert!((threshold.adjusted_count() * probability - 1.0).abs() < 1e-9);
        }
        assert_eq!(Threshold::parse(""), None);
        assert_eq!(Threshold::parse("xyz"), None);
        assert_eq!(Threshold::parse("123456789012345"), None);
    }

    #[test]
    fn the_random_bits_are_the_last_seven_bytes() {
        let mut id = [0xff; 16];
        id[9..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(random_bits(&id), 0x0001_0203_0405_0607);
    }

    #[test]
    fn a_new_threshold_replaces_the_old_and_leaves_the_rest() {
        let state = with_threshold(Some("vendor=1,ot=th:8;rv:0123456789abcd,x=y"), Threshold::of(0.25));
        assert_eq!(state, "ot=th:c;rv:0123456789abcd,vendor=1,x=y");
        let incoming = Incoming::parse(&state);
        assert_eq!((incoming.threshold, incoming.random), (Some(Threshold::of(0.25)), Some(0x0001_2345_6789_abcd)));
    }

    #[test]
    fn a_rate_of_zero_keeps_nothing() {
        assert!(!Threshold::of(0.0).keeps(RANGE - 1));
        assert!(Threshold::ALL.keeps(0));
    }
}
