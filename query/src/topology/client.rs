//! Small JSON requests to node APIs: info, pin, release. Every one has a timeout, a bounded answer and the token.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use lariat_collector::worker::wire::{PIN_PATH, PinReply, PinRequest, RELEASE_PATH, ReleaseReply, ReleaseRequest};
use lariat_schema::node_api::{LastWord, NodeInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::Secret;
use super::state::Health;
use crate::bucket::worker::{READ_PATH, ReadReply, ReadRequest, SERVICE_PATH, ServiceInfo};

/// Longest answer that is read, in bytes: what a node says of itself is a few kilobytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a node did not answer. All of these may succeed later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens at the address.
    #[error("the node's address refuses connections")]
    Refused,
    /// The connection could not be made, or broke.
    #[error("the connection to the node failed: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("the node did not answer within {0:?}")]
    Silent(Duration),
    /// An answer, but a refusal.
    #[error("the node answered {status}: {message}")]
    Status {
        /// The HTTP status.
        status: StatusCode,
        /// What it said, shortened.
        message: String,
    },
    /// An answer that is none.
    #[error("the node's answer could not be read: {0}")]
    Unreadable(String),
}

impl ClientError {
    /// What it says about the node's state.
    pub(crate) fn health(&self) -> Health {
        match self {
            Self::Refused => Health::Refused,
            // A node that refuses work is alive.
            Self::Status { status: StatusCode::TOO_MANY_REQUESTS, .. } => Health::Answered,
            Self::Broken(_) | Self::Silent(_) | Self::Status { .. } | Self::Unreadable(_) => Health::Silent,
        }
    }
}

/// Speaks with node APIs.
#[derive(Clone)]
pub(crate) struct NodeClient {
    http: Client<HttpConnector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

impl NodeClient {
    pub(crate) fn new(token: Option<&Secret>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        let authorization = token.and_then(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self { http, authorization }
    }

    pub(crate) async fn info(&self, base: &Url, timeout: Duration) -> Result<NodeInfo, ClientError> {
        self.call(Method::GET, base, "/v1/info", Bytes::new(), timeout).await
    }

    pub(crate) async fn pin(&self, base: &Url, pin: &PinRequest, timeout: Duration) -> Result<PinReply, ClientError> {
        self.call(Method::POST, base, PIN_PATH, json(pin)?, timeout).await
    }

    pub(crate) async fn release(
        &self,
        base: &Url,
        release: &ReleaseRequest,
        timeout: Duration,
    ) -> Result<ReleaseReply, ClientError> {
        self.call(Method::POST, base, RELEASE_PATH, json(release)?, timeout).await
    }

    /// What another query service read of the bucket for a try at a query.
    pub(crate) async fn bucket_read(
        &self,
        base: &Url,
        request: &ReadRequest,
        timeout: Duration,
    ) -> Result<ReadReply, ClientError> {
        self.call(Method::POST, base, READ_PATH, json(request)?, timeout).await
    }

    /// Who another query service is.
    pub(crate) async fn bucket_service(&self, base: &Url, timeout: Duration) -> Result<ServiceInfo, ClientError> {
        self.call(Method::GET, base, SERVICE_PATH, Bytes::new(), timeout).await
    }

    /// Waits for the node's last word, for as long as it lives: its farewell, or none if the connection broke first.
    ///
    /// # Errors
    /// When no connection came about, or the node does not speak of its end.
    pub(crate) async fn farewell(&self, base: &Url, timeout: Duration) -> Result<Option<LastWord>, ClientError> {
        let opening = self.send(Method::GET, base, "/v1/farewell", Bytes::new());
        let response = tokio::time::timeout(timeout, opening).await.map_err(|_| ClientError::Silent(timeout))??;
        if !response.status().is_success() {
            return Err(ClientError::Status { status: response.status(), message: String::new() });
        }
        let Ok(whole) = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await else { return Ok(None) };
        let bytes = whole.to_bytes();
        let mut words =
            bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<LastWord>(line).ok());
        Ok(words.next_back().filter(|word| word.farewell_unix_nanos.is_some()))
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        base: &Url,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<A, ClientError> {
        let answer = tokio::time::timeout(timeout, self.exchange(method, base, path, body));
        let bytes = answer.await.map_err(|_| ClientError::Silent(timeout))??;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Unreadable(error.to_string()))
    }

    async fn send(
        &self,
        method: Method,
        base: &Url,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut url = base.clone();
        url.set_path(path);
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Unreadable(error.to_string()))?;
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        self.http.request(request).await.map_err(|error| connection_error(&error))
    }

    async fn exchange(&self, method: Method, base: &Url, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let response = self.send(method, base, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let bytes = body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(bytes);
        }
        let message = String::from_utf8_lossy(&bytes).chars().take(200).collect();
        Err(ClientError::Status { status, message })
    }
}

fn json(value: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| ClientError::Unreadable(error.to_string()))
}

/// Tells a refused connection, which means that nobody is there, from one that broke.
fn connection_error(error: &hyper_util::client::legacy::Error) -> ClientError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return ClientError::Refused;
        }
        last = inner.to_string();
        source = inner.source();
    }
    ClientError::Broken(last)
}
