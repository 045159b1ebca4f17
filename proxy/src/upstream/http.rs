//! Calls over HTTP. A provider that speaks HTTP/1.1 has connections of its own, each driven by the call that uses it
//! ([`lane`]); one that turns out to speak HTTP/2 is asked through a common client, whose connections carry many calls at
//! once and therefore need tasks of their own. A request is sent once: it is put to another connection only where nothing
//! of it was written, and whether to try again after that is the caller's decision.

mod host;
mod lane;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::Service;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lariat_schema::vocabulary::{Dispatched, ErrorCategory, TransportFailure};
use rustls::ClientConfig;

use super::{Answer, CONNECT_TIMEOUT, Outgoing, failure, retry_after_ms};
use crate::gather::Unread;
use crate::profiles::{Catalog, ErrorRule};
use crate::reply_budget::{Charge, ReplyBudget};
use host::Host;
use lane::{Lane, Unsent};

/// Over HTTP/2 all calls to a provider share one connection, so that one whose network fell silent would take every call
/// until TCP gives it up: while calls wait it is pinged this often, and ended where no answer comes.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// The connections; a clone shares them.
#[derive(Clone)]
pub(super) struct Pool {
    connector: TowerToHyperService<HttpsConnector<HttpConnector>>,
    common: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// By the instance's place in the catalog; none where it has no address for HTTP.
    hosts: Arc<[Option<Arc<Host>>]>,
}

/// What makes TCP connections, for HTTP and WebSockets alike.
pub(super) fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.enforce_http(false);
    tcp
}

/// No response: what went wrong, and whether the provider can have begun with the request.
struct Failed {
    failure: TransportFailure,
    sent: Dispatched,
}

impl Failed {
    /// No connection.
    fn to_connect(error: &(dyn Error + 'static)) -> Self {
        Self { failure: failure::of_connection(error), sent: Dispatched::NotDispatched }
    }
}

/// A response, its body read.
struct Received {
    status: u16,
    retry_after_ms: Option<u64>,
    body: Result<(Bytes, Charge), Unread>,
}

/// Status and, where it wants to be left alone, for how long.
fn head<B>(response: &Response<B>) -> (u16, Option<u64>) {
    (response.status().as_u16(), retry_after_ms(response.headers()))
}

impl Pool {
    pub(super) fn new(settings: ClientConfig) -> Self {
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config(settings)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp());
        let common = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(host::IDLE)
            .pool_max_idle_per_host(host::MAX_IDLE)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PONG_WITHIN)
            .build(tls.clone());
        Self { connector: TowerToHyperService::new(tls), common, hosts: Arc::default() }
    }

    /// The connections for another catalog; providers that stay keep theirs.
    pub(super) fn succeed(&self, catalog: &Catalog) -> Self {
        let hosts = catalog.instances.iter().map(|instance| {
            let host = Host::new(instance.http.as_ref()?, &instance.headers);
            let kept = self.hosts.iter().flatten().find(|before| before.is(&host));
            Some(kept.cloned().unwrap_or_else(|| Arc::new(host)))
        });
        Self { hosts: hosts.collect(), ..self.clone() }
    }

    /// Sends a call to the instance at that place and waits for the whole reply, however long it takes; none where it has
    /// no address for HTTP.
    pub(super) async fn exchange(
        &self,
        at: usize,
        rules: &[ErrorRule],
        Outgoing { payload, id, trace }: Outgoing,
        replies: &ReplyBudget,
    ) -> Option<Answer> {
        let host = self.hosts.get(at)?.as_ref()?;
        let request = host.request(payload, trace);
        let received = if host.is_shared() {
            self.over_common(host, request, replies).await
        } else {
            self.over_own(host, request, replies).await
        };
        let Received { status, retry_after_ms, body } = match received {
            Ok(received) => received,
            Err(Failed { failure, sent }) => {
                tracing::debug!(host = host.uri.host(), %failure, "no response from provider");
                return Some(Answer::failed(ErrorCategory::NetworkError, sent, None).because(failure));
            }
        };
        let mut answer = match body {
            Ok((body, charge)) => {
                let mut answer = Answer::read(&body, Some(status), rules, id);
                if let Some(reply) = &mut answer.reply {
                    reply.charge = Some(charge);
                }
                answer
            }
            Err(unread) => {
                let category = match unread {
                    Unread::TooLong => ErrorCategory::InvalidResponse,
                    Unread::NoRoom => ErrorCategory::LocalCapacity,
                    Unread::Broken => ErrorCategory::NetworkError,
                };
                return Some(Answer::failed(category, Dispatched::Dispatched, Some(status)));
            }
        };
        answer.retry_after_ms = retry_after_ms;
        Some(answer)
    }

    /// Over a connection that belongs to this call while it lasts. Whoever drops it before its end closes the connection.
    async fn over_own(
        &self,
        host: &Host,
        mut request: Request<Full<Bytes>>,
        replies: &ReplyBudget,
    ) -> Result<Received, Failed> {
        let (mut lane, response) = loop {
            let (mut lane, is_new) = match host.take() {
                Some(lane) => (lane, false),
                None => match self.connect(host).await? {
                    Some(lane) => (lane, true),
                    None => return self.over_common(host, request, replies).await,
                },
            };
            request = match lane.send(request).await {
                Ok(response) => break (lane, response),
                // Closed while it was idle.
                Err(Unsent { request: Some(unsent), .. }) if !is_new => unsent,
                Err(Unsent { error, request }) => {
                    let (failure, sent) = failure::of_exchange(&error);
                    let sent = if request.is_some() { Dispatched::NotDispatched } else { sent };
                    return Err(Failed { failure, sent });
                }
            }
        };
        let (status, retry_after_ms) = head(&response);
        let body = lane.drive(replies.read(response.into_body())).await;
        if body.is_ok() && lane.is_free() {
            host.keep(lane);
        }
        Ok(Received { status, retry_after_ms, body })
    }

    /// A new connection; none where the provider speaks HTTP/2, which is remembered. The connection that told so is given
    /// up: there is one such for each provider.
    async fn connect(&self, host: &Host) -> Result<Option<Box<Lane>>, Failed> {
        let stream = self.connector.call(host.uri.clone()).await;
        let stream = stream.map_err(|error| Failed::to_connect(&*error))?;
        if stream.connected().is_negotiated_h2() {
            host.share();
            return Ok(None);
        }
        Lane::over(stream).await.map(Some).map_err(|error| Failed::to_connect(&error))
    }

    async fn over_common(
        &self,
        host: &Host,
        request: Request<Full<Bytes>>,
        replies: &ReplyBudget,
    ) -> Result<Received, Failed> {
        let response = self.common.request(host.for_common(request)).await.map_err(|error| {
            let (failure, sent) = failure::of_request(&error);
            Failed { failure, sent }
        })?;
        let (status, retry_after_ms) = head(&response);
        Ok(Received { status, retry_after_ms, body: replies.read(response.into_body()).await })
    }
}
