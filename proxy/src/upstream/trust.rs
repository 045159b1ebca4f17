//! Which authorities a provider's certificate may come from: the public ones, which are built in so that a node needs
//! nothing of its host, and those of one file of the operator's, for private nodes. There is no way to accept any
//! certificate: whoever stood between would read credentials and could answer. The file is read at the start and with
//! each reload, never on the request path.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

/// Why the operator's authorities cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[error("proxy.ca_file {}: {problem}", .file.display())]
pub struct CaFileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong and what to do.
    pub problem: String,
}

/// The authorities that are trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Trust {
    /// Those besides the public ones.
    own: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Trusts the public authorities, and those of the file if there is one.
    ///
    /// # Errors
    /// The file holds no certificate that could be one of an authority.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, CaFileError> {
        let Some(file) = file else { return Ok(Self::default()) };
        let wrong = |problem: String| CaFileError { file: file.to_owned(), problem };
        let unread = |error: pem::Error| match error {
            pem::Error::Io(error) => wrong(format!("cannot be read: {error}")),
            error => {
                wrong(format!("is no PEM: {error}; put certificates between BEGIN CERTIFICATE and END CERTIFICATE"))
            }
        };
        let own =
            CertificateDer::pem_file_iter(file).map_err(unread)?.collect::<Result<Vec<_>, _>>().map_err(unread)?;
        if own.is_empty() {
            return Err(wrong("holds no certificate; put those of the authorities there, in PEM".to_owned()));
        }
        let mut roots = RootCertStore::empty();
        for (at, certificate) in own.iter().enumerate() {
            roots.add(certificate.clone()).map_err(|error| {
                wrong(format!("certificate {} cannot be an authority's: {error}; take it out", at + 1))
            })?;
        }
        Ok(Self { own })
    }

    /// What TLS connections to providers are made with.
    ///
    /// # Errors
    /// The TLS library refuses its own settings.
    pub(super) fn settings(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for certificate in &self.own {
            roots.add(certificate.clone())?;
        }
        let provider = rustls::crypto::ring::default_provider();
        let versions = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions()?;
        Ok(versions.with_root_certificates(roots).with_no_client_auth())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_authority_is_an_error_that_names_it_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let not_base64 = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
        let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cases = [
            (None, "cannot be read"),
            (Some(""), "holds no certificate"),
            (Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "holds no certificate"),
            (Some(not_base64), "is no PEM"),
            (Some(not_a_certificate), "certificate 1 cannot be"),
        ];
        for (text, told) in cases {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let error = Trust::read(Some(&file)).unwrap_err().to_string();
            assert!(error.contains("ca.pem") && error.contains(told), "{error}");
            assert!(!error.contains("AAAA"), "{error}");
        }
        assert_eq!(Trust::read(None).unwrap(), Trust::default());
    }
}
