//! The listening side of a provider: accepts connections, serves HTTP/1.1 or HTTP/2 and hands upgrades to the WebSocket side.
//! It is built on hyper directly, since a web framework hides the connection that some faults must break.
//!
//! Beside JSON-RPC (`POST` on any path) it answers `GET /stats`, `GET /behaviour` and `PUT /behaviour`, so that a
//! script can steer a provider that runs in a process of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lariat_schema::vocabulary::Transport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::connection::{Connection, ResetFlag, reset};
use super::respond::{Rendered, respond};
use super::secure::is_http2;
use super::{State, socket};

/// Connections served at once: more than any test opens, less than the usual limit of open files.
const CONNECTIONS_MAX: usize = 4_096;
/// Largest request body that is read.
const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A hanging call is held for this long if its caller never gives up.
const HANG_LIMIT: Duration = Duration::from_secs(600);
/// Between the half of a truncated reply and the end of its connection.
const TRUNCATION_PAUSE: Duration = Duration::from_millis(20);
/// Pause after a failed accept, which is what a full table of open files needs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a connection is ended without a whole reply.
#[derive(Debug, thiserror::Error)]
#[error("the simulated provider breaks this connection")]
pub(crate) struct Broken;

type Body = BoxBody<Bytes, Broken>;

pub(crate) async fn accept(state: Arc<State>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = state.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let permit = if state.is_unreachable() { None } else { Arc::clone(&permits).try_acquire_owned().ok() };
        let Some(permit) = permit else {
            state.account.lock().stats.refused += 1;
            reset(&stream);
            continue;
        };
        state.account.lock().stats.connections += 1;
        let serving = serve(Arc::clone(&state), stream);
        state.tasks.spawn(async move {
            serving.await;
            drop(permit);
        });
    }
}

async fn serve(state: Arc<State>, stream: TcpStream) {
    // Small replies must not wait for an acknowledgement; where the option fails the connection still works.
    let _ = stream.set_nodelay(true);
    let (connection, reset) = Connection::new(stream);
    let service = service_fn({
        let state = Arc::clone(&state);
        let reset = reset.clone();
        move |request| handle(Arc::clone(&state), reset.clone(), request)
    });
    // An error of the connection is the caller's business or one of the faults.
    let serving = async {
        match &state.tls {
            None => drop(over_http1(connection, service).await),
            Some(tls) => match tls.accept(connection).await {
                Ok(stream) if is_http2(&stream) => {
                    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    drop(http2.serve_connection(TokioIo::new(stream), service).await);
                }
                Ok(stream) => drop(over_http1(stream, service).await),
                Err(_) => state.account.lock().stats.untrusted += 1,
            },
        }
    };
    tokio::select! {
        () = serving => {}
        () = state.taken_down() => {
            state.account.lock().stats.refused += 1;
            reset.raise();
        }
        () = state.stop.cancelled() => {}
    }
}

async fn over_http1<S, H, F>(stream: S, service: H) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Service<Request<Incoming>, Response = Response<Body>, Error = Broken, Future = F>,
    F: Future<Output = Result<Response<Body>, Broken>>,
{
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await
}

async fn handle(state: Arc<State>, reset: ResetFlag, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    if request.headers().contains_key(SEC_WEBSOCKET_KEY) {
        return Ok(upgrade(&state, reset, request));
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, REQUEST_BYTES_MAX).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or was cut short"));
    };
    let body = body.to_bytes();
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/stats") => Ok(json(&state.stats())),
        (&Method::GET, "/behaviour") => Ok(json(&*state.behaviour.read())),
        (&Method::PUT, "/behaviour") => Ok(match serde_json::from_slice(&body) {
            Ok(behaviour) => {
                *state.behaviour.write() = behaviour;
                plain(StatusCode::NO_CONTENT, "")
            }
            Err(error) => plain(StatusCode::BAD_REQUEST, &error.to_string()),
        }),
        (&Method::POST, _) => {
            {
                let mut account = state.account.lock();
                account.trace(&parts.headers);
                account.stats.over_http2 += u64::from(parts.version == Version::HTTP_2);
            }
            deliver(respond(&state, Transport::Http, body).await, &reset).await
        }
        _ => Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "POST a JSON-RPC call")),
    }
}

async fn deliver(rendered: Rendered, reset: &ResetFlag) -> Result<Response<Body>, Broken> {
    match rendered {
        Rendered::Message { status, headers, body } => {
            let mut response = Response::new(full(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            for (name, value) in headers {
                if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
                    response.headers_mut().insert(name, value);
                }
            }
            Ok(response)
        }
        Rendered::Nothing => Ok(plain(StatusCode::NO_CONTENT, "")),
        Rendered::Truncated(body) => {
            let length = body.len();
            let half = body.slice(..length / 2);
            // The pause lets hyper send the half before it learns of the break: without it nothing would leave.
            let frames = futures::stream::iter([Ok(Frame::data(half))]).chain(futures::stream::once(async {
                tokio::time::sleep(TRUNCATION_PAUSE).await;
                Err(Broken)
            }));
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            Ok(response)
        }
        Rendered::Hang => {
            tokio::time::sleep(HANG_LIMIT).await;
            Err(Broken)
        }
        Rendered::Reset => {
            reset.raise();
            Err(Broken)
        }
    }
}

fn upgrade(state: &Arc<State>, reset: ResetFlag, mut request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let accept = key.and_then(|key| HeaderValue::try_from(key).ok());
    let Some(accept) = accept else { return plain(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key") };
    let upgrading = hyper::upgrade::on(&mut request);
    let tasks = state.tasks.clone();
    let state = Arc::clone(state);
    tasks.spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            socket::run(state, TokioIo::new(upgraded), reset).await;
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(full(body));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
