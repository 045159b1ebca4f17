//! One attempt to send a request to the other side.

use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, TE, USER_AGENT};
use http::{HeaderValue, Method, Request as HttpRequest, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use lariat_schema::vocabulary::Signal;
use tonic::{Code, Status};

use super::HOPS;
use super::config::{Compression, Config, Protocol};
use super::outcome::{self, Outcome};

/// What OTLP recommends as the largest response.
const RESPONSE_BYTES: usize = 4 << 20;
/// Length of a gRPC message's prefix.
const PREFIX: usize = 5;
/// A connection that has died without a word is noticed after this and [`PING_TIMEOUT`], so that a new one is made.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Where to, and the connections to there.
pub(super) struct Target {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    config: Config,
}

/// The other side can never be reached as configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Uri(#[from] http::Error),
    #[error(transparent)]
    CaFile(#[from] super::trust::CaFileError),
}

impl Target {
    pub(super) fn new(config: Config) -> Result<Self, TargetError> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(config.timeout));
        tcp.enforce_http(false);
        let trusted = super::trust::settings(config.ca_file.as_deref())?;
        let tls = HttpsConnectorBuilder::new().with_tls_config(trusted).https_or_http();
        let grpc = config.protocol == Protocol::Grpc;
        let tls =
            if grpc { tls.enable_http2().wrap_connector(tcp) } else { tls.enable_all_versions().wrap_connector(tcp) };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_only(grpc)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(tls);
        let target = Self { client, config };
        target.uri(Signal::Traces)?;
        Ok(target)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    fn uri(&self, signal: Signal) -> Result<Uri, http::Error> {
        self.config.endpoint.join(match (self.config.protocol, signal) {
            (Protocol::Grpc, Signal::Traces) => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            (Protocol::Grpc, Signal::Metrics) => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            (Protocol::Grpc, Signal::Logs) => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            (Protocol::HttpProtobuf, Signal::Traces) => "/v1/traces",
            (Protocol::HttpProtobuf, Signal::Metrics) => "/v1/metrics",
            (Protocol::HttpProtobuf, Signal::Logs) => "/v1/logs",
        })
    }

    /// Sends a body that is in the configured form already. The text of the outcome holds no secret of ours.
    pub(super) async fn send(&self, signal: Signal, hops: u8, body: Bytes) -> Outcome {
        let request = match self.request(signal, hops, body) {
            Ok(request) => request,
            Err(error) => return Outcome::Refused { code: outcome::Refused::Unwritable, why: error.to_string() },
        };
        let outcome = match tokio::time::timeout(self.config.timeout, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Retry { after: None, why: format!("no answer within {:?}", self.config.timeout) },
        };
        let redacted = |text: String| self.config.headers.redacted(&text);
        match outcome {
            Outcome::Delivered { rejected, message } => Outcome::Delivered { rejected, message: redacted(message) },
            Outcome::Retry { after, why } => Outcome::Retry { after, why: redacted(why) },
            Outcome::Refused { code, why } => Outcome::Refused { code, why: redacted(why) },
        }
    }

    fn request(&self, signal: Signal, hops: u8, body: Bytes) -> Result<HttpRequest<Full<Bytes>>, http::Error> {
        let encoding = match self.config.compression {
            Compression::Gzip => Some(HeaderValue::from_static("gzip")),
            Compression::Zstd => Some(HeaderValue::from_static("zstd")),
            Compression::None => None,
        };
        let grpc = self.config.protocol == Protocol::Grpc;
        let body = if grpc { framed(&body, encoding.is_some()) } else { body };
        let mut request = HttpRequest::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri(signal)?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("lariat/", env!("CARGO_PKG_VERSION"))));
        headers.extend(self.config.headers.map().clone());
        headers.insert(HOPS, HeaderValue::from(u16::from(hops) + 1));
        let content_type = if grpc { "application/grpc" } else { "application/x-protobuf" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(encoding) = encoding {
            headers.insert(if grpc { GRPC_ENCODING } else { CONTENT_ENCODING }, encoding);
        }
        Ok(request)
    }

    async fn exchange(&self, request: HttpRequest<Full<Bytes>>) -> Outcome {
        let broken = |why: String| Outcome::Retry { after: None, why };
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => return broken(chain(&error)),
        };
        let (parts, body) = response.into_parts();
        let body = match Limited::new(body, RESPONSE_BYTES).collect().await {
            Ok(body) => body,
            Err(error) => return broken(format!("the answer broke off: {error}")),
        };
        let trailers = body.trailers().cloned();
        let bytes = body.to_bytes();
        match self.config.protocol {
            Protocol::HttpProtobuf => outcome::of_http(parts.status, &parts.headers, &bytes, SystemTime::now()),
            Protocol::Grpc => {
                let status = trailers
                    .as_ref()
                    .and_then(Status::from_header_map)
                    .or_else(|| Status::from_header_map(&parts.headers))
                    .unwrap_or_else(|| outcome::grpc_status_of(parts.status));
                if status.code() == Code::Ok {
                    // Compressed responses are not asked for.
                    outcome::delivered(bytes.get(PREFIX..).unwrap_or_default())
                } else {
                    outcome::of_grpc(&status)
                }
            }
        }
    }
}

/// The one message of a unary call.
fn framed(message: &Bytes, compressed: bool) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(u8::from(compressed));
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed.freeze()
}

/// An error with its causes, which say more than itself.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
