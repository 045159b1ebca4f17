//! The event id of the stream: a place in this process's sequence of events. It names the process too, by a random number
//! made at its start, so that a place in another's sequence is recognised as such and becomes a gap instead of a wrong
//! resumption. Clients treat it as opaque; it carries nothing of the events, and the filter is applied again on resuming,
//! so a made-up one shows nobody anything new.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A place in a sequence: everything up to `seq` was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

impl Cursor {
    pub(super) fn seal(self) -> String {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&(self.seq ^ self.epoch.rotate_left(17)).to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place; none where the text is no cursor.
    pub(super) fn open(text: &str) -> Option<Self> {
        let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (epoch, seq) = bytes.split_at(8);
        let epoch = u64::from_be_bytes(epoch.try_into().ok()?);
        let seq = u64::from_be_bytes(seq.try_into().ok()?) ^ epoch.rotate_left(17);
        Some(Self { epoch, seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_to_what_was_sealed_and_nonsense_to_nothing() {
        let cursor = Cursor { epoch: 0xDEAD_BEEF_0102_0304, seq: 42 };
        assert_eq!(Cursor::open(&cursor.seal()), Some(cursor));
        assert_eq!(Cursor::open("17"), None);
    }
}
