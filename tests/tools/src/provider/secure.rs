//! TLS of a simulated provider. The certificate is the caller's, since only the caller can make its client trust it; what is
//! spoken is chosen by ALPN, as real providers do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::Connection;

/// Time in which a handshake must be done.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a provider shows, and what it speaks.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Shows that chain, and speaks HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// The key does not belong to the certificate.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands over a connection.
    pub(super) async fn accept(&self, connection: Connection) -> io::Result<TlsStream<Connection>> {
        let accepting = TlsAcceptor::from(Arc::clone(&self.0)).accept(connection);
        tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Whether the client chose HTTP/2.
pub(super) fn is_http2(stream: &TlsStream<Connection>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
