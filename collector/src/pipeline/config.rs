//! Section `collector` of the configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lariat_schema::duration_text;
use serde::Deserialize;

use crate::decode::Mapping;
use crate::forward;
use crate::receive;
use crate::store::maintain::StoreSettings;
use crate::store::steps::Steps;
use crate::store::{Bucket, BucketConfig, BucketError, Retention};

const DEFAULT_OTLP_GRPC_PORT: u16 = 4317;
const DEFAULT_OTLP_HTTP_PORT: u16 = 4318;
const DEFAULT_NODE_API_PORT: u16 = 4319;
/// Age of hot rows at which they are sealed.
const DEFAULT_FLUSH_AGE: Duration = Duration::from_secs(60);
/// How long a retry is recognised.
const DEFAULT_DEDUP_WINDOW: Duration = Duration::from_secs(120);
/// How many decisions are remembered at least.
const DEFAULT_DEDUP_DECISIONS: u64 = 50_000;

/// Pause between two rounds over the sealed files: soon enough that a budget is not overrun by much.
const MAINTAIN_EVERY: Duration = Duration::from_millis(250);

/// Settings of a collector.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where OTLP over gRPC is received.
    pub otlp_grpc: SocketAddr,
    /// Where OTLP over HTTP is received.
    pub otlp_http: SocketAddr,
    /// Where the node API listens.
    pub node_api: SocketAddr,
    /// Most bytes of one request, as sent and again after decompression.
    pub max_request_bytes: usize,
    /// Bytes that all requests in flight may hold.
    pub in_flight_bytes: usize,
    /// Connections of senders at a time.
    pub max_connections: usize,
    /// Age at which hot rows are sealed; text such as `60s`.
    #[serde(deserialize_with = "duration_text::deserialize")]
    pub flush_age: Duration,
    /// How long a retry is recognised; text such as `120s`.
    #[serde(deserialize_with = "duration_text::deserialize")]
    pub dedup_window: Duration,
    /// Decisions that are remembered at least, however old.
    pub dedup_decisions: u64,
    /// File that says which spans of other proxies are routing decisions; none: only Lariat's own are.
    pub mapping: Option<PathBuf>,
    /// How long rows are kept: text such as `30d`, `forever`, or a map of tables to these with `default`.
    pub retention: Retention,
    /// Bytes that the data directory may take; none: what the disk has. Beyond it the oldest files go before their
    /// retention.
    pub disk_budget: Option<u64>,
    /// Where final files are uploaded; none: nowhere.
    pub bucket: Option<BucketConfig>,
    /// Where received requests go on to; nowhere by default.
    pub forward: Option<forward::Config>,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            otlp_grpc: loopback(DEFAULT_OTLP_GRPC_PORT),
            otlp_http: loopback(DEFAULT_OTLP_HTTP_PORT),
            node_api: loopback(DEFAULT_NODE_API_PORT),
            max_request_bytes: receive::MAX_REQUEST_BYTES,
            in_flight_bytes: receive::IN_FLIGHT_BYTES,
            max_connections: receive::MAX_CONNECTIONS,
            flush_age: DEFAULT_FLUSH_AGE,
            dedup_window: DEFAULT_DEDUP_WINDOW,
            dedup_decisions: DEFAULT_DEDUP_DECISIONS,
            mapping: None,
            retention: Retention::default(),
            disk_budget: None,
            bucket: None,
            forward: None,
        }
    }
}

impl Config {
    /// The store's part.
    pub(crate) fn store(&self) -> Result<StoreSettings, BucketError> {
        let nanos = |age: Duration| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        Ok(StoreSettings {
            retention: self.retention.clone(),
            bucket_retention: self.bucket.as_ref().map_or_else(Retention::default, |bucket| bucket.retention.clone()),
            bucket: self.bucket.as_ref().map(|bucket| Bucket::open(&bucket.place())).transpose()?,
            disk_budget_bytes: self.disk_budget,
            upload_after_nanos: self.bucket.as_ref().map(|bucket| nanos(bucket.upload_after)),
            every: MAINTAIN_EVERY,
            steps: Steps::default(),
        })
    }

    /// The receivers' part.
    pub(crate) fn receive(&self, mapping: Option<Arc<Mapping>>) -> receive::Config {
        receive::Config {
            otlp_grpc: self.otlp_grpc,
            otlp_http: self.otlp_http,
            max_request_bytes: self.max_request_bytes,
            in_flight_bytes: self.in_flight_bytes,
            max_connections: self.max_connections,
            mapping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_and_every_key_is_optional() {
        let config: Config = serde_json::from_str(r#"{"flush_age": "10s"}"#).unwrap();
        assert_eq!(config, Config { flush_age: Duration::from_secs(10), ..Config::default() });
        assert!(serde_json::from_str::<Config>(r#"{"flush_ages": "10s"}"#).is_err());
    }
}
