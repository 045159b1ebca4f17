//! Authorities and certificates of one test, made on the spot: none lies in the tree, where it would expire.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lariat_tools::provider::Tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

/// Where providers of tests listen.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// An authority that nobody trusts until told.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a host.
    pub(super) fn certify(&self, host: &str) -> Tls {
        self.certify_with(CertificateParams::new([host.to_owned()]).unwrap())
    }

    /// A certificate of the past.
    pub(super) fn certify_until_2020(&self, host: &str) -> Tls {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_after = date_time_ymd(2020, 1, 1);
        self.certify_with(params)
    }

    fn certify_with(&self, params: CertificateParams) -> Tls {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Tls::new(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap()).unwrap()
    }

    /// Writes its own certificate as PEM.
    pub(super) fn write(&self, file: &Path) {
        let body = STANDARD.encode(self.0.der());
        std::fs::write(file, format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")).unwrap();
    }
}
