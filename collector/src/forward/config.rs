//! Section `collector.forward`. Values of headers are secrets: they are kept as sensitive header values, which print
//! as `Sensitive`, and no error of this module repeats one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use lariat_schema::duration_text;
use lariat_schema::vocabulary::Signal;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// How long one attempt may take; OpenTelemetry's own default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// What waits on the disk at most: a quarter of an hour of 1 MiB a second, compressed four times.
const DEFAULT_QUEUE_BYTES: u64 = 256 << 20;
/// The least that a queue is good for: some requests.
const MIN_QUEUE_BYTES: u64 = 256 << 10;
/// Headers that the protocol itself sets.
const RESERVED: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::HOST,
    header::TE,
    HeaderName::from_static("grpc-encoding"),
];

/// Where received requests go on to, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The other collector.
    pub endpoint: Endpoint,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Headers of each request; their values are secrets.
    #[serde(default)]
    pub headers: Headers,
    /// Authorities beside the public ones that may vouch for an `https` endpoint; a file of PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How bodies are compressed; those that came so are sent as they came.
    #[serde(default)]
    pub compression: Compression,
    /// Which signals are sent on; all by default.
    #[serde(default = "every_signal")]
    pub signals: BTreeSet<Signal>,
    /// How long one attempt may take; text such as `10s`.
    #[serde(default = "default_timeout", deserialize_with = "duration_text::deserialize")]
    pub timeout: Duration,
    /// Bytes that wait on the disk at most: beyond it the oldest are dropped, which is counted.
    #[serde(default = "default_queue_bytes", deserialize_with = "queue_bytes")]
    pub queue_bytes: u64,
}

/// The protocols of OTLP that requests can be sent on in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Protocol {
    /// Unary calls over HTTP/2.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP, to `<endpoint>/v1/<signal>`.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As every OTLP server understands.
    #[default]
    Gzip,
    /// Smaller and faster, where the other side knows it.
    Zstd,
    /// For one machine.
    None,
}

impl Config {
    /// Whether the files that it names can be used.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check_files(&self) -> Result<(), super::CaFileError> {
        self.ca_file.as_deref().map_or(Ok(()), |file| super::trust::authorities(file).map(|_| ()))
    }
}

fn every_signal() -> BTreeSet<Signal> {
    BTreeSet::from([Signal::Traces, Signal::Metrics, Signal::Logs])
}

fn default_timeout() -> Duration {
    DEFAULT_TIMEOUT
}

fn default_queue_bytes() -> u64 {
    DEFAULT_QUEUE_BYTES
}

fn queue_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let bytes = u64::deserialize(deserializer)?;
    if bytes < MIN_QUEUE_BYTES {
        return Err(D::Error::custom(format!(
            "{bytes} is too little to queue requests in: give {MIN_QUEUE_BYTES} or more"
        )));
    }
    Ok(bytes)
}

/// A URL of `http` or `https` without user, password, query or fragment, which would be secrets in a place that is
/// printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end.
    path: String,
}

impl Endpoint {
    /// Reads one.
    ///
    /// # Errors
    /// With what is wrong; the text itself, which may hold a password, is not repeated.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.trim().parse().map_err(|_| "is no URL: write http://host:4317")?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.ok_or("names no scheme: write http://host:4317")?;
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err("begins with neither http:// nor https://");
        }
        let authority = parts.authority.ok_or("names no host: write http://host:4317")?;
        if authority.as_str().contains('@') {
            return Err("names a user: put credentials into `headers`");
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err("has a query: put credentials into `headers`");
        }
        Ok(Self { scheme, authority, path: path.path().trim_end_matches('/').to_owned() })
    }

    /// The URL of a path below it.
    pub(super) fn join(&self, path: &str) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path}", self.path))
            .build()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = value.as_str().ok_or_else(|| D::Error::custom("must be text, in quotes"))?;
        Self::parse(text).map_err(D::Error::custom)
    }
}

/// Headers whose values never show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(HeaderMap);

impl Headers {
    /// All of them, marked as sensitive.
    pub(super) fn map(&self) -> &HeaderMap {
        &self.0
    }

    /// A text of the other side, without what it may repeat of our secrets.
    pub(super) fn redacted(&self, text: &str) -> String {
        self.0.values().filter_map(|value| value.to_str().ok()).fold(text.to_owned(), |text, value| {
            // The credential of `Bearer x` alone would give it away too.
            value.split(' ').filter(|part| part.len() > 3).fold(text, |text, part| text.replace(part, "***"))
        })
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as any value first: the errors of typed reading would repeat it.
        let Value::Object(members) = Value::deserialize(deserializer)? else {
            return Err(D::Error::custom("must be a map of names to texts"));
        };
        let mut headers = HeaderMap::new();
        for (name, value) in members {
            let fail = |problem: &str| D::Error::custom(format!("header `{name}`: {problem}"));
            let known: HeaderName = name.parse().map_err(|_| fail("is no name of a header"))?;
            if RESERVED.contains(&known) {
                return Err(fail("is set by the protocol"));
            }
            let Value::String(text) = value else { return Err(fail("must be text, in quotes")) };
            let mut value = HeaderValue::from_str(&text).map_err(|_| fail("holds what no header may hold"))?;
            value.set_sensitive(true);
            headers.append(known, value);
        }
        Ok(Self(headers))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Config, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_is_enough_and_everything_else_has_a_default() {
        let config = read(json!({"endpoint": "http://other:4317/"})).unwrap();
        assert_eq!(config.endpoint.to_string(), "http://other:4317");
        assert_eq!((config.protocol, config.compression), (Protocol::Grpc, Compression::Gzip));
        assert_eq!((config.signals.len(), config.timeout), (3, Duration::from_secs(10)));
        let config = read(json!({"endpoint": "https://other/otlp", "protocol": "http/protobuf", "compression": "zstd",
            "signals": ["traces"], "timeout": "2s", "queue_bytes": 1_048_576}))
        .unwrap();
        assert_eq!(config.endpoint.join("/v1/traces").unwrap(), "https://other/otlp/v1/traces");
        assert_eq!((config.signals, config.queue_bytes), (BTreeSet::from([Signal::Traces]), 1 << 20));
    }

    #[test]
    fn no_error_and_no_debug_text_repeats_a_secret() {
        let good = read(json!({"endpoint": "http://o:1", "headers": {"authorization": "Bearer s3cret"}})).unwrap();
        assert!(!format!("{good:?}").contains("s3cret"), "{good:?}");
        assert_eq!(good.headers.redacted("token s3cret is wrong"), "token *** is wrong");
        for bad in [
            json!({"endpoint": "http://user:s3cret@other:1"}),
            json!({"endpoint": "http://other:1/?key=s3cret"}),
            json!({"endpoint": ["s3cret"]}),
            json!({"endpoint": "http://o:1", "headers": "s3cret"}),
            json!({"endpoint": "http://o:1", "headers": {"authorization": ["s3cret"]}}),
            json!({"endpoint": "http://o:1", "headers": {"authorization": "s3cret\n"}}),
            json!({"endpoint": "http://o:1", "headers": {"content-type": "s3cret"}}),
        ] {
            let error = read(bad).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            json!({}),
            json!({"endpoint": "other:4317"}),
            json!({"endpoint": "ftp://other"}),
            json!({"endpoint": "http://o:1", "protocol": "http/json"}),
            json!({"endpoint": "http://o:1", "signals": ["profiles"]}),
            json!({"endpoint": "http://o:1", "queue_bytes": 10}),
            json!({"endpoint": "http://o:1", "retries": 3}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
