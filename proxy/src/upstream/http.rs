//! Calls over HTTP: one pool of connections for all providers, HTTP/1.1 or 2 as the provider speaks. A request is sent
//! once: the pool takes another connection only where nothing of it was written, and whether to try again after that is
//! the caller's decision.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use lariat_schema::vocabulary::{Dispatched, ErrorCategory};

use super::{Answer, CONNECT_TIMEOUT, Outgoing, retry_after_ms};
use crate::gather::Unread;
use crate::profiles::{Endpoint, ErrorRule};
use crate::reply_budget::ReplyBudget;

/// Idle connections kept per provider.
const POOL_PER_HOST: usize = 256;
const POOL_IDLE: Duration = Duration::from_secs(60);

/// The connections; a clone shares them.
#[derive(Clone)]
pub(super) struct Pool(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// What makes TCP connections, for HTTP and WebSockets alike.
pub(super) fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.enforce_http(false);
    tcp
}

impl Pool {
    /// # Errors
    /// The TLS library refuses its own settings.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST)
            .build(tls);
        Ok(Self(client))
    }

    /// Sends a call and waits for the whole reply, however long it takes.
    pub(super) async fn exchange(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        rules: &[ErrorRule],
        Outgoing { payload, id, trace }: Outgoing,
        replies: &ReplyBudget,
    ) -> Answer {
        let mut request = Request::new(Full::new(payload));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.uri.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(trace) = trace {
            trace.write(request.headers_mut());
        }
        let response = match self.0.request(request).await {
            Ok(response) => response,
            Err(error) => {
                let sent = if error.is_connect() { Dispatched::NotDispatched } else { Dispatched::Indeterminate };
                tracing::debug!(host = &*endpoint.host, error = %error, "no response from provider");
                return Answer::failed(ErrorCategory::NetworkError, sent, None);
            }
        };
        let status = response.status().as_u16();
        let retry_after_ms = retry_after_ms(response.headers());
        let (body, charge) = match replies.read(response.into_body()).await {
            Ok(read) => read,
            Err(unread) => {
                let category = match unread {
                    Unread::TooLong => ErrorCategory::InvalidResponse,
                    Unread::NoRoom => ErrorCategory::LocalCapacity,
                    Unread::Broken => ErrorCategory::NetworkError,
                };
                return Answer::failed(category, Dispatched::Dispatched, Some(status));
            }
        };
        let mut answer = Answer::read(&body, Some(status), rules, id);
        if let Some(reply) = &mut answer.reply {
            reply.charge = Some(charge);
        }
        answer.retry_after_ms = retry_after_ms;
        answer
    }
}
