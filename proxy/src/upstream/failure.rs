//! What an error of the libraries below says: what went wrong on the way, and whether the provider can have begun with the
//! request. Certainty is claimed only where the error itself proves it (no connection, never written, or refused over
//! HTTP/2 before any of it was processed), since a transaction is sent again on the strength of it. Texts of errors are
//! never looked at: they change with versions, and some quote the URL.

use std::error::Error;
use std::io;

use lariat_schema::vocabulary::{Dispatched, TransportFailure};
use rustls::CertificateError;

type Link<'e> = &'e (dyn Error + 'static);

/// The errors below one, outermost first; an error that came through `io::Error` is inside it and not its source.
fn chain<'e>(error: Link<'e>) -> impl Iterator<Item = Link<'e>> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner as Link<'e>),
        None => error.source(),
    })
}

/// Reads an error of a request over HTTP.
pub(super) fn of_request(error: &hyper_util::client::legacy::Error) -> (TransportFailure, Dispatched) {
    if error.is_connect() {
        return (of_connection(error), Dispatched::NotDispatched);
    }
    of_exchange(error)
}

/// Reads an error of a request over a connection that stood.
pub(super) fn of_exchange(error: Link<'_>) -> (TransportFailure, Dispatched) {
    for link in chain(error) {
        if let Some(error) = link.downcast_ref::<h2::Error>() {
            if is_unprocessed(error) {
                return (TransportFailure::Unprocessed, Dispatched::NotDispatched);
            }
            let failure = if error.is_io() { TransportFailure::Closed } else { TransportFailure::Protocol };
            return (failure, Dispatched::Indeterminate);
        }
        if let Some(error) = link.downcast_ref::<hyper::Error>() {
            if error.is_canceled() {
                // Nothing of it was written before the connection ended.
                return (TransportFailure::Closed, Dispatched::NotDispatched);
            }
            if error.is_parse() {
                return (TransportFailure::Protocol, Dispatched::Indeterminate);
            }
        }
    }
    (tls(error).unwrap_or(TransportFailure::Closed), Dispatched::Indeterminate)
}

/// Reads why a connection could not be made.
pub(super) fn of_connection(error: Link<'_>) -> TransportFailure {
    tls(error).unwrap_or(TransportFailure::Connection)
}

/// RFC 9113, 6.8 and 8.7: a stream above the last one of a GOAWAY, and one that is refused, were not acted upon. The
/// library gives an error of a GOAWAY to those streams only.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

fn tls(error: Link<'_>) -> Option<TransportFailure> {
    let error = chain(error).find_map(|link| link.downcast_ref::<rustls::Error>())?;
    Some(match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => TransportFailure::TlsAuthority,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => TransportFailure::TlsName,
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => TransportFailure::TlsExpired,
        _ => TransportFailure::Tls,
    })
}
