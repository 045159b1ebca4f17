//! One client connection of a load generator, HTTP/1.1 or HTTP/2 in the clear, made again when it broke. A pooled
//! client was rejected: how many connections there are is a parameter of the experiment, not the client's choice.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 window of a stream: above the default 64 KiB, at which senders of larger bodies stall.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// HTTP/2 window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot connect to {authority}: {source}")]
    Connect { authority: String, source: io::Error },
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// A URL that is no plain `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{url}` cannot be used: expected http://host:port with an optional path")]
pub struct BadUrl {
    /// The URL.
    pub url: String,
}

/// Where a load goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) authority: String,
    pub(crate) path: String,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("http") {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { authority, path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    authority: String,
    version: Version,
    sender: Option<Sender>,
}

impl Link {
    pub(crate) fn new(authority: String, version: Version) -> Self {
        Self { authority, version, sender: None }
    }

    /// Sends one request and reads the whole answer; a broken connection is forgotten, so that the next request makes
    /// a new one.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Answer, LinkError> {
        let result = tokio::time::timeout(timeout, self.exchange(request)).await;
        let result = result.unwrap_or(Err(LinkError::Timeout(timeout)));
        if result.is_err() {
            self.sender = None;
        }
        result
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, LinkError> {
        let response = match self.ready().await? {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }

    async fn ready(&mut self) -> Result<&mut Sender, LinkError> {
        let closed = match &self.sender {
            Some(Sender::Http1(sender)) => sender.is_closed(),
            Some(Sender::Http2(sender)) => sender.is_closed(),
            None => true,
        };
        if closed {
            self.sender = None;
        }
        match self.sender {
            Some(ref mut sender) => Ok(sender),
            None => {
                let sender = connect(&self.authority, self.version).await?;
                Ok(self.sender.insert(sender))
            }
        }
    }
}

async fn connect(authority: &str, version: Version) -> Result<Sender, LinkError> {
    let connect_error = |source| LinkError::Connect { authority: authority.to_owned(), source };
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(authority)).await;
    let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(connect_error)?;
    stream.set_nodelay(true).map_err(connect_error)?;
    let io = TokioIo::new(stream);
    Ok(match version {
        Version::Http1 => {
            let (sender, connection) = http1::handshake(io).await?;
            // Its error is that of the request that it interrupts.
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
        Version::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
            let (sender, connection) = builder.handshake(io).await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_one_with_tls_is_refused() {
        let target = Target::parse("http://127.0.0.1:4000/rpc/ethereum?strategy=priority").unwrap();
        assert_eq!(
            (target.authority.as_str(), target.path.as_str()),
            ("127.0.0.1:4000", "/rpc/ethereum?strategy=priority")
        );
        assert!(Target::parse("https://example.com").is_err());
    }
}
