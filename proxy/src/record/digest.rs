//! Digests of parameters and results: equal texts have equal digests, and nothing else can be learned from one without
//! the key. A plain hash would be: parameters are mostly addresses, which anyone can list. The key follows from the
//! cluster's token, so that digests compare across nodes; without a token it is new at every start.
//!
//! A cryptographic hash costs more than the call's thread should pay for the record (I-7), so short texts are handed over
//! and hashed by the recorder. Long ones are hashed at once: many of them in the queue would be memory without a bound.

use std::fmt;

use super::spans::Hex;

/// Longest text that is handed over: twice this times the length of the queue is what waits at most, 64 MiB.
const MAX_HANDED_OVER_BYTES: usize = 512;
/// Bytes of a digest that are kept. Among ten million texts two share 64 bits by chance with a probability of 3 in a
/// million; nothing that is answered rests on it, and more would be a tenth of what a decision takes at rest.
const KEPT_BYTES: usize = 8;
/// What the key is for, so that no other use of the token yields the same.
const PURPOSE: &str = "lariat record: digests of parameters and results";

/// The key.
#[derive(Clone)]
pub(crate) struct DigestKey([u8; 32]);

impl DigestKey {
    pub(crate) fn new(token: Option<&str>) -> Self {
        Self(token.map_or_else(rand::random, |token| blake3::derive_key(PURPOSE, token.as_bytes())))
    }

    /// The digest of a text, or the text for the recorder.
    pub(crate) fn of(&self, text: &[u8]) -> Digest {
        if text.len() <= MAX_HANDED_OVER_BYTES { Digest::Due(text.into()) } else { Digest::Made(self.hash(text)) }
    }

    /// The digest as it is written.
    pub(super) fn write(&self, digest: &Digest) -> Hex<{ 2 * KEPT_BYTES }> {
        match digest {
            Digest::Due(text) => Hex::of(&self.hash(text)),
            Digest::Made(bytes) => Hex::of(bytes),
        }
    }

    fn hash(&self, text: &[u8]) -> [u8; KEPT_BYTES] {
        let mut kept = [0; KEPT_BYTES];
        kept.copy_from_slice(&blake3::keyed_hash(&self.0, text).as_bytes()[..KEPT_BYTES]);
        kept
    }
}

/// A digest under way to the record.
#[derive(Clone)]
pub(crate) enum Digest {
    Due(Box<[u8]>),
    Made([u8; KEPT_BYTES]),
}

/// The text is a client's, so it is not shown.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Due(text) => write!(f, "digest of {} bytes", text.len()),
            Self::Made(bytes) => f.write_str(&hex::encode(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_the_key_and_the_text_and_not_on_who_makes_it() {
        let (key, same, other) = (DigestKey::new(Some("t")), DigestKey::new(Some("t")), DigestKey::new(Some("u")));
        for length in [0, 1, MAX_HANDED_OVER_BYTES, MAX_HANDED_OVER_BYTES + 1, 100_000] {
            let text = vec![b'x'; length];
            let written = key.write(&key.of(&text));
            assert_eq!(written, same.write(&same.of(&text)));
            assert_eq!(written, same.write(&Digest::Made(key.hash(&text))));
            assert_ne!(written, other.write(&other.of(&text)));
            assert_eq!(written.as_str().len(), 16);
        }
        let random = |text: &[u8]| DigestKey::new(None).hash(text);
        assert_ne!(random(b"x"), random(b"x"), "without a token each start has its own key");
        assert!(!format!("{:?}", key.of(b"0xsecret")).contains("secret"));
    }
}
