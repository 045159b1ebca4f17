//! Who may send, and whose word is taken for accounts, profiles, sequences and thresholds.
//!
//! A peer on loopback is the node's own proxy or somebody with a login on its host, and is believed. From beyond
//! loopback only the token counts. A reverse proxy on loopback therefore speaks for all its clients; whoever sets one
//! up has to ask them for the token there.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::refusal::Refusal;

/// Whether the sender is believed, or refused. Today whoever is let in is believed.
pub(super) fn admit(peer: IpAddr, headers: &HeaderMap, token: Option<&str>) -> Result<bool, Refusal> {
    if peer.to_canonical().is_loopback() {
        return Ok(true);
    }
    let Some(token) = token else {
        return Err(Refusal::Unauthenticated {
            hint: "OTLP from beyond loopback needs a token, and this collector has none: \
                   set CLUSTER_TOKEN (cluster.token) on it, and send `Authorization: Bearer <token>`",
        });
    };
    let presented = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match presented {
        Some(presented) if equal(presented.as_bytes(), token.as_bytes()) => Ok(true),
        Some(_) => Err(Refusal::Unauthenticated { hint: "the bearer token is not this collector's CLUSTER_TOKEN" }),
        None => Err(Refusal::Unauthenticated {
            hint: "OTLP from beyond loopback needs a token: \
                   send `Authorization: Bearer <CLUSTER_TOKEN>` (OTEL_EXPORTER_OTLP_HEADERS of an SDK)",
        }),
    }
}

/// Compares without telling by its time where two tokens of one length differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    #[test]
    fn a_peer_on_loopback_is_believed_without_a_token() {
        for peer in ["127.0.0.1", "127.8.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!(admit(peer.parse().unwrap(), &HeaderMap::new(), Some("secret")).unwrap());
        }
    }

    #[test]
    fn from_beyond_loopback_only_the_right_token_opens_and_the_refusal_says_what_to_do() {
        let peer = "10.0.0.7".parse().unwrap();
        assert!(admit(peer, &bearer("secret"), Some("secret")).unwrap());
        for (headers, token) in [
            (HeaderMap::new(), Some("secret")),
            (bearer("wrong!"), Some("secret")),
            (bearer("secret"), None),
            (HeaderMap::new(), None),
        ] {
            let refusal = admit(peer, &headers, token).unwrap_err();
            assert!(refusal.to_string().contains("CLUSTER_TOKEN"), "{refusal}");
            assert!(!refusal.to_string().contains("secret"));
        }
    }
}
