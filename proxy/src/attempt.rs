//! One attempt: a request to one provider under a deadline, and what came of it as a value. It keeps no state, touches
//! no circuit and records nothing: those belong to whoever asked for it. What a provider sends is bounded in bytes and
//! in time, and read as JSON-RPC only far enough to know whether it answers this call.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use lariat_schema::vocabulary::{Dispatched, ErrorCategory, Outcome, Transport};

use crate::classify;
use crate::jsonrpc::Reply;
use crate::profiles::{Endpoint, ErrorRule, Instance};
use crate::record::AttemptEnd;
use crate::trace_context;

/// Bytes of a provider's reply at most.
const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;
/// Idle connections kept per provider.
const POOL_PER_HOST: usize = 256;
const POOL_IDLE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections to all providers.
pub(crate) struct Upstreams {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// The whole call.
    pub(crate) payload: Bytes,
    /// The id inside it.
    pub(crate) id: u64,
    /// What the provider is told of the trace, if it wants to know; over a WebSocket there is no place for it.
    pub(crate) trace: Option<trace_context::Outgoing>,
}

impl Upstreams {
    /// Makes the pool.
    ///
    /// # Errors
    /// The TLS library refuses its own settings.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST)
            .build(tls);
        Ok(Self { http })
    }
}

/// What came of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) end: AttemptEnd,
    /// The provider's reply, a result or an error.
    pub(crate) reply: Option<Reply>,
    /// How long the provider wants to be left alone.
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) took: Duration,
}

impl Answer {
    fn failed(category: ErrorCategory, dispatched: Dispatched, http_status: Option<u16>) -> Self {
        let outcome = classify::outcome_of(category);
        let end = AttemptEnd { outcome, category: Some(category), code: None, http_status, dispatched };
        Self { end, reply: None, retry_after_ms: None, took: Duration::ZERO }
    }
}

/// Sends a call over that channel of the instance, and waits at most `timeout` for the whole reply.
pub(crate) async fn attempt(
    upstreams: &Upstreams,
    instance: &Instance,
    transport: Transport,
    rules: &[ErrorRule],
    outgoing: Outgoing,
    timeout: Duration,
) -> Answer {
    let started = Instant::now();
    let Some(endpoint) = instance.endpoint(transport).filter(|_| transport == Transport::Http) else {
        return Answer::failed(ErrorCategory::NetworkError, Dispatched::NotDispatched, None);
    };
    let exchange = exchange(upstreams, instance, endpoint, rules, outgoing);
    let mut answer = match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => Answer::failed(ErrorCategory::Timeout, Dispatched::Indeterminate, None),
    };
    answer.took = started.elapsed();
    answer
}

async fn exchange(
    upstreams: &Upstreams,
    instance: &Instance,
    endpoint: &Endpoint,
    rules: &[ErrorRule],
    Outgoing { payload, id, trace }: Outgoing,
) -> Answer {
    let mut request = Request::new(Full::new(payload));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.uri.clone();
    *request.headers_mut() = instance.headers.clone();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(trace) = trace {
        trace.write(request.headers_mut());
    }
    let response = match upstreams.http.request(request).await {
        Ok(response) => response,
        Err(error) => {
            let sent = if error.is_connect() { Dispatched::NotDispatched } else { Dispatched::Indeterminate };
            tracing::debug!(host = &*endpoint.host, error = %error, "no response from provider");
            return Answer::failed(ErrorCategory::NetworkError, sent, None);
        }
    };
    let status = response.status().as_u16();
    let retry_after_ms = retry_after_ms(response.headers());
    let body = match Limited::new(response.into_body(), MAX_REPLY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let too_large = error.is::<http_body_util::LengthLimitError>();
            let category = if too_large { ErrorCategory::InvalidResponse } else { ErrorCategory::NetworkError };
            return Answer::failed(category, Dispatched::Dispatched, Some(status));
        }
    };
    let mut answer = read(&body, status, rules, id);
    answer.retry_after_ms = retry_after_ms;
    answer
}

fn read(body: &Bytes, status: u16, rules: &[ErrorRule], id: u64) -> Answer {
    let Some(reply) = Reply::read(body, id) else {
        return Answer::failed(classify::of_status(status), Dispatched::Dispatched, Some(status));
    };
    let (category, code) = match &reply.error {
        Some(error) => (Some(classify::of_error(rules, status, error)), Some(error.code)),
        None => (None, None),
    };
    let outcome = category.map_or(Outcome::Success, classify::outcome_of);
    let end = AttemptEnd { outcome, category, code, http_status: Some(status), dispatched: Dispatched::Dispatched };
    Answer { end, reply: Some(reply), retry_after_ms: None, took: Duration::ZERO }
}

/// `Retry-After` in seconds; dates are left to the default.
fn retry_after_ms(headers: &http::HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.saturating_mul(1_000).min(3_600_000))
}
