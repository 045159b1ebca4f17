//! OpenTelemetry's names to Prometheus', by OpenTelemetry's specification ("Prometheus and OpenMetrics Compatibility"):
//! dots become underscores, the unit becomes a suffix, a monotonic sum ends in `_total`. The other way is not a
//! function (`a.b` and `a_b` are one name), so a requested name is looked up among the translated names of what is
//! stored and never taken apart.
//!
//! Labels are the names that SQL uses for the same thing: a column where the attribute has one (`method`, not
//! `rpc_method`), otherwise the attribute with underscores.

use lariat_schema::attributes;

use super::labels::{Labels, NAME};

/// What a stored metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// A last value, or a sum that may fall.
    Gauge,
    /// A sum that only rises.
    Counter,
    /// Counts by explicit bounds.
    Histogram,
    /// Counts by exponential buckets.
    Exponential,
    /// Quantiles.
    Summary,
}

impl Shape {
    /// From the columns `instrument` and `monotonic`; `None` for a kind that OTLP does not have.
    pub(crate) fn of(instrument: &str, monotonic: bool) -> Option<Self> {
        let plain: String = instrument.chars().filter(char::is_ascii_alphabetic).collect();
        Some(match plain.to_ascii_lowercase().as_str() {
            "gauge" => Self::Gauge,
            "sum" | "counter" | "updowncounter" if monotonic => Self::Counter,
            "sum" | "updowncounter" => Self::Gauge,
            "counter" => Self::Counter,
            "histogram" => Self::Histogram,
            "exponentialhistogram" => Self::Exponential,
            "summary" => Self::Summary,
            _ => return None,
        })
    }

    /// The type that `metadata` shows.
    pub(crate) const fn documented(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram | Self::Exponential => "histogram",
            Self::Summary => "summary",
        }
    }

    /// Suffixes of the series that a metric of this shape has.
    pub(crate) const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Gauge | Self::Counter => &[""],
            Self::Histogram => &["_bucket", "_count", "_sum"],
            Self::Exponential => &["", "_bucket", "_count", "_sum"],
            Self::Summary => &["", "_count", "_sum"],
        }
    }
}

/// Units with a word of their own. Source: the specification's table of UCUM units.
const UNITS: &[(&str, &str)] = &[
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("kBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("B", "bytes"),
    ("KB", "kilobytes"),
    ("MB", "megabytes"),
    ("GB", "gigabytes"),
    ("TB", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("%", "percent"),
    ("1", ""),
];

/// Units after a slash. Source: as above.
const PER_UNITS: &[(&str, &str)] = &[
    ("s", "second"),
    ("m", "minute"),
    ("min", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

/// The Prometheus name of a metric.
pub(crate) fn metric(name: &str, unit: &str, shape: Shape) -> String {
    let mut words: Vec<String> = name
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == ':'))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    for suffix in [unit_word(main, UNITS), unit_word(per, PER_UNITS).map(|word| format!("per_{word}"))] {
        for word in suffix.iter().flat_map(|suffix| suffix.split('_')).filter(|word| !word.is_empty()) {
            if !words.iter().any(|other| other == word) {
                words.push(word.to_owned());
            }
        }
    }
    // These two come last, whatever the name had in the middle.
    let last = match shape {
        Shape::Counter => Some("total"),
        Shape::Gauge if unit == "1" => Some("ratio"),
        _ => None,
    };
    if let Some(last) = last {
        words.retain(|word| word != last);
        words.push(last.to_owned());
    }
    let joined = words.join("_");
    if joined.starts_with(|c: char| c.is_ascii_digit()) { format!("_{joined}") } else { joined }
}

/// A unit as a word; an annotation in braces is none.
fn unit_word(unit: &str, known: &[(&str, &str)]) -> Option<String> {
    let unit = unit.trim();
    if unit.is_empty() || unit.contains(['{', '}']) {
        return None;
    }
    let word = known.iter().find(|(code, _)| *code == unit).map_or(unit, |(_, word)| word);
    let clean: String = word.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let clean = clean.trim_matches('_').to_owned();
    (!clean.is_empty()).then_some(clean)
}

/// The label that an attribute becomes.
pub(crate) fn label(key: &str) -> String {
    if let Some(column) = attributes::by_key(key).and_then(|attribute| attribute.column) {
        return column.to_owned();
    }
    let key = key.strip_prefix("lariat.").unwrap_or(key);
    let clean: String = key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if clean.starts_with(|c: char| c.is_ascii_digit()) { format!("key_{clean}") } else { clean }
}

/// Who sent a series.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sender {
    /// Column `service_name`.
    pub(crate) service: String,
    /// Column `node_id`.
    pub(crate) node_id: String,
    /// Column `region`.
    pub(crate) region: String,
}

/// The labels of a series without its name. Of two attributes that become one label both values are kept, joined.
pub(crate) fn labels(attributes: &[(String, String)], sender: &Sender) -> Labels {
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(attributes.len() + 4);
    for (key, value) in attributes {
        let name = label(key);
        match pairs.iter_mut().find(|(other, _)| *other == name) {
            Some((_, so_far)) => *so_far = format!("{so_far};{value}"),
            None => pairs.push((name, value.clone())),
        }
    }
    let of_sender = [
        ("job", &sender.service),
        ("node_id", &sender.node_id),
        ("instance", &sender.node_id),
        ("region", &sender.region),
    ];
    for (name, value) in of_sender {
        if !pairs.iter().any(|(other, _)| other == name) {
            pairs.push((name.to_owned(), value.clone()));
        }
    }
    Labels::new(pairs)
}

/// Labels of one of a metric's series.
pub(crate) fn series(metric: &str, suffix: &str, labels: &Labels) -> Labels {
    labels.with(NAME, &format!("{metric}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_specification() {
        let cases = [
            ("rpc.server.call.duration", "s", Shape::Exponential, "rpc_server_call_duration_seconds"),
            ("lariat.recorder.dropped", "{decision}", Shape::Counter, "lariat_recorder_dropped_total"),
            ("lariat.circuit.state", "{state}", Shape::Gauge, "lariat_circuit_state"),
            ("cpu.share", "1", Shape::Gauge, "cpu_share_ratio"),
            ("lariat.block.height", "{block}", Shape::Gauge, "lariat_block_height"),
            ("system.network.io", "By", Shape::Counter, "system_network_io_bytes_total"),
            ("disk.total.bytes", "By", Shape::Counter, "disk_bytes_total"),
            ("speed", "m/s", Shape::Gauge, "speed_meters_per_second"),
            ("2xx", "", Shape::Gauge, "_2xx"),
            ("traces_spanmetrics_calls", "", Shape::Counter, "traces_spanmetrics_calls_total"),
            ("traces_spanmetrics_latency", "", Shape::Histogram, "traces_spanmetrics_latency"),
            ("traces_service_graph_request_failed", "", Shape::Counter, "traces_service_graph_request_failed_total"),
            (
                "traces_service_graph_request_client_seconds",
                "s",
                Shape::Histogram,
                "traces_service_graph_request_client_seconds",
            ),
            ("a..b-c", "", Shape::Gauge, "a_b_c"),
        ];
        for (name, unit, shape, wanted) in cases {
            assert_eq!(metric(name, unit, shape), wanted);
        }
    }

    #[test]
    fn labels_are_the_names_of_sql() {
        let cases = [
            ("lariat.profile", "profile"),
            ("rpc.method", "method"),
            ("rpc.status_code", "status_code"),
            ("lariat.provider_id", "provider_id"),
            ("http.request.method", "http_request_method"),
            ("lariat.new.thing", "new_thing"),
        ];
        for (key, wanted) in cases {
            assert_eq!(label(key), wanted);
        }
    }

    #[test]
    fn a_sender_is_node_instance_and_job() {
        let sender = Sender { service: "lariat".into(), node_id: "n1".into(), region: "us-east".into() };
        let labels = labels(&[("lariat.chain".into(), "ethereum".into())], &sender);
        assert_eq!(
            labels.to_string(),
            r#"{chain="ethereum", instance="n1", job="lariat", node_id="n1", region="us-east"}"#
        );
    }
}
