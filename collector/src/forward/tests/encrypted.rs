//! Sending on to a collector whose certificate an authority of one's own vouches for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority, its certificate in a file.
fn authority(file: &Path) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let body = STANDARD.encode(authority.der());
    std::fs::write(file, format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")).unwrap();
    authority
}

/// TLS in front of an address, with a certificate of this authority for `localhost`.
async fn in_front_of(to: SocketAddr, authority: &CertifiedIssuer<'static, KeyPair>) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, authority).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(FREE).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us ends here.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(to).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_its_file_is_named_and_nowhere_else() {
    let (here, there, files) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca_file = files.path().join("ca.pem");
    let authority = authority(&ca_file);
    let far = collector(there.path(), None).await;
    let encrypted = in_front_of(far.addresses().otlp_grpc, &authority).await;
    let mut settings = json!({"endpoint": format!("https://localhost:{}", encrypted.port()), "timeout": "5s"});
    let near = collector(here.path(), Some(settings.clone())).await;
    send(&near, 1).await;
    until("the refusal", async || info(&near).await.failing).await;
    assert_eq!(rows(&visible(&*far.store(), Table::Spans)), 0);
    near.kill();
    settings["ca_file"] = json!(ca_file);
    let near = collector(here.path(), Some(settings.clone())).await;
    send(&near, 2).await;
    arrived(&far, 2).await;
    near.shutdown(LONG).await;
    far.shutdown(LONG).await;

    std::fs::write(&ca_file, "nonsense").unwrap();
    let config: crate::ForwardConfig = serde_json::from_value(settings).unwrap();
    let error = config.check_files().unwrap_err().to_string();
    assert!(error.contains("ca.pem") && error.contains("holds no certificate"), "{error}");
}
