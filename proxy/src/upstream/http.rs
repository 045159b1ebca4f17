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
use rustls::ClientConfig;

use super::{Answer, CONNECT_TIMEOUT, Outgoing, failure, retry_after_ms};
use crate::gather::Unread;
use crate::profiles::{Endpoint, ErrorRule};
use crate::reply_budget::ReplyBudget;

/// Idle connections kept per provider.
const POOL_PER_HOST: usize = 256;
const POOL_IDLE: Duration = Duration::from_secs(60);
/// Over HTTP/2 all calls to a provider share one connection, so that one whose network fell silent would take every call
/// until TCP gives it up: while calls wait it is pinged this often, and ended where no answer comes.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);

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
    pub(super) fn new(settings: ClientConfig) -> Self {
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config(settings)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PONG_WITHIN)
            .build(tls);
        Self(client)
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
                let (failure, sent) = failure::of_request(&error);
                tracing::debug!(host = &*endpoint.host, %failure, "no response from provider");
                return Answer::failed(ErrorCategory::NetworkError, sent, None).because(failure);
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
