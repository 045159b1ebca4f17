//! Whether a client may ask, on every protocol. Without a token in the configuration everybody may; with one, whoever gives
//! it. Names of users are not looked at: there are no accounts that they could stand for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::topology::Secret;

/// The token that clients have to give, if any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access(Option<Secret>);

impl Access {
    pub(crate) const fn new(token: Option<Secret>) -> Self {
        Self(token)
    }

    /// Whether nobody has to give anything.
    pub(crate) const fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this word opens. Every byte is compared, so that the time taken tells nothing of the token.
    pub(crate) fn admits(&self, given: &[u8]) -> bool {
        let Some(token) = &self.0 else { return true };
        let token = token.reveal().as_bytes();
        let differences = given.iter().zip(token).fold(0, |found, (left, right)| found | (left ^ right));
        given.len() == token.len() && differences == 0
    }
}

/// The token in a header `authorization`: as Bearer token, or as the password of Basic credentials.
pub(crate) fn token_in(header: &str) -> Result<String, &'static str> {
    let (scheme, word) = header.split_once(' ').ok_or("the header authorization has no scheme")?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Ok(word.to_owned()),
        "basic" => password(word).ok_or("the Basic credentials cannot be read"),
        _ => Err("the scheme of authorization is neither Bearer nor Basic"),
    }
}

fn password(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_token_everybody_is_admitted_and_with_one_only_who_gives_it() {
        assert!(Access::default().admits(b"") && Access::default().is_open());
        let closed = Access::new(Some(Secret::new("abc")));
        assert!(closed.admits(b"abc") && !closed.is_open());
        for wrong in [&b""[..], b"ab", b"abd", b"abcd"] {
            assert!(!closed.admits(wrong), "{wrong:?}");
        }
    }
}
