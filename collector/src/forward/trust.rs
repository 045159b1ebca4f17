//! Which authorities the other side's certificate may come from: the public ones, which are built in, and those of
//! `collector.forward.ca_file`, for collectors of one's own. There is no way to accept any certificate.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

/// Why the operator's authorities cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", .file.display())]
pub struct CaFileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong and what to do.
    pub problem: String,
}

/// What TLS connections are made with.
pub(super) fn settings(file: Option<&Path>) -> Result<ClientConfig, super::target::TargetError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in file.map(authorities).transpose()?.into_iter().flatten() {
        roots.add(certificate)?;
    }
    let provider = rustls::crypto::ring::default_provider();
    let versions = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a file, each of which can be one of an authority.
pub(super) fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let wrong = |problem: String| CaFileError { file: file.to_owned(), problem };
    let unread = |error: pem::Error| match error {
        pem::Error::Io(error) => wrong(format!("cannot be read: {error}")),
        error => wrong(format!("is no PEM: {error}; put certificates between BEGIN CERTIFICATE and END CERTIFICATE")),
    };
    let found = CertificateDer::pem_file_iter(file).map_err(unread)?.collect::<Result<Vec<_>, _>>().map_err(unread)?;
    if found.is_empty() {
        return Err(wrong("holds no certificate; put those of the authorities there, in PEM".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for (at, certificate) in found.iter().enumerate() {
        roots
            .add(certificate.clone())
            .map_err(|error| wrong(format!("certificate {} cannot be an authority's: {error}; take it out", at + 1)))?;
    }
    Ok(found)
}
