//! Making one connection: TCP, TLS where the address says so, and the handshake with the instance's own headers, all
//! within one deadline. TLS offers HTTP/1.1 only, since a handshake over HTTP/2 is another protocol. How a refusal is
//! classed is decided by the same table as for calls.

use std::future::Future;
use std::time::Duration;

use http::{HeaderMap, Uri};
use hyper::service::Service;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lariat_schema::vocabulary::{ErrorCategory, TransportFailure};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, handshake::client::Request};

use super::link::DialError;
use crate::classify;
use crate::profiles::Endpoint;
use crate::reply_budget::MAX_REPLY_BYTES;
use crate::upstream::{failure, http::tcp, retry_after_ms};

/// Bound on the whole of it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes read at once: most replies are smaller, and each connection holds so much.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What makes connections; a clone shares the TLS settings.
#[derive(Clone)]
pub(in crate::upstream) struct Dialler(TowerToHyperService<HttpsConnector<HttpConnector>>);

/// Where connections of one instance are made.
pub(in crate::upstream) struct Door {
    dialler: Dialler,
    uri: Uri,
    headers: HeaderMap,
}

/// Makes connections and waits between them; a trait, so that the waits are tested without a network and without waiting.
pub(super) trait Dial: Send + 'static {
    /// Time between pings; one that is not answered by the next ends the connection.
    const PING_EVERY: Duration = Duration::from_secs(15);
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn dial(&self) -> impl Future<Output = Result<WebSocketStream<Self::Stream>, DialError>> + Send;
    fn rest(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(wait)
    }
}

/// Bounds on what a connection holds.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_REPLY_BYTES))
        .max_frame_size(Some(MAX_REPLY_BYTES))
}

impl Dialler {
    pub(in crate::upstream) fn new(settings: ClientConfig) -> Self {
        let tls =
            HttpsConnectorBuilder::new().with_tls_config(settings).https_or_http().enable_http1().wrap_connector(tcp());
        Self(TowerToHyperService::new(tls))
    }

    pub(in crate::upstream) fn door(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Door {
        Door { dialler: self.clone(), uri: endpoint.uri.clone(), headers: headers.clone() }
    }
}

impl Door {
    pub(super) fn is_over_tls(&self) -> bool {
        self.uri.scheme_str() == Some("wss")
    }

    fn request(&self) -> Result<Request, DialError> {
        let mut request = self.uri.clone().into_client_request().map_err(|error| of_handshake(&error))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    /// The address as the HTTP connector wants it.
    fn address(&self) -> Result<Uri, DialError> {
        let scheme = if self.uri.scheme_str() == Some("wss") { "https" } else { "http" };
        let mut parts = self.uri.clone().into_parts();
        parts.scheme = scheme.parse().ok();
        Uri::from_parts(parts).map_err(|_| failed(ErrorCategory::NetworkError))
    }
}

impl Dial for Door {
    type Stream = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

    async fn dial(&self) -> Result<WebSocketStream<Self::Stream>, DialError> {
        let (request, address) = (self.request()?, self.address()?);
        let connect = async {
            let stream = self.dialler.0.call(address).await.map_err(|error| unconnected(&*error))?;
            let handshake = tokio_tungstenite::client_async_with_config(request, TokioIo::new(stream), Some(config()));
            handshake.await.map(|(stream, _)| stream).map_err(|error| of_handshake(&error))
        };
        tokio::time::timeout(TIMEOUT, connect).await.unwrap_or_else(|_| Err(failed(ErrorCategory::Timeout)))
    }
}

const fn failed(category: ErrorCategory) -> DialError {
    DialError { category, failure: None, http_status: None, retry_after_ms: None }
}

fn unconnected(error: &(dyn std::error::Error + 'static)) -> DialError {
    DialError { failure: Some(failure::of_connection(error)), ..failed(ErrorCategory::NetworkError) }
}

fn of_handshake(error: &tungstenite::Error) -> DialError {
    match error {
        tungstenite::Error::Http(response) => {
            let status = response.status().as_u16();
            DialError {
                category: classify::of_status(status),
                failure: None,
                http_status: Some(status),
                retry_after_ms: retry_after_ms(response.headers()),
            }
        }
        tungstenite::Error::Io(_) | tungstenite::Error::ConnectionClosed => {
            DialError { failure: Some(TransportFailure::Closed), ..failed(ErrorCategory::NetworkError) }
        }
        _ => failed(ErrorCategory::InvalidResponse),
    }
}
